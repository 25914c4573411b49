"""Policy rules around an operation: reported in previews, and in the way of an up that drives real providers."""

import pulumi
import pytest

from infra.engine.errors import DeploymentFailed
from infra.engine.events import OperationStarted
from infra.engine.gate import PolicyViolation
from infra.graph import Graph, is_secret
from infra.policy.model import Enforcement, Finding, Rule
from tests.infra.engine.bench import Bench, Thing


def no_open_ports(graph: Graph) -> list[Finding]:
    """A rule of the tests: a Thing must not have the port 22."""
    found = [node for node in graph.of_type("toy:index:Thing") if node.inputs.get("port") == 22]
    return [Finding("no-port-22", node.urn, "port is 22", "choose another") for node in found]


def rule(enforcement: Enforcement = "mandatory") -> Rule:
    """The rule."""
    return Rule("no-port-22", "No thing has port 22", no_open_ports, enforcement=enforcement)


def program(port: int) -> None:
    """Declares one Thing."""
    Thing("open", port=port)


def test_a_preview_reports_what_breaks_a_rule(bench: Bench) -> None:
    result = bench.make(lambda: program(22), rules=(rule(),)).preview()
    assert result.violations == 1
    assert "[mandatory] no-port-22: toy:index:Thing 'open': port is 22\n  choose another" in bench.messages()
    assert bench.make(lambda: program(80), rules=(rule(),)).preview().violations == 0


def test_an_up_that_breaks_a_mandatory_rule_does_not_begin(bench: Bench) -> None:
    with pytest.raises(PolicyViolation, match="Nothing was changed"):
        bench.make(lambda: program(22), rules=(rule(),), plugin_binaries=True).up()
    assert bench.cloud.names() == []
    assert "port is 22" in bench.messages()
    bench.make(lambda: program(80), rules=(rule(),), plugin_binaries=True).up()
    assert bench.cloud.names() == ["open"]


def test_an_advisory_rule_only_speaks(bench: Bench) -> None:
    workspace = bench.make(lambda: program(22), rules=(rule("advisory"),), plugin_binaries=True)
    workspace.up()
    assert bench.cloud.names() == ["open"]
    assert "[advisory] no-port-22" in bench.messages()


def test_rules_see_that_a_value_is_secret(bench: Bench) -> None:
    seen: list[bool] = []

    def look(graph: Graph) -> list[Finding]:
        seen.extend(is_secret(node.inputs["port"]) for node in graph.of_type("toy:index:Thing"))
        return []

    def declare() -> None:
        Thing("open", port=pulumi.Output.secret(22))

    bench.make(declare, rules=(Rule("look", "Looks", look),)).preview()
    assert seen == [True]


def test_a_program_that_fails_is_not_judged(bench: Bench) -> None:
    def declare() -> None:
        raise RuntimeError("broken")

    with pytest.raises(DeploymentFailed):
        bench.make(declare, rules=(rule(),), plugin_binaries=True).up()


def test_an_up_tells_of_its_own_steps_alone(bench: Bench) -> None:
    for _ in range(2):
        bench.make(lambda: program(80), rules=(rule(),), plugin_binaries=True).up()
        started = [event.verb for event in bench.events if isinstance(event, OperationStarted)]
        assert started == ["up"]
    assert bench.ops() == {"open": ["same"]}
