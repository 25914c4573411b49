"""Sockets that share the relay's address and port, each connected to one proven endpoint.

The kernel delivers a connected socket's 4-tuple to it and everything else to the main socket. Several sockets on one
port need SO_REUSEADDR on all of them when one is bound; the main socket has it only for that moment, so that at all
other times it keeps every other process off the port. Between bind and connect the new socket draws datagrams of
others: they are read again and handed on, so none is lost.
"""

import array
import contextlib
import errno
import socket
import struct
import sys
from collections.abc import Iterator
from typing import Final

from ztna.io.forward.types import ForwardError
from ztna.io.routes import udp_source
from ztna.io.udp import SO_RCVBUFFORCE, SO_SNDBUFFORCE, UDP_GRO
from ztna.proto.paths.stun_types import Endpoint
from ztna.proto.relay_addresses import canonical

BUFFER_BYTES: Final = 4 << 20
# Linux <linux/in.h>, <linux/in6.h>: set Don't Fragment, ignore the cached path MTU; QUIC probes it itself (RFC 8899).
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE = 10, 23, 3
# Linux <linux/filter.h>: one instruction that accepts 0 bytes of a packet.
_SO_ATTACH_FILTER, _BPF_RETURN = 26, 0x06
_WILDCARDS: Final = frozenset({"0.0.0.0", "::"})
_STRAYS: Final = 1024
_NOT_TO_BE_ASKED: Final = (errno.EPERM, errno.EACCES, errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTO)
"""rtnetlink is not there for this process, or says nothing: a sandbox."""

Stray = tuple[bytes, Endpoint]


def open_towards(end: Endpoint, host: str, port: int, main_fd: int) -> tuple[socket.socket, list[Stray]]:
    """Open a socket on the relay's address and port that is connected to `end`.

    Args:
        host, port: what the main socket is bound to.
        main_fd: its descriptor.

    Returns:
        The socket, non-blocking, and the datagrams of others that came between bind and connect.

    Raises:
        ForwardError: no such family, no route, or no descriptors left.
    """
    is_v6 = ":" in end.host
    if host != "::" and is_v6 != (":" in host):
        raise ForwardError(f"the relay's socket has no IPv{6 if is_v6 else 4}")
    family = socket.AF_INET6 if is_v6 else socket.AF_INET
    try:
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    except OSError as exc:
        raise ForwardError(f"no socket to be had: {exc.strerror}") from exc
    try:
        own = source_towards(end, port) if host in _WILDCARDS else host
        _set_options(sock, is_v6=is_v6)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with _shared(main_fd):
            sock.bind((own, port))
        sock.connect((end.host, end.port))
        return sock, _strays(sock)
    except OSError as exc:
        sock.close()
        raise ForwardError(f"no socket towards a side: {exc.strerror}") from exc


def source_towards(end: Endpoint, port: int) -> str:
    """The address that packets of the relay's port to `end` leave with: what the side knows the relay by.

    The routing rules decide, as for the main socket's own answers. A host may have an address for this port alone,
    such as the anchor address of a DigitalOcean droplet with a reserved address.

    Raises:
        OSError: no route.
    """
    try:
        return udp_source((end.host, end.port), port)
    except OSError as exc:
        if exc.errno not in _NOT_TO_BE_ASKED:
            raise
    family = socket.AF_INET6 if ":" in end.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((end.host, end.port))
        return str(probe.getsockname()[0])


def refuse_all(sock: socket.socket) -> None:
    """Let the kernel drop whatever comes to a socket from now on, for every process that has it open."""
    instruction = struct.pack("=HBBI", _BPF_RETURN, 0, 0, 0)
    memory = array.array("B", instruction)
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", 1, memory.buffer_info()[0]))


def _set_options(sock: socket.socket, *, is_v6: bool) -> None:
    for force, plain in ((SO_RCVBUFFORCE, socket.SO_RCVBUF), (SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, force, BUFFER_BYTES)
        except OSError:
            sock.setsockopt(socket.SOL_SOCKET, plain, BUFFER_BYTES)
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    if is_v6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)


@contextlib.contextmanager
def _shared(fd: int) -> Iterator[None]:
    main = socket.socket(fileno=fd)
    try:
        main.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        yield
    finally:
        main.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        main.detach()


def _strays(sock: socket.socket) -> list[Stray]:
    """What the socket drew before it was connected; also of its own peer, since the main handler may sort it anew."""
    found: list[Stray] = []
    while len(found) < _STRAYS:
        try:
            data, ancillary, _, address = sock.recvmsg(65535, 64)
        except OSError:
            return found
        segment = next(
            (int.from_bytes(value[:2], sys.byteorder) for level, kind, value in ancillary if kind == UDP_GRO), len(data)
        )
        step = segment or 1
        found += [(data[at : at + step], canonical(address[0], address[1])) for at in range(0, len(data), step)]
    return found
