"""`SERVICE.ztna` answered on loopback, so that a service can be called by its name (RFC 1035, codec dnspython).

The zone `ztna` is all we know: a service of the agent has one A record, another name in the zone does not exist
(NXDOMAIN), and anything else is REFUSED, so that a resolver configured to ask us for everything moves on at once.
"""

import asyncio
import contextlib
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from ztna.io.udp import Address, bind_error

ZONE: Final = dns.name.from_text("ztna.")
TTL_S: Final = 60
MAX_QUERY_BYTES: Final = 1232
BATCH_READS: Final = 64


@dataclass(slots=True)
class DnsCounters:
    """Queries and what became of them."""

    answered: int = 0
    no_such_name: int = 0
    refused: int = 0
    dropped_malformed: int = 0
    send_errors: int = 0


class ServiceZone:
    """The zone's contents and the answer to a query; no socket here.

    Args:
        services: service id -> IPv4 address text. Ids are matched without regard to case (RFC 4343).
    """

    def __init__(self, services: Mapping[str, str]) -> None:
        self.counters = DnsCounters()
        self._addresses: dict[dns.name.Name, str] = {}
        for service, address in services.items():
            # An id that is no DNS label (empty, or over 63 bytes) has no name; its address still works.
            with contextlib.suppress(dns.exception.DNSException, UnicodeError):
                self._addresses[dns.name.from_text(service.lower(), ZONE)] = address

    def answer(self, data: bytes) -> bytes | None:
        """Answer one query, None where even an error answer would be wrong (junk, or itself an answer)."""
        try:
            query = dns.message.from_wire(data, ignore_trailing=True)
        except dns.exception.DNSException:
            self.counters.dropped_malformed += 1
            return None
        if query.flags & dns.flags.QR:
            self.counters.dropped_malformed += 1
            return None
        response = dns.message.make_response(query)
        if query.opcode() != dns.opcode.QUERY:
            response.set_rcode(dns.rcode.NOTIMP)
            self.counters.refused += 1
        elif len(query.question) != 1:
            response.set_rcode(dns.rcode.FORMERR)
            self.counters.dropped_malformed += 1
        else:
            self._answer_question(query.question[0], response)
        return response.to_wire()

    def _answer_question(self, question: dns.rrset.RRset, response: dns.message.Message) -> None:
        if not question.name.is_subdomain(ZONE) or question.rdclass != dns.rdataclass.IN:
            response.set_rcode(dns.rcode.REFUSED)
            self.counters.refused += 1
            return
        response.flags |= dns.flags.AA
        address = self._addresses.get(question.name)
        if address is None and question.name != ZONE:
            response.set_rcode(dns.rcode.NXDOMAIN)
            self.counters.no_such_name += 1
            return
        self.counters.answered += 1
        if address is not None and question.rdtype in (dns.rdatatype.A, dns.rdatatype.ANY):
            response.answer.append(dns.rrset.from_text(question.name, TTL_S, "IN", "A", address))


class DnsResponder:
    """The UDP socket in front of a zone.

    Raises:
        UdpBindError: the address cannot be bound; the text names `dns.listen`.
    """

    def __init__(self, zone: ServiceZone, listen: Address, loop: asyncio.AbstractEventLoop) -> None:
        self.zone = zone
        self._loop = loop
        family = socket.AF_INET6 if ":" in listen[0] else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            self._socket.bind(listen)
        except OSError as exc:
            self._socket.close()
            raise bind_error(exc, listen[0], listen[1], "dns.listen") from exc
        loop.add_reader(self._socket.fileno(), self._readable)

    @property
    def address(self) -> Address:
        """Where it listens."""
        name = self._socket.getsockname()
        return name[0], name[1]

    def close(self) -> None:
        """Stop answering; idempotent."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()

    def _readable(self) -> None:
        for _ in range(BATCH_READS):
            try:
                data, source = self._socket.recvfrom(MAX_QUERY_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                continue
            answer = self.zone.answer(data)
            if answer is not None:
                try:
                    self._socket.sendto(answer, source)
                except OSError:
                    self.zone.counters.send_errors += 1
