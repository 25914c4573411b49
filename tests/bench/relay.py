"""The relay of opaque packets: packets per second, CPU and added round-trip time of both back ends and of coturn.

Sender, relay and receiver are network namespaces joined by veth, the same for all three. Every device is told to carry
single packets (gso_max_segs 1), as a NIC delivers them: joined, a batch of 16 would count as one and cost as one. The
sender's program is the same for all, tests/bench/blast.py; through coturn it sends ChannelData, which is what a TURN
client does for the cheapest path. Delivered packets are counted by the receiver's kernel as they arrive, and dropped.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from infra.verify.stats import median, percentile
from tests.bench.model import Row, limited
from tests.support.bed import CLOCK_TICKS_PER_S, ROOT
from tests.support.relay_rig import HOSTS, PORT, RELAY, Namespace, Rig, relay_rig

SIZE = 1200
_TURN_PORT = 3478
_SENDER, _RECEIVER = f"{HOSTS['left'][0]}:40000", f"{HOSTS['right'][0]}:40001"
_RATE_TARGET = 40_000.0
_ADDED_RTT_TARGET_US = 40.0
_LOSS_ALLOWED = 0.01
_COUNTER = f"""table inet sink {{
  counter arrived {{ }}
  chain arrive {{ type filter hook prerouting priority raw; udp length {SIZE + 8} counter name arrived drop; }}
}}
"""


@dataclass(slots=True)
class Relayer:
    """A relay that runs, and how it is reached."""

    name: str
    target: str
    process: subprocess.Popen[str] | None
    turn: bool = False

    def arguments(self) -> list[str]:
        """Of tests/bench/blast.py."""
        return ["--target", self.target, *(["--turn", "--peer", _RECEIVER] if self.turn else [])]

    def cpu_s(self) -> float:
        """User and system time of the process with its threads and children so far."""
        if self.process is None:
            return 0.0
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(int(value) for value in fields[11:15]) / CLOCK_TICKS_PER_S


def forwarding(*, quick: bool) -> tuple[list[Row], dict[str, Any]]:
    """Delivered packets per second at rising offered rates, and the CPU of the relay's process; rounds alternate."""
    seconds = 0.6 if quick else 1.5
    rates = (40_000, 60_000) if quick else (20_000, 40_000, 60_000, 80_000, 120_000)
    rounds = 1 if quick else 3
    seen: dict[str, list[dict[str, Any]]] = {name: [] for name in RELAYERS}
    with relay_rig() as rig:
        prepare(rig)
        for number in range(rounds + (not quick)):
            for name in RELAYERS:
                with relayer(rig, name) as running:
                    found = [one_way(rig, running, rate, seconds) for rate in rates]
                if number or quick:  # the first round warms up
                    seen[name] += found
    return rate_rows(seen), seen


def rate_rows(seen: dict[str, list[dict[str, Any]]]) -> list[Row]:
    """The rows of `forwarding`."""
    rows: list[Row] = []
    coturn = _best(seen["coturn"])
    for name, entries in seen.items():
        best = _best(entries)
        clean = [entry for entry in entries if entry["loss"] <= _LOSS_ALLOWED]
        note = f"offered {best['offered_rate']:,}, lost {best['loss']:.1%}"
        value, group = best["packets_per_s"], "Relay of opaque packets, 1200 bytes"
        if name == "coturn":
            rows.append(Row(group, "delivered by coturn", value, "packets/s", note=note))
        else:
            rows.append(
                limited(group, f"delivered, {name}", value, "packets/s", at_least=_RATE_TARGET,
                        baseline=coturn["packets_per_s"], note=note)
            )  # fmt: skip
        rows.append(
            Row(group, f"delivered with at most 1 % lost, {name}",
                max((entry["packets_per_s"] for entry in clean), default=None), "packets/s")
        )  # fmt: skip
        cpu = median([entry["relay_cpu_s_per_100k"] for entry in entries])
        if name == "kernel":
            rows.append(limited(group, "CPU of the process, kernel", cpu, "CPU s per 100,000 packets", at_most=0.01))
        else:
            rows.append(Row(group, f"CPU of the process, {name}", cpu, "CPU s per 100,000 packets"))
    return rows


def _best(entries: list[dict[str, Any]]) -> dict[str, Any]:
    return max(entries, key=lambda entry: float(entry["packets_per_s"]))


def added_round_trip(*, quick: bool) -> tuple[list[Row], dict[str, Any]]:
    """Round trip to an echo by each relay, less that by the same host as a mere router; rounds alternate."""
    rounds, count = (2, 500) if quick else (8, 1500)
    seen: dict[str, list[float]] = {name: [] for name in ("routed", *RELAYERS)}
    with relay_rig() as rig:
        prepare(rig)
        with echoing(rig):
            for number in range(rounds):
                for name in seen:
                    with relayer(rig, name) as running:
                        found = blast(rig, "rtt", running, "--count", str(count))
                    if number:
                        seen[name] += found["rtt_us"]
    routed = median(seen["routed"])
    rows = []
    for name in RELAYERS:
        group, note = "Relay of opaque packets, 1200 bytes", f"p50 {median(seen[name]):.0f} us, routed {routed:.0f} us"
        added = round(median(seen[name]) - routed, 1)
        title = f"added round trip p50, {name}"
        if name == "kernel":
            rows.append(limited(group, title, added, "us", at_most=_ADDED_RTT_TARGET_US, note=note))
        else:
            rows.append(Row(group, title, added, "us", note=note))
        rows.append(
            Row(group, f"round trip p99, {name}", percentile(seen[name], 99), "us", percentile(seen["routed"], 99))
        )
    return rows, {name: {"p50": median(values), "count": len(values)} for name, values in seen.items()}


# -- the rig --------------------------------------------------------------------------------------------------------

RELAYERS = ("kernel", "userspace", "coturn")


def prepare(rig: Rig) -> None:
    """Routes, forwarding (so that the relay's host is a router too, for comparison), single packets, the counter."""
    for side, other in (("left", "right"), ("right", "left")):
        network = RELAY[other][0].rsplit(".", 1)[0] + ".0/24"
        rig.host(side).run(lambda side=side, network=network: _prepare_host(side, network))  # type: ignore[misc]
    rig.relay.run(_prepare_relay)
    rig.right.run(lambda: subprocess.run(["nft", "-f", "-"], input=_COUNTER, text=True, check=True))


def _prepare_host(side: str, network: str) -> None:
    with IPRoute() as netlink:
        netlink.route("add", dst=network, gateway=RELAY[side][0])
        _single_packets(netlink, "eth0")


def _prepare_relay() -> None:
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    with IPRoute() as netlink:
        for name in HOSTS:
            _single_packets(netlink, name)


def _single_packets(netlink: IPRoute, name: str) -> None:
    netlink.link("set", index=netlink.link_lookup(ifname=name)[0], gso_max_segs=1)


@contextlib.contextmanager
def relayer(rig: Rig, name: str) -> Iterator[Relayer]:
    """Start a relay, and stop it after the body; "routed" starts none."""
    if name == "routed":
        yield Relayer(name, _RECEIVER, None)
        return
    target = f"{RELAY['left'][0]}:{_TURN_PORT if name == 'coturn' else PORT}"
    with contextlib.ExitStack() as stack:
        if name == "coturn":
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="ztna-coturn-"))
            process = start(rig.relay, *_coturn(directory))
            stack.callback(stop, process)
            wait_for_port(rig.relay, _TURN_PORT)
        else:
            program = (sys.executable, "-m", "tests.bench.forwarder", name, _SENDER, _RECEIVER)
            process = start(rig.relay, *program)
            stack.callback(stop, process)
            assert process.stdout is not None
            if json.loads(process.stdout.readline() or "{}").get("backend") != name:
                raise RuntimeError(f"the {name} back end did not start: {process.communicate()[1][-400:]}")
        yield Relayer(name, target, process, turn=name == "coturn")


def _coturn(directory: str) -> tuple[str, ...]:
    return (
        "turnserver", "-n", "--no-cli", "--no-tls", "--no-dtls", "--lt-cred-mech", "--user", "bench:bench",
        "--realm", "bench", "--listening-ip", RELAY["left"][0], "--relay-ip", RELAY["right"][0],
        "--listening-port", str(_TURN_PORT), "--log-file", f"{directory}/log", "--pidfile", f"{directory}/pid",
        "--userdb", f"{directory}/db", "--simple-log",
    )  # fmt: skip


@contextlib.contextmanager
def echoing(rig: Rig) -> Iterator[None]:
    """An echo at the receiver; the counter, which drops, is taken away."""
    rig.right.run(lambda: subprocess.run(["nft", "delete", "table", "inet", "sink"], check=True))
    process = start(rig.right, sys.executable, "-m", "tests.bench.blast", "echo", "--bind", _RECEIVER)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield
    finally:
        process.kill()
        process.communicate()


def start(place: Namespace, *argv: str) -> subprocess.Popen[str]:
    """A program in a namespace."""
    return place.run(
        lambda: subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
    )  # fmt: skip


def stop(process: subprocess.Popen[str]) -> None:
    """Ask a program to end by ending its standard input, then make it."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        if process.args and "turnserver" in process.args:  # type: ignore[operator]
            process.terminate()
        process.communicate("", timeout=5)
        return
    process.kill()
    process.communicate()


def wait_for_port(place: Namespace, port: int) -> None:
    """Wait until a UDP port is bound in a namespace."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if f":{port:04X} " in place.run(lambda: Path("/proc/thread-self/net/udp").read_text()):
            return
        time.sleep(0.02)
    raise RuntimeError(f"nobody bound UDP port {port} within 5 s")


def blast(rig: Rig, mode: str, running: Relayer, *arguments: str) -> dict[str, Any]:
    """Run tests/bench/blast.py at the sender and return what it printed."""
    # A TURN server keeps the allocation of a source that is gone for a while; every run needs a port of its own there.
    bind = f"{HOSTS['left'][0]}:0" if running.turn else _SENDER
    argv = (sys.executable, "-m", "tests.bench.blast", mode, "--bind", bind, "--size", str(SIZE))
    process = start(rig.left, *argv, *running.arguments(), *arguments)
    output, errors = process.communicate(timeout=120)
    if process.returncode:
        raise RuntimeError(f"the sender failed: {errors[-600:]}")
    found: dict[str, Any] = json.loads(output)
    return found


def arrived(rig: Rig) -> int:
    """Packets of the measured size that came to the receiver since the counter was made."""
    shown = rig.right.run(
        lambda: (
            subprocess.run(
                ["nft", "-j", "list", "counter", "inet", "sink", "arrived"], capture_output=True, text=True, check=True
            ).stdout
        )
    )
    return int(json.loads(shown)["nftables"][1]["counter"]["packets"])


def one_way(rig: Rig, running: Relayer, rate: float, seconds: float) -> dict[str, Any]:
    """Send at a rate; what arrived, what was lost, and what it cost the relay's process."""
    before, cpu = arrived(rig), running.cpu_s()
    sent = blast(rig, "send", running, "--rate", str(rate), "--seconds", str(seconds))
    time.sleep(0.1)
    delivered, spent = arrived(rig) - before, running.cpu_s() - cpu
    offered = sent["sent"] + sent["refused"]
    return {
        "offered_rate": rate, "sent": offered, "sent_rate": round(offered / sent["seconds"]), "delivered": delivered,
        "loss": 1 - delivered / max(offered, 1), "packets_per_s": round(delivered / sent["seconds"]),
        "relay_cpu_s": round(spent, 3), "relay_cpu_s_per_100k": round(spent * 100_000 / max(delivered, 1), 3),
    }  # fmt: skip
