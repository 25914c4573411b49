"""How arriving segments change a TCP connection: the half of the endpoint that RFC 9293 s3.10.7 describes.

Here are the connection's variables and what segments do to them; `tcp` adds what the application and the clock do, and
what goes out.
"""

from collections import deque
from typing import Final

from ztna.proto.tcp_congestion import RoundTrip
from ztna.proto.tcp_receive import ReceiveSide
from ztna.proto.tcp_segment import ACK, FIN, RST, SYN, Segment, rst_for
from ztna.proto.tcp_send import SendSide
from ztna.proto.tcp_types import Closed, Connected, Event, Reset, ResetReason, TcpSettings

__all__ = ["Connection", "Phase", "window_shift"]

DEFAULT_MSS: Final = 536
MIN_MSS: Final = 64
SEQUENCE_MASK: Final = 0xFFFFFFFF
# At the start every segment is acknowledged at once, for the peer's congestion window grows by acknowledgments.
_QUICK_ACKS: Final = 16
_CHALLENGE_INTERVAL_S: Final = 0.05


class Phase:
    """What decides how a segment is taken; the RFC's states after the handshake follow from the two FINs.

    Plain integers in the order of a connection's life, for they are compared with every segment.
    """

    HELD: Final = 0
    SYN_SENT: Final = 1
    SYN_RECEIVED: Final = 2
    OPEN: Final = 3
    TIME_WAIT: Final = 4
    CLOSED: Final = 5


def window_shift(buffer_bytes: int) -> int:
    """Return the window scale a receive buffer needs (RFC 7323 s2.2)."""
    shift = 0
    while buffer_bytes >> shift > 0xFFFF:
        shift += 1
    return shift


class Connection:
    """The variables of one connection and the arrival of its segments.

    `challenge_acks` and `dropped` count segments answered with, or dropped for, where we are.
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
        self._send = SendSide(
            initial_sequence & SEQUENCE_MASK, settings.send_mss, round_trip, 2 * settings.send_buffer_bytes
        )
        self._receive = ReceiveSide(0, settings.receive_buffer_bytes, 0, settings.announced_mss)
        self._phase = Phase.SYN_SENT
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

    def set_send_mss(self, size_bytes: int) -> None:
        """Lower or raise the path's part of the segment size; the peer's part stays in force."""
        peer = self._syn.options.mss if self._syn is not None else None
        self._send.set_mss(max(min(size_bytes, peer or DEFAULT_MSS), MIN_MSS))

    # -- the network's side --------------------------------------------------------------------------------------------

    def segment_received(self, segment: Segment, now: float) -> None:
        """Take one segment of this connection, its checksum already verified. Source: RFC 9293 s3.10.7."""
        phase = self._phase
        if phase == Phase.OPEN:
            self._in_connection(segment, now)
        elif phase == Phase.SYN_SENT:
            self._in_syn_sent(segment, now)
        elif phase == Phase.SYN_RECEIVED:
            self._in_syn_received(segment, now)
        elif phase == Phase.HELD:
            self._while_held(segment)
        elif phase == Phase.TIME_WAIT:
            self._in_time_wait(segment, now)
        elif (reply := rst_for(segment)) is not None:
            self._control.append(reply)

    def _while_held(self, segment: Segment) -> None:
        if segment.flags & RST and self._receive.position_of(segment.seq) == 1:
            self._end(Reset(ResetReason.RESET_BY_PEER))

    def _in_syn_sent(self, segment: Segment, now: float) -> None:
        """RFC 9293 s3.10.7.3."""
        flags = segment.flags
        acceptable = (
            flags & ACK and segment.ack == (self._send.initial_sequence + 1) & SEQUENCE_MASK and self._send.next == 1
        )
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
            self._phase = Phase.SYN_RECEIVED
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
            shift = window_shift(settings.receive_buffer_bytes)
        self._receive = ReceiveSide(syn.seq, settings.receive_buffer_bytes, shift, settings.announced_mss)
        # The window of a SYN is not scaled, and data may come before our next segment goes out.
        self._receive.window_field(scaled=False)
        self._send.sack = settings.sack and options.sack_permitted
        self.set_send_mss(settings.send_mss)

    def _established(self, segment: Segment, now: float) -> None:
        self._phase = Phase.OPEN
        self._phase_deadline = None
        self._last_activity = now
        self._window_sequence = self._receive.position_of(segment.seq)
        self._window_acknowledgment = 1
        window = segment.window if segment.flags & SYN else segment.window << self._shift_out
        self._send.max_window = 0
        self._send.set_window(1, window)
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
        if (
            position > una
            or self._window_sequence < start
            or (self._window_sequence == start and self._window_acknowledgment <= position)
        ):
            self._window_sequence = start
            self._window_acknowledgment = position
            send.set_window(position, window)
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
            self._phase = Phase.TIME_WAIT
            self._phase_deadline = now + self.settings.time_wait_s
        else:
            self._end(Closed())

    def _end(self, event: Event) -> None:
        if self._phase != Phase.CLOSED:
            self._phase = Phase.CLOSED
            self._events.append(event)

    def may_be_reopened_by(self, syn: Segment) -> bool:
        """Say whether a SYN may start a new connection in place of this one, in TIME-WAIT (RFC 9293 s3.10.7.4)."""
        return self._phase == Phase.CLOSED or (
            self._phase == Phase.TIME_WAIT and self._receive.position_of(syn.seq) >= self._receive.next
        )
