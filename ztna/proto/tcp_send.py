"""The sending half of a TCP connection: what is unacknowledged and what may be sent now.

Positions are plain growing integers, 0 being our SYN, 1 the first byte and the position after the last byte our FIN.
Losses are found by `tcp_flight`; without SACK, duplicate acknowledgments stand in for deliveries (RFC 6582). The tail
of a flight, which has no later segments, is probed once before the time-out (RFC 8985 s7).
"""

from typing import Final

from ztna.proto.tcp_congestion import Congestion, RoundTrip
from ztna.proto.tcp_flight import DUPLICATE_THRESHOLD, Flight, Transmission

__all__ = ["SendSide"]

MIN_PROBE_S: Final = 0.01
DELAYED_ACK_ALLOWANCE_S: Final = 0.05
# More SACK ranges than this are not remembered but looked up again.
MAX_SACK_EDGES: Final = 256
_MASK: Final = 0xFFFFFFFF
_HALF: Final = 0x80000000


class SendSide:
    """Buffer, scoreboard and timers of what we send."""

    __slots__ = (
        "_buffer",
        "_duplicates",
        "_flight",
        "_probe_position",
        "_probe_resent_at",
        "_repair_now",
        "_round_trip",
        "_sack_edges",
        "congestion",
        "fin_position",
        "initial_sequence",
        "last_progress_at",
        "last_sent_at",
        "max_window",
        "mss",
        "next",
        "persist_at",
        "probe_at",
        "retransmissions",
        "rto_at",
        "sack",
        "una",
        "window",
        "window_edge",
    )

    def __init__(self, initial_sequence: int, mss: int, round_trip: RoundTrip, max_window_bytes: int) -> None:
        self.initial_sequence = initial_sequence
        self.mss = mss
        self.sack = False
        self.una = 0
        self.next = 0
        self.window = 1
        # The first position beyond what the peer offered.
        self.window_edge = 1
        self.max_window = 1
        self.fin_position: int | None = None
        self.congestion = Congestion(mss, max_window_bytes)
        self.rto_at: float | None = None
        self.probe_at: float | None = None
        self.persist_at: float | None = None
        self.last_progress_at = 0.0
        self.last_sent_at = 0.0
        self.retransmissions = 0
        self._round_trip = round_trip
        self._buffer = bytearray()
        self._flight = Flight()
        self._duplicates = 0
        self._sack_edges: dict[int, int] = {}
        self._probe_position: int | None = None
        self._probe_resent_at: float | None = None
        # The first repair of a recovery does not wait for the halved window (RFC 5681 s3.2 step 3).
        self._repair_now = False

    # -- buffer ------------------------------------------------------------------------------------------------------

    def position_of(self, sequence: int) -> int:
        """Return the position nearest to the oldest unacknowledged one that has this sequence number."""
        distance = (sequence - self.initial_sequence - self.una) & _MASK
        return self.una + (distance if distance < _HALF else distance - (_HALF << 1))

    @property
    def buffered_bytes(self) -> int:
        """Bytes written and not acknowledged yet."""
        return len(self._buffer)

    @property
    def end(self) -> int:
        """The position after everything there is to send."""
        if self.fin_position is not None:
            return self.fin_position + 1
        return (self.una or 1) + len(self._buffer)

    def write(self, data: bytes) -> None:
        """Append data to the buffer."""
        self._buffer += data

    def close(self) -> None:
        """Put the FIN behind the last byte written."""
        if self.fin_position is None:
            self.fin_position = (self.una or 1) + len(self._buffer)

    def slice(self, start: int, end: int) -> bytearray:
        """Return the payload bytes of positions [start, end), SYN and FIN left out."""
        base = self.una or 1
        return self._buffer[max(start, 1) - base : end - base]

    def set_mss(self, mss: int) -> None:
        """Set the largest payload; larger segments already sent are split should they be sent again."""
        self.mss = mss
        self.congestion.set_mss(mss)

    # -- sending -----------------------------------------------------------------------------------------------------

    def next_transmission(self, now: float, force: bool = False) -> Transmission | None:
        """Return what to send now, retransmissions first, already entered in the books; None if nothing may go.

        `force` sends as little as the window allows, which otherwise waits for a wider one.
        """
        flight = self._flight
        record = flight.first_lost()
        if record is None:
            return self._send_new(now, force)
        over = self._pipe() + record.end - record.start > self.congestion.window and flight.bytes
        if over and not self._repair_now:
            return None
        self._repair_now = False
        return self._resend(record, now)

    def _resend(self, record: Transmission, now: float) -> Transmission:
        if record.end - record.start > self.mss and record.start:
            self._flight.split(record, self.mss)
        record.retransmitted = True
        self.retransmissions += 1
        self._enter_flight(record, now)
        return record

    def _send_new(self, now: float, force: bool) -> Transmission | None:
        start = self.next
        # The SYN goes alone; data follows once it is acknowledged.
        available = (self.end if self.una else 1) - start
        if available <= 0:
            return None
        size = min(self.mss, available)
        usable = self.window_edge - start
        if size > usable:
            # Sender's silly window avoidance: a part only if it is half of the largest window ever offered, else wait
            # for the window to open, watched by the persist timer (RFC 9293 s3.8.6.2.1).
            if usable <= 0 or (usable < self.max_window // 2 and not force):
                self._watch_window(now)
                return None
            size = usable
        if self._pipe() + size > self.congestion.window and self._flight.bytes:
            return None
        if not self._flight.records and now - self.last_sent_at > self._round_trip.rto:
            self.congestion.restart_after_idle()
        self.persist_at = None
        return self._send_size(size, now)

    def _send_size(self, size: int, now: float) -> Transmission:
        record = Transmission(self.next, self.next + size, now)
        self.next = record.end
        self._enter_flight(record, now)
        return record

    def _enter_flight(self, record: Transmission, now: float) -> None:
        self._flight.enter(record, now)
        self.last_sent_at = now
        if self.rto_at is None:
            self.rto_at = now + self._round_trip.rto
            self.last_progress_at = now
        self._arm_probe(now)

    def _pipe(self) -> int:
        """Bytes thought to be in the network (RFC 6675 s4)."""
        if self._duplicates:
            return max(self._flight.bytes - self._duplicates * self.mss, 0)
        return self._flight.bytes

    def _watch_window(self, now: float) -> None:
        if not self._flight.records and self.persist_at is None:
            self.persist_at = now + self._round_trip.rto
            self.last_progress_at = now

    @property
    def sequence_to_acknowledge_with(self) -> int:
        """The sequence number of a segment without data: the next one, unless a shrunken window excludes it."""
        return (self.initial_sequence + max(min(self.next, self.window_edge), self.una)) & _MASK

    def rewind_syn(self) -> None:
        """Have the SYN sent again at once, if it is out and unacknowledged."""
        record = self._flight.records.get(0)
        if record is not None and not record.lost:
            self._flight.lose(record)

    # -- acknowledgments ---------------------------------------------------------------------------------------------

    def set_window(self, position: int, window_bytes: int) -> None:
        """Take the window the peer offers behind the position it acknowledged.

        Kept as an edge: an acknowledgment that moves `una` without being the latest word on the window must not move
        what may be sent.
        """
        self.window = window_bytes
        self.window_edge = position + window_bytes
        if window_bytes > self.max_window:
            self.max_window = window_bytes
        if window_bytes and self.persist_at is not None:
            # Whether the new window is enough is decided when sending; if not, the timer is set anew.
            self.persist_at = None
            self._round_trip.progress()

    def acknowledge(self, position: int, now: float) -> None:
        """Take a cumulative acknowledgment of everything before `position` (una < position <= next)."""
        round_trip, flight = self._round_trip, self._flight
        records = flight.records
        limited = flight.bytes * 2 >= self.congestion.window
        una = self.una
        count = position - una
        sample = -1.0
        ambiguous = False
        at = una
        while at < position:
            record = records.pop(at, None)
            if record is None:
                break
            if record.end > position:
                # The peer acknowledged part of a segment.
                flight.shorten(record, position)
                break
            at = record.end
            if not record.delivered:
                # What a time-out gave up and what then turns out to have arrived measures our timer, not the path.
                ambiguous = ambiguous or record.retransmitted or record.lost
                flight.delivered(record, now, round_trip.minimum)
                sample = now - record.sent_at
        # Segments behind a hole are acknowledged only when it is filled, which says nothing of the path (Karn's rule).
        if sample >= 0 and not ambiguous:
            round_trip.sample(sample)
        round_trip.progress()
        base = una or 1
        data = min(position, self.fin_position) - base if self.fin_position is not None else position - base
        if data > 0:
            del self._buffer[:data]
        self.una = position
        if self._sack_edges:
            self._sack_edges = {low: high for low, high in self._sack_edges.items() if high > position}
        self.last_progress_at = now
        self._duplicates = max(self._duplicates - count // self.mss, 0) if self._duplicates else 0
        if self._probe_position is not None:
            self._judge_probe(position, una, now)
        if self._duplicates and self.congestion.state == Congestion.RECOVERY and position < self.congestion.recover:
            self._mark_head_lost()
        self.congestion.acknowledged(count, position, limited)
        if self.congestion.state == Congestion.OPEN:
            self._duplicates = 0
        self._find_lost()
        self._arm(now)

    def selective(self, blocks: tuple[tuple[int, int], ...], now: float) -> None:
        """Take SACK blocks given as sequence numbers (RFC 2018, RFC 6675 s4); nonsense is ignored."""
        edges = self._sack_edges
        news = False
        for low_sequence, high_sequence in blocks:
            low, high = self.position_of(low_sequence), self.position_of(high_sequence)
            if low < self.una or high > self.next or low >= high:
                continue
            at = edges.get(low, low)
            if at >= high:
                continue
            if len(edges) < MAX_SACK_EDGES:
                edges[low] = high
            news = self._select(at, high, now) or news
        if news:
            self._find_lost()
            self._arm_probe(now)

    def _select(self, low: int, high: int, now: float) -> bool:
        news = False
        flight = self._flight
        records = flight.records
        record = records.get(low)
        if record is None:
            candidates = flight.starts_between(low, high)
            if not candidates:
                return False
            record = records[candidates[0]]
        while record is not None and record.end <= high:
            if not record.delivered:
                if not record.retransmitted and not record.lost:
                    self._round_trip.sample(now - record.sent_at)
                flight.delivered(record, now, self._round_trip.minimum)
                record.delivered = True
                news = True
            record = records.get(record.end)
        return news

    def duplicate(self, now: float) -> None:
        """Take a duplicate acknowledgment (RFC 5681 s2) of a peer without SACK."""
        if self.sack or not self._flight.records:
            return
        self._duplicates += 1
        enough = self._duplicates == DUPLICATE_THRESHOLD and self.congestion.state == Congestion.OPEN
        if enough and self._mark_head_lost():
            self._enter_recovery()

    def _mark_head_lost(self) -> bool:
        record = self._flight.records.get(self.una)
        if record is None or record.lost or record.delivered:
            return False
        if record.retransmitted and record.start < self.congestion.recover and self.congestion.state != Congestion.OPEN:
            return False
        self._flight.lose(record)
        return True

    def _find_lost(self) -> None:
        if self._flight.lose_overtaken():
            self._enter_recovery()

    def _enter_recovery(self) -> None:
        self._repair_now = self.congestion.state == Congestion.OPEN
        self.congestion.lost(self.next - self.una, self.next)

    # -- timers ------------------------------------------------------------------------------------------------------

    def _arm(self, now: float) -> None:
        if self._flight.records:
            self.rto_at = now + self._round_trip.rto
            self._arm_probe(now)
        else:
            self.rto_at = self.probe_at = None

    def _arm_probe(self, now: float) -> None:
        """Set the tail loss probe: two round trips after the latest transmission (RFC 8985 s7.2)."""
        smoothed = self._round_trip.smoothed
        if not self.sack or smoothed is None or self._probe_position is not None or self.congestion.state:
            self.probe_at = None
            return
        wait = 2 * smoothed
        if len(self._flight) == 1:
            wait += DELAYED_ACK_ALLOWANCE_S
        self.probe_at = now + (wait if wait > MIN_PROBE_S else MIN_PROBE_S)

    def probe_due(self, now: float) -> Transmission | None:
        """The probe timer fired: send one new segment if that is allowed, else the last one again."""
        self.probe_at = None
        flight = self._flight
        if not len(flight):
            return None
        self._probe_position = self.next
        self.rto_at = now + self._round_trip.rto
        size = min(self.mss, self.end - self.next)
        if size and flight.first_lost() is None and self.next + size <= self.window_edge:
            return self._send_size(size, now)
        last = flight.take_latest()
        if last is None:
            return None
        self._probe_resent_at = now
        return self._resend(last, now)

    def _judge_probe(self, position: int, una: int, now: float) -> None:
        """A probe that was needed hid a loss from the congestion window: make the reduction up (RFC 8985 s7.4)."""
        if self._probe_position is None or position < self._probe_position:
            return
        resent_at = self._probe_resent_at
        self._probe_position = self._probe_resent_at = None
        if resent_at is not None and now - resent_at >= self._round_trip.minimum:
            self.congestion.lost(self.next - una, self.next)

    def rto_due(self, now: float) -> None:
        """The retransmission timer fired: everything in flight counts as lost (RFC 6298 s5.4 to s5.6)."""
        head = self._flight.records.get(self.una)
        first_time = head is None or not head.retransmitted
        self._flight.lose_all(self.una)
        self._duplicates = 0
        self._sack_edges.clear()
        self._probe_position = self._probe_resent_at = None
        self.probe_at = None
        self.congestion.timed_out(self.next - self.una, self.next, first_time)
        self._round_trip.back_off()
        self.rto_at = now + self._round_trip.rto

    def persist_due(self, now: float) -> None:
        """The persist timer fired and a window probe goes out: wait longer for the next (RFC 9293 s3.8.6.1)."""
        self._round_trip.back_off()
        self.persist_at = now + self._round_trip.rto
