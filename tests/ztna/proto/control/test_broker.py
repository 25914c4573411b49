"""Sessions: who gets one, what passes between the sides, and what ends it. In virtual time."""

import pytest

from tests.ztna.proto.control.world import RELAY, Member, World
from tests.ztna.proto.intermediate_bed import document
from ztna.proto.commands import CloseRelay, OpenRelay
from ztna.proto.control.events import (
    ControlError,
    PeerCandidates,
    PeerNat,
    RelayIsLost,
    RelayIsReady,
    ServiceStateChanged,
    SessionEnded,
    SessionGranted,
    SessionInvited,
)
from ztna.proto.control.messages import (
    Accept,
    Candidate,
    Candidates,
    Connect,
    EndSession,
    Error,
    NatReport,
    PathReport,
    Register,
)
from ztna.proto.limits import ControlLimits
from ztna.proto.policy import Policy

NONCE = b"n" * 32
HOST = Candidate("host", "192.168.1.5", 50000, 2130706431, "h1")
SRFLX = Candidate("srflx", "203.0.113.5", 50001, 1694498815, "s1", ("192.168.1.5", 50000))


class Pair:
    """An agent and a connector that may have a session."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.connector = world.connector().dial()
        self.agent = world.agent().dial()
        self.forget()

    def forget(self) -> None:
        self.agent.take()
        self.connector.take()
        self.world.relayed.clear()

    def connect(self, service: str = "echo", session: tuple[bytes, bytes] | None = None) -> int:
        named = {} if session is None else {"session": session[0], "key": session[1]}
        request = self.agent.control.connect(service, self.world.now, **named)
        self.world.run()
        return request

    def accept(self, nonce: bytes = NONCE) -> SessionInvited:
        """The connector takes the one invitation it has."""
        (invited,) = self.connector.take(SessionInvited)
        assert isinstance(invited, SessionInvited)
        self.connector.control.accept(invited.session, nonce, self.world.now)
        self.world.run()
        return invited

    def session(self) -> SessionGranted:
        """A session, with nothing left to be told."""
        self.connect()
        self.accept()
        (granted,) = self.agent.take(SessionGranted)
        assert isinstance(granted, SessionGranted)
        self.forget()
        return granted

    def offer(self, sender: Member, session: bytes, *candidates: Candidate, end: bool = False) -> None:
        sender.control.send_candidates(session, candidates, end, self.world.now)
        self.world.run()


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def pair(world: World) -> Pair:
    return Pair(world)


def test_connect_may_leave_with_the_registration(world: World) -> None:
    connector, agent = world.connector().dial(), world.agent().dial()
    connector.take()
    agent.lose()
    agent.dial()
    agent.say(Register("agent", ("echo",), 1), Connect(7, "echo"))
    (invited,) = connector.take(SessionInvited)
    connector.control.accept(invited.session, NONCE, world.now)
    world.run()
    assert [event.request for event in agent.take(SessionGranted)] == [7]


def errors(member: Member) -> list[tuple[str, object]]:
    return [(error.code, error.about) for error in member.take(ControlError)]


def test_a_session_is_granted_to_both_with_one_key(pair: Pair) -> None:
    request = pair.connect()
    assert pair.agent.take() == []
    invited = pair.accept()
    assert (len(invited.session), len(invited.key)) == (16, 32)
    assert (invited.agent, invited.agent_ip, invited.services) == (pair.agent.uri, "100.64.1.1", ("echo", "http"))
    assert (invited.relay, invited.resume) == (RELAY, False)
    assert pair.agent.take() == [
        SessionGranted(
            request, invited.session, invited.key, pair.connector.uri, NONCE, ("echo", "http"), RELAY
        )
    ]  # fmt: skip
    (opened,) = pair.world.relayed
    assert isinstance(opened, OpenRelay)
    assert (opened.session, opened.key) == (invited.session, invited.key)
    assert (opened.agent.uri, opened.connector.uri) == (pair.agent.uri, pair.connector.uri)
    assert pair.world.control.session_key(invited.session, "agent") == invited.key
    assert pair.world.control.session_key(b"?" * 16) is None


def test_another_connect_gets_the_same_session(pair: Pair) -> None:
    granted = pair.session()
    request = pair.connect("http")
    assert pair.connector.take() == []
    (again,) = pair.agent.take(SessionGranted)
    assert (again.request, again.session, again.nonce) == (request, granted.session, NONCE)
    assert (pair.world.control.session_count, pair.world.relayed) == (1, [])


def test_requests_made_while_the_connector_thinks_are_answered_together(pair: Pair) -> None:
    requests = [pair.connect(), pair.connect("http"), pair.connect()]
    pair.accept()
    granted = pair.agent.take(SessionGranted)
    assert [each.request for each in granted] == requests
    assert len({each.session for each in granted}) == 1


def test_requests_that_wait_are_bounded(pair: Pair) -> None:
    requests = [pair.connect() for _ in range(18)]
    assert errors(pair.agent) == [("limit", requests[16]), ("limit", requests[17])]


def test_the_list_of_services_grows_with_what_both_registered(world: World) -> None:
    connector, agent = world.connector(services=["echo"]).dial(), world.agent().dial()
    agent.control.connect("echo", world.now)
    world.run()
    (invited,) = connector.take(SessionInvited)
    connector.control.accept(invited.session, NONCE, world.now)
    world.run()
    assert agent.take(SessionGranted)[0].services == ("echo",)
    from ztna.proto.control.messages import Register

    connector.say(Register("connector", ("http",), 1))
    agent.control.connect("http", world.now)
    world.run()
    assert agent.take(SessionGranted)[0].services == ("echo", "http")
    (grown,) = connector.take(SessionInvited)
    assert (grown.session, grown.services, grown.resume) == (invited.session, ("echo", "http"), False)


@pytest.mark.parametrize("service", ["game", "nothing", ""])
def test_a_service_one_is_not_registered_for_does_not_show_whether_it_exists(pair: Pair, service: str) -> None:
    pair.world.connector("other", ["game"]).dial()
    request = pair.connect(service)
    assert errors(pair.agent) == [("unknown-service", request)]
    assert pair.world.control.session_count == 0


def test_without_a_connector_there_is_no_session(pair: Pair) -> None:
    pair.connector.lose()
    request = pair.connect()
    assert errors(pair.agent) == [("no-connector", request)]


def test_a_connector_of_v1_is_reached_through_the_relay(world: World) -> None:
    from ztna.proto.identity import Identity

    identity = Identity("connector", "lab", "connector", frozenset({"connector:*"}), "bb")
    world.relay.connection_opened(77, identity, ("203.0.113.7", 77), world.now)
    world.relay.datagram_received(77, b"\x11\x04echo", world.now)
    agent = world.agent().dial()
    assert agent.take(ServiceStateChanged)[0].protocol == 1
    request = agent.control.connect("echo", world.now)
    world.run()
    assert errors(agent) == [("legacy-peer", request)]


def test_a_connector_cannot_connect_and_an_agent_cannot_accept(pair: Pair) -> None:
    request = pair.connector.control.connect("echo", pair.world.now)
    pair.world.run()
    assert errors(pair.connector) == [("unknown-service", request)]
    pair.connect()
    (invited,) = pair.connector.take(SessionInvited)
    pair.agent.control.accept(invited.session, NONCE, pair.world.now)
    pair.world.run()
    assert errors(pair.agent) == [("unknown-session", invited.session)]
    assert pair.agent.take(SessionGranted) == []


def test_a_connector_declines(pair: Pair) -> None:
    request = pair.connect()
    (invited,) = pair.connector.take(SessionInvited)
    pair.connector.control.decline(invited.session, "declined", "no socket left", pair.world.now)
    pair.world.run()
    assert pair.agent.take() == [ControlError("declined", "no socket left", request)]
    assert (pair.world.control.session_count, pair.world.relayed[-1]) == (0, CloseRelay(invited.session, "declined"))


def test_a_connector_that_does_not_answer_is_given_up(pair: Pair) -> None:
    request = pair.connect()
    pair.world.at(pair.world.now + 9.9)
    assert pair.agent.take() == []
    pair.world.at(pair.world.now + 0.2)
    assert errors(pair.agent) == [("declined", request)]
    assert [type(event) for event in pair.connector.take()] == [SessionInvited, SessionEnded]
    assert pair.world.control.get_timer() is None


def test_each_agent_has_its_own_session(pair: Pair) -> None:
    first = pair.session()
    other = pair.world.agent("agent-2").dial()
    other.control.connect("echo", pair.world.now)
    pair.world.run()
    invited = pair.accept()
    assert invited.agent == other.uri
    assert invited.session != first.session
    assert invited.key != first.key
    assert pair.agent.take() == []


def test_sessions_are_bounded_in_all_and_per_identity() -> None:
    for limits in (
        ControlLimits(e2e_sessions=1),
        ControlLimits(e2e_sessions_per_connector=1),
        ControlLimits(e2e_sessions_per_agent=1),
    ):
        world = World(limits=limits)
        pair = Pair(world)
        pair.session()
        second = world.agent("agent-1" if limits.e2e_sessions_per_agent == 1 else "agent-2", epoch=9).dial()
        request = second.control.connect("echo", world.now)
        world.run()
        assert errors(second) == [("limit", request)]
        assert world.control.stats.drop_session_limit == 1


# Between the sides


def test_candidates_and_reports_reach_the_other_side_only(pair: Pair) -> None:
    session = pair.session().session
    outsider = pair.world.agent("agent-2").dial()
    outsider.take()
    pair.offer(pair.agent, session, HOST, SRFLX)
    pair.offer(pair.connector, session, SRFLX, end=True)
    pair.agent.control.nat_report(session, "endpoint-independent", "address-dependent", "random", pair.world.now)
    pair.world.run()
    assert [
        (event.session, event.candidates, event.end) for event in pair.connector.take(PeerCandidates)
    ] == [(session, (HOST, SRFLX), False)]  # fmt: skip
    (answer,) = pair.agent.take(PeerCandidates)
    assert (answer.candidates, answer.end) == ((SRFLX,), True)
    assert outsider.take() == []


def test_a_nat_report_is_passed_on(pair: Pair) -> None:
    session = pair.session().session
    pair.connector.control.nat_report(session, "a", "b", "c", pair.world.now)
    pair.world.run()
    assert pair.agent.take() == [PeerNat(session, "a", "b", "c")]


def test_both_sides_start_at_one_moment(pair: Pair) -> None:
    session, world = pair.session().session, pair.world
    world.rtt.update({pair.agent.conn: 0.100, pair.connector.conn: 0.040})
    pair.offer(pair.connector, session, SRFLX)
    (to_agent,) = pair.agent.take(PeerCandidates)
    # It arrives after half of the agent's round trip, whose own candidates need a whole one and half the connector's.
    start = world.now + 0.100 + 0.020 + 0.005
    assert world.now + 0.050 + to_agent.start_in_s == pytest.approx(start, abs=1e-6)
    world.now += 0.100
    pair.offer(pair.agent, session, SRFLX)
    (to_connector,) = pair.connector.take(PeerCandidates)
    assert world.now + 0.020 + to_connector.start_in_s == pytest.approx(start, abs=1e-6)
    world.now += 1.0
    pair.offer(pair.agent, session, HOST, end=True)
    assert pair.connector.take(PeerCandidates)[0].start_in_s == 0.0


def test_a_round_trip_time_nobody_can_mean_delays_nothing_for_long(pair: Pair) -> None:
    session = pair.session().session
    pair.world.rtt[pair.agent.conn] = 1e6
    pair.offer(pair.connector, session, SRFLX)
    assert 0.5 < pair.agent.take(PeerCandidates)[0].start_in_s <= 2.0


@pytest.mark.parametrize("known", [True, False])
def test_outsiders_cannot_speak_in_a_session(pair: Pair, known: bool) -> None:
    session = pair.session().session if known else b"?" * 16
    outsider = pair.world.agent("agent-2").dial()
    outsider.take()
    outsider.say(
        Candidates(session, (HOST,)),
        NatReport(session, "a", "b"),
        PathReport(session, "direct"),
        Accept(session, NONCE),
    )
    assert errors(outsider) == [("unknown-session", session)] * 4
    outsider.say(EndSession(session, "mine"), Error("unknown-session", session=session))
    assert outsider.take() == []
    assert (pair.agent.take(), pair.connector.take()) == ([], [])
    assert pair.world.control.session_count == known


def test_nothing_passes_before_the_connector_agreed(pair: Pair) -> None:
    pair.connect()
    (invited,) = pair.connector.take(SessionInvited)
    pair.offer(pair.connector, invited.session, HOST)
    assert errors(pair.connector) == [("unknown-session", invited.session)]
    assert pair.agent.take() == []


def test_a_talkative_side_is_limited_and_the_other_is_not() -> None:
    pair = Pair(World(limits=ControlLimits(e2e_messages_per_s=1.0, e2e_messages_burst=5.0)))
    session = pair.session().session
    for _ in range(8):
        pair.offer(pair.agent, session, HOST)
    assert len(pair.connector.take(PeerCandidates)) == 5
    assert pair.world.control.stats.drop_session_rate == 3
    pair.offer(pair.connector, session, HOST)
    assert len(pair.agent.take(PeerCandidates)) == 1
    pair.world.now += 2.0
    for _ in range(3):
        pair.offer(pair.agent, session, HOST)
    assert len(pair.connector.take(PeerCandidates)) == 2


def test_paths_are_witnessed(pair: Pair) -> None:
    session = pair.session().session
    now = pair.world.now
    pair.agent.control.path_report(session, "direct", "203.0.113.5:50001", "check-succeeded", 12.5, 0.0, now)
    pair.connector.control.path_report(session, "relay", "198.51.100.1:4433", "start", None, 0.25, now)
    pair.world.run()
    (row,) = pair.world.control.sessions(now + 3)
    assert row["paths"] == {
        "agent": {"path": "direct", "reason": "check-succeeded", "rtt_ms": 12.5},
        "connector": {"path": "relay", "reason": "start", "rtt_ms": None},
    }
    assert (row["session"], row["state"], row["age_s"], row["away"]) == (session.hex(), "granted", 3.0, [])
    assert pair.world.notes.count("session path") == 2
    pair.agent.control.path_report(session, "direct", "203.0.113.5:50001", "still", 12.5, 0.0, now)
    pair.world.run()
    assert pair.world.notes.count("session path") == 2


def test_the_relay_is_announced_to_both(pair: Pair) -> None:
    session = pair.session().session
    pair.world.control.relay_ready(session, "kernel", pair.world.now)
    pair.world.control.relay_ready(b"?" * 16, "kernel", pair.world.now)
    pair.world.run()
    assert pair.agent.take() == pair.connector.take() == [RelayIsReady(session, "kernel")]
    pair.world.control.relay_lost(session, "quota", pair.world.now)
    pair.world.run()
    assert pair.agent.take() == pair.connector.take() == [RelayIsLost(session, "quota")]


# Ends


@pytest.mark.parametrize("ends", ["agent", "connector"])
def test_either_side_ends_a_session(pair: Pair, ends: str) -> None:
    session = pair.session().session
    one, other = (pair.agent, pair.connector) if ends == "agent" else (pair.connector, pair.agent)
    one.control.end_session(session, "done", pair.world.now)
    pair.world.run()
    assert (one.take(), other.take()) == ([], [SessionEnded(session, "done")])
    assert pair.world.relayed == [CloseRelay(session, "done")]
    assert pair.world.control.session_key(session) is None


def test_after_an_end_connecting_gives_a_new_session(pair: Pair) -> None:
    session = pair.session().session
    pair.agent.control.end_session(session, "again", pair.world.now)
    pair.connect()
    assert pair.accept(b"m" * 32).session != session


def test_a_side_that_does_not_know_a_session_ends_it(pair: Pair) -> None:
    session = pair.session().session
    pair.connector.control.decline(session, "unknown-session", "", pair.world.now)
    pair.world.run()
    assert pair.agent.take() == [SessionEnded(session, "unknown-session")]
    assert pair.world.control.session_count == 0


def test_an_agent_that_ends_what_was_not_granted_is_heard(pair: Pair) -> None:
    request = pair.connect()
    (invited,) = pair.connector.take(SessionInvited)
    pair.connector.control.end_session(invited.session, "stopping", pair.world.now)
    pair.world.run()
    assert errors(pair.agent) == [("declined", request)]
    assert pair.world.control.session_count == 0


@pytest.mark.parametrize("revoked", ["agent", "connector"])
def test_revoking_a_member_ends_its_sessions_at_once(pair: Pair, revoked: str) -> None:
    session = pair.session().session
    lost, kept = (pair.agent, pair.connector) if revoked == "agent" else (pair.connector, pair.agent)
    pair.world.relay.set_policy(Policy.from_json(document(revoked=[lost.uri])), pair.world.now)
    pair.world.run()
    assert lost.closed == ["client cert revoked"]
    assert SessionEnded(session, "revoked") in kept.take()
    assert pair.world.relayed == [CloseRelay(session, "revoked")]


def test_revoking_a_member_that_is_away_ends_its_sessions_too(pair: Pair) -> None:
    session = pair.session().session
    pair.agent.lose()
    pair.world.relay.set_policy(Policy.from_json(document(revoked=[pair.agent.uri])), pair.world.now)
    pair.world.run()
    assert pair.connector.take() == [SessionEnded(session, "revoked")]


def test_a_withdrawn_service_leaves_the_session_and_the_last_one_ends_it(pair: Pair) -> None:
    session = pair.session().session
    policy = document()
    policy["agents"]["agent-1"]["services"] = ["http"]
    pair.world.relay.set_policy(Policy.from_json(policy), pair.world.now)
    pair.world.run()
    (invited,) = pair.connector.take(SessionInvited)
    (granted,) = pair.agent.take(SessionGranted)
    assert (invited.session, invited.services) == (session, ("http",))
    assert (granted.session, granted.services, granted.request) == (session, ("http",), 0)
    policy["connectors"]["connector"]["services"] = ["echo"]
    pair.world.relay.set_policy(Policy.from_json(policy), pair.world.now)
    pair.world.run()
    assert SessionEnded(session, "denied") in pair.agent.take()
    assert SessionEnded(session, "denied") in pair.connector.take()


def test_a_policy_that_withdraws_all_while_the_connector_thinks(pair: Pair) -> None:
    request = pair.connect()
    policy = document()
    policy["agents"]["agent-1"]["services"] = []
    pair.world.relay.set_policy(Policy.from_json(policy), pair.world.now)
    pair.world.run()
    assert ("denied", request) in errors(pair.agent)
    assert pair.world.control.session_count == 0


def test_a_service_that_moves_to_another_connector_does_not_end_the_session(pair: Pair) -> None:
    pair.session()
    newer = pair.world.connector(epoch=2).dial()
    assert pair.agent.take(SessionEnded) == pair.connector.take(SessionEnded) == []
    pair.connect()
    (invited,) = newer.take(SessionInvited)
    assert invited.resume is False
    assert pair.world.control.session_count == 2


# Lost control connections


@pytest.mark.parametrize("away", ["agent", "connector"])
def test_a_session_survives_a_lost_control_connection(pair: Pair, away: str) -> None:
    session, world = pair.session().session, pair.world
    one, other = (pair.agent, pair.connector) if away == "agent" else (pair.connector, pair.agent)
    world.control.relay_ready(session, "kernel", world.now)
    one.lose()
    assert other.take(SessionEnded) == []
    assert world.control.sessions(world.now)[0]["away"] == [away]
    pair.offer(other, session, HOST)
    assert world.control.stats.drop_peer_away == 1
    world.at(world.now + 29)
    one.take()
    one.dial()
    assert one.take(RelayIsReady) == [RelayIsReady(session, "kernel")]
    world.at(world.now + 300)
    assert (world.control.session_count, world.control.stats.sessions_attached) == (1, 1)
    pair.offer(other, session, HOST)
    assert len(one.take(PeerCandidates)) == 1
    assert (CloseRelay in map(type, world.relayed), other.take(SessionEnded)) == (False, [])


def test_one_that_does_not_come_back_ends_the_session(pair: Pair) -> None:
    session = pair.session().session
    pair.agent.lose()
    pair.world.at(pair.world.now + 30.1)
    assert pair.connector.take() == [SessionEnded(session, "agent left")]
    assert pair.world.relayed == [CloseRelay(session, "agent left")]
    assert pair.world.control.get_timer() is None


def test_both_away_and_only_one_back(pair: Pair) -> None:
    session = pair.session().session
    pair.agent.lose()
    pair.connector.lose()
    pair.world.at(pair.world.now + 10)
    pair.connector.take()
    pair.connector.dial()
    pair.world.at(pair.world.now + 19)
    assert pair.connector.take(SessionEnded) == []
    pair.world.at(pair.world.now + 2)
    assert pair.connector.take(SessionEnded) == [SessionEnded(session, "agent left")]


def test_a_connection_that_is_not_noticed_dead_is_replaced(pair: Pair) -> None:
    session = pair.session().session
    old = pair.agent.conn
    del pair.world.members[old]
    pair.agent.control.disconnected()
    pair.agent.core.disconnected(pair.world.now)
    pair.agent.dial()
    pair.world.control.connection_closed(old, pair.world.now)
    pair.world.run()
    pair.world.at(pair.world.now + 60)
    assert pair.connector.take(SessionEnded) == []
    pair.offer(pair.agent, session, HOST)
    assert len(pair.connector.take(PeerCandidates)) == 1


def test_another_process_does_not_take_up_a_session(pair: Pair) -> None:
    session = pair.session().session
    pair.agent.lose()
    other = pair.world.agent(epoch=2).dial()
    other.take()
    other.say(Candidates(session, (HOST,)))
    assert errors(other) == [("unknown-session", session)]
    assert pair.world.control.sessions(0)[0]["away"] == ["agent"]


def test_a_connector_lost_while_it_thinks_fails_the_request(pair: Pair) -> None:
    request = pair.connect()
    pair.connector.lose()
    assert ("no-connector", request) in errors(pair.agent)
    assert pair.world.control.session_count == 0


def test_an_agent_lost_while_the_connector_thinks(pair: Pair) -> None:
    pair.connect()
    (invited,) = pair.connector.take(SessionInvited)
    pair.agent.lose()
    assert pair.connector.take() == [SessionEnded(invited.session, "agent left")]
    pair.connector.control.accept(invited.session, NONCE, pair.world.now)
    pair.world.run()
    assert errors(pair.connector) == [("unknown-session", invited.session)]


# A relay that was restarted


def restarted(pair: Pair) -> SessionGranted:
    granted = pair.session()
    pair.world.restart_relay()
    pair.connector.dial()
    pair.agent.dial()
    pair.forget()
    return granted


def test_after_a_restart_a_live_session_keeps_its_id_and_key(pair: Pair) -> None:
    granted = restarted(pair)
    assert pair.world.control.session_count == 0
    request = pair.connect("echo", (granted.session, granted.key))
    invited = pair.accept()
    assert (invited.session, invited.key, invited.agent) == (granted.session, granted.key, pair.agent.uri)
    assert invited.resume
    (again,) = pair.agent.take(SessionGranted)
    assert (again.request, again.session, again.key, again.nonce) == (request, granted.session, granted.key, NONCE)
    (opened,) = pair.world.relayed
    assert isinstance(opened, OpenRelay)
    assert (opened.session, pair.world.control.stats.sessions_resumed) == (granted.session, 1)
    pair.offer(pair.agent, granted.session, HOST)
    assert len(pair.connector.take(PeerCandidates)) == 1


def test_a_connector_that_does_not_know_the_session_gets_a_new_one(pair: Pair) -> None:
    restarted(pair)
    request = pair.connect("echo", (b"?" * 16, b"?" * 32))
    (invited,) = pair.connector.take(SessionInvited)
    assert (invited.session, invited.resume) == (b"?" * 16, True)
    pair.connector.control.decline(invited.session, "unknown-session", "", pair.world.now)
    pair.world.run()
    assert pair.agent.take() == []
    fresh = pair.accept()
    assert (fresh.resume, fresh.session == invited.session, fresh.key == invited.key) == (False, False, False)
    (granted,) = pair.agent.take(SessionGranted)
    assert (granted.request, granted.session) == (request, fresh.session)
    kinds = [(type(command), command.session) for command in pair.world.relayed]
    assert kinds == [
        (OpenRelay, invited.session),
        (CloseRelay, invited.session),
        (OpenRelay, fresh.session),
    ]


def test_the_id_of_somebody_elses_session_is_of_no_use(pair: Pair) -> None:
    granted = pair.session()
    thief = pair.world.agent("agent-2").dial()
    thief.control.connect("echo", pair.world.now, session=granted.session, key=granted.key)
    pair.world.run()
    (invited,) = pair.connector.take(SessionInvited)
    assert (invited.agent, invited.resume) == (thief.uri, False)
    assert invited.session != granted.session
    assert invited.key != granted.key
    assert pair.world.control.session_key(granted.session) == granted.key


@pytest.mark.parametrize("named", [{"session": b"?" * 16}, {"key": b"?" * 32}])
def test_half_a_session_is_none(pair: Pair, named: dict[str, bytes]) -> None:
    pair.agent.control.connect("echo", pair.world.now, **named)
    pair.world.run()
    (invited,) = pair.connector.take(SessionInvited)
    assert (invited.resume, invited.session == b"?" * 16, invited.key == b"?" * 32) == (False, False, False)


def test_without_a_restart_naming_the_session_attaches_to_it(pair: Pair) -> None:
    granted = pair.session()
    pair.agent.lose().dial()
    pair.forget()
    pair.connect("echo", (granted.session, granted.key))
    assert pair.connector.take() == []
    assert pair.agent.take(SessionGranted)[0].session == granted.session
