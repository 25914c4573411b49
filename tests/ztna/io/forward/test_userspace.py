"""What only user space has: sockets beside the main one, joined sends, worker processes."""

import asyncio
import os
import signal
import subprocess
import time

import pytest

from tests.support.relay_rig import HOSTS, Rig
from tests.ztna.io.forward.bed import Relay, packet, run_on
from ztna.io.forward.types import PairCounters
from ztna.io.forward.userspace import UserspaceForwarder
from ztna.io.forward.workers import WorkerForwarder
from ztna.proto.paths.stun_types import Endpoint

pytestmark = pytest.mark.lab


def test_a_worker_that_dies_is_replaced_and_goes_on(rig: Rig) -> None:
    async def body(relay: Relay) -> None:
        left, right = rig.socket("left"), rig.socket("right")
        relay.pair(left, right)
        left.send(packet(1))
        assert len(await right.receive()) == 1
        await relay.counted(1, 100, 0, 0)
        assert isinstance(relay.forwarder, WorkerForwarder)
        before = relay.forwarder.pids
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        for _ in range(200):
            if not set(relay.forwarder.pids) & set(before):
                break
            await asyncio.sleep(0.01)
        left.send(packet(2))
        assert len(await right.receive()) == 1
        assert await relay.counted(2, 200, 0, 0) == PairCounters(2, 200, 0, 0)
        assert relay.forwarder.tick() is None

    run_on(rig, "workers", body)


def set_mtu(size: int) -> None:
    subprocess.run(["ip", "link", "set", "right", "mtu", str(size)], check=True)


def test_a_large_segment_falls_back_to_single_sends(rig: Rig) -> None:
    """UDP_SEGMENT of more than the device carries is EINVAL; each packet alone is then too big, and counted so."""

    async def body(relay: Relay) -> None:
        left, right = rig.socket("left"), rig.socket("right")
        relay.pair(left, right)
        set_mtu(1300)
        try:
            left.send_joined([packet(number, 1400) for number in range(5)])
            small = [packet(number, 1200) for number in range(5)]
            left.send_joined(small)
            assert await right.receive(5) == small
            assert relay.forwarder.drops() == {"too_big": 5}
        finally:
            set_mtu(1500)

    run_on(rig, "userspace", body)


def test_what_others_send_while_a_socket_is_opened_is_not_lost(rig: Rig) -> None:
    async def body(relay: Relay) -> None:
        assert isinstance(relay.forwarder, UserspaceForwarder)
        stranger = rig.socket("left")
        stop = asyncio.Event()
        sent = 0

        def flood() -> int:
            count = 0
            while not stop.is_set():
                stranger.send(packet(count))
                count += 1
                time.sleep(0.0002)
            return count

        flooding = asyncio.create_task(asyncio.to_thread(flood))
        for number in range(100):
            name = number.to_bytes(16, "big")
            relay.forwarder.install(
                name, Endpoint(HOSTS["left"][0], 20000 + number), Endpoint(HOSTS["right"][0], 20000 + number)
            )
            await asyncio.sleep(0.001)
        stop.set()
        sent = await flooding
        await relay.came_locally(sent)
        assert len(relay.local) == sent

    run_on(rig, "userspace", body)
