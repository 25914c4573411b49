"""What a session is told, what it counts, and what it tells its owner."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from ztna.io.session.core import CoreEvent
from ztna.io.session.sockets import ANY, IPV4
from ztna.proto.paths.candidates import Candidate
from ztna.proto.paths.path_types import NatSeen, PathConfig, PathSelected
from ztna.proto.paths.stun_types import Endpoint

if TYPE_CHECKING:
    from ztna.io.session.session import Session

ACK_EVERY: Final = 32
"""Packets of the peer that are acknowledged together while there is nothing else to say (RFC 9000 s13.2.2)."""

ACK_DELAY_S: Final = (0.018, 0.001)
"""How long acknowledgements of at most SPARSE packets, and of more, are held back; the peer expects 25 ms at most.

An answer to a packet or two carries the acknowledgement in most cases; a sender of more may wait for it.
"""

SPARSE: Final = 2


class SessionOwner(Protocol):
    """The role behind a session; every method is called within a batch and must not raise."""

    def session_event(self, session: "Session", event: CoreEvent) -> None:
        """Handshake, streams, payload limit."""

    def session_datagrams(self, session: "Session", datagrams: list[bytes]) -> None:
        """DATAGRAM payloads, in order."""

    def session_batch_ended(self, session: "Session") -> None:
        """The last chance to add to this batch's transmit."""

    def session_signal(self, session: "Session", candidates: Sequence[Candidate], end: bool) -> None:
        """Candidates for the peer, by way of the intermediate."""

    def session_nat(self, session: "Session", seen: NatSeen) -> None:
        """The NAT in front of this session's socket was classified."""

    def session_path(self, session: "Session", selected: PathSelected) -> None:
        """The path changed."""

    def session_silent(self, session: "Session") -> None:
        """Nothing of the peer arrives though it must acknowledge something; again while it stays so."""

    def session_closed(self, session: "Session", reason: str) -> None:
        """The session is over; nothing of it follows."""


@dataclass(slots=True)
class PathBytes:
    """UDP payload bytes and packets of QUIC that went one way."""

    sent: int = 0
    received: int = 0
    packets_sent: int = 0
    packets_received: int = 0

    def count_sent(self, packets: Sequence[bytes]) -> None:
        """Count packets that went this way."""
        self.sent += sum(map(len, packets))
        self.packets_sent += len(packets)

    def count_received(self, packets: Sequence[bytes]) -> None:
        """Count packets that came this way."""
        self.received += sum(map(len, packets))
        self.packets_received += len(packets)


@dataclass(slots=True)
class SessionCounters:
    """Packets that a session dropped, by reason, and what it did."""

    stun_sent: int = 0
    stun_received: int = 0
    dropped_stun: int = 0
    dropped_empty: int = 0
    dropped_unknown_source: int = 0
    dropped_error: int = 0
    duplicated: int = 0
    waited_for_path: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """What both roles decide before a session begins.

    Args:
        session, key: 16 and 32 bytes, from the intermediate.
        role: ours, "agent" or "connector".
        peer: the other side's SPIFFE ID, as the intermediate says.
        relay: the relay's address, None if it relays nothing.
        corners: further STUN addresses of the intermediate (RFC 5780 s3).
    """

    session: bytes
    key: bytes = field(repr=False)
    role: str
    peer: str
    relay: Endpoint | None
    corners: tuple[Endpoint, ...] = ()
    bind_addr: str = ANY[IPV4]
    paths: PathConfig = field(default_factory=PathConfig)
