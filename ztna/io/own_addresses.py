"""This host's addresses by rtnetlink (RFC 3549), in one call that does not wait and may be made on an event loop."""

import ipaddress
import socket
import struct
from typing import Final

_RTM_NEWADDR, _RTM_GETADDR = 20, 22
_ERROR, _DONE = 2, 3
_REQUEST_DUMP: Final = 0x301
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_HEADER: Final = struct.Struct("=IHHII")
_ADDRESS: Final = struct.Struct("=BBBBI")
_ATTRIBUTE: Final = struct.Struct("=HH")


def own_addresses() -> frozenset[str]:
    """All addresses of this network namespace, loopback included, in canonical text; empty where netlink is refused."""
    found: set[str] = set()
    request = _HEADER.pack(_HEADER.size + _ADDRESS.size, _RTM_GETADDR, _REQUEST_DUMP, 1, 0) + bytes(_ADDRESS.size)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as netlink:
            netlink.settimeout(1.0)
            netlink.send(request)
            while not _take(netlink.recv(1 << 17), found):
                pass
    except OSError:
        return frozenset()
    return frozenset(found)


def _take(data: bytes, found: set[str]) -> bool:
    """Read one answer; True when it was the last."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, at)
        if kind in (_DONE, _ERROR) or length < _HEADER.size:
            return True
        if kind == _RTM_NEWADDR:
            attributes = _attributes(data[at + _HEADER.size + _ADDRESS.size : at + length])
            packed = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
            if packed is not None and len(packed) in (4, 16):
                found.add(str(ipaddress.ip_address(packed)))
        at += (length + 3) & ~3
    return False


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            break
        found[kind] = data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
    return found
