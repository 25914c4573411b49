"""Previews of cloud programs on a machine without plugins, credentials or network: what they know and what they say."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from infra.engine import fixtures
from infra.engine.errors import DeploymentFailed
from infra.engine.events import Diagnostic, Event, ResourceStep
from infra.engine.fixtures import FOLDER
from infra.engine.operation import Options
from infra.engine.sdkschema import find_sdk
from infra.engine.workspace import Workspace
from infra.graph import SECRET, UNKNOWN, Graph

pytestmark = pytest.mark.engine

PROGRAM = (Path(__file__).with_name("programs") / "clouds.py").read_text()
DROPLET = """
from pulumi_digitalocean.droplet import Droplet
Droplet("relay", **{{"image": "ubuntu-24-04-x64", "region": "nyc1", "size": "s-1vcpu-1gb", **{changes}}})
"""


class Clouds:
    """A project of cloud resources."""

    def __init__(self, root: Path, program: str) -> None:
        self.root = root
        root.mkdir()
        (root / "Pulumi.yaml").write_text("name: clouds\nruntime: python\n")
        (root / "__main__.py").write_text(program)
        self.events: list[Event] = []

    def workspace(self) -> Workspace:
        """For one operation."""
        self.events = []
        return Workspace(self.root, "dev", engine="embedded", on_event=self.events.append, options=Options())

    def said(self) -> str:
        """All messages."""
        return "\n".join(event.message for event in self.events if isinstance(event, Diagnostic))


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Graph, str]:
    """The graph of the program as it stands and what the preview said."""
    clouds = Clouds(tmp_path_factory.mktemp("once") / "project", PROGRAM)
    return clouds.workspace().graph(), clouds.said()


def inputs(graph: Graph, name: str) -> dict[str, Any]:
    """The inputs of a resource."""
    (node,) = [node for node in graph.nodes if node.name == name]
    return node.inputs


def test_every_sdk_is_previewed(once: tuple[Graph, str]) -> None:
    graph, _ = once
    assert graph.counts() == {
        "aws:ec2/instance:Instance": 1,
        "aws:ec2/subnet:Subnet": 1,
        "aws:ec2/vpc:Vpc": 2,
        "digitalocean:index/droplet:Droplet": 1,
        "digitalocean:index/sshKey:SshKey": 1,
        "docker-build:index:Image": 1,
        "kubernetes:cilium.io/v2:CiliumLoadBalancerIPPool": 1,
        "kubernetes:core/v1:Namespace": 1,
        "pulumi:providers:kubernetes": 1,
        "test:index:Network": 1,
        "tls:index/privateKey:PrivateKey": 1,
    }


def test_what_a_deployment_alone_can_tell_is_unknown(once: tuple[Graph, str]) -> None:
    graph, _ = once
    assert inputs(graph, "net-subnet")["vpcId"] == UNKNOWN
    assert inputs(graph, "relay") == {
        "image": "ubuntu-24-04-x64", "region": "nyc1", "size": "s-1vcpu-1gb", "sshKeys": [UNKNOWN],
    }  # fmt: skip
    assert graph.outputs["address"] == UNKNOWN


def test_secrets_stay_secret_known_or_not(once: tuple[Graph, str]) -> None:
    graph, _ = once
    assert inputs(graph, "net-host")["userData"] == {SECRET: "hunter2"}
    assert inputs(graph, "cluster")["kubeconfig"] == {SECRET: UNKNOWN}
    assert graph.outputs["key"] == {SECRET: UNKNOWN}
    assert "hunter2" not in json.dumps(graph.to_json()) + graph.to_svg() + graph.to_text()


def test_functions_are_answered_from_recordings_or_unknown_and_it_says_so(once: tuple[Graph, str]) -> None:
    graph, said = once
    assert inputs(graph, "net-subnet")["availabilityZone"] == "us-east-2a"
    assert "getAvailabilityZones is answered from a recording (AWS documentation" in said
    assert inputs(graph, "net-host")["ami"] == UNKNOWN
    assert "aws:ssm/getParameter:getParameter(name) is unknown in this preview" in said


def test_what_is_not_checked_or_not_read_is_said(once: tuple[Graph, str]) -> None:
    graph, said = once
    assert "CiliumLoadBalancerIPPool is not a type of the SDK: its arguments are not checked" in said
    assert "aws:ec2/vpc:Vpc 'existing' is read as unknown" in said
    assert graph.outputs["existing"] == UNKNOWN


def test_the_graph_knows_parents_providers_and_dependencies(once: tuple[Graph, str]) -> None:
    graph, _ = once
    by_name = {node.name: node for node in graph.nodes}
    assert [node.name for node in graph.children(by_name["net"].urn)] == ["net-vpc", "net-subnet", "net-host"]
    assert by_name["net-subnet"].dependencies == (by_name["net-vpc"].urn,)
    assert by_name["space"].provider == by_name["cluster"].urn
    assert not [node for node in graph.nodes if node.name.startswith("default")]


def test_a_preview_leaves_nothing_behind_and_needs_no_state(tmp_path: Path) -> None:
    clouds = Clouds(tmp_path / "project", DROPLET.format(changes={}))
    clouds.workspace().graph()
    assert not (clouds.root / ".ztna").exists()


def test_an_argument_that_is_wrong_fails_the_preview_by_name(tmp_path: Path) -> None:
    clouds = Clouds(tmp_path / "project", DROPLET.format(changes={"image": 3, "backup_policy": {"hourr": 4}}))
    with pytest.raises(DeploymentFailed):
        clouds.workspace().preview()
    said = clouds.said()
    assert "digitalocean:index/droplet:Droplet 'relay' is not valid" in said
    assert "image: must be a string, not the number 3" in said
    assert "backupPolicy.hourr: DropletBackupPolicy has no argument 'hourr' (did you mean 'hour'?)" in said


def test_up_is_refused_by_name_with_the_remedy(tmp_path: Path) -> None:
    clouds = Clouds(tmp_path / "project", DROPLET.format(changes={}))
    with pytest.raises(DeploymentFailed):
        clouds.workspace().up()
    assert "the embedded engine has no provider for package 'digitalocean'" in clouds.said()
    assert "--engine pulumi" in clouds.said()
    assert "--real with pulumi-resource-digitalocean on PATH" in clouds.said()
    assert [state.type for state in clouds.workspace().state().resources] == ["pulumi:pulumi:Stack"]
    assert clouds.workspace()._holder() is None, "the remedy, another engine, must not be refused"


def test_configuration_of_a_graph_is_laid_over_that_of_the_file(tmp_path: Path) -> None:
    clouds = Clouds(tmp_path / "project", "")
    program = 'import pulumi\npulumi.export("a", pulumi.Config("x").require("a"))\n'
    (clouds.root / "__main__.py").write_text(program + 'pulumi.export("b", pulumi.Config("x").require_object("b"))\n')
    (clouds.root / "Pulumi.dev.yaml").write_text("config:\n  x:a: file\n  x:b: [1]\n")
    assert clouds.workspace().graph().outputs == {"a": "file", "b": [1]}
    assert clouds.workspace().graph({"x:b": [2, 3]}).outputs == {"a": "file", "b": [2, 3]}
    assert (clouds.root / "Pulumi.dev.yaml").read_text() == "config:\n  x:a: file\n  x:b: [1]\n"


def recorded(clouds: Clouds, size: str) -> None:
    """A state as `up` by the official CLI leaves it, with the droplet in it."""
    stack = "urn:pulumi:dev::clouds::pulumi:pulumi:Stack::clouds-dev"
    provider = "urn:pulumi:dev::clouds::pulumi:providers:digitalocean::default_4_0_0"
    inputs = {"image": "ubuntu-24-04-x64", "region": "nyc1", "size": size}
    resources: list[dict[str, Any]] = [
        {"urn": stack, "custom": False, "type": "pulumi:pulumi:Stack"},
        {"urn": provider, "custom": True, "id": "one", "type": "pulumi:providers:digitalocean"},
    ]
    resources += [
        {
            "urn": f"urn:pulumi:dev::clouds::digitalocean:index/droplet:Droplet::{name}",
            "custom": True,
            "id": "7",
            "type": "digitalocean:index/droplet:Droplet",
            "inputs": inputs,
            "outputs": {**inputs, "ipv4Address": "192.0.2.7"},
            "parent": stack,
            "provider": f"{provider}::one",
        }
        for name in ("relay", "former")
    ]
    clouds.workspace().import_stack({"version": 3, "deployment": {"resources": resources}})


def test_against_a_state_a_preview_tells_what_changes_and_keeps_what_is_known(tmp_path: Path) -> None:
    program = DROPLET.format(changes={}).replace("Droplet(", "droplet = Droplet(")
    clouds = Clouds(tmp_path / "project", program + 'import pulumi\npulumi.export("ip", droplet.ipv4_address)\n')
    recorded(clouds, "s-1vcpu-1gb")
    same = clouds.workspace().preview()
    assert same.changes == {"same": 2, "delete": 1}
    assert same.outputs == {"ip": "192.0.2.7"}
    recorded(clouds, "s-2vcpu-2gb")
    changed = clouds.workspace().preview()
    assert changed.changes == {"same": 1, "update": 1, "delete": 1}
    assert changed.outputs == {"ip": "[unknown]"}
    steps = [event for event in clouds.events if isinstance(event, ResourceStep) and event.operation == "update"]
    assert {step.changes for step in steps} == {("size",)}
    assert [state.id for state in clouds.workspace().state().resources if state.id == "7"] == ["7", "7"]


def test_every_recording_names_its_source_and_answers_what_the_sdk_knows() -> None:
    for path in FOLDER.glob("*.json"):
        sdk = find_sdk(path.stem, sys.executable)
        assert sdk is not None
        for entry in json.loads(path.read_text())["recorded"]:
            assert entry["source"]
            assert set(entry["result"]) <= set(sdk.results(entry["function"])), entry["function"]
            found = fixtures.recorded(entry["function"], entry["args"])
            assert found is not None
            assert found.result == entry["result"]
            assert fixtures.recorded(entry["function"], {**entry["args"], "other": 1}) is None
