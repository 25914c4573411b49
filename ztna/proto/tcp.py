"""A TCP endpoint without IO: one connection, opened actively or passively.

    connect / listen -> handshake -> both directions flow -> each ends by itself (FIN) -> TIME-WAIT or CLOSED
    any time: RST, `abort`, a time-out -> CLOSED

Feed segments to `segment_received`, take events from `next_event`, hand the segments of `segments_to_send` to the
network, call `handle_timer` when `get_timer` says. Nothing is sent by itself: acknowledgments and data are decided when
the segments are taken, so a batch of received segments costs one acknowledgment. Source: RFC 9293, 6298, 5681, 6582,
5961, 7323 (window scale only), 2018.
"""

from collections import deque
from typing import Final

from ztna.proto.tcp_congestion import RoundTrip
from ztna.proto.tcp_receive import ReceiveSide
from ztna.proto.tcp_segment import ACK, FIN, NO_OPTIONS, PSH, RST, SYN, Segment, TcpOptions, rst_for
from ztna.proto.tcp_send import SendSide, Transmission
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

DEFAULT_MSS: Final = 536
MIN_MSS: Final = 64
_MASK: Final = 0xFFFFFFFF
# At the start every segment is acknowledged at once, for the peer's congestion window grows by acknowledgments.
_QUICK_ACKS: Final = 16
_CHALLENGE_INTERVAL_S: Final = 0.05
_MAX_DUPLICATE_ACKS: Final = 16

# Phases: what decides how a segment is taken. The RFC's states after the handshake follow from the two FINs.
_HELD: Final = 0
_SYN_SENT: Final = 1
_SYN_RECEIVED: Final = 2
_OPEN: Final = 3
_TIME_WAIT: Final = 4
_CLOSED: Final = 5


class TcpEndpoint:
    """One TCP connection.

    `segments_retransmitted`, `challenge_acks` and `dropped` count; `state` names the state of RFC 9293.
    """

    __slots__ = (
        "_ack_at",
        "_acks_due",
        "_challenge_at",
        "_control",
        "_end_told",
        "_events",
        "_fin_first",
        "_last_activity",
        "_phase",
        "_phase_deadline",
        "_quick_acks",
        "_receive",
        "_send",
        "_shift_out",
        "_syn",
        "_unacknowledged",
        "_window_acknowledgment",
        "_window_sequence",
        "challenge_acks",
        "dropped",
        "settings",
    )

    def __init__(self, settings: TcpSettings, initial_sequence: int, now: float) -> None:
        self.settings = settings
        round_trip = RoundTrip(settings.initial_rto_s, settings.min_rto_s, settings.max_rto_s)
        self._send = SendSide(initial_sequence & _MASK, settings.send_mss, round_trip, 2 * settings.send_buffer_bytes)
        self._receive = ReceiveSide(0, settings.receive_buffer_bytes, 0, settings.announced_mss)
        self._phase = _SYN_SENT
        self._phase_deadline: float | None = now + settings.handshake_s
        self._syn: Segment | None = None
        self._shift_out = 0
        self._window_sequence = 0
        self._window_acknowledgment = 0
        self._control: list[Segment] = []
        self._events: deque[Event] = deque()
        self._end_told = False
        self._fin_first = False
        self._acks_due = 0
        self._ack_at: float | None = None
        self._unacknowledged = 0
        self._quick_acks = _QUICK_ACKS
        self._challenge_at = now - 1
        self._last_activity = now
        self.challenge_acks = 0
        self.dropped = 0

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
        endpoint._phase = _HELD
        endpoint._phase_deadline = now + hold_s
        endpoint._take_syn(syn)
        return endpoint

    def accept(self, now: float) -> None:
        """Let the SYN-ACK out (passive open)."""
        if self._phase == _HELD:
            self._phase = _SYN_RECEIVED
            self._phase_deadline = now + self.settings.handshake_s

    # -- the application's side ----------------------------------------------------------------------------------------

    @property
    def state(self) -> TcpState:
        """The state of RFC 9293 s3.3.2; a held passive open counts as SYN-RECEIVED."""
        if self._phase != _OPEN:
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
        return self._phase == _CLOSED

    @property
    def in_time_wait(self) -> bool:
        """Whether both directions have ended and only stray segments are waited for."""
        return self._phase == _TIME_WAIT

    @property
    def buffered_bytes(self) -> int:
        """Bytes written and not acknowledged by the peer."""
        return self._send.buffered_bytes

    @property
    def free_bytes(self) -> int:
        """How many bytes `write` would take now."""
        if self._phase >= _TIME_WAIT or self._send.fin_position is not None:
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
        if self._phase < _TIME_WAIT and self._send.fin_position is None:
            self._send.close()
            self._fin_first = not self._receive.finished

    def abort(self) -> None:
        """Break the connection with a reset. Source: RFC 9293 s3.10.5."""
        if self._phase == _HELD and self._syn is not None:
            refusal = rst_for(self._syn)
            self._control = [refusal] if refusal else []
        elif self._phase in (_SYN_RECEIVED, _OPEN):
            sequence = (self._send.initial_sequence + self._send.next) & _MASK
            self._control = [Segment(sequence, self._receive.sequence, RST | ACK, 0)]
        self._end(Reset(ResetReason.ABORTED))

    def consumed(self, count: int) -> None:
        """The application is done with `count` received bytes: they count no longer against the window."""
        receive = self._receive
        receive.unconsumed = max(receive.unconsumed - count, 0)
        if self._phase == _OPEN and not receive.finished and receive.window_update_due():
            self._acks_due = self._acks_due or 1

    def set_receive_buffer(self, size_bytes: int) -> None:
        """Set how much may wait for the application; a window once offered is still honoured."""
        self._receive.buffer_bytes = size_bytes

    def set_send_mss(self, size_bytes: int) -> None:
        """Lower or raise the path's part of the segment size; the peer's part stays in force."""
        peer = self._syn.options.mss if self._syn is not None else None
        self._send.set_mss(max(min(size_bytes, peer or DEFAULT_MSS), MIN_MSS))

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

    # -- the network's side --------------------------------------------------------------------------------------------

    def segment_received(self, segment: Segment, now: float) -> None:
        """Take one segment of this connection, its checksum already verified. Source: RFC 9293 s3.10.7."""
        phase = self._phase
        if phase == _OPEN:
            self._in_connection(segment, now)
        elif phase == _SYN_SENT:
            self._in_syn_sent(segment, now)
        elif phase == _SYN_RECEIVED:
            self._in_syn_received(segment, now)
        elif phase == _HELD:
            self._while_held(segment)
        elif phase == _TIME_WAIT:
            self._in_time_wait(segment, now)
        elif (reply := rst_for(segment)) is not None:
            self._control.append(reply)

    def _while_held(self, segment: Segment) -> None:
        if segment.flags & RST and self._receive.position_of(segment.seq) == 1:
            self._end(Reset(ResetReason.RESET_BY_PEER))

    def _in_syn_sent(self, segment: Segment, now: float) -> None:
        """RFC 9293 s3.10.7.3."""
        flags = segment.flags
        acceptable = flags & ACK and segment.ack == (self._send.initial_sequence + 1) & _MASK and self._send.next == 1
        if flags & ACK and not acceptable:
            if (reply := rst_for(segment)) is not None:
                self._control.append(reply)
            return
        if flags & RST:
            if acceptable:
                self._end(Reset(ResetReason.REFUSED))
            return
        if not flags & SYN:
            return
        self._take_syn(segment)
        if acceptable:
            self._send.acknowledge(1, now)
            self._established(segment, now)
            self._acks_due = 1
            if segment.payload or flags & FIN:
                self._take_data(1, segment, now)
        else:
            # Simultaneous open: our SYN goes out again, now with an acknowledgment (RFC 9293 figure 8).
            self._phase = _SYN_RECEIVED
            self._send.rewind_syn()

    def _in_syn_received(self, segment: Segment, now: float) -> None:
        """RFC 9293 s3.10.7.4, the SYN-RECEIVED parts."""
        flags = segment.flags
        start = self._receive.position_of(segment.seq)
        if flags & RST:
            if start == 1:
                self._end(Reset(ResetReason.RESET_BY_PEER))
            return
        if flags & SYN and start == 0 and not (flags & ACK and self._send.position_of(segment.ack) == 1):
            # The peer did not hear our SYN-ACK: again, without waiting for the timer.
            self._send.rewind_syn()
            return
        if not flags & ACK:
            return
        if self._send.next != 1 or self._send.position_of(segment.ack) != 1:
            if (reply := rst_for(segment)) is not None:
                self._control.append(reply)
            return
        self._send.acknowledge(1, now)
        self._established(segment, now)
        if not flags & SYN:
            self._in_connection(segment, now)

    def _take_syn(self, syn: Segment) -> None:
        """Settle what the two SYNs agree on: sequence numbers, segment size, window shifts, SACK."""
        settings, options = self.settings, syn.options
        self._syn = syn
        shift = 0
        if settings.window_scale and options.window_shift is not None:
            self._shift_out = options.window_shift
            while settings.receive_buffer_bytes >> shift > 0xFFFF:
                shift += 1
        self._receive = ReceiveSide(syn.seq, settings.receive_buffer_bytes, shift, settings.announced_mss)
        # The window of a SYN is not scaled, and data may come before our next segment goes out.
        self._receive.window_field(scaled=False)
        self._send.sack = settings.sack and options.sack_permitted
        self.set_send_mss(settings.send_mss)

    def _established(self, segment: Segment, now: float) -> None:
        self._phase = _OPEN
        self._phase_deadline = None
        self._last_activity = now
        self._window_sequence = self._receive.position_of(segment.seq)
        self._window_acknowledgment = 1
        window = segment.window if segment.flags & SYN else segment.window << self._shift_out
        self._send.max_window = 0
        self._send.set_window(window, now)
        self._events.append(Connected())

    def _in_connection(self, segment: Segment, now: float) -> None:
        """RFC 9293 s3.10.7.4 with RFC 5961, for the states from ESTABLISHED on."""
        seq, _, flags, _, payload, _ = segment
        receive = self._receive
        start = receive.position_of(seq)
        expected = receive.next
        size = len(payload)
        if start != expected and not (
            expected < start < receive.edge or (start < expected < start + size + (flags & FIN))
        ):
            if not flags & RST:
                # What is old came again because our acknowledgment got lost, or it is a probe: say where we are.
                if size:
                    self._acks_due += 1
                else:
                    self._challenge(now)
            return
        if flags & (RST | SYN):
            if flags & RST and start == expected:
                self._end(Reset(ResetReason.RESET_BY_PEER))
            else:
                self._challenge(now)
            return
        if not flags & ACK or not self._take_acknowledgment(start, segment, now):
            self.dropped += 1
            return
        self._last_activity = now
        if size or flags & FIN:
            self._take_data(start, segment, now)
        if self._send.fin_position is not None and self._send.una > self._send.fin_position and receive.finished:
            self._finish(now)

    def _take_acknowledgment(self, start: int, segment: Segment, now: float) -> bool:
        """Take the acknowledgment, window and SACK fields; False if the segment must be dropped for them."""
        send = self._send
        position = send.position_of(segment.ack)
        una = send.una
        if position > send.next or position < una - send.max_window:
            # RFC 5961 s5: an acknowledgment of what was never sent, or far too old, is a forgery or a ghost.
            self._challenge(now)
            return False
        window = segment.window << self._shift_out
        if position > una:
            send.acknowledge(position, now)
        elif position < una:
            return True
        elif window == send.window and not segment.payload and not segment.flags & FIN:
            send.duplicate(now)
        if segment.options.sack_blocks and send.sack:
            send.selective(segment.options.sack_blocks, now)
        if self._window_sequence < start or (
            self._window_sequence == start and self._window_acknowledgment <= position
        ):
            self._window_sequence = start
            self._window_acknowledgment = position
            send.set_window(window, now)
        if send.persist_at is not None or not window:
            send.last_progress_at = now
        return True

    def _take_data(self, start: int, segment: Segment, now: float) -> None:
        receive = self._receive
        had_gap = receive.out_of_order
        advanced = receive.receive(start, segment.payload, bool(segment.flags & FIN))
        if had_gap or not advanced or receive.finished or self._quick_acks:
            # RFC 5681 s4.2: at once when out of order or when a gap closes.
            self._acks_due += 1
            if self._quick_acks:
                self._quick_acks -= 1
            return
        self._unacknowledged += 1
        if self._unacknowledged >= 2:
            self._acks_due += 1
        elif self._ack_at is None:
            self._ack_at = now + self.settings.delayed_ack_s

    def _in_time_wait(self, segment: Segment, now: float) -> None:
        """RFC 9293 s3.10.7.4: only a retransmitted FIN means anything; a reset is ignored (RFC 1337)."""
        if segment.flags & FIN:
            self._acks_due = 1
            self._phase_deadline = now + self.settings.time_wait_s
        elif not segment.flags & RST and segment.payload:
            self._challenge(now)

    def _challenge(self, now: float) -> None:
        """Answer a doubtful segment with where we are, not too often (RFC 5961 s7)."""
        self.dropped += 1
        if now - self._challenge_at >= _CHALLENGE_INTERVAL_S:
            self._challenge_at = now
            self.challenge_acks += 1
            self._acks_due = self._acks_due or 1

    def _finish(self, now: float) -> None:
        if self._fin_first:
            self._phase = _TIME_WAIT
            self._phase_deadline = now + self.settings.time_wait_s
        else:
            self._end(Closed())

    def _end(self, event: Event) -> None:
        if self._phase != _CLOSED:
            self._phase = _CLOSED
            self._events.append(event)

    def may_be_reopened_by(self, syn: Segment) -> bool:
        """Say whether a SYN may start a new connection in place of this one, in TIME-WAIT (RFC 9293 s3.10.7.4)."""
        return self._phase == _CLOSED or (
            self._phase == _TIME_WAIT and self._receive.position_of(syn.seq) >= self._receive.next
        )

    # -- output --------------------------------------------------------------------------------------------------------

    def segments_to_send(self, now: float, limit: int = 64) -> list[Segment]:
        """Return up to about `limit` segments to send now; call again if it came back full."""
        out = self._control
        if out:
            self._control = []
        else:
            out = []
        if self._phase == _OPEN or self._phase == _SYN_SENT or self._phase == _SYN_RECEIVED:
            send = self._send
            while len(out) < limit:
                transmission = send.next_transmission(now)
                if transmission is None:
                    break
                out.append(self._segment(transmission))
        if self._acks_due and self._phase < _CLOSED:
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
        sequence = (send.initial_sequence + start) & _MASK
        return Segment(sequence, receive.sequence, flags, receive.window_field(), payload)

    def _syn_segment(self) -> Segment:
        settings = self.settings
        offered = self._syn.options if self._syn is not None else None
        shift: int | None = None
        if settings.window_scale and (offered is None or offered.window_shift is not None):
            shift = 0
            while settings.receive_buffer_bytes >> shift > 0xFFFF:
                shift += 1
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
        sequence = (send.initial_sequence + send.next) & _MASK
        segment = Segment(sequence, receive.sequence, ACK, receive.window_field(), b"", options)
        # A peer without SACK counts duplicate acknowledgments, so each stray segment must cause one (RFC 5681 s4.2).
        copies = min(self._acks_due, _MAX_DUPLICATE_ACKS) if receive.out_of_order and not send.sack else 1
        out.extend([segment] * copies)
        self._acks_due = 0
        self._unacknowledged = 0
        self._ack_at = None

    # -- time ----------------------------------------------------------------------------------------------------------

    def get_timer(self) -> float | None:
        """Return when `handle_timer` is due, in monotonic seconds; None when closed."""
        if self._phase == _CLOSED:
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
        if self._phase == _CLOSED:
            return
        if self._phase_deadline is not None and now >= self._phase_deadline:
            self._end(Closed()) if self._phase == _TIME_WAIT else self._break(ResetReason.TIMED_OUT)
            return
        if self._phase == _OPEN and now >= self._last_activity + self.settings.idle_s:
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
        sequence = (send.initial_sequence + send.una - 1) & _MASK
        self._control.append(Segment(sequence, self._receive.sequence, ACK, self._receive.window_field()))

    def _break(self, reason: ResetReason) -> None:
        self.abort()
        self._events[-1] = Reset(reason)


_PHASE_STATES: Final = {
    _HELD: TcpState.SYN_RECEIVED,
    _SYN_SENT: TcpState.SYN_SENT,
    _SYN_RECEIVED: TcpState.SYN_RECEIVED,
    _TIME_WAIT: TcpState.TIME_WAIT,
    _CLOSED: TcpState.CLOSED,
}
