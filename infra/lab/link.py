"""One direction of an impaired link: frames in, frames out when their time has come. No clock, no sockets.

    offer(frame, now) -> too big? lost? twice? -> bottleneck (rate, buffer) -> delay +- jitter -> heap
    due(now)          <- frames whose time has come, in the order of their times

The order of the stages is that of a path: loss, then a queue in front of the slowest hop, then propagation.
"""

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass

from infra.lab.topology import Impairment

_ETHERNET_HEADER_BYTES = 14
_ARP = b"\x08\x06"
_IPV4 = b"\x08\x00"
_PLAIN_IPV4 = 0x45
_UDP = 17
# Offsets in an Ethernet frame with an IPv4 header without options.
_UDP_CHECKSUM = 40
_UDP_PAYLOAD = 42


@dataclass(slots=True)
class Counters:
    """What became of frames offered, and why those not delivered were dropped."""

    offered: int = 0
    delivered: int = 0
    lost: int = 0
    duplicated: int = 0
    corrupted: int = 0
    reordered: int = 0
    too_big: int = 0
    buffer_full: int = 0
    queue_full: int = 0


class Direction:
    """Args: what to do to frames, and a source of numbers uniform in [0, 1)."""

    def __init__(self, impairment: Impairment, random: Callable[[], float]) -> None:
        self.counters = Counters()
        self._random = random
        self._heap: list[tuple[float, int, bytes]] = []
        self._sequence = 0
        self._free_at = 0.0
        self._bad = False
        self.change(impairment)

    def change(self, impairment: Impairment) -> None:
        """Treat frames offered from now on by another impairment; those under way keep their times."""
        self._impairment = impairment
        self._delay_s = impairment.delay_ms / 1000
        self._jitter_s = impairment.jitter_ms / 1000
        self._buffer_s = impairment.buffer_ms / 1000
        self._seconds_per_byte = 8 / impairment.rate_bps if impairment.rate_bps else 0.0
        self._largest = impairment.mtu_bytes + _ETHERNET_HEADER_BYTES if impairment.mtu_bytes else math.inf
        self._free_at = 0.0

    def __len__(self) -> int:
        return len(self._heap)

    def offer(self, frame: bytes, now: float) -> None:
        """Take a frame (with its Ethernet header) that arrived at `now`, in seconds of a monotonic clock."""
        self.counters.offered += 1
        impairment = self._impairment
        # A path loses packets, not the address resolution at its ends: a lost ARP would stall the lab for a second.
        arp = frame[12:14] == _ARP
        if len(frame) > self._largest:
            self.counters.too_big += 1
            return
        if impairment.loss and not arp and self._is_lost(impairment):
            self.counters.lost += 1
            return
        if impairment.corrupt and self._random() < impairment.corrupt:
            frame = self._corrupted(frame)
        self._queue(frame, now)
        if impairment.duplicate and not arp and self._random() < impairment.duplicate:
            self.counters.duplicated += 1
            self._queue(frame, now)

    def _is_lost(self, impairment: Impairment) -> bool:
        """Gilbert's two states: all is lost in the bad one, which lasts `loss_burst` packets on average."""
        if impairment.loss_burst == 1:
            return self._random() < impairment.loss
        leave = 1 / impairment.loss_burst
        enter = impairment.loss * leave / (1 - impairment.loss)
        self._bad = self._random() >= leave if self._bad else self._random() < enter
        return self._bad

    def _corrupted(self, frame: bytes) -> bytes:
        """One byte of a UDP payload altered, and no checksum (0 in IPv4, RFC 768): the kernel takes it as good."""
        if frame[12:14] != _IPV4 or len(frame) < _UDP_PAYLOAD + 1 or frame[14] != _PLAIN_IPV4 or frame[23] != _UDP:
            return frame
        self.counters.corrupted += 1
        altered = bytearray(frame)
        altered[_UDP_CHECKSUM : _UDP_CHECKSUM + 2] = b"\0\0"
        altered[_UDP_PAYLOAD + int(self._random() * (len(frame) - _UDP_PAYLOAD))] ^= 0xFF
        return bytes(altered)

    def _queue(self, frame: bytes, now: float) -> None:
        if len(self._heap) >= self._impairment.queue_packets:
            self.counters.queue_full += 1
            return
        departure = now
        if self._seconds_per_byte:
            start = max(now, self._free_at)
            if start - now > self._buffer_s:
                self.counters.buffer_full += 1
                return
            departure = self._free_at = start + len(frame) * self._seconds_per_byte
        delay_s = self._delay_s
        if self._jitter_s:
            delay_s = max(0.0, delay_s + (2 * self._random() - 1) * self._jitter_s)
        if self._impairment.reorder and self._random() < self._impairment.reorder:
            self.counters.reordered += 1
            delay_s = 0.0
        self._sequence += 1
        heapq.heappush(self._heap, (departure + delay_s, self._sequence, frame))

    def due(self, now: float) -> list[bytes]:
        """Take out the frames whose time is not after `now`."""
        heap = self._heap
        frames = []
        while heap and heap[0][0] <= now:
            frames.append(heapq.heappop(heap)[2])
        self.counters.delivered += len(frames)
        return frames

    def next_time(self) -> float:
        """When the next frame is due; infinity when none is under way."""
        return self._heap[0][0] if self._heap else math.inf
