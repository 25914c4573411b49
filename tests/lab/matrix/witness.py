"""What really crossed the public segment, counted by the kernel outside every NAT.

A table of the bridge family in the namespace of the lab's bridges counts each UDP flow between public addresses, as the
world sees them; what stays in a LAN, or is on its way to a NAT, has another address. No role's word is taken.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from infra.lab.netns import Place
from infra.lab.plan import switch_namespace
from infra.lab.runtime import Lab
from tests.lab.matrix.classes import PUBLIC_CIDR

_RULES = f"""
table bridge witness
delete table bridge witness
table bridge witness {{
  set four {{
    type ipv4_addr . inet_service . ipv4_addr . inet_service
    size 65535
    flags dynamic
    counter
  }}
  set six {{
    type ipv6_addr . inet_service . ipv6_addr . inet_service
    size 65535
    flags dynamic
    counter
  }}
  chain pass {{
    type filter hook forward priority 0;
    ip saddr {PUBLIC_CIDR} ip daddr {PUBLIC_CIDR} ip protocol udp \\
      update @four {{ ip saddr . udp sport . ip daddr . udp dport }}
    ip6 nexthdr udp update @six {{ ip6 saddr . udp sport . ip6 daddr . udp dport }}
  }}
}}
"""


class Flow(NamedTuple):
    """One direction of a UDP conversation, as seen on the public segment."""

    source: str
    source_port: int
    target: str
    target_port: int


@dataclass(frozen=True, slots=True)
class Reading:
    """Bytes of IP packets per flow so far."""

    bytes_by_flow: dict[Flow, int]

    def since(self, earlier: "Reading") -> "Reading":
        """What came after an earlier reading."""
        grown = Counter(self.bytes_by_flow)
        grown.subtract(earlier.bytes_by_flow)
        return Reading({flow: count for flow, count in grown.items() if count > 0})

    def between(self, one: str, other: str) -> int:
        """Bytes between two addresses, both directions."""
        return sum(n for flow, n in self.bytes_by_flow.items() if {flow.source, flow.target} == {one, other})

    def of_endpoint(self, address: str, port: int, peers: Iterable[str]) -> int:
        """Bytes between one endpoint and any port of some addresses, both directions."""
        others = set(peers)
        return sum(
            n
            for flow, n in self.bytes_by_flow.items()
            if ((flow.source, flow.source_port) == (address, port) and flow.target in others)
            or ((flow.target, flow.target_port) == (address, port) and flow.source in others)
        )


class Witness:
    """Counts from the moment it is made, until the lab goes."""

    def __init__(self, lab: Lab) -> None:
        record = lab.record()
        place = Place(record.holder[0] if record.holder else None)
        self._argv = [*place.quick(switch_namespace(record.run)), "nft"]
        self._place = place
        place.run([*self._argv, "-f", "-"], stdin=_RULES)

    def read(self) -> Reading:
        """The counters now."""
        flows: dict[Flow, int] = {}
        for name in ("four", "six"):
            listed = json.loads(self._place.run([*self._argv, "-j", "list", "set", "bridge", "witness", name]))
            flows |= dict(_elements(listed))
        return Reading(flows)


def _elements(listed: dict[str, Any]) -> Iterable[tuple[Flow, int]]:
    (found,) = (entry["set"] for entry in listed["nftables"] if "set" in entry)
    for element in found.get("elem", ()):
        source, source_port, target, target_port = element["elem"]["val"]["concat"]
        yield Flow(source, source_port, target, target_port), int(element["elem"]["counter"]["bytes"])
