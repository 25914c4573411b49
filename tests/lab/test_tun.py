"""The TUN device against the real kernel, each test in a namespace of its own."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from tests.support.netns import in_new_namespace
from ztna.io.tun import ANSWERS_RARE, TunDevice, TunError, open_device, tun_available
from ztna.proto import packet as ip

pytestmark = [pytest.mark.lab, pytest.mark.tun]

AGENT, SERVICE = "100.64.1.1", "100.64.0.100"


def links() -> set[str]:
    with IPRoute() as netlink:
        return {str(link.get_attr("IFLA_IFNAME")) for link in netlink.get_links()}


def routes(device: str) -> set[str]:
    with IPRoute() as netlink:
        index = netlink.link_lookup(ifname=device)
        dump = netlink.get_routes(oif=index[0], table=254) if index else []
        return {f"{route.get_attr('RTA_DST')}/{route['dst_len']}" for route in dump}


def with_device(body: Callable[[TunDevice], None]) -> None:
    def run() -> None:
        device = TunDevice("tt%d", AGENT, [SERVICE], 1200)
        try:
            body(device)
        finally:
            device.close()

    in_new_namespace(run)


def test_only_service_addresses_are_routed_and_nothing_remains() -> None:
    def body() -> None:
        before = links()
        device = TunDevice("tt%d", AGENT, [SERVICE, "100.64.0.101"], 1200)
        assert routes(device.name) == {f"{SERVICE}/32", "100.64.0.101/32"}
        device.close()
        device.close()
        assert links() == before

    in_new_namespace(body)


def test_packets_of_the_kernel_are_read_in_one_batch_and_answers_reach_the_socket() -> None:
    def body(device: TunDevice) -> None:
        async def exchange() -> None:
            loop = asyncio.get_running_loop()
            arrived: asyncio.Queue[list[bytes]] = asyncio.Queue()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                for number in range(5):
                    sock.sendto(bytes([number]) * 10, (SERVICE, 9999))
                device.start(loop, lambda: arrived.put_nowait(device.read_batch()))
                batch = await asyncio.wait_for(arrived.get(), 5)
                assert len(batch) == 5
                parsed = ip.parse_ipv4(batch[4])
                assert parsed is not None
                assert (ip.address_text(parsed.source), ip.address_text(parsed.destination)) == (AGENT, SERVICE)
                port = sock.getsockname()[1]
                assert device.write(ip.build_udp(parsed.destination, 9999, parsed.source, port, b"answer"))
                assert await asyncio.wait_for(loop.sock_recvfrom(sock, 100), 5) == (b"answer", (SERVICE, 9999))

        asyncio.run(exchange())
        assert device.counters.read_packets == 5
        assert device.counters.written_packets == 1

    with_device(body)


def test_paused_device_leaves_packets_in_the_kernel() -> None:
    def body(device: TunDevice) -> None:
        async def exchange() -> None:
            loop = asyncio.get_running_loop()
            arrived: asyncio.Queue[list[bytes]] = asyncio.Queue()
            device.start(loop, lambda: arrived.put_nowait(device.read_batch()))
            device.pause()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.sendto(b"x", (SERVICE, 9999))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(arrived.get(), 0.1)
            device.resume()
            assert len(await asyncio.wait_for(arrived.get(), 5)) == 1

        asyncio.run(exchange())

    with_device(body)


def test_batch_is_bounded() -> None:
    def body(device: TunDevice) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for _ in range(100):
                sock.sendto(b"x", (SERVICE, 9999))
        assert len(device.read_batch(64)) == 64
        assert len(device.read_batch(64)) == 36
        assert device.read_batch(64) == []

    with_device(body)


def test_packets_that_are_not_ipv4_are_dropped_and_counted() -> None:
    def body(device: TunDevice) -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"\x60" + bytes(47), (device.name, 0x86DD))
        assert device.read_batch() == []
        assert device.counters.dropped_not_ipv4 == 1

    with_device(body)


def test_mtu_follows_and_the_kernel_obeys_it() -> None:
    def body(device: TunDevice) -> None:
        assert device.set_mtu(1000)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(bytes(1100), (SERVICE, 9999))
            batch = device.read_batch()
            assert [len(packet) <= 1000 for packet in batch] == [True, True]
        assert device.set_mtu(1300)
        assert not device.set_mtu(1 << 20)
        assert device.mtu_bytes == 1300

    with_device(body)


def test_packet_the_kernel_refuses_is_counted() -> None:
    def body(device: TunDevice) -> None:
        assert not device.write(b"\x99junk")
        assert device.counters.dropped_write_error == 1

    with_device(body)


def test_second_agent_with_the_same_service_is_told_about_the_route() -> None:
    def body(device: TunDevice) -> None:
        with pytest.raises(TunError, match=r"route to 100\.64\.0\.100/32 exists already"):
            TunDevice("tt%d", "100.64.1.2", [SERVICE], 1200)
        assert links() == {"lo", device.name}

    with_device(body)


def test_name_in_use_names_the_key() -> None:
    def body(device: TunDevice) -> None:
        with pytest.raises(TunError, match=r"tun\.name"):
            open_device(device.name)

    with_device(body)


@pytest.mark.parametrize("name", ["", "a-name-of-16-byte"])
def test_bad_name_is_refused(name: str) -> None:
    with pytest.raises(TunError, match=r"tun\.name"):
        open_device(name)


def test_availability_probe_leaves_nothing() -> None:
    def body() -> None:
        assert tun_available() is None
        assert links() == {"lo"}

    in_new_namespace(body)


def test_kill_9_leaves_no_device_and_the_next_start_works() -> None:
    code = (
        "import time; from ztna.io.tun import TunDevice; "
        f"TunDevice('ttkill', '{AGENT}', ['{SERVICE}'], 1200); print('up', flush=True); time.sleep(60)"
    )

    def body() -> None:
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        )
        assert process.stdout is not None
        with process, process.stdout:
            assert process.stdout.readline() == "up\n"
            assert "ttkill" in links()
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        assert "ttkill" not in links()
        device = TunDevice("ttkill", AGENT, [SERVICE], 1200)
        device.close()

    in_new_namespace(body)


@pytest.mark.parametrize(
    ("offload", "unfinished"),
    [((True, True), False), ((True, True), True), ((True, False), False), ((False, True), False)],
    ids=["both", "both, checksums left to the far kernel", "near", "far"],
)
def test_connections_cross_two_devices_in_super_segments(offload: tuple[bool, bool], unfinished: bool) -> None:
    """Two namespaces with a device each, and a wire between them that carries 48 packets at a time."""
    near = in_new_namespace(lambda: place(AGENT, SERVICE, offload[0]))
    far = in_new_namespace(lambda: place(SERVICE, AGENT, offload[1]))
    if unfinished:
        near[0].unfinished = far[0].unfinished = frozenset(map(socket.inet_aton, (AGENT, SERVICE)))

    async def exchange() -> None:
        loop = asyncio.get_running_loop()
        wire(loop, near[0], far[0])
        wire(loop, far[0], near[0])
        far[1].bind((SERVICE, 80))
        far[1].listen()
        accepting = asyncio.create_task(loop.sock_accept(far[1]))
        await asyncio.wait_for(loop.sock_connect(near[1], (SERVICE, 80)), 5)
        accepted, _ = await accepting
        for sender, receiver in ((near[1], accepted), (accepted, near[1])):
            data = os.urandom(3 << 20)
            sending = asyncio.create_task(loop.sock_sendall(sender, data))
            got = bytearray()
            while len(got) < len(data):
                got += await asyncio.wait_for(loop.sock_recv(receiver, 1 << 20), 5)
            await sending
            assert got == data
        far[2].bind((SERVICE, 53))
        near[2].connect((SERVICE, 53))
        for size in (1, 64, 1272):
            sent = [bytes([number]) * size for number in range(80)]
            for each in sent:
                near[2].send(each)
            assert [await asyncio.wait_for(loop.sock_recv(far[2], 2000), 5) for _ in sent] == sent
        near[2].setsockopt(socket.IPPROTO_UDP, 103, 1000)  # UDP_SEGMENT
        near[2].send(b"s" * 30_500)
        got_sizes = [len(await asyncio.wait_for(loop.sock_recv(far[2], 2000), 5)) for _ in range(31)]
        assert got_sizes == [1000] * 30 + [500]
        accepted.close()

    try:
        asyncio.run(exchange())
        for device in (near[0], far[0]):
            counters = device.counters
            assert counters.dropped_malformed == counters.dropped_write_error == 0
            if unfinished:
                assert counters.read_packets > 2 * counters.read_calls
            if device.offload:
                assert counters.written_packets > 2 * counters.write_calls
    finally:
        for device, *sockets in (near, far):
            device.close()
            for each in sockets:
                each.close()


def wire(loop: asyncio.AbstractEventLoop, from_device: TunDevice, to_device: TunDevice) -> None:
    """Carry what one device reads to the other."""

    def readable() -> None:
        to_device.write_batch(from_device.read_batch(48))

    from_device.start(loop, readable)


def place(address: str, peer: str, offload: bool) -> tuple[TunDevice, socket.socket, socket.socket]:
    """A device, a TCP and a UDP socket in this thread's namespace."""
    device = TunDevice("tt%d", address, [peer], 1300, offload=offload)
    sockets = (socket.socket(socket.AF_INET, kind) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM))
    tcp, udp = sockets
    tcp.setblocking(False)
    udp.setblocking(False)
    return device, tcp, udp


def test_what_the_kernel_answers_at_once_is_there_to_be_read() -> None:
    def body(device: TunDevice) -> None:
        peer, own = (int.from_bytes(socket.inet_aton(address), "big") for address in (SERVICE, AGENT))
        ask = ip.build_ipv4(ip.ICMP, peer, own, b"\x08\x00\xf7\xfd\x00\x01\x00\x01")
        silent = ip.build_ipv4(ip.ICMP, peer, own, b"\x00\x00\xff\xfd\x00\x01\x00\x01")
        assert device.read_answers(64) == []
        for _ in range(2):
            assert device.write(ask)
            assert [packet[20] for packet in device.read_answers(64)] == [0]
        # An answer itself gets none; after that the device is not asked each time.
        assert device.write(silent)
        assert device.read_answers(64) == []
        assert device.write(ask)
        assert device.read_answers(64) == []
        assert len(device.read_batch()) == 1
        for _ in range(ANSWERS_RARE - 1):
            assert device.write(silent)
            assert device.read_answers(64) == []
        assert device.write(ask)
        assert len(device.read_answers(64)) == 1

    with_device(body)
