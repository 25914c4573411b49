"""The agent in TUN mode: the kernel's own sockets use the services, each test in a namespace of its own."""

import asyncio
import errno
import os
import socket
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.netns import in_new_namespace
from tests.support.overlay import AGENT_IP, ECHO, ECHO_IP, ECHO_PORT, HTTP_IP, HTTP_PORT, Overlay, eventually
from ztna.io.tun import TunDevice

pytestmark = [pytest.mark.lab, pytest.mark.tun]

IP_MTU_DISCOVER, PMTUDISC_DO, IP_MTU, IP_RECVERR = 10, 2, 14, 11
MTU = {"v1": 1308 - 2 - len(ECHO), "auto": 1422}
"""What DATAGRAM frames to the relay take, and those of a session."""


def with_tun(
    tmp_path: Path, body: Callable[[Overlay, TunDevice], Awaitable[None]], *, mtu: int = 1144, **options: Any
) -> None:
    """Run the three roles and `body` in a new namespace; the device must be gone afterwards."""

    async def run(device: TunDevice) -> None:
        async with Overlay(tmp_path, device=device, **options) as overlay:
            await body(overlay, device)

    def inside() -> None:
        device = TunDevice("tt%d", AGENT_IP, [ECHO_IP, HTTP_IP], mtu)
        asyncio.run(run(device))
        assert [name for _, name in socket.if_nameindex()] == ["lo"]

    in_new_namespace(inside)


def udp_socket() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sock.connect((ECHO_IP, ECHO_PORT))
    return sock


async def exchange(sock: socket.socket, data: bytes) -> bytes:
    sock.send(data)
    return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 65535), 5)


async def ping(*options: str) -> str:
    process = await asyncio.create_subprocess_exec("ping", "-n", *options, stdout=subprocess.PIPE)
    output, _ = await asyncio.wait_for(process.communicate(), 20)
    return output.decode()


def test_udp_echo_at_every_size(tmp_path: Path) -> None:
    async def body(overlay: Overlay, device: TunDevice) -> None:
        with udp_socket() as sock:
            for size in (0, 1, 64, 512, 1115, 1117, 1200, 1400, 9000):
                data = os.urandom(size)
                assert await exchange(sock, data) == data

    with_tun(tmp_path, body)


def test_tcp_of_the_kernel_carries_two_megabytes_each_way(tmp_path: Path) -> None:
    async def body(overlay: Overlay, device: TunDevice) -> None:
        reader, writer = await asyncio.open_connection(ECHO_IP, ECHO_PORT)
        data = os.urandom(2 << 20)

        async def send() -> None:
            writer.write(data)
            await writer.drain()
            writer.write_eof()

        sending = asyncio.create_task(send())
        assert await asyncio.wait_for(reader.read(-1), 30) == data
        await sending
        writer.close()
        await writer.wait_closed()
        assert device.counters.dropped_write_full == 0

    with_tun(tmp_path, body)


def test_ping_is_answered_for_a_backend_that_is_up(tmp_path: Path) -> None:
    async def body(overlay: Overlay, device: TunDevice) -> None:
        output = await ping("-c", "3", "-i", "0.2", ECHO_IP)
        assert "3 received" in output

    with_tun(tmp_path, body)


def test_ping_of_a_backend_that_is_gone_is_unreachable(tmp_path: Path) -> None:
    services = [{"id": ECHO, "virtual_ip": ECHO_IP, "backend": "10.99.99.99:9"}]
    agent_services = [{"id": ECHO, "virtual_ip": ECHO_IP}]

    async def body(overlay: Overlay, device: TunDevice) -> None:
        output = await ping("-c", "1", "-W", "5", ECHO_IP)
        assert "Destination Host Unreachable" in output
        with udp_socket() as sock:
            # Without this the kernel takes "host unreachable" for a passing trouble and does not tell (ip(7)).
            sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
            sock.send(b"x")
            await eventually(lambda: sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.EHOSTUNREACH)

    with_tun(tmp_path, body, connector={"services": services}, agent={"services": agent_services})


def test_ports_that_are_not_admitted_are_refused_at_once(tmp_path: Path) -> None:
    async def body(overlay: Overlay, device: TunDevice) -> None:
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(HTTP_IP, HTTP_PORT + 1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            sock.connect((HTTP_IP, HTTP_PORT))
            sock.send(b"x")
            await eventually(lambda: sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED)

    with_tun(tmp_path, body)


@pytest.mark.parametrize("protocol", MTU)
def test_mtu_follows_the_datagram_limit(tmp_path: Path, protocol: str) -> None:
    async def body(overlay: Overlay, device: TunDevice) -> None:
        await eventually(lambda: device.mtu_bytes == MTU[protocol])
        status = overlay.agent.status()
        assert (status["mode"], status["mtu_bytes"]) == ("tun", MTU[protocol])

    with_tun(tmp_path, body, agent={"protocol": protocol})


@pytest.mark.parametrize("protocol", MTU)
def test_packets_over_the_limit_are_answered_by_icmp(tmp_path: Path, protocol: str) -> None:
    limit = MTU[protocol]

    async def body(overlay: Overlay, device: TunDevice) -> None:
        await eventually(lambda: overlay.agent.max_packet_bytes == limit)
        with udp_socket() as sock:
            sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_DO)
            sock.send(bytes(1460))
            await eventually(lambda: sock.getsockopt(socket.IPPROTO_IP, IP_MTU) == limit)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.EMSGSIZE
            with pytest.raises(OSError, match="too long"):
                sock.send(bytes(1460))
            assert await exchange(sock, bytes(limit - 28)) == bytes(limit - 28)
        sessions = overlay.agent.sessions
        by_session = 0 if sessions is None else sessions.counters.dropped_oversize
        assert overlay.agent.control.stats.drop_oversize + by_session == 1
        assert device.mtu_bytes == 1500

    with_tun(tmp_path, body, mtu=1500, agent={"protocol": protocol, "tun": {"name": "tt0", "mtu": 1500}})


def test_only_service_addresses_go_through_the_device(tmp_path: Path) -> None:
    async def body(overlay: Overlay, device: TunDevice) -> None:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
            pytest.raises(OSError, match="unreachable"),
        ):
            sock.sendto(b"x", ("100.64.0.102", 9999))

    with_tun(tmp_path, body)


def test_flood_fills_the_kernels_queue_and_traffic_goes_on_after_it(tmp_path: Path) -> None:
    async def body(overlay: Overlay, device: TunDevice) -> None:
        with udp_socket() as flood, udp_socket() as sock:
            for _ in range(20_000):
                flood.send(bytes(1100))
            await eventually(lambda: device.counters.read_packets > 64)
            data = os.urandom(100)

            async def came_back() -> bool:
                try:
                    return await asyncio.wait_for(exchange(sock, data), 0.2) == data
                except TimeoutError:
                    return False

            for _ in range(50):
                if await came_back():
                    break
            else:
                raise AssertionError("nothing comes back after the flood")
        peer = overlay.agent.uplink.peer
        assert peer is not None
        assert peer.stats.dropped_queue_full == 0

    with_tun(tmp_path, body)
