"""Before the proof nothing but Hello; after it, every bad message costs one answer and nothing grows."""

import pytest

from tests.ztna.proto.control.world import LEAF, Member, World, identity_of, signature
from ztna.proto.control.messages import (
    Challenge,
    Connect,
    ControlMessage,
    Draining,
    EndSession,
    Error,
    Hello,
    PathReport,
    Register,
    Welcome,
    encode_frame,
)
from ztna.proto.limits import ControlLimits, IntermediateLimits
from ztna.proto.wire import RegisterAgent

URI = b"spiffe://lab/agent/agent-1"
ADDRESS = ("203.0.113.9", 5000)


@pytest.fixture
def world() -> World:
    return World()


def raw(world: World, conn: int = 99, leaf: bytes = LEAF) -> bytes:
    """Open a connection without a client of ours; returns its nonce."""
    world.control.connection_opened(conn, ADDRESS, leaf, world.now)
    world.run()
    (challenge,) = world.sent(conn)
    assert isinstance(challenge, Challenge)
    return challenge.nonce


def say(world: World, data: bytes | ControlMessage, conn: int = 99, stream_id: int = 0, *, fin: bool = False) -> None:
    data = data if isinstance(data, bytes) else encode_frame(data)
    world.control.stream_received(conn, stream_id, data, fin, world.now)
    world.run()


def hello(nonce: bytes, leaf: bytes = LEAF, uri: bytes = URI) -> Hello:
    return Hello((uri,), signature(uri, nonce, leaf))


def reasons(world: World) -> list[str]:
    return [command.reason for command in world.closed]


def member(world: World) -> Member:
    return world.agent().dial()


def test_a_good_proof_is_welcomed_and_told_its_address(world: World) -> None:
    nonce = raw(world)
    say(world, hello(nonce))
    welcome, observed = world.sent(99)
    assert isinstance(welcome, Welcome)
    assert (welcome.identity, welcome.keepalive_s, welcome.stun) == (URI.decode(), 10.0, (("", 0),))
    assert (observed.host, observed.port) == ADDRESS  # type: ignore[union-attr]
    assert (world.control.unproven, world.relay.connections, world.closed) == (0, 1, [])


def test_every_nonce_is_fresh(world: World) -> None:
    assert len({raw(world, conn) for conn in range(50, 100)}) == 50


def test_a_recorded_proof_is_refused_on_another_connection(world: World) -> None:
    recorded = hello(raw(world, 98))
    say(world, recorded, 98)
    raw(world)
    say(world, recorded)
    assert reasons(world) == ["bad-proof: the signature does not verify"]
    assert (world.control.stats.proofs_refused, 99 in world.control) == (1, False)


def test_a_proof_for_another_server_is_refused(world: World) -> None:
    nonce = raw(world)
    say(world, hello(nonce, leaf=b"x" * 32))
    assert reasons(world) == ["bad-proof: the signature does not verify"]


def test_a_second_hello_is_an_unknown_message(world: World) -> None:
    nonce = raw(world)
    say(world, hello(nonce))
    world.sent(99)
    say(world, hello(nonce))
    (error,) = world.sent(99)
    assert isinstance(error, Error)
    assert (error.code, error.about, 99 in world.control) == ("unknown-message", "Hello", True)


@pytest.mark.parametrize(
    "first",
    [Register("agent", ("echo",)), Connect(1, "echo"), Draining(1.0), Error("denied"), Challenge(b"n" * 32)],
    ids=lambda message: type(message).__name__,
)
def test_anything_but_hello_first_closes(world: World, first: ControlMessage) -> None:
    nonce = raw(world)
    say(world, encode_frame(first) + encode_frame(hello(nonce)))
    assert reasons(world) == ["not-proven: the first message must be Hello"]
    assert (world.relay.connections, world.control.stats.drop_before_proof) == (0, 1)


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x81\xa4type\xa8teleport"], ids=["empty", "junk", "unknown"])
def test_junk_first_closes(world: World, body: bytes) -> None:
    raw(world)
    say(world, len(body).to_bytes(4, "big") + body)
    assert reasons(world) == ["not-proven: the first message must be Hello"]


def test_another_stream_or_a_datagram_first_closes(world: World) -> None:
    raw(world, 98)
    say(world, b"\0", 98, 4)
    raw(world)
    world.relay.datagram_received(99, RegisterAgent("echo").encode(), world.now)
    world.run()
    assert reasons(world) == ["not-proven: another stream first", "not-proven: a DATAGRAM before Hello"]
    assert (world.relay.connections, world.control.unproven) == (0, 0)


def test_a_large_first_frame_closes(world: World) -> None:
    raw(world)
    say(world, (20_000).to_bytes(4, "big"))
    assert reasons(world) == ["malformed: frame too large"]


def test_without_a_proof_in_five_seconds_it_closes(world: World) -> None:
    raw(world)
    say(world, b"\0\0\x01")
    world.at(world.now + 4.99)
    assert world.closed == []
    world.at(world.now + 0.02)
    assert reasons(world) == ["not-proven: no Hello in time"]
    assert (world.control.stats.proofs_late, world.control.get_timer()) == (1, None)


def test_the_oldest_without_a_proof_makes_room() -> None:
    world = World(limits=ControlLimits(unproven=2))
    nonces = [raw(world, conn) for conn in (1, 2, 3)]
    assert [command.conn for command in world.closed] == [1]
    say(world, hello(nonces[1]), 2)
    raw(world, 4)
    assert [command.conn for command in world.closed] == [1]
    assert (world.control.unproven, world.relay.connections) == (2, 1)


def test_a_tls_certificate_must_name_the_same_identity(world: World) -> None:
    for conn, name, closed in ((98, "agent-1", []), (99, "agent-2", ["bad-proof: the TLS certificate names another"])):
        shown = identity_of(f"spiffe://lab/agent/{name}")
        world.control.connection_opened(conn, ADDRESS, LEAF, world.now, shown)
        world.run()
        (challenge,) = world.sent(conn)
        assert isinstance(challenge, Challenge)
        say(world, hello(challenge.nonce), conn)
        assert [reason[: len(closed[0])] for reason in reasons(world)] == closed if closed else not reasons(world)


@pytest.mark.parametrize(
    ("uri", "reason"),
    [(b"spiffe://lab/intermediate/relay", "invalid client cert"), (b"spiffe://lab/agent/lost", "client cert revoked")],
)
def test_the_intermediate_judges_who_was_proved(world: World, uri: bytes, reason: str) -> None:
    from tests.ztna.proto.intermediate_bed import document
    from ztna.proto.policy import Policy

    world.relay.set_policy(Policy.from_json(document(revoked=["spiffe://lab/agent/lost"])), world.now)
    nonce = raw(world)
    say(world, hello(nonce, uri=uri))
    assert reasons(world) == [reason]
    assert (99 in world.control, world.relay.connections) == (False, 0)


def test_too_many_connections_are_refused_after_the_proof() -> None:
    world = World(relay_limits=IntermediateLimits(connections=1))
    member(world)
    nonce = raw(world)
    say(world, hello(nonce))
    assert reasons(world) == ["too many connections"]


def test_an_unknown_message_is_answered_and_the_connection_stays(world: World) -> None:
    agent = member(world)
    agent.take()
    body = b"\x81\xa4type\xa8teleport"
    agent.say_bytes(len(body).to_bytes(4, "big") + body)
    (error,) = agent.take()
    assert (error.code, error.about) == ("unknown-message", "teleport")
    agent.say(Welcome("spiffe://lab/agent/agent-2"))
    (error,) = agent.take()
    assert (error.code, error.about) == ("unknown-message", "Welcome")
    assert (agent.closed, world.control.stats.drop_unknown) == ([], 2)


def test_broken_messages_are_answered_until_there_are_too_many() -> None:
    world = World(limits=ControlLimits(control_malformed=3))
    agent = member(world)
    agent.take()
    for _ in range(3):
        agent.say_bytes(b"\0\0\0\x01\xc1")
    assert [error.code for error in agent.take()] == ["malformed"] * 3
    agent.say_bytes(b"\0\0\0\x01\xc1")
    assert agent.closed == ["malformed: too many broken messages"]
    assert world.relay.connections == 0


def test_one_talker_is_limited_and_told_once(world: World) -> None:
    world = World(limits=ControlLimits(control_rate_per_s=10.0, control_burst=20.0))
    agent = member(world)
    agent.take()
    agent.say(*[EndSession(b"s" * 16)] * 50)
    told = [error for error in agent.take() if error.code == "limit"]
    assert len(told) == 1
    assert world.control.stats.drop_rate == 31
    world.now += 0.5
    agent.say(*[EndSession(b"s" * 16)] * 5)
    assert world.control.stats.drop_rate == 31


def test_a_frame_must_be_complete_in_time_but_a_steady_talker_is_left_alone(world: World) -> None:
    slow, steady = member(world), world.connector().dial()
    slow.say_bytes(b"\0\0")
    frame = encode_frame(EndSession(b"s" * 16))
    steady.say_bytes(frame[:5])
    for _ in range(3):
        world.at(world.now + 4.0)
        steady.say_bytes(frame[5:] + frame[:5])
    assert (slow.closed, steady.closed) == (["malformed: a frame stayed incomplete"], [])
    steady.say_bytes(frame[5:])
    assert world.control.get_timer() is None


def test_incomplete_frames_of_all_are_bounded() -> None:
    world = World(limits=ControlLimits(control_buffer_bytes=100_000))
    first, second = member(world), world.connector().dial()
    chunk = (60_000).to_bytes(4, "big") + bytes(59_000)
    first.say_bytes(chunk)
    second.say_bytes(chunk)
    assert (first.closed, second.closed) == ([], ["limit: too many incomplete frames"])
    first.lose()
    assert world.control._buffered_bytes == 0


def test_the_end_of_the_control_stream_ends_the_connection(world: World) -> None:
    agent = member(world)
    agent.say_bytes(b"", fin=True)
    assert agent.closed == ["control stream ended"]
    assert world.relay.connections == 0


def test_other_streams_of_a_member_carry_no_control_messages(world: World) -> None:
    agent = member(world)
    agent.say_bytes(encode_frame(EndSession(b"s" * 16)), 1)
    agent.say_bytes(encode_frame(EndSession(b"s" * 16)), 4)
    assert (agent.closed, world.control.stats.drop_stream) == ([], 1)
    assert (world.relay.stats.drop_frame, world.control.stats.drop_session_unknown) == (1, 0)


def test_nothing_acts_after_closing(world: World) -> None:
    agent = member(world)
    conn = agent.conn
    agent.lose()
    world.control.stream_received(conn, 0, encode_frame(PathReport(b"s" * 16, "direct")), False, world.now)
    world.control.connection_closed(conn, world.now)
    world.control.address_changed(conn, ADDRESS, world.now)
    world.run()
    assert world.raw == []
    assert world.relay.stats.connections_closed == 1
