"""Providers in processes of their own, spoken to over gRPC: a plugin binary found on PATH."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pulumi
import pytest
from pulumi import Output

from infra.engine.errors import DeploymentFailed
from infra.engine.operation import Adapters
from infra.engine.plugins import EXEC, PluginHost
from infra.engine.props import is_secret
from infra.engine.providers import GrpcProvider
from infra.engine.result import Result
from tests.infra.engine.bench import Bench, Program
from tests.infra.engine.real import wait_until

PLUGIN = Path(__file__).with_name("programs") / "pulumi-resource-disk"


class File(pulumi.CustomResource):
    """A resource of the plugin."""

    kind: pulumi.Output[str]

    def __init__(self, name: str, **props: Any) -> None:
        super().__init__("disk:index:File", name, {**props, "kind": None}, None)


class Disk:
    """The plugin on PATH, and an engine that may start it."""

    def __init__(self, bench: Bench, directory: Path) -> None:
        self.bench, self.directory = bench, directory

    def up(self, program: Program, verb: str = "up", **options: Any) -> Result:
        """Runs an operation with plugin binaries allowed."""
        workspace = self.bench.make(program, **{"plugin_binaries": True, **options})
        workspace._adapters = Adapters(launch=workspace._adapters.launch)
        result: Result = getattr(workspace, verb)()
        return result

    def files(self) -> dict[str, Any]:
        """What exists."""
        skipped = ("configured.json", "pid")
        return {p.stem: json.loads(p.read_text()) for p in self.directory.glob("*.json") if p.name not in skipped}


@pytest.fixture
def disk(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    directory = tmp_path / "disk"
    directory.mkdir()
    binary = tmp_path / "bin" / "pulumi-resource-disk"
    binary.parent.mkdir()
    binary.write_text(f"#!{sys.executable}\n{PLUGIN.read_text()}")
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", f"{binary.parent}:/usr/bin:/bin")
    monkeypatch.setenv("DISK_DIR", str(directory))
    return Disk(bench, directory)


def test_a_plugin_serves_its_resources_through_their_lives(disk: Disk) -> None:
    disk.bench.configure("config:\n  disk:speed: fast\n")

    def program(**props: Any) -> None:
        pulumi.export("kind", File("a", **props).kind)

    assert disk.up(lambda: program(text="x"), "preview").outputs == {"kind": "known in previews"}
    assert disk.files() == {}
    assert disk.up(lambda: program(text="x")).outputs == {"kind": "file"}
    assert disk.files() == {"a": {"size": 1, "text": "x"}}
    assert json.loads((disk.directory / "configured.json").read_text()) == {"speed": "fast"}
    assert "disk is spinning" in disk.bench.messages()
    assert disk.bench.resources()["a"].inputs == {"size": 1, "text": "x"}
    disk.up(lambda: program(text="x"))
    assert disk.bench.ops() == {"a": ["same"]}
    disk.up(lambda: program(text="y"))
    assert disk.bench.ops() == {"a": ["update"]}
    disk.up(lambda: None, "refresh")
    disk.up(lambda: None, "destroy")
    assert disk.files() == {}
    assert not psutil.pid_exists(int((disk.directory / "pid").read_text()))


def test_a_plugin_is_told_where_the_engine_is_and_logs_to_it(disk: Disk) -> None:
    disk.up(lambda: _ignore(File("a")))
    assert f"disk was met in {disk.bench.root.name}" in disk.bench.messages()


def test_an_old_plugin_does_without_being_told(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISK_OLD", "1")
    disk.up(lambda: _ignore(File("a")))
    assert list(disk.files()) == ["a"]


def test_a_plugin_that_is_wanted_and_not_there_is_named_with_the_command_to_get_it(disk: Disk) -> None:
    def program() -> None:
        pulumi.CustomResource("cloud:index:Thing", "a", {})

    for verb in ("preview", "up"):
        with pytest.raises(DeploymentFailed):
            disk.up(program, verb)
        assert "there is no pulumi-resource-cloud on PATH, which --real needs" in disk.bench.errors()
        assert "pulumi plugin install resource cloud" in disk.bench.errors()


def test_a_plugin_that_accepts_secrets_gets_them_marked(disk: Disk) -> None:
    disk.up(lambda: _ignore(File("a", text=Output.secret("hunter2"))))
    assert disk.files()["a"]["text"]["value"] == "hunter2"
    assert is_secret(disk.bench.resources()["a"].outputs["text"])


def test_a_failed_check_and_an_unfinished_resource_are_told_apart(disk: Disk) -> None:
    with pytest.raises(DeploymentFailed):
        disk.up(lambda: _ignore(File("a", size=13)))
    assert "size: is unlucky" in disk.bench.errors()
    with pytest.raises(DeploymentFailed):
        disk.up(lambda: _ignore(File("a", unready=True)))
    assert "exists but is not ready: still warming up" in disk.bench.errors()
    state = disk.bench.resources()["a"]
    assert (state.id, state.init_errors) == ("a", ["still warming up"])
    disk.up(lambda: _ignore(File("a", unready=True)))
    assert disk.bench.ops() == {"a": ["update"]}


def test_a_plugin_that_dies_leaves_the_operation_pending(disk: Disk) -> None:
    with pytest.raises(DeploymentFailed):
        disk.up(lambda: _ignore(File("a", die=True)))
    assert "was lost during Create" in disk.bench.errors()
    assert disk.bench.workspace.state().pending[0].kind == "creating"
    disk.up(lambda: None)
    assert "it may exist without being in the state" in disk.bench.messages()


def test_a_plugin_that_does_not_start_is_an_error(disk: Disk) -> None:
    (disk.directory / "refuse").touch()
    with pytest.raises(DeploymentFailed):
        disk.up(lambda: _ignore(File("a")))
    assert "the provider of package 'disk' did not start" in disk.bench.errors()
    assert "will not start" in disk.bench.messages()


def test_binaries_are_not_started_unless_allowed(disk: Disk) -> None:
    with pytest.raises(DeploymentFailed):
        disk.up(lambda: _ignore(File("a")), plugin_binaries=False)
    assert "has no provider for package 'disk'" in disk.bench.errors()


def test_a_running_provider_can_be_attached(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    process = subprocess.Popen([sys.executable, str(PLUGIN)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        monkeypatch.setenv("PULUMI_DEBUG_PROVIDERS", f"other:1,disk:{process.stdout.readline().strip()}")
        disk.up(lambda: _ignore(File("a")), plugin_binaries=False)
        assert list(disk.files()) == ["a"]
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()


def test_a_binary_ends_when_the_engine_is_gone(disk: Disk, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, str(EXEC.with_name("watch.py")), str(tmp_path / "bin/pulumi-resource-disk")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as watcher:  # fmt: skip
        assert watcher.stdout is not None
        watcher.stdout.readline()
        pid = int((disk.directory / "pid").read_text())
        assert runs(pid)
        assert watcher.stdin is not None
        watcher.stdin.close()
        wait_until(lambda: not runs(pid))


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_the_dynamic_provider_runs_in_the_programs_interpreter(tmp_path: Path) -> None:
    host = PluginHost(python=sys.executable, cwd=tmp_path, env={"PULUMI_PROJECT": "p"})
    provider = host.start("pulumi-python")
    try:
        assert isinstance(provider, GrpcProvider)
        assert provider.check_config("urn:pulumi:d::p::t::n", {}, {"a": 1}) == ({"a": 1}, [])
        provider.configure("urn:pulumi:d::p::t::n", "", {})
        provider.cancel()
    finally:
        provider.close()


def _ignore(*resources: object) -> None:
    """A program is a statement; resources register by being made."""
