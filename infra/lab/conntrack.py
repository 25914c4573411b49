"""Forgetting every connection of the network namespace this runs in; run as a file, needs nothing but Python.

A NAT's rules only decide about new connections: those that conntrack knows keep their translation until they idle out.

Source: linux/netfilter/nfnetlink_conntrack.h, IPCTNL_MSG_CT_DELETE without a tuple.
"""

import os
import socket
import struct
import sys

_NETLINK_NETFILTER = 12
_CT_DELETE = (1 << 8) | 2  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE
_REQUEST_ACK = 0x1 | 0x4
_HEADER = struct.Struct("=IHHII")


def flush() -> None:
    """Delete all conntrack entries here.

    Raises:
        OSError: the kernel refused.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as netlink:
        netlink.bind((0, 0))
        family = struct.pack("=BBH", socket.AF_UNSPEC, 0, 0)
        netlink.send(_HEADER.pack(_HEADER.size + len(family), _CT_DELETE, _REQUEST_ACK, 1, 0) + family)
        answer = netlink.recv(4096)
        (error,) = struct.unpack_from("=i", answer, _HEADER.size)
        if error:
            raise OSError(-error, os.strerror(-error))


if __name__ == "__main__":
    try:
        flush()
    except OSError as trouble:
        sys.exit(f"conntrack entries stay: {trouble}")
