"""Network load balancers as rules of the VPC's router: a new flow goes to a target by the hash of its source.

The client's address is kept: only the destination is translated. Which targets take flows is written down by the
controller (infra/twin/aws_controller.py) as it checks their health.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from infra.twin.aws_base import inputs_of
from infra.twin.aws_view import BALANCER, LISTENER, TARGETS, View, enis_of
from infra.twin.interface import Json
from infra.twin.store import Item

SEED: Final = 0x5EED
HEALTHY: Final = "healthy"
INITIAL: Final = "initial"
UNHEALTHY: Final = "unhealthy"
DRAINING: Final = "draining"


def taking(targets: Item) -> list[Json]:
    """The targets of a group that new flows go to: the healthy ones, or, when none is, all that are registered.

    Source: https://docs.aws.amazon.com/elasticloadbalancing/latest/network/target-group-health-checks.html
    """
    registered = [target for target in targets.data.get("targets", ()) if target["state"] != DRAINING]
    return [target for target in registered if target["state"] == HEALTHY] or registered


def rules(view: View, public: Mapping[str, str], mark: int) -> Iterator[str]:
    """Yield the rules that send new flows of listeners to targets."""
    groups = {item.id: item for item in view.of(TARGETS)}
    for listener in view.of(LISTENER):
        inputs = inputs_of(listener)
        balancer = next(
            (item for item in view.items if item.token == BALANCER and item.id == inputs["loadBalancerArn"]), None
        )
        group = groups.get(str(inputs["defaultActions"][0].get("targetGroupArn")))
        if balancer is None or group is None:
            continue
        protocol, port = str(inputs["protocol"]).lower(), int(inputs["port"])
        to = sorted(f"{target['address']} . {int(target['port'])}" for target in taking(group))
        for eni in enis_of(balancer):
            if eni.subnet not in view.subnets:
                continue
            address = public.get(eni.address)
            match = f"ip daddr {address or eni.address} {protocol} dport {port} ct mark set {mark}"
            if len(to) == 1:
                yield f"{match} dnat ip to {to[0].replace(' . ', ':')}"
            elif to:
                choice = f"jhash ip saddr . {protocol} sport mod {len(to)} seed {SEED:#x}"
                targets = ", ".join(f"{index} : {target}" for index, target in enumerate(to))
                yield f"{match} dnat ip to {choice} map {{ {targets} }}"
