"""One non-blocking UDP socket with batched receive (UDP_GRO) and batched send (UDP_SEGMENT).

A batch is the unit of work everywhere above: read what the kernel has (bounded), hand it up in one call, send the
answers in as few system calls as possible. One `sendmsg` with UDP_SEGMENT carries up to 64 equal datagrams for one
destination, which costs about a tenth of as many `sendto` calls.
"""

import asyncio
import contextlib
import errno
import ipaddress
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

Address = tuple[str, int]
"""(IP text, port). IPv6 flow info and scope are not carried."""

Datagram = tuple[bytes, Address]

Run = tuple[Address, list[bytes]]
"""Datagrams of one source that came one after the other."""

# Linux <linux/udp.h>; the socket module of Python 3.11..3.13 has no names for them.
UDP_SEGMENT: Final = 103
UDP_GRO: Final = 104
SO_RCVBUFFORCE: Final = 33
SO_SNDBUFFORCE: Final = 32
SO_MEMINFO: Final = 55
SK_MEMINFO_DROPS: Final = 8
SK_MEMINFO_VARS: Final = 9

MAX_GSO_SEGMENTS: Final = 64
MAX_GSO_BYTES: Final = 65000
RECV_BYTES: Final = 65535
ANCILLARY_BYTES: Final = 64
DEFAULT_BUFFER_BYTES: Final = 4 << 20
DEFAULT_BATCH_PACKETS: Final = 256
DEFAULT_BATCH_READS: Final = 64
PAUSE_S: Final = 0.0003

# The kernel or the driver cannot segment for us (EIO: no checksum offload on the route): never ask again.
_NO_GSO_ERRNOS: Final = frozenset({errno.EINVAL, errno.EIO, errno.ENOPROTOOPT, errno.EOPNOTSUPP})
_SEGMENT_SIZE: Final = struct.Struct("=H")

# As plain numbers: what is asked per packet of an enum costs a microsecond each time.
_IPPROTO_UDP: Final = int(socket.IPPROTO_UDP)
_MSG_TRUNC: Final = int(socket.MSG_TRUNC)


class UdpBindError(OSError):
    """The socket could not be bound; the text names the config key and the remedy."""


@dataclass(slots=True)
class UdpCounters:
    """Packets and bytes through one socket. Every datagram not delivered or not sent is in exactly one `dropped_*`."""

    received_packets: int = 0
    received_bytes: int = 0
    sent_packets: int = 0
    sent_bytes: int = 0
    receive_calls: int = 0
    send_calls: int = 0
    receive_errors: int = 0
    dropped_bad_source: int = 0
    dropped_truncated: int = 0
    dropped_send_full: int = 0
    dropped_send_error: int = 0
    gso_disabled: int = 0


class UdpSocket:
    """A bound UDP socket. Not thread safe: one event loop owns it.

    Args:
        bind_addr: IPv4 or IPv6 address text to bind.
        port: 0..65535, 0 asks for an ephemeral one.
        buffer_bytes: wanted SO_RCVBUF and SO_SNDBUF; `receive_buffer_bytes` and `send_buffer_bytes` tell what we got.
        purpose: config key named in an error, e.g. "port".

    Raises:
        UdpBindError: address in use, no permission, or no such address; the message names the remedy.
    """

    def __init__(
        self,
        bind_addr: str,
        port: int,
        *,
        buffer_bytes: int = DEFAULT_BUFFER_BYTES,
        purpose: str = "port",
        gso: bool = True,
        gro: bool = True,
    ) -> None:
        self.counters = UdpCounters()
        family = socket.AF_INET6 if ":" in bind_addr else socket.AF_INET
        self._is_v6 = family == socket.AF_INET6
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        try:
            self._socket.bind((bind_addr, port))
        except OSError as exc:
            self._socket.close()
            raise bind_error(exc, bind_addr, port, purpose) from exc
        self._set_buffers(buffer_bytes)
        self.gso = gso
        self.gro = gro and self._enable_gro()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_runs: Callable[[list[Run]], None] | None = None
        self._bad_hosts: dict[str, bool] = {}
        self.batch_packets = DEFAULT_BATCH_PACKETS
        """About how many datagrams are handed up at a time."""
        self._asked_at = 0.0
        name = self._socket.getsockname()
        self.local_address: Address = (name[0], name[1])

    def _set_buffers(self, wanted: int) -> None:
        for force, plain in ((SO_RCVBUFFORCE, socket.SO_RCVBUF), (SO_SNDBUFFORCE, socket.SO_SNDBUF)):
            try:
                # FORCE passes the sysctl ceiling and needs CAP_NET_ADMIN.
                self._socket.setsockopt(socket.SOL_SOCKET, force, wanted)
            except OSError:
                with contextlib.suppress(OSError):
                    self._socket.setsockopt(socket.SOL_SOCKET, plain, wanted)

    def _enable_gro(self) -> bool:
        try:
            self._socket.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        except OSError:
            return False
        return True

    @property
    def receive_buffer_bytes(self) -> int:
        """Effective SO_RCVBUF as the kernel reports it (twice the payload it promises)."""
        return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)

    @property
    def send_buffer_bytes(self) -> int:
        """Effective SO_SNDBUF as the kernel reports it."""
        return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)

    @property
    def kernel_drops(self) -> int:
        """Datagrams the kernel threw away because our receive buffer was full, since the socket was opened."""
        try:
            info = self._socket.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 4 * SK_MEMINFO_VARS)
        except OSError:
            return 0
        return int.from_bytes(info[4 * SK_MEMINFO_DROPS : 4 * SK_MEMINFO_DROPS + 4], sys.byteorder)

    def fileno(self) -> int:
        """The file descriptor, -1 once closed."""
        return self._socket.fileno()

    def start(self, loop: asyncio.AbstractEventLoop, on_batch: Callable[[list[Datagram]], None]) -> None:
        """Deliver received batches to `on_batch` from now on. `on_batch` must not raise."""

        def on_runs(runs: list[Run]) -> None:
            on_batch([(data, source) for source, run in runs for data in run])

        self.start_runs(loop, on_runs)

    def start_runs(
        self,
        loop: asyncio.AbstractEventLoop,
        on_runs: Callable[[list[Run]], None],
        *,
        max_packets: int = DEFAULT_BATCH_PACKETS,
    ) -> None:
        """The same by source, for who looks at the source of many datagrams once; about `max_packets` at a time."""
        self.batch_packets = max_packets
        self._loop = loop
        self._on_runs = on_runs
        loop.add_reader(self._socket.fileno(), self._readable)

    def close(self) -> None:
        """Stop reading and close the socket; idempotent."""
        if self._loop is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._loop = None
        self._socket.close()

    def _readable(self) -> None:
        # After a pause there is one packet: asking for a second costs a tenth of what relaying the first does. Whatever
        # else is there makes the loop call again at once.
        asked, self._asked_at = self._asked_at, time.monotonic()
        runs = self.receive_runs(self.batch_packets, 1 if self._asked_at - asked > PAUSE_S else DEFAULT_BATCH_READS)
        if runs and self._on_runs is not None:
            self._on_runs(runs)

    def receive(self, max_packets: int = DEFAULT_BATCH_PACKETS, max_reads: int = DEFAULT_BATCH_READS) -> list[Datagram]:
        """Read what is waiting, at most about `max_packets` datagrams, splitting what GRO had joined. Never raises."""
        return [(data, source) for source, run in self.receive_runs(max_packets, max_reads) for data in run]

    def receive_runs(self, max_packets: int = DEFAULT_BATCH_PACKETS, max_reads: int = DEFAULT_BATCH_READS) -> list[Run]:
        """What `receive` returns, by source."""
        counters, bad_hosts = self.counters, self._bad_hosts
        recvmsg = self._socket.recvmsg
        runs: list[Run] = []
        total = 0
        for _ in range(max_reads):
            try:
                data, ancillary, flags, source = recvmsg(RECV_BYTES, ANCILLARY_BYTES)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                # A queued ICMP error of an earlier send (ECONNREFUSED, EHOSTUNREACH): about one packet, not about us.
                counters.receive_errors += 1
                continue
            counters.receive_calls += 1
            address: Address = source if not self._is_v6 else (source[0], source[1])
            segment = len(data)
            if ancillary:
                for level, kind, value in ancillary:
                    if level == _IPPROTO_UDP and kind == UDP_GRO and len(value) >= 2:
                        segment = int.from_bytes(value[:4], sys.byteorder) or segment
            count = 1 if segment >= len(data) else -(-len(data) // segment)
            if flags & _MSG_TRUNC:
                counters.dropped_truncated += count
                continue
            bad = bad_hosts.get(address[0])
            if address[1] == 0 or (self._is_bad_host(address[0]) if bad is None else bad):
                counters.dropped_bad_source += count
                continue
            counters.received_packets += count
            counters.received_bytes += len(data)
            if not runs or runs[-1][0] != address:
                runs.append((address, []))
            if count == 1:
                runs[-1][1].append(data)
            else:
                runs[-1][1].extend([data[at : at + segment] for at in range(0, len(data), segment)])
            total += count
            if total >= max_packets:
                break
        return runs

    def _is_bad_host(self, host: str) -> bool:
        """Multicast, broadcast or unspecified sources exist only in forged packets. Memoised: parsing costs 2 us."""
        if len(self._bad_hosts) >= 4096:
            self._bad_hosts.clear()
        bad = self._bad_hosts[host] = is_bad_source(host)
        return bad

    def send_batch(self, datagrams: Iterable[Datagram]) -> None:
        """Send all in order, joining runs of equal size to one destination. Errors are counted, not raised."""
        run: list[bytes] = []
        run_to: Address | None = None
        run_size = run_bytes = 0
        for data, to in datagrams:
            size = len(data)
            if (
                run
                and to == run_to
                and 0 < size <= run_size
                and run_bytes + size <= MAX_GSO_BYTES
                and len(run) < MAX_GSO_SEGMENTS
            ):
                run.append(data)
                run_bytes += size
                if size == run_size:
                    continue
                # A shorter segment may only be the last one of a GSO send.
                self._send_run(run, run_size, to)
                run = []
                continue
            if run and run_to is not None:
                self._send_run(run, run_size, run_to)
            run, run_to, run_size, run_bytes = [data], to, size, size
        if run and run_to is not None:
            self._send_run(run, run_size, run_to)

    def send_all(self, packets: Sequence[bytes], to: Address) -> None:
        """`send_batch` to one destination."""
        count = len(packets)
        if count == 1:
            self.send(packets[0], to)
            return
        sizes = list(map(len, packets))
        at = 0
        while at < count:
            size = sizes[at]
            last = min(count, at + MAX_GSO_SEGMENTS, at + max(1, MAX_GSO_BYTES // max(1, size)))
            end = at + 1
            if sizes[at:last].count(size) == last - at:
                end = last
            while end < last and sizes[end] == size:
                end += 1
            if end < last and 0 < sizes[end] < size:
                # A shorter segment may only be the last one of a GSO send.
                end += 1
            self._send_run(packets[at:end], size, to)
            at = end

    def _send_run(self, run: Sequence[bytes], size: int, to: Address) -> None:
        if len(run) > 1 and self.gso:
            control = [(_IPPROTO_UDP, UDP_SEGMENT, _SEGMENT_SIZE.pack(size))]
            try:
                sent = self._socket.sendmsg(run, control, 0, to)
            except (BlockingIOError, InterruptedError):
                self.counters.dropped_send_full += len(run)
                return
            except OSError as exc:
                if exc.errno not in _NO_GSO_ERRNOS:
                    self.counters.dropped_send_error += len(run)
                    return
                self.gso = False
                self.counters.gso_disabled += 1
            else:
                self.counters.send_calls += 1
                self.counters.sent_packets += len(run)
                self.counters.sent_bytes += sent
                return
        for data in run:
            self.send(data, to)

    def send(self, data: bytes, to: Address) -> bool:
        """Send one datagram; False (and one counter) when the kernel would not take it."""
        try:
            sent = self._socket.sendto(data, to)
        except (BlockingIOError, InterruptedError):
            self.counters.dropped_send_full += 1
            return False
        except (OSError, OverflowError, TypeError):
            self.counters.dropped_send_error += 1
            return False
        self.counters.send_calls += 1
        self.counters.sent_packets += 1
        self.counters.sent_bytes += sent
        return True


def is_bad_source(host: str) -> bool:
    """True for sources no honest peer has: multicast, limited broadcast, unspecified, or text that is no address."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return True
    return address.is_multicast or address.is_unspecified or host == "255.255.255.255"


def bind_error(exc: OSError, bind_addr: str, port: int, purpose: str) -> UdpBindError:
    """Turn a bind failure into a sentence naming the config key and what to do."""
    place = f"cannot bind UDP {purpose}={port} on {bind_addr}"
    match exc.errno:
        case errno.EADDRINUSE:
            holder = f"`ss -lunp 'sport = :{port}'`"
            text = f"{place}: the port is in use; stop its holder ({holder}) or set another `{purpose}`"
        case errno.EACCES | errno.EPERM:
            remedy = f"set `{purpose}` to 1024 or above"
            text = f"{place}: ports below 1024 need root or CAP_NET_BIND_SERVICE; {remedy}"
        case errno.EADDRNOTAVAIL:
            text = f"{place}: no interface of this host has that address; set `bind_addr` to 0.0.0.0 or a local address"
        case _:
            text = f"{place}: {exc.strerror or exc}"
    return UdpBindError(text)
