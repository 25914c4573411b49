"""Captures outside a NAT of the lab: what passes is in the file, sorted by its far end, and nothing stays behind."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from infra.lab.nat import preset
from infra.lab.runtime import Lab
from infra.lab.topology import two_nat_topology
from infra.outputs import NatOutput, Place
from infra.verify.capture import capturing, find_points
from infra.verify.context import Context
from infra.verify.pcap import carried, read_pcap
from tests.infra.verify.synthetic import outputs
from tests.lab.conftest import RELAY
from tests.lab.probe import Probe

pytestmark = pytest.mark.lab

AGENT_OUTSIDE, CONNECTOR_OUTSIDE = "172.20.0.21", "172.20.0.22"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(f"test-capture-{os.getpid()}") as lab:
        lab.realise(two_nat_topology(preset("full-cone"), preset("full-cone")))
        yield lab


def stack(lab: Lab, *, nat_places: bool) -> Context:
    def nat(side: str, address: str) -> NatOutput:
        return NatOutput(name=f"nat-{side}", mapping="", filtering="", public_address=address)

    places = {
        "agent": Place(kind="agent", address="", exec=lab.exec_prefix("agent"), nat=nat("agent", AGENT_OUTSIDE)),
        "connector": Place(
            kind="connector", address="", exec=lab.exec_prefix("connector"), nat=nat("connector", CONNECTOR_OUTSIDE)
        ),
        "relay": Place(kind="intermediate", address=RELAY, exec=lab.exec_prefix("relay")),
    }
    if nat_places:
        for side in ("agent", "connector"):
            places[f"nat-{side}"] = Place(kind="nat", address="", exec=lab.exec_prefix(f"nat-{side}"))
    return Context(outputs(places=places))


@pytest.mark.parametrize("nat_places", [True, False], ids=["outside", "at-the-host"])
def test_each_packet_is_counted_on_its_way(lab: Lab, tmp_path: Path, nat_places: bool) -> None:
    context = stack(lab, nat_places=nat_places)
    points = find_points(context, (("agent", "agent"), ("connector", "connector")), RELAY)
    assert [point.outside for point in points] == [nat_places, nat_places]
    assert {point.interface for point in points} == ({"wan"} if nat_places else {"eth0"})
    with ExitStack() as probes:
        agent, connector, relay = (
            probes.enter_context(Probe(lab.exec_prefix(host))) for host in ("agent", "connector", "relay")
        )
        here, there, at_relay = agent.open(), connector.open(), relay.open(port=4433)
        connector.send(there, "open up", (RELAY, at_relay))
        got = relay.receive(at_relay)
        assert got is not None
        with capturing(context, points, tmp_path) as files:
            for _ in range(10):
                agent.send(here, "x" * 972, got[1])
            for _ in range(3):
                agent.send(here, "x" * 72, (RELAY, at_relay))
            assert connector.receive(there) is not None
    seen = {
        point.side: carried(
            read_pcap(path.read_bytes()),
            peers={CONNECTOR_OUTSIDE if point.side == "agent" else AGENT_OUTSIDE},
            relays={RELAY},
            relay_ports={4433},
        )
        for point, path in files.items()
    }
    assert (seen["agent"].direct_bytes, seen["agent"].relay_bytes) == (10_000, 300)
    assert (seen["connector"].direct_bytes, seen["connector"].relay_bytes) == (10_000, 0)
    assert "tcpdump" not in {process.name() for process in psutil.Process().children(recursive=True)}


def test_a_place_without_access_gives_no_point(lab: Lab) -> None:
    context = stack(lab, nat_places=False)
    context.outputs.places["agent"] = Place(kind="agent", address="", exec=("false",))
    assert [point.side for point in find_points(context, (("agent", "agent"), ("connector", "nowhere")), RELAY)] == []
