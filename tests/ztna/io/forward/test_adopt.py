"""A planned restart of the kernel's back end: pairs go on without a process, and the next one takes them over."""

import time
from collections.abc import Callable
from itertools import count

import pytest

from tests.support.relay_rig import PORT, Peer, Rig
from tests.ztna.io.forward.bed import SESSION, Relay, left_behind, nft, packet
from ztna.io.forward.choose import choose
from ztna.io.forward.kernel import KernelForwarder
from ztna.proto.paths.stun_types import Endpoint

pytestmark = pytest.mark.lab
numbers = count()


class Clock:
    """Monotonic seconds that can be advanced."""

    def __init__(self) -> None:
        self.more = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.more


def relay(clock: Callable[[], float] = time.monotonic) -> KernelForwarder:
    return KernelForwarder("0.0.0.0", PORT, clock=clock)


def passes(left: Peer, right: Peer) -> bool:
    """Whether a packet arrives; the relay's loop need not run for it."""
    sent = packet(next(numbers))
    left.send(sent)
    for _ in range(100):
        try:
            return right.sock.recv(2000) == sent
        except BlockingIOError:
            time.sleep(0.005)
    return False


def install(forwarder: KernelForwarder, left: Peer, right: Peer, session: bytes = SESSION) -> None:
    forwarder.install(session, Endpoint(*left.address), Endpoint(*right.address))


@pytest.mark.parametrize("v6", [False, True])
def test_no_packet_is_lost_from_one_process_to_the_next(rig: Rig, v6: bool) -> None:
    left, right = rig.socket("left", v6=v6), rig.socket("right", v6=v6)

    def body() -> None:
        first = KernelForwarder("::", PORT, clock=time.monotonic)
        install(first, left, right)
        assert passes(left, right)
        first.close(leave=True)
        assert passes(left, right), "nobody is there"
        assert passes(right, left)
        second = KernelForwarder("::", PORT, clock=time.monotonic)
        assert passes(left, right), "taken over, and not claimed yet"
        assert second.counters() == {}
        install(second, left, right)
        assert passes(left, right)
        assert passes(right, left)
        assert second.counters()[SESSION].packets == 2
        second.close()

    rig.relay.run(body)
    assert rig.relay.run(left_behind) == []


def test_a_change_of_the_process_is_one_transaction(rig: Rig) -> None:
    left, right = rig.socket("left"), rig.socket("right")

    def body() -> None:
        forwarder = relay()
        install(forwarder, left, right)
        sent = 0
        for _ in range(5):
            forwarder.close(leave=True)
            for _ in range(200):
                left.send(packet(sent))
                sent += 1
            forwarder = relay()
        got = 0
        while True:
            try:
                right.sock.recv(2000)
                got += 1
            except BlockingIOError:
                break
        assert got == sent
        forwarder.close()

    rig.relay.run(body)


def test_what_nobody_claims_ends_after_30_s(rig: Rig) -> None:
    left, right, other = rig.socket("left"), rig.socket("right"), rig.socket("right")
    clock = Clock()

    def body() -> None:
        first = relay()
        install(first, left, right)
        install(first, rig.socket("left"), other, b"2" * 16)
        first.close(leave=True)
        second = relay(clock)
        install(second, left, right)
        clock.more += 29
        assert second.tick() is None
        assert len(second._orphans) == 2
        clock.more += 2
        assert second.tick() is None
        assert len(second._orphans) == 0
        assert second._sets.elements("host4").keys() == {second._pairs[SESSION].key_a, second._pairs[SESSION].key_b}
        assert passes(left, right), "what was claimed goes on"
        second.close()

    rig.relay.run(body)


def test_a_claim_of_one_side_ends_the_way_back_of_the_other(rig: Rig) -> None:
    left, right, moved = rig.socket("left"), rig.socket("right"), rig.socket("right")

    def body() -> None:
        first = relay()
        install(first, left, right)
        first.close(leave=True)
        second = relay()
        install(second, left, moved)
        assert passes(left, moved)
        assert not passes(right, left), "its address is no longer proved"
        second.close()

    rig.relay.run(body)


def test_a_dead_table_is_not_taken_over(rig: Rig) -> None:
    """Whoever did not renew in time forwards nothing, and neither does who comes after."""
    left, right = rig.socket("left"), rig.socket("right")

    def body() -> None:
        first = relay()
        install(first, left, right)
        first.close(leave=True)
        nft(f"delete element inet ztna_relay_{PORT} alive {{ {PORT} }}")
        assert not passes(left, right)
        second = relay()
        assert len(second._orphans) == 0
        assert not passes(left, right)
        second.close()

    rig.relay.run(body)
    assert rig.relay.run(left_behind) == []


def test_without_pairs_nothing_is_left(rig: Rig) -> None:
    rig.relay.run(lambda: relay().close(leave=True))
    assert rig.relay.run(left_behind) == []


@pytest.mark.parametrize("leave", [True, False], ids=["planned", "killed"])
def test_no_number_of_restarts_lengthens_it_without_a_claim(rig: Rig, leave: bool) -> None:
    left, right = rig.socket("left"), rig.socket("right")
    clock = Clock()

    def body() -> None:
        now = relay(clock)
        install(now, left, right)
        for _ in range(3):
            if leave:
                now.close(leave=True)
            else:
                now._sets.close()
            now = relay(clock)
            assert passes(left, right)
            clock.more += 9
        clock.more += 4
        now._sets.close()
        now = relay(clock)
        assert not passes(left, right)
        now.close()

    rig.relay.run(body)


def test_user_space_takes_nothing_over_and_clears_up(rig: Rig) -> None:
    left, right = rig.socket("left"), rig.socket("right")

    async def body() -> None:
        first = relay()
        install(first, left, right)
        first.close(leave=True)
        second = Relay("userspace")
        chosen = choose("userspace", second.place, lambda reason: None)
        assert chosen is not None
        chosen.close()
        second.close()

    rig.in_relay(body)
    assert rig.relay.run(left_behind) == []
