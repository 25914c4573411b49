"""What a session core must say of its QUIC implementation; the guards of `core_base` are built upon it."""


class CoreHooks:
    """The seam between the guards and an implementation. Whatever these raise is caught by the guards."""

    name = ""

    def _feed(self, packet: bytes, now: float) -> None:
        """Give one UDP payload to the implementation and take up what came of it."""
        raise NotImplementedError

    def _build(self, now: float) -> list[bytes]:
        raise NotImplementedError

    def _timer(self) -> float:
        """The implementation's own time, infinity for none."""
        raise NotImplementedError

    def _fire(self, now: float) -> None:
        raise NotImplementedError

    def _abandon(self) -> None:
        """Forget the connection without a word on the wire."""
        raise NotImplementedError

    def _close_wire(self, code: int, reason: str, *, application: bool) -> None:
        raise NotImplementedError

    def _update_keys(self) -> None:
        """Protect what follows with new keys (RFC 9001 s6)."""
        raise NotImplementedError

    def _lost_and_sent(self) -> tuple[int, int]:
        """Packets lost and packets sent since the beginning."""
        raise NotImplementedError

    def push(self, stream_id: int, data: bytes, fin: bool) -> bool:
        """See `core_streams.Engine`."""
        raise NotImplementedError

    def unsent(self, stream_id: int) -> int:
        """See `core_streams.Engine`."""
        raise NotImplementedError

    def open(self, unidirectional: bool) -> int:
        """See `core_streams.Engine`."""
        raise NotImplementedError

    def _abandon_stream(self, stream_id: int, code: int) -> None:
        raise NotImplementedError

    def ping(self) -> None:
        """See `SessionCore`."""
        raise NotImplementedError

    @property
    def rtt_s(self) -> float | None:
        """See `SessionCore`."""
        raise NotImplementedError

    @property
    def max_datagram_payload(self) -> int:
        """See `SessionCore`."""
        raise NotImplementedError

    def _forgive(self, now: float) -> None:
        """Blame the new path for no loss of the old one, as far as the implementation lets us."""
