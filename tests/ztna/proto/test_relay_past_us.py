"""Answers to packets that agents sent to their connector directly: to whom they are relayed, and to whom never."""

import struct
from typing import Any

import pytest

from tests.ztna.proto.intermediate_bed import AGENT_1, AGENT_2, ECHO, HTTP, Bed, document, from_echo, to_echo
from ztna.proto.commands import SendDatagram
from ztna.proto.limits import IntermediateLimits
from ztna.proto.packet import (
    TCP,
    build_echo_reply,
    build_echo_request,
    build_ipv4,
    build_udp,
    build_unreachable,
)
from ztna.proto.policy import Policy
from ztna.proto.signalling import (
    Candidate,
    CandidateAnswer,
    CandidateOffer,
    CandidateType,
    SocketAddress,
)

LEGACY = 0x64400001  # 100.64.0.1, what every agent in the field calls itself
SIDE = (Candidate(CandidateType.HOST, SocketAddress("192.168.1.100", 50000), 0x7EFFFFFF, "host_192.168.1.100"),)


def punch(bed: Bed, agent: int, connector: int = 10, service: str = "echo") -> None:
    """Offer and answer, so that both are told to start."""
    bed.signal(agent, CandidateOffer(agent, service, SIDE))
    assert len(bed.signal(connector, CandidateAnswer(agent, SIDE))) == 2


@pytest.fixture
def bed() -> Bed:
    """Two agents with certificates, of which the first has punched, and three without, of which none has."""
    bed = Bed(allow_anonymous=True)
    bed.agent(1, "agent-1", "echo", "http")
    bed.agent(2, "agent-2", "echo", "http")
    for conn in (5, 6):
        bed.agent(conn, None)
    bed.agent(7, None, "http")
    bed.connector(10, "connector", "echo", "http")
    bed.connector(11, "other", "game")
    punch(bed, 1)
    return bed


def tcp(flags: int, destination: int = AGENT_1) -> bytes:
    return build_ipv4(TCP, ECHO, destination, struct.pack("!HHIIBBHHH", 80, 4000, 1, 1, 0x50, flags, 65535, 0, 0))


def refused(bed: Bed, packet: bytes, conn: int = 10) -> bool:
    """Send a packet of a connector; say whether it went nowhere, opened nothing, and was counted."""
    flows, drops = bed.core.flows, bed.stats.drop_no_flow
    return bed.send(conn, packet) == [] and (bed.core.flows, bed.stats.drop_no_flow) == (flows, drops + 1)


def test_the_answer_to_an_agent_that_punched_opens_its_flow(bed: Bed) -> None:
    assert bed.send(10, from_echo()) == [SendDatagram(1, from_echo())]
    assert (bed.core.flows, bed.stats.flows_punched, bed.stats.drop_no_flow) == (1, 1, 0)
    # From now on the flow is like any other, in both directions.
    assert bed.routed(1, to_echo()) == [SendDatagram(10, to_echo())]
    assert bed.send(10, from_echo(payload=b"more")) == [SendDatagram(1, from_echo(payload=b"more"))]
    assert (bed.core.flows, bed.stats.flows_punched, bed.stats.flows_opened) == (1, 1, 1)
    bed.at(IntermediateLimits().udp_flow_idle_s + 1)
    assert bed.core.flows == 0


def test_any_service_that_the_agent_registered_for_may_answer(bed: Bed) -> None:
    http = build_udp(HTTP, 80, AGENT_1, 4000, b"")
    assert bed.send(10, http) == [SendDatagram(1, http)]


@pytest.mark.parametrize(
    "packet",
    [tcp(0x12), tcp(0x14), build_echo_reply(ECHO, AGENT_1, 7, 1, b"x"), build_unreachable(ECHO, to_echo(), 3)],
    ids=["SYN-ACK", "RST", "echo reply", "port unreachable"],
)
def test_answers_of_every_protocol_pass(bed: Bed, packet: bytes) -> None:
    assert bed.send(10, packet) == [SendDatagram(1, packet)]


@pytest.mark.parametrize(
    "packet",
    [tcp(0x02), build_ipv4(TCP, ECHO, AGENT_1, bytes(8)), build_echo_request(ECHO, AGENT_1, 7, 1, b"x")],
    ids=["SYN", "TCP without flags", "echo request"],
)
def test_nobody_begins_a_connection_to_an_agent(bed: Bed, packet: bytes) -> None:
    assert refused(bed, packet)


@pytest.mark.parametrize(
    ("conn", "packet"),
    [
        (10, from_echo(AGENT_2)),
        (11, build_udp(0x64400066, 1, AGENT_1, 1, b"")),
        (11, from_echo()),
        (10, build_udp(0x64400066, 1, AGENT_1, 1, b"")),
        (10, build_udp(AGENT_2, 1, AGENT_1, 1, b"")),
        (10, from_echo(LEGACY)),
        (10, from_echo(ECHO)),
        (10, from_echo(0xE0000001)),
    ],
    ids=[
        "an agent that did not punch", "another connector", "its service", "a service of another",
        "no service", "no agent", "a service's address", "multicast",
    ],
)  # fmt: skip
def test_without_start_punching_between_the_two_nothing_passes(bed: Bed, conn: int, packet: bytes) -> None:
    assert refused(bed, packet, conn)


def test_an_offer_without_an_answer_is_no_exchange(bed: Bed) -> None:
    bed.signal(2, CandidateOffer(2, "echo", SIDE))
    assert refused(bed, from_echo(AGENT_2))


def test_the_agent_must_be_registered_for_the_service() -> None:
    bed = Bed()
    bed.agent(1, "agent-1", "echo")
    bed.connector(10, "connector", "echo", "http")
    punch(bed, 1)
    assert refused(bed, build_udp(HTTP, 80, AGENT_1, 4000, b""))
    assert not refused(bed, from_echo())


@pytest.mark.parametrize("conn", [1, 10])
def test_it_is_forgotten_with_either_connection(bed: Bed, conn: int) -> None:
    bed.close(conn)
    if conn == 1:
        bed.agent(1, "agent-1", "echo", "http")
    else:
        bed.connector(10, "connector", "echo", "http")
    assert refused(bed, from_echo())
    assert not bed.core.peer(10).punched  # type: ignore[union-attr]
    assert not bed.core.peer(1).punchers  # type: ignore[union-attr]


def test_of_two_connections_of_an_agent_the_newer_that_punched_gets_it(bed: Bed) -> None:
    bed.agent(3, "agent-1")
    assert bed.send(10, from_echo(port=1)) == [SendDatagram(1, from_echo(port=1))]
    punch(bed, 3)
    assert bed.send(10, from_echo(port=2)) == [SendDatagram(3, from_echo(port=2))]


@pytest.mark.parametrize(
    "changes",
    [
        {"agents": {"agent-1": {"virtual_ip": "100.64.1.9", "services": ["echo"]}}},
        {"agents": {"agent-1": {"virtual_ip": "100.64.1.1", "services": ["http"]}}},
        {"revoked": ["spiffe://lab/agent/agent-1"]},
    ],
    ids=["another address", "no longer granted", "revoked"],
)
def test_a_changed_policy_counts_at_once(bed: Bed, changes: dict[str, Any]) -> None:
    assert bed.send(10, from_echo()) != []
    bed.core.set_policy(Policy.from_json(document(**changes)), 0.0)
    bed.take()
    assert refused(bed, from_echo())


def test_the_only_anonymous_agent_that_punched_gets_the_answer(bed: Bed) -> None:
    punch(bed, 5)
    assert bed.send(10, from_echo(LEGACY)) == [SendDatagram(5, from_echo(LEGACY))]
    # It may not be reached by the address of an agent that has a name, nor by one that is nobody's.
    assert refused(bed, from_echo(AGENT_2))
    assert refused(bed, from_echo(0x7F000001))


def test_of_two_anonymous_agents_nobody_gets_it(bed: Bed) -> None:
    punch(bed, 5)
    assert bed.send(10, from_echo(LEGACY)) != []
    punch(bed, 6)
    assert refused(bed, from_echo(LEGACY, port=4001))
    # A flow that was opened while there was no doubt stays.
    assert bed.send(10, from_echo(LEGACY)) == [SendDatagram(5, from_echo(LEGACY))]
    bed.close(6)
    bed.take()
    assert bed.send(10, from_echo(LEGACY, port=4001)) == [SendDatagram(5, from_echo(LEGACY, port=4001))]


def test_anonymous_agents_of_another_service_raise_no_doubt(bed: Bed) -> None:
    punch(bed, 5)
    punch(bed, 7, service="http")
    assert bed.send(10, from_echo(LEGACY)) == [SendDatagram(5, from_echo(LEGACY))]


def test_a_connector_without_a_policy_address_speaks_for_its_only_service() -> None:
    bed = Bed(allow_anonymous=True, policy=Policy.from_json(document(services={}, agents={}, connectors={})))
    bed.agent(5, None, "echo-service")
    bed.connector(10, None, "echo-service")
    punch(bed, 5, service="echo-service")
    reply = build_udp(0x0A640001, 9999, LEGACY, 4000, b"")
    assert bed.send(10, reply) == [SendDatagram(5, reply)]


def test_with_two_services_and_no_policy_it_is_not_known_which() -> None:
    bed = Bed(allow_anonymous=True, policy=Policy.from_json(document(services={}, agents={}, connectors={})))
    bed.agent(5, None, "echo")
    bed.connector(10, None, "echo", "http")
    punch(bed, 5)
    assert refused(bed, build_udp(0x0A640001, 9999, LEGACY, 4000, b""))


def test_flows_opened_so_are_bounded_as_others() -> None:
    bed = Bed(limits=IntermediateLimits(flows=2, flows_per_agent=2))
    bed.agent(1)
    bed.connector(10)
    punch(bed, 1)
    for port in range(4000, 4010):
        assert bed.send(10, from_echo(port=port)) != []
    assert (bed.core.flows, bed.stats.flows_evicted) == (2, 8)


def test_a_full_table_is_a_drop_of_its_own() -> None:
    bed = Bed(limits=IntermediateLimits(flows=1))
    bed.agent(1)
    bed.agent(2, "agent-2")
    bed.connector(10)
    bed.routed(2, to_echo(AGENT_2))
    punch(bed, 1)
    assert bed.send(10, from_echo()) == []
    assert (bed.stats.drop_flow_limit, bed.stats.drop_no_flow) == (1, 0)
