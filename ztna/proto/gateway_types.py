"""What the packet gateway takes and gives: services, limits, commands to the shell, counters.

A flow is one UDP conversation and a session one TCP connection; both are named by an integer that is never used twice.
The shell keeps a socket per integer and knows nothing else about them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal, NamedTuple

from ztna.proto.packet import TCP, UDP

__all__ = [
    "AbortTcp",
    "Backend",
    "CloseTcp",
    "CloseUdp",
    "Command",
    "EchoReceived",
    "EmitPacket",
    "GatewayLimits",
    "GatewayService",
    "GatewayStats",
    "OpenTcp",
    "OpenUdp",
    "PauseTcp",
    "PingBackend",
    "PortRule",
    "ResumeTcp",
    "SendUdp",
    "ShutdownTcp",
    "SocketError",
    "TcpFailed",
    "TcpOpened",
    "UdpFailed",
    "WriteTcp",
]

# The agent core in the field takes 1156 bytes of DATAGRAM payload, and wraps packets in 2 bytes and the service id.
LEGACY_AGENT_BUDGET_BYTES: Final = 1156
# The largest IP packet a relay leg of the same vintage forwards.
LEGACY_RELAY_BUDGET_BYTES: Final = 1306


class Backend(NamedTuple):
    """Where a service's traffic goes: an entry of the connector's config, never anything a peer named."""

    host: str
    port: int


class SocketError(Enum):
    """Why a backend socket failed, as far as the peer may learn it."""

    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    TIMED_OUT = "timed out"
    RESET = "reset"
    OTHER = "other"


class PortRule(NamedTuple):
    """One admitted port of a service."""

    protocol: Literal["tcp", "udp"]
    port: int
    backend: Backend

    @property
    def number(self) -> int:
        """The IP protocol number."""
        return TCP if self.protocol == "tcp" else UDP


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayService:
    """One service of the connector.

    Args:
        id: the service id, as registered.
        virtual_ip: its IPv4 address as an integer; None (allowed only for a single service) takes any destination.
        backend: where every port goes when `ports` is empty, and what ICMP echo speaks for; None if `ports` says all.
        ports: if not empty, the only ports admitted.
        protocol: "any", or the one protocol `backend` is for.
    """

    id: str
    virtual_ip: int | None
    backend: Backend | None = None
    ports: Sequence[PortRule] = ()
    protocol: Literal["any", "tcp", "udp"] = "any"


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayLimits:
    """Bounds of the gateway's tables and times; sizes in bytes, times in seconds."""

    udp_flows: int = 4096
    udp_flows_per_source: int = 1024
    udp_idle_s: float = 60.0
    tcp_sessions: int = 1024
    tcp_sessions_per_source: int = 512
    syn_rate_per_source: float = 100.0
    syn_burst_per_source: int = 200
    sources: int = 4096
    tcp_connect_s: float = 5.0
    tcp_idle_s: float = 3600.0
    # A full table gives way to a new connection only by dropping one that was silent for this long.
    evict_after_s: float = 120.0
    tcp_buffer_bytes: int = 512 * 1024
    tcp_buffers_total_bytes: int = 64 * 1024 * 1024
    echoes_waiting: int = 256
    echo_wait_s: float = 2.0
    # How long an answer of the backend, or its silence, is taken as the truth about it.
    alive_for_s: float = 5.0
    dead_for_s: float = 1.0
    reassembly_bytes: int = 1024 * 1024
    reassembly_s: float = 15.0
    errors_per_s: float = 200.0


@dataclass(frozen=True, slots=True)
class EmitPacket:
    """Send this IPv4 packet towards the agent (one DATAGRAM)."""

    packet: bytes


@dataclass(frozen=True, slots=True)
class OpenUdp:
    """Open a UDP socket connected to `backend` and keep it as `flow`; what it receives goes to `udp_received`."""

    flow: int
    backend: Backend


@dataclass(frozen=True, slots=True)
class SendUdp:
    """Send one datagram on the flow's socket."""

    flow: int
    data: bytes


@dataclass(frozen=True, slots=True)
class CloseUdp:
    """Close the flow's socket and forget it."""

    flow: int


@dataclass(frozen=True, slots=True)
class OpenTcp:
    """Connect to `backend` (TCP_NODELAY); answer with `tcp_connected` or `tcp_failed`."""

    session: int
    backend: Backend


@dataclass(frozen=True, slots=True)
class WriteTcp:
    """Write `data` to the backend; report each taken byte once with `tcp_writable`."""

    session: int
    data: bytes


@dataclass(frozen=True, slots=True)
class ShutdownTcp:
    """The agent ended its direction: shut the write side once everything written before is out."""

    session: int


@dataclass(frozen=True, slots=True)
class AbortTcp:
    """Drop the backend connection at once with a reset, unsent data included, and forget the session."""

    session: int


@dataclass(frozen=True, slots=True)
class CloseTcp:
    """Both directions have ended in order and all is written: close the socket and forget the session."""

    session: int


@dataclass(frozen=True, slots=True)
class PauseTcp:
    """Stop reading from the backend: the agent is slower than it."""

    session: int


@dataclass(frozen=True, slots=True)
class ResumeTcp:
    """Read from the backend again."""

    session: int


@dataclass(frozen=True, slots=True)
class TcpOpened:
    """User mode only: the service accepted the session's connection."""

    session: int


@dataclass(frozen=True, slots=True)
class TcpFailed:
    """User mode only: the service did not accept; forget the session."""

    session: int
    error: SocketError


@dataclass(frozen=True, slots=True)
class UdpFailed:
    """User mode only: the service's side answered the flow's datagrams with an ICMP error; the flow stays open."""

    flow: int
    error: SocketError


@dataclass(frozen=True, slots=True)
class EchoReceived:
    """User mode only: an ICMP echo was answered (`error` None) or came back as unreachable."""

    address: int
    identifier: int
    sequence: int
    data: bytes
    error: SocketError | None


@dataclass(frozen=True, slots=True)
class PingBackend:
    """Find out whether the backend's host answers (TCP connect, a refusal counts; or ICMP); tell `backend_answered`."""

    backend: Backend


Command = (
    EmitPacket
    | OpenUdp
    | SendUdp
    | CloseUdp
    | OpenTcp
    | WriteTcp
    | ShutdownTcp
    | AbortTcp
    | CloseTcp
    | PauseTcp
    | ResumeTcp
    | PingBackend
    | TcpOpened
    | TcpFailed
    | UdpFailed
    | EchoReceived
)


@dataclass(slots=True)
class GatewayStats:
    """Counters since start, one per reason for a drop; the tables' present sizes are properties of the gateway."""

    packets_in: int = 0
    packets_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    udp_flows_opened: int = 0
    udp_flows_expired: int = 0
    udp_flows_evicted: int = 0
    tcp_sessions_opened: int = 0
    tcp_sessions_closed: int = 0
    tcp_sessions_reset: int = 0
    tcp_sessions_evicted: int = 0
    tcp_segments_retransmitted: int = 0
    echo_replies: int = 0
    echo_unreachable: int = 0
    fragments_reassembled: int = 0
    replies_fragmented: int = 0
    dropped_malformed: int = 0
    dropped_checksum: int = 0
    dropped_protocol: int = 0
    dropped_no_service: int = 0
    dropped_port_refused: int = 0
    dropped_udp_flow_limit: int = 0
    dropped_udp_unknown_flow: int = 0
    dropped_syn_rate: int = 0
    dropped_session_limit: int = 0
    dropped_no_session: int = 0
    dropped_reply_too_large: int = 0
    dropped_fragment_limit: int = 0
    dropped_echo_limit: int = 0
    errors_suppressed: int = 0
