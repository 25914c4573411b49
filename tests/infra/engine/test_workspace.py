"""Which engine an operation goes to: the one that has the stack's resources."""

import json
from pathlib import Path

import pytest

from infra.engine.errors import CliError, StateError
from infra.engine.workspace import EngineChoice, Workspace


def _state(root: Path, below: str, resources: list[str]) -> None:
    path = root / ".ztna" / below / ".pulumi" / "stacks" / "p" / "dev.json"
    path.parent.mkdir(parents=True)
    latest = {"resources": [{"urn": urn, "type": "toy:index:Thing", "custom": True} for urn in resources]}
    path.write_text(json.dumps({"version": 3, "checkpoint": {"stack": "dev", "latest": latest}}))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "Pulumi.yaml").write_text("name: p\nruntime: python\n")
    (tmp_path / "__main__.py").touch()
    cli = tmp_path / "bin" / "pulumi"
    cli.parent.mkdir()
    cli.write_text("#!/bin/sh\n")
    cli.chmod(0o755)
    monkeypatch.setenv("PATH", f"{cli.parent}:/usr/bin:/bin")
    return tmp_path


def test_a_stack_in_which_no_provider_made_anything_is_nobodys(root: Path) -> None:
    _state(root, "", ["urn:a"])
    path = root / ".ztna/.pulumi/stacks/p/dev.json"
    components = [{"urn": "urn:s", "type": "pulumi:pulumi:Stack", "custom": False}]
    providers = [{"urn": "urn:p", "type": "pulumi:providers:toy", "custom": True}]
    latest = {"resources": components + providers}
    path.write_text(json.dumps({"version": 3, "checkpoint": {"stack": "dev", "latest": latest}}))
    assert Workspace(root, "dev").engine == "pulumi"
    latest["pending_operations"] = [{"resource": {"urn": "urn:a"}, "type": "creating"}]
    path.write_text(json.dumps({"version": 3, "checkpoint": {"stack": "dev", "latest": latest}}))
    assert Workspace(root, "dev").engine == "embedded"


def test_auto_stays_with_the_engine_that_brought_the_stack_up(root: Path) -> None:
    assert Workspace(root, "dev").engine == "pulumi"
    _state(root, "", ["urn:a"])
    assert Workspace(root, "dev").engine == "embedded"


def test_auto_follows_the_path_again_once_everything_is_destroyed(root: Path) -> None:
    _state(root, "", [])
    assert Workspace(root, "dev").engine == "pulumi"


def test_a_stack_of_the_official_cli_needs_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _state(root, "official", ["urn:a"])
    assert Workspace(root, "dev").engine == "pulumi"
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    with pytest.raises(CliError, match="brought this stack up"):
        Workspace(root, "dev")


@pytest.mark.parametrize(("below", "other"), [("", "pulumi"), ("official", "embedded")])
def test_the_other_engine_does_not_make_a_second_state(root: Path, below: str, other: EngineChoice) -> None:
    _state(root, below, ["urn:a"])
    with pytest.raises(StateError, match="brought up by the other engine") as caught:
        Workspace(root, "dev", engine=other).up()
    assert "ztna destroy --stack dev --engine" in str(caught.value.remedy)
