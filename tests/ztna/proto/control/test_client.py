"""The client's side of the control connection, against a server played by the test."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ztna.proto.control.strategies import messages
from ztna.proto.agent import AgentControl
from ztna.proto.client import ReconnectAt, SendStream
from ztna.proto.connector import ConnectorControl
from ztna.proto.control import events as e
from ztna.proto.control import messages as m
from ztna.proto.control.client import Abandon, ControlClient
from ztna.proto.control.fields import Role
from ztna.proto.control.messages import FrameReader, decode, encode_frame
from ztna.proto.errors import LocalProtocolError
from ztna.proto.registration import RegistrationState

LEAF, NONCE, RELAY = b"l" * 32, b"n" * 32, ("198.51.100.1", 4433)
SESSION, KEY = b"s" * 16, b"k" * 32
HOST = m.Candidate("host", "192.168.1.5", 50000, 1)


class Rig:
    """One client and what it said."""

    def __init__(self, role: Role = "agent") -> None:
        self.core: Any = (
            AgentControl({"echo": "100.64.0.100", "http": "100.64.0.101"}, "100.64.1.1", random=lambda: 0.0)
            if role == "agent"
            else ConnectorControl(["echo", "http"], random=lambda: 0.0)
        )
        self.client = ControlClient(self.core, role=role, epoch=1234, software="ztna 1")
        self.signed: list[tuple[bytes, bytes]] = []

    def sign(self, nonce: bytes, leaf_sha256: bytes) -> tuple[list[bytes], bytes]:
        self.signed.append((nonce, leaf_sha256))
        return [b"leaf", b"ca"], b"signature"

    def connect(self, now: float = 0.0) -> "Rig":
        self.client.connected(LEAF, RELAY, self.sign, now)
        return self

    def tell(self, *told: m.ControlMessage, stream_id: int = 0, now: float = 0.0) -> "Rig":
        self.client.stream_received(stream_id, b"".join(map(encode_frame, told)), False, now)
        return self

    def up(self) -> "Rig":
        """Through the proof, with everything that led to it taken."""
        self.connect().tell(m.Challenge(NONCE), stream_id=1)
        self.tell(m.Welcome("spiffe://lab/agent/agent-1", stun=(("", 0), ("", 4434), ("198.51.100.2", 4433))))
        self.tell(m.Registered(self.client.role, ("echo", "http")))
        self.said()
        self.events()
        return self

    def said(self) -> list[Any]:
        found: list[Any] = []
        reader = FrameReader()
        while (command := self.client.next_command()) is not None:
            if isinstance(command, Abandon):
                found.append(command)
            else:
                assert isinstance(command, SendStream)
                assert command.stream_id == 0
                found += map(decode, reader.receive(command.data))
        return found

    def events(self) -> list[Any]:
        found: list[Any] = []
        while (event := self.client.next_event()) is not None:
            found.append(event)
        return found


@pytest.fixture
def agent() -> Rig:
    return Rig()


def test_the_proof_answers_the_challenge_and_nothing_is_said_before_the_welcome(agent: Rig) -> None:
    agent.connect()
    assert (agent.said(), agent.core.is_connected) == ([], False)
    agent.tell(m.Challenge(NONCE), stream_id=1)
    assert agent.signed == [(NONCE, LEAF)]
    assert agent.said() == [m.Hello((b"leaf", b"ca"), b"signature", software="ztna 1")]
    assert (agent.core.is_connected, agent.client.is_up, agent.events()) == (False, False, [])
    assert agent.client.connect("echo", 0.0) == 0
    agent.tell(m.Welcome("spiffe://lab/agent/agent-1", stun=(("", 0), ("", 4434))))
    assert agent.events() == [
        e.ControlUp(2, "spiffe://lab/agent/agent-1", (RELAY, ("198.51.100.1", 4434))),
        e.Registering(("echo", "http")),
    ]
    assert agent.said() == [m.Register("agent", ("echo", "http"), 1234)]
    assert (agent.core.is_connected, agent.client.get_timer()) == (True, None)


def test_registration_ends_in_the_core(agent: Rig) -> None:
    agent.up()
    assert agent.core.ready
    agent.tell(m.Registered("agent", (), (m.Refusal("http", "denied"), m.Refusal("echo", "standby"))))
    assert list(agent.core.registrations.values()) == [RegistrationState.STANDBY, RegistrationState.DENIED]
    agent.core.handle_timer(61.0)
    assert agent.said() == [m.Register("agent", ("echo", "http"), 1234)]
    agent.tell(m.Registered("agent", ("echo", "http")))
    assert agent.core.ready


def test_registration_is_repeated_until_answered(agent: Rig) -> None:
    agent.connect().tell(m.Challenge(NONCE), stream_id=1).tell(m.Welcome("x"))
    agent.said()
    agent.core.handle_timer(2.0)
    assert agent.said() == [m.Register("agent", ("echo", "http"), 1234)]


def test_without_a_welcome_in_time_the_connection_is_given_up(agent: Rig) -> None:
    agent.connect(10.0).tell(m.Challenge(NONCE), stream_id=1)
    agent.said()
    agent.client.handle_timer(14.9)
    assert agent.said() == []
    agent.client.handle_timer(15.0)
    assert agent.said() == [Abandon("the relay did not answer the proof")]
    agent.tell(m.Welcome("x"))
    assert not agent.client.is_up


def test_a_proof_that_cannot_be_made_gives_the_connection_up(agent: Rig) -> None:
    def sign(_nonce: bytes, _leaf: bytes) -> tuple[list[bytes], bytes]:
        raise LocalProtocolError("no such key")

    agent.client.connected(LEAF, RELAY, sign, 0.0)
    agent.tell(m.Challenge(NONCE), stream_id=1)
    assert agent.said() == [Abandon("cannot prove who we are: no such key")]


def test_one_challenge_is_answered_once_and_only_on_its_stream(agent: Rig) -> None:
    agent.connect().tell(m.Challenge(NONCE))
    assert agent.said() == []
    agent.tell(m.Challenge(NONCE), m.Challenge(b"m" * 32), stream_id=1)
    assert len(agent.said()) == 1
    assert (agent.signed, agent.client.stats.drop_unexpected) == ([(NONCE, LEAF)], 2)


def test_a_welcome_before_the_proof_is_not_taken(agent: Rig) -> None:
    agent.connect().tell(m.Welcome("x"))
    assert (agent.client.is_up, agent.core.is_connected, agent.events()) == (False, False, [])


def test_nothing_of_an_old_connection_acts(agent: Rig) -> None:
    agent.up()
    agent.client.end_session(SESSION, "left over", 0.0)
    agent.client.disconnected()
    agent.core.disconnected(0.0)
    assert (agent.said(), agent.events()) == ([], [e.ControlDown()])
    agent.tell(m.Observed("203.0.113.5", 1), m.EndSession(SESSION))
    assert (agent.events(), agent.core.observed_address) == ([], None)
    agent.client.disconnected()
    assert agent.events() == []
    agent.up()
    assert agent.core.ready


def test_messages_of_a_role(agent: Rig) -> None:
    agent.up()
    client = agent.client
    first, second = client.connect("echo", 0.0), client.connect("http", 0.0, session=SESSION, key=KEY)
    client.send_candidates(SESSION, [HOST], False, 0.0)
    client.nat_report(SESSION, "a", "b", "c", 0.0)
    client.path_report(SESSION, "direct", "192.0.2.1:5", "why", 1.5, 0.5, 0.0)
    client.end_session(SESSION, "x" * 300, 0.0)
    client.accept(SESSION, NONCE, 0.0)
    client.decline(SESSION, "declined", "no", 0.0)
    assert agent.said() == [
        m.Connect(first, "echo"),
        m.Connect(second, "http", SESSION, KEY),
        m.Candidates(SESSION, (HOST,)),
        m.NatReport(SESSION, "a", "b", "c"),
        m.PathReport(SESSION, "direct", "192.0.2.1:5", "why", 1.5, 0.5),
        m.EndSession(SESSION, "x" * 256),
        m.Accept(SESSION, NONCE),
        m.Error("declined", "no", session=SESSION),
    ]
    assert first != second


def test_many_candidates_go_in_several_messages(agent: Rig) -> None:
    agent.up()
    agent.client.send_candidates(SESSION, [HOST] * 130, True, 0.0)
    said = agent.said()
    assert [(len(each.candidates), each.end) for each in said] == [(64, False), (64, False), (2, True)]
    agent.client.send_candidates(SESSION, [], True, 0.0)
    assert agent.said() == [m.Candidates(SESSION, (), True)]


@pytest.mark.parametrize(
    ("told", "event"),
    [
        (m.ServiceState("echo", "c", 2), e.ServiceStateChanged("echo", "c", 2)),
        (
            m.Granted(3, SESSION, KEY, "c", NONCE, ("echo",)),
            e.SessionGranted(3, SESSION, KEY, "c", NONCE, ("echo",), RELAY),
        ),
        (
            m.Granted(3, SESSION, KEY, "c", NONCE, (), ("192.0.2.9", 5)),
            e.SessionGranted(3, SESSION, KEY, "c", NONCE, (), ("192.0.2.9", 5)),
        ),
        (m.Candidates(SESSION, (HOST,), True, 250.0), e.PeerCandidates(SESSION, (HOST,), True, 0.25)),
        (m.NatReport(SESSION, "a", "b", "c"), e.PeerNat(SESSION, "a", "b", "c")),
        (m.RelayReady(SESSION, "kernel"), e.RelayIsReady(SESSION, "kernel")),
        (m.RelayLost(SESSION, "quota"), e.RelayIsLost(SESSION, "quota")),
        (m.EndSession(SESSION, "done"), e.SessionEnded(SESSION, "done")),
        (m.Draining(2.5), e.Draining(2.5)),
        (m.Error("limit", "t", request=4), e.ControlError("limit", "t", 4)),
        (m.Error("limit", "t", request=0), e.ControlError("limit", "t", 0)),
        (m.Error("unknown-session", session=SESSION), e.ControlError("unknown-session", "", SESSION)),
        (m.Error("unknown-message", about="x"), e.ControlError("unknown-message", "", "x")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_events_of_an_agent(agent: Rig, told: m.ControlMessage, event: object) -> None:
    agent.up().tell(told)
    assert agent.events() == [event]
    assert agent.client.stats.drop_unexpected == 0


def test_an_invitation_is_for_connectors_and_a_grant_for_agents() -> None:
    invite = m.Invite(SESSION, KEY, "a", "100.64.1.1", ("echo",), resume=True)
    granted = m.Granted(3, SESSION, KEY, "c", NONCE, ())
    agent, connector = Rig().up(), Rig("connector").up()
    agent.tell(invite)
    connector.tell(invite, granted, m.ServiceState("echo"))
    assert agent.events() == []
    assert connector.events() == [e.SessionInvited(SESSION, KEY, "a", "100.64.1.1", ("echo",), RELAY, True)]
    assert (agent.client.stats.drop_unexpected, connector.client.stats.drop_unexpected) == (1, 2)


def test_addresses_of_candidates_are_canonical(agent: Rig) -> None:
    agent.up().tell(m.Candidates(SESSION, (m.Candidate("host", "2001:DB8:0::5", 1, 1),)))
    (event,) = agent.events()
    assert event.candidates[0].host == "2001:db8::5"


def test_what_a_server_must_not_say_is_counted(agent: Rig) -> None:
    agent.up().tell(m.Connect(1, "echo"), m.Register("agent", ()), m.Accept(SESSION, NONCE), m.Welcome("x"))
    agent.tell(m.Registered("connector", ("echo",)), m.Registered("agent", ("unheard of",)))
    assert (agent.events(), agent.client.stats.drop_unexpected) == ([], 6)
    agent.client.stream_received(0, b"\0\0\0\x01\xc1" + b"\0\0\0\x0f\x81\xa4type\xa8teleport", False, 0.0)
    assert (agent.client.stats.drop_malformed, agent.client.stats.drop_unknown) == (1, 1)
    agent.tell(m.Draining(1.0), stream_id=5)
    assert agent.client.stats.drop_stream == 1
    assert agent.said() == []


@pytest.mark.parametrize(("data", "fin"), [(b"\xff\xff\xff\xff", False), (b"", True)])
def test_a_broken_control_stream_is_given_up(agent: Rig, data: bytes, fin: bool) -> None:
    agent.up()
    agent.client.stream_received(0, data, fin, 0.0)
    assert agent.said() == [Abandon("the relay broke the control stream")]
    agent.tell(m.Draining(1.0))
    assert agent.events() == []


def test_a_shell_that_takes_nothing_loses_events_and_not_memory(agent: Rig) -> None:
    agent.up()
    for _ in range(5000):
        agent.tell(m.Draining(1.0))
        agent.client.end_session(SESSION, "", 0.0)
    assert (len(agent.events()), len(agent.said())) == (4096, 4096)
    assert agent.client.stats.drop_event_queue == 904


def test_reconnecting_is_left_to_the_core(agent: Rig) -> None:
    agent.up()
    agent.client.disconnected()
    agent.core.disconnected(5.0)
    commands = []
    while (command := agent.core.next_command()) is not None:
        commands.append(command)
    assert ReconnectAt(6.0) in commands


@given(
    st.sampled_from(["agent", "connector"]),
    st.lists(st.tuples(st.integers(0, 2), st.one_of(messages.map(encode_frame), st.binary(max_size=40))), max_size=25),
)
def test_any_input_raises_nothing(role: Role, inputs: list[tuple[int, bytes]]) -> None:
    rig = Rig(role).connect()
    for stream_id, data in inputs:
        rig.client.stream_received(stream_id, data, False, 0.0)
    rig.client.handle_timer(9.0)
    while rig.client.next_command() is not None:
        pass
    rig.events()
