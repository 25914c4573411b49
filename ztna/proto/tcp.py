"""A TCP endpoint without IO: one connection, opened actively or passively.

    connect / listen -> handshake -> both directions flow -> each ends by itself (FIN) -> TIME-WAIT or CLOSED
    any time: RST, `abort`, a time-out -> CLOSED

Feed segments to `segment_received`, take events from `next_event`, hand the segments of `segments_to_send` to the
network, call `handle_timer` when `get_timer` says. Nothing is sent by itself: acknowledgments and data are decided when
the segments are taken, so a batch of received segments costs one acknowledgment. Source: RFC 9293, 6298, 5681, 6582,
5961, 7323 (window scale only), 2018.
"""

from typing import Final

from ztna.proto.tcp_arrival import SEQUENCE_MASK, Connection, Phase, window_shift
from ztna.proto.tcp_flight import Transmission
from ztna.proto.tcp_segment import ACK, FIN, NO_OPTIONS, PSH, RST, SYN, Segment, TcpOptions, rst_for
from ztna.proto.tcp_types import (
    Closed,
    Connected,
    DataReceived,
    EndOfStream,
    Event,
    Reset,
    ResetReason,
    TcpSettings,
    TcpState,
)

__all__ = ["TcpEndpoint"]

_MAX_DUPLICATE_ACKS: Final = 16


class TcpEndpoint(Connection):
    """One TCP connection.

    `segments_retransmitted`, `challenge_acks` and `dropped` count; `state` names the state of RFC 9293.
    """

    __slots__ = ()

    @classmethod
    def connect(cls, settings: TcpSettings, initial_sequence: int, now: float) -> "TcpEndpoint":
        """Open actively: the SYN is ready in `segments_to_send`. Source: RFC 9293 s3.10.1."""
        return cls(settings, initial_sequence, now)

    @classmethod
    def listen(
        cls, settings: TcpSettings, initial_sequence: int, syn: Segment, now: float, *, hold_s: float = 30.0
    ) -> "TcpEndpoint":
        """Open passively for a received SYN; nothing is answered until `accept` or `abort`, or refused after `hold_s`.

        The peer's retransmitted SYNs are ignored meanwhile. Source: RFC 9293 s3.10.7.2.
        """
        endpoint = cls(settings, initial_sequence, now)
        endpoint._phase = Phase.HELD
        endpoint._phase_deadline = now + hold_s
        endpoint._take_syn(syn)
        return endpoint

    def accept(self, now: float) -> None:
        """Let the SYN-ACK out (passive open)."""
        if self._phase == Phase.HELD:
            self._phase = Phase.SYN_RECEIVED
            self._phase_deadline = now + self.settings.handshake_s

    # -- the application's side ----------------------------------------------------------------------------------------

    @property
    def state(self) -> TcpState:
        """The state of RFC 9293 s3.3.2; a held passive open counts as SYN-RECEIVED."""
        if self._phase != Phase.OPEN:
            return _PHASE_STATES[self._phase]
        send = self._send
        if send.fin_position is None:
            return TcpState.CLOSE_WAIT if self._receive.finished else TcpState.ESTABLISHED
        if self._receive.finished:
            return TcpState.CLOSING if self._fin_first else TcpState.LAST_ACK
        return TcpState.FIN_WAIT_2 if send.una > send.fin_position else TcpState.FIN_WAIT_1

    @property
    def closed(self) -> bool:
        """Whether the connection is over; take the remaining segments and events, then forget it."""
        return self._phase == Phase.CLOSED

    @property
    def in_time_wait(self) -> bool:
        """Whether both directions have ended and only stray segments are waited for."""
        return self._phase == Phase.TIME_WAIT

    @property
    def buffered_bytes(self) -> int:
        """Bytes written and not acknowledged by the peer."""
        return self._send.buffered_bytes

    @property
    def free_bytes(self) -> int:
        """How many bytes `write` would take now."""
        if self._phase >= Phase.TIME_WAIT or self._send.fin_position is not None:
            return 0
        return max(self.settings.send_buffer_bytes - self._send.buffered_bytes, 0)

    @property
    def segments_retransmitted(self) -> int:
        """Segments sent more than once."""
        return self._send.retransmissions

    @property
    def last_activity(self) -> float:
        """When the peer last sent an acceptable segment."""
        return self._last_activity

    def write(self, data: bytes) -> int:
        """Take data to send; returns how many bytes were taken: 0 if the buffer is full or our direction closed."""
        free = self.free_bytes
        if free < len(data):
            data = data[:free]
        self._send.write(data)
        return len(data)

    def close_write(self) -> None:
        """End our direction after everything written; the other one stays open. Source: RFC 9293 s3.6."""
        if self._phase < Phase.TIME_WAIT and self._send.fin_position is None:
            self._send.close()
            self._fin_first = not self._receive.finished

    def abort(self) -> None:
        """Break the connection with a reset. Source: RFC 9293 s3.10.5."""
        if self._phase == Phase.HELD and self._syn is not None:
            refusal = rst_for(self._syn)
            self._control = [refusal] if refusal else []
        elif self._phase in (Phase.SYN_RECEIVED, Phase.OPEN):
            sequence = (self._send.initial_sequence + self._send.next) & SEQUENCE_MASK
            self._control = [Segment(sequence, self._receive.sequence, RST | ACK, 0)]
        self._end(Reset(ResetReason.ABORTED))

    def consumed(self, count: int) -> None:
        """The application is done with `count` received bytes: they count no longer against the window."""
        receive = self._receive
        receive.unconsumed = max(receive.unconsumed - count, 0)
        if self._phase == Phase.OPEN and not receive.finished and receive.window_update_due():
            self._acks_due = self._acks_due or 1

    def set_receive_buffer(self, size_bytes: int) -> None:
        """Set how much may wait for the application; a window once offered is still honoured."""
        self._receive.buffer_bytes = size_bytes

    def next_event(self) -> Event | None:
        """Return the next thing the application must know, or None."""
        if self._events and isinstance(self._events[0], Connected):
            return self._events.popleft()
        if data := self._receive.take():
            return DataReceived(data)
        if self._receive.finished and not self._end_told:
            self._end_told = True
            return EndOfStream()
        return self._events.popleft() if self._events else None

    # -- output --------------------------------------------------------------------------------------------------------

    def segments_to_send(self, now: float, limit: int = 64) -> list[Segment]:
        """Return up to about `limit` segments to send now; call again if it came back full."""
        out = self._control
        if out:
            self._control = []
        else:
            out = []
        if self._phase == Phase.OPEN or self._phase == Phase.SYN_SENT or self._phase == Phase.SYN_RECEIVED:
            send = self._send
            while len(out) < limit:
                transmission = send.next_transmission(now)
                if transmission is None:
                    break
                out.append(self._segment(transmission))
        if self._acks_due and self._phase < Phase.CLOSED:
            self._acknowledge(out)
        return out

    def _segment(self, transmission: Transmission) -> Segment:
        """Build a data segment; it carries the acknowledgment too."""
        send, receive = self._send, self._receive
        start, end = transmission.start, transmission.end
        if start == 0:
            return self._syn_segment()
        flags = ACK
        if send.fin_position is not None and end > send.fin_position:
            flags = ACK | FIN
        payload = send.slice(start, end)
        if end >= send.end or (flags & FIN and payload):
            flags |= PSH
        if not receive.out_of_order:
            self._acks_due = 0
            self._unacknowledged = 0
            self._ack_at = None
        sequence = (send.initial_sequence + start) & SEQUENCE_MASK
        return Segment(sequence, receive.sequence, flags, receive.window_field(), payload)

    def _syn_segment(self) -> Segment:
        settings = self.settings
        offered = self._syn.options if self._syn is not None else None
        shift: int | None = None
        if settings.window_scale and (offered is None or offered.window_shift is not None):
            shift = window_shift(settings.receive_buffer_bytes)
        sack = settings.sack and (offered is None or offered.sack_permitted)
        options = TcpOptions(settings.announced_mss, shift, sack)
        sequence = self._send.initial_sequence
        if offered is None:
            return Segment(sequence, 0, SYN, min(settings.receive_buffer_bytes, 0xFFFF), b"", options)
        self._acks_due = 0
        return Segment(sequence, self._receive.sequence, SYN | ACK, self._receive.window_field(False), b"", options)

    def _acknowledge(self, out: list[Segment]) -> None:
        send, receive = self._send, self._receive
        blocks = receive.sack_blocks() if send.sack else ()
        options = TcpOptions(sack_blocks=blocks) if blocks else NO_OPTIONS
        segment = Segment(
            send.sequence_to_acknowledge_with, receive.sequence, ACK, receive.window_field(), b"", options
        )
        # A peer without SACK counts duplicate acknowledgments, so each stray segment must cause one (RFC 5681 s4.2).
        copies = min(self._acks_due, _MAX_DUPLICATE_ACKS) if receive.out_of_order and not send.sack else 1
        out.extend([segment] * copies)
        self._acks_due = 0
        self._unacknowledged = 0
        self._ack_at = None

    # -- time ----------------------------------------------------------------------------------------------------------

    def get_timer(self) -> float | None:
        """Return when `handle_timer` is due, in monotonic seconds; None when closed."""
        if self._phase == Phase.CLOSED:
            return None
        send = self._send
        due = self._phase_deadline
        if due is None:
            due = self._last_activity + self.settings.idle_s
        for at in (send.rto_at, send.probe_at, send.persist_at, self._ack_at):
            if at is not None and at < due:
                due = at
        return due

    def handle_timer(self, now: float) -> None:
        """Do what is due; harmless when nothing is."""
        if self._phase == Phase.CLOSED:
            return
        if self._phase_deadline is not None and now >= self._phase_deadline:
            self._end(Closed()) if self._phase == Phase.TIME_WAIT else self._break(ResetReason.TIMED_OUT)
            return
        if self._phase == Phase.OPEN and now >= self._last_activity + self.settings.idle_s:
            self._break(ResetReason.IDLE)
            return
        if self._ack_at is not None and now >= self._ack_at:
            self._acks_due = self._acks_due or 1
        send = self._send
        if send.rto_at is not None and now >= send.rto_at:
            if now - send.last_progress_at >= self.settings.give_up_s:
                self._break(ResetReason.TIMED_OUT)
                return
            send.rto_due(now)
        elif send.probe_at is not None and now >= send.probe_at:
            if (transmission := send.probe_due(now)) is not None:
                self._control.append(self._segment(transmission))
        elif send.persist_at is not None and now >= send.persist_at:
            self._probe_window(now)

    def _probe_window(self, now: float) -> None:
        send = self._send
        if now - send.last_progress_at >= self.settings.give_up_s:
            self._break(ResetReason.TIMED_OUT)
            return
        if (transmission := send.next_transmission(now, force=True)) is not None:
            self._control.append(self._segment(transmission))
            return
        send.persist_due(now)
        # A segment just below the window carries nothing and must be answered (RFC 9293 s3.10.7.4, s3.8.6.1).
        sequence = (send.initial_sequence + send.una - 1) & SEQUENCE_MASK
        self._control.append(Segment(sequence, self._receive.sequence, ACK, self._receive.window_field()))

    def _break(self, reason: ResetReason) -> None:
        self.abort()
        self._events[-1] = Reset(reason)


_PHASE_STATES: Final = {
    Phase.HELD: TcpState.SYN_RECEIVED,
    Phase.SYN_SENT: TcpState.SYN_SENT,
    Phase.SYN_RECEIVED: TcpState.SYN_RECEIVED,
    Phase.TIME_WAIT: TcpState.TIME_WAIT,
    Phase.CLOSED: TcpState.CLOSED,
}
