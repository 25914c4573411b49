"""The lab stack as data: what it promises for each rung and NAT, before anything is made."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from components.lab_design import FOREIGN, LabDesign, design
from infra.config import LabConfig, NatSettings
from infra.lab.rungs import Detection, Rung
from infra.naming import run_name
from infra.outputs import from_exports, to_exports
from infra.verify.context import Context

PROJECT = Path("/srv/ztna")
RUN = run_name("lab", PROJECT)


def lab(
    monkeypatch: pytest.MonkeyPatch, *, rung: Rung = Rung.ROOT, tun: bool = True, agent: str = "port-restricted"
) -> LabDesign:
    """Return a lab on a machine that allows this rung."""
    found = Detection(rung, ("root: not running as root",), ("No NATs.",) if rung is Rung.LOOPBACK else (), tun)
    monkeypatch.setattr("components.lab_topology.detect", lambda: found)
    config = LabConfig(agent_nat=NatSettings(preset=agent), connector_nat=NatSettings(preset="symmetric"))
    return design("lab", config, PROJECT)


def test_with_a_tun_device_services_are_reached_at_their_virtual_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    made = lab(monkeypatch)
    outputs = made.outputs(ca_pem="CA", profile="{}", probes={FOREIGN: "{}"})
    context = Context(outputs)
    assert outputs.agents[0].mode == "tun"
    assert context.echo_service is not None
    assert context.target(context.echo_service, "udp", 9999) == "100.64.0.100:9999"
    assert outputs.place("agent").nat is not None
    assert outputs.place("agent").nat.public_address == "172.20.0.21"  # type: ignore[union-attr]  # just seen
    assert from_exports(to_exports(outputs)) == outputs


@pytest.mark.parametrize(("rung", "address"), [(Rung.LOOPBACK, "127.21.0.10"), (Rung.ROOTLESS, "172.21.0.10")])
def test_without_one_they_are_reached_through_forwards(
    monkeypatch: pytest.MonkeyPatch, rung: Rung, address: str
) -> None:
    outputs = lab(monkeypatch, rung=rung, tun=False).outputs(ca_pem="CA", profile="{}", probes={})
    context = Context(outputs)
    assert outputs.agents[0].mode == "user"
    assert context.echo_service is not None
    assert context.http_service is not None
    assert context.target(context.echo_service, "udp", 9999) == f"{address}:9999"
    assert context.target(context.http_service, "tcp", 80) == f"{address}:8080"


def test_on_loopback_there_are_no_nats_and_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    made = lab(monkeypatch, rung=Rung.LOOPBACK, tun=False, agent="udp-blocked")
    outputs = made.outputs(ca_pem="CA", profile="{}", probes={})
    assert all(place.nat is None for place in outputs.places.values())
    assert outputs.limits == ("No NATs.",)
    assert outputs.expected_paths[0].path == "direct"
    assert made.announcement == (
        f"lab {RUN!r} on the loopback rung\n  not better because root: not running as root\n  No NATs."
    )
    assert json.loads(made.connector_files()["connector.json"])["bind_addr"] == "127.22.0.10"
    assert json.loads(made.intermediate_files()["intermediate.json"])["metrics_addr"] == "127.20.0.2"
    assert outputs.places["relay"].status_url == "http://127.20.0.2:9090/status"
    assert made.ready_url("agent") == "http://127.21.0.10:9092/readyz"


def test_behind_a_nat_that_blocks_udp_alive_is_all_that_a_role_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    made = lab(monkeypatch, agent="udp-blocked")
    assert made.ready_url("agent") == "http://127.0.0.1:9092/healthz"
    assert made.ready_url("connector") == "http://127.0.0.1:9091/readyz"
    outputs = made.outputs(ca_pem="CA", profile="{}", probes={})
    assert outputs.expected_paths[0].path == "none"


def test_the_relays_mode_comes_from_the_configuration_and_its_socket_is_beside_its_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = lab(monkeypatch)
    other = replace(made, config=replace(made.config, relay="userspace"))
    relays = [json.loads(each.intermediate_files()["intermediate.json"]) for each in (made, other)]
    assert [config["relay"] for config in relays] == ["auto", "userspace"]
    assert all("admin_socket" not in config and not config["relay_own_host"] for config in relays)


def test_the_foreign_connector_has_a_certificate_and_no_grant(monkeypatch: pytest.MonkeyPatch) -> None:
    made = lab(monkeypatch)
    assert made.members["connector"].grants == ("connector.echo-service.ztna", "connector.http-app.ztna")
    assert made.members[FOREIGN].grants == ()
    policy = json.loads(made.intermediate_files()["policy.json"])
    assert policy["connectors"].keys() == {"connector"}
    assert made.members["relay"].ip_addresses == ("172.20.0.2", "172.20.0.3")


def test_places_say_how_to_get_there_and_how_to_control_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    places = lab(monkeypatch).places()
    assert set(places) == {"relay", "connector", "agent", "backend", "nat-agent", "nat-connector"}
    assert places["relay"].exec[1:] == ("-m", "infra.lab", "exec", "--run", RUN, "relay", "--")
    assert places["relay"].controls["kill"][1:] == ("-m", "infra.lab", "kill", "--run", RUN, "relay", "intermediate")
    assert set(places["agent"].controls) == {"start", "stop", "kill", "restart"}
    assert places["agent"].logs["agent"].endswith(f"/{RUN}/log/agent-agent.log")
    assert set(places["backend"].logs) == {"echo", "httpbin"}
    assert places["connector"].status_url == "http://127.0.0.1:9091/status"
    assert (places["nat-agent"].kind, places["nat-agent"].exec[-2]) == ("nat", "nat-agent")
    # Behind two levels of NAT it is the outer one that the world sees.
    assert lab(monkeypatch, agent="cgnat").places()["nat-agent"].exec[-2] == "nat-agent_carrier"


def test_every_checkout_has_a_run_of_its_own_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    made = lab(monkeypatch)
    other = design("lab", made.config, Path("/srv/other"))
    named = design("lab", replace(made.config, run="mine"), PROJECT)
    assert made.run == RUN != other.run
    assert named.run == "mine"
