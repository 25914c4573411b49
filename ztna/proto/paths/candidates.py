"""Candidates of a session: types, priorities, foundations, and which remote addresses may be checked (RFC 8445 s5.1).

All candidates of one address family share one socket that is bound to the wildcard address, so `local` names that
socket, and a candidate pair is (local socket, remote endpoint): see `ztna.proto.paths.pairs`.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final
from zlib import crc32

from ztna.proto.paths.stun_types import Endpoint


class CandidateType(StrEnum):
    """How a candidate was found (RFC 8445 s4)."""

    HOST = "host"
    SRFLX = "srflx"
    PRFLX = "prflx"
    RELAY = "relay"


TYPE_PREFERENCE: Final = {
    CandidateType.HOST: 126,
    CandidateType.PRFLX: 110,
    CandidateType.SRFLX: 100,
    CandidateType.RELAY: 0,
}
"""RFC 8445 s5.1.2.2."""
COMPONENT: Final = 1
V6_PREFERENCE: Final = 65535
V4_PREFERENCE: Final = 49151
"""IPv6 first, as RFC 8421 s4 asks of hosts with both families."""
MAX_PRIORITY: Final = 2**31 - 1
BROADCAST: Final = "255.255.255.255"
MAX_LOCAL_HOSTS: Final = 12
"""Host candidates that are signalled: a machine full of container bridges has dozens, and the peer takes 32 in all."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A transport address at which one side may be reachable.

    Args:
        type: how it was found.
        endpoint: address and port.
        priority: 1 to 2^31 - 1 (RFC 8445 s5.1.2).
        foundation: equal for candidates of one type, base address and server (RFC 8445 s5.1.1.3).
        related: the base of a reflexive candidate, for diagnosis alone.
        local: index of the local socket; of no meaning in a remote candidate.
    """

    type: CandidateType
    endpoint: Endpoint
    priority: int
    foundation: str
    related: Endpoint | None = None
    local: int = 0


def priority(kind: CandidateType, local_preference: int) -> int:
    """Return the candidate priority of RFC 8445 s5.1.2.1 for component 1; `local_preference` is 0 to 65535."""
    return (TYPE_PREFERENCE[kind] << 24) + (local_preference << 8) + (256 - COMPONENT)


def foundation(kind: CandidateType, base: str, server: str = "") -> str:
    """Return the foundation of a candidate: one per type, base address and STUN server; 8 ice-chars."""
    return f"{crc32(f'{kind}|{base}|{server}'.encode()):08x}"


def local_preference(host: str, rank: int) -> int:
    """Return the local preference of the address that the host lists as number `rank`."""
    return max(0, (V6_PREFERENCE if ":" in host else V4_PREFERENCE) - rank)


def host_candidate(local: int, endpoint: Endpoint, rank: int) -> Candidate:
    """Return the host candidate of interface address number `rank`."""
    return Candidate(
        CandidateType.HOST,
        endpoint,
        priority(CandidateType.HOST, local_preference(endpoint.host, rank)),
        foundation(CandidateType.HOST, endpoint.host),
        local=local,
    )


def srflx_candidate(local: int, mapped: Endpoint, base: Endpoint | None, server: Endpoint) -> Candidate:
    """Return the server-reflexive candidate that `server` reported for socket `local`."""
    host = mapped.host if base is None else base.host
    return Candidate(
        CandidateType.SRFLX,
        mapped,
        priority(CandidateType.SRFLX, local_preference(mapped.host, 0)),
        foundation(CandidateType.SRFLX, host, server.host),
        related=base,
        local=local,
    )


def is_priority(value: object) -> bool:
    """Whether a value that came from the network is a candidate priority (RFC 8445 s5.1.2)."""
    return isinstance(value, int) and 0 < value <= MAX_PRIORITY


def is_port(value: object) -> bool:
    """Whether a value that came from the network is a port one can send to."""
    return isinstance(value, int) and 0 < value < 65536


def parse_host(host: object) -> IPv4Address | IPv6Address | None:
    """Return the address that `host` spells canonically, without a zone; None for any other text."""
    if not isinstance(host, str):
        return None
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return address if str(address) == host and "%" not in host else None


def is_v6(host: str) -> bool:
    """Whether a canonical address text is of IPv6."""
    return ":" in host


def signalled_hosts(hosts: Collection[tuple[int, Endpoint]]) -> list[tuple[int, Endpoint]]:
    """Return the interface addresses worth telling the peer, in their order.

    Loopback is told only where there is nothing else (both sides on one machine, in tests); link-local addresses
    never, since they mean nothing without a zone (RFC 8445 s5.1.1.1 excludes them for IPv6 in effect).
    """
    routable: list[tuple[int, Endpoint]] = []
    loopback: list[tuple[int, Endpoint]] = []
    for local, endpoint in hosts:
        address = parse_host(endpoint.host)
        if address is None or address.is_unspecified or address.is_multicast or address.is_link_local:
            continue
        (loopback if address.is_loopback else routable).append((local, endpoint))
    return (routable or loopback)[:MAX_LOCAL_HOSTS]


def refusal(endpoint: Endpoint, own: Collection[Endpoint], relay: Endpoint | None) -> str | None:
    """Say why a remote address is not checked, or None when it is.

    Args:
        endpoint: as the peer names it, or as a request's source shows it; any text and number.
        own: this side's host endpoints.
        relay: the relay's endpoint, which a peer might name to make us talk to it in its name.

    Returns:
        One of malformed, port, unspecified, multicast, broadcast, link-local, mapped, loopback, own, relay.
    """
    address = parse_host(endpoint.host)
    if address is None:
        return "malformed"
    if not is_port(endpoint.port):
        return "port"
    if endpoint in own:
        return "own"
    if endpoint == relay:
        return "relay"
    return _address_refusal(address, own)


def _address_refusal(address: IPv4Address | IPv6Address, own: Collection[Endpoint]) -> str | None:
    if address.is_unspecified:
        return "unspecified"
    if address.is_multicast:
        return "multicast"
    if str(address) == BROADCAST:
        return "broadcast"
    if address.is_link_local:
        return "link-local"
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return "mapped"
    if address.is_loopback and not (own and all(_is_loopback(endpoint.host) for endpoint in own)):
        return "loopback"
    return None


def _is_loopback(host: str) -> bool:
    address = parse_host(host)
    return address is not None and address.is_loopback


def is_private(host: str) -> bool:
    """Whether an address is not one of the public internet: RFC 1918, RFC 6598, ULA, loopback, link-local."""
    address = parse_host(host)
    return address is None or not address.is_global
