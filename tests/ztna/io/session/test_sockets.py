import asyncio
import ipaddress

import pytest

from tests.support.overlay import HOST, eventually
from ztna.io.session.sockets import (
    BATCH_PACKETS,
    FIRST_EXTRA,
    IPV4,
    IPV6,
    UDP_BATCH_PACKETS,
    SessionSockets,
    has_ipv6,
    interface_addresses,
)
from ztna.io.udp import Run, UdpSocket
from ztna.proto.packet import TCP, UDP, build_ipv4
from ztna.proto.paths.stun_types import Endpoint


async def test_a_batch_tells_the_socket_that_it_came_by() -> None:
    got: list[tuple[int, list[Run]]] = []
    sockets = SessionSockets(
        asyncio.get_running_loop(), lambda index, batch: got.append((index, batch)), bind_addr=HOST
    )
    extra = sockets.open_extra(2)
    assert [index for index, _ in extra] == [FIRST_EXTRA, FIRST_EXTRA + 1]
    sockets.send(FIRST_EXTRA, b"ping", Endpoint(HOST, sockets.port()))
    await eventually(lambda: got)
    assert got == [(IPV4, [((HOST, sockets.port(FIRST_EXTRA)), [b"ping"])])]
    sockets.close_extra([FIRST_EXTRA, IPV4])
    assert sockets.port(FIRST_EXTRA + 1)
    sockets.send(FIRST_EXTRA, b"nowhere", Endpoint(HOST, 9))
    assert sockets.port(IPV4), "the session's own sockets are no extra ones"
    sockets.close()


async def test_a_definite_address_is_the_only_host_candidate() -> None:
    sockets = SessionSockets(asyncio.get_running_loop(), lambda *_: None, bind_addr=HOST)
    assert sockets.hosts() == [(IPV4, Endpoint(HOST, sockets.port()))]
    sockets.close()


async def test_host_candidates_are_addresses_of_this_host_that_others_may_reach() -> None:
    sockets = SessionSockets(asyncio.get_running_loop(), lambda *_: None)
    for index, endpoint in sockets.hosts():
        address = ipaddress.ip_address(endpoint.host)
        assert not (address.is_loopback)
        assert not (address.is_link_local)
        assert not (address.is_unspecified)
        assert address.version == (6 if index == IPV6 else 4)
        assert endpoint.port == sockets.port(index)
    sockets.close()


@pytest.mark.parametrize("wildcard", ["0.0.0.0", "::"])
async def test_the_wildcard_of_either_family_opens_both(wildcard: str) -> None:
    sockets = SessionSockets(asyncio.get_running_loop(), lambda *_: None, bind_addr=wildcard)
    assert sockets.local_address(IPV4).startswith("0.0.0.0:")
    assert sockets.local_address(IPV6).startswith("[::]:") is has_ipv6()
    sockets.close()


@pytest.mark.parametrize("ipv6", [False, True])
def test_interfaces_without_a_link_layer_address_are_left_out(ipv6: bool) -> None:
    assert "127.0.0.1" not in interface_addresses(ipv6)
    assert "::1" not in interface_addresses(ipv6)


async def test_batches_are_smaller_while_udp_arrives() -> None:
    sockets = SessionSockets(asyncio.get_running_loop(), lambda *_: None, bind_addr=HOST)
    shared = UdpSocket(HOST, 0)
    sockets.share(FIRST_EXTRA, shared)
    before = shared.batch_packets
    sizes = []
    for protocol in (TCP, UDP, UDP, TCP):
        sockets.arrived(build_ipv4(protocol, 1, 2, b"data"))
        sizes.append(sockets._sockets[IPV4].batch_packets)
    assert sizes == [BATCH_PACKETS, UDP_BATCH_PACKETS, UDP_BATCH_PACKETS, BATCH_PACKETS]
    sockets.arrived(b"no packet")
    assert shared.batch_packets == before
    sockets.close()
    shared.close()
