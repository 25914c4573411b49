"""A lab on this machine: makes, changes and removes what a topology asks for, and runs processes in it.

`Lab` is cheap to construct and holds no state of its own: everything is in the run's record (infra/lab/state.py), under
the run's lock. So a deployment tool may call `ensure_*` and `remove_*` one object at a time, from several processes at
once, and again after any failure; a test uses it as a context manager instead:

    with Lab("try") as lab:
        lab.realise(two_nat_topology(PRESETS["port-restricted"], PRESETS["symmetric"]))
        lab.run("agent", ["ping", "-c1", "172.20.0.2"])
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from infra.lab import build, nodes, shaping, state
from infra.lab.errors import LabError, tool_environment
from infra.lab.netns import Place, start_holder
from infra.lab.plan import namespace
from infra.lab.process import ProcessInfo, ProcessStatus, is_alive, launch, send_signal, start_time, stop_all, wait_gone
from infra.lab.reap import reap_run, reap_stale
from infra.lab.rungs import Detection, Rung, demand, detect
from infra.lab.state import ProcessRecord, RunRecord
from infra.lab.topology import Host, Router, Segment, Topology, check_name


class Lab:
    """One run of a lab.

    Args:
        run: its name; lower-case letters, digits and hyphens. One machine can hold many runs.
        rung: the rung to use; None takes the best (or the one this run already uses).
        persistent: whether the run outlives this process. One that does not is reaped by the next lab that starts
            after its owner died; a persistent one goes only by `destroy` or `reap` by name.

    Raises:
        ValueError: the name cannot be used.
    """

    def __init__(self, run: str, *, rung: Rung | None = None, persistent: bool = False) -> None:
        check_name("run", run)
        self.run_name = run
        self._wanted = rung
        self._persistent = persistent

    # -- the run ------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        reap_stale()
        with self._session():
            return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.destroy()

    @contextlib.contextmanager
    def _session(self) -> Iterator[tuple[RunRecord, Place]]:
        with state.locked(self.run_name):
            record = state.load(self.run_name)
            if record is not None and not _usable(record):
                reap_run(self.run_name)
                record = None
            record = record or self._begin()
            if self._wanted not in (None, record.rung):
                raise LabError(f"lab run {record.run!r} is on the {record.rung.value} rung: destroy it first")
            try:
                yield record, _place(record)
            finally:
                state.save(record)

    @contextlib.contextmanager
    def _existing(self) -> Iterator[tuple[RunRecord, Place]]:
        """Like a session, but of nothing (and to no effect) where there is no such run any more."""
        with contextlib.ExitStack() as stack:
            record = state.load(self.run_name)
            if record is None or not _usable(record):
                nothing = RunRecord(self.run_name, Rung.LOOPBACK, False, "", (0, 0))
                yield nothing, Place()
            else:
                yield stack.enter_context(self._session())

    def _begin(self) -> RunRecord:
        rung = demand(self._wanted).rung if self._wanted else detect().rung
        pid = os.getpid()
        record = RunRecord(self.run_name, rung, self._persistent, state.boot_id(), (pid, start_time(pid) or 0))
        state.save(record)
        if rung is Rung.ROOTLESS:
            record.holder = start_holder(state.run_dir(self.run_name))
            state.save(record)
        return record

    def record(self) -> RunRecord:
        """The run's record, to look at.

        Raises:
            LabError: there is no such run.
        """
        return self._look()[0]

    def _look(self) -> tuple[RunRecord, Place]:
        record = state.load(self.run_name)
        if record is None:
            known = ", ".join(state.known_runs()) or "none"
            raise LabError(f"no lab run {self.run_name!r} here (runs: {known})")
        return record, _place(record)

    @property
    def rung(self) -> Rung:
        """The rung of the run; of the next one, where there is none yet."""
        record = state.load(self.run_name)
        return record.rung if record else self.detection.rung

    @property
    def detection(self) -> Detection:
        """What the rung in use can show, and why it is no better."""
        record = state.load(self.run_name)
        wanted = record.rung if record else self._wanted
        return detect() if wanted in (None, detect().rung) else demand(wanted)

    def destroy(self, *, grace_s: float = 0.5) -> None:
        """Stop every process of the run and remove all it made; no error if there is no such run."""
        with state.locked(self.run_name):
            reap_run(self.run_name, grace_s=grace_s)

    # -- segments, routers, hosts -------------------------------------------------------------------------------

    def realise(self, topology: Topology) -> None:
        """Make a whole topology, or bring the run to it; what the topology does not name is left alone."""
        with self._session() as (record, place):
            nodes.ensure_segments(record, place, topology.segments)
            nodes.ensure_nodes(record, place, (*topology.routers, *topology.hosts))

    def ensure_segment(self, segment: Segment) -> None:
        """Make a LAN, unless it is there."""
        with self._session() as (record, place):
            nodes.ensure_segments(record, place, (segment,))

    def ensure_router(self, router: Router) -> None:
        """Make a router, or change it in place; a changed NAT forgets its mappings and touches nothing else."""
        with self._session() as (record, place):
            nodes.ensure_nodes(record, place, (router,))

    def ensure_host(self, host: Host) -> None:
        """Make a host, or change it in place; its processes stay."""
        with self._session() as (record, place):
            nodes.ensure_nodes(record, place, (host,))

    def remove_segment(self, name: str) -> None:
        """Remove a LAN, if it is there.

        Raises:
            LabError: something is still plugged into it.
        """
        with self._existing() as (record, place):
            nodes.remove_segment(record, place, name)

    def remove_router(self, name: str) -> None:
        """Remove a router, if it is there."""
        with self._existing() as (record, place):
            nodes.remove_node(record, place, name)

    def remove_host(self, name: str) -> None:
        """Remove a host and stop its processes, if it is there."""
        with self._existing() as (record, place):
            nodes.remove_node(record, place, name)

    def forget_mappings(self, router: str) -> None:
        """Make a router's NATs forget every mapping and connection, as a reboot of it would."""
        with self._existing() as (record, place):
            if router not in record.nodes:
                raise LabError(f"lab run {self.run_name!r} has no router {router!r}")
            node = nodes.node_of(record.nodes[router])
            if record.rung is not Rung.LOOPBACK:
                build.reload_rules(place, record.run, [space for space in nodes.spaces_of(node) if space.ruleset])

    def link_statistics(self) -> dict[str, dict[str, dict[str, int]]]:
        """Counters of the links the shaper carries: {"HOST INTERFACE": {"up": {...}, "down": {...}}}."""
        record, _ = self._look()
        if record.shaper is None:
            return {}
        names = {port.id: f"{port.node} {port.ifname}" for port in nodes.linked_ports(record).values()}
        return {names[name]: link for name, link in shaping.ask(record.run, {})["links"].items()}

    # -- processes ----------------------------------------------------------------------------------------------

    def exec_prefix(self, host: str) -> tuple[str, ...]:
        """Argv prefix that runs a command in a host or router (empty on the loopback rung).

        A carrier's NAT is a namespace beside its home router's: ROUTER_carrier.
        """
        record, place = self._look()
        spaces = (space.node for node in nodes.all_nodes(record) for space in nodes.spaces_of(node))
        if host not in record.nodes and host not in spaces:
            raise LabError(f"lab run {record.run!r} has no host {host!r} (hosts: {', '.join(record.nodes) or 'none'})")
        return () if record.rung is Rung.LOOPBACK else place.inside(namespace(record.run, host))

    def address(self, address: str) -> str:
        """Return the address under which a host's address is reached on this rung: itself, or its 127.x.y.z."""
        if self.rung is not Rung.LOOPBACK:
            return address
        return nodes.loopback_address(address)

    def run(
        self, host: str, argv: Sequence[str], *, timeout_s: float = 60.0, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a host and wait for it.

        Raises:
            LabError: it failed (unless `check` is false) or took longer than the time-out.
        """
        command = [*self.exec_prefix(host), *argv]
        try:
            done = subprocess.run(
                command, env=tool_environment(), capture_output=True, text=True, timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired:
            raise LabError(f"{' '.join(argv)} in {host} took longer than {timeout_s} s") from None
        if check and done.returncode != 0:
            output = (done.stderr or done.stdout).strip()
            raise LabError(f"{' '.join(argv)} in {host} ended {done.returncode}: {output}")
        return done

    def spawn(
        self,
        host: str,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        log_path: str | Path | None = None,
    ) -> ProcessInfo:
        """Start a daemon in a host; one of that name that still runs is stopped first.

        Args:
            host: where.
            name: unique within the host.
            argv: the command.
            env: added to a small inherited environment (PATH, HOME, locale).
            cwd: working folder; default is the present one.
            log_path: gets the output, appended; default is the run's own log folder.
        """
        check_name("process", name)
        default = state.run_dir(self.run_name) / "log" / f"{host}-{name}.log"
        log = Path(log_path).absolute() if log_path is not None else default
        wanted = ProcessRecord(host, name, list(argv), dict(env or {}), cwd or os.getcwd(), str(log))
        self._settle(host, name, signal.SIGTERM, 5.0)
        with self._session() as (record, _):
            old = record.processes.get(f"{host}/{name}")
            if old is not None and is_alive(old.pid, old.start_time):
                raise LabError(f"process {name!r} of {host} was started by somebody else just now")
            record.processes[f"{host}/{name}"] = wanted
            return self._launch(wanted)

    def start(self, host: str, name: str) -> ProcessInfo:
        """Start a stopped daemon as it was spawned; one that runs is left alone."""
        with self._session() as (record, _):
            process = _process(record, host, name)
            if is_alive(process.pid, process.start_time):
                return ProcessInfo(process.pid, process.start_time)
            return self._launch(process)

    def stop(self, host: str, name: str, *, grace_s: float = 5.0) -> None:
        """TERM a daemon, KILL it after the grace; `start` brings it back. No error if it does not run."""
        self._settle(host, name, signal.SIGTERM, grace_s)

    def kill(self, host: str, name: str) -> None:
        """KILL a daemon; `start` brings it back. No error if it does not run."""
        self._settle(host, name, signal.SIGKILL, 5.0)

    def restart(self, host: str, name: str, *, grace_s: float = 5.0) -> ProcessInfo:
        """Stop a daemon and start it as it was spawned."""
        self.stop(host, name, grace_s=grace_s)
        return self.start(host, name)

    def signal(self, host: str, name: str, number: int) -> None:
        """Send a signal to a daemon (and its process group).

        Raises:
            LabError: no such daemon, or it does not run.
        """
        process = _process(self._look()[0], host, name)
        if not send_signal(process.pid, process.start_time, number):
            raise LabError(f"process {name!r} of {host} does not run; its log is {process.log_path}")

    def wait(self, host: str, name: str, timeout_s: float) -> bool:
        """Wait for a daemon to end; False if it still runs after the time-out."""
        process = _process(self._look()[0], host, name)
        return not wait_gone([(process.pid, process.start_time)], timeout_s)

    def require_process(self, host: str, name: str) -> None:
        """Raise LabError unless the run has this daemon, running or not."""
        _process(self._look()[0], host, name)

    def remove_process(self, host: str, name: str, *, grace_s: float = 5.0) -> None:
        """Stop a daemon and forget it; no error if there is none."""
        self._settle(host, name, signal.SIGTERM, grace_s)
        if state.load(self.run_name) is not None:
            with self._session() as (record, _):
                record.processes.pop(f"{host}/{name}", None)

    def processes(self) -> list[ProcessStatus]:
        """Every daemon of the run, running or not."""
        record, _ = self._look()
        return [
            ProcessStatus(
                process.host,
                process.name,
                process.pid,
                is_alive(process.pid, process.start_time),
                process.log_path,
                tuple(process.argv),
            )
            for process in record.processes.values()
        ]

    def _settle(self, host: str, name: str, number: int, grace_s: float) -> None:
        # Without the lock: others may go on while a daemon takes its time to end.
        record = state.load(self.run_name)
        process = record.processes.get(f"{host}/{name}") if record is not None else None
        if process is None:
            return
        target = (process.pid, process.start_time)
        if number == signal.SIGTERM:
            stop_all([target], grace_s)
        else:
            send_signal(*target, number)
            wait_gone([target], grace_s)

    def _launch(self, process: ProcessRecord) -> ProcessInfo:
        argv = [*self.exec_prefix(process.host), *process.argv]
        info = launch(
            argv,
            env=process.env,
            cwd=process.cwd,
            log_path=Path(process.log_path),
            run_dir=state.run_dir(self.run_name),
        )
        process.pid, process.start_time = info.pid, info.start_time
        return info


def _process(record: RunRecord, host: str, name: str) -> ProcessRecord:
    process = record.processes.get(f"{host}/{name}")
    if process is None:
        known = ", ".join(record.processes) or "none"
        raise LabError(f"lab run {record.run!r} has no process {name!r} in {host} (processes: {known})")
    return process


def _usable(record: RunRecord) -> bool:
    if record.boot_id != state.boot_id():
        return False
    return record.rung is not Rung.ROOTLESS or (record.holder is not None and is_alive(*record.holder))


def _place(record: RunRecord) -> Place:
    return Place(record.holder[0] if record.holder else None)
