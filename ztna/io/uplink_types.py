"""What an uplink needs of the role behind it, and what it counts."""

from dataclasses import dataclass
from typing import Protocol

from ztna.io.udp import Address
from ztna.proto.control.events import ControlEvent

__all__ = ["Owner", "UplinkCounters"]


class Owner(Protocol):
    """The role behind an uplink; every method is called within a batch and must not raise."""

    def dialled(self, relay: Address) -> None:
        """A connection to this address of the relay was begun."""

    def packet_received(self, packet: bytes) -> None:
        """An IP packet arrived for the local side."""

    def payload_limit_changed(self, max_bytes: int) -> None:
        """DATAGRAM payloads may be this large now."""

    def control_event(self, event: ControlEvent) -> None:
        """Something happened on the control connection; see `ztna.proto.control.events`."""

    def relayed_packets(self) -> tuple[int, int]:
        """Packets that sessions sent and received by the relay's path so far: their silence is the relay's, too."""

    def batch_ended(self) -> None:
        """A batch was processed and will be transmitted after this: the last chance to add to it."""

    def non_quic(self, data: bytes, source: Address) -> bool:
        """A datagram that is not QUIC and not an answer to us; True if it was taken."""


@dataclass(slots=True)
class UplinkCounters:
    """Attempts and losses of the connection."""

    dials: int = 0
    dial_errors: int = 0
    lost_silent: int = 0
    lost_closed: int = 0
    stun_probes: int = 0
    stun_answers: int = 0
    problems: int = 0
