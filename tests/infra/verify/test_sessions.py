"""Sessions as the status pages have them, and pages that lack what others have."""

import pytest

from infra.verify.sessions import (
    Switch,
    find_by_service,
    find_session,
    host_of,
    port_of,
    read_relay,
    read_sessions,
)
from tests.infra.verify.pages import NAT, SESSION, client_page, relay_page, session


def test_a_session_is_read_as_the_contract_has_it() -> None:
    (found,) = read_sessions(client_page("agent", session()))
    assert (found.session, found.peer_name, found.path, found.state) == (SESSION, "connector", "direct", "ready")
    assert (found.peer_host, found.rtt_ms, found.since_s, found.loss, found.switches) == (
        "172.20.0.22",
        1.25,
        12.5,
        0,
        1,
    )
    assert (found.bytes_direct, found.bytes_relay) == (1900, 190)
    assert (found.checks_sent, found.checks_heard) == (12, 3)
    assert found.switch_log[1] == Switch(1000.25, "relay", "direct", "check-succeeded")
    assert found.nat == NAT
    assert found.blocked_by is None


@pytest.mark.parametrize(
    "page",
    [
        {},
        {"sessions": None},
        {"sessions": "none"},
        {"sessions": [None, 3]},
    ],
)
def test_a_page_without_sessions_has_none(page: dict[str, object]) -> None:
    assert read_sessions(page) == ()


def test_a_session_without_fields_is_one_without_a_path() -> None:
    (found,) = read_sessions({"sessions": [{"path": "carrier-pigeon", "bytes": 3, "rtt_ms": True, "nat": []}]})
    assert (found.path, found.peer_host, found.rtt_ms, found.bytes_direct, found.nat) == ("none", None, None, 0, {})


def test_the_relay_sums_both_directions() -> None:
    relay = read_relay(relay_page())
    assert relay is not None
    found = relay.session(SESSION)
    assert found is not None
    assert (relay.enabled, relay.backend, found.bytes, found.packets, found.ready) == (True, "kernel", 500, 5, True)
    assert relay.session("ff") is None
    assert read_relay({"role": "intermediate"}) is None


def test_a_session_is_found_by_service_and_peer() -> None:
    other = session(session="ff", peer="spiffe://lab/connector/other", services=["sink"])
    sessions = read_sessions(client_page("agent", other, session()))
    assert find_session(sessions, "echo-service", "connector") is sessions[1]
    assert find_session(sessions, "brand-new", "connector") is sessions[1]
    assert find_session(sessions, "echo-service", "nobody") is None
    assert find_by_service(sessions, "sink") is sessions[0]
    assert find_by_service(sessions, "brand-new") is None


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("192.0.2.1:5000", "192.0.2.1", 5000),
        ("[2001:db8::1]:5000", "2001:db8::1", 5000),
        ("nonsense", None, None),
        (None, None, None),
        (":5", None, 5),
    ],
)
def test_endpoints(text: str | None, host: str | None, port: int | None) -> None:
    assert (host_of(text), port_of(text)) == (host, port)
