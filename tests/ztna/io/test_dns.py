"""The DNS responder: the zone's answers, and the socket with a stock resolver."""

import asyncio
import socket

import dns.asyncquery
import dns.message
import dns.opcode
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztna.io.dns import DnsResponder, ServiceZone
from ztna.io.udp import UdpBindError

SERVICES = {"echo-service": "100.64.0.100", "HTTP-app": "100.64.0.101", "x" * 70: "100.64.0.102"}


def ask(zone: ServiceZone, name: str, kind: str = "A") -> dns.message.Message:
    answer = zone.answer(dns.message.make_query(name, kind).to_wire())
    assert answer is not None
    return dns.message.from_wire(answer)


@pytest.mark.parametrize(
    ("name", "address"), [("echo-service.ztna.", "100.64.0.100"), ("http-APP.Ztna.", "100.64.0.101")]
)
def test_service_has_its_virtual_ip(name: str, address: str) -> None:
    zone = ServiceZone(SERVICES)
    answer = ask(zone, name)
    assert answer.rcode() == dns.rcode.NOERROR
    assert [str(record) for rrset in answer.answer for record in rrset] == [address]
    assert zone.counters.answered == 1


@pytest.mark.parametrize(
    ("name", "kind", "rcode"),
    [
        ("echo-service.ztna.", "AAAA", dns.rcode.NOERROR),
        ("ztna.", "SOA", dns.rcode.NOERROR),
        ("nothing.ztna.", "A", dns.rcode.NXDOMAIN),
        ("a.echo-service.ztna.", "A", dns.rcode.NXDOMAIN),
        ("example.org.", "A", dns.rcode.REFUSED),
        ("echo-service.", "A", dns.rcode.REFUSED),
        (".", "NS", dns.rcode.REFUSED),
    ],
)
def test_everything_else_has_no_record(name: str, kind: str, rcode: dns.rcode.Rcode) -> None:
    answer = ask(ServiceZone(SERVICES), name, kind)
    assert answer.rcode() == rcode
    assert answer.answer == []


def test_other_opcodes_are_not_implemented() -> None:
    query = dns.message.make_query("echo-service.ztna.", "A")
    query.set_opcode(dns.opcode.NOTIFY)
    answer = ServiceZone(SERVICES).answer(query.to_wire())
    assert answer is not None
    assert dns.message.from_wire(answer).rcode() == dns.rcode.NOTIMP


def test_answers_are_never_answered() -> None:
    zone = ServiceZone(SERVICES)
    query = dns.message.make_query("echo-service.ztna.", "A")
    assert zone.answer(dns.message.make_response(query).to_wire()) is None
    assert zone.counters.dropped_malformed == 1


@given(st.binary(max_size=200))
def test_junk_never_raises(data: bytes) -> None:
    ServiceZone(SERVICES).answer(data)


@given(st.data())
def test_damaged_queries_never_raise(data: st.DataObject) -> None:
    wire = bytearray(dns.message.make_query("echo-service.ztna.", "A", use_edns=True).to_wire())
    for _ in range(data.draw(st.integers(1, 4))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    ServiceZone(SERVICES).answer(bytes(wire))


async def test_resolver_gets_its_answer_over_udp() -> None:
    responder = DnsResponder(ServiceZone(SERVICES), ("127.0.0.1", 0), asyncio.get_running_loop())
    host, port = responder.address
    query = dns.message.make_query("echo-service.ztna.", dns.rdatatype.A)
    answer = await dns.asyncquery.udp(query, host, timeout=5, port=port)
    assert [str(record) for rrset in answer.answer for record in rrset] == ["100.64.0.100"]
    responder.close()
    responder.close()


async def test_taken_address_names_the_key() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("127.0.0.1", 0))
        with pytest.raises(UdpBindError, match=r"dns\.listen"):
            DnsResponder(ServiceZone(SERVICES), holder.getsockname(), asyncio.get_running_loop())
