"""The resolver of a VPC: answers names of Cloud Map and load balancers from a table; knows no other name."""

import socket
import threading
from collections.abc import Callable, Mapping
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

LARGEST: Final = 4096
Table = Mapping[str, tuple[int, list[str]]]


def answer(query: bytes, table: Table) -> bytes | None:
    """Return the answer to a query; None for what is none.

    A name that is known and has no address of the type asked for has an empty answer (RFC 2308 section 2.2).
    """
    try:
        asked = dns.message.from_wire(query)
    except dns.exception.DNSException:
        return None
    if asked.flags & dns.flags.QR or len(asked.question) != 1:
        return None
    made = dns.message.make_response(asked, recursion_available=True)
    question = asked.question[0]
    found = table.get(str(question.name).rstrip(".").lower())
    if found is None:
        made.set_rcode(dns.rcode.NXDOMAIN)
    elif question.rdtype == dns.rdatatype.A and found[1]:
        made.answer.append(dns.rrset.from_text(question.name, found[0], "IN", "A", *found[1]))
    return made.to_wire()


def serve(address: str, table: Callable[[], Table]) -> threading.Thread:
    """Answer on UDP port 53 of an address until the process ends.

    Raises:
        OSError: the address is not there, or another answers there.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((address, 53))

    def run() -> None:
        while True:
            query, source = sock.recvfrom(LARGEST)
            if (made := answer(query, table())) is not None:
                sock.sendto(made, source)

    thread = threading.Thread(target=run, name="dns", daemon=True)
    thread.start()
    return thread
