"""Settings, states and events of a TCP endpoint."""

from dataclasses import dataclass
from enum import Enum

__all__ = [
    "Closed",
    "Connected",
    "DataReceived",
    "EndOfStream",
    "Event",
    "Reset",
    "ResetReason",
    "TcpSettings",
    "TcpState",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpSettings:
    """How one connection behaves; sizes in bytes, times in seconds.

    Args:
        send_mss: the largest payload we send, whatever the peer would take (RFC 9293 s3.7.1, the path's part).
        announced_mss: what our MSS option says: the largest payload that reaches us.
        receive_buffer_bytes: the largest receive window.
        send_buffer_bytes: how much `write` takes before the peer acknowledged it.
        window_scale: whether to offer window scaling (RFC 7323); without it windows stop at 65535.
        sack: whether to offer SACK (RFC 2018).
        initial_rto_s, min_rto_s, max_rto_s: RFC 6298; the minimum is what stacks use, not the RFC's one second.
        handshake_s: an active or passive open that takes longer fails.
        give_up_s: outstanding data unacknowledged for this long breaks the connection (R2, RFC 9293 s3.8.3).
        delayed_ack_s: the longest an acknowledgment waits for company (at most 0.5, RFC 9293 s3.8.6.3).
        time_wait_s: how long the closing side remembers the connection; shorter than the RFC, for ours are random.
        idle_s: a connection without a segment from the peer for this long is broken.
    """

    send_mss: int
    announced_mss: int
    receive_buffer_bytes: int = 512 * 1024
    send_buffer_bytes: int = 512 * 1024
    window_scale: bool = True
    sack: bool = True
    initial_rto_s: float = 1.0
    min_rto_s: float = 0.2
    max_rto_s: float = 30.0
    handshake_s: float = 30.0
    give_up_s: float = 100.0
    delayed_ack_s: float = 0.025
    time_wait_s: float = 10.0
    idle_s: float = 3600.0


class TcpState(Enum):
    """The states of RFC 9293 s3.3.2."""

    SYN_SENT = "SYN-SENT"
    SYN_RECEIVED = "SYN-RECEIVED"
    ESTABLISHED = "ESTABLISHED"
    FIN_WAIT_1 = "FIN-WAIT-1"
    FIN_WAIT_2 = "FIN-WAIT-2"
    CLOSE_WAIT = "CLOSE-WAIT"
    CLOSING = "CLOSING"
    LAST_ACK = "LAST-ACK"
    TIME_WAIT = "TIME-WAIT"
    CLOSED = "CLOSED"


class ResetReason(Enum):
    """Why a connection broke."""

    REFUSED = "refused"
    RESET_BY_PEER = "reset by peer"
    TIMED_OUT = "timed out"
    IDLE = "idle"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class Connected:
    """The handshake is complete: data may flow."""


@dataclass(frozen=True, slots=True)
class DataReceived:
    """Bytes in order; they count against the window until `consumed` says otherwise."""

    data: bytes


@dataclass(frozen=True, slots=True)
class EndOfStream:
    """The peer sends no more; our direction stays open."""


@dataclass(frozen=True, slots=True)
class Reset:
    """The connection broke; nothing more follows."""

    reason: ResetReason


@dataclass(frozen=True, slots=True)
class Closed:
    """Both directions ended in order and nothing more follows."""


Event = Connected | DataReceived | EndOfStream | Reset | Closed
