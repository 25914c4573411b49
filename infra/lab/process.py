"""Daemons in the lab's hosts: started in a session of their own, known by pid and start time, stopped with grace.

A pid alone is never trusted: before any signal the start time (proc(5), field 22) must match the recorded one.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.lab.errors import LabError, tool_environment

# What a daemon inherits; the spawner's secrets (a deployment tool holds a passphrase) are not among it.
_INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR", "XDG_RUNTIME_DIR", "VIRTUAL_ENV")
_POLL_S = 0.005
# In the environment of everything a run starts: its folder. Finds what no record knows, after a kill -9.
MARK = "ZTNA_LAB_RUN_DIR"


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """A started daemon: pid, and start time in clock ticks since boot."""

    pid: int
    start_time: int


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """A daemon as it is now; `pid` is that of its last start."""

    host: str
    name: str
    pid: int
    running: bool
    log_path: str
    argv: tuple[str, ...]


def start_time(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot; None when it is gone or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The command name may hold anything, parentheses included: fields are counted after the last one.
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in b"ZX" else int(fields[19])


def is_alive(pid: int, started: int) -> bool:
    """Whether this very process still runs. Reaps it first if it is our own dead child."""
    if pid <= 0:
        return False
    with contextlib.suppress(ChildProcessError, OSError):
        os.waitpid(pid, os.WNOHANG)
    return start_time(pid) == started


def launch(
    argv: Sequence[str], *, env: Mapping[str, str], cwd: str | None, log_path: Path, run_dir: Path
) -> ProcessInfo:
    """Start a daemon that survives us: own session, output appended to the log, no terminal.

    Args:
        argv: the command.
        env: added to a small inherited environment.
        cwd: working folder; None stays in ours.
        log_path: made with its folders if missing.
        run_dir: folder of the run it belongs to.

    Raises:
        LabError: the first word of argv cannot be run, or the log cannot be written.
    """
    ours = tool_environment()
    full_env = {key: ours[key] for key in _INHERITED if key in ours} | dict(env) | {MARK: str(run_dir)}
    command = list(argv) if cwd is None else ["env", "-C", cwd, *argv]
    try:
        log_path.parent.mkdir(parents=True, exist_ok=True)
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        pid = os.posix_spawnp(
            command[0],
            command,
            full_env,
            setsid=True,
            setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP],
            setsigmask=[],
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log_path), append, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
        )
    except OSError as error:
        raise LabError(f"cannot start {argv[0]!r} with log {log_path}: {error}") from error
    return ProcessInfo(pid, start_time(pid) or 0)


def send_signal(pid: int, started: int, number: int) -> bool:
    """Signal a daemon and its process group; False when this very process is gone."""
    if not is_alive(pid, started):
        return False
    with contextlib.suppress(ProcessLookupError):
        # launch() made it the leader of its group; helpers it forked go with it.
        if os.getpgid(pid) == pid:
            os.killpg(pid, number)
        else:
            os.kill(pid, number)
    return True


def marked(run_dir: Path) -> list[tuple[int, int]]:
    """Find every process that a run started, or that descends from one, as (pid, start time)."""
    mark = f"{MARK}={run_dir}".encode()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError):
            # The start time first: should the pid change hands in between, it will not match when it is used.
            started = start_time(int(entry))
            if started is not None and mark in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"):
                found.append((int(entry), started))
    return found


def wait_gone(processes: Iterable[tuple[int, int]], timeout_s: float) -> list[tuple[int, int]]:
    """Wait for processes to end; return those still there after the time-out."""
    deadline = time.monotonic() + timeout_s
    left = [process for process in processes if is_alive(*process)]
    while left and time.monotonic() < deadline:
        time.sleep(_POLL_S)
        left = [process for process in left if is_alive(*process)]
    return left


def stop_all(processes: Iterable[tuple[int, int]], grace_s: float) -> None:
    """TERM all, wait up to the grace, KILL what is left."""
    targets = [process for process in processes if send_signal(*process, signal.SIGTERM)]
    stubborn = wait_gone(targets, grace_s)
    for process in stubborn:
        send_signal(*process, signal.SIGKILL)
    wait_gone(stubborn, 5.0)
