"""Raw frames of one interface: a memory-mapped receive ring and plain sends; and switching offloads off and on.

The ring (TPACKET_V2) holds what arrives while Python is busy. A socket buffer would not do on the rootless rung, where
it is capped at some hundred frames.

Source: packet(7), Documentation/networking/packet_mmap.rst; linux/ethtool.h.
"""

import array
import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import socket
import struct
from collections.abc import Iterator

_SOL_PACKET = 263
_PACKET_RX_RING = 5
_PACKET_STATISTICS = 6
_PACKET_VERSION = 10
_PACKET_QDISC_BYPASS = 20
_PACKET_IGNORE_OUTGOING = 23
_TPACKET_V2 = 1
_ETH_P_ALL = 3
_USER = 1  # TP_STATUS_USER: the slot holds a frame for us
_HEADER = struct.Struct("=IIIHH")  # tp_status, tp_len, tp_snaplen, tp_mac, tp_net
_STATUS = struct.Struct("=I")
# Room for the slot's header and the alignment of what follows it.
_SLOT_OVERHEAD_BYTES = 96
_BLOCK_BYTES = 1 << 16
_RING_FRAMES = 4096

_SIOCETHTOOL = 0x8946
# ETHTOOL_STXCSUM, SSG, STSO, SGSO, SGRO
_OFFLOADS = (0x17, 0x19, 0x1F, 0x24, 0x2C)
_CLONE_NEWNET = 0x40000000


class FrameSocket:
    """Receives and sends whole Ethernet frames on an interface of this network namespace.

    Args:
        ifname: the interface.
        mtu: its MTU in bytes; larger frames are cut off by the ring.
    """

    def __init__(self, ifname: str, mtu: int) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.setblocking(False)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_VERSION, _TPACKET_V2)
        slot = 2048
        while slot < mtu + 14 + _SLOT_OVERHEAD_BYTES:
            slot *= 2
        blocks = _RING_FRAMES * slot // max(_BLOCK_BYTES, slot)
        ring = struct.pack("=IIII", max(_BLOCK_BYTES, slot), blocks, slot, _RING_FRAMES)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_RX_RING, ring)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
        self._memory = mmap.mmap(self._socket.fileno(), _RING_FRAMES * slot)
        self._view = memoryview(self._memory)
        self._slot_bytes = slot
        self._next = 0
        self._socket.bind((ifname, _ETH_P_ALL))
        self.overflowed = 0
        self.refused = 0

    def fileno(self) -> int:
        """For select()."""
        return self._socket.fileno()

    def receive(self, limit: int) -> list[bytes]:
        """Take up to `limit` frames out of the ring."""
        frames = []
        view, memory = self._view, self._memory
        for _ in range(limit):
            at = self._next * self._slot_bytes
            status, _, length, mac, _ = _HEADER.unpack_from(memory, at)
            if not status & _USER:
                break
            frames.append(bytes(view[at + mac : at + mac + length]))
            _STATUS.pack_into(memory, at, 0)
            self._next = (self._next + 1) % _RING_FRAMES
        return frames

    def send(self, frames: list[bytes]) -> None:
        """Send frames; those that the interface does not take are counted in `refused`."""
        send = self._socket.send
        for frame in frames:
            try:
                send(frame)
            except OSError as error:
                self.refused += 1
                if error.errno in (errno.ENETDOWN, errno.ENXIO, errno.ENODEV):
                    return

    def count_overflow(self) -> int:
        """Frames that found the ring full, so far."""
        data = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        self.overflowed += struct.unpack("=II", data)[1]
        return self.overflowed

    def clear_error(self) -> None:
        """Take the pending error off the socket, as a vanished interface leaves one."""
        self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def close(self) -> None:
        """Give the ring back."""
        self._view.release()
        self._memory.close()
        self._socket.close()


@contextlib.contextmanager
def entered(namespace: str | None) -> Iterator[None]:
    """Have the calling thread in a named network namespace for a while; None stays where it is."""
    if namespace is None:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        _setns(libc, there)
        try:
            yield
        finally:
            _setns(libc, home)
    finally:
        os.close(there)
        os.close(home)


def _setns(libc: ctypes.CDLL, descriptor: int) -> None:
    if libc.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def set_offloads(ifname: str, on: bool) -> None:
    """Switch checksum and segmentation offloads of an interface of this namespace.

    With them on, local frames carry no checksums and hold up to 64 KiB: neither may go over a link as one packet.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for command in _OFFLOADS if not on else reversed(_OFFLOADS):
            value = array.array("I", [command, int(on)])
            request = struct.pack("=16sQ", ifname.encode(), value.buffer_info()[0])
            # Some do not exist on some kernels; the first (checksums) rules the others.
            with contextlib.suppress(OSError):
                fcntl.ioctl(sock, _SIOCETHTOOL, request)
