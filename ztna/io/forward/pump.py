"""One direction of a forwarded pair in user space: read in batches from one connected socket, send to the other.

Datagrams are read side by side into one buffer; a run of equal size then leaves in one `sendmsg` with UDP_SEGMENT, and
what the kernel had joined on receipt (UDP_GRO) leaves as it came. Nothing is copied in this process.
"""

import errno
import socket
import struct
import sys
from collections import Counter
from typing import Final

from ztna.io.forward.types import LocalDatagram
from ztna.io.udp import MAX_GSO_BYTES, MAX_GSO_SEGMENTS, UDP_GRO, UDP_SEGMENT
from ztna.proto.relay_addresses import canonical

QUIC_FIRST: Final = 0x40
"""Least first byte of a QUIC packet; below are STUN and what else must not be forwarded (RFC 9443)."""

_DATAGRAM_BYTES: Final = 65535
_RUN_BYTES: Final = 2 * _DATAGRAM_BYTES
_READS: Final = 96
_ANCILLARY_BYTES: Final = 64
_SEGMENT: Final = struct.Struct("=H")
# The route's device cannot segment or checksum for us, or the segments are too big for it: single sends tell which.
_NOT_JOINED: Final = frozenset({errno.EINVAL, errno.EIO, errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.EMSGSIZE})


class Buffer:
    """Memory for reading that all pumps of one event loop share: none keeps anything in it between two calls."""

    def __init__(self) -> None:
        self.bytes = bytearray(_RUN_BYTES + _DATAGRAM_BYTES)
        self.view = memoryview(self.bytes)


class Pump:
    """From one connected socket to another.

    Args:
        on_local: takes what is not to be forwarded, and what came from another than the peer of `source`.
        drops: counts by reason what was not forwarded.
    """

    __slots__ = ("_buffer", "_drops", "_gso", "_on_local", "_peer", "_source", "_target", "octets", "packets")

    def __init__(
        self,
        source: socket.socket,
        target: socket.socket,
        *,
        buffer: Buffer,
        on_local: LocalDatagram,
        drops: Counter[str],
    ) -> None:
        self.packets = 0
        self.octets = 0
        self._source, self._target, self._peer = source, target, source.getpeername()[:2]
        self._buffer, self._on_local, self._drops = buffer, on_local, drops
        self._gso = True

    def readable(self) -> None:
        """Forward what is there, at most about 96 reads; never raises."""
        view, receive, peer = self._buffer.view, self._source.recvmsg_into, self._peer
        data = self._buffer.bytes
        # A run begins at `start` and ends at `end`: segments of `size`, of which only the last may be shorter.
        start = end = size = 0
        for _ in range(_READS):
            try:
                count, ancillary, flags, address = receive((view[end:],), _ANCILLARY_BYTES)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                # An ICMP error that an earlier send drew; it is about that packet.
                self._drops["receive_error"] += 1
                continue
            if not ancillary and count == size and data[end] >= QUIC_FIRST and address[:2] == peer:
                # The next one of a run, by far the most frequent case.
                end += count
            else:
                segment = _segment_size(ancillary, count) if ancillary else count
                if not count or flags & socket.MSG_TRUNC:
                    self._drops["empty_or_truncated"] += 1
                    continue
                if address[:2] != peer or min(data[end : end + count : segment]) < QUIC_FIRST:
                    self._send(start, end, size)
                    start, size = end, 0
                    self._keep_local(end, count, segment, address[:2])
                    continue
                joins = segment == size or count == segment < size
                if not joins:
                    self._send(start, end, size)
                    start, size = end, segment
                end += count
                if count % segment or segment < size:
                    # Shorter than its run: nothing can follow it.
                    self._send(start, end, size)
                    start, size = end, 0
            if end > _RUN_BYTES:
                self._send(start, end, size)
                start = end = size = 0
        self._send(start, end, size)

    def _keep_local(self, at: int, count: int, segment: int, source: tuple[str, int]) -> None:
        """Sort a batch that holds something else than QUIC packets of the peer; rare."""
        view = self._buffer.view
        for begin in range(at, at + count, segment):
            stop = min(begin + segment, at + count)
            if source == self._peer and view[begin] >= QUIC_FIRST:
                self._send(begin, stop, stop - begin)
            else:
                self._on_local(bytes(view[begin:stop]), canonical(*source))

    def _send(self, start: int, end: int, size: int) -> None:
        if start == end:
            return
        view = self._buffer.view
        if self._gso and end - start > size:
            control = ((socket.IPPROTO_UDP, UDP_SEGMENT, _SEGMENT.pack(size)),)
            step = max(1, min(MAX_GSO_SEGMENTS, MAX_GSO_BYTES // size)) * size
            for at in range(start, end, step):
                stop = min(at + step, end)
                if not self._send_joined(at, stop, size, control):
                    self._send_each(at, stop, size)
            return
        if end - start <= size:
            self._send_one(view[start:end])
        else:
            self._send_each(start, end, size)

    def _send_joined(self, start: int, end: int, size: int, control: tuple[tuple[int, int, bytes], ...]) -> bool:
        """Send segments in one call; False if they must be sent one by one."""
        count = -(-(end - start) // size)
        for _ in range(2):
            try:
                self._target.sendmsg((self._buffer.view[start:end],), control if count > 1 else ())
            except (BlockingIOError, InterruptedError):
                self._drops["send_full"] += count
                return True
            except ConnectionRefusedError:
                # An ICMP error that an earlier packet drew; this one was not sent.
                continue
            except OSError as exc:
                if exc.errno in _NOT_JOINED:
                    return False
                self._drops["send_error"] += count
                return True
            self.packets += count
            self.octets += end - start
            return True
        self._drops["send_error"] += count
        return True

    def _send_each(self, start: int, end: int, size: int) -> None:
        view = self._buffer.view
        sent = [self._send_one(view[at : min(at + size, end)]) for at in range(start, end, size)]
        if self._gso and all(sent):
            # Alone they pass, so it was the joining that the kernel could not do: never ask again on this route.
            self._gso = False
            self._drops["gso_disabled"] += 1

    def _send_one(self, packet: memoryview) -> bool:
        for _ in range(2):
            try:
                self._target.send(packet)
            except (BlockingIOError, InterruptedError):
                self._drops["send_full"] += 1
                return False
            except ConnectionRefusedError:
                continue
            except OSError as exc:
                self._drops["too_big" if exc.errno == errno.EMSGSIZE else "send_error"] += 1
                return False
            self.packets += 1
            self.octets += len(packet)
            return True
        self._drops["send_error"] += 1
        return False


def _segment_size(ancillary: list[tuple[int, int, bytes]], whole: int) -> int:
    for level, kind, value in ancillary:
        if level == socket.IPPROTO_UDP and kind == UDP_GRO and len(value) >= 2:
            return int.from_bytes(value[:4], sys.byteorder) or whole
    return whole
