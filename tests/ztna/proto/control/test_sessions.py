"""The table of sessions: its indexes agree, its heap forgets, its bounds hold."""

import pytest

from tests.ztna.proto.intermediate_bed import agent, connector
from ztna.proto.control.sessions import Session, SessionState, SessionTable, Side, granted_of, invite_of, row_of
from ztna.proto.limits import ControlLimits
from ztna.proto.registry import Peer, Registry

LIMITS = ControlLimits(e2e_sessions=3, e2e_sessions_per_agent=2, e2e_sessions_per_connector=3)
ADDRESS = ("203.0.113.5", 1)


class Rig:
    def __init__(self) -> None:
        self.registry = Registry()
        self.table = SessionTable(LIMITS)
        self.agent = self.registry.add(1, agent(), ADDRESS, 2)
        self.connector = self.registry.add(2, connector(), ADDRESS, 2)

    def session(self, number: int, one: Peer | None = None, other: Peer | None = None) -> Session:
        sides = Side("agent", one or self.agent, LIMITS), Side("connector", other or self.connector, LIMITS)
        session = Session(bytes((number,)) * 16, b"k" * 32, *sides, 5.0)
        self.table.add(session)
        return session


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_session_is_found_by_id_by_member_and_by_connection(rig: Rig) -> None:
    session = rig.session(1)
    table = rig.table
    assert table.get(session.id) is session
    assert table.between(rig.agent, rig.connector) is session
    assert table.of_connection(rig.agent) == table.of_connection(rig.connector) == [session]
    assert table.of_member(agent().uri) == table.of_member(connector().uri) == [session]
    assert (session.side_of(rig.agent), session.side_of(rig.connector)) == (session.agent, session.connector)
    assert session.other(session.agent) is session.connector
    table.remove(session)
    assert (len(table), list(table), table._by_conn, table._by_uri) == (0, [], {}, {})
    assert table.get(session.id) is table.between(rig.agent, rig.connector) is None


def test_a_side_leaves_and_another_connection_takes_its_place(rig: Rig) -> None:
    session, table = rig.session(1), rig.table
    newer = rig.registry.add(3, agent(), ADDRESS, 2)
    table.leave(session, session.agent)
    assert (session.side_of(rig.agent), table.of_connection(rig.agent)) == (None, [])
    assert table.of_member(agent().uri) == [session]
    table.attach(session, session.agent, newer)
    assert table.between(newer, rig.connector) is session
    table.attach(session, session.agent, rig.agent)
    assert (table.of_connection(newer), table.of_connection(rig.agent)) == ([], [session])


def test_bounds(rig: Rig) -> None:
    other = rig.registry.add(3, agent("agent-2"), ADDRESS, 2)
    assert rig.table.room_for(agent(), connector())
    rig.session(1)
    rig.session(2)
    assert not rig.table.room_for(agent(), connector())
    assert rig.table.room_for(agent("agent-2"), connector())
    rig.session(3, other)
    assert not rig.table.room_for(agent("agent-3"), connector("other"))


def test_deadlines_come_in_order_and_can_be_put_off_or_lifted(rig: Rig) -> None:
    one, two, three = rig.session(1), rig.session(2), rig.session(3)
    table = rig.table
    for session, deadline in ((one, 10.0), (two, 20.0), (three, 30.0), (one, 40.0)):
        table.set_deadline(session, deadline)
    assert table.get_timer() == 20.0
    table.set_deadline(two, None)
    assert (table.get_timer(), table.expired(29.0)) == (30.0, [])
    assert table.expired(50.0) == [three, one]
    assert (table.get_timer(), table.expired(1e9)) == (None, [])


def test_a_removed_session_is_never_due(rig: Rig) -> None:
    session = rig.session(1)
    rig.table.set_deadline(session, 10.0)
    rig.table.remove(session)
    assert rig.table.get_timer() is None


def test_the_heap_does_not_grow_with_deadlines_that_move(rig: Rig) -> None:
    session = rig.session(1)
    for at in range(5000):
        rig.table.set_deadline(session, float(at))
    assert len(rig.table._heap) < 600
    assert rig.table.get_timer() == 4999.0


def test_what_is_said_of_a_session(rig: Rig) -> None:
    session = rig.session(1)
    session.services, session.resume, session.nonce = ("echo",), True, b"n" * 32
    rig.agent.virtual_ip = 0x64400101
    invite = invite_of(session)
    assert (invite.agent, invite.agent_ip, invite.resume) == (agent().uri, "100.64.1.1", True)
    session.state = SessionState.GRANTED
    assert not invite_of(session).resume
    assert granted_of(session, 7).connector == connector().uri
    rig.table.leave(session, session.connector)
    row = row_of(session, 8.5)
    assert (row["away"], row["age_s"], row["services"]) == (["connector"], 3.5, ["echo"])
