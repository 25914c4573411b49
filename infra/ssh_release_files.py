"""What the host's half of a release is made of: where things are, writing and linking whole, the lock of deployers.

    /opt/ztna/releases/RELEASE/              code; immutable, named by its contents
    /etc/ztna/releases/DEPLOYMENT/           code -> a release, units/, ROLE/ (files of 0600), plan.json
    /etc/ztna/current -> releases/DEPLOYMENT the one link that is switched, by rename
    /opt/ztna/current, /etc/ztna/ROLE        fixed links through /etc/ztna/current

Runs on the host by its python3: the standard library alone (`infra/ssh_release_host.py`).
"""

import contextlib
import fcntl
import hashlib
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

USER = "ztna"
CODE = Path("/opt/ztna")
ETC = Path("/etc/ztna")
VAR = Path("/var/lib/ztna-release")
UNITS = Path("/etc/systemd/system")
CURRENT = ETC / "current"
DEPLOYMENTS = ETC / "releases"
RELEASES = CODE / "releases"
UPLOADS = VAR / "uploads"

LOCK_S = 20.0
STEP_S = 120.0
POLL_S = 0.2
CHUNK = 1 << 18
SPARE_BYTES = 32 << 20


class Refused(Exception):
    """A request that is not carried out; the text is for people."""


def say(line: str) -> None:
    """Tell the deployer what is going on; it may be gone."""
    answer({"progress": line})


def answer(value: dict[str, Any]) -> None:
    """Write one line; nobody may be reading any more."""
    with contextlib.suppress(OSError):
        os.write(1, (json.dumps(value) + "\n").encode())


def run(*argv: str, check: bool = True, timeout_s: float = STEP_S) -> str:
    """Run a command and return what it printed. Raises Refused with its output when it fails."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise Refused(f"`{' '.join(argv)}` took longer than {timeout_s:g} s") from None
    if check and done.returncode != 0:
        raise Refused(f"`{' '.join(argv)}` failed ({done.returncode}): {(done.stderr or done.stdout).strip()[-1500:]}")
    return done.stdout.strip()


def systemctl(*words: str, check: bool = True) -> str:
    """Run systemctl like `run`."""
    return run("systemctl", *words, check=check)


def current() -> str:
    """Return the name of the deployment that is switched on, empty when none is."""
    with contextlib.suppress(OSError):
        return os.path.basename(os.readlink(CURRENT))
    return ""


def plan_of(deployment: str) -> dict[str, Any]:
    """Return what a deployment consists of, an empty plan when it is none."""
    with contextlib.suppress(OSError, ValueError):
        plan: dict[str, Any] = json.loads((DEPLOYMENTS / deployment / "plan.json").read_text())
        return plan
    return {"release": "", "ready": [], "units": {}, "reload": {}, "pace": {}}


def active(unit: str) -> bool:
    """Return whether a unit runs."""
    return systemctl("is-active", f"{unit}.service", check=False) == "active"


def restarts(unit: str) -> str:
    """Return how often systemd has restarted a unit since it was last started by request."""
    return systemctl("show", "--property=NRestarts", "--value", f"{unit}.service", check=False)


def sha256_of(path: Path, limit: int | None = None) -> str:
    """Return the SHA-256 of a file, or of its first `limit` bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        left = path.stat().st_size if limit is None else limit
        while left > 0 and (chunk := file.read(min(CHUNK, left))):
            digest.update(chunk)
            left -= len(chunk)
    return digest.hexdigest()


def write(path: Path, text: str, mode: int = 0o644, owner: tuple[int, int] = (0, 0)) -> None:
    """Write a file whole or not at all, never readable by more than it is to be."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fchown(file.fileno(), *owner)
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())
    partial.replace(path)


def link(path: Path, target: str) -> None:
    """Make a symbolic link, replacing one by rename: at no time is there none."""
    if path.is_symlink() and os.readlink(path) == target:
        return
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    partial.symlink_to(target)
    partial.replace(path)


def need_space(folder: Path, wanted: int) -> None:
    """Refuse before a disk runs full."""
    stat = os.statvfs(folder)
    free = stat.f_bavail * stat.f_frsize
    if free < wanted + SPARE_BYTES:
        raise Refused(
            f"disk full: {folder} has {free >> 20} MiB free and the release needs {(wanted + SPARE_BYTES) >> 20} MiB; "
            "make room or take a larger disk; nothing was changed"
        )


def lock() -> int:
    """Take the lock of deployers; it goes with the process. Raises Refused when another one has it for LOCK_S."""
    VAR.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(VAR / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    until = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise Refused(
                    "another deployer is at work on this host: wait until it is done, and try again"
                ) from None
            time.sleep(POLL_S)
        else:
            return descriptor
