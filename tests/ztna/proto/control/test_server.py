"""Registration over `ztna-v2`: the rules of v1, one registry, epochs, standbys, and agents that are told."""

import pytest

from tests.ztna.proto.control.world import Member, World
from tests.ztna.proto.intermediate_bed import ECHO, document
from ztna.proto.agent import AgentControl
from ztna.proto.client import Denied, Registered, SendDatagram
from ztna.proto.commands import SendDatagram as ToClient
from ztna.proto.connector import ConnectorControl
from ztna.proto.control.events import ControlDown, ControlUp, Draining, Observed, ServiceStateChanged
from ztna.proto.control.messages import Register
from ztna.proto.identity import Identity
from ztna.proto.limits import IntermediateLimits
from ztna.proto.packet import build_udp
from ztna.proto.policy import Policy
from ztna.proto.registration import RegistrationState
from ztna.proto.signalling import Candidate as SignallingCandidate
from ztna.proto.signalling import CandidateAnswer, CandidateOffer, CandidateType, SocketAddress, StartPunching
from ztna.proto.signalling import FrameReader as SignallingReader
from ztna.proto.signalling import encode_frame as signalling_frame
from ztna.proto.wire import RegisterConnector, RegistrationAck, RegistrationNack, ServiceRouted

AGENT_1 = 0x64400101
REGISTERED, STANDBY, DENIED = RegistrationState.REGISTERED, RegistrationState.STANDBY, RegistrationState.DENIED


@pytest.fixture
def world() -> World:
    return World()


def states(member: Member) -> list[RegistrationState]:
    return list(member.core.registrations.values())


def serving(world: World) -> dict[str, str | None]:
    return {service: connector for service, (connector, _) in world.relay.services().items()}


def agent_1(world: World) -> Member:
    """agent-1 with its address of the policy."""
    member = world.agent()
    core = AgentControl({"echo": "100.64.0.100", "http": "100.64.0.101"}, "100.64.1.1", random=lambda: 0.0)
    member.core = member.control.core = core
    return member


def test_registration_is_one_message_and_reported_to_the_clients_core(world: World) -> None:
    connector = world.connector().dial()
    assert [type(event) for event in connector.take()] == [ControlUp, Observed, Registered, Registered]
    assert (connector.core.ready, connector.core.observed_address) == (True, ("203.0.113.5", 40000))
    assert connector.control.stats.registers_sent == 1
    assert serving(world) == {"echo": "connector", "http": "connector"}
    assert world.relay.stats.registrations == 2


def test_agents_are_told_who_serves_and_each_change(world: World) -> None:
    agent = world.agent().dial()
    assert agent.take(ServiceStateChanged) == [
        ServiceStateChanged("echo", None, 0),
        ServiceStateChanged("http", None, 0),
    ]
    connector = world.connector(services=["echo"]).dial()
    assert agent.take(ServiceStateChanged) == [ServiceStateChanged("echo", connector.uri, 2)]
    connector.lose()
    assert agent.take(ServiceStateChanged) == [ServiceStateChanged("echo", None, 0)]


def test_a_service_that_is_not_granted_is_denied_and_asked_for_again(world: World) -> None:
    connector = world.connector("narrow").dial()
    assert states(connector) == [REGISTERED, DENIED]
    assert not connector.core.ready
    assert Denied("http") in connector.take()
    granted = document()
    granted["connectors"]["narrow"]["services"] = ["echo", "http"]
    world.relay.set_policy(Policy.from_json(granted), world.now)
    world.at(world.now + 61)
    assert states(connector) == [REGISTERED, REGISTERED]


def test_an_agent_cannot_serve_nor_a_connector_reach(world: World) -> None:
    agent, connector = world.agent().dial(), world.connector().dial()
    agent.say(Register("connector", ("echo",)))
    connector.say(Register("agent", ("echo",)))
    assert serving(world) == {"echo": "connector", "http": "connector"}
    assert world.relay.services()["echo"][1] == 1
    assert agent.control.stats.drop_unexpected == 1


def test_services_of_one_connection_are_bounded() -> None:
    world = World(relay_limits=IntermediateLimits(services_per_connection=1))
    connector = world.connector().dial()
    assert states(connector) == [REGISTERED, DENIED]
    connector.say(Register("connector", ("echo", "http")))
    assert serving(world) == {"echo": "connector"}


@pytest.mark.parametrize("service", ["", "x" * 255 + "é"])
def test_ids_that_v1_could_not_name_are_refused(world: World, service: str) -> None:
    connector = world.connector().dial()
    connector.say(Register("connector", (service[:255] if service else service,)))
    assert service not in world.relay.services()
    assert connector.closed == []


# Both protocols


def v1(world: World, conn: int, role: str, name: str | None) -> list[bytes]:
    """Open a v1 connection registered for echo; returns what it was told."""
    identity = None if name is None else Identity(role, "lab", name, frozenset({f"{role}:*"}), "bb")
    world.relay.connection_opened(conn, identity, ("203.0.113.7", conn), world.now)
    kind = b"\x10" if role == "agent" else b"\x11"
    world.relay.datagram_received(conn, kind + b"\x04echo", world.now)
    world.run()
    return told(world, conn)


def told(world: World, conn: int) -> list[bytes]:
    data = [command.data for command in world.raw if isinstance(command, ToClient) and command.conn == conn]
    world.raw = [command for command in world.raw if command.conn != conn]
    return data


def test_a_v1_agent_reaches_a_v2_connector_and_back(world: World) -> None:
    connector = world.connector().dial()
    v1(world, 77, "agent", "agent-1")
    there, back = build_udp(AGENT_1, 4000, ECHO, 9999, b"hi"), build_udp(ECHO, 9999, AGENT_1, 4000, b"ho")
    world.relay.datagram_received(77, ServiceRouted("echo", there).encode(), world.now)
    world.run()
    assert connector.packets == [there]
    world.relay.datagram_received(connector.conn, back, world.now)
    world.run()
    assert told(world, 77) == [back]


def test_a_v2_agent_reaches_a_v1_connector_and_back(world: World) -> None:
    v1(world, 77, "connector", "connector")
    agent = agent_1(world).dial()
    assert agent.take(ServiceStateChanged)[0] == ServiceStateChanged("echo", "spiffe://lab/connector/connector", 1)
    there, back = build_udp(AGENT_1, 4000, ECHO, 9999, b"hi"), build_udp(ECHO, 9999, AGENT_1, 4000, b"ho")
    assert isinstance(agent.core, AgentControl)
    wrapped = agent.core.wrap(there)
    assert wrapped is not None
    world.relay.datagram_received(agent.conn, wrapped, world.now)
    world.run()
    assert told(world, 77) == [there]
    world.relay.datagram_received(77, back, world.now)
    world.run()
    assert agent.packets == [back]


def test_an_anonymous_connector_is_announced_without_a_name() -> None:
    world = World(allow_anonymous=True)
    v1(world, 77, "connector", None)
    agent = world.agent(services=["echo"]).dial()
    assert agent.take(ServiceStateChanged) == [ServiceStateChanged("echo", None, 1)]
    connector = world.connector(services=["echo"]).dial()
    assert serving(world) == {"echo": "connector"}
    assert agent.take(ServiceStateChanged) == [ServiceStateChanged("echo", connector.uri, 2)]


def test_registration_messages_of_v1_do_nothing_on_v2(world: World) -> None:
    agent = world.agent(services=["http"]).dial()
    world.relay.datagram_received(agent.conn, b"\x10\x04echo", world.now)
    world.run()
    assert "echo" not in world.relay.services()
    assert world.relay.stats.drop_unexpected_control == 1
    for data in (RegistrationNack("http", 2).encode(), RegistrationAck("http").encode()):
        agent.core.datagram_received(data, world.now)
    assert states(agent) == [REGISTERED]


def test_a_v1_connection_of_the_same_identity_takes_over_and_is_taken_over(world: World) -> None:
    connector = world.connector(services=["echo"], epoch=5).dial()
    assert v1(world, 77, "connector", "connector")[-1] == RegistrationAck("echo").encode()
    assert states(connector) == [STANDBY]
    world.connector(services=["echo"], epoch=1).dial()
    assert told(world, 77) == [RegistrationNack("echo", 2).encode()]


# Epochs and standbys


def test_of_one_identity_the_process_that_started_last_serves(world: World) -> None:
    newer = world.connector(epoch=2000).dial()
    older = world.connector(epoch=1000).dial()
    assert (states(newer), states(older)) == ([REGISTERED] * 2, [STANDBY] * 2)
    assert older.core.ready
    assert world.relay.stats.connectors_displaced == 0
    newest = world.connector(epoch=3000).dial()
    assert (states(newest), states(newer)) == ([REGISTERED] * 2, [STANDBY] * 2)


def test_a_process_that_reconnects_takes_its_services_back_at_once(world: World) -> None:
    connector = world.connector(epoch=7).dial()
    lost, connector.conn = connector.conn, 0
    del world.members[lost]
    connector.control.disconnected()
    connector.core.disconnected(world.now)
    world.run()
    connector.dial()
    assert states(connector) == [REGISTERED] * 2
    assert world.relay.stats.connectors_displaced == 2
    world.control.connection_closed(lost, world.now)
    world.run()
    assert serving(world) == {"echo": "connector", "http": "connector"}


def test_two_living_processes_switch_at_most_once_in_ten_seconds(world: World) -> None:
    agent = world.agent(services=["echo"]).dial()
    processes = [world.connector(services=["echo"], epoch=epoch).dial() for epoch in range(1, 6)]
    assert world.relay.stats.connectors_displaced == 1
    assert [states(each)[0] for each in processes] == [STANDBY, REGISTERED, STANDBY, STANDBY, STANDBY]
    world.at(world.now + 9.9)
    assert world.relay.stats.connectors_displaced == 1
    world.at(world.now + 0.2)
    assert world.relay.stats.connectors_displaced == 2
    assert states(processes[2])[0] is REGISTERED
    world.at(world.now + 120)
    assert states(processes[4])[0] is REGISTERED
    assert [states(each)[0] for each in processes[:4]] == [STANDBY] * 4
    assert world.relay.stats.connectors_displaced <= 4
    assert {change.connector for change in agent.take(ServiceStateChanged)} == {None, processes[0].uri}


def test_another_authorised_identity_stands_by_and_follows_at_once(world: World) -> None:
    agent = world.agent(services=["echo"]).dial()
    holder, other = world.connector(services=["echo"]).dial(), world.connector("other", ["echo"]).dial()
    assert (states(holder), states(other)) == ([REGISTERED], [STANDBY])
    agent.take()
    holder.lose()
    assert states(other) == [REGISTERED]
    assert agent.take(ServiceStateChanged) == [ServiceStateChanged("echo", other.uri, 2)]
    holder.dial()
    assert (states(holder), states(other)) == ([STANDBY], [REGISTERED])


def test_a_standby_that_leaves_or_loses_its_right_does_not_follow(world: World) -> None:
    holder = world.connector(services=["echo"]).dial()
    gone, barred = world.connector("other", ["echo"]).dial(), world.connector("narrow", ["echo"]).dial()
    gone.lose()
    policy = document()
    policy["connectors"]["narrow"]["services"] = []
    world.relay.set_policy(Policy.from_json(policy), world.now)
    world.run()
    assert states(barred) == [DENIED]
    holder.lose()
    assert world.relay.services() == {}


def test_an_unauthorised_claim_is_refused_and_the_holder_loses_nothing(world: World) -> None:
    holder = world.connector().dial()
    holder.take()
    stranger = world.connector("stranger", epoch=9999).dial()
    assert states(stranger) == [DENIED, DENIED]
    assert (holder.take(), states(holder)) == ([], [REGISTERED] * 2)
    holder.lose()
    assert world.relay.services() == {}


def test_a_v1_holder_is_followed_by_a_v2_standby(world: World) -> None:
    v1(world, 77, "connector", "connector")
    other = world.connector("other", ["echo"]).dial()
    assert states(other) == [STANDBY]
    assert world.relay.stats.registrations_refused == 0
    world.relay.connection_closed(77, world.now)
    world.run()
    assert states(other) == [REGISTERED]


def test_a_v1_claim_on_a_held_service_is_refused_as_ever(world: World) -> None:
    holder = world.connector(services=["echo"]).dial()
    assert v1(world, 77, "connector", "other")[-1] == RegistrationNack("echo", 2).encode()
    holder.lose()
    assert told(world, 77) == []
    world.relay.datagram_received(77, RegisterConnector("echo").encode(), world.now)
    world.run()
    assert told(world, 77) == [RegistrationAck("echo").encode()]


# The rest


def test_observed_addresses_of_both_families(world: World) -> None:
    agent = world.agent()
    agent.address = ("2001:db8::5", 5000)
    agent.dial()
    assert agent.core.observed_address == ("2001:db8::5", 5000)
    world.control.address_changed(agent.conn, ("::ffff:203.0.113.8", 6000), world.now)
    world.run()
    assert agent.core.observed_address == ("203.0.113.8", 6000)
    world.control.address_changed(agent.conn, ("fe80::1%eth0", 6000), world.now)
    world.run()
    assert agent.core.observed_address == ("fe80::1", 6000)


def test_a_revoked_member_is_closed(world: World) -> None:
    agent, connector = world.agent().dial(), world.connector().dial()
    world.relay.set_policy(Policy.from_json(document(revoked=[agent.uri])), world.now)
    world.run()
    assert (agent.closed, connector.closed) == (["client cert revoked"], [])
    assert agent.take(ControlDown) == [ControlDown()]
    agent.dial()
    assert agent.closed == ["client cert revoked"] * 2
    assert world.relay.connections == 1


def test_a_withdrawn_right_is_told(world: World) -> None:
    agent, connector = world.agent().dial(), world.connector().dial()
    policy = document()
    policy["agents"]["agent-1"]["services"] = ["http"]
    policy["connectors"]["connector"]["services"] = ["echo"]
    world.relay.set_policy(Policy.from_json(policy), world.now)
    world.run()
    assert (states(agent), states(connector)) == ([DENIED, REGISTERED], [REGISTERED, DENIED])
    assert agent.take(ServiceStateChanged)[-1] == ServiceStateChanged("http", None, 0)


def test_members_are_told_that_it_stops(world: World) -> None:
    agent, connector = world.agent().dial(), world.connector().dial()
    world.control.connection_opened(500, ("203.0.113.9", 1), b"l" * 32, world.now)
    assert world.control.drain(2.5) == 2
    world.run()
    assert agent.take(Draining) == connector.take(Draining) == [Draining(2.5)]


def test_v1_signalling_passes_beside_the_control_stream(world: World) -> None:
    connector = world.connector().dial()
    v1(world, 77, "agent", "agent-1")
    host = SignallingCandidate(CandidateType.HOST, SocketAddress("192.0.2.7", 5), 1, "h", None)
    world.relay.stream_received(77, 0, signalling_frame(CandidateOffer(5, "echo", (host,))), False, world.now)
    world.run()
    assert isinstance(connector.core, ConnectorControl)
    assert connector.control.stats.drop_stream == 0
    ((stream_id, data),) = connector.signalled
    assert (stream_id, SignallingReader().receive(data)) == (5, [CandidateOffer(5, "echo", (host,))])
    connector.say_bytes(signalling_frame(CandidateAnswer(5, (host,))), 4)
    ((stream_id, data),) = connector.signalled[1:]
    assert (stream_id, SignallingReader().receive(data)) == (5, [StartPunching(5, 100, (host,))])
    (to_agent,) = [command for command in world.raw if command.conn == 77]
    assert SignallingReader().receive(to_agent.data) == [StartPunching(5, 100, (host,))]


def test_datagrams_to_the_client_before_the_welcome_are_dropped(world: World) -> None:
    agent = world.agent()
    agent.core.datagram_received(b"\x12\x00\x04echo", world.now)
    assert agent.core.next_command() is None
    assert SendDatagram(b"") not in agent.take()
