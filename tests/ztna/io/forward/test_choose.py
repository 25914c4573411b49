"""Which back end is chosen, and when another takes over."""

import asyncio

import pytest

from tests.support.relay_rig import PORT, Rig
from tests.ztna.io.forward.bed import Relay, nft, packet, run_on
from ztna.io.forward.choose import Place, choose

pytestmark = pytest.mark.lab


def test_a_firewall_that_drops_makes_user_space_take_over(rig: Rig) -> None:
    async def body(relay: Relay) -> None:
        now = [0.0]
        relay.place = Place(
            host="0.0.0.0", port=PORT, main_fd=relay.main.fileno(), on_local=relay.on_local,
            loop=asyncio.get_running_loop(), clock=lambda: now[0],
        )  # fmt: skip
        reasons: list[str] = []
        forwarder = choose("auto", relay.place, reasons.append)
        assert forwarder is not None
        assert (forwarder.name, reasons) == ("kernel", [])
        relay.forwarder = forwarder
        left, right = rig.socket("left"), rig.socket("right")
        relay.pair(left, right)
        nft("table inet wall { chain f { type filter hook forward priority 0; drop; }; }")
        left.send(*[packet(number) for number in range(30)])
        assert await right.silence()
        now[0] = 6.0
        assert forwarder.tick() is None
        assert forwarder.name == "userspace"
        assert "firewall" in reasons[0]
        left.send(packet(1))
        assert len(await right.receive()) == 1
        forwarder.close()
        nft("delete table inet wall")

    run_on(rig, "userspace", body)


def test_sides_of_two_families_are_joined_in_user_space(rig: Rig) -> None:
    async def body(relay: Relay) -> None:
        forwarder = choose("kernel", relay.place, lambda reason: None)
        assert forwarder is not None
        relay.forwarder = forwarder
        left, right = rig.socket("left"), rig.socket("right", v6=True)
        relay.pair(left, right)
        one, two = packet(1), packet(2)
        left.send(one)
        right.send(two)
        assert await right.receive() == [one]
        assert await left.receive() == [two]
        relay.pair(left, rig.socket("right"))

    run_on(rig, "userspace", body, "::")
