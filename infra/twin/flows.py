"""Forgetting the connections of an address in the namespace that this runs in: of a task or pod that is gone, of an
instance whose elastic IP is another's now. Connection tracking would send what goes on to where it began.

    python -m infra.twin.flows ADDRESS...
"""

import socket
import sys
from typing import Any, Final

from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple, NFCTSocket

_ENDS: Final = ("CTA_IP_V4_SRC", "CTA_IP_V4_DST")


def forget_flows(address: str) -> int:
    """Delete every tracked connection from or to an IPv4 address, and return how many there were.

    A flow that a load balancer sent there begins anew with its next packet, and finds another target.
    """
    gone = 0
    with NFCTSocket() as netlink:
        for entry in list(netlink.dump()):
            original, reply = (entry.get_attr(f"CTA_TUPLE_{side}") for side in ("ORIG", "REPLY"))
            if original is None or address not in {*_addresses(original), *_addresses(reply)}:
                continue
            try:
                netlink.entry("del", tuple_orig=_tuple(original))
            except OSError:  # it went by itself
                continue
            gone += 1
    return gone


def _addresses(found: Any) -> set[str]:
    ends = found.get_attr("CTA_TUPLE_IP") if found is not None else None
    return {str(ends.get_attr(name)) for name in _ENDS} if ends is not None else set()


def _tuple(found: Any) -> NFCTAttrTuple:
    ends, proto = found.get_attr("CTA_TUPLE_IP"), found.get_attr("CTA_TUPLE_PROTO")
    number = proto.get_attr("CTA_PROTO_NUM")
    given: dict[str, Any] = {
        "sport": proto.get_attr("CTA_PROTO_SRC_PORT"),
        "dport": proto.get_attr("CTA_PROTO_DST_PORT"),
    }
    if number == socket.IPPROTO_ICMP:
        kinds = {"icmp_id": "ID", "icmp_type": "TYPE", "icmp_code": "CODE"}
        given = {key: proto.get_attr(f"CTA_PROTO_ICMP_{name}") for key, name in kinds.items()}
    source, destination = (ends.get_attr(name) for name in _ENDS)
    return NFCTAttrTuple(family=socket.AF_INET, saddr=source, daddr=destination, proto=number, **given)


if __name__ == "__main__":
    for each in sys.argv[1:]:
        forget_flows(each)
