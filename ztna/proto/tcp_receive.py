"""The receiving half of a TCP connection: reassembly, the window offered, and what to acknowledge.

Positions are plain growing integers, 0 being the peer's SYN and 1 its first byte; only `position_of` and the
endpoint's output know 32-bit sequence numbers. Bytes go to the application as soon as they are in order; the window
shrinks by what the application has not consumed yet, which is how back-pressure reaches the peer.
"""

from bisect import bisect_left, bisect_right
from typing import Final

__all__ = ["ReceiveSide"]

# One stored piece costs about 150 bytes whatever it holds, so pieces are bounded apart from bytes.
MAX_PIECES: Final = 1024
MAX_SACK_BLOCKS: Final = 3
_MASK: Final = 0xFFFFFFFF
_HALF: Final = 0x80000000


class ReceiveSide:
    """Positions and buffers of what the peer sends."""

    __slots__ = (
        "_chunks",
        "_latest",
        "_least_gain",
        "_pieces",
        "_ranges",
        "buffer_bytes",
        "dropped_pieces",
        "edge",
        "fin_position",
        "finished",
        "initial_sequence",
        "next",
        "shift",
        "unconsumed",
    )

    def __init__(self, initial_sequence: int, buffer_bytes: int, shift: int, least_gain: int) -> None:
        self.initial_sequence = initial_sequence
        self.buffer_bytes = buffer_bytes
        self.shift = shift
        self.next = 1
        self.unconsumed = 0
        self.fin_position: int | None = None
        self.finished = False
        self.dropped_pieces = 0
        # The first position beyond the window last offered.
        self.edge = 1
        self._least_gain = least_gain
        self._chunks: list[bytes | bytearray] = []
        self._pieces: dict[int, bytes | bytearray] = {}
        self._ranges: list[list[int]] = []
        self._latest = 0

    def position_of(self, sequence: int) -> int:
        """Return the position nearest to what is expected next that has this sequence number (RFC 9293 s3.4)."""
        distance = (sequence - self.initial_sequence - self.next) & _MASK
        return self.next + (distance if distance < _HALF else distance - (_HALF << 1))

    @property
    def sequence(self) -> int:
        """The acknowledgment number: the sequence number expected next."""
        return (self.initial_sequence + self.next) & _MASK

    def window_field(self, scaled: bool = True) -> int:
        """Return the window as it goes into the header, and remember the edge it offers.

        The edge never moves back, and moves forward by a segment or half the buffer at least (RFC 9293 s3.8.6.2.2).
        """
        free_edge = self.next + self.buffer_bytes - self.unconsumed
        gain = free_edge - self.edge
        if gain > 0 and (gain >= self._least_gain or gain * 2 >= self.buffer_bytes):
            self.edge = free_edge
        shift = self.shift if scaled else 0
        window = (self.edge - self.next) >> shift
        if window > 0xFFFF:
            self.edge = self.next + (0xFFFF << shift)
            return 0xFFFF
        return window

    def window_update_due(self) -> bool:
        """Whether the application has freed so much that the peer should hear of it (RFC 9293 s3.8.6.2.2)."""
        gain = self.next + self.buffer_bytes - self.unconsumed - self.edge
        if gain < self._least_gain and gain * 2 < self.buffer_bytes:
            return False
        return gain * 4 >= self.buffer_bytes or self.edge - self.next < 2 * self._least_gain

    @property
    def out_of_order(self) -> bool:
        """Whether bytes wait for a gap before them."""
        return bool(self._ranges)

    def take(self) -> bytes:
        """Return the bytes that became ready for the application since the last call."""
        chunks = self._chunks
        if not chunks:
            return b""
        data = bytes(chunks[0]) if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        return data

    def receive(self, start: int, data: bytes | bytearray, fin: bool) -> bool:
        """Take the data of one acceptable segment; returns whether it advanced the position expected next.

        Bytes outside the window are cut off, bytes already here are kept as they first came. A FIN beyond the window,
        or one that contradicts an earlier FIN, is ignored.
        """
        end = start + len(data)
        edge = self.edge
        if fin and self.fin_position is None and end <= edge and not (self._ranges and self._ranges[-1][1] > end):
            self.fin_position = end
        limit = edge if self.fin_position is None else min(edge, self.fin_position)
        if end > limit:
            data = data[: max(limit - start, 0)]
            end = start + len(data)
        if start < self.next:
            data = data[self.next - start :]
            start = self.next
        before = self.next
        if start == before:
            if data:
                self._append(data)
                if self._ranges:
                    self._drain()
        elif data:
            self._keep(start, end, data)
        if self.next == self.fin_position and not self.finished:
            self.finished = True
            self.next += 1
        return self.next != before

    def _append(self, data: bytes | bytearray) -> None:
        self._chunks.append(data)
        self.next += len(data)
        self.unconsumed += len(data)

    def _drain(self) -> None:
        """Move what has become contiguous from the pieces to the application."""
        pieces, ranges = self._pieces, self._ranges
        while ranges and ranges[0][0] <= self.next:
            low, high = ranges.pop(0)
            if low == self.next:
                # The pieces of a range touch, so each starts where the one before it ended.
                while self.next < high:
                    self._append(pieces.pop(self.next))
                continue
            for start in sorted(start for start in pieces if start < high):
                piece = pieces.pop(start)
                skip = self.next - start
                if skip < len(piece):
                    self._append(piece[skip:])

    def _keep(self, start: int, end: int, data: bytes | bytearray) -> None:
        """Store the parts of [start, end) that are not here yet and merge the ranges (RFC 9293 s3.10.7.4)."""
        if len(self._pieces) >= MAX_PIECES:
            self.dropped_pieces += 1
            return
        ranges = self._ranges
        first = bisect_left(ranges, start, key=lambda r: r[1])
        last = bisect_right(ranges, end, key=lambda r: r[0])
        at = start
        for low, high in ranges[first:last]:
            if at < low:
                self._pieces[at] = data[at - start : low - start]
            at = max(at, high)
        if at < end:
            self._pieces[at] = data[at - start :] if at > start else data
        merged = [start, end]
        if first < last:
            merged = [min(start, ranges[first][0]), max(end, ranges[last - 1][1])]
        ranges[first:last] = [merged]
        self._latest = merged[0]

    def sack_blocks(self) -> tuple[tuple[int, int], ...]:
        """Return the SACK blocks of the next acknowledgment, the latest first (RFC 2018 s4)."""
        ranges = self._ranges
        if not ranges:
            return ()
        index = max(bisect_right(ranges, self._latest, key=lambda r: r[0]) - 1, 0)
        chosen = [ranges[index], *ranges[:index], *ranges[index + 1 :]][:MAX_SACK_BLOCKS]
        base = self.initial_sequence
        return tuple(((base + low) & _MASK, (base + high) & _MASK) for low, high in chosen)
