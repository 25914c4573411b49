"""The agent's TUN device: made, addressed and routed at start, gone with the process however that ends.

The device is not persistent: the kernel removes it, its address and its routes when the descriptor closes, which a
kill -9 does too. Only the service addresses are routed to it (split tunnel). Configuring it speaks netlink and blocks,
so a device is made before the event loop runs or in a thread; reading and writing never block.

Where the kernel can, it hands over up to 64 KiB of one TCP connection or of UDP datagrams of one size in one read and
takes as much in one write (IFF_VNET_HDR): packets are cut and joined here, so that neither the kernel's stack nor a
system call is paid per packet.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from ztna.proto import segments
from ztna.proto.packet import IPV4_HEADER_BYTES

TUN_PATH: Final = Path("/dev/net/tun")
TUNSETIFF: Final = 0x400454CA
TUNSETPERSIST: Final = 0x400454CB
IFF_TUN: Final = 0x0001
IFF_NO_PI: Final = 0x1000
IFF_VNET_HDR: Final = 0x4000
TUNSETOFFLOAD: Final = 0x400454D0
# TUN_F_CSUM, TUN_F_TSO4 and TUN_F_TSO_ECN; TUN_F_USO4 and TUN_F_USO6, which go only together, from Linux 6.2 on.
OFFLOAD_TCP: Final = 0x01 | 0x02 | 0x08
OFFLOAD_UDP: Final = 0x20 | 0x40
SIOCSIFMTU: Final = 0x8922
MAX_NAME_BYTES: Final = 15
READ_BYTES: Final = 65536
SUPER_BYTES: Final = segments.META_BYTES + READ_BYTES
QUEUE_PACKETS: Final = 1000
MAX_BATCH_PACKETS: Final = 64
MIN_MTU_BYTES: Final = 576
ANSWERS_RARE: Final = 7


class TunError(OSError):
    """The device cannot be had; the text names the remedy."""


@dataclass(slots=True)
class TunCounters:
    """Packets through the device; each packet lost at this edge is in one `dropped_*`."""

    read_packets: int = 0
    read_bytes: int = 0
    written_packets: int = 0
    written_bytes: int = 0
    read_calls: int = 0
    write_calls: int = 0
    dropped_not_ipv4: int = 0
    dropped_malformed: int = 0
    dropped_write_full: int = 0
    dropped_write_error: int = 0


class TunDevice:
    """One layer-3 device with one address and one route per service.

    Args:
        name: device name, at most 15 bytes; may hold `%d`, which the kernel replaces by the next free number.
        address: the agent's virtual IPv4 address, set as a /32; more than one where the device stands for services.
        routes: destinations (CIDR or address text) that go through the device, and nothing else does.
        mtu_bytes: largest IP packet the kernel may hand us.
        offload: let the kernel hand over and take super-segments, where it can.

    Raises:
        TunError: no /dev/net/tun, no permission, name in use, or a route or address the kernel refuses.
    """

    def __init__(
        self, name: str, address: str | Sequence[str], routes: Sequence[str], mtu_bytes: int, *, offload: bool = True
    ) -> None:
        self.counters = TunCounters()
        self.mtu_bytes = mtu_bytes
        self._unfinished: frozenset[bytes] = frozenset()
        self._fd, self.name, self.offload = open_offloading(name) if offload else (*open_device(name), 0)
        self._waiting: deque[bytes] = deque()
        self._written = False
        self._passes = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_readable: Callable[[], None] = self.pause
        self._reading = False
        self._scheduled = False
        try:
            self._configure([address] if isinstance(address, str) else address, routes)
        except BaseException:
            self.close()
            raise

    def _configure(self, addresses: Sequence[str], routes: Sequence[str]) -> None:
        try:
            with IPRoute() as netlink:
                index = netlink.link_lookup(ifname=self.name)[0]
                netlink.link("set", index=index, mtu=self.mtu_bytes, txqlen=QUEUE_PACKETS)
                for address in addresses:
                    netlink.addr("replace", index=index, address=address, prefixlen=32)
                netlink.link("set", index=index, state="up")
                for route in routes:
                    destination = route if "/" in route else f"{route}/32"
                    self._add_route(netlink, index, destination, addresses[0])
        except NetlinkError as exc:
            raise TunError(
                f"cannot configure device {self.name} with address {', '.join(addresses)}: {os.strerror(exc.code)}; "
                "run as root or with CAP_NET_ADMIN, or set `mode` to user"
            ) from exc

    def _add_route(self, netlink: IPRoute, index: int, destination: str, source: str) -> None:
        try:
            netlink.route("add", dst=destination, oif=index, prefsrc=source)
        except NetlinkError as exc:
            if exc.code != errno.EEXIST:
                raise
            raise TunError(
                f"a route to {destination} exists already (`ip route show {destination}` tells whose): "
                "stop the other agent, or remove that route"
            ) from exc

    @property
    def unfinished(self) -> frozenset[bytes]:
        """Addresses (4 bytes) behind sessions whose far end finishes checksums as we do.

        To and from these checksums are left to the kernel that delivers the packet. While there are none our own kernel
        cuts super-segments and finishes checksums, which takes it a tenth of the time that it takes here.
        """
        return self._unfinished

    @unfinished.setter
    def unfinished(self, addresses: frozenset[bytes]) -> None:
        if self.offload and self._fd >= 0 and bool(addresses) != bool(self._unfinished):
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._fd, TUNSETOFFLOAD, self.offload if addresses else 0)
        self._unfinished = addresses

    def start(self, loop: asyncio.AbstractEventLoop, on_readable: Callable[[], None]) -> None:
        """Call `on_readable` whenever packets wait, for `read_batch` to take. It must not raise."""
        self._loop = loop
        self._on_readable = on_readable
        self.resume()

    def pause(self) -> None:
        """Leave packets in the kernel's queue: what is behind us is full."""
        if self._reading and self._loop is not None:
            self._loop.remove_reader(self._fd)
            self._reading = False

    def resume(self) -> None:
        """Read again after `pause`."""
        if not self._reading and self._loop is not None and self._fd >= 0:
            self._loop.add_reader(self._fd, self._on_readable)
            self._reading = True
            self._read_soon()

    def _read_soon(self) -> None:
        """Packets that wait here must be read too when the kernel's queue is empty and tells of nothing."""
        if self._waiting and self._reading and not self._scheduled and self._loop is not None:
            self._scheduled = True
            self._loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        self._scheduled = False
        if self._reading:
            self._on_readable()

    def read_batch(self, max_packets: int = MAX_BATCH_PACKETS) -> list[bytes]:
        """Read until the device is empty, at most `max_packets`; anything but IPv4 is counted and dropped.

        What was cut from a super-segment and is over `max_packets` comes first the next time.
        """
        waiting = self._waiting
        batch: list[bytes] = []
        while waiting and len(batch) < max_packets:
            batch.append(waiting.popleft())
        if self.offload:
            self._read_super(batch, max_packets)
        else:
            while len(batch) < max_packets and self._read_plain(batch):
                pass
        if len(batch) > max_packets:
            waiting.extend(batch[max_packets:])
            del batch[max_packets:]
        if waiting:
            self._read_soon()
        return batch

    @property
    def may_answer(self) -> bool:
        """Whether packets were written since the last `read_answers`."""
        return self._written

    def read_answers(self, max_packets: int) -> list[bytes]:
        """What the kernel itself answered to packets written since the last call (TCP acknowledgements, ICMP).

        They are there as soon as it has the packets: read now they leave with the batch that is in hand, and no turn of
        the event loop lies between. After a call that found none the next ANSWERS_RARE ones do not look.
        """
        if not self._written:
            return []
        self._written = False
        if self._passes:
            self._passes -= 1
            return []
        batch = self.read_batch(max_packets)
        if not batch:
            self._passes = ANSWERS_RARE
        return batch

    def _read_plain(self, batch: list[bytes]) -> bool:
        """Append one packet; False when there is none."""
        try:
            packet = os.read(self._fd, READ_BYTES)
        except OSError:
            # EAGAIN: empty. EIO: the device is down; the next packet comes after it is up again.
            return False
        counters = self.counters
        counters.read_calls += 1
        if not packet or packet[0] >> 4 != 4:
            counters.dropped_not_ipv4 += 1
            return True
        counters.read_packets += 1
        counters.read_bytes += len(packet)
        batch.append(packet)
        return True

    def _read_super(self, batch: list[bytes], max_packets: int) -> None:
        """The same until there are `max_packets`, where meta data precede each packet, which may be a super-segment."""
        fd, read, unfinished, counters = self._fd, os.read, self._unfinished, self.counters
        before, calls, size = len(batch), 0, 0
        while len(batch) < max_packets:
            try:
                data = read(fd, SUPER_BYTES)
            except OSError:
                break
            calls += 1
            packet = data[segments.META_BYTES :]
            if len(packet) < IPV4_HEADER_BYTES or packet[0] >> 4 != 4:
                counters.dropped_not_ipv4 += 1
                continue
            if not data[0] & segments.NEEDS_CHECKSUM or (not data[1] and packet[16:20] in unfinished):
                batch.append(packet)
            elif (cut := self._cut(data, packet)) is not None:
                batch += cut
            else:
                counters.dropped_malformed += 1
                continue
            size += len(packet)
        counters.read_calls += calls
        counters.read_packets += len(batch) - before
        counters.read_bytes += size

    def _cut(self, data: bytes, packet: bytes) -> list[bytes] | None:
        """What a super-segment holds, or the one packet whose checksum is finished here; None if it is malformed."""
        meta = segments.parse_meta(data)
        if meta.gso_type:
            return segments.split(meta, packet, packet[16:20] in self._unfinished)
        whole = segments.finish(packet, meta.checksum_start, meta.checksum_offset)
        return None if whole is None else [whole]

    def write(self, packet: bytes) -> bool:
        """Give one IP packet to the kernel; False (and one counter) if it would not take it."""
        return self.write_batch((packet,)) == 1

    def write_batch(self, packets: Sequence[bytes]) -> int:
        """Give packets to the kernel in their order; returns how many it took, the others are counted."""
        self._written = True
        if not self.offload:
            return sum(self._write((packet,), 1) for packet in packets)
        if len(packets) == 1:
            buffers = segments.single(packets[0], packets[0][12:16] in self._unfinished)
            return self._write(buffers, 1)
        joined = segments.join(packets, self._unfinished, udp=bool(self.offload & OFFLOAD_UDP))
        return sum(self._write(buffers, count) for count, buffers in joined)

    def _write(self, buffers: Sequence[bytes], count: int) -> int:
        """One write that carries `count` packets; returns how many the kernel took."""
        counters = self.counters
        try:
            written = os.writev(self._fd, buffers)
        except (BlockingIOError, InterruptedError):
            counters.dropped_write_full += count
            return 0
        except OSError:
            counters.dropped_write_error += count
            return 0
        counters.write_calls += 1
        counters.written_packets += count
        counters.written_bytes += written
        return count

    def set_mtu(self, mtu_bytes: int) -> bool:
        """Change the device's MTU; one quick ioctl. False if the kernel refused."""
        request = struct.pack("16si12x", self.name.encode(), mtu_bytes)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            try:
                fcntl.ioctl(control.fileno(), SIOCSIFMTU, request)
            except OSError:
                return False
        self.mtu_bytes = mtu_bytes
        return True

    @property
    def index(self) -> int:
        """The interface's index."""
        return socket.if_nametoindex(self.name)

    def close(self) -> None:
        """Remove the device with its address and routes; idempotent."""
        self.pause()
        self._loop = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def open_offloading(name: str) -> tuple[int, str, int]:
    """Open a device as `open_device` does; returns what it can offload too, 0 where the kernel has no such thing."""
    fd, given = open_device(name, IFF_VNET_HDR)
    for features in (OFFLOAD_TCP | OFFLOAD_UDP, OFFLOAD_TCP):
        try:
            fcntl.ioctl(fd, TUNSETOFFLOAD, features)
        except OSError:
            continue
        fcntl.ioctl(fd, TUNSETOFFLOAD, 0)
        return fd, given, features
    os.close(fd)
    return (*open_device(given), 0)


def open_device(name: str, flags: int = 0) -> tuple[int, str]:
    """Open a non-persistent TUN device; returns (non-blocking descriptor, name given). Raises TunError."""
    encoded = name.encode()
    if not encoded or len(encoded) > MAX_NAME_BYTES:
        raise TunError(f"`tun.name` is {name!r}: it must have 1 to {MAX_NAME_BYTES} bytes")
    try:
        fd = os.open(TUN_PATH, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise TunError(_open_failure(exc)) from exc
    try:
        granted = fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH14x", encoded, IFF_TUN | IFF_NO_PI | flags))
        # A device left persistent by other software goes away with this descriptor too.
        fcntl.ioctl(fd, TUNSETPERSIST, 0)
    except OSError as exc:
        os.close(fd)
        raise TunError(_attach_failure(exc, name)) from exc
    return fd, granted[:16].rstrip(b"\0").decode()


def tun_available() -> str | None:
    """None if this process may make TUN devices, else the reason why not (for `mode` auto)."""
    try:
        fd, _ = open_device("ztnaprobe%d")
    except TunError as exc:
        return str(exc)
    os.close(fd)
    return None


def _open_failure(exc: OSError) -> str:
    if exc.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return f"{TUN_PATH} is missing: load it with `modprobe tun`, or set `mode` to user"
    if exc.errno in (errno.EACCES, errno.EPERM):
        return f"{TUN_PATH} may not be opened: run as root or with CAP_NET_ADMIN, or set `mode` to user"
    return f"{TUN_PATH} cannot be opened: {exc.strerror}; set `mode` to user"


def _attach_failure(exc: OSError, name: str) -> str:
    if exc.errno == errno.EBUSY:
        return f"device {name} is in use by another process: stop that agent, or set another `tun.name`"
    if exc.errno in (errno.EPERM, errno.EACCES):
        return f"device {name} may not be made: run as root or with CAP_NET_ADMIN, or set `mode` to user"
    return f"device {name} cannot be made: {exc.strerror}; set another `tun.name`, or `mode` to user"
