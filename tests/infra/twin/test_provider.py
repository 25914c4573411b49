"""What all types of the twin have in common: arguments checked by table, diffs, outputs complete, secrets kept."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from infra.engine.errors import ResourceError
from infra.engine.props import UNKNOWN, Props, is_secret, secret
from infra.engine.providers import Existing, Failure
from infra.engine.sdkschema import find_sdk
from infra.lab.errors import LabError
from infra.twin.interface import Call, Json, LeftOut, Made, TwinError, TwinType
from infra.twin.provider import Package, TwinProvider
from infra.twin.store import Item
from tests.infra.twin.sites import noted_site, urn

KIND = "digitalocean:index/vpc:Vpc"


class Thing(TwinType):
    """A type of these tests."""

    type_name = KIND
    force_new = frozenset({"region"})
    in_place = frozenset({"name", "ipRange"})
    left_out: ClassVar = {"description": LeftOut(why="nobody reads it")}
    defaults: ClassVar = {"region": "nyc1"}
    autoname = "name"
    delete_before_replace = True
    secret_outputs = ("vpcUrn",)
    broken: ClassVar[Exception | None] = None
    forgets: ClassVar[tuple[str, ...]] = ()

    def validate(self, inputs: Json) -> Iterator[Failure]:
        if inputs.get("ipRange") == "bad":
            yield Failure("ipRange", "it is bad")

    def create(self, call: Call, inputs: Json) -> Made:
        if self.broken:
            raise self.broken

        def fill(number: int, items: list[Item]) -> tuple[str, Json]:
            return f"id-{number}", {}

        made = {**inputs, "createdAt": "now", "default": False, "vpcUrn": "u", "description": ""}
        id_ = call.site.store.begin(call.urn, KIND, fill).id
        return Made(id=id_, outputs={key: value for key, value in made.items() if key not in self.forgets})

    def read(self, call: Call, outputs: Json) -> Json | None:
        return outputs if call.site.store.get(KIND, call.id) else None

    def update(self, call: Call, outputs: Json, olds: Json, news: Json) -> Json:
        return {**outputs, **news}

    def computed(self, olds: Json, news: Json) -> frozenset[str]:
        return frozenset({"createdAt"})

    def delete(self, call: Call, outputs: Json, inputs: Json) -> None:
        for item in call.site.store.items(KIND):
            call.site.store.drop(item.number)


class Rig:
    """The provider, and what it noted."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.notes: list[str] = []
        self.site = noted_site(folder, monkeypatch)
        package = Package(name="digitalocean", types=(Thing(),), config=frozenset({"token"}))
        self.provider = TwinProvider(package, self.site, find_sdk("digitalocean", sys.executable), self.notes.append)
        self.urn = urn(KIND, "network")

    def failures(self, **inputs: Any) -> list[tuple[str, str]]:
        """What check says of inputs."""
        return [(item.property, item.reason) for item in self.provider.check(self.urn, {}, inputs)[1]]

    def made(self, **inputs: Any) -> Existing:
        """A checked and created resource."""
        checked, failures = self.provider.check(self.urn, {}, inputs)
        assert not failures
        outcome = self.provider.create(self.urn, checked, 0, preview=False)
        return Existing(self.urn, outcome.id, checked, outcome.outputs)


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    return Rig(tmp_path, monkeypatch)


def test_an_argument_that_the_sdk_does_not_know_is_refused_with_a_hint(rig: Rig) -> None:
    ((name, reason),) = rig.failures(regionn="nyc1")
    assert name == "regionn"
    assert "did you mean 'region'?" in reason


def test_an_argument_of_a_wrong_type_is_refused(rig: Rig) -> None:
    ((name, reason),) = rig.failures(ipRange=5)
    assert (name, "must be a string" in reason) == ("ipRange", True)


def test_an_argument_that_the_twin_does_not_model_is_refused_by_name(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Thing, "in_place", frozenset({"name"}))
    ((name, reason),) = rig.failures(ipRange="10.0.0.0/24")
    assert name == "ipRange"
    assert "the twin does not model it" in reason
    assert "docs/twin.md" in reason


def test_a_type_that_the_twin_does_not_model_is_refused_with_those_there_are(rig: Rig) -> None:
    _, (failure,) = rig.provider.check(urn("digitalocean:index/vpcs:Vpcs", "x"), {}, {})
    assert "does not model resources of type digitalocean:index/vpcs:Vpcs" in failure.reason
    assert f"did you mean {KIND!r}?" in failure.reason
    assert "it has: Vpc" in failure.reason


def test_what_is_taken_without_effect_is_noted_once(rig: Rig) -> None:
    assert rig.failures(description="x") == []
    assert rig.failures(description="x") == []
    assert rig.failures(description="") == []
    assert rig.notes == ["not modelled by the twin: Vpc 'network' description: nobody reads it"]


def test_the_types_own_word_comes_last(rig: Rig) -> None:
    assert rig.failures(ipRange="bad") == [("ipRange", "it is bad")]
    assert rig.failures(ipRange=UNKNOWN) == []


def test_defaults_and_names_are_filled_in_and_a_name_is_kept(rig: Rig) -> None:
    checked, _ = rig.provider.check(rig.urn, {}, {})
    assert checked["region"] == "nyc1"
    assert checked["name"].startswith("network-")
    again, _ = rig.provider.check(rig.urn, checked, {"region": None})
    assert again == checked


def test_a_change_replaces_or_updates_by_the_table(rig: Rig) -> None:
    old = rig.made(name="a")

    def diff(**news: Any) -> Any:
        return rig.provider.diff(old.urn, old.id, old.inputs, old.outputs, {**old.inputs, **news}, [])

    assert diff().changes is False
    assert diff(name=secret("a")).changes is False, "secrecy alone is no change"
    assert diff(tags=[]).changes is False, "what the twin does not model is empty before and after"
    renamed = diff(name="b")
    assert (renamed.changes, renamed.replaces, renamed.changed) == (True, (), ("name",))
    moved = diff(name="b", region="ams3")
    assert (moved.replaces, moved.delete_before_replace) == (("region",), True)


def test_a_preview_makes_nothing_and_knows_inputs_alone(rig: Rig) -> None:
    outcome = rig.provider.create(rig.urn, {"name": "a"}, 0, preview=True)
    assert outcome.id == ""
    assert (outcome.outputs["name"], outcome.outputs["vpcUrn"]) == ("a", UNKNOWN)
    assert rig.site.store.items() == []


def test_a_preview_of_an_update_keeps_what_stays(rig: Rig) -> None:
    old = rig.made(name="a")
    outcome = rig.provider.update(old, {**old.inputs, "name": "b"}, 0, [], preview=True)
    assert (outcome.outputs["name"], outcome.outputs["createdAt"]) == ("b", UNKNOWN)
    assert outcome.outputs["default"] is False


def test_a_create_is_done_again_without_a_second_thing(rig: Rig) -> None:
    first = rig.made(name="a")
    assert rig.made(name="a").id == first.id
    rig.provider.diff(first.urn, first.id, first.inputs, first.outputs, first.inputs, [])
    assert rig.made(name="a").id != first.id, "the engine knows the first: this is its successor"


def test_secrets_stay_secret(rig: Rig) -> None:
    outputs: Props = rig.made(name=secret("a")).outputs
    assert outputs["name"] == secret("a")
    assert is_secret(outputs["vpcUrn"])


def test_an_output_without_a_value_is_a_fault_said_aloud(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Thing, "forgets", ("createdAt",))
    with pytest.raises(TwinError, match="createdAt"):
        rig.made(name="a")


def test_what_fails_in_the_lab_names_the_resource(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Thing, "broken", LabError("no such bridge"))
    with pytest.raises(ResourceError, match=r"Vpc 'network': no such bridge"):
        rig.made(name="a")


def test_what_is_gone_reads_as_gone(rig: Rig) -> None:
    old = rig.made(name="a")
    assert rig.provider.read(old.urn, old.id, old.inputs, old.outputs, 0).outputs == old.outputs
    rig.provider.delete(old, 0)
    rig.provider.delete(old, 0)
    assert rig.provider.read(old.urn, old.id, old.inputs, old.outputs, 0).id == ""


def test_configuration_of_the_provider_is_checked(rig: Rig) -> None:
    assert rig.provider.check_config("", {}, {"token": "t", "version": "4"})[1] == []
    ((failure),) = rig.provider.check_config("", {}, {"tokn": "t"})[1]
    assert "did you mean 'token'?" in failure.reason


def test_a_function_is_refused_by_name(rig: Rig) -> None:
    with pytest.raises(TwinError, match="does not model the function digitalocean:index/getRegion:getRegion"):
        rig.provider.invoke("digitalocean:index/getRegion:getRegion", {}, preview=False)
