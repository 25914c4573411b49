"""Routes of single addresses, set and asked for over rtnetlink (rtnetlink(7)) from an event loop: one short exchange.

pyroute2 runs an event loop of its own, which cannot be nested in ours.
"""

import errno
import os
import socket
from struct import Struct
from typing import Final

RTM_NEWROUTE: Final = 24
RTM_DELROUTE: Final = 25
RTM_GETROUTE: Final = 26
NLM_F_REQUEST: Final = 0x01
NLM_F_ACK: Final = 0x04
NLM_F_REPLACE: Final = 0x100
NLM_F_EXCL: Final = 0x200
NLM_F_CREATE: Final = 0x400
NLMSG_ERROR: Final = 2
RTA_DST: Final = 1
RTA_OIF: Final = 4
RTA_PREFSRC: Final = 7
RTA_METRICS: Final = 8
RTA_IP_PROTO: Final = 27
RTA_SPORT: Final = 28
RTA_DPORT: Final = 29
RTAX_MTU: Final = 2
RT_TABLE_MAIN: Final = 254
RTPROT_STATIC: Final = 4
RT_SCOPE_LINK: Final = 253
RTN_UNICAST: Final = 1
TIMEOUT_S: Final = 1.0

_HEADER: Final = Struct("=IHHII")
_ROUTE: Final = Struct("=BBBBBBBBI")
_ATTRIBUTE: Final = Struct("=HH")
_WORD: Final = Struct("=I")
_ERROR: Final = Struct("=i")


def add_route(address: str, interface: int) -> None:
    """Route an address to an interface. Raises OSError: EEXIST if it has a route of its own already."""
    _ask(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, address, interface)


def set_route(address: str, interface: int, *, mtu_bytes: int | None, source: str | None) -> None:
    """Say how large packets to a routed address may be, and what address of this host speaks to it by default.

    Raises:
        OSError: the kernel refuses.
    """
    more = b"" if source is None else _attribute(RTA_PREFSRC, socket.inet_aton(source))
    if mtu_bytes is not None:
        more += _attribute(RTA_METRICS, _attribute(RTAX_MTU, _WORD.pack(mtu_bytes)))
    _ask(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, address, interface, more)


def remove_route(address: str, interface: int) -> None:
    """Take a route away. Raises OSError: ESRCH if there is none."""
    _ask(RTM_DELROUTE, 0, address, interface)


def udp_source(to: tuple[str, int], port: int) -> str:
    """Return the address that UDP from local port `port` leaves with towards `to`, as routing rules have it.

    Rules may go by the port (`ip rule add ipproto udp sport 4433 ...`), so that a socket of another port tells nothing.

    Raises:
        OSError: no route, or the kernel says no address.
    """
    family = socket.AF_INET6 if ":" in to[0] else socket.AF_INET
    destination = socket.inet_pton(family, to[0])
    body = _ROUTE.pack(family, 8 * len(destination), 0, 0, 0, 0, 0, 0, 0)
    body += _attribute(RTA_DST, destination) + _attribute(RTA_IP_PROTO, bytes((socket.IPPROTO_UDP,)))
    body += _attribute(RTA_SPORT, port.to_bytes(2, "big")) + _attribute(RTA_DPORT, to[1].to_bytes(2, "big"))
    answer = _exchange(RTM_GETROUTE, NLM_F_REQUEST, body)
    length, answered, _, _, _ = _HEADER.unpack_from(answer)
    if answered == NLMSG_ERROR:
        (code,) = _ERROR.unpack_from(answer, _HEADER.size)
        raise OSError(-code or errno.EPROTO, os.strerror(-code or errno.EPROTO))
    at = _HEADER.size + _ROUTE.size
    while answered == RTM_NEWROUTE and at + _ATTRIBUTE.size <= min(length, len(answer)):
        size, kind = _ATTRIBUTE.unpack_from(answer, at)
        if kind == RTA_PREFSRC:
            return socket.inet_ntop(family, answer[at + _ATTRIBUTE.size : at + size])
        at += max(size + 3 & ~3, _ATTRIBUTE.size)
    raise OSError(errno.EADDRNOTAVAIL, "the routing table names no source address")


def _ask(kind: int, flags: int, address: str, interface: int, more: bytes = b"") -> None:
    body = _ROUTE.pack(
        socket.AF_INET, 32, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_LINK, RTN_UNICAST, 0
    )  # fmt: skip
    body += _attribute(RTA_DST, socket.inet_aton(address)) + _attribute(RTA_OIF, _WORD.pack(interface)) + more
    answer = _exchange(kind, NLM_F_REQUEST | NLM_F_ACK | flags, body)
    _, answered, _, _, _ = _HEADER.unpack_from(answer)
    (code,) = _ERROR.unpack_from(answer, _HEADER.size)
    if answered != NLMSG_ERROR:
        raise OSError(errno.EPROTO, "the kernel answered something else")
    if code:
        raise OSError(-code, os.strerror(-code))


def _exchange(kind: int, flags: int, body: bytes) -> bytes:
    request = _HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as netlink:
        netlink.settimeout(TIMEOUT_S)
        netlink.bind((0, 0))
        netlink.send(request)
        return netlink.recv(65536)


def _attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(payload), kind) + payload + bytes(-len(payload) % 4)
