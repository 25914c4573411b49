"""The relay's table in virtual time: proofs, rebinding, expiry, quotas, off and on."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztna.proto.identity import Identity
from ztna.proto.paths.stun_types import Endpoint
from ztna.proto.relay_addresses import RelayAddresses
from ztna.proto.relay_table import RelayTable
from ztna.proto.relay_types import Install, Lost, Ready, RelayCommand, RelayLimits, Remove

S1, S2, S3 = (bytes([number]) * 16 for number in (1, 2, 3))
KEY = b"k" * 32
A, A2, B, B2 = (
    Endpoint(host, port)
    for host, port in (("192.0.2.1", 1000), ("192.0.2.9", 9000), ("198.51.100.1", 2000), ("2001:db8::5", 2001))
)


def identity(role: str, name: str = "x") -> Identity:
    return Identity(role, "lab", name, frozenset(), "")


AGENT, CONNECTOR = identity("agent"), identity("connector")


def table(**limits: Any) -> RelayTable:
    return RelayTable(RelayLimits(**limits))


def commands(subject: RelayTable) -> list[RelayCommand]:
    found = []
    while (command := subject.next_command()) is not None:
        found.append(command)
    return found


def opened(subject: RelayTable | None = None, session: bytes = S1, **limits: Any) -> RelayTable:
    subject = table(**limits) if subject is None else subject
    assert subject.open(session, KEY, AGENT, CONNECTOR, 0.0) is None
    return subject


def ready(subject: RelayTable | None = None, now: float = 0.0, **limits: Any) -> RelayTable:
    """A table with S1 proven by both sides, its commands taken."""
    subject = opened(subject, **limits)
    assert subject.prove(S1, "agent", 1, A, now) is None
    assert subject.prove(S1, "connector", 1, B, now) is None
    assert commands(subject) == [Install(S1, A, B), Ready(S1)]
    return subject


def test_nothing_is_installed_before_both_sides_proved() -> None:
    subject = opened()
    assert subject.key_of(S1) == KEY
    assert subject.prove(S1, "connector", 1, B, 1.0) is None
    assert commands(subject) == []
    assert subject.prove(S1, "agent", 1, A, 2.0) is None
    assert commands(subject) == [Install(S1, A, B), Ready(S1)]
    assert subject.ready_count == 1


def test_unknown_sessions_and_roles_prove_nothing() -> None:
    subject = opened()
    assert subject.prove(S2, "agent", 1, A, 0.0) == "unknown-session"
    assert subject.prove(S1, "intermediate", 1, A, 0.0) == "unknown-session"
    assert subject.key_of(S2) is None
    assert subject.stats.drop_unknown_session == 2


def test_another_source_needs_a_larger_counter() -> None:
    subject = ready()
    assert subject.prove(S1, "agent", 1, A2, 1.0) == "replay"
    assert subject.prove(S1, "agent", 0, A2, 1.0) == "replay"
    assert commands(subject) == []
    assert subject.stats.drop_replay == 2
    assert subject.prove(S1, "agent", 2, A2, 1.0) is None
    assert commands(subject) == [Install(S1, A2, B)]
    assert subject.prove(S1, "agent", 1, A, 1.0) == "replay"
    assert subject.stats.rebinds == 1


def test_a_repetition_from_the_same_source_is_harmless_but_keeps_nothing_alive() -> None:
    subject = ready()
    for at in range(0, 30, 5):
        assert subject.prove(S1, "agent", 1, A, at) is None
        assert subject.prove(S1, "connector", at + 2, B, at) is None
    subject.handle_timer(30.0)
    assert commands(subject) == [Remove(S1, A, B), Lost(S1, "expired")]


def test_a_counter_that_was_refused_cannot_be_used_again() -> None:
    subject = opened()
    subject.set_enabled(False, 0.0)
    assert subject.prove(S1, "agent", 5, A, 0.0) == "relay-off"
    subject.set_enabled(True, 1.0)
    assert subject.prove(S1, "agent", 5, A2, 1.0) == "replay"


def test_counters_of_the_two_sides_are_apart() -> None:
    subject = opened()
    assert subject.prove(S1, "agent", 100, A, 0.0) is None
    assert subject.prove(S1, "connector", 1, B, 0.0) is None


def test_keepalives_keep_and_silence_of_either_side_ends() -> None:
    subject = ready()
    assert subject.get_timer() == 30.0
    for at in (20.0, 40.0, 60.0):
        assert subject.prove(S1, "agent", int(at), A, at) is None
        if at < 60:
            assert subject.prove(S1, "connector", int(at), B, at) is None
        subject.handle_timer(at)
    assert commands(subject) == []
    assert subject.get_timer() == 70.0
    subject.handle_timer(69.9)
    assert commands(subject) == []
    subject.handle_timer(70.0)
    assert commands(subject) == [Remove(S1, A, B), Lost(S1, "expired")]
    # The other side's proof still holds, so one new one makes the path again.
    assert subject.prove(S1, "connector", 80, B2, 80.0) is None
    assert commands(subject) == [Install(S1, A, B2), Ready(S1)]


def test_a_session_that_nobody_proves_is_forgotten() -> None:
    subject = opened()
    assert subject.get_timer() == 3600.0
    subject.handle_timer(3600.0)
    assert commands(subject) == [Lost(S1, "expired")]
    assert len(subject) == 0
    assert subject.get_timer() is None


def test_closing_removes_and_says_no_more() -> None:
    subject = ready()
    subject.close(S1, "ended", 1.0)
    subject.close(S1, "ended", 1.0)
    assert commands(subject) == [Remove(S1, A, B)]
    assert subject.key_of(S1) is None
    assert subject.get_timer() is None
    assert subject.prove(S1, "agent", 9, A, 2.0) == "unknown-session"
    ready(subject, 3.0)


def test_an_endpoint_belongs_to_one_side_of_one_session() -> None:
    subject = opened(opened(), S2)
    assert subject.prove(S1, "agent", 1, A, 0.0) is None
    assert subject.prove(S1, "connector", 1, A, 0.0) == "endpoint-taken"
    assert subject.prove(S2, "agent", 1, A, 0.0) == "endpoint-taken"
    assert subject.stats.drop_endpoint_taken == 2
    assert subject.prove(S1, "agent", 2, A2, 0.0) is None
    assert subject.prove(S2, "agent", 2, A, 0.0) is None
    subject.handle_timer(30.0)
    assert subject.prove(S1, "connector", 2, A, 31.0) is None


def test_forbidden_endpoints_are_refused_and_counted_by_reason() -> None:
    own = RelayAddresses(own_hosts=("203.0.113.1",), own_ports=(4433,))
    subject = opened(RelayTable(addresses=own))
    places = {
        "127.0.0.1": "loopback", "0.0.0.0": "unspecified", "169.254.169.254": "link-local", "224.0.0.9": "multicast",
        "255.255.255.255": "broadcast", "::1": "loopback", "203.0.113.1": "own-host", "junk": "malformed",
    }  # fmt: skip
    for counter, (host, reason) in enumerate(places.items(), 1):
        assert subject.prove(S1, "agent", counter, Endpoint(host, 5), 0.0) == reason
    assert subject.prove(S1, "agent", 99, Endpoint("203.0.113.1", 4433), 0.0) == "own-port"
    stats = subject.stats.drops()
    assert stats["endpoint_loopback"] == 2
    assert sum(value for name, value in stats.items() if name.startswith("endpoint_")) == 9
    subject.set_addresses(RelayAddresses(allow_own_host=True))
    assert subject.prove(S1, "agent", 100, Endpoint("127.0.0.1", 5), 0.0) is None


def test_off_takes_everything_and_on_waits_for_proofs() -> None:
    subject = ready(opened(session=S2))
    subject.set_enabled(False, 1.0)
    assert commands(subject) == [Remove(S1, A, B), Lost(S1, "relay-off")]
    assert subject.prove(S1, "agent", 2, A, 2.0) == "relay-off"
    subject.set_enabled(True, 3.0)
    assert commands(subject) == []
    assert subject.prove(S1, "agent", 3, A, 4.0) is None
    assert subject.prove(S1, "connector", 3, B, 4.0) is None
    assert commands(subject) == [Install(S1, A, B), Ready(S1)]
    assert subject.stats.drop_relay_off == 1


def test_a_table_may_begin_off() -> None:
    subject = opened(RelayTable(enabled=False))
    assert subject.prove(S1, "agent", 1, A, 0.0) == "relay-off"


def test_the_busiest_session_of_an_identity_over_its_quota_pays() -> None:
    subject = table(relay_packets_per_s=100.0, relay_bytes_per_s=1e9)
    for number, session in enumerate((S1, S2)):
        subject.open(session, KEY, identity("agent", f"a{number}"), CONNECTOR, 0.0)
        subject.prove(session, "agent", 1, Endpoint("192.0.2.1", 1000 + number), 0.0)
        subject.prove(session, "connector", 1, Endpoint("192.0.2.2", 2000 + number), 0.0)
    commands(subject)
    subject.activity(S1, 20, 2000, 1.0)
    subject.activity(S2, 79, 9000, 1.0)
    subject.check_quotas(1.0)
    assert commands(subject) == []
    subject.activity(S1, 40, 4000, 2.0)
    subject.activity(S2, 160, 18100, 2.0)
    subject.check_quotas(2.0)
    assert [type(command) for command in commands(subject)] == [Remove, Lost]
    assert subject.stats.over_quota == 1
    assert subject.prove(S2, "agent", 2, Endpoint("192.0.2.1", 1001), 11.9) == "quota"
    assert subject.prove(S2, "agent", 3, Endpoint("192.0.2.1", 1001), 12.0) is None
    assert subject.prove(S1, "agent", 2, Endpoint("192.0.2.1", 1000), 12.0) is None


def test_bytes_have_a_quota_too() -> None:
    subject = ready(relay_bytes_per_s=1000.0)
    subject.activity(S1, 2, 999, 1.0)
    subject.check_quotas(1.0)
    assert commands(subject) == []
    subject.activity(S1, 4, 2001, 2.0)
    subject.check_quotas(2.0)
    assert commands(subject) == [Remove(S1, A, B), Lost(S1, "quota")]


def test_totals_that_begin_anew_count_as_they_are() -> None:
    subject = ready(relay_bytes_per_s=1000.0)
    subject.activity(S1, 10, 900, 1.0)
    subject.check_quotas(1.0)
    subject.activity(S1, 5, 500, 2.0)
    subject.check_quotas(2.0)
    assert commands(subject) == []
    subject.activity(S2, 5, 500, 2.0)


@pytest.mark.parametrize(
    ("limit", "reason"),
    [("relay_sessions", "sessions-full"), ("relay_sessions_per_identity", "sessions-of-identity")],
)
def test_sessions_are_bounded(limit: str, reason: str) -> None:
    subject = opened(opened(table(**{limit: 2})), S2)
    assert subject.open(S3, KEY, AGENT, CONNECTOR, 0.0) == reason
    assert subject.open(S1, KEY, AGENT, CONNECTOR, 0.0) is None
    assert len(subject) == 2
    subject.close(S2, "ended", 0.0)
    assert subject.open(S3, KEY, AGENT, CONNECTOR, 0.0) is None


def test_a_forwarder_that_cannot_is_told_to_both() -> None:
    subject = ready()
    subject.forwarding_failed(S1, "no-route", 1.0)
    assert commands(subject) == [Remove(S1, A, B), Lost(S1, "no-route")]


def test_what_can_be_seen() -> None:
    subject = opened(ready(), S2)
    first, second = subject.sessions(5.0)
    assert (first.session, first.ready, first.agent_endpoint, first.connector_endpoint) == (S1, True, A, B)
    assert (first.idle_s, first.agent, first.connector) == (5.0, AGENT, CONNECTOR)
    assert (second.ready, second.agent_endpoint) == (False, None)


STEP = st.tuples(
    st.sampled_from(["open", "close", "prove", "tick", "off", "on", "use", "fail"]),
    st.sampled_from([S1, S2, S3]),
    st.sampled_from(["agent", "connector"]),
    st.sampled_from([A, A2, B, B2]),
    st.integers(0, 20),
    st.floats(0, 40),
)


@given(st.lists(STEP, max_size=60))
def test_the_commands_alone_tell_what_is_forwarded(steps: list[tuple[Any, ...]]) -> None:
    """Whatever happens: no endpoint is forwarded for two, Lost follows Ready, and all that was installed is removed."""
    subject = table(relay_bytes_per_s=10_000.0)
    installed: dict[bytes, tuple[Endpoint, Endpoint]] = {}
    told: set[bytes] = set()
    now = 0.0
    for kind, session, role, endpoint, number, elapsed in steps:
        if kind == "open":
            subject.open(session, KEY, AGENT, CONNECTOR, now)
        elif kind == "close":
            subject.close(session, "ended", now)
            told.discard(session)
        elif kind == "prove":
            subject.prove(session, role, number, endpoint, now)
        elif kind == "use":
            subject.activity(session, number, number * 1000, now)
            subject.check_quotas(now)
        elif kind == "fail":
            subject.forwarding_failed(session, "failed", now)
        elif kind == "tick":
            now += elapsed
            subject.handle_timer(now)
        else:
            subject.set_enabled(kind == "on", now)
        for command in commands(subject):
            if isinstance(command, Install):
                installed[command.session] = (command.a, command.b)
            elif isinstance(command, Remove):
                assert installed.pop(command.session) == (command.a, command.b)
            elif isinstance(command, Ready):
                assert command.session not in told
                told.add(command.session)
            else:
                told.discard(command.session)
        ends = [end for pair in installed.values() for end in pair]
        assert len(ends) == len(set(ends))
        assert told == set(installed)
    for session in (S1, S2, S3):
        subject.close(session, "ended", now)
    for command in commands(subject):
        assert isinstance(command, Remove)
        del installed[command.session]
    assert installed == {}
    assert (len(subject), subject.get_timer()) == (0, None)
