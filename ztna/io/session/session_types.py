"""What sessions need of those around them, and what they count."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from ztna.proto.paths.candidates import Candidate
from ztna.proto.paths.path_types import PathSelected
from ztna.proto.paths.stun_types import Endpoint

if TYPE_CHECKING:
    from ztna.io.session.session import Session


UNFINISHED_CHECKSUMS: Final = "unfinished-checksums"
"""Both kernels finish checksums of TCP and UDP where a packet is delivered; the session authenticates it on its way."""


class ControlPlane(Protocol):
    """What sessions ask of the connection to the intermediate; nothing is sent while there is none.

    `corners` are further STUN addresses of the intermediate (RFC 5780 s3), as it names them.
    """

    corners: tuple[Endpoint, ...]

    def connect(self, service: str, session: tuple[bytes, bytes] | None) -> None:
        """Ask for a session with the service's connector; `session` is the id and key of one that we have with it."""

    def send_candidates(self, session: bytes, candidates: Sequence[Candidate], end: bool) -> None:
        """Trickle candidates to the peer."""

    def nat_report(self, session: bytes, mapping: str, filtering: str, allocation: str) -> None:
        """Tell the peer what our NAT does."""

    def path_report(self, session: bytes, selected: PathSelected, rtt_s: float | None, loss: float) -> None:
        """Tell the intermediate which path is used."""

    def silence(self, session: bytes) -> None:
        """Nothing of the session's connector arrives."""

    def end_session(self, session: bytes, reason: str) -> None:
        """The session is over."""

    @property
    def relay_host(self) -> str:
        """The address of the intermediate that was dialled."""


class Local(Protocol):
    """The local side of the agent, as sessions use it."""

    def packets_received(self, packets: Sequence[bytes]) -> None:
        """Packets of services, from one session's batch."""

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What our side of a session can, for the peer: UNFINISHED_CHECKSUMS."""

    def flow_received(self, session: "Session", flow: int, payload: bytes) -> None:
        """A UDP payload of a flow, by a session: one that does not carry the flow has no say in it."""

    def flow_failed(self, session: "Session", flow: int, error: str) -> None:
        """A UDP flow was refused or its backend is not there."""

    def flow_closed(self, session: "Session", flow: int) -> None:
        """The connector forgot an idle flow; the next payload opens it again."""

    def batch_ended(self) -> None:
        """The last chance to add to this batch's transmit."""

    def sessions_changed(self) -> None:
        """A session became ready or ended, or its payload limit changed."""


@dataclass(slots=True)
class AgentSessionCounters:
    """Sessions asked for and had; each packet lost here is in one `dropped_*`."""

    requested: int = 0
    granted: int = 0
    ready: int = 0
    ended: int = 0
    rejected: int = 0
    refused_legacy: int = 0
    """Times that a service was to be reached without end-to-end encryption, which `protocol: v2` forbids."""
    dropped_unsealed: int = 0
    """Packets that would have gone, or came, by the intermediate in spite of `protocol: v2`."""
    dropped_waiting: int = 0
    dropped_queue: int = 0
    dropped_source: int = 0
    dropped_oversize: int = 0
    dropped_foreign: int = 0
    dropped_malformed: int = 0


class Accepting(ControlPlane, Protocol):
    """What the connector's sessions ask of the connection to the intermediate, besides."""

    def accept(self, session: bytes, nonce: bytes) -> None:
        """Take an invitation."""

    def decline(self, session: bytes, code: str, text: str) -> None:
        """Refuse an invitation."""


class AgentTraffic(Protocol):
    """Where one agent's IP packets go: a packet gateway, or the kernel by a TUN device."""

    session: "Session | None"
    agent_ip: bytes

    @property
    def idle(self) -> bool:
        """Whether nothing is open and no session is there."""

    @property
    def open_flows(self) -> tuple[int, int]:
        """UDP flows and TCP connections, as far as it knows them."""

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What our side of a session can, for the peer: UNFINISHED_CHECKSUMS."""

    @property
    def forwarded(self) -> tuple[int, int]:
        """Packets of the agent, and their bytes."""

    def allow(self, services: Sequence[str]) -> None:
        """Say which services the agent reaches."""

    def attach(self, session: "Session") -> None:
        """Send by this session from now on."""

    def detach(self, session: "Session") -> None:
        """The session is over."""

    def budget_changed(self) -> None:
        """Packets may be as large as the session takes now."""

    def packets_received(self, packets: Sequence[bytes]) -> None:
        """IP packets of the agent."""

    def drain(self) -> None:
        """Put what is to be sent into the session."""

    def close(self) -> None:
        """Release everything."""


@dataclass(slots=True)
class ConnectorSessionCounters:
    """Invitations and what became of them; each DATAGRAM lost here is in one `dropped_*`."""

    invited: int = 0
    declined: int = 0
    ready: int = 0
    ended: int = 0
    rejected: int = 0
    dropped_unproven: int = 0
    dropped_malformed: int = 0
    dropped_unsealed: int = 0
    """Packets that came by the intermediate in spite of `protocol: v2`."""
