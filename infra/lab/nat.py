"""What a NAT does, in the words of RFC 4787, and short names for the kinds met in the field.

A NAT is described by its behaviour alone; the rules (infra/lab/nft.py) are made from this struct and never from a
preset's name. "Cone" and "symmetric" (RFC 3489) appear only in the preset table below.
"""

from enum import StrEnum
from typing import Final

import msgspec


class Mapping(StrEnum):
    """Which packets of one internal endpoint share an external port (RFC 4787 section 4.1)."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"


class Filtering(StrEnum):
    """Which outside endpoints may send to a mapped internal endpoint (RFC 4787 section 5)."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"


class PortAllocation(StrEnum):
    """How the external port of a new mapping is chosen (RFC 4787 section 4.2)."""

    PRESERVING = "preserving"
    RANDOM = "random"
    SEQUENTIAL = "sequential"


class NatBehavior(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One NAT.

    Args:
        mapping: how external ports are shared between destinations.
        filtering: who may send in.
        udp_timeout_s: idle seconds after which a UDP mapping is forgotten; 1 to 86400. RFC 4787 REQ-5 asks for 120
            at least; Linux and many home routers give 30 to an unanswered flow.
        hairpin: an inside host reaches another one by its external endpoint, and is seen there under its own
            external endpoint (RFC 4787 REQ-9, "External source IP address and port").
        port_allocation: choice of the external port. Preserving falls back to a random port when the wanted one is
            taken, so an address-and-port-dependent NAT preserves the port of the first destination only.
        udp_blocked: drops every UDP packet that would cross, as some hotel and office networks do.
    """

    mapping: Mapping = Mapping.ENDPOINT_INDEPENDENT
    filtering: Filtering = Filtering.ADDRESS_AND_PORT_DEPENDENT
    udp_timeout_s: int = 120
    hairpin: bool = False
    port_allocation: PortAllocation = PortAllocation.PRESERVING
    udp_blocked: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.udp_timeout_s <= 86400:
            raise ValueError(f"udp_timeout_s is {self.udp_timeout_s}; give whole seconds from 1 to 86400")


HOME: Final = NatBehavior()
CARRIER: Final = NatBehavior(
    filtering=Filtering.ENDPOINT_INDEPENDENT,
    udp_timeout_s=300,
    hairpin=True,
    port_allocation=PortAllocation.RANDOM,
)

PRESETS: Final[dict[str, tuple[NatBehavior, ...]]] = {
    # Levels from the inside out; none at all means a plain router and public addresses inside.
    "public": (),
    "full-cone": (NatBehavior(filtering=Filtering.ENDPOINT_INDEPENDENT, udp_timeout_s=300, hairpin=True),),
    "address-restricted": (NatBehavior(filtering=Filtering.ADDRESS_DEPENDENT),),
    # The usual home router, and a cloud instance with its own address behind a stateful filter.
    "port-restricted": (HOME,),
    # Cloud NAT gateways, corporate firewalls, masquerade with random ports as in k8s.
    "symmetric": (NatBehavior(mapping=Mapping.ADDRESS_AND_PORT_DEPENDENT, port_allocation=PortAllocation.RANDOM),),
    "symmetric-sequential": (
        NatBehavior(mapping=Mapping.ADDRESS_AND_PORT_DEPENDENT, port_allocation=PortAllocation.SEQUENTIAL),
    ),
    # A home router behind the carrier's NAT (RFC 6598, RFC 6888).
    "cgnat": (HOME, CARRIER),
    "udp-blocked": (NatBehavior(udp_blocked=True),),
}

# The answer of an RFC 3489 classifier behind each preset (the words are pystun3's).
CLASSIC_TYPE: Final[dict[str, str]] = {
    "public": "Open Internet",
    "full-cone": "Full Cone",
    "address-restricted": "Restric NAT",
    "port-restricted": "Restric Port NAT",
    "symmetric": "Symmetric NAT",
    "symmetric-sequential": "Symmetric NAT",
    "cgnat": "Restric Port NAT",
    "udp-blocked": "Blocked",
}


def preset(name: str) -> tuple[NatBehavior, ...]:
    """Return the levels of NAT, inside first, that a preset's name stands for.

    Raises:
        ValueError: no such preset; lists those there are.
    """
    try:
        return PRESETS[name]
    except KeyError:
        raise ValueError(f"no NAT preset {name!r}; there are {', '.join(PRESETS)}") from None
