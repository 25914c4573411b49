"""Every back end does the same: forwards between proven pairs what is QUIC, and nothing else, and leaves nothing."""

import socket
import subprocess

import pytest

from tests.support.relay_rig import PORT, Rig
from tests.ztna.io.forward.bed import SESSION, STUN, Relay, Run, packet
from ztna.io.forward.types import ForwardError, PairCounters

pytestmark = pytest.mark.lab


def test_both_ways_and_every_size_arrive_unchanged(rig: Rig, run: Run) -> None:
    async def body(relay: Relay) -> None:
        left, right = rig.socket("left"), rig.socket("right")
        relay.pair(left, right)
        for one, other in ((left, right), (right, left)):
            for start in range(1, 1473, 64):
                packets = [packet(size, size) for size in range(start, min(start + 64, 1473))]
                one.send(*packets)
                assert await other.receive(len(packets)) == packets
        assert relay.local == []
        total = sum(range(1, 1473))
        assert await relay.counted(1472, total, 1472, total) == PairCounters(1472, total, 1472, total)

    run(body)


def test_joined_batches_arrive_whole_and_in_order(rig: Rig, run: Run) -> None:
    async def body(relay: Relay) -> None:
        left, right = rig.socket("left"), rig.socket("right")
        relay.pair(left, right)
        for size, count, last in ((1200, 50, 1200), (1200, 40, 7), (100, 64, 100), (1, 10, 1), (1472, 44, 1000)):
            packets = [packet(number, size) for number in range(count - 1)] + [packet(count, last)]
            left.send_joined(packets)
            right.send_joined(packets)
            assert await right.receive(count) == packets
            assert await left.receive(count) == packets
        total = 50 * 1200 + 39 * 1200 + 7 + 6400 + 10 + 43 * 1472 + 1000
        seen = await relay.counted_bytes(total)
        assert (seen.a_bytes, seen.b_bytes) == (total, total)

    run(body)


def test_sizes_mixed_in_one_burst_keep_their_order(rig: Rig, run: Run) -> None:
    async def body(relay: Relay) -> None:
        left, right = rig.socket("left"), rig.socket("right")
        relay.pair(left, right)
        packets = [packet(number, 1 + number * 37 % 1400 if number % 5 else 1200) for number in range(200)]
        left.send(*packets)
        assert await right.receive(200) == packets

    run(body)


def test_only_the_proven_pair_is_forwarded(rig: Rig, run: Run) -> None:
    async def body(relay: Relay) -> None:
        left, right = rig.socket("left"), rig.socket("right")
        stranger, other_port = rig.socket("right"), rig.socket("left")
        relay.pair(left, right)
        stranger.send(packet(1))
        other_port.send(packet(2))
        assert len(await relay.came_locally(2)) == 2
        assert {data[:5] for data, _ in relay.local} == {packet(1)[:5], packet(2)[:5]}
        assert {source for _, source in relay.local} == {stranger.address, other_port.address}
        for quiet in (left, right, stranger, other_port):
            assert await quiet.silence(0.05)
        assert relay.forwarder.counters()[SESSION] == PairCounters()

    run(body)


def test_stun_stays_also_amid_a_burst(rig: Rig, run: Run) -> None:
    async def body(relay: Relay) -> None:
        left, right = rig.socket("left"), rig.socket("right")
        relay.pair(left, right)
        first, second = packet(1, 20), packet(2, 20)
        left.send(first, STUN, b"\x03", b"\x3f" * 20, second)
        assert await right.receive(2) == [first, second]
        assert await relay.came_locally(3) == [STUN, b"\x03", b"\x3f" * 20]
        assert {source for _, source in relay.local} == {left.address}
        assert await right.silence()
        assert await relay.counted(2, 40, 0, 0) == PairCounters(2, 40, 0, 0)

    run(body)


def test_removal_stops_at_once(rig: Rig, run: Run) -> None:
    async def body(relay: Relay) -> None:
        left, right = rig.socket("left"), rig.socket("right")
        relay.pair(left, right)
        left.send(packet(1))
        assert len(await right.receive()) == 1
        relay.forwarder.remove(SESSION)
        left.send(packet(2))
        right.send(packet(3))
        assert await right.silence()
        assert await left.silence()
        assert SESSION not in relay.forwarder.counters()
        relay.forwarder.remove(SESSION)
        relay.local.clear()
        left.send(packet(4))
        assert [data[:5] for data in await relay.came_locally(1)] == [packet(4)[:5]]

    run(body)


def test_a_new_endpoint_replaces_the_old_one_and_counting_goes_on(rig: Rig, run: Run) -> None:
    async def body(relay: Relay) -> None:
        left, right, moved = rig.socket("left"), rig.socket("right"), rig.socket("left")
        relay.pair(left, right)
        left.send(packet(1))
        assert len(await right.receive()) == 1
        await relay.counted(1, 100, 0, 0)
        relay.pair(moved, right)
        relay.pair(moved, right)
        left.send(packet(2))
        assert await right.silence()
        moved.send(packet(3))
        assert [data[:5] for data in await right.receive()] == [packet(3)[:5]]
        right.send(packet(4), packet(5))
        assert len(await moved.receive(2)) == 2
        assert await left.silence()
        assert await relay.counted(2, 200, 2, 200) == PairCounters(2, 200, 2, 200)

    run(body)


def test_five_hundred_pairs(rig: Rig, run: Run) -> None:
    async def body(relay: Relay) -> None:
        pairs = [(rig.socket("left"), rig.socket("right")) for _ in range(500)]
        names = [number.to_bytes(16, "big") for number in range(500)]
        for name, (left, right) in zip(names, pairs, strict=True):
            relay.pair(left, right, name)
        for number, (left, right) in enumerate(pairs):
            left.send(packet(number, 60))
            right.send(packet(number, 61))
        for number, (left, right) in enumerate(pairs):
            assert [data[:5] for data in await right.receive()] == [packet(number, 60)[:5]]
            assert [len(data) for data in await left.receive()] == [61]
        await relay.counted(1, 60, 1, 61, session=names[-1])
        await relay.counted(1, 60, 1, 61, session=names[-2])  # of another worker
        assert relay.forwarder.counters() == dict.fromkeys(names, PairCounters(1, 60, 1, 61))
        for name in names[::2]:
            relay.forwarder.remove(name)
        assert set(relay.forwarder.counters()) == set(names[1::2])
        for left, right in pairs:
            left.sock.close()
            right.sock.close()

    run(body)


def test_ipv6(rig: Rig, run: Run) -> None:
    async def body(relay: Relay) -> None:
        left, right = rig.socket("left", v6=True), rig.socket("right", v6=True)
        relay.pair(left, right)
        packets = [packet(number, 1200) for number in range(20)]
        left.send(*packets)
        assert await right.receive(20) == packets
        right.send_joined(packets)
        assert await left.receive(20) == packets
        left.send(STUN)
        assert await relay.came_locally(1) == [STUN]
        seen = await relay.counted_bytes(24000)
        assert (seen.a_packets, seen.a_bytes, seen.b_bytes) == (20, 24000, 24000)

    run(body, "::")


def test_ipv4_through_a_socket_for_both_families(rig: Rig, run: Run) -> None:
    async def body(relay: Relay) -> None:
        left, right = rig.socket("left"), rig.socket("right")
        relay.pair(left, right)
        one = packet(1)
        left.send(one)
        assert await right.receive() == [one]

    run(body, "::")


ANCHOR = "10.77.1.9"
ANCHORED = (f"addr add {ANCHOR}/24 dev left", f"route add 10.77.1.0/24 dev left src {ANCHOR} table 4433",
            f"rule add ipproto udp sport {PORT} lookup 4433")  # fmt: skip
UNANCHORED = (
    "route flush table 4433",
    f"rule del ipproto udp sport {PORT} lookup 4433",
    f"addr del {ANCHOR}/24 dev left",
)


def ip(*commands: str) -> None:
    for command in commands:
        subprocess.run(["ip", *command.split()], check=True)


def test_a_side_is_spoken_to_from_the_address_that_rules_give_the_port(rig: Rig, run: Run) -> None:
    """A droplet with a reserved address is reached, and must answer, by a second address of its interface."""

    async def body(relay: Relay) -> None:
        left, right = rig.socket("left"), rig.socket("right")
        left.relay = (ANCHOR, PORT)
        ip(*ANCHORED)
        try:
            relay.pair(left, right)
            one, other = packet(1), packet(2)
            left.send(one)
            assert await right.receive() == [one]
            right.send(other)
            assert await left.receive() == [other]
            assert relay.local == []
        finally:
            ip(*UNANCHORED)

    run(body)


def test_a_family_the_socket_does_not_have_is_refused(rig: Rig, run: Run) -> None:
    async def body(relay: Relay) -> None:
        left, right = rig.socket("left", v6=True), rig.socket("right", v6=True)
        with pytest.raises(ForwardError, match="IPv6"):
            relay.pair(left, right)
        assert relay.forwarder.counters() == {}

    run(body)


def test_nobody_else_can_take_the_port(rig: Rig, run: Run) -> None:
    async def body(relay: Relay) -> None:
        relay.pair(rig.socket("left"), rig.socket("right"))
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as thief:
                thief.setsockopt(socket.SOL_SOCKET, option, 1)
                with pytest.raises(OSError, match="in use"):
                    thief.bind(("10.77.1.1", PORT))

    run(body)


def test_joined_batches_of_small_packets_amid_large_ones_stay_apart(rig: Rig, run: Run) -> None:
    async def body(relay: Relay) -> None:
        left, right = rig.socket("left"), rig.socket("right")
        relay.pair(left, right)
        sent: list[bytes] = []
        for number in range(20):
            large, small, last = packet(number, 1200), [packet(part, 100) for part in range(3)], packet(number, 40)
            left.send(large)
            left.send_joined(small)
            left.send(last)
            sent += [large, *small, last]
        assert await right.receive(len(sent)) == sent

    run(body)
