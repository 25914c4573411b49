"""Notices that this host's addresses or routes have changed: another network, a plug pulled, a lease renewed.

The kernel tells it by netlink (rtnetlink(7)); where no such socket can be had, the addresses are looked at every few
seconds instead. Many messages belong to one change, so the owner is told once they have settled, and only of a change
of addresses that others can reach or of the default route's interface.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Final

from ztna.io.session.sockets import interface_addresses

RTMGRP_LINK: Final = 0x1
RTMGRP_IPV4_IFADDR: Final = 0x10
RTMGRP_IPV4_ROUTE: Final = 0x40
RTMGRP_IPV6_IFADDR: Final = 0x100
RTMGRP_IPV6_ROUTE: Final = 0x400
GROUPS: Final = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_IFADDR | RTMGRP_IPV6_ROUTE
SETTLE_S: Final = 0.1
POLL_S: Final = 3.0
READ_BYTES: Final = 65536
READS: Final = 64

Fingerprint = tuple[tuple[str, ...], tuple[str | None, ...]]
SOMEWHERE: Final = (("192.0.2.1", socket.AF_INET), ("2001:db8::1", socket.AF_INET6))
"""Addresses for documentation (RFC 5737, RFC 3849): asking the kernel for a route sends nothing."""


class NetworkWatch:
    """Calls `on_change` in the loop after a change has settled. `start`, then `close`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_change: Callable[[], None]) -> None:
        self.changes = 0
        self._loop = loop
        self._on_change = on_change
        self._socket: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._seen: Fingerprint = ((), ())

    def start(self) -> None:
        """Watch from now on."""
        self._seen = fingerprint()
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            )
            self._socket.bind((0, GROUPS))
        except OSError:
            self._close_socket()
            self._timer = self._loop.call_later(POLL_S, self._look)
        else:
            self._loop.add_reader(self._socket.fileno(), self._readable)

    def close(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._close_socket()

    def _close_socket(self) -> None:
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _readable(self) -> None:
        assert self._socket is not None
        # What the messages say does not matter, nor that some were lost (ENOBUFS): something changed.
        with contextlib.suppress(OSError):
            for _ in range(READS):
                self._socket.recv(READ_BYTES)
        if self._timer is None:
            self._timer = self._loop.call_later(SETTLE_S, self._look)

    def _look(self) -> None:
        self._timer = None if self._socket is not None else self._loop.call_later(POLL_S, self._look)
        now = fingerprint()
        if now != self._seen:
            self._seen = now
            self.changes += 1
            self._on_change()


def fingerprint() -> Fingerprint:
    """What counts as a change: addresses that others may reach, and where packets to anywhere would come from."""
    addresses = tuple(sorted(interface_addresses(False) + interface_addresses(True)))
    return addresses, tuple(_source_towards(host, family) for host, family in SOMEWHERE)


def _source_towards(host: str, family: socket.AddressFamily) -> str | None:
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        probe.connect((host, 9))
        return str(probe.getsockname()[0])
    return None
