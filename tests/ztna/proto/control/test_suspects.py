"""Connectors that an agent hears nothing of: asked, replaced, believed again. In virtual time."""

import pytest

from tests.ztna.proto.control.test_broker import Pair, errors
from tests.ztna.proto.control.world import Member, World
from ztna.proto.client import Registered
from ztna.proto.control.events import (
    RelayIsLost,
    RelayIsReady,
    ServiceStateChanged,
    SessionEnded,
    SessionGranted,
    SessionInvited,
)
from ztna.proto.control.messages import EndSession, Silence
from ztna.proto.control.stats import ControlServerStats
from ztna.proto.control.suspects import Stage, Suspects
from ztna.proto.limits import ControlLimits
from ztna.proto.registry import V2, Peer

LIMITS = ControlLimits()


class Line:
    """One connection as suspicions see it: what is sent on it is acknowledged, or not."""

    def __init__(self, rtt_s: float | None = 0.02) -> None:
        self.peer = Peer(7, 1, None, ("203.0.113.5", 4000), V2)
        self.packets: tuple[int, int] | None = (10, 9)
        self.answers = True
        self.now = 0.0
        self.rtt_s = rtt_s
        self.pings: list[float] = []
        self.seen: list[tuple[float, Stage]] = []
        self.stats = ControlServerStats()
        self.suspects = Suspects(
            LIMITS,
            self.stats,
            ping=self.ping,
            packets=lambda _: self.packets,
            rtt_s=lambda _: self.rtt_s,
            changed=lambda peer, stage, now: self.seen.append((now, stage)),
        )

    def ping(self, conn: int) -> None:
        assert conn == self.peer.conn
        assert self.packets is not None
        self.pings.append(self.now)
        number, acknowledged = self.packets
        self.packets = number + 1, number if self.answers else acknowledged

    def ask(self) -> None:
        self.suspects.ask(self.peer, self.now)

    def at(self, now: float) -> None:
        while (due := self.suspects.get_timer()) is not None and due <= now:
            assert due >= self.now
            self.now = due
            self.suspects.handle_timer(due)
        self.now = now


def test_one_that_answers_costs_one_ping_and_is_left_alone_for_a_while() -> None:
    line = Line()
    for _ in range(100):
        line.ask()
        line.at(line.now + 0.01)
    assert len(line.pings) == 1
    assert line.seen == []
    line.at(line.now + LIMITS.calm_s)
    assert len(line.suspects) == 0
    line.ask()
    assert len(line.pings) == 2


def test_one_that_does_not_answer_is_doubted_then_absent() -> None:
    line = Line()
    line.answers = False
    line.ask()
    line.at(LIMITS.doubt_s - 0.001)
    assert line.seen == []
    assert len(line.pings) == 5, "more than one may be lost"
    line.at(10.0)
    assert [stage for _, stage in line.seen] == [Stage.DOUBTED, Stage.ABSENT]
    assert [at for at, _ in line.seen] == pytest.approx([LIMITS.doubt_s, LIMITS.absent_s])
    before = len(line.pings)
    line.at(20.0)
    assert len(line.pings) - before == pytest.approx(10, abs=1), "once a second"
    assert line.suspects.stage(line.peer) is Stage.ABSENT


def test_an_acknowledgement_of_what_was_sent_before_proves_nothing() -> None:
    line = Line()
    line.answers = False
    line.packets = (10, 4)
    line.ask()
    line.packets = (line.packets[0], 9)  # was on its way when the connector died
    line.at(1.0)
    assert [stage for _, stage in line.seen] == [Stage.DOUBTED]


@pytest.mark.parametrize("until", [0.1, 0.5, 5.0])
def test_an_answer_ends_it_at_any_time(until: float) -> None:
    line = Line()
    line.answers = False
    line.ask()
    line.at(until)
    line.answers = True
    doubted = len(line.seen)
    line.at(until + 2.0)
    assert [stage for _, stage in line.seen[doubted:]] == ([Stage.CALM] if doubted else [])
    assert line.stats.connectors_back == (1 if doubted else 0)
    assert len(line.suspects) == 0


def test_a_word_of_it_is_an_answer() -> None:
    line = Line()
    line.answers = False
    line.ask()
    line.at(0.5)
    line.suspects.heard(line.peer, line.now)
    assert [stage for _, stage in line.seen] == [Stage.DOUBTED, Stage.CALM]
    line.suspects.heard(line.peer, line.now)
    assert len(line.seen) == 2


def test_long_paths_get_the_time_they_need() -> None:
    line = Line(rtt_s=0.6)
    line.answers = False
    line.ask()
    line.at(2.9)
    assert line.seen == []
    line.at(10.0)
    assert [at for at, _ in line.seen] == pytest.approx([3.0, 6.0])


def test_a_connection_that_is_gone_is_no_suspect() -> None:
    line = Line()
    line.packets = None
    line.ask()
    assert len(line.suspects) == 0
    line = Line()
    line.answers = False
    line.ask()
    line.packets = None
    line.at(1.0)
    assert (len(line.suspects), line.seen) == (0, [])
    line = Line()
    line.ask()
    line.suspects.forget(line.peer)
    assert line.suspects.get_timer() is None


# with everything around it


def reported(agent: Member, session: bytes) -> None:
    agent.control.silence(session, agent.world.now)
    agent.world.run()


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def pair(world: World) -> Pair:
    return Pair(world)


def states(member: Member) -> list[tuple[str, str | None, int]]:
    return [(event.service, event.connector, event.protocol) for event in member.take(ServiceStateChanged)]


def test_a_standby_takes_over_while_the_dead_ones_connection_still_stands(world: World, pair: Pair) -> None:
    standby = world.connector("other").dial()
    granted = pair.session()
    standby.take()
    pair.connector.freeze()
    began = world.now
    reported(pair.agent, granted.session)
    world.at(began + LIMITS.doubt_s - 0.01)
    assert states(pair.agent) == []
    world.at(began + LIMITS.doubt_s)
    assert states(pair.agent) == [("echo", standby.uri, 2), ("http", standby.uri, 2)]
    assert {event.service for event in standby.take(Registered)} == {"echo", "http"}
    pair.connect()
    (invited,) = standby.take(SessionInvited)
    standby.control.accept(invited.session, b"n" * 32, world.now)
    world.run()
    (fresh,) = pair.agent.take(SessionGranted)
    assert fresh.connector == standby.uri
    assert world.relay.peer(pair.connector.conn) is not None, "its connection was not closed"


def test_one_that_answers_again_waits_as_standby_and_follows(world: World, pair: Pair) -> None:
    standby = world.connector("other").dial()
    granted = pair.session()
    pair.connector.freeze()
    reported(pair.agent, granted.session)
    world.at(world.now + 5.0)
    pair.connector.thaw()
    world.at(world.now + 1.0)
    states(pair.agent)
    assert world.relay.services()["echo"][0] == "other", "no switch back"
    assert world.control.stats.connectors_back == 1
    standby.lose()
    assert states(pair.agent)[-1] == ("http", pair.connector.uri, 2)


def test_a_silent_standby_is_no_replacement(world: World, pair: Pair) -> None:
    standby = world.connector("other").dial()
    granted = pair.session()
    pair.connector.freeze()
    standby.freeze()
    reported(pair.agent, granted.session)
    world.at(world.now + 1.0)
    states(pair.agent)
    pair.connect()
    world.at(world.now + LIMITS.e2e_invite_s + 0.1)
    assert errors(pair.agent), "the frozen one cannot answer"
    # Nobody can report it without a session; it goes by its connection, and then nobody serves.
    standby.lose()
    assert states(pair.agent)[-1] == ("http", None, 0)


def test_without_a_standby_the_session_is_kept_dark_and_lit_again(world: World, pair: Pair) -> None:
    granted = pair.session()
    world.control.relay_ready(granted.session, "kernel", world.now)
    world.run()
    pair.forget()
    pair.connector.freeze()
    began = world.now
    reported(pair.agent, granted.session)
    world.at(began + LIMITS.absent_s - 0.01)
    assert pair.agent.take() == []
    world.at(began + LIMITS.absent_s)
    told = pair.agent.take()
    assert [type(event) for event in told if not isinstance(event, ServiceStateChanged)] == [RelayIsLost]
    assert {(event.service, event.protocol) for event in told if isinstance(event, ServiceStateChanged)} == {
        ("echo", 0), ("http", 0),
    }  # fmt: skip
    pair.connect()
    assert [code for code, _ in errors(pair.agent)] == ["no-connector"]
    # The relay's own events meanwhile do not light it.
    world.control.relay_ready(granted.session, "kernel", world.now)
    world.run()
    assert pair.agent.take() == []
    pair.connector.thaw()
    world.at(world.now + 1.0)
    told = pair.agent.take()
    assert [type(event) for event in told if not isinstance(event, ServiceStateChanged)] == [RelayIsReady]
    assert {(event.service, event.connector) for event in told if isinstance(event, ServiceStateChanged)} == {
        ("echo", pair.connector.uri), ("http", pair.connector.uri),
    }  # fmt: skip
    # The session itself never ended.
    pair.connect()
    assert [event.session for event in pair.agent.take(SessionGranted)] == [granted.session]


def test_one_that_comes_back_by_another_connection_lights_its_sessions(world: World, pair: Pair) -> None:
    granted = pair.session()
    world.control.relay_ready(granted.session, "kernel", world.now)
    pair.connector.freeze()
    reported(pair.agent, granted.session)
    world.at(world.now + 3.0)
    pair.agent.take()
    pair.connector.frozen, pair.connector.held = False, []
    pair.connector.lose().dial()
    told = pair.agent.take()
    assert [event.session for event in told if isinstance(event, RelayIsReady)] == [granted.session]
    assert not [event for event in told if isinstance(event, SessionEnded)]


def test_of_one_identity_the_later_process_serves_again_but_not_at_once(world: World) -> None:
    older = world.connector(epoch=1).dial()
    pair = Pair.__new__(Pair)
    pair.world, pair.agent, pair.connector = world, world.agent().dial(), world.connector(epoch=2).dial()
    pair.forget()
    world.at(world.now + 60)
    granted = pair.session()
    pair.connector.freeze()
    reported(pair.agent, granted.session)
    switched = world.now + LIMITS.doubt_s
    world.at(switched)
    assert world.relay.peer(older.conn) is not None
    assert set(world.relay.peer(older.conn).serving) == {b"echo", b"http"}  # type: ignore[union-attr]
    pair.connector.thaw()
    world.at(switched + LIMITS.switch_s - 0.1)
    assert world.relay.peer(pair.connector.conn).serving == {}  # type: ignore[union-attr]
    world.at(switched + LIMITS.switch_s)
    assert set(world.relay.peer(pair.connector.conn).serving) == {b"echo", b"http"}  # type: ignore[union-attr]


def test_no_number_of_reports_moves_a_healthy_connector_or_floods_it(world: World, pair: Pair) -> None:
    world.connector("other").dial()
    granted = pair.session()
    began = world.now
    for _ in range(400):
        pair.agent.say(Silence(granted.session))
        world.at(world.now + 0.025)
    assert states(pair.agent) == []
    assert len(world.pings) <= (world.now - began) / LIMITS.calm_s + 1
    assert world.control.stats.drop_silence_rate > 300


def test_the_bound_is_per_identity_whatever_the_number_of_its_connections(world: World, pair: Pair) -> None:
    granted = pair.session()
    others = [world.agent(epoch=number).dial() for number in range(2, 12)]
    for other in others:
        other.say(*[Silence(granted.session)] * 20)
    stats = world.control.stats
    assert stats.silences_reported == 200
    assert stats.silences_reported - stats.drop_silence_rate == LIMITS.silence_reports_burst


def test_only_the_agent_of_the_session_is_believed(world: World, pair: Pair) -> None:
    granted = pair.session()
    stranger = world.agent("agent-2").dial()
    stranger.say(Silence(granted.session))
    pair.connector.say(Silence(granted.session))
    pair.agent.say(Silence(b"?" * 16))
    assert world.pings == []
    assert world.control.stats.drop_session_unknown == 3
    pair.agent.say(EndSession(granted.session), Silence(granted.session))
    assert world.pings == []


def test_pings_stop_with_the_connection(world: World, pair: Pair) -> None:
    granted = pair.session()
    pair.connector.freeze()
    reported(pair.agent, granted.session)
    world.at(world.now + 1.0)
    pair.connector.frozen = False
    pair.connector.lose()
    before = len(world.pings)
    assert before > 5
    world.at(world.now + 60)
    assert len(world.pings) == before


def test_an_intermediate_that_does_not_know_reports_is_sent_none(world: World, pair: Pair) -> None:
    granted = pair.session()
    pair.agent.control._server_can = ("datagram-relay", "sessions")
    reported(pair.agent, granted.session)
    assert world.control.stats.silences_reported == 0
    assert errors(pair.agent) == []
