"""Secrets, unknowns, references and numbers on their way through engine, provider and state."""

import json
from typing import Any

import pulumi
import pytest
from pulumi import Output, ResourceOptions

from infra.engine.errors import DeploymentFailed
from infra.engine.props import is_secret
from tests.infra.engine.bench import Bench, Group, Thing


def _file_text(bench: Bench) -> str:
    return (bench.root / ".ztna/.pulumi/stacks/bench/dev.json").read_text()


def test_a_secret_input_is_nowhere_in_the_file_and_comes_back_secret(bench: Bench) -> None:
    seen: list[bool] = []

    def program() -> None:
        a = Thing("a", password=Output.secret("hunter2"), open="readable")
        Output.from_input(a.password).apply(lambda value: seen.append(value == "hunter2"))  # type: ignore[attr-defined]
        pulumi.export("password", a.password)  # type: ignore[attr-defined]

    result = bench.up(program)
    text = _file_text(bench)
    assert "hunter2" not in text
    assert "readable" in text
    assert seen == [True]
    assert result.outputs == {"password": "[secret]"}
    assert bench.workspace.outputs() == {"password": "[secret]"}
    assert bench.workspace.outputs(show_secrets=True) == {"password": "hunter2"}
    assert is_secret(bench.resources()["a"].outputs["password"])


def test_an_unchanged_secret_keeps_its_ciphertext(bench: Bench) -> None:
    def program(size: int) -> None:
        Thing("a", password=Output.secret("hunter2"))
        Thing("b", size=size)

    def ciphertext() -> Any:
        data = json.loads(_file_text(bench))["checkpoint"]["latest"]["resources"]
        return next(item for item in data if item["urn"].endswith("::a"))["inputs"]["password"]["ciphertext"]

    bench.up(lambda: program(1))
    before = ciphertext()
    bench.up(lambda: program(2))
    assert ciphertext() == before


def test_a_secret_inside_a_structure_stays_secret(bench: Bench) -> None:
    def program() -> None:
        Thing("a", spec={"user": "u", "passwords": [Output.secret("one-secret"), "plain"]})

    bench.up(program)
    assert "one-secret" not in _file_text(bench)
    bench.up(program)
    assert bench.ops() == {"a": ["same"]}


def test_additional_secret_outputs_are_encrypted(bench: Bench) -> None:
    bench.up(lambda: _ignore(Thing("a", ResourceOptions(additional_secret_outputs=["serial"]))))
    assert bench.resources()["a"].outputs["serial"]["value"] == "a#1"
    assert '"a#1"' not in _file_text(bench).replace('"id":"a#1"', "")


def test_numbers_stay_integral_in_state_and_none_stays_out(bench: Bench) -> None:
    def program() -> None:
        pulumi.export("values", [5, 5.5, 2**53, True, None])
        pulumi.export("nothing", None)

    assert bench.up(program).outputs == {"values": [5, 5.5, 2**53, True, None]}
    assert "[5,5.5,9007199254740992" in _file_text(bench)


def test_a_resource_as_an_input_is_a_reference_in_state_and_an_id_for_the_provider(bench: Bench) -> None:
    def program() -> None:
        Thing("b", other=Thing("a"))

    bench.up(program)
    state = bench.resources()
    assert state["b"].inputs["other"]["urn"] == state["a"].urn
    assert state["b"].inputs["other"]["id"] == "a#1"
    bench.up(program)
    assert bench.ops() == {"a": ["same"], "b": ["same"]}


def test_assets_are_compared_by_content(bench: Bench) -> None:
    file = bench.root / "text.txt"
    file.write_text("one")

    def program() -> None:
        Thing("a", source=pulumi.FileAsset("text.txt"))

    bench.up(program)
    bench.up(program)
    assert bench.ops() == {"a": ["same"]}
    file.write_text("two")
    bench.up(program)
    assert bench.ops() == {"a": ["update"]}


def test_archives_are_compared_by_content(bench: Bench) -> None:
    folder = bench.root / "folder"
    folder.mkdir()
    (folder / "x").write_text("one")

    def program() -> None:
        Thing("a", code=pulumi.AssetArchive({"f": pulumi.FileArchive("folder"), "t": pulumi.StringAsset("s")}))

    bench.up(program)
    bench.up(program)
    assert bench.ops() == {"a": ["same"]}
    (folder / "y").write_text("two")
    bench.up(program)
    assert bench.ops() == {"a": ["update"]}


def test_a_remote_asset_is_refused_by_name(bench: Bench) -> None:
    with pytest.raises(DeploymentFailed):
        bench.up(lambda: _ignore(Thing("a", source=pulumi.RemoteAsset("https://example.org/x"))))
    assert "does not fetch remote assets ('https://example.org/x')" in bench.errors()


def test_a_preview_changes_nothing_and_knows_what_it_can(bench: Bench) -> None:
    def program(size: int) -> None:
        a = Thing("a", size=size)
        Thing("b", of=a.serial)
        pulumi.export("size", a.size)  # type: ignore[attr-defined]
        pulumi.export("serial", a.serial)

    first = bench.preview(lambda: program(1))
    assert bench.cloud.calls == []
    assert first.changes == {"create": 3}
    assert first.outputs == {"size": 1, "serial": "[unknown]"}
    assert not (bench.root / ".ztna/.pulumi/stacks").exists()

    bench.up(lambda: program(1))
    before = _file_text(bench)
    second = bench.preview(lambda: program(1))
    assert second.changes == {"same": 3}
    assert second.outputs == {"size": 1, "serial": "a#1"}
    third = bench.preview(lambda: program(2))
    assert bench.ops() == {"a": ["update"], "b": ["update"]}
    assert third.outputs == {"size": 2, "serial": "[unknown]"}
    assert bench.cloud.calls == []
    assert _file_text(bench) == before


def test_a_preview_shows_replacements_and_deletes(bench: Bench) -> None:
    bench.up(lambda: _ignore(Thing("a", pin="x"), Thing("b", kind="Single", pin="x"), Thing("c")))
    bench.preview(lambda: _ignore(Thing("a", pin="y"), Thing("b", kind="Single", pin="y")))
    ops = bench.ops()
    assert ops["a"] == ["create-replacement", "delete-replaced"]
    assert ops["b"] == ["delete-replaced", "create-replacement"]
    assert ops["c"] == ["delete"]
    assert bench.cloud.calls == []
    assert set(bench.resources()) == {"a", "b", "c"}


def _ignore(*resources: pulumi.Resource) -> None:
    """A program is a statement; resources register by being made."""


def test_a_component_does_not_see_the_outputs_it_registered_last_time(bench: Bench) -> None:
    # They may refer to resources that this run has not registered yet, and may be out of date.
    seen: list[object] = []

    def program() -> None:
        group = Group("g", serial=None)
        group.serial.apply(seen.append)  # type: ignore[attr-defined]
        group.register_outputs({"serial": Thing("a").serial})

    bench.up(program)
    bench.up(program)
    assert bench.resources()["g"].outputs == {"serial": "a#1"}
    assert seen == [None, None]
