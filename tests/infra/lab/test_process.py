"""Daemons: what they inherit, how they end, and whom a signal never reaches."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.lab.errors import LabError, require_tool
from infra.lab.process import (
    ProcessInfo,
    is_alive,
    launch,
    marked,
    send_signal,
    start_time,
    stop_all,
    wait_gone,
)

_READY = "import os, time; print('ready', os.getcwd(), os.getsid(0) == os.getpid(), flush=True); time.sleep(1000)"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[ProcessInfo]:
    info = launch(
        [sys.executable, "-ISsc", _READY],
        env={"COLOUR": "blue"},
        cwd=str(tmp_path),
        log_path=tmp_path / "logs" / "daemon.log",
        run_dir=tmp_path,
    )
    yield info
    stop_all([(info.pid, info.start_time)], 0)


def log_of(tmp_path: Path) -> str:
    """The daemon's log, once there is something in it."""
    path = tmp_path / "logs" / "daemon.log"
    while not (text := path.read_text()):
        os.sched_yield()
    return text


def test_a_daemon_has_its_own_session_folder_and_little_environment(
    daemon: ProcessInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert log_of(tmp_path) == f"ready {tmp_path} True\n"
    environment = Path(f"/proc/{daemon.pid}/environ").read_text().split("\0")
    assert "COLOUR=blue" in environment
    assert any(item.startswith("PATH=") for item in environment)
    assert not any(item.startswith("PYTEST") for item in environment)
    assert marked(tmp_path) == [(daemon.pid, daemon.start_time)]
    assert marked(tmp_path / "other") == []


def test_stop_all_ends_it_and_reaps_it(daemon: ProcessInfo, tmp_path: Path) -> None:
    log_of(tmp_path)
    assert is_alive(daemon.pid, daemon.start_time)
    stop_all([(daemon.pid, daemon.start_time)], 5.0)
    assert not is_alive(daemon.pid, daemon.start_time)
    assert start_time(daemon.pid) is None
    assert not Path(f"/proc/{daemon.pid}").exists()


def test_a_signal_needs_the_right_start_time(daemon: ProcessInfo) -> None:
    assert not send_signal(daemon.pid, daemon.start_time + 1, signal.SIGKILL)
    assert is_alive(daemon.pid, daemon.start_time)
    assert not send_signal(0, 0, signal.SIGKILL)
    assert send_signal(daemon.pid, daemon.start_time, signal.SIGKILL)
    assert wait_gone([(daemon.pid, daemon.start_time)], 5.0) == []


def test_helpers_of_a_daemon_go_with_it(tmp_path: Path) -> None:
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-ISsc', {_READY!r}])"
    info = launch(
        [sys.executable, "-ISsc", nested], env={}, cwd=None, log_path=tmp_path / "logs" / "daemon.log", run_dir=tmp_path
    )
    log_of(tmp_path)
    family = marked(tmp_path)
    assert len(family) == 2
    stop_all([(info.pid, info.start_time)], 5.0)
    assert wait_gone(family, 5.0) == []


def test_a_zombie_does_not_count_as_alive() -> None:
    child = subprocess.Popen([sys.executable, "-ISsc", ""])
    pid = child.pid
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert start_time(pid) is None
    child.wait()


def test_what_cannot_be_started_says_why(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="cannot start '/no/such/program'"):
        launch(["/no/such/program"], env={}, cwd=None, log_path=tmp_path / "log", run_dir=tmp_path)


def test_a_missing_tool_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(LabError, match="apt-get install coturn"):
        require_tool("turnserver")
