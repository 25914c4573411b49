"""Which path a peer gets, by NAT; what costs a path; and that the stacks' graphs say what the programs say."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import yaml

from infra import traversal
from infra.engine.project import to_text
from infra.graph import Graph
from infra.lab.nat import PRESETS
from infra.traversal import EDM, MIN_UDP_BUFFER_BYTES, PEER_NATS, Site, findings, predict, site_of
from tests.support.plant import changed, without
from tests.support.preview import preview_graph
from tests.support.project import ROOT
from ztna.io.udp import DEFAULT_BUFFER_BYTES

FIREWALL = "digitalocean:index/firewall:Firewall"
LISTENER = "aws:lb/listener:Listener"
SERVICE = "kubernetes:core/v1:Service"
OPEN = Site(connector="connector", services=("echo-service",), connector_nat="none", connector_udp_open=True)
FILTERED = replace(OPEN, connector_udp_open=False)
HOME = replace(FILTERED, connector_nat="endpoint-independent")
GATEWAY = replace(FILTERED, connector_nat=EDM)

D, R, N = "direct", "relayed", "none"
# Rows P, F, H and S of the NAT matrix; "none" is a peer without UDP, for which there is no way over TCP.
MATRIX = {
    "public": (D, D, D, D),
    "full-cone": (D, D, D, D),
    "address-restricted": (D, D, D, D),
    "port-restricted": (D, D, D, R),
    "cgnat": (D, D, D, R),
    "symmetric": (D, R, R, R),
    "symmetric-sequential": (D, R, R, R),
    "udp-blocked": (N, N, N, N),
}


@pytest.mark.parametrize("nat", MATRIX)
@pytest.mark.parametrize(("column", "site"), list(enumerate((OPEN, FILTERED, HOME, GATEWAY))))
def test_the_path_follows_from_both_nats(nat: str, column: int, site: Site) -> None:
    found = {prediction.peer_nat: prediction for prediction in predict(site)}
    assert found[nat].path == MATRIX[nat][column]
    assert found[nat].service == "echo-service"
    assert found[nat].connector == "connector"


def test_the_peers_are_those_of_the_lab_by_name_and_behaviour() -> None:
    assert {peer.name for peer in PEER_NATS} == set(PRESETS) == set(MATRIX)
    for peer in PEER_NATS:
        levels = PRESETS[peer.name]
        assert peer.udp_blocked == any(level.udp_blocked for level in levels)
        if levels and not peer.udp_blocked:
            assert (peer.mapping, peer.filtering) == (levels[0].mapping.value, levels[0].filtering.value)


@pytest.mark.parametrize("site", [OPEN, FILTERED, HOME, GATEWAY, replace(OPEN, traffic_policy="Cluster")])
def test_every_relayed_or_missing_path_says_what_would_change_it(site: Site) -> None:
    for prediction in predict(site):
        assert prediction.reason.endswith(".")
        if prediction.path != "direct":
            assert "would change it" in prediction.reason


def test_every_service_is_predicted() -> None:
    made = predict(replace(OPEN, services=("a", "b")))
    assert {prediction.service for prediction in made} == {"a", "b"}
    assert len(made) == 2 * len(PEER_NATS)


@pytest.mark.parametrize("site", [replace(OPEN, relays=0), replace(OPEN, relay_udp_open=False)])
def test_without_an_intermediate_there_is_no_path(site: Site) -> None:
    assert {prediction.path for prediction in predict(site)} == {"none"}


def test_rewritten_source_addresses_leave_the_relay_only() -> None:
    paths = {prediction.path for prediction in predict(replace(OPEN, traffic_policy="Cluster"))}
    assert paths == {"relayed", "none"}
    assert {prediction.path for prediction in predict(replace(OPEN, traffic_policy="Local"))} == {"direct", "none"}


@pytest.mark.parametrize(
    ("rule", "level", "passes", "fails"),
    [
        ("relay-unreachable", "error", OPEN, replace(OPEN, relay_udp_open=False)),
        ("relay-unreachable", "error", OPEN, replace(OPEN, relays=0)),
        ("connector-behind-nat-gateway", "warning", replace(GATEWAY, connector_udp_open=True), GATEWAY),
        ("connector-behind-nat-gateway", "note", HOME, replace(GATEWAY, relayed_accepted=True)),
        (
            "external-traffic-policy",
            "error",
            replace(OPEN, traffic_policy="Local"),
            replace(OPEN, traffic_policy="Cluster"),
        ),
        ("udp-4434-closed", "warning", OPEN, FILTERED),
        ("udp-4434-closed", "note", OPEN, replace(OPEN, relay_alternate_open=False)),
        ("single-relay", "warning", replace(OPEN, relays=2), replace(OPEN, relay_address_fixed=False)),
        ("single-relay", "note", replace(OPEN, relays=2), OPEN),
        (
            "udp-buffers",
            "warning",
            replace(OPEN, udp_buffer_bytes=MIN_UDP_BUFFER_BYTES),
            replace(OPEN, udp_buffer_bytes=212992),
        ),
    ],
)
def test_a_rule_passes_one_site_and_fails_another(rule: str, level: str, passes: Site, fails: Site) -> None:
    assert rule not in {finding.rule for finding in findings(passes)}
    found = [finding for finding in findings(fails) if finding.rule == rule]
    assert [finding.level for finding in found] == [level]
    assert found[0].message
    assert found[0].remedy
    assert rule in traversal.RULES


def test_the_worst_comes_first() -> None:
    bad = replace(GATEWAY, relay_udp_open=False, udp_buffer_bytes=1)
    levels = [finding.level for finding in findings(bad)]
    assert levels == sorted(levels, key=("error", "warning", "note").index)


def test_the_buffers_asked_for_are_those_of_the_sockets() -> None:
    assert MIN_UDP_BUFFER_BYTES == DEFAULT_BUFFER_BYTES


# Graphs of the stacks: what the programs say about their site, and what their resources say.


def declared(stack: str) -> Site:
    """What a stack's program predicts with, under its committed configuration."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of pulumi_aws about names of its own, at import
        from components import aws_design, do_design, pi_design
    from infra.config_aws import aws_config
    from infra.config_do import do_config
    from infra.config_pi import pi_config

    source = Committed(stack)
    match stack:
        case "do-nyc1":
            return do_design.design(stack, do_config(source)).traversal_site
        case "aws-us-east-2":
            return aws_design.design(stack, aws_config(source)).traversal_site
        case _:
            return pi_design.design(stack, pi_config(source)).traversal_site


@dataclass(slots=True)
class Committed:
    """The committed configuration of a stack as infra/config.py reads it."""

    name: str

    def get(self, key: str) -> str | None:
        value = yaml.safe_load((ROOT / f"Pulumi.{self.name}.yaml").read_text())["config"].get(f"{self.name}:{key}")
        return None if value is None else to_text(value)


@pytest.mark.parametrize("stack", ["do-nyc1", "aws-us-east-2", "pi-home"])
def test_a_stacks_graph_is_the_site_its_program_predicts_with(stack: str) -> None:
    assert site_of(preview_graph(stack)) == declared(stack)


@pytest.mark.parametrize(
    ("stack", "nat", "is_open", "notes"),
    [
        ("do-nyc1", "none", True, {"single-relay"}),
        ("aws-us-east-2", EDM, True, {"single-relay", "udp-4434-closed"}),
        ("pi-home", EDM, False, {"single-relay", "connector-behind-nat-gateway"}),
    ],
)
def test_a_stacks_site_is_read_from_its_graph(stack: str, nat: str, is_open: bool, notes: set[str]) -> None:
    site = site_of(preview_graph(stack))
    assert (site.connector, site.connector_nat, site.connector_udp_open) == ("connector", nat, is_open)
    assert site.services
    assert {finding.rule for finding in findings(site)} == notes
    assert {finding.level for finding in findings(site)} == {"note"}


def _rule_of(port: int) -> Callable[[dict[str, Any]], object]:
    def close(inputs: dict[str, Any]) -> None:
        inputs["inboundRules"] = [rule for rule in inputs["inboundRules"] if rule["portRange"] != str(port)]

    return close


@pytest.mark.parametrize(
    ("rule", "level", "stack", "plant"),
    [
        ("relay-unreachable", "error", "do-nyc1", lambda graph: changed(graph, FIREWALL, _rule_of(4433))),
        ("udp-4434-closed", "warning", "do-nyc1", lambda graph: changed(graph, FIREWALL, _rule_of(4434))),
        (
            "single-relay",
            "warning",
            "do-nyc1",
            lambda graph: without(
                without(graph, "digitalocean:index/reservedIp:ReservedIp"),
                "digitalocean:index/reservedIpAssignment:ReservedIpAssignment",
            ),
        ),
        (
            "udp-buffers",
            "warning",
            "do-nyc1",
            lambda graph: changed(
                graph,
                "pulumi-python:dynamic/host:Release",
                lambda inputs: inputs["sysctls"].update({"net.core.wmem_max": 212992}),
            ),
        ),
        ("connector-behind-nat-gateway", "warning", "aws-us-east-2", lambda graph: without(graph, LISTENER)),
        (
            "connector-behind-nat-gateway",
            "warning",
            "aws-us-east-2",
            lambda graph: changed(
                graph, "aws:lb/loadBalancer:LoadBalancer", lambda inputs: inputs.update(internal=True)
            ),
        ),
        (
            "connector-behind-nat-gateway",
            "warning",
            "aws-us-east-2",
            lambda graph: without(graph, "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule", "connector-udp"),
        ),
        (
            "external-traffic-policy",
            "error",
            "pi-home",
            lambda graph: changed(
                graph, SERVICE, lambda inputs: inputs["spec"].update(externalTrafficPolicy="Cluster"), "lan"
            ),
        ),
        (
            "udp-4434-closed",
            "note",
            "pi-home",
            lambda graph: changed(graph, SERVICE, lambda inputs: inputs["spec"]["ports"].pop(), "lan"),
        ),
        (
            "relay-unreachable",
            "error",
            "pi-home",
            lambda graph: changed(graph, SERVICE, lambda inputs: inputs["spec"].update(type="ClusterIP"), "lan"),
        ),
    ],
)
def test_a_mistake_in_a_graph_costs_its_path(
    rule: str, level: str, stack: str, plant: Callable[[Graph], Graph]
) -> None:
    found = findings(site_of(plant(preview_graph(stack))))
    assert (rule, level) in {(finding.rule, finding.level) for finding in found}


def test_a_graph_without_a_connector_has_no_site() -> None:
    with pytest.raises(ValueError, match="requests no certificate for a connector"):
        site_of(Graph(stack="empty", nodes=()))
