"""Is a backend's host up? ICMP echo where the system lets us send it, and a TCP connect otherwise or in addition.

A completed connect and a refused one both prove the host alive. The connect starts only when ICMP is not permitted or
has not answered after half a second, since it would show up in the log of a TCP backend.
"""

import asyncio
import contextlib
import errno
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ztna.proto.packet import checksum

PROBE_S: Final = 1.5
CONNECT_AFTER_S: Final = 0.5
MAX_PROBES: Final = 256
ICMP_ECHO_REPLY: Final = 0
ICMP_ECHO: Final = 8

_ALIVE_CODES: Final = frozenset({0, errno.ECONNREFUSED})


@dataclass(slots=True, eq=False)
class _Probe:
    address: str
    port: int
    tell: Callable[[bool], None]
    token: bytes
    deadline: asyncio.TimerHandle | None = None
    connect_at: asyncio.TimerHandle | None = None
    tcp: socket.socket | None = None


class ReachabilityProbe:
    """Probes many hosts at once over one ICMP socket; bounded, each probe ends within 1.5 s."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._probes: dict[bytes, _Probe] = {}
        self._icmp: socket.socket | None = None
        self._icmp_tried = False

    def start(self, address: str, port: int, tell: Callable[[bool], None]) -> None:
        """Probe one host; `tell(alive)` is called exactly once, never from within this call."""
        if len(self._probes) >= MAX_PROBES:
            self._loop.call_soon(tell, False)
            return
        probe = _Probe(address, port, tell, secrets.token_bytes(16))
        self._probes[probe.token] = probe
        probe.deadline = self._loop.call_later(PROBE_S, self._finish, probe, False)
        delay = CONNECT_AFTER_S if self._send_echo(probe) else 0.0
        probe.connect_at = self._loop.call_later(delay, self._connect, probe)

    def close(self) -> None:
        """Abandon all probes without telling, and close the sockets."""
        for probe in list(self._probes.values()):
            self._forget(probe)
        if self._icmp is not None:
            self._loop.remove_reader(self._icmp.fileno())
            self._icmp.close()
            self._icmp = None

    def _finish(self, probe: _Probe, alive: bool) -> None:
        if self._forget(probe):
            probe.tell(alive)

    def _forget(self, probe: _Probe) -> bool:
        if self._probes.pop(probe.token, None) is None:
            return False
        for handle in (probe.deadline, probe.connect_at):
            if handle is not None:
                handle.cancel()
        if probe.tcp is not None:
            self._loop.remove_writer(probe.tcp.fileno())
            probe.tcp.close()
        return True

    def _send_echo(self, probe: _Probe) -> bool:
        if ":" in probe.address:
            return False
        icmp = self._icmp_socket()
        if icmp is None:
            return False
        body = bytes((0, 0, 0, 1)) + probe.token
        check = checksum(body, ICMP_ECHO << 8)
        try:
            icmp.sendto(bytes((ICMP_ECHO, 0, check >> 8, check & 255)) + body, (probe.address, 0))
        except OSError:
            return False
        return True

    def _icmp_socket(self) -> socket.socket | None:
        """The unprivileged kind of ICMP socket (net.ipv4.ping_group_range), else a raw one (CAP_NET_RAW), else None."""
        if not self._icmp_tried:
            self._icmp_tried = True
            for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
                with contextlib.suppress(OSError):
                    flags = socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
                    self._icmp = socket.socket(socket.AF_INET, kind | flags, socket.IPPROTO_ICMP)
                    self._loop.add_reader(self._icmp.fileno(), self._icmp_readable, self._icmp, kind)
                    break
        return self._icmp

    def _icmp_readable(self, icmp: socket.socket, kind: socket.SocketKind) -> None:
        for _ in range(64):
            try:
                data, source = icmp.recvfrom(2048)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                continue
            if kind == socket.SOCK_RAW and data:
                data = data[(data[0] & 15) << 2 :]
            probe = self._probes.get(data[8:24])
            if probe is not None and data[0] == ICMP_ECHO_REPLY and source[0] == probe.address:
                self._finish(probe, True)

    def _connect(self, probe: _Probe) -> None:
        family = socket.AF_INET6 if ":" in probe.address else socket.AF_INET
        try:
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        except OSError:
            return
        code = sock.connect_ex((probe.address, probe.port))
        if code == errno.EINPROGRESS:
            probe.tcp = sock
            self._loop.add_writer(sock.fileno(), self._connected, probe, sock)
            return
        sock.close()
        if code in _ALIVE_CODES:
            self._finish(probe, True)

    def _connected(self, probe: _Probe, sock: socket.socket) -> None:
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code in _ALIVE_CODES:
            self._finish(probe, True)
            return
        # Unreachable for TCP; an ICMP answer may still come before the deadline.
        self._loop.remove_writer(sock.fileno())
        sock.close()
        probe.tcp = None
