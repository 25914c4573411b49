"""Peers of `ztna-v1` that know nothing of ours against our intermediate, connector and agent, over loopback."""

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.certs import issue_member
from tests.support.overlay import (
    CA,
    ECHO,
    ECHO_IP,
    ECHO_PORT,
    HOST,
    HTTP,
    Overlay,
    default_policy,
    eventually,
    udp_client,
)
from tests.support.v1_peers import (
    V1Peer,
    acknowledgment,
    address,
    checksum,
    echo_answers,
    ipv4,
    offer,
    routed,
    udp,
    v1_agent,
    v1_connector,
)
from ztna.config import ForwardConfig

AGENT_SOURCE = address("100.64.0.1")
SERVICE = address(ECHO_IP)
ANONYMOUS = {"require_client_cert": False, "allow_anonymous_v1": True}
PING = bytes.fromhex("0800192d0001000170696e67")
PONG = bytes.fromhex("0000212d0001000170696e67")


@pytest_asyncio.fixture
async def overlay(tmp_path: Path) -> AsyncIterator[Overlay]:
    """Intermediate that lets anonymous peers in, and our connector; no agent of ours."""
    overlay = Overlay(tmp_path, intermediate=ANONYMOUS)
    await overlay.backends.start()
    await overlay.start_relay()
    await overlay.start_connector()
    yield overlay
    await overlay.__aexit__(None, None, None)


async def registered_agent(peer: V1Peer, *services: str) -> None:
    await peer.observed()
    for service in services:
        assert await peer.register(0x10, service) == acknowledgment(service)


async def test_agent_is_told_its_address_and_registered(overlay: Overlay) -> None:
    async with v1_agent(HOST, overlay.relay_port) as peer:
        host, port = await peer.observed()
        assert host == HOST
        assert port == peer.local_port
        assert await peer.register(0x10, ECHO) == bytes.fromhex("12000c6563686f2d73657276696365")


@pytest.mark.parametrize("size", [0, 1, 64, 1114])
async def test_agent_udp_through_our_connector(overlay: Overlay, size: int) -> None:
    async with v1_agent(HOST, overlay.relay_port) as peer:
        await registered_agent(peer, ECHO)
        payload = os.urandom(size)
        peer.send(routed(ECHO, udp(AGENT_SOURCE, 12345, SERVICE, ECHO_PORT, payload)))
        answer = await peer.next_packet()
        assert (answer[12:16], answer[16:20]) == (SERVICE, AGENT_SOURCE)
        assert struct.unpack("!HHH", answer[20:26]) == (ECHO_PORT, 12345, 8 + size)
        assert answer[28:] == payload


async def test_agent_ping_through_our_connector_matches_the_worked_vector(overlay: Overlay) -> None:
    async with v1_agent(HOST, overlay.relay_port) as peer:
        await registered_agent(peer, ECHO)
        peer.send(routed(ECHO, ipv4(1, AGENT_SOURCE, SERVICE, PING)))
        assert await peer.next_packet() == ipv4(1, SERVICE, AGENT_SOURCE, PONG)


async def test_agent_with_one_service_may_send_bare_packets(overlay: Overlay) -> None:
    async with v1_agent(HOST, overlay.relay_port) as peer:
        await registered_agent(peer, ECHO)
        peer.send(udp(AGENT_SOURCE, 12345, SERVICE, ECHO_PORT, b"Hello"))
        assert (await peer.next_packet())[28:] == b"Hello"


async def test_agent_tcp_handshake_refused_port_and_reset(overlay: Overlay) -> None:
    async with v1_agent(HOST, overlay.relay_port) as peer:
        await registered_agent(peer, HTTP)
        service = address("100.64.0.101")
        # The worked SYN: from port 40000, ISN 1000, no options.
        for port, flags in ((80, 0x12), (81, 0x14)):
            segment = struct.pack("!HHIIBBHHH", 0x9C40, port, 1000, 0, 0x50, 0x02, 65535, 0, 0)
            peer.send(routed(HTTP, ipv4(6, AGENT_SOURCE, service, with_tcp_checksum(AGENT_SOURCE, service, segment))))
            answer = await peer.next_packet()
            assert struct.unpack("!HHI", answer[20:24] + answer[28:32]) == (port, 0x9C40, 1001)
            assert answer[33] == flags


def with_tcp_checksum(source: bytes, destination: bytes, segment: bytes) -> bytes:
    pseudo = source + destination + struct.pack("!BBH", 0, 6, len(segment))
    return segment[:16] + struct.pack("!H", checksum(pseudo + segment)) + segment[18:]


async def test_two_agents_on_one_service_get_their_own_answers(overlay: Overlay) -> None:
    async with v1_agent(HOST, overlay.relay_port) as one, v1_agent(HOST, overlay.relay_port) as two:
        for number, peer in enumerate((one, two)):
            await registered_agent(peer, ECHO)
            peer.send(routed(ECHO, udp(address(f"100.64.0.{number + 1}"), 5000, SERVICE, ECHO_PORT, bytes([number]))))
        assert (await one.next_packet())[28:] == b"\x00"
        assert (await two.next_packet())[28:] == b"\x01"
        assert one.packets.empty()


async def test_unknown_service_is_dropped_without_an_answer(overlay: Overlay) -> None:
    async with v1_agent(HOST, overlay.relay_port) as peer:
        await registered_agent(peer, ECHO)
        peer.send(routed("nothing", udp(AGENT_SOURCE, 1, SERVICE, ECHO_PORT, b"x")))
        with pytest.raises(TimeoutError):
            await peer.next_packet(0.2)


async def test_anonymous_connector_never_displaces_ours(overlay: Overlay) -> None:
    async with v1_agent(HOST, overlay.relay_port) as thief:
        await thief.observed()
        assert await thief.register(0x11, ECHO) == bytes.fromhex("13020c") + ECHO.encode()
        async with v1_agent(HOST, overlay.relay_port) as peer:
            await registered_agent(peer, ECHO)
            peer.send(routed(ECHO, udp(AGENT_SOURCE, 1, SERVICE, ECHO_PORT, b"mine")))
            assert (await peer.next_packet())[28:] == b"mine"
        assert thief.packets.empty()


async def test_without_permission_anonymous_peers_are_closed(tmp_path: Path) -> None:
    overlay = Overlay(tmp_path)
    await overlay.start_relay()
    async with v1_agent(HOST, overlay.relay_port) as peer:
        closed = await asyncio.wait_for(peer.terminated, 5)
        assert (closed.error_code, closed.reason_phrase) == (0x01, "client cert required")
        assert peer.control.empty()
    await overlay.crash_relay()


async def test_connector_in_the_field_serves_our_agent(tmp_path: Path) -> None:
    overlay = Overlay(tmp_path, intermediate=ANONYMOUS)
    await overlay.start_relay()
    async with v1_connector(HOST, overlay.relay_port, ECHO, echo_answers):
        await overlay.start_agent()
        with udp_client(overlay.forward("udp")) as client:
            for size in (1, 64, 1100):
                data = os.urandom(size)
                assert await client.echo(data) == data
        await overlay.agent.close()
    await overlay.crash_relay()


async def test_both_versions_of_agent_and_connector_beside_each_other(tmp_path: Path) -> None:
    """All four pairs through one intermediate at once; those of `ztna-v1` know nothing of ours."""
    old, old_ip = "old-service", "100.64.0.102"
    policy = default_policy()
    policy["services"][old] = {"virtual_ip": old_ip}
    policy["agents"]["agent"]["services"] = [ECHO, old]
    leaf = issue_member(CA, "agent", "agent", ECHO, old)
    services = [{"id": ECHO, "virtual_ip": ECHO_IP}, {"id": old, "virtual_ip": old_ip}]
    ours = {"services": services, "cert_pem": leaf.cert_pem, "key_pem": leaf.key_pem}
    overlay = Overlay(tmp_path, intermediate=ANONYMOUS, agent=ours, policy=policy)
    overlay.forwards = tuple(
        ForwardConfig(protocol="udp", listen=(HOST, 0), service=service, port=ECHO_PORT) for service in (ECHO, old)
    )
    await overlay.backends.start()
    await overlay.start_relay()
    await overlay.start_connector()
    async with (
        v1_connector(HOST, overlay.relay_port, old, echo_answers) as connector,
        v1_agent(HOST, overlay.relay_port) as peer,
    ):
        await overlay.start_agent()
        await registered_agent(peer, ECHO, old)
        assert {overlay.agent.uplink.peer.alpn, overlay.connector.uplink.peer.alpn} == {"ztna-v2"}  # type: ignore[union-attr]
        for service, at in ((ECHO, SERVICE), (old, address(old_ip))):
            peer.send(routed(service, udp(AGENT_SOURCE, 12345, at, ECHO_PORT, service.encode())))
            answer = await peer.next_packet()
            assert (answer[12:20], answer[28:]) == (at + AGENT_SOURCE, service.encode())
            with udp_client(overlay.forward("udp", service)) as client:
                assert await client.echo(service.encode()) == service.encode()
        # Of its two pairs only that of ours on both sides has a session.
        await eventually(lambda: [row["services"] for row in overlay.agent.status()["sessions"]] == [[ECHO]])
        assert overlay.relay.status()["services"][old] == {"connector": "anonymous", "agents": 2}
        assert connector.packets.empty()
        assert peer.packets.empty()
    await overlay.__aexit__(None, None, None)


async def test_our_connector_answers_an_offer_with_start_punching_to_the_agent(overlay: Overlay) -> None:
    async with v1_agent(HOST, overlay.relay_port) as peer:
        await registered_agent(peer, ECHO)
        peer.signal(offer(7, ECHO, (HOST, 50000)))
        stream, data = await peer.next_stream_bytes()
        assert stream == 0
        length, tag, session, delay_ms = struct.unpack("<4s I Q Q", data[:24])
        assert (int.from_bytes(length, "big"), tag, session, delay_ms) == (len(data) - 4, 2, 7, 100)


KEEPALIVE, KEEPALIVE_ANSWER = bytes.fromhex("5a100000002a"), bytes.fromhex("5a110000002a")
BINDING = bytes.fromhex("5a000000000102030405060708090a0b0cfffffffd0001007e00")


async def raw_answer(to: tuple[str, int], data: bytes, wait_s: float = 0.3) -> tuple[bytes, int] | None:
    """Send from a fresh port of loopback; (answer, our port) or None."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.bind((HOST, 0))
        sock.sendto(data, to)
        try:
            return (await asyncio.wait_for(loop.sock_recv(sock, 2048), wait_s)), sock.getsockname()[1]
        except TimeoutError:
            return None


@pytest_asyncio.fixture
async def p2p_overlay(tmp_path: Path) -> AsyncIterator[Overlay]:
    """As `overlay`, with P2P certificates at the connector."""
    leaf = issue_member(CA, "connector", "connector", ECHO)
    p2p = {"port": 0, "cert": leaf.cert_pem, "key": leaf.key_pem}
    overlay = Overlay(tmp_path, intermediate=ANONYMOUS, connector={"p2p": p2p})
    await overlay.backends.start()
    await overlay.start_relay()
    await overlay.start_connector()
    yield overlay
    await overlay.__aexit__(None, None, None)


async def test_raw_checks_are_answered_only_after_an_offer_named_the_host(p2p_overlay: Overlay) -> None:
    at = p2p_overlay.connector.udp.local_address
    assert await raw_answer(at, BINDING) is None
    assert await raw_answer(at, KEEPALIVE) is None
    async with v1_agent(HOST, p2p_overlay.relay_port) as peer:
        await registered_agent(peer, ECHO)
        peer.signal(offer(8, ECHO, (HOST, 50000)))
        await peer.next_stream_bytes()
        await eventually(lambda: p2p_overlay.connector.control.stats.offers_answered == 1)
    answered = await raw_answer(at, BINDING, 5)
    assert answered is not None
    data, port = answered
    expected = bytes.fromhex("5a010000000102030405060708090a0b0c0101000000007f000001")
    assert data == expected + struct.pack("<H", port)
    kept = await raw_answer(at, KEEPALIVE, 5)
    assert kept is not None
    assert kept[0] == KEEPALIVE_ANSWER
    assert await raw_answer(at, bytes.fromhex("5a120000002a")) is None


async def test_raw_checks_are_ignored_without_p2p_certificates(overlay: Overlay) -> None:
    async with v1_agent(HOST, overlay.relay_port) as peer:
        await registered_agent(peer, ECHO)
        peer.signal(offer(9, ECHO, (HOST, 50000)))
        await peer.next_stream_bytes()
    assert await raw_answer(overlay.connector.udp.local_address, BINDING) is None
