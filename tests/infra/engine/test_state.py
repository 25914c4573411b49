"""The state's JSON form, its integrity check, and what becomes of other engines' fields."""

import json
from pathlib import Path
from typing import Any

import pulumi
import pytest

from infra.engine.errors import StateError
from infra.engine.props import secret
from infra.engine.secrets import Crypter
from infra.engine.state import (
    Deployment,
    PendingOperation,
    ResourceState,
    deployment_from_json,
    deployment_to_json,
    salt_of,
    verify,
)
from tests.infra.engine.bench import Bench, Thing

STACK = "urn:pulumi:dev::p::pulumi:pulumi:Stack::p-dev"
PROVIDER = "urn:pulumi:dev::p::pulumi:providers:toy::default"
A = "urn:pulumi:dev::p::toy:index:Thing::a"
B = "urn:pulumi:dev::p::toy:index:Thing::b"


def _states() -> list[ResourceState]:
    stack = ResourceState(STACK, "pulumi:pulumi:Stack", custom=False)
    provider = ResourceState(PROVIDER, "pulumi:providers:toy", custom=True, id="1")
    a = ResourceState(A, "toy:index:Thing", custom=True, id="a", parent=STACK, provider=f"{PROVIDER}::1")
    b = ResourceState(B, "toy:index:Thing", custom=True, id="b", dependencies=[A], provider=f"{PROVIDER}::1")
    return [stack, provider, a, b]


def test_a_deployment_survives_a_round_trip(quick_key: None) -> None:
    crypter = Crypter("x")
    resources = _states()
    resources[2].inputs = {"password": secret("p"), "n": 5}
    resources[2].custom_timeouts = {"create": 90.0}
    resources[3].protect = resources[3].external = resources[3].retain_on_delete = True
    pending = [PendingOperation(resources[3], "updating")]
    data = json.loads(json.dumps(deployment_to_json(Deployment(resources, pending), crypter)))
    again = deployment_from_json(data, Crypter("x", salt_of(data)))
    for before, after in zip(resources, again.resources, strict=True):
        assert {name: getattr(before, name) for name in ResourceState.__slots__} == {
            name: getattr(after, name) for name in ResourceState.__slots__
        }
    assert (again.pending[0].kind, again.pending[0].resource.urn) == ("updating", B)


def test_unset_fields_are_left_out_and_foreign_ones_are_kept(quick_key: None) -> None:
    crypter = Crypter("x")
    data = deployment_to_json(Deployment(_states()), crypter)
    assert data["resources"][0] == {"urn": STACK, "custom": False, "type": "pulumi:pulumi:Stack"}
    data["resources"][2]["importID"] = "kept"
    again = deployment_to_json(deployment_from_json(data, crypter), crypter)
    assert again["resources"][2]["importID"] == "kept"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda states: states.reverse(), "does not stand before it|not in the state"),
        (lambda states: states.pop(2), "refers to .*::a, which"),
        (lambda states: states.pop(1), "refers to a provider that is not in the state"),
        (lambda states: states.append(states[2]), "in the state twice"),
        (lambda states: setattr(states[0], "id", "x"), "is no custom resource and yet has an id"),
        (lambda states: setattr(states[2], "urn", "nonsense"), "malformed URN"),
    ],
)
def test_an_inconsistent_state_is_refused(fault: Any, words: str) -> None:
    states = _states()
    verify(states)
    fault(states)
    with pytest.raises(StateError, match=words):
        verify(states)


def test_a_tampered_manifest_is_refused(quick_key: None) -> None:
    crypter = Crypter("x")
    data = deployment_to_json(Deployment(_states()), crypter)
    data["manifest"]["version"] = "another"
    with pytest.raises(StateError, match="magic"):
        deployment_from_json(data, crypter)


def test_secrets_under_another_provider_are_refused() -> None:
    with pytest.raises(StateError, match="'service'"):
        salt_of({"secrets_providers": {"type": "service"}})


def test_export_and_import_move_a_stack(bench: Bench, tmp_path: Path) -> None:
    def program() -> None:
        Thing("a", password=pulumi.Output.secret("p"))

    bench.up(program)
    exported = json.loads(json.dumps(bench.workspace.export_stack()))
    other = Bench(tmp_path / "other")
    other.cloud = bench.cloud
    other.make(program).import_stack(exported)
    other.up(program)
    assert other.ops() == {"a": ["same"]}


def test_import_refuses_what_it_cannot_trust(bench: Bench) -> None:
    bench.up(lambda: None)
    exported = bench.workspace.export_stack()
    for broken in ({}, {"version": 4, "deployment": {}}, {**exported, "deployment": None}):
        with pytest.raises(StateError):
            bench.workspace.import_stack(broken)
    exported["deployment"]["resources"].append({"urn": A, "type": "toy:index:Thing", "parent": B})
    with pytest.raises(StateError, match="does not stand before it"):
        bench.workspace.import_stack(exported)
    assert len(bench.workspace.state().resources) == 1


def test_export_of_a_stack_that_never_was_says_so(bench: Bench) -> None:
    with pytest.raises(StateError, match="has no state"):
        bench.make(lambda: None).export_stack()
    with pytest.raises(StateError, match="has no state"):
        bench.workspace.outputs()
