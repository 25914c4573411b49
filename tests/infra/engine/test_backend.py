"""State files that are replaced at once, and locks that die with their owner."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from infra.engine.backend import StackFile, start_time, write_durably
from infra.engine.errors import LockedError, ProjectError, StateError
from tests.infra.engine.bench import Bench, Thing

_HOLD = """
import sys, time
from pathlib import Path
from infra.engine.backend import StackFile
print(StackFile(Path(sys.argv[1]), "p", "dev").lock("up"), flush=True)
time.sleep(60)
"""


@pytest.fixture
def file(tmp_path: Path) -> StackFile:
    return StackFile(tmp_path, "p", "dev")


def _holder(root: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", _HOLD, str(root)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_file_is_written_at_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.json"
    write_durably(path, "one")
    write_durably(path, "two")
    assert path.read_text() == "two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_no_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.json"
    write_durably(path, "one")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_durably(path, "two")
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_the_layout_is_that_of_the_file_backend(file: StackFile, tmp_path: Path) -> None:
    file.write_text('{"resources":[]}')
    written = json.loads((tmp_path / ".pulumi/stacks/p/dev.json").read_text())
    assert written == {"version": 3, "checkpoint": {"stack": "organization/p/dev", "latest": {"resources": []}}}
    assert (tmp_path / ".pulumi/meta.yaml").read_text() == "version: 1\n"
    assert file.read() == {"resources": []}


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 2}'])
def test_an_unreadable_state_is_an_error_that_names_the_file(file: StackFile, text: str) -> None:
    file.path.parent.mkdir(parents=True)
    file.path.write_text(text)
    with pytest.raises(StateError, match=str(file.path)):
        file.read()


@pytest.mark.parametrize("name", ["", "..", "a/b", "a b", "x" * 101])
def test_names_that_are_no_file_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ProjectError):
        StackFile(tmp_path, "p", name)


def test_a_lock_is_exclusive_and_names_its_owner(file: StackFile, tmp_path: Path) -> None:
    assert file.lock("up") == ""
    other = StackFile(tmp_path, "p", "dev")
    with pytest.raises(LockedError, match=f"up by .*process {os.getpid()}"):
        other.lock("destroy")
    file.unlock()
    assert other.lock("destroy") == ""
    other.unlock()
    assert not file.is_locked()


def test_the_lock_of_a_killed_process_is_taken_over_and_said(file: StackFile, tmp_path: Path) -> None:
    process = _holder(tmp_path)
    with pytest.raises(LockedError, match=f"process {process.pid}"):
        file.lock("up")
    _end(process)
    assert f"process {process.pid}" in file.lock("up")
    file.unlock()


def test_cancel_stops_a_live_owner_and_clears_a_dead_one(file: StackFile, tmp_path: Path) -> None:
    assert file.cancel(1) == "Nothing is running."
    process = _holder(tmp_path)
    assert "Stopped up by" in file.cancel(10)
    assert process.wait(10) == -signal.SIGTERM
    process.communicate()
    process = _holder(tmp_path)
    _end(process)
    assert "no more" in file.cancel(1)
    assert file.owner() is None


def test_up_while_another_runs_is_a_clear_error_and_changes_nothing(bench: Bench) -> None:
    workspace = bench.make(lambda: None)
    process = _holder(bench.root / ".ztna")
    try:
        # The holder locks stack dev of project p; a lock is per stack.
        bench.up(lambda: _ignore(Thing("a")))
        other = Bench(bench.root, project="p")
        with pytest.raises(LockedError, match="is locked: up by"):
            other.up(lambda: _ignore(Thing("a")))
        assert other.cloud.calls == []
        other.preview(lambda: _ignore(Thing("a")))
    finally:
        _end(process)
    assert workspace.cancel() == "Nothing is running."


def test_start_time_tells_processes_apart() -> None:
    assert start_time(os.getpid()) > 0
    assert start_time(2**22 + 1) == 0


def _ignore(*resources: object) -> None:
    """A program is a statement; resources register by being made."""
