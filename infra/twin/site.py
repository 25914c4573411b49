"""Where a stack's twin is: its lab run, its records, and what providers need to make things there."""

import contextlib
import fcntl
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

from infra.lab import machine_root, state
from infra.lab.machine import Machine
from infra.lab.machine_root import RootSpec
from infra.lab.netns import Place
from infra.lab.plan import namespace
from infra.lab.rungs import Rung
from infra.lab.runtime import Lab
from infra.twin import world
from infra.twin.store import Store

OUTSIDE: Final = "ZTNA_TWIN_OUTSIDE"
"""In the environment of what runs in the administrator's namespace: the machine's own network namespace, as a path."""
RUN: Final = "ZTNA_TWIN_RUN"
"""In the environment: the name of the lab run, for plugins that another engine starts."""


_locks: dict[Path, threading.RLock] = {}
_locks_lock = threading.Lock()


def _lock_of(path: Path) -> threading.RLock:
    with _locks_lock:
        return _locks.setdefault(path, threading.RLock())


def run_name(stack: str, folder: Path) -> str:
    """Return the lab run of a stack of a project: another checkout has another world."""
    digits = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:4]
    return f"twin-{stack[:20].strip('-')}-{digits}"


@dataclass(frozen=True)
class Site:
    """The world of a stack.

    Attributes:
        run: name of the lab run.
        say: gets a line on what takes long.
    """

    run: str
    say: Callable[[str], None] = field(default=lambda line: None)

    @cached_property
    def store(self) -> Store:
        """What the clouds hold."""
        return Store(state.run_dir(self.run))

    @cached_property
    def lab(self) -> Lab:
        """The lab run."""
        return Lab(self.run, rung=Rung.ROOT, persistent=True)

    @property
    def exists(self) -> bool:
        """Whether the world is there, of this boot."""
        record = state.load(self.run)
        return record is not None and record.boot_id == state.boot_id() and world.ADMIN in record.nodes

    def open(self) -> None:
        """Make the world, or what is missing of it."""
        self.lab.realise(world.topology())

    def close(self) -> None:
        """Remove the world with all that is in it."""
        self.lab.destroy()

    @contextlib.contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """Hold a lock of this world by name, between threads and processes: for work that reads and then changes."""
        path = state.run_dir(self.run) / f"{name}.lock"
        with _lock_of(path), open(path, "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def machine(self, host: str) -> Machine:
        """The machine of a host."""
        return Machine(self.run, host)

    def root(self, spec: RootSpec) -> Path:
        """Return a machine root, built over the machine's own network if need be."""
        outside = os.environ.get(OUTSIDE)
        prefix = ("nsenter", f"--net={outside}", "--") if outside else ()
        return machine_root.ensure_root(spec, self.say, outside=prefix)

    def script(self, host: str, text: str) -> None:
        """Run a shell script in the namespace of a host or router of the lab."""
        Place().scripts({namespace(self.run, host): text})

    def inside(self, host: str) -> tuple[str, ...]:
        """Argv prefix that runs a command with the network of a host and everything else of this machine."""
        return Place().quick(namespace(self.run, host))
