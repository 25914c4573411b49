"""A lab on this machine: makes, changes and removes what a topology asks for, and runs processes in it.

`Lab` is cheap to construct and holds no state of its own: everything is in the run's record (infra/lab/state.py), under
the run's lock. So a deployment tool may call `ensure_*` and `remove_*` one object at a time, from several processes at
once, and again after any failure; a test uses it as a context manager instead:

    with Lab("try") as lab:
        lab.realise(two_nat_topology(PRESETS["port-restricted"], PRESETS["symmetric"]))
        lab.run("agent", ["ping", "-c1", "172.20.0.2"])
"""

import contextlib
import ipaddress
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from infra.lab import build, shaping, state
from infra.lab.errors import LabError
from infra.lab.netns import Place, start_holder
from infra.lab.plan import Port, Space, host_spaces, namespace, router_spaces
from infra.lab.process import ProcessInfo, is_alive, launch, start_time, stop_all
from infra.lab.reap import reap_run, reap_stale
from infra.lab.rungs import Detection, Rung, demand, detect
from infra.lab.state import NodeRecord, ProcessRecord, RunRecord
from infra.lab.topology import Host, Router, Segment, Topology, check_name

_KINDS: dict[str, type[Host] | type[Router]] = {"host": Host, "router": Router}


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

    def _begin(self) -> RunRecord:
        rung = demand(self._wanted).rung if self._wanted else detect().rung
        pid = os.getpid()
        record = RunRecord(self.run_name, rung, self._persistent, state.boot_id(), (pid, start_time(pid) or 0))
        state.save(record)
        if rung is Rung.ROOTLESS:
            record.holder = start_holder(state.run_dir(self.run_name))
            state.save(record)
        return record

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
            self._ensure_segments(record, place, topology.segments)
            self._ensure_nodes(record, place, (*topology.routers, *topology.hosts))

    def ensure_segment(self, segment: Segment) -> None:
        """Make a LAN, unless it is there."""
        with self._session() as (record, place):
            self._ensure_segments(record, place, (segment,))

    def ensure_router(self, router: Router) -> None:
        """Make a router, or change it in place; a changed NAT forgets its mappings and touches nothing else."""
        with self._session() as (record, place):
            self._ensure_nodes(record, place, (router,))

    def ensure_host(self, host: Host) -> None:
        """Make a host, or change it in place; its processes stay."""
        with self._session() as (record, place):
            self._ensure_nodes(record, place, (host,))

    def remove_segment(self, name: str) -> None:
        """Remove a LAN, if it is there."""
        with self._session() as (record, place):
            if record.segments.pop(name, None) is not None and record.rung is not Rung.LOOPBACK:
                build.remove_bridge(place, record.run, name)

    def remove_router(self, name: str) -> None:
        """Remove a router, if it is there."""
        self._remove_node(name)

    def remove_host(self, name: str) -> None:
        """Remove a host and stop its processes, if it is there."""
        self._remove_node(name)

    def _ensure_segments(self, record: RunRecord, place: Place, segments: Sequence[Segment]) -> None:
        if record.rung is not Rung.LOOPBACK:
            existing = place.namespaces()
            build.ensure_switch(place, record.run, existing)
            build.add_bridges(place, record.run, [segment.name for segment in segments])
        record.segments.update({segment.name: segment.to_spec() for segment in segments})

    def _ensure_nodes(self, record: RunRecord, place: Place, nodes: Sequence[Host | Router]) -> None:
        for node in nodes:
            _check_segments(record, node)
        if record.rung is Rung.LOOPBACK:
            for node in nodes:
                record.nodes[node.name] = NodeRecord(_kind(node), node.to_spec(), ready=True)
            return
        existing = place.namespaces()
        fresh = [node for node in nodes if not self._update_in_place(record, place, node, existing)]
        for node in fresh:
            record.nodes[node.name] = NodeRecord(_kind(node), node.to_spec())
        state.save(record)
        build.add_spaces(place, record.run, [space for node in fresh for space in _spaces(node)], existing)
        for node in fresh:
            record.nodes[node.name].ready = True
        self._sync(record, place)

    def _update_in_place(self, record: RunRecord, place: Place, node: Host | Router, existing: set[str]) -> bool:
        """Return True where nothing is left to build; otherwise what stood in the way is cleared."""
        old = record.nodes.get(node.name)
        if old is None:
            return False
        was = _node(old)
        whole = {namespace(record.run, space.node) for space in _spaces(was)} <= existing
        if old.ready and whole and was == node:
            return True
        if old.ready and whole and _links_alike(was, node):
            old.ready = False
            old.spec = node.to_spec()
            state.save(record)
            pairs = zip(_spaces(was), _spaces(node), strict=True)
            build.reload_rules(place, record.run, [new for old_, new in pairs if old_.ruleset != new.ruleset])
            old.ready = True
            return True
        keep = old.ready and old.kind == "host" and isinstance(node, Host)
        self._clear(record, place, was, existing, namespaces=not keep)
        return False

    def _clear(
        self, record: RunRecord, place: Place, node: Host | Router, existing: set[str], *, namespaces: bool
    ) -> None:
        going = {port.id for space in _spaces(node) for port in space.ports}
        staying = {name: port for name, port in _linked_ports(record).items() if name not in going}
        shaping.release(record, place, sorted(going), staying)
        build.clear_spaces(place, record.run, _spaces(node), existing, namespaces=namespaces)

    def _remove_node(self, name: str) -> None:
        with self._session() as (record, place):
            old = record.nodes.get(name)
            if old is None:
                return
            processes = [process for process in record.processes.values() if process.host == name]
            stop_all([(process.pid, process.start_time) for process in processes], 2.0)
            for process in processes:
                del record.processes[f"{name}/{process.name}"]
            if record.rung is not Rung.LOOPBACK:
                self._clear(record, place, _node(old), place.namespaces(), namespaces=True)
            del record.nodes[name]
            self._sync(record, place)

    def _sync(self, record: RunRecord, place: Place) -> None:
        """Bring what depends on several nodes up to date: routes towards plain routers, and impaired links."""
        if record.rung is Rung.LOOPBACK:
            return
        wanted = _lab_routes(record)
        present = {name: node.routes for name, node in record.nodes.items()}
        build.sync_routes(place, record.run, wanted, present)
        for name, routes in wanted.items():
            record.nodes[name].routes = routes
        shaping.sync(record, place, _linked_ports(record))

    # -- processes ----------------------------------------------------------------------------------------------

    def exec_prefix(self, host: str) -> tuple[str, ...]:
        """Argv prefix that runs a command in a host (empty on the loopback rung)."""
        record, place = self._look()
        if host not in record.nodes:
            raise LabError(f"lab run {record.run!r} has no host {host!r} (hosts: {', '.join(record.nodes) or 'none'})")
        return () if record.rung is Rung.LOOPBACK else place.inside(namespace(record.run, host))

    def address(self, address: str) -> str:
        """Return the address under which a host's address is reached on this rung: itself, or its 127.x.y.z."""
        if self.rung is not Rung.LOOPBACK:
            return address
        ip = ipaddress.IPv4Address(address.split("/")[0])
        return str(ipaddress.IPv4Address((127 << 24) | (int(ip) & 0xFFFFFF)))

    def run(
        self, host: str, argv: Sequence[str], *, timeout_s: float = 60.0, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a host and wait for it.

        Raises:
            LabError: it failed (unless `check` is false) or took longer than the time-out.
        """
        command = [*self.exec_prefix(host), *argv]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
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
            cwd: working folder.
            log_path: gets the output, appended; default is the run's own log folder.
        """
        check_name("process", name)
        log = Path(log_path) if log_path is not None else state.run_dir(self.run_name) / "log" / f"{host}-{name}.log"
        process = ProcessRecord(host, name, list(argv), dict(env or {}), cwd, str(log.absolute()))
        with self._session() as (record, _):
            old = record.processes.get(f"{host}/{name}")
            if old is not None:
                stop_all([(old.pid, old.start_time)], 5.0)
            record.processes[f"{host}/{name}"] = process
            return self._launch(process)

    def _launch(self, process: ProcessRecord) -> ProcessInfo:
        argv = [*self.exec_prefix(process.host), *process.argv]
        info = launch(argv, env=process.env, cwd=process.cwd, log_path=Path(process.log_path))
        process.pid, process.start_time = info.pid, info.start_time
        return info


def _usable(record: RunRecord) -> bool:
    if record.boot_id != state.boot_id():
        return False
    return record.rung is not Rung.ROOTLESS or (record.holder is not None and is_alive(*record.holder))


def _place(record: RunRecord) -> Place:
    return Place(record.holder[0] if record.holder else None)


def _kind(node: Host | Router) -> str:
    return "host" if isinstance(node, Host) else "router"


def _node(record: NodeRecord) -> Host | Router:
    return _KINDS[record.kind].from_spec(record.spec)


def _spaces(node: Host | Router) -> tuple[Space, ...]:
    return host_spaces(node) if isinstance(node, Host) else router_spaces(node)


def _linked_ports(record: RunRecord) -> dict[str, Port]:
    """Every port of the run that is plugged into a segment, by id."""
    spaces = [space for node in record.nodes.values() if node.ready for space in _spaces(_node(node))]
    return {port.id: port for space in spaces for port in space.ports if port.link is not None}


def _links_alike(was: Host | Router, node: Host | Router) -> bool:
    """Whether two versions of a node differ in nothing but NAT behaviour and impairments."""
    if len(_spaces(was)) != len(_spaces(node)) or type(was) is not type(node):
        return False
    loose = ("up", "down", "nat")
    same = build.spec_without(was.to_spec(), *loose) == build.spec_without(node.to_spec(), *loose)
    both_nat = not isinstance(was, Router) or not isinstance(node, Router) or bool(was.nat) == bool(node.nat)
    return same and both_nat


def _check_segments(record: RunRecord, node: Host | Router) -> None:
    for space in _spaces(node):
        for port in space.ports:
            if port.link is not None and port.link.segment not in record.segments:
                raise LabError(f"{node.name}: segment {port.link.segment!r} is not there yet: ensure it first")


def _lab_routes(record: RunRecord) -> dict[str, list[str]]:
    """Routes that each node needs towards the LANs behind plain routers on its segments."""
    nodes = {name: _node(node) for name, node in record.nodes.items()}
    plain = [node for node in nodes.values() if isinstance(node, Router) and not node.nat]
    routes: dict[str, list[str]] = {}
    for name, node in nodes.items():
        segments = {link.segment for link in (node.links if isinstance(node, Host) else (node.outside,))}
        routes[name] = [
            f"{link.network} via {router.outside.ip}"
            for router in plain
            if router.name != name and router.outside.segment in segments
            for link in router.inside
        ]
    return routes
