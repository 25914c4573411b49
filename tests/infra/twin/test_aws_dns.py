"""The resolver of a VPC, as messages of the DNS."""

import dns.message
import dns.rcode
import dns.rdatatype

from infra.twin.aws_dns import answer

TABLE = {"http-app.ztna.internal": (10, ["10.0.2.4", "10.0.2.5"]), "nobody.ztna.internal": (10, [])}


def ask(name: str, kind: str = "A") -> dns.message.Message:
    """What the resolver answers."""
    wire = answer(dns.message.make_query(name, kind).to_wire(), TABLE)
    assert wire is not None
    return dns.message.from_wire(wire)


def test_a_name_has_all_its_addresses_whatever_its_case() -> None:
    found = ask("HTTP-App.ztna.internal").answer[0]
    assert (found.ttl, sorted(item.address for item in found)) == (10, ["10.0.2.4", "10.0.2.5"])


def test_no_address_is_no_error_and_an_unknown_name_is_one() -> None:
    for name, kind in (("nobody.ztna.internal", "A"), ("http-app.ztna.internal", "AAAA")):
        made = ask(name, kind)
        assert (made.rcode(), made.answer) == (dns.rcode.NOERROR, [])
    assert ask("example.org").rcode() == dns.rcode.NXDOMAIN


def test_what_is_no_query_has_no_answer() -> None:
    answered = dns.message.make_response(dns.message.make_query("x.org", "A")).to_wire()
    assert answer(answered, TABLE) is None
    assert answer(b"junk", TABLE) is None
