"""Rows 20 to 25: junk, replays, oversize packets, slow consumers, and a relay that must not serve as a proxy."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from infra import ports
from infra.lab.nat import Filtering, NatBehavior
from infra.lab.topology import Host, Link
from infra.verify.pcap import read_pcap
from infra.verify.sessions import DIRECT, RELAY, host_of, port_of
from infra.verify.stats import percentile
from tests.lab.faults import attack
from tests.lab.faults.rig import AGENT, CONNECTOR, OUTSIDE, SERVICE, FaultBed, keep
from tests.lab.faults.rows import row
from tests.lab.matrix.witness import Witness
from tests.support.bed import rss_bytes
from tests.support.session_bed import RELAY as RELAY_HOST

pytestmark = [pytest.mark.lab, pytest.mark.matrix, pytest.mark.timeout(300)]

CONE = NatBehavior(filtering=Filtering.ENDPOINT_INDEPENDENT)
MALLORY, MALLORY_ADDRESS = "mallory", "172.20.0.66"
RELAY_ADDRESS = "172.20.0.2"


def with_mallory(rig: FaultBed) -> None:
    """A host of an attacker on the public segment."""
    rig.bed.lab.ensure_host(Host(MALLORY, (Link("public", f"{MALLORY_ADDRESS}/24"),)))


def mallory(rig: FaultBed, *words: object, timeout_s: float = 60.0) -> dict[str, Any]:
    """Run an attack of attack.py there."""
    argv = [sys.executable, "-ISs", str(Path(attack.__file__)), *map(str, words)]
    found: dict[str, Any] = json.loads(rig.bed.lab.run(MALLORY, argv, timeout_s=timeout_s).stdout)
    return found


def public_endpoint(rig: FaultBed, side: str) -> tuple[str, int]:
    """Where the world sees a side's session socket: what the other side sends to."""
    other = CONNECTOR if side == AGENT else AGENT
    record = rig.bed.session(other, side)
    assert record is not None
    host, port = host_of(record.peer_address), port_of(record.peer_address)
    assert host is not None
    assert port is not None
    return host, port


@pytest.mark.parametrize("kind", ["short", "long", "stun", "noise"])
def test_row_20_junk_is_dropped(tmp_path: Path, kind: str) -> None:
    # A full cone lets everybody reach the session's port.
    with FaultBed(tmp_path, nats=(CONE, CONE)) as rig:
        rig.wait_path(DIRECT)
        with_mallory(rig)
        targets = [public_endpoint(rig, CONNECTOR), public_endpoint(rig, AGENT), (RELAY_ADDRESS, ports.QUIC)]
        hosts = (AGENT, CONNECTOR, RELAY_HOST)
        before = {host: (rss_bytes(rig.bed.pid(host)), log_lines(rig, host)) for host in hosts}
        with rig.watching(6.0) as watched:
            sent = mallory(rig, "junk", kind, 5.0, *(f"{host}:{port}" for host, port in targets))
            seen = watched()
        after = {host: (rss_bytes(rig.bed.pid(host)), log_lines(rig, host)) for host in hosts}
        session = rig.session()
    grown = {host: after[host][0] - before[host][0] for host in hosts}
    lines = {host: after[host][1] - before[host][1] for host in hosts}
    keep(20, **{kind: {"sent": sent["sent"], "grown": grown, "lines": lines, "lost": seen.lost}})
    assert session is not None
    assert session.state == "ready"
    assert seen.lost <= 0.05 * len(seen.samples)
    assert max(grown.values()) <= row(20).limits["rss"], grown
    assert max(lines.values()) <= 6 * row(20).limits["log_lines_per_s"], lines


def log_lines(rig: FaultBed, host: str) -> int:
    path = rig.bed.directory / f"{host}-{rig.bed.role_of(host)}.log"
    return path.read_bytes().count(b"\n")


def test_row_21_junk_as_control_messages_ends_in_typed_errors(tmp_path: Path) -> None:
    with FaultBed(tmp_path) as rig:
        rig.wait_path(DIRECT)
        with_mallory(rig)
        # Of this stack, but no member: the TLS handshake passes, and what follows it is junk.
        argv = [sys.executable, "-m", "tests.lab.faults.control_junk", RELAY_ADDRESS, str(rig.bed.directory / "ca.pem")]
        done = rig.bed.lab.run(MALLORY, ["env", "-C", str(Path(__file__).parents[3]), *argv], timeout_s=120)
        found = json.loads(done.stdout)
        log = (rig.bed.directory / "relay-intermediate.log").read_text()
        answered = rig.bed.echoes(AGENT, [SERVICE], count=20)[SERVICE]["answered"]
    keep(21, junk=found)
    assert found["connections"] >= 20
    assert "Traceback" not in log
    assert answered == 20


@pytest.mark.parametrize("path", [DIRECT, RELAY])
def test_row_22_oversize_payloads_leave_the_next_one_alone(tmp_path: Path, path: str) -> None:
    with FaultBed(tmp_path, config={"direct": "off"} if path == RELAY else {}) as rig:
        rig.wait_path(path)
        results = {}
        for size in (1201, 1472, 2000, 9000, 65507):
            rig.bed.echoes(AGENT, [SERVICE], count=3, size=size, wait_s=0.3)
            after = rig.bed.echoes(AGENT, [SERVICE], count=20, size=200)[SERVICE]
            results[size] = after["answered"]
    keep(22, **{path: results})
    assert all(answered == 20 for answered in results.values()), results


def test_row_23_replayed_packets_have_no_second_effect(tmp_path: Path) -> None:
    with FaultBed(tmp_path, nats=(CONE, CONE)) as rig:
        rig.wait_path(DIRECT)
        with_mallory(rig)
        before = rig.session()
        capture = tmp_path / "session.pcap"
        with rig.watching(9.0) as watched:
            record_packets(rig, capture, 2.0)
            packets = [packet for packet in read_pcap(capture.read_bytes()) if packet.target == OUTSIDE[CONNECTOR]]
            replayed = mallory(rig, "replay", capture, OUTSIDE[CONNECTOR], timeout_s=60)
            seen = watched()
        after = rig.session()
        there = rig.bed.session(CONNECTOR, AGENT)
    keep(23, captured=len(packets), replayed=replayed["sent"], twice=seen.twice, lost=seen.lost)
    assert replayed["sent"] >= 50
    assert seen.twice == row(23).limits["twice"]
    assert before is not None
    assert after is not None
    assert there is not None
    assert (after.path, after.peer_address, after.switches) == (DIRECT, before.peer_address, before.switches)
    assert there.peer_host == OUTSIDE[AGENT]


def record_packets(rig: FaultBed, path: Path, seconds: float) -> None:
    """Whole packets outside the agent's NAT for a while."""
    argv = [*rig.bed.lab.exec_prefix(f"nat-{AGENT}"), "timeout", str(seconds), "tcpdump", "-i", "wan", "-n", "-U"]
    argv += ["--immediate-mode", "-s", "0", "-w", str(path), "udp"]
    subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False, timeout=seconds + 20)


def test_row_24_a_client_that_stops_reading_slows_nobody(tmp_path: Path) -> None:
    with FaultBed(tmp_path) as rig:
        rig.wait_path(DIRECT)

        def p99() -> float:
            with rig.watching(5.0) as watched:
                seen = watched()
            return percentile([rtt for _, rtt in seen.samples if rtt is not None], 99)

        quiet = p99()
        before = {host: rss_bytes(rig.bed.pid(host)) for host in (AGENT, CONNECTOR)}
        stuck = subprocess.Popen(
            [*rig.bed.lab.exec_prefix(AGENT), sys.executable, "-ISs", attack.__file__, "stuck",
             f"127.0.0.1:{rig.bed.port(SERVICE, 'tcp')}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert stuck.stdout is not None
            written = json.loads(stuck.stdout.readline())["written"]
            busy = p99()
            grown = {host: rss_bytes(rig.bed.pid(host)) - before[host] for host in before}
        finally:
            stuck.communicate("", timeout=10)
    keep(24, quiet_p99_ms=quiet, busy_p99_ms=busy, written=written, grown=grown)
    assert busy <= max(row(24).limits["p99"] * quiet, quiet + 5), (quiet, busy)
    assert max(grown.values()) <= row(24).limits["held"], grown


def test_row_25_the_relay_forwards_for_nobody_unproven(tmp_path: Path) -> None:
    with FaultBed(tmp_path, config={"direct": "off"}) as rig:
        rig.wait_path(RELAY)
        with_mallory(rig)
        witness = Witness(rig.bed.lab)
        state = rig.bed.relay_state()
        (session,) = state.sessions
        found = mallory(rig, "proxy", f"{RELAY_ADDRESS}:{ports.QUIC}", session.session)
        time.sleep(0.5)
        reading = witness.read()
        refused = rig.bed.insides[AGENT].ask("connects", port=rig.bed.port(SERVICE, "tcp"), wait_s=3.0)
        later = rig.bed.relay_state().session(session.session)
    assert found["sent"] > 0
    # Nothing goes anywhere but back to whoever asked, and the session keeps its two proven ends.
    reached = {flow.target for flow in reading.bytes_by_flow if flow.source == MALLORY_ADDRESS}
    assert reached == {RELAY_ADDRESS}
    assert later is not None
    assert (later.agent_address, later.connector_address) == (session.agent_address, session.connector_address)
    forwarded = sum(
        count
        for flow, count in reading.bytes_by_flow.items()
        if flow.source == RELAY_ADDRESS and flow.target not in {MALLORY_ADDRESS, *OUTSIDE.values()}
    )
    keep(25, forwarded=forwarded, attempts=found["sent"])
    assert forwarded == row(25).limits["forwarded"]
    assert refused == "works"


def test_row_25_services_are_named_and_their_ports_admitted(tmp_path: Path) -> None:
    with FaultBed(tmp_path) as rig:
        rig.wait_path(DIRECT)
        config = json.loads(rig.bed.config_path(AGENT).read_text())
        closed = [22, ports.METRICS["connector"], 4433]
        forwards = [
            {"protocol": "tcp", "listen": f"127.0.0.1:{30_000 + port}", "service": SERVICE, "port": port}
            for port in closed
        ]
        rig.bed.stop(AGENT)
        rig.bed.change_config(AGENT, forwards=[*config["forwards"], *forwards])
        rig.bed.start_all([AGENT])
        rig.wait_path(DIRECT)
        ask: Callable[[int], str] = lambda port: str(  # noqa: E731
            rig.bed.insides[AGENT].ask("connects", port=30_000 + port, wait_s=3.0)
        )
        with ThreadPoolExecutor(len(closed)) as pool:
            found = dict(zip(closed, pool.map(ask, closed), strict=True))
    keep(25, closed_ports=found)
    assert "works" not in found.values(), found
