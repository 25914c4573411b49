"""Elastic IPs and NAT gateways. Force-new by the provider's source.

Source: https://github.com/hashicorp/terraform-provider-aws/tree/main/internal/service/ec2 (ec2_eip*.go, vpc_nat_*.go)
"""

from collections.abc import Iterator
from typing import ClassVar, Final

from infra.engine.providers import Failure
from infra.lab.nat import Filtering, Mapping, NatBehavior, PortAllocation
from infra.lab.topology import Link, Router
from infra.twin import aws_fabric, aws_view
from infra.twin.aws_base import AwsType, inputs_of, required
from infra.twin.aws_forms import REGION, REGIONS, digits, ec2_arn, hex_id, not_kept
from infra.twin.aws_view import Eni, View, enis_of, free_address
from infra.twin.forms import lowest_free, one_of
from infra.twin.interface import Call, Json, TwinError
from infra.twin.site import Site
from infra.twin.store import Item

FIRST: Final = 10
"""Of the region's public network."""
IDLE_S: Final = 350
GATEWAY: Final = NatBehavior(
    mapping=Mapping.ADDRESS_AND_PORT_DEPENDENT,
    filtering=Filtering.ADDRESS_AND_PORT_DEPENDENT,
    udp_timeout_s=IDLE_S,
    port_allocation=PortAllocation.RANDOM,
)
"""Source: https://docs.aws.amazon.com/vpc/latest/userguide/nat-gateway-basics.html"""


def holder_of(site: Site, allocation: str) -> str:
    """Who has an elastic IP; empty for nobody."""
    item = site.store.get(aws_view.EIP, allocation)
    return "" if item is None else str(item.data.get("holder") or "")


def hold(site: Site, allocation: str, holder: str, *, take: bool = False) -> None:
    """Give an elastic IP to an instance or interface; to none for an empty id.

    Raises:
        TwinError: it is not there, or another has it and `take` is false.
    """
    item = required(site, aws_view.EIP, allocation, "InvalidAllocationID.NotFound")
    has = str(item.data.get("holder") or "")
    if holder and has not in ("", holder) and not take:
        raise TwinError(f"Resource.AlreadyAssociated: resource {allocation} is already associated with {has}")
    site.store.change(item.number, {"holder": holder})


class Eip(AwsType):
    """A public address of the account."""

    type_name = aws_view.EIP
    model = "an address of the region's public network, routed to the VPC that has it"
    force_new = frozenset({"domain"})
    defaults: ClassVar = {"domain": "vpc"}
    limits = ("an address is given by EipAssociation, NAT gateway and load balancer, not by `instance`",)

    def check_inputs(self, inputs: Json) -> Iterator[Failure]:
        yield from one_of("domain", inputs.get("domain"), ("vpc",), "domain of addresses")

    def identify(self, call: Call, number: int, inputs: Json) -> str:
        return hex_id("eipalloc", call.site.run, number)

    def begin(self, call: Call, number: int, inputs: Json, items: list[Item]) -> Json:
        public = REGIONS[REGION].public
        taken = [item.data["index"] for item in items if item.token == self.type_name]
        index = lowest_free(taken, FIRST, public.num_addresses - 3, "elastic IP")
        return {"index": index, "address": str(public[index]), "holder": ""}

    def outputs(self, call: Call, item: Item) -> Json:
        address, holder = str(item.data["address"]), str(item.data["holder"])
        name = f"ec2-{address.replace('.', '-')}.{REGION}.compute.amazonaws.com"
        held = holder if holder.startswith("i-") else ""
        private = next(
            (
                eni.address
                for other in call.site.store.items()
                for eni in enis_of(other)
                if holder in (other.id, eni.id)
            ),
            "",
        )
        inside = f"ip-{private.replace('.', '-')}.{REGION}.compute.internal" if private else ""
        return {
            "allocationId": item.id, "arn": ec2_arn("elastic-ip", item.id), "publicIp": address, "publicDns": name,
            "associationId": f"eipassoc-{digits(call.site.run, item.number)}" if holder else "", "carrierIp": "",
            "customerOwnedIp": "", "ptrRecord": "", "instance": held, "networkInterface": "" if held else holder,
            "privateIp": private, "privateDns": inside,
            "networkBorderGroup": REGION, "publicIpv4Pool": "amazon", "customerOwnedIpv4Pool": "",
        }  # fmt: skip

    def refuse_delete(self, call: Call, item: Item) -> None:
        if holder := holder_of(call.site, item.id):
            raise TwinError(f"InvalidIPAddress.InUse: The address {item.data['address']} is in use by {holder}")


class EipAssociation(AwsType):
    """An elastic IP at an instance."""

    type_name = aws_view.EIP_ASSOCIATION
    model = "address translation at the internet gateway and a route to it, changed in one step"
    has_tags = False
    force_new = frozenset({"allocationId", "instanceId", "networkInterfaceId", "allowReassociation"})
    defaults: ClassVar = {"allowReassociation": True}
    wanted = ("allocationId", "instanceId")

    def identify(self, call: Call, number: int, inputs: Json) -> str:
        return f"eipassoc-{digits(call.site.run, number)}"

    def apply(self, call: Call, item: Item) -> None:
        inputs = inputs_of(item)
        required(call.site, aws_view.INSTANCE, inputs["instanceId"], "InvalidInstanceID.NotFound")
        before = holder_of(call.site, inputs["allocationId"])
        hold(call.site, inputs["allocationId"], inputs["instanceId"], take=bool(inputs.get("allowReassociation")))
        aws_fabric.sync_all(call.site)
        if before != inputs["instanceId"]:
            self._cut(call, before)

    def _cut(self, call: Call, holder: str) -> None:
        """End the flows of who had the address: they would go on reaching it."""
        for item in call.site.store.items():
            for eni in enis_of(item) if holder in (item.id, *(each.id for each in enis_of(item))) else ():
                vpc = call.site.store.get(aws_view.VPC, item.data["vpc"])
                if vpc is not None:
                    aws_fabric.forget_flows(call.site, vpc, eni.address)

    def there(self, call: Call, item: Item) -> bool:
        return holder_of(call.site, inputs_of(item)["allocationId"]) == str(inputs_of(item)["instanceId"])

    def outputs(self, call: Call, item: Item) -> Json:
        address = call.site.store.get(aws_view.EIP, inputs_of(item)["allocationId"])
        instance = call.site.store.get(aws_view.INSTANCE, inputs_of(item)["instanceId"])
        eni = enis_of(instance)[0] if instance is not None else None
        return {
            "publicIp": address.data["address"] if address is not None else "",
            "privateIpAddress": eni.address if eni else "", "networkInterfaceId": eni.id if eni else "",
        }  # fmt: skip

    def clear(self, call: Call, item: Item) -> None:
        # Given back only while it is still its own: a successor may have taken it over.
        if self.there(call, item):
            hold(call.site, inputs_of(item)["allocationId"], "")
            aws_fabric.sync_all(call.site)
            self._cut(call, str(inputs_of(item)["instanceId"]))


class NatGateway(AwsType):
    """The way out of private subnets."""

    type_name = aws_view.NAT
    model = (
        "a NAT (namespace) with an address-and-port-dependent mapping, random ports and 350 s of idle time, whose own "
        "address an elastic IP stands for"
    )
    limits = (
        "an idle TCP connection is forgotten after 350 s without a reset",
        "it serves as many flows as it has ports",
    )
    force_new = frozenset({"allocationId", "subnetId", "connectivityType", "privateIp"})
    left_out: ClassVar = {"availabilityMode": not_kept("there are zonal gateways alone", "zonal")}
    defaults: ClassVar = {"connectivityType": "public"}
    wanted = ("allocationId", "subnetId")

    def check_inputs(self, inputs: Json) -> Iterator[Failure]:
        yield from one_of("connectivityType", inputs.get("connectivityType"), ("public",), "connectivity type")

    def identify(self, call: Call, number: int, inputs: Json) -> str:
        return hex_id("nat", call.site.run, number)

    def begin(self, call: Call, number: int, inputs: Json, items: list[Item]) -> Json:
        subnet = next((item for item in items if item.id == inputs["subnetId"]), None)
        if subnet is None:
            raise TwinError(f"InvalidSubnetID.NotFound: The subnet ID {inputs['subnetId']!r} does not exist")
        if not View(items, inputs_of(subnet)["vpcId"]).internet:
            raise TwinError(
                f"Gateway.NotAttached: Network {inputs_of(subnet)['vpcId']} has no Internet gateway attached"
            )
        slots = [item.data["slot"] for item in items if item.token == self.type_name]
        eni = Eni(
            id=f"eni-{digits(call.site.run, number)}", subnet=subnet.id, device=f"eni{number}", host=f"nat-{number}",
            address=free_address(items, subnet, inputs.get("privateIp")),
        )  # fmt: skip
        return {
            "enis": [eni.to_json()],
            "slot": lowest_free(slots, 0, 100, "NAT gateway"),
            "vpc": inputs_of(subnet)["vpcId"],
        }

    def apply(self, call: Call, item: Item) -> None:
        site, (eni,) = call.site, enis_of(item)
        hold(site, inputs_of(item)["allocationId"], eni.id)
        view = View(site.store.items(), item.data["vpc"])
        subnet = view.subnets[eni.subnet]
        device, ours, own = aws_fabric.nat_link(item)
        for segment in (eni.host, f"{eni.host}-in"):
            aws_fabric.ensure_segment(site, segment)
        site.lab.ensure_router(
            Router(
                eni.host,
                (Link(f"{eni.host}-in", f"{own}/30"),),
                Link(eni.host, f"{eni.address}/{subnet.network.prefixlen}"),
                nat=(GATEWAY,),
                gateway=str(subnet.network[1]),
            )
        )
        aws_fabric.plug(
            site, aws_fabric.router_of(view.vpc), f"{eni.host}-in", device, (f"ip address replace {ours}/30 dev $1",)
        )
        aws_fabric.plug_eni(site, view, eni)

        lines = [f"ip route replace {view.network} via {ours} dev lan0"]
        lines.append(f"echo {IDLE_S} > /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established")
        site.script(eni.host, "\n".join(lines))
        site.store.change(item.number, {"ready": True})
        aws_fabric.sync(site, view.id)

    def there(self, call: Call, item: Item) -> bool:
        return aws_fabric.exists(call.site, enis_of(item)[0].host)

    def outputs(self, call: Call, item: Item) -> Json:
        (eni,) = enis_of(item)
        address = call.site.store.get(aws_view.EIP, inputs_of(item)["allocationId"])
        public = address.data["address"] if address else ""
        return {
            "networkInterfaceId": eni.id, "privateIp": eni.address, "publicIp": public, "vpcId": item.data["vpc"],
            "associationId": f"eipassoc-{digits(call.site.run, item.number)}", "routeTableId": "", "autoScalingIps": "",
            "autoProvisionZones": "", "regionalNatGatewayAddresses": [], "regionalNatGatewayAutoMode": "",
        }  # fmt: skip

    def clear(self, call: Call, item: Item) -> None:
        site, (eni,) = call.site, enis_of(item)
        vpc = site.store.get(aws_view.VPC, item.data["vpc"])
        site.store.change(item.number, {"ready": False})
        aws_fabric.forget_item(site, item)
        if vpc is not None and aws_fabric.exists(site, aws_fabric.router_of(vpc)):
            site.script(aws_fabric.router_of(vpc), f"ip link del {aws_fabric.nat_link(item)[0]} 2> /dev/null || true")
        site.lab.remove_router(eni.host)
        for segment in (eni.host, f"{eni.host}-in"):
            site.lab.remove_segment(segment)
        if holder_of(site, inputs_of(item)["allocationId"]) == eni.id:
            hold(site, inputs_of(item)["allocationId"], "")

    def applied(self, call: Call, item: Item) -> None:
        if call.site.store.get(aws_view.VPC, item.data["vpc"]) is not None:
            aws_fabric.sync(call.site, item.data["vpc"])
