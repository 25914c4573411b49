"""Flows: bounded, expiring by protocol, and surviving the reconnect of either side."""

import struct

import pytest

from tests.ztna.proto.intermediate_bed import AGENT_1, AGENT_2, ECHO, Bed, document, dotted, from_echo, to_echo
from ztna.proto.commands import SendDatagram
from ztna.proto.flows import HEAP_SLACK, FlowTable
from ztna.proto.limits import IntermediateLimits
from ztna.proto.packet import TCP, build_echo_request, build_ipv4
from ztna.proto.policy import Policy
from ztna.proto.registry import Registry
from ztna.proto.stats import IntermediateStats
from ztna.proto.wire import RegisterAgent, RegisterConnector


def segment() -> bytes:
    return build_ipv4(TCP, AGENT_1, ECHO, struct.pack("!HH", 4000, 80) + bytes(16))


def bed_with_flow(**limits: int) -> Bed:
    bed = Bed(limits=IntermediateLimits(**limits))
    bed.agent(1)
    bed.connector(10)
    bed.routed(1, to_echo())
    return bed


@pytest.mark.parametrize(
    ("packet", "idle_s"),
    [(to_echo(), 300.0), (segment(), 7440.0), (build_echo_request(AGENT_1, ECHO, 1, 1, b""), 60.0)],
    ids=["udp", "tcp", "icmp"],
)
def test_idle_flows_expire_by_protocol(packet: bytes, idle_s: float) -> None:
    bed = Bed()
    bed.agent(1)
    bed.connector(10)
    bed.routed(1, packet)
    assert bed.core.get_timer() == idle_s
    bed.at(idle_s - 0.1)
    assert bed.core.flows == 1
    bed.at(idle_s)
    assert (bed.core.flows, bed.stats.flows_expired) == (0, 1)
    assert bed.core.get_timer() is None


def test_packets_of_both_directions_refresh() -> None:
    bed = bed_with_flow()
    bed.at(200.0)
    bed.send(10, from_echo())
    bed.at(499.0)
    assert bed.core.flows == 1
    bed.routed(1, to_echo())
    bed.at(798.0)
    assert bed.core.flows == 1
    bed.at(799.0)
    assert bed.core.flows == 0


def test_an_agent_at_its_limit_loses_its_least_used_flow() -> None:
    bed = Bed(limits=IntermediateLimits(flows_per_agent=3))
    bed.agent(1)
    bed.agent(2, "agent-2")
    bed.connector(10)
    bed.routed(2, to_echo(AGENT_2, 1))
    for port in (1, 2, 3):
        bed.now += 1.0
        bed.routed(1, to_echo(port=port))
    bed.now += 1.0
    bed.routed(1, to_echo(port=1))
    bed.routed(1, to_echo(port=4))
    assert (bed.core.flows, bed.stats.flows_evicted) == (4, 1)
    alive = [port for port in (1, 2, 3, 4) if bed.send(10, from_echo(port=port))]
    assert alive == [1, 3, 4]
    assert bed.send(10, from_echo(AGENT_2, 1)) != []


def test_a_port_scan_does_not_grow_anything() -> None:
    bed = Bed(limits=IntermediateLimits(flows_per_agent=50))
    bed.agent(1)
    bed.connector(10)
    for port in range(1, 5000):
        bed.routed(1, to_echo(port=port))
    assert bed.core.flows == 50
    bed.at(300.0)
    assert bed.core.flows == 0


def test_stale_timers_are_swept() -> None:
    limits, stats = IntermediateLimits(flows_per_agent=2), IntermediateStats()
    table, registry = FlowTable(limits, stats), Registry()
    agent = registry.add(1, None, ("203.0.113.5", 1))
    connector = registry.add(2, None, ("203.0.113.5", 2))
    service = registry.service(b"echo", "echo", ECHO)
    for port in range(3 * HEAP_SLACK):
        assert table.open((17, AGENT_1, port, ECHO, 1), service, agent, connector, 0.0) is not None
    assert len(table._heap) <= 2 * table.count + HEAP_SLACK
    table.handle_timer(300.0)
    assert (table.count, connector.inbound, connector.outbound) == (0, {}, {})


def test_fragments_remembered_are_bounded() -> None:
    bed = bed_with_flow(fragments=2)
    whole = from_echo()
    for identification in (1, 2, 3, 3):
        first = build_ipv4(17, ECHO, AGENT_1, whole[20:28], identification=identification, flags_and_offset=0x2000)
        assert bed.send(10, first) != []
    last = [build_ipv4(17, ECHO, AGENT_1, b"x", identification=i, flags_and_offset=1) for i in (1, 2, 3)]
    assert [bool(bed.send(10, packet)) for packet in last] == [False, True, True]
    bed.close(1)
    assert bed.send(10, last[2]) == []


def test_a_displaced_connector_sends_no_later_fragments_either() -> None:
    bed = bed_with_flow()
    first = build_ipv4(17, ECHO, AGENT_1, from_echo()[20:28], identification=7, flags_and_offset=0x2000)
    last = build_ipv4(17, ECHO, AGENT_1, b"x", identification=7, flags_and_offset=1)
    bed.send(10, first)
    bed.core.datagram_received(10, RegisterConnector("http").encode(), 0.0)
    bed.connector(11)
    assert bed.send(10, last) == []
    assert bed.stats.drop_fragment == 1


# Reconnection of the agent


def test_an_agent_that_returns_gets_its_replies() -> None:
    bed = bed_with_flow()
    bed.close(1)
    assert bed.send(10, from_echo()) == []
    assert bed.stats.drop_agent_away == 1
    bed.agent(2, "agent-1")
    assert bed.send(10, from_echo()) == [SendDatagram(2, from_echo())]
    assert bed.stats.flows_moved == 1


def test_another_identity_does_not_get_them() -> None:
    bed = bed_with_flow()
    bed.close(1)
    bed.agent(2, "agent-2")
    assert bed.send(10, from_echo()) == []
    assert bed.routed(2, to_echo(AGENT_1)) == []
    assert bed.stats.drop_source == 1


def test_parked_flows_expire() -> None:
    bed = bed_with_flow()
    bed.at(10.0)
    bed.close(1)
    assert bed.core.get_timer() == 70.0
    bed.at(70.0)
    assert bed.core.flows == 0
    bed.agent(2, "agent-1")
    assert bed.send(10, from_echo()) == []


def test_flows_wait_for_the_registration_of_their_service() -> None:
    bed = Bed()
    bed.agent(1, "agent-1", "echo", "http")
    bed.connector(10, "connector", "echo", "http")
    bed.routed(1, to_echo())
    bed.close(1)
    bed.agent(2, "agent-1", "http")
    assert bed.send(10, from_echo()) == []
    bed.core.datagram_received(2, RegisterAgent("echo").encode(), 0.0)
    assert bed.send(10, from_echo()) == [SendDatagram(2, from_echo())]


def test_a_policy_change_closes_the_flows_of_absent_agents() -> None:
    bed = bed_with_flow()
    bed.close(1)
    changed = document()
    changed["agents"]["agent-1"]["virtual_ip"] = dotted(0x64400177)
    bed.core.set_policy(Policy.from_json(changed), 1.0)
    assert bed.core.flows == 0


def test_a_packet_on_a_newer_connection_takes_its_flow_along() -> None:
    bed = bed_with_flow()
    bed.agent(2, "agent-1")
    assert bed.send(10, from_echo()) == [SendDatagram(1, from_echo())]
    assert bed.routed(2, to_echo()) == [SendDatagram(10, to_echo())]
    assert bed.send(10, from_echo()) == [SendDatagram(2, from_echo())]
    assert bed.core.flows == 1


def test_a_silent_connection_is_given_up_for_a_newer_one_that_speaks() -> None:
    bed = bed_with_flow()
    bed.now = 1.0
    bed.agent(2, "agent-1")
    assert bed.send(10, from_echo()) == [SendDatagram(1, from_echo())]
    bed.now = 3.0
    bed.routed(2, to_echo(port=5000))
    assert bed.send(10, from_echo()) == [SendDatagram(2, from_echo())]


def test_a_connection_that_still_speaks_keeps_its_flows() -> None:
    bed = bed_with_flow()
    bed.agent(2, "agent-1")
    for now in (10.0, 20.0):
        bed.now = now
        bed.routed(2, to_echo(port=5000))
        bed.routed(1, to_echo(port=4001))
        assert bed.send(10, from_echo()) == [SendDatagram(1, from_echo())]


def test_flows_of_a_closed_connection_go_to_the_newer_one_at_once() -> None:
    bed = bed_with_flow()
    bed.agent(2, "agent-1")
    bed.close(1)
    assert bed.send(10, from_echo()) == [SendDatagram(2, from_echo())]


def test_a_newer_connection_without_the_service_gets_no_flow_of_it() -> None:
    bed = Bed()
    bed.agent(1, "agent-1", "echo", "http")
    bed.agent(2, "agent-1", "http")
    bed.connector(10, "connector", "echo", "http")
    bed.routed(1, to_echo())
    bed.now = 9.0
    bed.routed(2, b"")
    assert bed.send(10, from_echo()) == [SendDatagram(1, from_echo())]
    bed.close(1)
    assert bed.send(10, from_echo()) == []


# Reconnection of the connector


def test_a_connector_that_returns_may_go_on_answering() -> None:
    bed = bed_with_flow()
    bed.close(10)
    assert bed.core.flows == 1
    bed.connector(11)
    assert bed.send(11, from_echo()) == [SendDatagram(1, from_echo())]
    assert bed.core.flows == 1


def test_a_new_connector_of_another_identity_may_not() -> None:
    bed = bed_with_flow()
    bed.close(10)
    bed.connector(11, "other")
    assert bed.send(11, from_echo()) == []
    assert bed.core.flows == 0


def test_an_agent_that_leaves_takes_flows_of_an_absent_connector_along() -> None:
    bed = bed_with_flow()
    bed.close(10)
    bed.close(1)
    assert bed.core.flows == 0


def test_a_connector_that_leaves_takes_flows_of_an_absent_agent_along() -> None:
    bed = bed_with_flow()
    bed.close(1)
    bed.close(10)
    assert bed.core.flows == 0


def test_a_flow_opened_before_the_return_is_not_doubled() -> None:
    bed = Bed()
    bed.agent(1, "agent-1", "echo", "http")
    bed.connector(10, "connector", "echo")
    bed.routed(1, to_echo())
    # The connector returns for another service first; its connection then knows no flow of echo.
    bed.close(10)
    bed.open(11, None)
    bed.connector(12, "connector", "http")
    bed.core.datagram_received(12, RegisterConnector("echo").encode(), 0.0)
    assert bed.send(12, from_echo()) == [SendDatagram(1, from_echo())]
    assert bed.core.flows == 1


def test_closing_twice_counts_once() -> None:
    limits, stats = IntermediateLimits(), IntermediateStats()
    table, registry = FlowTable(limits, stats), Registry()
    agent, connector = (registry.add(n, None, ("203.0.113.5", n)) for n in (1, 2))
    service = registry.service(b"echo", "echo", ECHO)
    flow = table.open((17, AGENT_1, 1, ECHO, 1), service, agent, connector, 0.0)
    assert flow is not None
    table.close(flow)
    table.close(flow)
    assert table.count == 0
