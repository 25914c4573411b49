"""The policy pack: the same rules, driven as the official CLI drives them."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pulumi_policy import (
    EnforcementLevel,
    PolicyCustomTimeouts,
    PolicyProviderResource,
    PolicyResource,
    PolicyResourceOptions,
    ResourceValidationArgs,
    ResourceValidationPolicy,
    StackValidationArgs,
    StackValidationPolicy,
)
from pulumi_policy.proxy import UNKNOWN_STRING_VALUE, unknown_checking_proxy

from infra.graph import UNKNOWN, Graph
from infra.policy import crossguard
from infra.policy.rules import RULES, check
from tests.infra.policy.test_stacks import MISTAKES, STACKS, Mistake
from tests.support.preview import preview_graph
from tests.support.project import ROOT

PACK = ROOT / "infra" / "policy" / "pack"
OPTIONS = PolicyResourceOptions(False, [], None, [], PolicyCustomTimeouts(0, 0, 0), [])
UNMARKED = {rule.name for rule in RULES if not rule.needs_marks}


def as_properties(value: Any) -> Any:
    """What the CLI gives to a policy: secrets in plain text, unknowns as its own sentinel."""
    match value:
        case {"<secret>": inner}:
            return as_properties(inner)
        case dict():
            return {key: as_properties(item) for key, item in value.items()}
        case list():
            return [as_properties(item) for item in value]
        case _:
            return UNKNOWN_STRING_VALUE if value == UNKNOWN else value


def violations(graph: Graph, config: dict[str, Any] | None = None) -> set[str]:
    """The names of the policies that a graph violates, each resource judged by itself and then all together."""
    found: set[str] = set()
    resources = {node.urn: _resource(node) for node in graph.nodes}
    for node in graph.nodes:
        resources[node.urn].dependencies.extend(resources[urn] for urn in node.dependencies if urn in resources)
    for policy in crossguard.policies():

        def report(message: str, urn: str | None = None, name: str = policy.name) -> None:
            assert message
            found.add(name)

        if isinstance(policy, StackValidationPolicy):
            policy.validate(StackValidationArgs(list(resources.values())), report)
            continue
        assert isinstance(policy, ResourceValidationPolicy)
        for node in graph.nodes:
            if node.custom:
                args = ResourceValidationArgs(
                    node.type, resources[node.urn].props, node.urn, node.name, OPTIONS, None, config
                )
                policy.validate(args, report)
    return found


def _resource(node: Any) -> PolicyResource:
    props = unknown_checking_proxy(as_properties(node.inputs))
    return PolicyResource(node.type, props, node.urn, node.name, OPTIONS, None, None, [], {})


def test_every_rule_that_needs_no_marks_is_a_policy_of_its_level() -> None:
    levels = {policy.name: policy.enforcement_level for policy in crossguard.policies()}
    assert set(levels) == UNMARKED
    for rule in RULES:
        if rule.name in levels:
            assert levels[rule.name] == EnforcementLevel[rule.enforcement.upper()]


@pytest.mark.parametrize("stack", STACKS)
def test_no_policy_is_violated_by_a_stack(stack: str) -> None:
    assert violations(preview_graph(stack)) == set()


@pytest.mark.parametrize(
    "mistake", [each for each in MISTAKES if each.rule in UNMARKED], ids=lambda mistake: mistake.name
)
def test_a_planted_mistake_violates_its_policy(mistake: Mistake) -> None:
    graph = mistake.plant(preview_graph(mistake.stack))
    expected = {finding.rule for finding in check(graph)} & UNMARKED
    assert mistake.rule in expected
    assert violations(graph) == expected


def test_a_port_is_admitted_by_the_configuration_of_the_policy() -> None:
    mistake = next(each for each in MISTAKES if each.name == "metrics open to the world")
    graph = mistake.plant(preview_graph(mistake.stack))
    assert violations(graph, {"publicPorts": [9090.0]}) == set()


def test_unknowns_of_the_cli_are_our_unknowns() -> None:
    seen = crossguard.plain(unknown_checking_proxy({"a": UNKNOWN_STRING_VALUE, "b": [UNKNOWN_STRING_VALUE, 2.0, "x"]}))
    assert seen == {"a": UNKNOWN, "b": [UNKNOWN, 2, "x"]}


def test_default_tags_of_the_provider_count() -> None:
    tags = {"project": "ztna", "stack": "s", "run": "r", "component": "c"}
    provider = PolicyProviderResource(
        "pulumi:providers:aws", {"defaultTags": json.dumps({"tags": tags})}, "urn:provider", "p"
    )
    policy = next(each for each in crossguard.policies() if each.name == "tags-present")
    assert isinstance(policy, ResourceValidationPolicy)
    said: list[str] = []

    def report(message: str, _urn: str | None = None) -> None:
        said.append(message)

    for given in (None, provider):
        args = ResourceValidationArgs("aws:ec2/vpc:Vpc", {}, "urn:vpc", "vpc", OPTIONS, given)
        policy.validate(args, report)
    assert len(said) == 1
    assert "project, stack, run, component" in said[0]


def test_the_pack_is_of_this_project() -> None:
    described = yaml.safe_load((PACK / "PulumiPolicy.yaml").read_text())
    assert described["runtime"]["name"] == "python"
    assert (PACK / described["runtime"]["options"]["virtualenv"]).resolve() == ROOT / ".venv"
    assert importlib.util.find_spec("infra.policy.pack.__main__") is not None


PROGRAM = """
import pulumi
from pulumi.dynamic import CreateResult, Resource, ResourceProvider


class Provider(ResourceProvider):
    def create(self, props):
        return CreateResult("id", props)


class Thing(Resource):
    def __init__(self, name, **props):
        super().__init__(Provider(), name, props)


Thing("good", userData="#!/bin/sh\\necho ready\\n")
if pulumi.Config().get_bool("mistake"):
    Thing("bad", userData="#!/bin/sh\\ncat <<E\\n-----BEGIN PRIVATE KEY-----\\nplanted\\nE\\n")
"""


@pytest.mark.engine
@pytest.mark.official
def test_the_official_cli_refuses_what_breaks_a_rule(tmp_path: Path) -> None:
    options = f"toolchain: pip, virtualenv: {Path(sys.prefix)}"
    (tmp_path / "Pulumi.yaml").write_text(f"name: pack\nruntime: {{name: python, options: {{{options}}}}}\n")
    (tmp_path / "__main__.py").write_text(PROGRAM)
    (tmp_path / "state").mkdir()
    environment = os.environ | {
        "PULUMI_BACKEND_URL": f"file://{tmp_path / 'state'}",
        "PULUMI_CONFIG_PASSPHRASE": "test",
        "PULUMI_SKIP_UPDATE_CHECK": "1",
        "PULUMI_HOME": str(tmp_path / "home"),
        "PATH": f"{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}",
    }

    def pulumi(*words: str) -> subprocess.CompletedProcess[str]:
        command = ["pulumi", "--non-interactive", *words]
        return subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=100)

    assert pulumi("stack", "init", "test").returncode == 0
    clean = pulumi("preview", "--policy-pack", str(PACK))
    assert clean.returncode == 0, clean.stdout + clean.stderr
    pulumi("config", "set", "mistake", "true")
    refused = pulumi("preview", "--policy-pack", str(PACK))
    assert refused.returncode != 0
    assert "[mandatory]  no-plain-secrets" in refused.stdout
    assert "planted" not in refused.stdout + refused.stderr
