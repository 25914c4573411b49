"""Agent in user mode, intermediate and connector together: what a user of a service sees, also when things fail."""

import asyncio
import contextlib
import hashlib
import os
import socket
from pathlib import Path
from typing import Any

import dns.asyncquery
import dns.message
import pytest

from tests.support.overlay import ECHO, ECHO_IP, HOST, HTTP, Overlay, default_policy, eventually, udp_client

RELAYED: dict[str, Any] = {"agent": {"direct": "off"}, "connector": {"direct": "off"}}
"""Everything through the relay, whatever the network allows."""


@pytest.fixture(params=["auto", "v1"], autouse=True)
def protocol(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What users see must not depend on the protocol: by sessions, and by DATAGRAM frames through the relay."""
    monkeypatch.setattr(Overlay, "protocol", request.param)
    return str(request.param)


async def stream_echo(overlay: Overlay, data: bytes, service: str = ECHO) -> bytes:
    """Send all, end our direction, read until the other side ends."""
    reader, writer = await asyncio.open_connection(*overlay.forward("tcp", service))
    writer.write(data)
    writer.write_eof()
    try:
        return await asyncio.wait_for(reader.read(-1), 20)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@pytest.mark.parametrize("size", [0, 1, 64, 1130, 1200, 1472, 8000])
async def test_udp_echo_is_equal_at_every_size(tmp_path: Path, size: int) -> None:
    async with Overlay(tmp_path) as overlay:
        with udp_client(overlay.forward("udp")) as client:
            data = os.urandom(size)
            assert await client.echo(data) == data


async def test_each_udp_client_gets_its_own_answers(tmp_path: Path) -> None:
    async with Overlay(tmp_path) as overlay:
        stack = contextlib.ExitStack()
        clients = [stack.enter_context(udp_client(overlay.forward("udp"))) for _ in range(20)]

        async def converse(number: int) -> bool:
            sent = [f"client {number} message {n}".encode() for n in range(20)]
            return [await clients[number].echo(data) for data in sent] == sent

        assert all(await asyncio.gather(*(converse(number) for number in range(20))))
        assert len(set(overlay.backends.udp_sources)) == 20
        stack.close()


async def test_tcp_carries_a_megabyte_each_way_and_half_closes(tmp_path: Path) -> None:
    async with Overlay(tmp_path) as overlay:
        data = os.urandom(1 << 20)
        answer = await stream_echo(overlay, data)
        assert hashlib.sha256(answer).digest() == hashlib.sha256(data).digest()
        await eventually(lambda: len(overlay.connector.sockets.tcp) == 0)


async def test_many_tcp_clients_at_once(tmp_path: Path) -> None:
    async with Overlay(tmp_path) as overlay:
        messages = [os.urandom(20_000) for _ in range(20)]
        assert await asyncio.gather(*(stream_echo(overlay, data) for data in messages)) == messages


async def test_a_client_that_does_not_read_holds_up_nobody_and_loses_nothing(tmp_path: Path) -> None:
    async with Overlay(tmp_path) as overlay:
        size = 6 << 20
        reader, writer = await asyncio.open_connection(*overlay.forward("tcp"), limit=1 << 16)
        sending = asyncio.create_task(send_all(writer, bytes(size)))
        with udp_client(overlay.forward("udp")) as other:
            for _ in range(20):
                assert await other.echo(b"x") == b"x"
        received = 0
        while data := await asyncio.wait_for(reader.read(1 << 16), 20):
            received += len(data)
        assert received == size
        await sending
        writer.close()
        await writer.wait_closed()


async def send_all(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()
    writer.write_eof()


async def test_refused_backend_refuses_the_client(tmp_path: Path) -> None:
    async with Overlay(tmp_path) as overlay:
        overlay.backends.close_tcp()
        with pytest.raises(ConnectionResetError):
            await stream_echo(overlay, b"hello")


async def test_port_that_is_not_admitted_is_refused(tmp_path: Path) -> None:
    async with Overlay(tmp_path) as overlay:
        with pytest.raises(ConnectionResetError):
            await stream_echo(overlay, b"hello", HTTP)
        with udp_client(overlay.forward("udp", HTTP)) as client:
            client.send(b"hello")
            await eventually(lambda: overlay.user.counters.udp_unreachable == 1)
        assert overlay.refused_ports() == 2


async def test_udp_backend_gone_is_told_and_back_is_used_again(tmp_path: Path) -> None:
    async with Overlay(tmp_path) as overlay:
        with udp_client(overlay.forward("udp")) as client:
            assert await client.echo(b"before") == b"before"
            overlay.backends.close_udp()
            await asyncio.sleep(0)
            client.send(b"lost")
            await eventually(lambda: overlay.user.counters.udp_unreachable >= 1)
            overlay.backends.open_udp()
            assert await client.echo(b"after") == b"after"


async def test_relay_killed_and_restarted_carries_traffic_again_within_five_seconds(tmp_path: Path) -> None:
    async with Overlay(tmp_path, **RELAYED) as overlay:
        with udp_client(overlay.forward("udp")) as client:
            assert await client.works(5)
            await overlay.crash_relay()
            started = asyncio.get_running_loop().time()
            await overlay.start_relay()
            while not await client.works():
                assert asyncio.get_running_loop().time() - started < 5
            assert overlay.agent.uplink.counters.lost_silent == 1
            assert overlay.connector.uplink.counters.lost_silent == 1


async def test_relay_back_after_long_is_found_at_once_and_not_when_the_wait_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ztna.proto.backoff.Backoff.next_delay_s", lambda self, now: 30.0)
    async with Overlay(tmp_path, **RELAYED) as overlay:
        with udp_client(overlay.forward("udp")) as client:
            assert await client.works(5)
            await overlay.crash_relay()
            client.send(b"lost")
            uplinks = (overlay.agent.uplink, overlay.connector.uplink)
            await eventually(lambda: all(uplink.counters.stun_probes > 8 for uplink in uplinks))
            await overlay.start_relay()
            started = asyncio.get_running_loop().time()
            while not await client.works():
                assert asyncio.get_running_loop().time() - started < 15


async def test_relay_that_says_goodbye_is_found_again(tmp_path: Path) -> None:
    async with Overlay(tmp_path) as overlay:
        with udp_client(overlay.forward("udp")) as client:
            assert await client.works(5)
            await overlay.relay.stop()
            assert overlay.agent.not_ready() == "not connected to the relay: server shutting down"
            await overlay.start_relay()
            await eventually(lambda: overlay.agent.not_ready() is None and overlay.connector.not_ready() is None, 20)
            assert await client.works(5)


async def test_connector_that_stops_in_order_is_gone_at_once(tmp_path: Path) -> None:
    async with Overlay(tmp_path) as overlay:
        with udp_client(overlay.forward("udp")) as client:
            assert await client.works(5)
            await overlay.connector.close()
            await eventually(lambda: overlay.relay.status()["connections"] == 1, 10)
            await overlay.start_connector()
            await eventually(lambda: overlay.connector.not_ready() is None)
            assert await client.echo(b"again") == b"again"


async def test_denied_registration_is_said_and_the_rest_works(tmp_path: Path) -> None:
    policy = default_policy()
    policy["agents"]["agent"]["services"] = [ECHO]
    overlay = Overlay(tmp_path, policy=policy)
    await overlay.backends.start()
    await overlay.start_relay()
    await overlay.start_connector()
    await overlay.start_agent(ready=False)
    with udp_client(overlay.forward("udp")) as client:
        await eventually(lambda: "denied for http-app" in (overlay.agent.not_ready() or ""))
        assert await client.echo(b"allowed") == b"allowed"
    states = {entry["id"]: entry["state"] for entry in overlay.agent.status()["services"]}
    assert states == {ECHO: "registered", HTTP: "denied"}
    await overlay.__aexit__(None, None, None)


async def test_backend_given_by_name(tmp_path: Path) -> None:
    overlay = Overlay(tmp_path)
    await overlay.backends.start()
    overlay._connector["services"] = [
        {"id": ECHO, "virtual_ip": "100.64.0.100", "backend": f"localhost:{overlay.backends.udp_port}"}
    ]
    await overlay.start_relay()
    await overlay.start_connector()
    await overlay.start_agent()
    with udp_client(overlay.forward("udp")) as client:
        assert await client.echo(b"by name") == b"by name"
    await overlay.__aexit__(None, None, None)


async def test_status_and_metrics_say_what_happened(tmp_path: Path) -> None:
    async with Overlay(tmp_path) as overlay:
        with udp_client(overlay.forward("udp")) as client:
            await client.echo(b"x" * 100)
            status = overlay.agent.status()
            assert status["state"] == "ready"
            assert status["mode"] == "user"
            assert status["observed_address"].startswith("127.0.0.1:")
            assert status["forwards"][0]["listen"] == "{}:{}".format(*overlay.forward("udp"))
            assert overlay.connector.status()["flows"] == {"udp": 1, "tcp": 0}
            samples = {sample.name: sample.value for sample in overlay.connector.samples()}
            assert samples["ztna_connector_forwarded_packets"] == 1
            assert samples["ztna_connector_ready"] == 1


async def test_names_of_services_resolve_where_the_config_says(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    async with Overlay(tmp_path, agent={"dns": {"listen": f"{HOST}:{port}"}}) as overlay:
        query = dns.message.make_query(f"{ECHO}.ztna.", "A")
        answer = await dns.asyncquery.udp(query, HOST, timeout=5, port=port)
        assert [str(record) for rrset in answer.answer for record in rrset] == [ECHO_IP]
        assert overlay.agent.status()["dns"] == f"{HOST}:{port}"
