"""`ztna render`: files, modes, what it replaces and what it leaves alone."""

import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from infra import cli
from infra.cli_common import CliFailure, ExitCode
from infra.cli_render import render_stack
from tests.support import kube
from tests.support.project import ROOT, link_project
from ztna.config import AgentConfig


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = link_project(tmp_path_factory.mktemp("render") / "project")
    shutil.copy(ROOT / "Pulumi.pi-home.yaml", directory)
    return directory


@pytest.fixture(scope="module")
def rendered(project: Path) -> Iterator[Path]:
    """A rendering into a directory with a careless umask."""
    before, here = os.umask(0), Path.cwd()
    os.chdir(project)
    try:
        render_stack("pi-home", Path("out"))
        yield project / "out"
    finally:
        os.chdir(here)
        os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_every_file_with_a_key_is_readable_by_its_owner_alone(rendered: Path) -> None:
    with_key = [path for path in rendered.rglob("*") if path.is_file() and "PRIVATE KEY" in path.read_text()]
    assert {path.relative_to(rendered).parts[0] for path in with_key} == {"secrets", "agents"}
    assert {mode(path) for path in with_key} == {0o600}
    kept = [path for path in (rendered.parent / ".ztna" / "render").rglob("*") if path.is_file()]
    assert {mode(path) for path in kept} == {0o600}
    for folder in ("secrets", "agents"):
        assert mode(rendered / folder) == 0o700
        assert (rendered / folder / ".gitignore").read_text() == "*\n"


def test_the_kustomization_lists_every_manifest_and_each_satisfies_its_schema(rendered: Path) -> None:
    listed = yaml.safe_load((rendered / "kustomization.yaml").read_text())["resources"]
    paths = [path for folder in ("manifests", "secrets") for path in (rendered / folder).glob("*.yaml")]
    found = [str(path.relative_to(rendered)) for path in paths]
    assert sorted(listed) == sorted(found)
    for name in listed:
        kube.validate(yaml.safe_load((rendered / name).read_text()))


def test_agents_get_their_profiles(rendered: Path) -> None:
    profile = AgentConfig.from_json(json.loads((rendered / "agents" / "laptop" / "agent.json").read_text()))
    assert (profile.relay.host, profile.relay.port) == ("10.0.150.205", 4433)


def test_rendering_again_changes_nothing_and_removes_what_is_no_more(rendered: Path) -> None:
    def texts() -> dict[str, str]:
        return {str(path.relative_to(rendered)): path.read_text() for path in rendered.rglob("*") if path.is_file()}

    before = texts()
    (rendered / "manifests" / "08-deployment-gone.yaml").write_text("kind: Deployment\n")
    render_stack("pi-home", rendered)
    assert texts() == before


def test_a_directory_with_other_files_is_left_alone(rendered: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CliFailure, match="holds other files: give an empty or a new directory"):
        render_stack("pi-home", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_another_stack_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CliFailure, match="stack 'lab' has nothing for Kubernetes: render --stack pi-home"):
        render_stack("lab", tmp_path)


def test_a_bad_configuration_ends_as_such(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "project"
    link_project(broken)
    (broken / "Pulumi.pi-home.yaml").write_text("config:\n  pi-home:loadBalancerIp: nowhere\n")
    monkeypatch.chdir(broken)
    done = CliRunner().invoke(cli.app, ["render", "--dir", str(tmp_path / "out")])
    assert done.exit_code == ExitCode.CONFIG
    assert not (tmp_path / "out").exists()
