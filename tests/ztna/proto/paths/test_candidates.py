"""Candidates: priorities, foundations, and the remote addresses that are refused."""

import pytest

from ztna.proto.paths.candidates import (
    CandidateType,
    foundation,
    host_candidate,
    is_private,
    local_preference,
    priority,
    refusal,
    signalled_hosts,
    srflx_candidate,
)
from ztna.proto.paths.stun_types import Endpoint

OWN = {Endpoint("192.168.1.10", 40000)}
RELAY = Endpoint("198.51.100.1", 4433)


def test_priority_is_that_of_the_formula() -> None:
    """RFC 8445 s5.1.2.1: type preference << 24, local preference << 8, 256 - component."""
    assert priority(CandidateType.HOST, 65535) == 2130706431
    assert priority(CandidateType.SRFLX, 65535) == 1694498815
    assert priority(CandidateType.PRFLX, 65535) == 1862270975
    assert priority(CandidateType.RELAY, 65535) == 16777215


def test_host_beats_reflexive_and_v6_beats_v4() -> None:
    """The order in which pairs are tried and preferred."""
    v4 = host_candidate(0, Endpoint("192.168.1.10", 40000), 0)
    v6 = host_candidate(1, Endpoint("2001:db8::1", 40001), 0)
    second = host_candidate(0, Endpoint("10.0.0.1", 40000), 1)
    mapped = srflx_candidate(0, Endpoint("203.0.113.5", 61000), v4.endpoint, RELAY)
    assert v6.priority > v4.priority > second.priority > mapped.priority
    assert mapped.related == v4.endpoint
    assert local_preference("10.0.0.1", 10**6) == 0


def test_foundations_group_by_type_base_and_server() -> None:
    """RFC 8445 s5.1.1.3."""
    assert foundation(CandidateType.HOST, "10.0.0.1") == foundation(CandidateType.HOST, "10.0.0.1")
    others = {
        foundation(CandidateType.HOST, "10.0.0.1"),
        foundation(CandidateType.HOST, "10.0.0.2"),
        foundation(CandidateType.SRFLX, "10.0.0.1"),
        foundation(CandidateType.SRFLX, "10.0.0.1", "198.51.100.1"),
    }
    assert len(others) == 4
    assert all(1 <= len(text) <= 32 and text.isalnum() for text in others)


@pytest.mark.parametrize(
    ("host", "port", "why"),
    [
        ("203.0.113.5", 40000, None),
        ("10.1.2.3", 40000, None),
        ("2001:db8::5", 40000, None),
        ("192.168.1.10", 40000, "own"),
        ("192.168.1.10", 40001, None),
        ("198.51.100.1", 4433, "relay"),
        ("0.0.0.0", 40000, "unspecified"),
        ("::", 40000, "unspecified"),
        ("224.0.0.1", 40000, "multicast"),
        ("ff02::1", 40000, "multicast"),
        ("255.255.255.255", 40000, "broadcast"),
        ("169.254.169.254", 80, "link-local"),
        ("fe80::1", 40000, "link-local"),
        ("fe80::1%eth0", 40000, "malformed"),
        # Which of the two texts is canonical depends on the Python version; refused as malformed or as mapped.
        ("::ffff:10.0.0.1", 40000, "ma"),
        ("::ffff:a00:1", 40000, "ma"),
        ("127.0.0.1", 40000, "loopback"),
        ("::1", 40000, "loopback"),
        ("203.0.113.5", 0, "port"),
        ("203.0.113.5", 65536, "port"),
        ("203.0.113.5", -1, "port"),
        ("203.0.113.5", "80", "port"),
        ("2001:DB8::5", 40000, "malformed"),
        ("2001:db8:0::5", 40000, "malformed"),
        ("example.com", 40000, "malformed"),
        ("", 40000, "malformed"),
        (None, 40000, "malformed"),
        (3405803781, 40000, "malformed"),
    ],
)
def test_refusal(host: object, port: object, why: str | None) -> None:
    """Addresses that no peer has a reason to name are not sent to."""
    endpoint = Endpoint(host, port)  # type: ignore[arg-type]
    assert (refusal(endpoint, OWN, RELAY) or "").startswith(why or "")
    assert (refusal(endpoint, OWN, RELAY) is None) == (why is None)


def test_loopback_is_taken_between_loopback_hosts() -> None:
    """Both sides on one machine without another address: tests, and nothing else."""
    own = {Endpoint("127.0.0.1", 40000)}
    assert refusal(Endpoint("127.0.0.1", 40001), own, None) is None
    assert refusal(Endpoint("127.0.0.1", 40001), own | OWN, None) == "loopback"
    assert refusal(Endpoint("127.0.0.1", 40001), (), None) == "loopback"


def test_signalled_hosts_leave_out_what_no_peer_can_reach() -> None:
    """Loopback only where there is nothing else, link-local never, twelve at most."""
    hosts = [Endpoint(h, 1) for h in ("127.0.0.1", "169.254.1.1", "fe80::1", "10.0.0.1", "not an address")]
    entries = [(0, endpoint) for endpoint in hosts]
    assert signalled_hosts(entries) == [(0, Endpoint("10.0.0.1", 1))]
    assert signalled_hosts(entries[:2]) == [(0, Endpoint("127.0.0.1", 1))]
    assert len(signalled_hosts([(0, Endpoint(f"10.0.0.{n}", 1)) for n in range(1, 60)])) == 12


def test_private_addresses() -> None:
    """What is not of the public internet."""
    assert all(is_private(h) for h in ("10.0.0.1", "100.64.0.1", "192.168.0.1", "fd00::1", "127.0.0.1", "nonsense"))
    assert not is_private("1.1.1.1")
    assert not is_private("2606:4700::1111")
