"""`ztna lint`: its tables, its JSON, its exit codes."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from infra import cli, cli_lint
from infra.graph import Graph
from tests.support.plant import changed
from tests.support.preview import preview_graph

FIREWALL = "digitalocean:index/firewall:Firewall"


class Opened:
    """A workspace that has a graph and nothing else."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def graph(self) -> Graph:
        return self._graph


@pytest.fixture
def lint(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    def run(graph: Graph, *words: str) -> Result:
        monkeypatch.setattr(cli_lint, "open_workspace", lambda *_: Opened(graph))
        return CliRunner().invoke(cli.app, ["lint", "--stack", graph.stack, *words])

    return run


def ssh_for_all(inputs: dict[str, Any]) -> None:
    inputs["inboundRules"][2]["sourceAddresses"] = ["0.0.0.0/0"]


def opened_8443(inputs: dict[str, Any]) -> None:
    inputs["inboundRules"].append({"protocol": "tcp", "portRange": "8443", "sourceAddresses": ["::/0"]})


def test_a_stack_that_is_as_it_should_be_ends_0_with_its_paths(lint: Callable[..., Result]) -> None:
    done = lint(preview_graph("do-nyc1"))
    assert done.exit_code == 0, done.output
    assert "0 errors, 0 warnings, 1 notes" in done.output
    for nat in ("port-restricted", "symmetric", "udp-blocked"):
        assert nat in done.output
    assert "not checked before deployment: Droplet relay-droplet-1: userData" in done.output


def test_a_finding_ends_1_and_names_rule_resource_and_remedy(lint: Callable[..., Result]) -> None:
    done = lint(changed(preview_graph("do-nyc1"), FIREWALL, ssh_for_all))
    assert done.exit_code == cli_lint.EXIT_FINDINGS == 1
    for word in ("no-ssh-from-the-world", "Firewall firewall-rules", "adminCidrs", "1 errors"):
        assert word in done.output


def test_json_says_the_same(lint: Callable[..., Result]) -> None:
    done = lint(changed(preview_graph("do-nyc1"), FIREWALL, ssh_for_all), "--json")
    found = json.loads(done.output)
    assert found["failed"] is True
    assert {row["rule"] for row in found["rows"] if row["level"] == "error"} == {"no-ssh-from-the-world"}
    assert {path["path"] for path in found["paths"]} == {"direct", "none"}
    assert found["unchecked"] == ["Droplet relay-droplet-1: userData"]


def test_a_public_port_is_given_on_the_command_line(lint: Callable[..., Result]) -> None:
    graph = changed(preview_graph("do-nyc1"), FIREWALL, opened_8443)
    assert lint(graph).exit_code == 1
    assert lint(graph, "--public-port", "8443").exit_code == 0


def test_a_stack_without_a_cloud_has_no_paths_to_tell(lint: Callable[..., Result]) -> None:
    done = lint(Graph(stack="empty", nodes=()), "--json")
    assert done.exit_code == 0
    assert json.loads(done.output)["paths"] == []
