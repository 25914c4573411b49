"""The lab's network component: what it declares, and on a real kernel what its resources do."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pulumi
import pytest

from components.lab_network import (
    HostProvider,
    LabNetwork,
    LabNetworkArgs,
    RouterProvider,
    RunProvider,
    SegmentProvider,
)
from components.lab_runtime import LabHandle, LabSite
from infra.lab.nat import PRESETS
from infra.lab.rungs import Rung, detect
from infra.lab.topology import Impairment, Router, two_nat_topology
from tests.support.pulumi_mocks import record

TOPOLOGY = two_nat_topology(PRESETS["port-restricted"], PRESETS["symmetric"])


def test_it_declares_every_element_under_itself_in_order() -> None:
    args = LabNetworkArgs(site=LabSite(run="net", rung=Rung.ROOT), topology=TOPOLOGY)
    recorder, outputs = record(lambda: _network_outputs(args))
    assert outputs == ["net", "root"]
    assert set(recorder.of_type("Run")) == {"lab-run"}
    assert set(recorder.of_type("Segment")) == {"lab-public", "lab-agent-lan", "lab-connector-lan"}
    assert set(recorder.of_type("Router")) == {"lab-nat-agent", "lab-nat-connector"}
    assert set(recorder.of_type("Host")) == {"lab-relay", "lab-agent", "lab-connector", "lab-backend"}
    router = recorder.of_type("Router")["lab-nat-agent"]
    assert Router.from_spec(router["spec"]) == TOPOLOGY.routers[0]
    names = [found.name for found in recorder.resources]
    assert names.index("lab-run") < names.index("lab-public") < names.index("lab-nat-agent")


def _network_outputs(args: LabNetworkArgs) -> Any:
    network = LabNetwork("lab", args)
    return pulumi.Output.all(network.run, network.rung)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A run of its own on the best rung, removed afterwards."""
    monkeypatch.setenv("ZTNA_LAB_STATE", str(tmp_path / "lab"))
    inputs = {"run": "net-test", "rung": detect().rung.value}
    yield inputs
    RunProvider().delete("", {**inputs, "name": "run"})


def make(site: dict[str, Any]) -> list[tuple[Any, dict[str, Any]]]:
    """Create the whole topology and return (provider, inputs) of each resource, in order."""
    parts: list[tuple[Any, dict[str, Any]]] = [(RunProvider(), {**site, "name": "run"})]
    parts += [(SegmentProvider(), {**site, "name": item.name, "spec": item.to_spec()}) for item in TOPOLOGY.segments]
    parts += [(RouterProvider(), {**site, "name": item.name, "spec": item.to_spec()}) for item in TOPOLOGY.routers]
    parts += [(HostProvider(), {**site, "name": item.name, "spec": item.to_spec()}) for item in TOPOLOGY.hosts]
    for provider, props in parts:
        provider.create(props)
    return parts


@pytest.mark.lab
def test_a_made_network_is_all_there_and_shows_no_change(site: dict[str, Any]) -> None:
    for provider, props in make(site):
        assert not provider.diff("", props, props).changes, props["name"]
    lab = LabHandle({**site, "name": ""}).lab
    lab.run("agent", ["ping", "-c", "1", "-W", "2", "172.20.0.2"])


@pytest.mark.lab
def test_a_changed_nat_or_link_is_an_update_in_place(site: dict[str, Any]) -> None:
    make(site)
    before = TOPOLOGY.routers[0]
    after = Router(
        before.name,
        before.inside,
        type(before.outside)(before.outside.segment, before.outside.address, up=Impairment(delay_ms=30)),
        nat=PRESETS["symmetric"],
    )
    olds = {**site, "name": before.name, "spec": before.to_spec()}
    news = {**site, "name": before.name, "spec": after.to_spec()}
    diff = RouterProvider().diff("", olds, news)
    assert (diff.changes, diff.replaces) == (True, [])
    RouterProvider().update("", olds, news)
    lab = LabHandle({**site, "name": ""}).lab
    output = lab.run("agent", ["ping", "-c", "2", "-W", "2", "172.20.0.2"]).stdout
    fastest_ms = float(output.rpartition("= ")[2].split("/")[0])
    assert fastest_ms >= 29


@pytest.mark.lab
def test_a_vanished_host_is_seen_and_made_again(site: dict[str, Any]) -> None:
    parts = make(site)
    handle = LabHandle({**site, "name": ""})
    handle.lab.remove_host("agent")
    gone = [props["name"] for provider, props in parts if provider.diff("", props, props).changes]
    assert gone == ["agent"]
    provider, props = next(part for part in parts if part[1]["name"] == "agent")
    assert provider.read("net-test/agent", props).id == ""
    provider.update("", props, props)
    assert not provider.diff("", props, props).changes
    handle.lab.run("agent", ["ping", "-c", "1", "-W", "2", "172.20.0.2"])


@pytest.mark.lab
def test_everything_is_gone_after_deletes_in_reverse_and_deletes_repeat(site: dict[str, Any]) -> None:
    parts = make(site)
    for provider, props in [*reversed(parts), *reversed(parts)]:
        provider.delete("", props)
        assert not provider.exists(props)
