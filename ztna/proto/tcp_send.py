"""The sending half of a TCP connection: what is unacknowledged, what was lost, what may be sent now.

Positions are plain growing integers, 0 being our SYN, 1 the first byte and the position after the last byte our FIN.
Every transmission gets the next number of one count, and a transmission is lost once three later ones were delivered:
the duplicate threshold of RFC 5681 s3.2 applied to transmissions, so that it finds lost retransmissions too (the idea
of RFC 8985 and RFC 9002 s6.1.1). Without SACK, duplicate acknowledgments stand in for deliveries (RFC 6582). The tail
of a flight, which has no later segments, is probed once before the time-out (RFC 8985 s7).
"""

from heapq import heappop, heappush
from typing import Final

from ztna.proto.tcp_congestion import Congestion, RoundTrip

__all__ = ["SendSide", "Transmission"]

DUPLICATE_THRESHOLD: Final = 3
MIN_PROBE_S: Final = 0.01
DELAYED_ACK_ALLOWANCE_S: Final = 0.05
_MASK: Final = 0xFFFFFFFF
_HALF: Final = 0x80000000


class Transmission:
    """A run of sequence space sent as one segment: [start, end), when, and what became of it."""

    __slots__ = ("delivered", "end", "lost", "order", "retransmitted", "sent_at", "start")

    def __init__(self, start: int, end: int, order: int, sent_at: float) -> None:
        self.start = start
        self.end = end
        self.order = order
        self.sent_at = sent_at
        self.retransmitted = False
        self.delivered = False
        self.lost = False


class SendSide:
    """Buffer, scoreboard and timers of what we send."""

    __slots__ = (
        "_buffer",
        "_delivered_order",
        "_duplicates",
        "_flight",
        "_lost",
        "_oldest_order",
        "_order",
        "_probe_position",
        "_probe_resent_at",
        "_records",
        "_round_trip",
        "_sack_edges",
        "congestion",
        "fin_position",
        "in_flight_bytes",
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
    )

    def __init__(self, initial_sequence: int, mss: int, round_trip: RoundTrip, max_window_bytes: int) -> None:
        self.initial_sequence = initial_sequence
        self.mss = mss
        self.sack = False
        self.una = 0
        self.next = 0
        self.window = 1
        self.max_window = 1
        self.fin_position: int | None = None
        self.congestion = Congestion(mss, max_window_bytes)
        self.in_flight_bytes = 0
        self.rto_at: float | None = None
        self.probe_at: float | None = None
        self.persist_at: float | None = None
        self.last_progress_at = 0.0
        self.last_sent_at = 0.0
        self.retransmissions = 0
        self._round_trip = round_trip
        self._buffer = bytearray()
        self._records: dict[int, Transmission] = {}
        self._flight: dict[int, Transmission] = {}
        self._lost: list[int] = []
        self._order = 0
        self._oldest_order = 0
        self._delivered_order = -1
        self._duplicates = 0
        self._sack_edges: dict[int, int] = {}
        self._probe_position: int | None = None
        self._probe_resent_at: float | None = None

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
        while self._lost:
            start = self._lost[0]
            record = self._records.get(start)
            if record is None or not record.lost:
                heappop(self._lost)
                continue
            if self._pipe() + record.end - record.start > self.congestion.window and self.in_flight_bytes:
                return None
            heappop(self._lost)
            return self._resend(record, now)
        return self._send_new(now, force)

    def _resend(self, record: Transmission, now: float) -> Transmission:
        if record.end - record.start > self.mss and record.start:
            self._split(record)
        record.lost = False
        record.retransmitted = True
        self.retransmissions += 1
        self._enter_flight(record, now)
        return record

    def _split(self, record: Transmission) -> None:
        """Cut a record down to the present segment size; the rest waits its turn among the lost."""
        rest = Transmission(record.start + self.mss, record.end, record.order, record.sent_at)
        rest.lost = rest.retransmitted = True
        record.end = rest.start
        self._records[rest.start] = rest
        heappush(self._lost, rest.start)

    def _send_new(self, now: float, force: bool) -> Transmission | None:
        start = self.next
        # The SYN goes alone; data follows once it is acknowledged.
        available = (self.end if self.una else 1) - start
        if available <= 0:
            return None
        size = min(self.mss, available)
        usable = self.una + self.window - start
        if size > usable:
            # Sender's silly window avoidance: a part only if it is half of the largest window ever offered, else wait
            # for the window to open, watched by the persist timer (RFC 9293 s3.8.6.2.1).
            if usable <= 0 or (usable < self.max_window // 2 and not force):
                self._watch_window(now)
                return None
            size = usable
        if self._pipe() + size > self.congestion.window and self.in_flight_bytes:
            return None
        if not self._flight and not self._lost and now - self.last_sent_at > self._round_trip.rto:
            self.congestion.restart_after_idle()
        record = Transmission(start, start + size, 0, now)
        self._records[start] = record
        self.next = record.end
        self.persist_at = None
        self._enter_flight(record, now)
        return record

    def _enter_flight(self, record: Transmission, now: float) -> None:
        order = self._order
        self._order = order + 1
        if not self._flight:
            self._oldest_order = order
        record.order = order
        record.sent_at = now
        self._flight[order] = record
        self.in_flight_bytes += record.end - record.start
        self.last_sent_at = now
        if self.rto_at is None:
            self.rto_at = now + self._round_trip.rto
            self.last_progress_at = now
        self._arm_probe(now)

    def _pipe(self) -> int:
        """Bytes thought to be in the network (RFC 6675 s4)."""
        if self._duplicates:
            return max(self.in_flight_bytes - self._duplicates * self.mss, 0)
        return self.in_flight_bytes

    def _watch_window(self, now: float) -> None:
        if not self._records and self.persist_at is None:
            self.persist_at = now + self._round_trip.rto
            self.last_progress_at = now

    def rewind_syn(self) -> None:
        """Have the SYN sent again at once, if it is out and unacknowledged."""
        record = self._records.get(0)
        if record is not None and not record.lost:
            self._lose(record)

    # -- acknowledgments ---------------------------------------------------------------------------------------------

    def set_window(self, window_bytes: int, now: float) -> None:
        """Take the window the peer offers."""
        self.window = window_bytes
        if window_bytes > self.max_window:
            self.max_window = window_bytes
        if window_bytes and self.persist_at is not None:
            # Whether the new window is enough is decided when sending; if not, the timer is set anew.
            self.persist_at = None
            self._round_trip.progress()

    def acknowledge(self, position: int, now: float) -> None:
        """Take a cumulative acknowledgment of everything before `position` (una < position <= next)."""
        round_trip, records = self._round_trip, self._records
        limited = self.in_flight_bytes * 2 >= self.congestion.window
        una = self.una
        count = position - una
        sample = -1.0
        at = una
        while at < position:
            record = records.pop(at, None)
            if record is None or record.end > position:
                self._acknowledge_part(at, position, record)
                break
            at = record.end
            if not record.delivered:
                self._delivered(record, now)
                if not record.retransmitted:
                    sample = now - record.sent_at
        if sample >= 0:
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

    def _acknowledge_part(self, at: int, position: int, record: Transmission | None) -> None:
        """The peer acknowledged part of a segment, as after a path with another segment size: keep the rest."""
        if record is None:
            return
        if record.order in self._flight:
            self.in_flight_bytes -= position - at
        record.start = position
        self._records[position] = record
        if record.lost:
            heappush(self._lost, position)

    def _delivered(self, record: Transmission, now: float) -> None:
        if self._flight.pop(record.order, None) is not None:
            self.in_flight_bytes -= record.end - record.start
        record.lost = False
        # Sooner than any round trip after a retransmission, it is the first transmission that arrived (RFC 8985 s6.2).
        if record.order > self._delivered_order and (
            not record.retransmitted or now - record.sent_at >= self._round_trip.minimum
        ):
            self._delivered_order = record.order

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
            edges[low] = high
            news = self._select(at, high, now) or news
        if news:
            self._find_lost()
            self._arm_probe(now)

    def _select(self, low: int, high: int, now: float) -> bool:
        news = False
        records = self._records
        record = records.get(low)
        if record is None:
            candidates = sorted(start for start in records if low < start < high)
            if not candidates:
                return False
            record = records[candidates[0]]
        while record is not None and record.end <= high:
            if not record.delivered:
                if not record.retransmitted:
                    self._round_trip.sample(now - record.sent_at)
                self._delivered(record, now)
                record.delivered = True
                news = True
            record = records.get(record.end)
        return news

    def duplicate(self, now: float) -> None:
        """Take a duplicate acknowledgment (RFC 5681 s2) of a peer without SACK."""
        if self.sack or not self._records:
            return
        self._duplicates += 1
        enough = self._duplicates == DUPLICATE_THRESHOLD and self.congestion.state == Congestion.OPEN
        if enough and self._mark_head_lost():
            self.congestion.lost(self.next - self.una, self.next)

    def _mark_head_lost(self) -> bool:
        record = self._records.get(self.una)
        if record is None or record.lost or record.delivered:
            return False
        if record.retransmitted and record.start < self.congestion.recover and self.congestion.state != Congestion.OPEN:
            return False
        self._lose(record)
        return True

    def _find_lost(self) -> None:
        """Move transmissions overtaken by enough delivered ones from the flight to the lost."""
        limit = self._delivered_order - DUPLICATE_THRESHOLD
        if self._oldest_order > limit:
            return
        flight = self._flight
        found = False
        for order in range(self._oldest_order, limit + 1):
            record = flight.get(order)
            if record is not None:
                self._lose(record)
                found = True
        self._oldest_order = limit + 1
        if found:
            self.congestion.lost(self.next - self.una, self.next)

    def _lose(self, record: Transmission) -> None:
        if self._flight.pop(record.order, None) is not None:
            self.in_flight_bytes -= record.end - record.start
        record.lost = True
        heappush(self._lost, record.start)

    # -- timers ------------------------------------------------------------------------------------------------------

    def _arm(self, now: float) -> None:
        if self._records:
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
        if not self._flight:
            return None
        self._probe_position = self.next
        if not self._lost and self.next < self.end:
            size = min(self.mss, self.end - self.next)
            if self.next + size <= self.una + self.window:
                record = Transmission(self.next, self.next + size, 0, now)
                self._records[record.start] = record
                self.next = record.end
                self._enter_flight(record, now)
                return record
        last = self._flight.pop(max(self._flight))
        self._probe_resent_at = now
        self.in_flight_bytes -= last.end - last.start
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
        head = self._records.get(self.una)
        if head is not None and head.delivered:
            # The peer threw away what it had selectively acknowledged (RFC 2018 s8).
            for record in self._records.values():
                if record.delivered:
                    record.delivered = False
                    self._lose(record)
        for record in list(self._flight.values()):
            self._lose(record)
        self._duplicates = 0
        self._sack_edges.clear()
        self._probe_position = self._probe_resent_at = None
        self.probe_at = None
        self._oldest_order = self._order
        first_time = head is None or not head.retransmitted
        self.congestion.timed_out(self.next - self.una, self.next, first_time)
        self._round_trip.back_off()
        self.rto_at = now + self._round_trip.rto

    def persist_due(self, now: float) -> None:
        """The persist timer fired and a window probe goes out: wait longer for the next (RFC 9293 s3.8.6.1)."""
        self._round_trip.back_off()
        self.persist_at = now + self._round_trip.rto
