"""Clean-up: of one run, and of every run that its owner left behind.

Only namespaces with the lab's prefix, and only processes whose start time matches the record or that live inside such
a namespace, are ever touched.
"""

import contextlib
import os
import signal
from collections.abc import Iterable, Iterator

from infra.lab import machine, state
from infra.lab.errors import LabError
from infra.lab.netns import Place, stop_holder
from infra.lab.plan import PREFIX
from infra.lab.process import is_alive, marked, start_time, stop_all, wait_gone


def reap_stale() -> list[str]:
    """Remove every run that is not persistent and whose owner is gone; return their names.

    A run whose record cannot be read is left for `reap --run`: it may be a persistent one.
    """
    gone = []
    for run in state.known_runs():
        # First without the lock, which a run at work may hold for long.
        if not _stale(run):
            continue
        with state.locked(run):
            if _stale(run):
                reap_run(run)
                gone.append(run)
    return gone


def _stale(run: str) -> bool:
    try:
        record = state.load(run)
    except LabError:
        return False
    return record is None or not state.in_use(record)


def reap_run(run: str, *, grace_s: float = 0.5) -> None:
    """Stop all processes of a run and remove its namespaces and state. The caller holds the run's lock."""
    record: state.RunRecord | None = None
    with contextlib.suppress(LabError):
        record = state.load(run)
    if record is not None and record.boot_id == state.boot_id():
        _stop_processes(record, grace_s)
        if record.holder is not None:
            if is_alive(*record.holder):
                _reap_namespaces(run, Place(record.holder[0]))
            stop_holder(record.holder)
    _kill(marked(state.run_dir(run)))
    if os.geteuid() == 0:
        _reap_namespaces(run, Place())
        machine.clear(run)
    state.forget(run)


def _stop_processes(record: state.RunRecord, grace_s: float) -> None:
    daemons = [(process.pid, process.start_time) for process in record.processes.values() if process.pid]
    if record.shaper is not None:
        daemons.append(record.shaper)
    stop_all(daemons, grace_s)


def _reap_namespaces(run: str, place: Place) -> None:
    names = [name for name in place.namespaces() if name.startswith(f"{PREFIX}{run}.")]
    if not names:
        return
    _kill_inhabitants(place, names)
    place.batch([f"netns del {name}" for name in names])


def _kill_inhabitants(place: Place, names: list[str]) -> None:
    """Kill what still runs inside namespaces: shells people left open there, and their children."""
    root = "" if place.holder is None else f"/proc/{place.holder}/root"
    inodes = set()
    for name in names:
        with contextlib.suppress(OSError):
            inodes.add(os.stat(f"{root}/run/netns/{name}").st_ino)
    _kill(inhabitants(inodes))


def inhabitants(inodes: set[int]) -> Iterator[tuple[int, int]]:
    """Find the processes in network namespaces given by inode, as (pid, start time)."""
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            # The start time first: should the pid change hands in between, it will not match when it is used.
            started = start_time(int(entry)) if entry.isdigit() else None
            if started is not None and os.stat(f"/proc/{entry}/ns/net").st_ino in inodes:
                yield int(entry), started


def _kill(processes: Iterable[tuple[int, int]]) -> None:
    """KILL processes that are still the same, one by one (they lead no groups of ours), and wait for their end."""
    killed = []
    for pid, started in processes:
        with contextlib.suppress(OSError):
            if pid == os.getpid():
                continue
            handle = os.pidfd_open(pid)
            try:
                if start_time(pid) == started:
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
                    killed.append((pid, started))
            finally:
                os.close(handle)
    wait_gone(killed, 2.0)
