"""State files and locks below one directory, laid out as Pulumi's file backend does.

`.pulumi/stacks/<project>/<stack>.json`, a `.bak` of the state before the last operation beside it, and
`.pulumi/locks/<project>/<stack>.lock`. A lock is held by the kernel (flock), so it dies with its owner; the file's
content says who the owner is.
"""

import contextlib
import fcntl
import getpass
import json
import os
import re
import signal
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from infra.engine.errors import LockedError, ProjectError, StateError
from infra.engine.state import VERSION, now
from infra.engine.urn import is_provider

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")


def check_name(kind: str, name: str) -> str:
    """A stack or project name that is safe in a path and in a URN.

    Raises:
        ProjectError: it holds other characters than letters, digits, `_`, `-`, `.`.
    """
    if not _NAME.fullmatch(name) or set(name) <= {"."}:
        raise ProjectError(f"{kind} name {name!r} may hold only letters, digits, '_', '-' and '.' (at most 100)")
    return name


def write_durably(path: Path, text: str) -> None:
    """Replaces a file at once: after a crash it holds the old text or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@dataclass(frozen=True, slots=True)
class Owner:
    """The holder of a lock. `start_time` is the kernel's start time of the process in clock ticks since boot."""

    pid: int
    start_time: int
    hostname: str
    username: str
    timestamp: str
    verb: str

    @classmethod
    def this(cls, verb: str) -> "Owner":
        """This process, for an operation."""
        return cls(os.getpid(), start_time(os.getpid()), socket.gethostname(), getpass.getuser(), now(), verb)

    @classmethod
    def read(cls, path: Path) -> "Owner | None":
        """Who a file names; None where it names nobody."""
        try:
            return cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def to_json(self) -> str:
        """What `read` reads."""
        return json.dumps(asdict(self))

    @property
    def is_here(self) -> bool:
        """Whether this host has the process, or had it."""
        return self.hostname == socket.gethostname()

    @property
    def is_running(self) -> bool:
        """Whether the process is alive; only this host's can be looked for."""
        return self.is_here and start_time(self.pid) == self.start_time != 0

    def __str__(self) -> str:
        return f"{self.verb} by {self.username}@{self.hostname}, process {self.pid}, since {self.timestamp}"


class StackFile:
    """State file and lock of one stack."""

    def __init__(self, root: Path, project: str, stack: str) -> None:
        base = root / ".pulumi"
        project, stack = check_name("project", project), check_name("stack", stack)
        self.root, self.project, self.stack = root, project, stack
        self.path = base / "stacks" / project / f"{stack}.json"
        self.lock_path = base / "locks" / project / f"{stack}.lock"
        self._meta = base / "meta.yaml"
        self._lock: int | None = None

    def sibling(self, project: str, stack: str) -> "StackFile":
        """Another stack below the same directory."""
        return StackFile(self.root, project, stack)

    def read(self) -> dict[str, Any] | None:
        """The deployment JSON, or None when the stack has no state yet.

        Raises:
            StateError: the file cannot be read or is no checkpoint of version 3.
        """
        try:
            data = json.loads(self.path.read_text())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateError(f"the state file {self.path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise StateError(
                f"the state file {self.path} is not JSON: {error}",
                f"The state before the last operation is in {self.path}.bak.",
            ) from error
        if not isinstance(data, dict) or data.get("version") != VERSION:
            raise StateError(f"the state file {self.path} is not a checkpoint of version {VERSION}")
        latest = (data.get("checkpoint") or {}).get("latest")
        return latest if isinstance(latest, dict) else {}

    def has_resources(self) -> bool:
        """Whether there is something that an engine made: a resource of a provider or an unfinished operation.

        Stack, components and providers alone (an `up` that was refused) are nothing to be fought over. An unreadable
        state counts as one that has resources.
        """
        try:
            latest = self.read() or {}
        except StateError:
            return True
        made = [
            item
            for item in latest.get("resources") or ()
            if item.get("custom") and not is_provider(str(item.get("type", "")))
        ]
        return bool(made or latest.get("pending_operations"))

    def write_text(self, deployment_text: str) -> None:
        """Writes a deployment given as JSON text.

        Raises:
            StateError: it cannot be written; the old state is still there.
        """
        name = json.dumps(f"organization/{self.project}/{self.stack}")
        text = f'{{"version":{VERSION},"checkpoint":{{"stack":{name},"latest":{deployment_text}}}}}\n'
        try:
            if not self._meta.exists():
                write_durably(self._meta, "version: 1\n")
            write_durably(self.path, text)
        except OSError as error:
            raise StateError(
                f"the state cannot be written to {self.path}: {error.strerror}",
                "The last good state is still there; make room or set the permissions right, and run again.",
            ) from error

    def backup(self) -> None:
        """Keeps the present state as `.bak` before an operation changes it."""
        with contextlib.suppress(FileNotFoundError):
            write_durably(self.path.with_name(f"{self.path.name}.bak"), self.path.read_text())

    def remove(self) -> None:
        """Forgets the stack's state (`.bak` stays)."""
        self.path.unlink(missing_ok=True)

    def lock(self, verb: str) -> str:
        """Takes the lock.

        Returns:
            A sentence about a lock that a dead process left, empty when there was none.

        Raises:
            LockedError: another live process holds it.
        """
        self.lock_path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.lock_path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            owner = self.owner()
            raise LockedError(
                f"stack {self.stack!r} is locked: {owner or 'another process'}",
                "Wait for it to end, or stop it with `ztna cancel`.",
            ) from None
        left = self.owner()
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, Owner.this(verb).to_json().encode(), 0)
        os.fsync(descriptor)
        self._lock = descriptor
        return f"Took over the lock of a run that is no more ({left})." if left else ""

    def unlock(self) -> None:
        """Gives the lock back; without a lock it does nothing."""
        if self._lock is not None:
            # Emptied, not removed: a waiting process may hold the same file open already.
            os.ftruncate(self._lock, 0)
            os.close(self._lock)
            self._lock = None

    def owner(self) -> Owner | None:
        """Who the lock file names."""
        return Owner.read(self.lock_path)

    def is_locked(self) -> bool:
        """Whether a live process holds the lock."""
        try:
            descriptor = os.open(self.lock_path, os.O_RDWR)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(descriptor)
        return False

    def cancel(self, wait_s: float) -> str:
        """Asks the owner to stop (SIGTERM) and waits; clears the lock file of a dead owner.

        Returns:
            A sentence that says what was found and done.

        Raises:
            LockedError: the owner runs on another host, or did not stop within `wait_s` seconds.
        """
        owner = self.owner()
        if not self.is_locked():
            self.lock_path.unlink(missing_ok=True)
            return f"Removed the lock of a run that is no more ({owner})." if owner else "Nothing is running."
        if owner is None or not owner.is_running:
            raise LockedError(f"stack {self.stack!r} is locked by {owner or 'a process'} that is not on this host")
        os.kill(owner.pid, signal.SIGTERM)
        deadline = time.monotonic() + wait_s
        while self.is_locked():
            if time.monotonic() > deadline:
                raise LockedError(f"{owner} did not stop within {wait_s:g} s", "Wait, or kill the process.")
            time.sleep(0.05)
        return f"Stopped {owner}."


def start_time(pid: int) -> int:
    """When a process started, in clock ticks since boot; 0 when there is no such process (proc(5), field 22)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[19])
