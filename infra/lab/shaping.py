"""Putting impairments on links, by netem where the kernel has it, else by the shaper process (infra/lab/shaper.py).

plain      host eth0 == veth == port -> bridge
netem      the same, with a netem qdisc on eth0 (up) and on the port (down)
shaper     host eth0 == veth == port | shaper | trunk == veth == plug -> bridge
"""

import json
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from infra.lab import state
from infra.lab.errors import LabError
from infra.lab.netns import Place
from infra.lab.plan import Port, bridge_name, namespace, switch_namespace
from infra.lab.process import is_alive, launch, stop_all, wait_gone
from infra.lab.state import RunRecord
from infra.lab.topology import Impairment, Link

_START_TIMEOUT_S = 10.0
_FULL_FRAME_BYTES = 1514
# One segment per packet: netem would delay or lose 64 KiB at a time otherwise.
_NETEM_ON = "ip link set dev {device} gso_max_segs 1\ntc qdisc replace dev {device} root netem {words}"
_NETEM_OFF = "tc qdisc del dev {device} root 2> /dev/null || true\nip link set dev {device} gso_max_segs 65535"


def netem_arguments(impairment: Impairment) -> list[str]:
    """Return the words after `netem` for one direction (tc-netem(8))."""
    words = ["limit", str(_netem_limit(impairment))]
    delay_ms = impairment.delay_ms
    if impairment.reorder and not delay_ms:
        delay_ms = 1.0  # without a delay there is nothing to overtake, and tc refuses
    if delay_ms or impairment.jitter_ms:
        words += ["delay", f"{delay_ms:g}ms"]
        words += [f"{impairment.jitter_ms:g}ms"] if impairment.jitter_ms else []
    if impairment.loss_burst > 1:
        # Gilbert's model: into the state that loses all, and out of it.
        leave = 1 / impairment.loss_burst
        enter = impairment.loss * leave / (1 - impairment.loss)
        words += ["loss", "gemodel", f"{enter * 100:g}%", f"{leave * 100:g}%"]
    for name, share in (
        ("loss", impairment.loss if impairment.loss_burst == 1 else 0.0),
        ("duplicate", impairment.duplicate),
        ("reorder", impairment.reorder),
    ):
        words += [name, f"{share * 100:g}%"] if share else []
    words += ["rate", f"{impairment.rate_bps}bit"] if impairment.rate_bps else []
    return words


def _netem_limit(impairment: Impairment) -> int:
    if impairment.rate_bps is None:
        return impairment.queue_packets
    # netem has one queue for the bottleneck and the path: what the buffer holds, and what is under way.
    queued_s = (impairment.buffer_ms + impairment.delay_ms + impairment.jitter_ms) / 1000
    return max(2, min(impairment.queue_packets, int(queued_s * impairment.rate_bps / 8 / _FULL_FRAME_BYTES) + 1))


def sync(record: RunRecord, place: Place, ports: Mapping[str, Port]) -> None:
    """Bring all links of a run to their impairments.

    Args:
        record: the run; its `shaped` says which links are not plain, and how.
        place: where its namespaces are.
        ports: every port of the run that has a link, by id.
    """
    wanted = {name: port for name, port in ports.items() if port.link is not None and port.link.impaired}
    if not wanted and not record.shaped:
        return
    ways = _ways(place, record.run, wanted)
    release(record, place, [name for name, way in record.shaped.items() if ways.get(name) != way], ports)
    _apply_netem(record, place, [port for name, port in wanted.items() if ways[name] == "netem"])
    through = [port for name, port in wanted.items() if ways[name] == "shaper"]
    _add_trunks(record, place, [port for port in through if port.id not in record.shaped])
    record.shaped |= ways
    state.save(record)
    if through:
        _carry(record, place, through)
    elif record.shaper is not None:
        stop_all([record.shaper], 1.0)
        record.shaper = None


def _carry(record: RunRecord, place: Place, ports: Sequence[Port]) -> None:
    orders = {"links": [_order(record.run, port) for port in ports]}
    _start(record, place)
    try:
        ask(record.run, orders)
    except LabError:
        assert record.shaper is not None
        if wait_gone([record.shaper], 0.5):
            raise
        # It died under our hands; a new one has nothing to remember.
        _start(record, place)
        ask(record.run, orders)


def release(record: RunRecord, place: Place, names: Sequence[str], ports: Mapping[str, Port]) -> None:
    """Make links plain again; ports that are about to go are left out of `ports` and only forgotten."""
    gone = {name: record.shaped.pop(name) for name in names if name in record.shaped}
    if not gone:
        return
    if "shaper" in gone.values() and record.shaper is not None and is_alive(*record.shaper):
        kept = [ports[name] for name, way in record.shaped.items() if way == "shaper" and name in ports]
        ask(record.run, {"links": [_order(record.run, port) for port in kept]})
    scripts: dict[str, list[str]] = {switch_namespace(record.run): []}
    switch = scripts[switch_namespace(record.run)]
    for name, way in gone.items():
        port = ports.get(name)
        if way == "shaper":
            switch.append(f"ip link del t{name} 2> /dev/null || true")
            if port is not None and port.link is not None:
                switch.append(f"ip link set {port.switch_end} master {bridge_name(port.link.segment)}")
        elif port is not None:
            switch.append(_NETEM_OFF.format(device=port.switch_end))
            scripts.setdefault(namespace(record.run, port.node), []).append(_NETEM_OFF.format(device=port.ifname))
    place.scripts({name: "\n".join(lines) for name, lines in scripts.items()})


def _link(port: Port) -> Link:
    assert port.link is not None, f"{port.node} {port.ifname} is plugged into no segment"
    return port.link


def _ways(place: Place, run: str, wanted: Mapping[str, Port]) -> dict[str, str]:
    """Which means each link gets: beyond netem are a path MTU black hole, and damage that a checksum does not tell."""
    netem = bool(wanted) and os.environ.get("ZTNA_LAB_SHAPER", "auto") != "shaper" and has_netem(place, run)

    def beyond(port: Port) -> bool:
        return any(way.mtu_bytes or way.corrupt for way in (_link(port).up, _link(port).down))

    return {name: "netem" if netem and not beyond(port) else "shaper" for name, port in wanted.items()}


def has_netem(place: Place, run: str) -> bool:
    """Whether the kernel takes a netem qdisc, by trying one."""
    probe = "tc qdisc replace dev lo root netem delay 1ms && tc qdisc del dev lo root"
    try:
        place.run([*place.quick(switch_namespace(run)), "sh", "-c", probe])
    except LabError:
        return False
    return True


def _apply_netem(record: RunRecord, place: Place, ports: Sequence[Port]) -> None:
    scripts: dict[str, list[str]] = {}
    for port in ports:
        link = _link(port)
        ends = (
            (namespace(record.run, port.node), port.ifname, link.up),
            (switch_namespace(record.run), port.switch_end, link.down),
        )
        for name, device, impairment in ends:
            words = " ".join(netem_arguments(impairment))
            scripts.setdefault(name, []).append(_NETEM_ON.format(device=device, words=words))
    place.scripts({name: "\n".join(lines) for name, lines in scripts.items()})


def _add_trunks(record: RunRecord, place: Place, ports: Sequence[Port]) -> None:
    lines = []
    for port in ports:
        link, trunk, plug = _link(port), f"t{port.id}", f"u{port.id}"
        lines += [
            f"link set {port.switch_end} nomaster",
            # One is left where an earlier attempt failed half-way.
            f"link del {trunk} 2> /dev/null || true",
            f"link add {trunk} mtu {link.mtu} type veth peer name {plug} mtu {link.mtu}",
            f"link set {trunk} up",
            f"link set {plug} master {bridge_name(link.segment)} up",
        ]
    if lines:
        place.scripts({switch_namespace(record.run): "\n".join(f"ip {line}" for line in lines)})


def _order(run: str, port: Port) -> dict[str, Any]:
    link = _link(port)
    return {
        "id": port.id,
        "port": port.switch_end,
        "trunk": f"t{port.id}",
        "offloads": [[namespace(run, port.node), port.ifname], [None, f"u{port.id}"]],
        "mtu": link.mtu,
        "up": link.up.to_spec(),
        "down": link.down.to_spec(),
    }


def _socket_path(run: str) -> Path:
    return state.run_dir(run) / "shaper.sock"


def _start(record: RunRecord, place: Place) -> None:
    if record.shaper is not None and is_alive(*record.shaper):
        return
    path = _socket_path(record.run)
    path.unlink(missing_ok=True)
    inside = [*place.prefix, *place.quick(switch_namespace(record.run))]
    argv = [*inside, sys.executable, "-m", "infra.lab.shaper", str(path)]
    log = state.run_dir(record.run) / "log" / "shaper.log"
    root = str(Path(__file__).resolve().parents[2])
    info = launch(argv, env={"PYTHONPATH": root}, cwd=None, log_path=log, run_dir=state.run_dir(record.run))
    record.shaper = (info.pid, info.start_time)
    state.save(record)
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not _answers(path):
        if not is_alive(*record.shaper) or time.monotonic() > deadline:
            raise LabError(f"the link shaper does not answer; its log {log} ends: {log.read_text()[-300:]}")
        time.sleep(0.005)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        return client.connect_ex(str(path)) == 0


def ask(run: str, order: dict[str, Any]) -> dict[str, Any]:
    """Send one order to the shaper of a run and return its answer.

    Raises:
        LabError: it does not answer, or answers with an error.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(10.0)
        try:
            client.connect(str(_socket_path(run)))
            client.sendall(json.dumps(order).encode() + b"\n")
            with client.makefile("rb") as file:
                answer: dict[str, Any] = json.loads(file.readline())
        except (OSError, ValueError) as error:
            raise LabError(f"the link shaper of run {run!r} does not answer: {error}") from error
    if "error" in answer:
        raise LabError(f"the link shaper of run {run!r} refused: {answer['error']}")
    return answer
