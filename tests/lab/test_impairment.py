"""What each impairment does to packets on a link, and that they are otherwise left alone, also under load."""

import hashlib
import itertools
import os
import re
import statistics
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from infra.lab.runtime import Lab
from infra.lab.topology import Host, Impairment, Link, Segment, Topology
from tests.lab.probe import Probe

pytestmark = pytest.mark.lab

NEAR, FAR = "172.20.0.2", "172.20.0.3"
PLAIN = Impairment()
_SEND_BULK = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as sock:
    sock.sendall(bytes(range(251)) * int(sys.argv[3]))
"""


class Wire:
    """Two hosts on a segment; the near one's link can be impaired."""

    def __init__(self, lab: Lab, stack: ExitStack) -> None:
        self.lab = lab
        hosts = (Host("near", (Link("lan", f"{NEAR}/24"),)), Host("far", (Link("lan", f"{FAR}/24"),)))
        lab.realise(Topology(segments=(Segment("lan", "172.20.0.0/24"),), hosts=hosts))
        self.near, self.far = (stack.enter_context(Probe(lab.exec_prefix(name))) for name in ("near", "far"))
        self.near_port, self.far_port = self.near.open(), self.far.open()

    def set(self, up: Impairment = PLAIN, down: Impairment = PLAIN) -> None:
        """Impair the near host's link."""
        self.lab.ensure_host(Host("near", (Link("lan", f"{NEAR}/24", up=up, down=down),)))

    def up(self, count: int, per_second: int = 5000, size_bytes: int = 100) -> list[int]:
        """Send numbered datagrams from near to far and return what came."""
        self.near.flood(self.near_port, (FAR, self.far_port), count, per_second=per_second, size_bytes=size_bytes)
        return self.far.drain(self.far_port)

    def down(self, count: int) -> list[int]:
        """The same from far to near."""
        self.far.flood(self.far_port, (NEAR, self.near_port), count, per_second=5000)
        return self.near.drain(self.near_port)

    def rtts_ms(self, count: int = 20) -> list[float]:
        """Round-trip times by ping, without the first (which waits for ARP)."""
        done = self.lab.run("near", ["ping", "-c", str(count + 1), "-i", "0.02", FAR])
        return [float(text) for text in re.findall(r"time=([\d.]+) ms", done.stdout)][1:]


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    with Lab(f"test-wire-{os.getpid()}") as lab, ExitStack() as stack:
        yield Wire(lab, stack)


def test_delay_of_each_direction_adds_up(wire: Wire) -> None:
    wire.set()
    assert statistics.median(wire.rtts_ms()) < 3
    wire.set(up=Impairment(delay_ms=20), down=Impairment(delay_ms=5))
    rtts = wire.rtts_ms()
    assert min(rtts) >= 25
    assert statistics.median(rtts) < 32


def test_jitter_spreads_around_the_delay(wire: Wire) -> None:
    wire.set(up=Impairment(delay_ms=20, jitter_ms=10))
    rtts = wire.rtts_ms(60)
    assert min(rtts) >= 10
    assert statistics.quantiles(rtts, n=10)[-1] < 40
    assert statistics.pstdev(rtts) > 3


def test_loss_strikes_one_direction_only(wire: Wire) -> None:
    wire.set(up=Impairment(loss=0.1))
    arrived = wire.up(5000)
    assert 4350 <= len(arrived) <= 4650  # five standard deviations around 4500
    assert arrived == sorted(set(arrived))
    assert wire.down(2000) == list(range(2000))


def test_duplicates_come_beside_their_originals(wire: Wire) -> None:
    wire.set(up=Impairment(duplicate=0.1))
    arrived = wire.up(5000)
    assert sorted(set(arrived)) == list(range(5000))
    assert 5350 <= len(arrived) <= 5650


def test_reordered_packets_overtake(wire: Wire) -> None:
    wire.set(up=Impairment(delay_ms=10, reorder=0.1))
    arrived = wire.up(2000)
    assert sorted(arrived) == list(range(2000))
    late = sum(after < before for before, after in itertools.pairwise(arrived))
    assert late > 50


def test_rate_holds_and_the_buffer_is_bounded(wire: Wire) -> None:
    wire.set(up=Impairment(rate_bps=8_000_000, buffer_ms=100))
    # 2000 frames of 1242 bytes are 2.5 s at this rate; they are offered within 0.4 s, so most meet a full buffer.
    arrived = wire.up(2000, size_bytes=1200)
    assert arrived == sorted(arrived)
    passed_s = len(arrived) * 1242 * 8 / 8e6
    assert 0.4 <= passed_s <= 0.65
    counters = wire.lab.link_statistics()["near eth0"]["up"]
    assert counters["buffer_full"] == 2000 - len(arrived)


def test_a_small_path_mtu_swallows_big_packets_silently(wire: Wire) -> None:
    wire.set(up=Impairment(mtu_bytes=1280))
    wire.near.send(wire.near_port, "x" * 1253, (FAR, wire.far_port))
    assert wire.far.receive(wire.far_port, 0.2) is None
    wire.near.send(wire.near_port, "x" * 1252, (FAR, wire.far_port))
    got = wire.far.receive(wire.far_port)
    assert got is not None
    assert len(got[0]) == 1252


def test_thousands_of_packets_a_second_pass_whole(wire: Wire) -> None:
    # How many more do is a measurement (`make bench`), not a test: a busy machine has no time for them.
    wire.set(up=Impairment(delay_ms=5), down=Impairment(delay_ms=5))
    before = wire.lab.link_statistics()["near eth0"]["up"]["delivered"]
    arrived = wire.up(15_000, per_second=5_000, size_bytes=1200)
    counters = wire.lab.link_statistics()["near eth0"]["up"]
    assert counters["delivered"] - before >= 15_000
    assert counters["ring_full"] == counters["queue_full"] == counters["refused"] == 0
    # An ordinary user's receiving socket, not the link, may drop a few at this pace.
    assert len(arrived) > 7_500
    assert arrived == sorted(set(arrived))


@pytest.mark.parametrize("loss", [0.0, 0.02])
def test_tcp_bulk_arrives_intact_although_senders_offload(wire: Wire, loss: float) -> None:
    wire.set(up=Impairment(delay_ms=2, loss=loss), down=Impairment(delay_ms=2, loss=loss))
    wire.far.listen(port := 9000 + int(loss * 100))
    blocks = 40_000 if not loss else 8_000
    wire.lab.spawn("near", "bulk", [sys.executable, "-c", _SEND_BULK, FAR, str(port), str(blocks)])
    count, digest, seconds = wire.far.collect(port)
    assert count == 251 * blocks
    assert digest == hashlib.sha256(bytes(range(251)) * blocks).hexdigest()
    if not loss:
        assert count * 8 / seconds > 50e6


def test_an_impairment_changes_and_goes_without_a_lost_packet(wire: Wire) -> None:
    wire.set(up=Impairment(delay_ms=30))
    wire.near.flood(wire.near_port, (FAR, wire.far_port), 50, per_second=5000)
    wire.set(up=Impairment(delay_ms=10))
    assert wire.far.drain(wire.far_port) == list(range(50))
    wire.set()
    assert wire.lab.link_statistics() == {}
    assert statistics.median(wire.rtts_ms()) < 3
    assert wire.up(1000) == list(range(1000))


def test_a_killed_shaper_is_brought_back_by_the_next_change(wire: Wire) -> None:
    wire.set(up=Impairment(delay_ms=10))
    shaper = wire.lab.record().shaper
    assert shaper is not None
    wire.lab.run("near", ["kill", "-9", str(shaper[0])])
    wire.set(up=Impairment(delay_ms=15))
    assert 15 <= statistics.median(wire.rtts_ms()) < 22


_TC = """#!/bin/sh
echo "$(readlink /proc/self/ns/net) $*" >> {log}
"""


def test_netem_is_used_where_the_kernel_has_it(wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # This stands for a kernel with netem: a `tc` that takes everything and notes where it was called.
    log = tmp_path / "log"
    (tmp_path / "tc").write_text(_TC.format(log=log))
    (tmp_path / "tc").chmod(0o755)
    log.touch()
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    wire.set()
    wire.set(up=Impairment(delay_ms=10), down=Impairment(loss=0.01))
    (port,) = wire.lab.record().shaped
    assert wire.lab.record().shaped == {port: "netem"}
    assert wire.lab.record().shaper is None
    inside = wire.lab.run("near", ["readlink", "/proc/self/ns/net"]).stdout.strip()
    lines = log.read_text().splitlines()
    assert f"{inside} qdisc replace dev eth0 root netem limit 20000 delay 10ms" in lines
    (down,) = [line for line in lines if line.endswith("loss 1%")]
    assert f"qdisc replace dev p{port} root netem limit 20000" in down
    assert not down.startswith(inside)
    # A black hole is beyond netem.
    wire.set(up=Impairment(delay_ms=10, mtu_bytes=1300))
    assert wire.lab.record().shaped == {port: "shaper"}
    assert f"{inside} qdisc del dev eth0 root" in log.read_text()
    assert min(wire.rtts_ms(5)) >= 10
    wire.set()
    assert wire.lab.record().shaped == {}
    assert wire.up(100) == list(range(100))
