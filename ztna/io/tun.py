"""The agent's TUN device: made, addressed and routed at start, gone with the process however that ends.

The device is not persistent: the kernel removes it, its address and its routes when the descriptor closes, which a
kill -9 does too. Only the service addresses are routed to it (split tunnel). Configuring it speaks netlink and blocks,
so a device is made before the event loop runs or in a thread; reading and writing never block.
"""

import asyncio
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

TUN_PATH: Final = Path("/dev/net/tun")
TUNSETIFF: Final = 0x400454CA
TUNSETPERSIST: Final = 0x400454CB
IFF_TUN: Final = 0x0001
IFF_NO_PI: Final = 0x1000
SIOCSIFMTU: Final = 0x8922
MAX_NAME_BYTES: Final = 15
READ_BYTES: Final = 65535
QUEUE_PACKETS: Final = 1000
MAX_BATCH_PACKETS: Final = 64
MIN_MTU_BYTES: Final = 576


class TunError(OSError):
    """The device cannot be had; the text names the remedy."""


@dataclass(slots=True)
class TunCounters:
    """Packets through the device; each packet lost at this edge is in one `dropped_*`."""

    read_packets: int = 0
    read_bytes: int = 0
    written_packets: int = 0
    written_bytes: int = 0
    dropped_not_ipv4: int = 0
    dropped_write_full: int = 0
    dropped_write_error: int = 0


class TunDevice:
    """One layer-3 device with one address and one route per service.

    Args:
        name: device name, at most 15 bytes; may hold `%d`, which the kernel replaces by the next free number.
        address: the agent's virtual IPv4 address, set as a /32.
        routes: destinations (CIDR or address text) that go through the device, and nothing else does.
        mtu_bytes: largest IP packet the kernel may hand us.

    Raises:
        TunError: no /dev/net/tun, no permission, name in use, or a route or address the kernel refuses.
    """

    def __init__(self, name: str, address: str, routes: Sequence[str], mtu_bytes: int) -> None:
        self.counters = TunCounters()
        self.mtu_bytes = mtu_bytes
        self._fd, self.name = open_device(name)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_readable: Callable[[], None] = self.pause
        self._reading = False
        try:
            self._configure(address, routes)
        except BaseException:
            self.close()
            raise

    def _configure(self, address: str, routes: Sequence[str]) -> None:
        try:
            with IPRoute() as netlink:
                index = netlink.link_lookup(ifname=self.name)[0]
                netlink.link("set", index=index, mtu=self.mtu_bytes, txqlen=QUEUE_PACKETS)
                netlink.addr("replace", index=index, address=address, prefixlen=32)
                netlink.link("set", index=index, state="up")
                for route in routes:
                    destination = route if "/" in route else f"{route}/32"
                    self._add_route(netlink, index, destination, address)
        except NetlinkError as exc:
            raise TunError(
                f"cannot configure device {self.name} with address {address}: {os.strerror(exc.code)}; "
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

    def read_batch(self, max_packets: int = MAX_BATCH_PACKETS) -> list[bytes]:
        """Read until the device is empty, at most `max_packets`; anything but IPv4 is counted and dropped."""
        batch: list[bytes] = []
        counters = self.counters
        read, fd = os.read, self._fd
        for _ in range(max_packets):
            try:
                packet = read(fd, READ_BYTES)
            except OSError:
                # EAGAIN: empty. EIO: the device is down; the next packet comes after it is up again.
                break
            if not packet or packet[0] >> 4 != 4:
                counters.dropped_not_ipv4 += 1
                continue
            counters.read_packets += 1
            counters.read_bytes += len(packet)
            batch.append(packet)
        return batch

    def write(self, packet: bytes) -> bool:
        """Give one IP packet to the kernel; False (and one counter) if it would not take it."""
        try:
            os.write(self._fd, packet)
        except (BlockingIOError, InterruptedError):
            self.counters.dropped_write_full += 1
            return False
        except OSError:
            self.counters.dropped_write_error += 1
            return False
        self.counters.written_packets += 1
        self.counters.written_bytes += len(packet)
        return True

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

    def close(self) -> None:
        """Remove the device with its address and routes; idempotent."""
        self.pause()
        self._loop = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def open_device(name: str) -> tuple[int, str]:
    """Open a non-persistent TUN device; returns (non-blocking descriptor, name given). Raises TunError."""
    encoded = name.encode()
    if not encoded or len(encoded) > MAX_NAME_BYTES:
        raise TunError(f"`tun.name` is {name!r}: it must have 1 to {MAX_NAME_BYTES} bytes")
    try:
        fd = os.open(TUN_PATH, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise TunError(_open_failure(exc)) from exc
    try:
        granted = fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH14x", encoded, IFF_TUN | IFF_NO_PI))
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
