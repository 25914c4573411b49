"""Where the relay may send opaque packets: judged once per proof, never per packet."""

from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from ztna.proto.paths.stun_types import Endpoint

__all__ = ["RelayAddresses", "canonical"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayAddresses:
    """Which endpoints are refused, whoever proves them.

    Nobody names a target to the relay: an endpoint is where an authenticated request came from. This second fence is
    for sources that were forged, or that lead back to this host and what listens on it.

    Args:
        own_hosts: canonical texts of this host's addresses.
        own_ports: UDP ports of the intermediate itself: its own and those for NAT classification.
        allow_own_host: let peers on this very host (loopback or `own_hosts`) take part, except from `own_ports`. For an
            intermediate that is bound to loopback, or a connector that runs beside it.
    """

    own_hosts: Collection[str] = ()
    own_ports: Collection[int] = ()
    allow_own_host: bool = False

    def refusal(self, endpoint: Endpoint) -> str | None:
        """Return why packets may not be sent there (one word of `drop_endpoint_*` in RelayStats), or None."""
        try:
            address = ip_address(endpoint.host)
        except ValueError:
            return "malformed"
        if not 0 < endpoint.port < 65536 or address.is_unspecified or _is_zero_network(address):
            return "unspecified"
        if address.is_multicast:
            return "multicast"
        if isinstance(address, IPv4Address) and (address.is_reserved or int(address) == 0xFFFFFFFF):
            return "broadcast"
        if address.is_link_local:
            return "link_local"
        return self._own(endpoint, loopback=address.is_loopback)

    def _own(self, endpoint: Endpoint, *, loopback: bool) -> str | None:
        if not loopback and endpoint.host not in self.own_hosts:
            return None
        if endpoint.port in self.own_ports:
            return "own_port"
        if self.allow_own_host:
            return None
        return "loopback" if loopback else "own_host"


def canonical(host: str, port: int) -> Endpoint:
    """Return an endpoint with the one text each address has; IPv4-mapped IPv6 becomes IPv4.

    A text that is no address is kept as it is, and refused later.
    """
    try:
        address = ip_address(host.partition("%")[0] if ":" in host and not host.lower().startswith("fe80") else host)
    except ValueError:
        return Endpoint(host, port)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return Endpoint(str(mapped or address), port)


def _is_zero_network(address: IPv4Address | IPv6Address) -> bool:
    # RFC 1122 s3.2.1.3: 0.0.0.0/8 means "this host on this network" and is never a destination.
    return isinstance(address, IPv4Address) and int(address) >> 24 == 0
