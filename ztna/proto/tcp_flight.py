"""What one TCP connection has in the network: its transmissions, and which of them were lost.

Every transmission gets the next number of one count, and a transmission is lost once three later ones were delivered:
the duplicate threshold of RFC 5681 s3.2 applied to transmissions, so that it finds lost retransmissions too (the idea
of RFC 8985 and RFC 9002 s6.1.1).
"""

from heapq import heappop, heappush
from typing import Final

__all__ = ["DUPLICATE_THRESHOLD", "Flight", "Transmission"]

DUPLICATE_THRESHOLD: Final = 3


class Transmission:
    """A run of sequence space sent as one segment: [start, end), when, and what became of it."""

    __slots__ = ("delivered", "end", "lost", "order", "retransmitted", "sent_at", "start")

    def __init__(self, start: int, end: int, sent_at: float) -> None:
        self.start = start
        self.end = end
        self.order = -1
        self.sent_at = sent_at
        self.retransmitted = False
        self.delivered = False
        self.lost = False


class Flight:
    """All unacknowledged transmissions by their start; each is in the network, delivered (by SACK), or lost.

    `bytes` counts those in the network.
    """

    __slots__ = ("_delivered_order", "_lost", "_oldest_order", "_order", "_sent", "bytes", "records")

    def __init__(self) -> None:
        self.records: dict[int, Transmission] = {}
        self.bytes = 0
        self._sent: dict[int, Transmission] = {}
        # A heap of starts; an entry whose record is no longer lost is stale and is skipped.
        self._lost: list[int] = []
        self._order = 0
        self._oldest_order = 0
        self._delivered_order = -1

    def __len__(self) -> int:
        """Transmissions in the network."""
        return len(self._sent)

    def enter(self, record: Transmission, now: float) -> None:
        """Put a transmission into the network, for the first time or again."""
        order = self._order
        self._order = order + 1
        if not self._sent:
            self._oldest_order = order
        record.order = order
        record.sent_at = now
        record.lost = False
        self.records[record.start] = record
        self._sent[order] = record
        self.bytes += record.end - record.start

    def first_lost(self) -> Transmission | None:
        """Return the lost transmission to send again first."""
        lost = self._lost
        while lost:
            record = self.records.get(lost[0])
            if record is not None and record.lost:
                return record
            heappop(lost)
        return None

    def delivered(self, record: Transmission, now: float, least_round_trip_s: float) -> None:
        """Take a transmission out of the network because it arrived."""
        if self._sent.pop(record.order, None) is not None:
            self.bytes -= record.end - record.start
        record.lost = False
        # Sooner than any round trip after a retransmission, it is the first transmission that arrived (RFC 8985 s6.2).
        if record.order > self._delivered_order and (
            not record.retransmitted or now - record.sent_at >= least_round_trip_s
        ):
            self._delivered_order = record.order

    def lose(self, record: Transmission) -> None:
        """Take a transmission out of the network because it is lost."""
        if self._sent.pop(record.order, None) is not None:
            self.bytes -= record.end - record.start
        record.lost = True
        heappush(self._lost, record.start)

    def lose_overtaken(self) -> bool:
        """Lose the transmissions overtaken by enough delivered ones; returns whether there were any."""
        limit = self._delivered_order - DUPLICATE_THRESHOLD
        if self._oldest_order > limit:
            return False
        found = False
        for order in range(self._oldest_order, limit + 1):
            record = self._sent.get(order)
            if record is not None:
                self.lose(record)
                found = True
        self._oldest_order = limit + 1
        return found

    def lose_all(self, una: int) -> None:
        """Lose everything in the network, as at a time-out."""
        head = self.records.get(una)
        if head is not None and head.delivered:
            # The peer threw away what it had selectively acknowledged (RFC 2018 s8).
            for record in self.records.values():
                if record.delivered:
                    record.delivered = False
                    self.lose(record)
        for record in list(self._sent.values()):
            self.lose(record)

    def take_latest(self) -> Transmission | None:
        """Take the transmission sent last out of the network, to send it again."""
        if not self._sent:
            return None
        record = self._sent.pop(max(self._sent))
        self.bytes -= record.end - record.start
        return record

    def split(self, record: Transmission, size: int) -> None:
        """Cut a lost record to `size`; the rest waits its turn among the lost."""
        rest = Transmission(record.start + size, record.end, record.sent_at)
        rest.retransmitted = True
        record.end = rest.start
        self.records[rest.start] = rest
        self.lose(rest)

    def shorten(self, record: Transmission, start: int) -> None:
        """Enter what is left of a transmission of which the part before `start` was acknowledged."""
        if record.order in self._sent:
            self.bytes -= start - record.start
        record.start = start
        self.records[start] = record
        if record.lost:
            heappush(self._lost, start)

    def starts_between(self, low: int, high: int) -> list[int]:
        """Return the starts of transmissions strictly between two positions, in order."""
        return sorted(start for start in self.records if low < start < high)
