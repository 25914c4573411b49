"""What a run has made, kept in one JSON file per run so that any process can carry on, look, or clean up.

    BASE/RUN.lock          flock; held for each change, gone with the run
    BASE/RUN/state.json    the record below, replaced atomically
    BASE/RUN/log/          output of spawned processes unless told otherwise

BASE is /run/ztna-lab for root, $XDG_RUNTIME_DIR/ztna-lab otherwise (else a private folder in /tmp): all are emptied by
a reboot, and the boot id guards the case where they are not. `ZTNA_LAB_STATE` overrides BASE.
"""

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import msgspec

from infra.lab.errors import LabError
from infra.lab.process import is_alive
from infra.lab.rungs import Rung

LOCK_TIMEOUT_S = 60.0
WHOLE_FOLDERS = ("log", "keys", "metadata", "pods")
"""Folders of a run that hold nothing but files: they go with it, keys and mounted secrets among them."""


class ProcessRecord(msgspec.Struct):
    """A daemon of a host. `pid` 0 means stopped; `start_time` is in clock ticks since boot (proc(5), field 22)."""

    host: str
    name: str
    argv: list[str]
    env: dict[str, str]
    cwd: str | None
    log_path: str
    pid: int = 0
    start_time: int = 0


class NodeRecord(msgspec.Struct):
    """A host or router. `ready` is false while it is being built, so that a half-built one is rebuilt."""

    kind: str
    spec: dict[str, Any]
    ready: bool = False
    routes: list[str] = []


class RunRecord(msgspec.Struct):
    """A run. Owner, holder and shaper are (pid, start time); a holder keeps the namespaces of a rootless run.

    `shaped` says by which means ("netem" or "shaper") a link that is not plain gets its impairments, by port id.
    """

    run: str
    rung: Rung
    persistent: bool
    boot_id: str
    owner: tuple[int, int]
    holder: tuple[int, int] | None = None
    segments: dict[str, dict[str, Any]] = {}
    nodes: dict[str, NodeRecord] = {}
    processes: dict[str, ProcessRecord] = {}
    shaper: tuple[int, int] | None = None
    shaped: dict[str, str] = {}


def running(run: str, host: str, name: str) -> ProcessRecord | None:
    """Return a daemon of a host of a run; None for one that does not run now."""
    record = load(run)
    process = record.processes.get(f"{host}/{name}") if record is not None else None
    return process if process is not None and is_alive(process.pid, process.start_time) else None


def boot_id() -> str:
    """Id of this boot of the kernel; pids and start times mean nothing across boots."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def in_use(record: RunRecord) -> bool:
    """Whether a run is to be left alone: persistent, or its owner lives."""
    return record.boot_id == boot_id() and (record.persistent or is_alive(*record.owner))


def base_dir() -> Path:
    """Return the folder of all runs of this user.

    Raises:
        LabError: the fall-back folder in /tmp belongs to somebody else.
    """
    override = os.environ.get("ZTNA_LAB_STATE")
    if override:
        return Path(override)
    if os.geteuid() == 0:
        return Path("/run/ztna-lab")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.access(runtime, os.W_OK):
        return Path(runtime) / "ztna-lab"
    fallback = Path(f"/tmp/ztna-lab-{os.geteuid()}")  # noqa: S108 - owner and mode are checked
    fallback.mkdir(mode=0o700, exist_ok=True)
    status = fallback.lstat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise LabError(f"{fallback} is not a private folder of this user: remove it, or set XDG_RUNTIME_DIR")
    return fallback


def run_dir(run: str) -> Path:
    """Return the folder of one run."""
    return base_dir() / run


def is_run(folder: Path) -> bool:
    """Whether a folder was made by a run; any other is none of our business."""
    return any((folder / name).is_file() for name in ("state.json", "state.json.new"))


def known_runs() -> list[str]:
    """Names of all runs that have a folder."""
    base = base_dir()
    return sorted(path.name for path in base.iterdir() if is_run(path)) if base.is_dir() else []


@contextlib.contextmanager
def locked(run: str) -> Iterator[None]:
    """Hold the lock of a run; other processes and other threads wait. The lock file of a run that is gone goes too.

    Raises:
        LabError: the lock was not free within LOCK_TIMEOUT_S.
    """
    base = base_dir()
    base.mkdir(mode=0o755, parents=True, exist_ok=True)
    path = base / f"{run}.lock"
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        with open(path, "w") as lock:
            if _holds(lock, path):
                try:
                    yield
                finally:
                    if not is_run(run_dir(run)):
                        path.unlink(missing_ok=True)
                return
        if time.monotonic() > deadline:
            raise LabError(f"lab run {run!r} is busy: another process holds {path}")
        time.sleep(0.01)


def _holds(lock: IO[str], path: Path) -> bool:
    """Take a lock unless it is taken; one whose file was removed meanwhile excludes nobody."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(lock.fileno()), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def load(run: str) -> RunRecord | None:
    """Return a run's record, or None where there is none.

    Raises:
        LabError: the record cannot be read; says how to clear it.
    """
    path = run_dir(run) / "state.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=RunRecord)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, OSError) as error:
        raise LabError(f"{path}: {error}; clear it with `python -m infra.lab reap --run {run}`") from error


def save(record: RunRecord) -> None:
    """Replace a run's record atomically."""
    folder = run_dir(record.run)
    (folder / "log").mkdir(parents=True, exist_ok=True)
    temporary = folder / "state.json.new"
    # Process records hold the environment given to daemons.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(msgspec.json.encode(record))
    temporary.replace(folder / "state.json")


def forget(run: str) -> None:
    """Remove a run's folder."""
    folder = run_dir(run)
    if not is_run(folder):
        return
    for name in WHOLE_FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    for path in list(folder.iterdir()):
        # Not the whole tree: seen from inside a rootless run, more than we made hangs below.
        with contextlib.suppress(OSError):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()
