"""Records and locks of runs."""

import os
import threading
from pathlib import Path

import pytest

from infra.lab import state
from infra.lab.errors import LabError
from infra.lab.process import start_time
from infra.lab.rungs import Rung
from infra.lab.state import NodeRecord, ProcessRecord, RunRecord


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZTNA_LAB_STATE", str(tmp_path))
    return tmp_path


def record(*, persistent: bool = False, boot: str | None = None) -> RunRecord:
    owner = (os.getpid(), start_time(os.getpid()) or 0)
    return RunRecord("one", Rung.LOOPBACK, persistent, boot or state.boot_id(), owner)


def test_a_record_comes_back_as_it_was(base: Path) -> None:
    mine = record()
    mine.nodes["a"] = NodeRecord("host", {"name": "a"}, ready=True, routes=["10.0.0.0/8 via 1.2.3.4"])
    mine.processes["a/web"] = ProcessRecord("a", "web", ["true"], {"KEY": "secret"}, None, "/log", 5, 6)
    state.save(mine)
    assert state.load("one") == mine
    assert state.known_runs() == ["one"]
    assert (base / "one" / "state.json").stat().st_mode & 0o777 == 0o600
    state.forget("one")
    assert state.load("one") is None
    assert state.known_runs() == []


def test_a_damaged_record_says_how_to_clear_it(base: Path) -> None:
    (base / "one").mkdir()
    (base / "one" / "state.json").write_text('{"run":')
    with pytest.raises(LabError, match="reap --run one"):
        state.load("one")


def test_a_run_is_in_use_while_its_owner_lives_or_if_it_persists() -> None:
    mine = record()
    assert state.in_use(mine)
    mine.owner = (os.getpid(), 1)
    assert not state.in_use(mine)
    mine.persistent = True
    assert state.in_use(mine)
    mine.boot_id = "another boot"
    assert not state.in_use(mine)


def test_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "LOCK_TIMEOUT_S", 0.05)
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with state.locked("one"):
            inside.set()
            leave.wait(5)

    holder = threading.Thread(target=hold)
    holder.start()
    inside.wait(5)
    try:
        with pytest.raises(LabError, match="'one' is busy"), state.locked("one"):
            pass
        with state.locked("two"):
            pass
    finally:
        leave.set()
        holder.join()
    with state.locked("one"):
        pass
    assert list(state.base_dir().iterdir()) == []


def test_a_lock_removed_by_its_last_holder_still_excludes(base: Path) -> None:
    inside = 0
    most = 0

    def enter() -> None:
        nonlocal inside, most
        for _ in range(20):
            with state.locked("one"):
                inside += 1
                most = max(most, inside)
                os.sched_yield()
                inside -= 1

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert list(base.iterdir()) == []


def test_a_daemon_runs_while_its_very_process_does(base: Path) -> None:
    mine, started = record(), start_time(os.getpid()) or 0
    for name, ticks in (("here", started), ("another", started + 1)):
        mine.processes[f"a/{name}"] = ProcessRecord("a", name, ["true"], {}, None, "/log", os.getpid(), ticks)
    state.run_dir("one").mkdir()
    state.save(mine)
    found = state.running("one", "a", "here")
    assert found is not None
    assert found.pid == os.getpid()
    for words in (("one", "a", "another"), ("one", "a", "none"), ("two", "a", "here")):
        assert state.running(*words) is None
