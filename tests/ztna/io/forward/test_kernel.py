"""What only the kernel back end has: no process in the way, forwarding as it was, and what a dead relay left."""

import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from tests.support.relay_rig import PORT, Rig
from tests.ztna.io.forward.bed import SWITCHES, Relay, left_behind, nft, packet, run_on
from ztna.io.forward.choose import choose
from ztna.io.forward.kernel import KernelForwarder
from ztna.io.forward.types import ForwardError

pytestmark = pytest.mark.lab


def test_the_kernel_forwards_without_this_process(rig: Rig) -> None:
    async def body(relay: Relay) -> None:
        left, right = rig.socket("left"), rig.socket("right")
        relay.pair(left, right)
        sent = [packet(number, 1200) for number in range(200)]
        left.send(*sent)  # the loop does not run in between
        assert [right.sock.recv(2000) for _ in range(200)] == sent

    run_on(rig, "kernel", body)


def test_no_redirects_no_forwarding_of_others(rig: Rig) -> None:
    """While the relay forwards, its host is no router: a host that uses it as gateway reaches nobody."""

    async def body(relay: Relay) -> None:
        left, right = rig.socket("left"), rig.socket("right")
        relay.pair(left, right)
        subprocess_in(rig, "left", ["ip", "route", "add", "10.77.2.0/24", "via", "10.77.1.1"])
        subprocess_in(rig, "right", ["ip", "route", "add", "10.77.1.0/24", "via", "10.77.2.1"])
        left.sock.sendto(packet(1), right.address)
        assert await right.silence()

    run_on(rig, "kernel", body)


def subprocess_in(rig: Rig, host: str, argv: list[str]) -> None:
    rig.host(host).run(lambda: subprocess.run(argv, check=True))


def test_a_relay_that_was_killed_is_cleared_up_by_the_next(rig: Rig) -> None:
    program = (
        "import time\n"
        "from ztna.io.forward.kernel import KernelForwarder\n"
        "from ztna.proto.paths.stun_types import Endpoint\n"
        "forwarder = KernelForwarder('0.0.0.0', 4499, clock=time.monotonic)\n"
        "forwarder.install(b's' * 16, Endpoint('10.77.1.2', 1), Endpoint('10.77.2.2', 2))\n"
        "print('up', flush=True); time.sleep(60)\n"
    )

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        return process

    for mode in ("userspace", "kernel", "off"):
        process = rig.relay.run(start)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        assert len(rig.relay.run(left_behind)) == 2

        async def body(mode: Any = mode) -> None:
            relay = Relay("userspace")
            chosen = choose(mode, relay.place, lambda reason: None)
            if chosen is not None:
                assert chosen.name == mode
                chosen.close()
            relay.close()

        rig.in_relay(body)
        assert rig.relay.run(left_behind) == []


def test_two_relays_of_one_host_leave_forwarding_on_for_each_other(rig: Rig) -> None:
    def body() -> None:
        first = KernelForwarder("0.0.0.0", 4498, clock=time.monotonic)
        second = KernelForwarder("10.77.1.1", 4499, clock=time.monotonic)
        first.close()
        with open(SWITCHES[0]) as file:
            assert file.read() == "1\n"
        second.close()

    rig.relay.run(body)
    assert rig.relay.run(left_behind) == []


def test_a_policy_of_drop_is_seen_before(rig: Rig) -> None:
    def body() -> None:
        nft("table inet wall { chain f { type filter hook forward priority 0; policy drop; }; }")
        with pytest.raises(ForwardError, match="inet wall f"):
            KernelForwarder("0.0.0.0", PORT, clock=time.monotonic)
        nft("delete table inet wall")

    rig.relay.run(body)


def test_without_renewal_the_kernel_stops(rig: Rig) -> None:
    """A process that hangs does not renew; here the time-out is brought about, not waited for."""

    async def body(relay: Relay) -> None:
        left, right = rig.socket("left"), rig.socket("right")
        relay.pair(left, right)
        nft(f"delete element inet ztna_relay_{PORT} alive {{ {PORT} }}")
        left.send(packet(1))
        assert await right.silence()
        assert isinstance(relay.forwarder, KernelForwarder)
        relay.forwarder._renewed_at -= 60
        assert relay.forwarder.tick() is None
        left.send(packet(2))
        assert len(await right.receive()) == 1

    run_on(rig, "kernel", body)


def test_loopback_is_user_space_alone() -> None:
    with pytest.raises(ForwardError, match="loopback"):
        KernelForwarder("127.0.0.1", PORT, clock=time.monotonic)


def test_a_policy_of_drop_may_let_our_mark_through(rig: Rig) -> None:
    async def body(relay: Relay) -> None:
        nft(
            "table inet wall { chain f {",
            "type filter hook forward priority 0; policy drop;",
            "meta mark & 0xff000000 == 0x5a000000 accept;",
            "}; }",
        )
        forwarder = choose("auto", relay.place, lambda reason: None)
        assert forwarder is not None
        relay.forwarder = forwarder
        left, right = rig.socket("left"), rig.socket("right")
        relay.pair(left, right)
        left.send(packet(1))
        assert len(await right.receive()) == 1
        assert forwarder.name == "kernel"
        nft("delete table inet wall")

    run_on(rig, "userspace", body)
