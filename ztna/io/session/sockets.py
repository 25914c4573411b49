"""The UDP sockets of one session: one for IPv4, one for IPv6 where the host has it, more only for birthday probing.

Their source ports identify the session to NATs and to the relay, so they live as long as the session does.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final

import psutil

from ztna.io.udp import Run, UdpBindError, UdpSocket
from ztna.proto.packet import UDP
from ztna.proto.paths.stun_types import Endpoint

IPV4: Final = 0
IPV6: Final = 1
FIRST_EXTRA: Final = 2
ANY: Final = ("0.0.0.0", "::")
BUFFER_BYTES: Final = 4 << 20
MAX_HOST_CANDIDATES: Final = 16
BATCH_PACKETS: Final = 256
UDP_BATCH_PACKETS: Final = 64
"""While UDP arrives: many more at once are more than the local receiver's socket holds (by default some 90 packets of
1200 bytes) before it had the CPU to take any. TCP waits for room instead, and gains from large batches."""

_UDP: Final = bytes((UDP,))

OnBatch = Callable[[int, list[Run]], None]
"""(socket index, datagrams by source) for each batch received."""


class SessionSockets:
    """Opens the sockets and names them by index: 0 is IPv4, 1 is IPv6, from 2 on are extra IPv4 ones.

    Args:
        bind_addr: the IPv4 address to bind; a definite one keeps the session to it, without IPv6. The wildcard of
            either family asks for both.

    Raises:
        UdpBindError: no IPv4 socket can be had.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_batch: OnBatch, *, bind_addr: str = ANY[IPV4]) -> None:
        self._loop = loop
        self._on_batch = on_batch
        bind_addr = ANY[IPV4] if bind_addr == ANY[IPV6] else bind_addr
        self._bind_addr = bind_addr
        self._sockets: dict[int, UdpSocket] = {}
        self._shared: set[int] = set()
        self._batch = BATCH_PACKETS
        self._open(IPV4, bind_addr)
        if bind_addr == ANY[IPV4] and has_ipv6():
            with suppress(UdpBindError, OSError):
                self._open(IPV6, ANY[IPV6])

    def _open(self, index: int, addr: str) -> None:
        sock = UdpSocket(addr, 0, buffer_bytes=BUFFER_BYTES if index < FIRST_EXTRA else 1 << 16, purpose="session")
        self._sockets[index] = sock
        sock.start_runs(self._loop, lambda batch: self._on_batch(index, batch), max_packets=self._batch)

    def share(self, index: int, sock: UdpSocket) -> None:
        """Send by a socket that others use, too, and that its owner reads and closes."""
        self._sockets[index] = sock
        self._shared.add(index)

    def arrived(self, packet: bytes) -> None:
        """Tell an IP packet that came by the session: batches are as large as its protocol takes well."""
        batch = UDP_BATCH_PACKETS if packet[9:10] == _UDP else BATCH_PACKETS
        if batch != self._batch:
            self._batch = batch
            for index, sock in self._sockets.items():
                if index not in self._shared:
                    sock.batch_packets = batch

    def open_extra(self, count: int) -> list[tuple[int, Endpoint]]:
        """Open more IPv4 sockets; returns their indices and endpoints, fewer than asked for if the system has none."""
        first = max((index for index in self._sockets if index not in self._shared), default=0) + 1
        first = max(first, FIRST_EXTRA)
        opened: list[tuple[int, Endpoint]] = []
        for index in range(first, first + count):
            try:
                self._open(index, self._bind_addr)
            except OSError:
                break
            opened.append((index, Endpoint(self.host_of(IPV4), self.port(index))))
        return opened

    def close_extra(self, indices: Iterable[int]) -> None:
        """Close these of the extra sockets."""
        for index in indices:
            if index >= FIRST_EXTRA and index in self._sockets and index not in self._shared:
                self._sockets.pop(index).close()

    def port(self, index: int = IPV4) -> int:
        """The local port of a socket."""
        return self._sockets[index].local_address[1]

    def host_of(self, index: int) -> str:
        """The address a socket is bound to, or the first that this host would give out for it."""
        bound = self._sockets[index].local_address[0]
        if bound not in ANY:
            return bound
        found = interface_addresses(index == IPV6)
        return found[0] if found else bound

    def local_address(self, index: int = IPV4) -> str:
        """`ip:port` as shown to people."""
        host, port = self._sockets[index].local_address if index in self._sockets else ("", 0)
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def hosts(self) -> list[tuple[int, Endpoint]]:
        """The host candidates (RFC 8445 s5.1.1.1): this host's addresses, with the ports of its sockets."""
        found: list[tuple[int, Endpoint]] = []
        for index in (IPV4, IPV6):
            sock = self._sockets.get(index)
            if sock is None:
                continue
            bound, port = sock.local_address
            addresses = interface_addresses(index == IPV6) if bound in ANY else [bound]
            found += [(index, Endpoint(address, port)) for address in addresses]
        return found[:MAX_HOST_CANDIDATES]

    def send(self, index: int, data: bytes, to: Endpoint) -> None:
        """Send one datagram; what cannot be sent is counted by the socket."""
        sock = self._sockets.get(index)
        if sock is not None:
            sock.send(data, to)

    def send_all(self, index: int, packets: Sequence[bytes], to: Endpoint) -> None:
        """Send packets in order, joined where the kernel segments for us."""
        sock = self._sockets.get(index)
        if sock is not None:
            sock.send_all(packets, to)

    def counters(self) -> dict[str, int]:
        """Sums over the sockets, by the names of `UdpCounters`."""
        sums: dict[str, int] = {}
        for sock in (sock for index, sock in self._sockets.items() if index not in self._shared):
            for name in sock.counters.__slots__:
                sums[name] = sums.get(name, 0) + getattr(sock.counters, name)
        return sums

    def close(self) -> None:
        """Close them all."""
        while self._sockets:
            index, sock = self._sockets.popitem()
            if index not in self._shared:
                sock.close()


def has_ipv6() -> bool:
    """Whether IPv6 sockets can be made here."""
    if not socket.has_ipv6:
        return False
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()
    except OSError:
        return False
    return True


def interface_addresses(ipv6: bool) -> list[str]:
    """This host's unicast addresses that others may reach: no loopback, link-local or scoped ones.

    Devices of overlays (TUN: no link-layer address) are left out, our own first of all: a path through the overlay
    inside the overlay would carry itself.
    """
    family = socket.AF_INET6 if ipv6 else socket.AF_INET
    found: list[str] = []
    for entries in psutil.net_if_addrs().values():
        links = [entry.address for entry in entries if entry.family == psutil.AF_LINK]
        if not any(link.strip("0:-") for link in links):
            continue
        for entry in entries:
            if entry.family != family or "%" in entry.address:
                continue
            address = ipaddress.ip_address(entry.address)
            if not (address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified):
                found.append(str(address))
    return found
