"""Path MTU towards a relay whose link carries less than 1500 bytes."""

import asyncio
import time

import pytest
from pyroute2 import IPRoute

from tests.support.netns import in_new_namespace
from ztna.io.path_mtu import measure_path_mtu
from ztna.io.stun import StunResponder
from ztna.io.udp import Datagram, UdpSocket

pytestmark = pytest.mark.lab


async def measured() -> int | None:
    loop = asyncio.get_running_loop()
    udp = UdpSocket("127.0.0.1", 0)
    responder = StunResponder(udp, alternate_port=None, clock=time.monotonic)

    def on_batch(batch: list[Datagram]) -> None:
        for data, source in batch:
            responder.handle(data, source)

    udp.start(loop, on_batch)
    responder.start(loop)
    try:
        return await measure_path_mtu(udp.local_address)
    finally:
        udp.close()


@pytest.mark.parametrize(("mtu", "found"), [(65536, 1500), (1500, 1500), (1400, 1400), (1281, 1280), (575, None)])
def test_path_mtu_is_found_to_four_bytes(mtu: int, found: int | None) -> None:
    def body() -> int | None:
        with IPRoute() as netlink:
            netlink.link("set", index=netlink.link_lookup(ifname="lo")[0], mtu=mtu)
        return asyncio.run(measured())

    assert in_new_namespace(body) == found
