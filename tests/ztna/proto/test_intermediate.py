"""The intermediate's connections, registrations and policy changes; packets are in test_relay."""

import pytest

from tests.ztna.proto.intermediate_bed import (
    AGENT_1,
    HTTP,
    Bed,
    agent,
    connector,
    document,
    dotted,
    from_echo,
    to_echo,
)
from ztna.proto.commands import CloseConnection, Note, SendDatagram
from ztna.proto.identity import Identity
from ztna.proto.intermediate import CLOSE_REFUSED, Intermediate, observed_ipv4
from ztna.proto.limits import IntermediateLimits
from ztna.proto.packet import build_udp
from ztna.proto.policy import Policy
from ztna.proto.signalling import (
    CandidateOffer,
    encode_frame,
)
from ztna.proto.wire import (
    NackStatus,
    ObservedAddress,
    RegisterAgent,
    RegisterConnector,
    RegistrationAck,
    RegistrationNack,
)

ACK = RegistrationAck("echo").encode()
NACK = RegistrationNack("echo", NackStatus.NOT_AUTHORISED).encode()


# Connections and observed addresses


def test_the_observed_address_is_told_after_opening_and_after_each_change() -> None:
    bed = Bed()
    bed.core.connection_opened(1, agent(), ("203.0.113.5", 54321), 0.0)
    assert bed.take() == [SendDatagram(1, bytes.fromhex("01 cb 00 71 05 d4 31"))]
    bed.core.address_changed(1, ("203.0.113.9", 9), 1.0)
    assert bed.take() == [SendDatagram(1, ObservedAddress("203.0.113.9", 9).encode())]
    assert bed.stats.observed_addresses_sent == 2


@pytest.mark.parametrize("host", ["2001:db8::1", "fe80::1%eth0", "not an address"])
def test_no_observed_address_for_what_is_not_ipv4(host: str) -> None:
    bed = Bed()
    bed.core.connection_opened(1, agent(), (host, 1), 0.0)
    assert bed.take() == []
    assert bed.core.connections == 1


def test_observed_ipv4_of_a_mapped_address() -> None:
    assert observed_ipv4("::ffff:203.0.113.5") == "203.0.113.5"


def test_anonymous_peers_are_refused_unless_allowed() -> None:
    bed = Bed()
    bed.open(1, None)
    assert bed.take() == [CloseConnection(1, CLOSE_REFUSED, "client cert required")]
    assert bed.send(1, RegisterAgent("echo").encode()) == []
    assert bed.stats.drop_not_open == 1
    allowing = Bed(allow_anonymous=True)
    allowing.open(1, None)
    assert allowing.core.connections == 1


def test_revoked_certificates_and_other_roles_are_refused() -> None:
    bed = Bed(policy=Policy.from_json(document(revoked=["spiffe://lab/agent/agent-1"])))
    bed.open(1, agent())
    bed.open(2, Identity("intermediate", "lab", "x", frozenset({"agent:*"}), ""))
    assert bed.take() == [
        CloseConnection(1, CLOSE_REFUSED, "client cert revoked"),
        CloseConnection(2, CLOSE_REFUSED, "invalid client cert"),
    ]
    assert (bed.core.connections, bed.stats.connections_refused) == (0, 2)


def test_connections_are_bounded() -> None:
    bed = Bed(limits=IntermediateLimits(connections=2))
    for conn in (1, 2, 3):
        bed.open(conn, agent())
    assert CloseConnection(3, CLOSE_REFUSED, "too many connections") in bed.take()
    bed.close(1)
    bed.open(4, agent())
    assert bed.core.connections == 2


def test_nothing_acts_before_opening_or_after_closing() -> None:
    bed = Bed()
    register = RegisterAgent("echo").encode()
    assert bed.send(1, register) == []
    bed.core.stream_received(1, 0, b"", False, 0.0)
    bed.core.address_changed(1, ("203.0.113.5", 1), 0.0)
    bed.core.connection_closed(1, 0.0)
    bed.agent(1)
    bed.close(1)
    assert bed.send(1, register) == []
    bed.core.stream_received(1, 0, encode_frame(CandidateOffer(1, "echo", ())), False, 0.0)
    assert bed.take(notes=True) == []
    assert bed.stats.drop_not_open == 4
    assert bed.core.services() == {}


def test_opening_twice_changes_nothing() -> None:
    bed = Bed()
    bed.agent(1)
    bed.open(1, connector())
    assert bed.take() == []
    assert bed.core.services() == {"echo": (None, 1)}


# Registration


def test_register_vectors() -> None:
    bed = Bed(allow_anonymous=True)
    bed.open(1, None)
    assert bed.send(1, bytes.fromhex("10 0c 746573742d73657276696365")) == [
        SendDatagram(1, bytes.fromhex("12 00 0c 74 65 73 74 2d 73 65 72 76 69 63 65"))
    ]
    assert bed.send(1, bytes.fromhex("11 01 ff")) == [SendDatagram(1, bytes.fromhex("13 01 00"))]
    assert bed.send(1, bytes.fromhex("10 00")) == [SendDatagram(1, bytes.fromhex("12 00 00"))]


def test_unauthorised_services_are_refused_and_the_connection_stays() -> None:
    bed = Bed()
    bed.open(1, agent())
    bed.open(2, connector())
    bed.take()
    other = bytes.fromhex("13 02 05 6f 74 68 65 72")
    assert bed.send(1, RegisterAgent("other").encode()) == [SendDatagram(1, other)]
    assert bed.send(1, RegisterConnector("echo").encode()) == [SendDatagram(1, NACK)]
    assert bed.send(2, RegisterAgent("echo").encode()) == [SendDatagram(2, NACK)]
    assert bed.send(1, RegisterAgent("echo").encode()) == [SendDatagram(1, ACK)]
    assert (bed.stats.registrations_refused, bed.stats.registrations) == (3, 1)


def test_a_refusal_is_noted_once() -> None:
    bed = Bed()
    bed.open(1, agent())
    bed.take()
    for _ in range(3):
        bed.core.datagram_received(1, RegisterAgent("other").encode(), 0.0)
    notes = [command for command in bed.take(notes=True) if isinstance(command, Note)]
    assert [note.event for note in notes] == ["registration refused"]
    assert notes[0].fields == {"peer": "agent-1", "role": "agent", "service": "other"}


def test_repeated_registration_is_acknowledged_again() -> None:
    bed = Bed()
    bed.agent(1)
    bed.connector(10)
    assert bed.send(1, RegisterAgent("echo").encode()) == [SendDatagram(1, ACK)]
    assert bed.send(10, RegisterConnector("echo").encode()) == [SendDatagram(10, ACK)]
    assert bed.core.services() == {"echo": ("connector", 1)}


def test_services_of_one_connection_are_bounded() -> None:
    bed = Bed(allow_anonymous=True, limits=IntermediateLimits(services_per_connection=2))
    bed.agent(1, None, "a", "b")
    refused = RegistrationNack("c", NackStatus.NOT_AUTHORISED).encode()
    assert bed.send(1, RegisterAgent("c").encode()) == [SendDatagram(1, refused)]
    assert bed.send(1, RegisterAgent("a").encode()) == [SendDatagram(1, RegistrationAck("a").encode())]


def test_empty_truncated_and_misdirected_control_messages_are_counted() -> None:
    bed = Bed()
    bed.agent(1)
    for data in (
        b"",
        b"\x10",
        b"\x10\x05ab",
        b"\x01\xcb\x00\x71\x05\xd4\x31",
        b"\x12\x00\x00",
        b"\x13\x02\x00",
        b"\x60x",
    ):
        assert bed.send(1, data) == []
    stats = bed.stats
    assert (stats.drop_empty, stats.drop_truncated, stats.drop_unexpected_control, stats.drop_malformed) == (1, 2, 3, 1)


def test_a_second_identity_is_refused_and_the_holder_loses_nothing() -> None:
    bed = Bed()
    bed.agent(1)
    bed.connector(10)
    bed.routed(1, to_echo())
    bed.open(11, connector("other"))
    bed.take()
    assert bed.send(11, RegisterConnector("echo").encode()) == [SendDatagram(11, NACK)]
    assert bed.routed(1, to_echo()) == [SendDatagram(10, to_echo())]
    assert bed.send(10, from_echo()) == [SendDatagram(1, from_echo())]
    bed.close(10)
    assert bed.send(11, RegisterConnector("echo").encode()) == [SendDatagram(11, ACK)]


def test_the_same_identity_replaces_itself_and_its_routes_move() -> None:
    bed = Bed()
    bed.agent(1)
    bed.connector(10, "connector", "echo", "http")
    bed.routed(1, to_echo())
    bed.open(11, connector())
    bed.take()
    # The displaced connection learns it: a second process with the same certificate must not believe that it serves.
    assert bed.send(11, RegisterConnector("echo").encode()) == [SendDatagram(10, NACK), SendDatagram(11, ACK)]
    assert bed.send(11, from_echo()) == [SendDatagram(1, from_echo())]
    assert bed.send(10, from_echo()) == []
    assert bed.routed(1, to_echo()) == [SendDatagram(11, to_echo())]
    assert bed.core.services() == {"echo": ("connector", 1), "http": ("connector", 0)}
    assert bed.stats.connectors_displaced == 1
    # The older connection does not take the service back.
    assert bed.send(10, RegisterConnector("echo").encode()) == [SendDatagram(10, NACK)]
    bed.close(10)
    assert bed.core.services() == {"echo": ("connector", 1)}


def test_anonymous_connectors_replace_each_other_but_never_an_authenticated_one() -> None:
    bed = Bed(allow_anonymous=True)
    bed.connector(10, None)
    bed.connector(11, None)
    assert bed.stats.connectors_displaced == 1
    bed.connector(12, "connector")
    bed.open(13, None)
    bed.take()
    assert bed.send(13, RegisterConnector("echo").encode()) == [SendDatagram(13, NACK)]
    assert bed.core.services() == {"echo": ("connector", 0)}


def test_an_authenticated_connector_does_not_inherit_an_anonymous_ones_flows() -> None:
    bed = Bed(allow_anonymous=True)
    bed.agent(1)
    bed.connector(10, None)
    bed.routed(1, to_echo())
    bed.connector(11, "connector")
    assert bed.send(11, from_echo()) == []
    assert bed.stats.drop_no_flow == 1


def test_registrations_end_with_their_connection() -> None:
    bed = Bed()
    bed.agent(1)
    bed.connector(10)
    bed.close(10)
    bed.close(1)
    assert bed.core.services() == {}
    assert (bed.core.connections, bed.core.flows) == (0, 0)
    assert bed.stats.connections_closed == 2


def test_status_names_anonymous_connectors() -> None:
    bed = Bed(allow_anonymous=True)
    bed.connector(10, None)
    assert bed.core.services() == {"echo": ("anonymous", 0)}


# Policy


def test_a_revoked_peer_is_closed_and_acts_no_more() -> None:
    bed = Bed()
    bed.agent(1)
    bed.agent(2, "agent-2")
    bed.connector(10)
    bed.core.set_policy(Policy.from_json(document(revoked=["aa" * 32, "spiffe://lab/agent/agent-1"])), 1.0)
    assert bed.take() == [CloseConnection(1, CLOSE_REFUSED, "client cert revoked")]
    assert bed.routed(1, to_echo()) == []
    assert bed.stats.connections_revoked == 1
    assert bed.core.services() == {"echo": ("connector", 1)}
    bed.core.connection_closed(1, 1.0)
    assert bed.stats.connections_closed == 1


def test_withdrawn_rights_end_registrations_and_flows() -> None:
    bed = Bed()
    bed.agent(1, "agent-1", "echo", "http")
    bed.connector(10, "connector", "echo", "http")
    bed.routed(1, to_echo())
    bed.routed(1, build_udp(AGENT_1, 4000, HTTP, 80, b""), "http")
    changed = document()
    changed["agents"]["agent-1"]["services"] = ["http"]
    bed.core.set_policy(Policy.from_json(changed), 1.0)
    assert bed.take() == [SendDatagram(1, NACK)]
    assert bed.routed(1, to_echo()) == []
    assert bed.send(10, from_echo()) == []
    assert bed.send(10, build_udp(HTTP, 80, AGENT_1, 4000, b"")) != []
    changed["connectors"]["connector"]["services"] = []
    bed.core.set_policy(Policy.from_json(changed), 1.0)
    assert bed.take() == [
        SendDatagram(10, NACK),
        SendDatagram(10, RegistrationNack("http", NackStatus.NOT_AUTHORISED).encode()),
    ]
    assert bed.core.services() == {"http": (None, 1)}
    assert bed.core.flows == 0
    assert bed.stats.registrations_withdrawn == 3


def test_flows_end_when_an_address_moves() -> None:
    bed = Bed(allow_anonymous=True)
    bed.agent(1)
    bed.agent(2, None)
    bed.connector(10)
    legacy = 0x0A000005
    bed.routed(1, to_echo())
    bed.routed(2, to_echo(legacy))
    bed.core.set_policy(Policy.from_json(document()), 1.0)
    assert bed.core.flows == 2
    changed = document()
    changed["agents"]["agent-1"]["virtual_ip"] = dotted(legacy)
    bed.core.set_policy(Policy.from_json(changed), 1.0)
    assert bed.core.flows == 0
    assert bed.routed(1, to_echo()) == []
    assert bed.routed(2, to_echo(legacy)) == []
    assert bed.routed(1, to_echo(legacy)) == [SendDatagram(10, to_echo(legacy))]
    changed["services"]["echo"]["virtual_ip"] = "100.64.0.200"
    bed.core.set_policy(Policy.from_json(changed), 1.0)
    assert bed.core.flows == 0
    assert bed.routed(1, to_echo(legacy)) == []


def test_an_unchanged_policy_changes_nothing() -> None:
    bed = Bed(allow_anonymous=True)
    bed.agent(1)
    bed.agent(2, None)
    bed.connector(10)
    bed.routed(1, to_echo())
    bed.routed(2, to_echo(5 << 24))
    bed.take()
    bed.core.set_policy(Policy.from_json(document()), 1.0)
    assert bed.take(notes=True) == []
    assert bed.core.flows == 2


def test_a_close_command_is_never_dropped() -> None:
    bed = Bed(limits=IntermediateLimits(commands=1))
    for conn in range(5):
        bed.open(conn, None)
    closed = [command.conn for command in bed.take() if isinstance(command, CloseConnection)]
    assert closed == list(range(5))
    assert bed.stats.drop_command_queue == 5


def test_defaults() -> None:
    core = Intermediate(Policy.empty())
    assert core.get_timer() is None
    assert core.next_command() is None
