"""IPv4 fragmentation and reassembly, bounded. Source: RFC 791 s3.2, RFC 6864, RFC 8900 s3.7 on overlaps."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from ztna.proto.packet import (
    IPV4_HEADER_BYTES,
    MORE_FRAGMENTS,
    FragmentKey,
    Ipv4Packet,
    build_ipv4,
)

__all__ = ["Reassembler", "Whole", "fragment"]

MAX_PAYLOAD_BYTES: Final = 0xFFFF - IPV4_HEADER_BYTES
MAX_PACKETS: Final = 256
# What one stored fragment costs beside its bytes.
_OVERHEAD_BYTES: Final = 128


def fragment(
    protocol: int, source: int, destination: int, payload: bytes, budget_bytes: int, identification: int
) -> list[bytes]:
    """Cut an IP payload into packets of at most `budget_bytes`, DF clear so that later links may cut again."""
    step = (budget_bytes - IPV4_HEADER_BYTES) & ~7
    packets = []
    for at in range(0, len(payload), step):
        more = MORE_FRAGMENTS if at + step < len(payload) else 0
        packets.append(
            build_ipv4(
                protocol,
                source,
                destination,
                payload[at : at + step],
                identification=identification,
                flags_and_offset=more | at >> 3,
            )
        )
    return packets


@dataclass(frozen=True, slots=True)
class Whole:
    """A reassembled packet: its fields, and the first fragment as it came (what an ICMP error quotes)."""

    packet: Ipv4Packet
    first: bytes


@dataclass(slots=True)
class _Partial:
    deadline: float
    first: bytes = b""
    size: int | None = None
    held_bytes: int = 0
    pieces: dict[int, bytes] = field(default_factory=dict)

    def complete(self) -> bytes | None:
        if self.size is None or not self.first:
            return None
        at, parts = 0, []
        while at < self.size:
            piece = self.pieces.get(at)
            if piece is None:
                return None
            parts.append(piece)
            at += len(piece)
        return b"".join(parts)

    def overlaps(self, start: int, end: int) -> bool:
        return any(start < at + len(piece) and at < end for at, piece in self.pieces.items())


class Reassembler:
    """Puts fragments together; `dropped` counts packets given up: too many, too late, or overlapping."""

    __slots__ = ("_held_bytes", "_limit_bytes", "_partials", "_wait_s", "dropped")

    def __init__(self, limit_bytes: int, wait_s: float) -> None:
        self._limit_bytes = limit_bytes
        self._wait_s = wait_s
        self._partials: dict[FragmentKey, _Partial] = {}
        self._held_bytes = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._partials)

    def add(self, packet: Ipv4Packet, raw: bytes, now: float) -> Whole | None:
        """Take one fragment; returns the packet if it is now complete.

        Overlapping fragments discard the whole packet: no honest sender makes them.
        """
        key = (packet.protocol, packet.source, packet.destination, packet.identification)
        partial = self._partials.get(key)
        if partial is None:
            partial = self._partials[key] = _Partial(now + self._wait_s)
        start, end = packet.offset_bytes, packet.offset_bytes + len(packet.payload)
        if partial.pieces.get(start) == packet.payload:
            return None
        if not self._sane(partial, packet, start, end):
            self._drop(key)
            return None
        partial.pieces[start] = packet.payload
        self._account(partial, len(packet.payload) + _OVERHEAD_BYTES)
        if start == 0:
            partial.first = raw
        if not packet.more_fragments:
            partial.size = end
        payload = partial.complete()
        if payload is None:
            self._make_room(key)
            return None
        self._forget(key)
        return Whole(packet._replace(payload=payload, offset_bytes=0, more_fragments=False), partial.first)

    def _sane(self, partial: _Partial, packet: Ipv4Packet, start: int, end: int) -> bool:
        if packet.more_fragments and (not packet.payload or len(packet.payload) & 7):
            return False
        if end > MAX_PAYLOAD_BYTES or start == end or partial.overlaps(start, end):
            return False
        if not packet.more_fragments:
            return partial.size is None and all(at < end for at in partial.pieces)
        return partial.size is None or end <= partial.size

    def _account(self, partial: _Partial, count: int) -> None:
        partial.held_bytes += count
        self._held_bytes += count

    def _make_room(self, keep: FragmentKey) -> None:
        for key in self._oldest():
            if self._held_bytes <= self._limit_bytes and len(self._partials) <= MAX_PACKETS:
                return
            if key != keep:
                self._drop(key)
        if self._held_bytes > self._limit_bytes:
            self._drop(keep)

    def _oldest(self) -> Iterator[FragmentKey]:
        return iter(list(self._partials))

    def _forget(self, key: FragmentKey) -> None:
        partial = self._partials.pop(key)
        self._held_bytes -= partial.held_bytes

    def _drop(self, key: FragmentKey) -> None:
        self._forget(key)
        self.dropped += 1

    def get_timer(self) -> float | None:
        """Return when the oldest incomplete packet is given up."""
        for partial in self._partials.values():
            return partial.deadline
        return None

    def handle_timer(self, now: float) -> None:
        """Give up what waited too long."""
        for key in self._oldest():
            if self._partials[key].deadline > now:
                return
            self._drop(key)
