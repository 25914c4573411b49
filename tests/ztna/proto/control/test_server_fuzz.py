"""Any order of connections, messages, losses and times: nothing is raised, bounds hold, nothing is left behind."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ztna.proto.control.strategies import messages
from tests.ztna.proto.control.world import Member, World
from tests.ztna.proto.intermediate_bed import document
from ztna.proto.commands import CloseRelay, OpenRelay
from ztna.proto.control.events import SessionGranted, SessionInvited
from ztna.proto.control.messages import encode_frame
from ztna.proto.limits import ControlLimits
from ztna.proto.policy import Policy

LIMITS = ControlLimits(unproven=3, e2e_sessions=4, e2e_sessions_per_agent=2, control_malformed=4)

step = st.one_of(
    st.tuples(st.sampled_from(["dial", "lose", "connect", "accept", "decline", "end", "open"]), st.integers(0, 4)),
    st.tuples(st.sampled_from(["silence", "freeze", "thaw"]), st.integers(0, 4)),
    st.tuples(st.just("say"), st.integers(0, 4), messages.map(encode_frame)),
    st.tuples(st.just("junk"), st.integers(0, 4), st.binary(max_size=60)),
    st.tuples(st.just("wait"), st.sampled_from([0.1, 4.0, 11.0, 31.0])),
    st.tuples(st.just("policy"), st.integers(0, 4)),
    st.tuples(st.just("restart")),
    st.tuples(st.just("relay"), st.booleans()),
)


def play(world: World, members: list[Member], now_step: Any) -> None:
    kind = now_step[0]
    member = members[now_step[1]] if len(now_step) > 1 and isinstance(now_step[1], int) else members[0]
    known = [bytes.fromhex(row["session"]) for row in world.control.sessions(world.now)]
    if kind == "dial" and not member.conn:
        member.dial()
    elif kind == "lose" and member.conn:
        member.lose()
    elif kind == "connect":
        session = known[0] if known else b"?" * 16
        member.control.connect("echo", world.now, session=session, key=b"k" * 32)
    elif kind in ("accept", "decline", "end"):
        for event in member.take():
            if kind == "accept" and isinstance(event, SessionInvited):
                member.control.accept(event.session, b"n" * 32, world.now)
            elif kind == "decline" and isinstance(event, SessionInvited):
                member.control.decline(event.session, "unknown-session", "", world.now)
            elif kind == "end" and isinstance(event, SessionGranted | SessionInvited):
                member.control.end_session(event.session, "", world.now)
    elif kind == "silence" and known:
        member.control.silence(known[0], world.now)
    elif kind == "freeze" and member.conn:
        member.freeze()
    elif kind == "thaw" and member.conn:
        member.thaw()
    elif kind == "open":
        world.control.connection_opened(1000 + now_step[1], ("203.0.113.9", 1), b"l" * 32, world.now)
    elif kind in ("say", "junk"):
        if member.conn:
            member.say_bytes(now_step[2])
        world.control.stream_received(1000 + now_step[1], 0, now_step[2], False, world.now)
    elif kind == "wait":
        world.at(world.now + now_step[1])
    elif kind == "policy":
        world.relay.set_policy(Policy.from_json(document(revoked=[member.uri])), world.now)
    elif kind == "restart":
        world.restart_relay()
    elif kind == "relay" and known:
        if now_step[1]:
            world.control.relay_ready(known[0], "kernel", world.now)
        else:
            world.control.relay_lost(known[0], "quota", world.now)
    world.run()


@settings(max_examples=150)
@given(st.lists(step, max_size=40))
def test_any_order_of_inputs_leaves_nothing_behind(steps: list[Any]) -> None:
    world = World(limits=LIMITS)
    members = [
        world.agent(epoch=1),
        world.agent("agent-2", epoch=2),
        world.connector(epoch=3),
        world.connector(epoch=4),
        world.connector("other", epoch=5),
    ]
    for member in members[:4]:
        member.dial()
    for now_step in steps:
        play(world, members, now_step)
        assert world.control.unproven <= LIMITS.unproven
        assert world.control.session_count <= LIMITS.e2e_sessions
    for member in members:
        if member.conn:
            member.lose()
    for conn in range(1000, 1005):
        world.control.connection_closed(conn, world.now)
    world.run()
    world.at(world.now + 200.0)
    assert (world.control.session_count, world.control.unproven, world.relay.connections) == (0, 0, 0)
    assert world.relay.services() == {}
    assert (world.control.get_timer(), world.control._buffered_bytes, world.control._connections) == (None, 0, {})
    assert len(world.control._suspects) == 0
    table = world.control._broker.table
    assert (table._by_conn, table._by_uri) == ({}, {})
    opened = [command.session for command in world.relayed if isinstance(command, OpenRelay)]
    closed = [command.session for command in world.relayed if isinstance(command, CloseRelay)]
    assert set(closed) <= set(opened)
    assert len(closed) <= len(opened)
