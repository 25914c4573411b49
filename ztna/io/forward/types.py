"""What every forwarding back end offers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from ztna.proto.paths.stun_types import Endpoint

__all__ = ["ForwardError", "Forwarder", "LocalDatagram", "PairCounters"]

LocalDatagram = Callable[[bytes, Endpoint], None]
"""Takes a datagram that came to the relay's port but is not to be forwarded (STUN), with its source."""


class ForwardError(Exception):
    """A pair cannot be forwarded by this back end; the text says why."""


@dataclass(slots=True)
class PairCounters:
    """What was forwarded of one session, per direction; `a` is the agent's endpoint, `b` the connector's.

    Bytes are UDP payload. A back end that sees batches joined by GSO counts each as one packet, its bytes whole.
    """

    a_packets: int = 0
    a_bytes: int = 0
    b_packets: int = 0
    b_bytes: int = 0

    @property
    def packets(self) -> int:
        """Both directions together."""
        return self.a_packets + self.b_packets

    @property
    def payload_bytes(self) -> int:
        """Both directions together."""
        return self.a_bytes + self.b_bytes


class Forwarder(Protocol):
    """Forwards opaque packets between pairs of endpoints, and nothing else. Not thread safe: one event loop owns it."""

    @property
    def name(self) -> str:
        """ "kernel" or "userspace"."""

    def install(self, session: bytes, a: Endpoint, b: Endpoint) -> None:
        """Forward between `a` and `b`; replaces the session's earlier pair, whose counters go on.

        Raises:
            ForwardError: this back end cannot; nothing is forwarded for the session then.
        """

    def remove(self, session: bytes) -> PairCounters | None:
        """Stop forwarding for the session before this returns; what it forwarded, None if there is no such session."""

    def counters(self) -> Mapping[bytes, PairCounters]:
        """What was forwarded of each installed session since it was first installed."""

    def drops(self) -> Mapping[str, int]:
        """Packets that could not be forwarded, by reason."""

    def tick(self) -> str | None:
        """Renew what must be renewed; call it about once a second.

        Returns:
            Why it does not forward although it should, if that is so: then another back end must take over.
        """

    def close(self, *, leave: bool = False) -> None:
        """Remove everything it made; idempotent.

        With `leave` another process is about to come in this one's place: what can go on without a process does.
        """
