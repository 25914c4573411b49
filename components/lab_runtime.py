"""What the lab's resources ask of a run beyond changing it: what is there, what lives, and where files are."""

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.lab import state
from infra.lab.netns import Place
from infra.lab.plan import host_spaces, namespace, router_spaces, switch_namespace
from infra.lab.process import is_alive, send_signal
from infra.lab.reap import reap_stale
from infra.lab.rungs import Rung
from infra.lab.runtime import Lab
from infra.lab.state import NodeRecord, ProcessRecord, RunRecord
from infra.lab.topology import Host, Router, Topology


@dataclass(frozen=True, kw_only=True, slots=True)
class LabSite:
    """Which run on this machine, and the rung that realises it."""

    run: str
    rung: Rung

    def props(self, name: str) -> dict[str, Any]:
        """Return the inputs that every resource of the lab has."""
        return {"run": self.run, "rung": self.rung.value, "name": name}

    def files_dir(self, host: str, name: str) -> Path:
        """Return the directory of a process's files; it is private to this user."""
        return state.run_dir(self.run) / "files" / f"{host}-{name}"

    def log_path(self, host: str, name: str) -> Path:
        """Return the log of a process."""
        return state.run_dir(self.run) / "log" / f"{host}-{name}.log"


class LabHandle:
    """One run, as the resources of a stack see it. Looking never changes anything."""

    def __init__(self, props: dict[str, Any]) -> None:
        self.site = LabSite(run=str(props["run"]), rung=Rung(props["rung"]))
        self.lab = Lab(self.site.run, rung=self.site.rung, persistent=True)

    @property
    def run(self) -> str:
        """The run's name."""
        return self.site.run

    def open(self) -> None:
        """Reap what dead runs left, and begin the run unless it has begun; one of its name on another rung is ended."""
        reap_stale()
        if self._on_another_rung():
            self.lab.destroy()
        self.lab.realise(Topology(segments=()))

    def close(self) -> None:
        """End the run with all that is left of it, unless it has gone on to another rung meanwhile."""
        if not self._on_another_rung():
            self.lab.destroy()

    def record(self) -> RunRecord | None:
        """Return the run's record while it means anything: this rung, this boot, and the rootless holder lives."""
        record = state.load(self.run)
        if record is None or record.rung is not self.site.rung or record.boot_id != state.boot_id():
            return None
        if record.rung is Rung.ROOTLESS and (record.holder is None or not is_alive(*record.holder)):
            return None
        return record

    def _on_another_rung(self) -> bool:
        record = state.load(self.run)
        return record is not None and record.rung is not self.site.rung

    def has_segment(self, name: str) -> bool:
        """Return whether a segment is recorded and the namespace of the bridges is there."""
        record = self.record()
        if record is None or name not in record.segments:
            return False
        return record.rung is Rung.LOOPBACK or switch_namespace(self.run) in _place(record).namespaces()

    def has_node(self, name: str) -> bool:
        """Return whether a host or router is recorded as whole and its namespaces are there."""
        record = self.record()
        node = record.nodes.get(name) if record is not None else None
        if record is None or node is None or not node.ready:
            return False
        return record.rung is Rung.LOOPBACK or _namespaces(self.run, node) <= _place(record).namespaces()

    def is_alive(self, host: str, name: str) -> bool:
        """Return whether a process lives, be it still on its way into its namespace."""
        process = self._process(self.record(), host, name)
        return process is not None and is_alive(process.pid, process.start_time)

    def is_running(self, host: str, name: str) -> bool:
        """Return whether a process lives, in the namespace that its host has now."""
        record = self.record()
        process = self._process(record, host, name)
        if record is None or process is None or not is_alive(process.pid, process.start_time):
            return False
        return record.rung is Rung.LOOPBACK or self._is_inside(record, host, process.pid)

    def reload(self, host: str, name: str) -> None:
        """Send SIGHUP to a process."""
        process = self._process(self.record(), host, name)
        if process is not None:
            send_signal(process.pid, process.start_time, signal.SIGHUP)

    def stop(self, host: str, name: str) -> None:
        """Stop a process and forget it; no error where there is none."""
        if self._process(self.record(), host, name) is not None:
            self.lab.remove_process(host, name)

    @staticmethod
    def _process(record: RunRecord | None, host: str, name: str) -> ProcessRecord | None:
        return record.processes.get(f"{host}/{name}") if record is not None else None

    def _is_inside(self, record: RunRecord, host: str, pid: int) -> bool:
        root = "" if record.holder is None else f"/proc/{record.holder[0]}/root"
        with contextlib.suppress(OSError):
            actual = os.stat(f"/proc/{pid}/ns/net").st_ino
            return actual == os.stat(f"{root}/run/netns/{namespace(self.run, host)}").st_ino
        return False


def _place(record: RunRecord) -> Place:
    return Place(record.holder[0] if record.holder else None)


def _namespaces(run: str, node: NodeRecord) -> set[str]:
    if node.kind == "host":
        spaces = host_spaces(Host.from_spec(node.spec))
    else:
        spaces = router_spaces(Router.from_spec(node.spec))
    return {namespace(run, space.node) for space in spaces}
