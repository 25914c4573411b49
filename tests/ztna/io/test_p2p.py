"""Agents of `ztna-v1`, written from the protocol's text alone, that reach our connector's own port directly."""

import asyncio
import os
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.support.certs import Issued, issue, issue_member
from tests.support.overlay import (
    AGENT_IP,
    CA,
    ECHO,
    ECHO_IP,
    ECHO_PORT,
    HOST,
    HTTP_IP,
    LoopUdp,
    Overlay,
    eventually,
)
from tests.support.v1_peers import (
    V1Peer,
    acknowledgment,
    address,
    ipv4,
    offer,
    punching,
    routed,
    udp,
    v1_agent,
    v1_direct,
)
from ztna.config import ConfigError, ConnectorConfig

ANONYMOUS = {"require_client_cert": False, "allow_anonymous_v1": True}
LEGACY, SERVICE, NAMED = address("100.64.0.1"), address(ECHO_IP), address(AGENT_IP)
LEAF = issue_member(CA, "agent", "agent", ECHO)
FOREIGN = issue_member(issue("other CA", ca=True), "agent", "agent", ECHO)
P2P_LEAF = issue_member(CA, "connector", "connector", ECHO)
BINDING = bytes.fromhex("5a000000000102030405060708090a0b0cfffffffd0001007e00")


async def started(path: Path, *, anonymous: bool = False, policy: bool = False, **connector: Any) -> Overlay:
    """Intermediate that lets anonymous peers in, and our connector with P2P certificates."""
    p2p = {"port": 0, "cert": P2P_LEAF.cert_pem, "key": P2P_LEAF.key_pem, "anonymous": anonymous}
    extra: dict[str, Any] = {"p2p": p2p, **connector}
    if policy:
        extra["policy_path"] = str(path / "policy.json")
    overlay = Overlay(path, intermediate=ANONYMOUS, connector=extra)
    await overlay.backends.start()
    await overlay.start_relay()
    await overlay.start_connector()
    return overlay


@pytest_asyncio.fixture
async def overlay(tmp_path: Path) -> AsyncIterator[Overlay]:
    """As configured by default: direct connections need a certificate."""
    overlay = await started(tmp_path)
    yield overlay
    await overlay.__aexit__(None, None, None)


@pytest_asyncio.fixture
async def open_overlay(tmp_path: Path) -> AsyncIterator[Overlay]:
    """With `p2p.anonymous`."""
    overlay = await started(tmp_path, anonymous=True)
    yield overlay
    await overlay.__aexit__(None, None, None)


def legs(overlay: Overlay) -> Any:
    assert overlay.connector.p2p is not None
    return overlay.connector.p2p


async def punched(peer: V1Peer, session: int = 7, candidate: str = HOST) -> tuple[str, int]:
    """Register, offer, and check the connector's host candidate; returns where it answered."""
    await peer.observed()
    assert await peer.register(0x10, ECHO) == acknowledgment(ECHO)
    peer.signal(offer(session, ECHO, (candidate, 50000)))
    stream, frame = await peer.next_stream_bytes()
    assert stream == 0
    found, candidates = punching(frame)
    assert found == session
    return next((host, port) for kind, host, port in candidates if kind == 0)


async def checked(to: tuple[str, int]) -> None:
    """A binding request is answered from a port that is neither the relay leg's nor the direct one's."""
    answers: asyncio.Queue[bytes] = asyncio.Queue()
    sock = LoopUdp(lambda data, _: answers.put_nowait(data))
    sock.sock.sendto(BINDING, to)
    answer = await asyncio.wait_for(answers.get(), 5)
    assert answer[:19] == bytes.fromhex("5a010000000102030405060708090a0b0c0101")[:19]
    sock.close()


async def refused(overlay: Overlay, leaf: Issued | None = None) -> tuple[int, str]:
    """Connect directly, say at once what an agent would say, and return why the connection was closed."""
    try:
        async with v1_direct(*overlay.connector.udp.local_address, leaf) as direct:
            direct.send(udp(NAMED, 1, SERVICE, ECHO_PORT, b"too early"))
            closed = await asyncio.wait_for(direct.terminated, 5)
            assert direct.control.empty()
    finally:
        assert overlay.connector.gateway.stats.packets_in == 0
        await eventually(lambda: len(legs(overlay).table) == 0)
    return closed.error_code, closed.reason_phrase


async def test_without_a_certificate_over_the_whole_way(open_overlay: Overlay) -> None:
    async with v1_agent(HOST, open_overlay.relay_port) as peer:
        at = await punched(peer)
        assert at == open_overlay.connector.udp.local_address
        await checked(at)
        async with v1_direct(*at) as direct:
            for size in (0, 1, 1114):
                payload = os.urandom(size)
                direct.send(udp(LEGACY, 12345, SERVICE, ECHO_PORT, payload))
                answer = await peer.next_packet()
                assert (answer[12:16], answer[16:20], answer[28:]) == (SERVICE, LEGACY, payload)
                assert struct.unpack("!HH", answer[20:24]) == (ECHO_PORT, 12345)
            # Where it is seen, once it spoke after the handshake; and never a packet.
            assert await direct.observed() == (HOST, direct.local_port)
            assert direct.packets.empty()
        relay = open_overlay.relay.core.stats
        assert (relay.flows_punched, relay.datagrams_to_connectors, relay.datagrams_to_agents) == (1, 0, 3)
        # The same flow by the relay, as an agent does that lost its direct path.
        peer.send(routed(ECHO, udp(LEGACY, 12345, SERVICE, ECHO_PORT, b"again")))
        assert (await peer.next_packet())[28:] == b"again"
        assert relay.flows_opened == 1


async def test_with_a_certificate_no_offer_for_the_connection_but_one_for_the_answer(tmp_path: Path) -> None:
    overlay = await started(tmp_path, policy=True)
    at = overlay.connector.udp.local_address
    async with v1_agent(HOST, overlay.relay_port, leaf=LEAF) as peer, v1_direct(*at, LEAF) as direct:
        ping = ipv4(1, NAMED, SERVICE, bytes.fromhex("0800192d0001000170696e67"))
        direct.send(udp(NAMED, 5000, SERVICE, ECHO_PORT, b"unheard"))
        await eventually(lambda: overlay.relay.core.stats.drop_no_flow == 1)
        assert await punched(peer) == at
        direct.send(udp(NAMED, 5000, SERVICE, ECHO_PORT, b"heard"))
        assert (await peer.next_packet())[28:] == b"heard"
        direct.send(ping)
        assert (await peer.next_packet())[20:21] == b"\0"
        # A port that is not admitted: the error follows the packet it quotes.
        direct.send(udp(NAMED, 5000, SERVICE, 1, b"closed"))
        assert (await peer.next_packet())[20:22] == b"\3\3"
        assert direct.packets.empty()
    await overlay.__aexit__(None, None, None)


async def test_no_certificate(overlay: Overlay) -> None:
    async with v1_agent(HOST, overlay.relay_port) as peer:
        await punched(peer)
        assert await refused(overlay) == (0x01, "client cert required")
    assert legs(overlay).table.stats.refused_certificate == 1


async def test_wrong_ca(overlay: Overlay) -> None:
    async with v1_agent(HOST, overlay.relay_port) as peer:
        await punched(peer)
        assert await refused(overlay, FOREIGN) == (0x0130, "unknown CA")
    assert legs(overlay).table.stats.refused_certificate == 1


async def test_wrong_ca_with_anonymous_agents_allowed(open_overlay: Overlay) -> None:
    async with v1_agent(HOST, open_overlay.relay_port) as peer:
        await punched(peer)
        assert await refused(open_overlay, FOREIGN) == (0x0130, "unknown CA")


@pytest.mark.parametrize(
    ("leaf", "counter", "reason"),
    [
        (issue_member(CA, "agent", "agent", "other"), "refused_grant", "no service is granted"),
        (issue_member(CA, "connector", "agent", ECHO), "refused_role", "invalid client cert"),
        (issue_member(CA, "agent", "agent", ECHO, stack="other"), "refused_certificate", "invalid client cert"),
    ],
    ids=["no grant", "no agent", "another stack"],
)
async def test_certificates_that_are_not_an_agents_of_ours(
    overlay: Overlay, leaf: Issued, counter: str, reason: str
) -> None:
    assert await refused(overlay, leaf) == (0x01, reason)
    assert getattr(legs(overlay).table.stats, counter) == 1


async def test_host_never_offered(open_overlay: Overlay) -> None:
    async with v1_agent(HOST, open_overlay.relay_port) as peer:
        await punched(peer, candidate="192.0.2.1")
        assert await refused(open_overlay) == (0x01, "client cert required")
    assert legs(open_overlay).table.stats.refused_host == 1


async def test_a_second_anonymous_agent_ends_both_and_both_use_the_relay(open_overlay: Overlay) -> None:
    at = open_overlay.connector.udp.local_address
    async with v1_agent(HOST, open_overlay.relay_port) as one, v1_agent(HOST, open_overlay.relay_port) as two:
        await punched(one, 1)
        await punched(two, 2)
        async with v1_direct(*at) as first, v1_direct(*at) as second:
            for direct in (first, second):
                assert (await asyncio.wait_for(direct.terminated, 5)).reason_phrase == "client cert required"
        for number, peer in enumerate((one, two)):
            peer.send(routed(ECHO, udp(address(f"100.64.0.{number + 1}"), 5000, SERVICE, ECHO_PORT, bytes([number]))))
            assert (await peer.next_packet())[28:] == bytes([number])


async def test_spoofed_inner_sources_and_control_bytes_are_dropped(tmp_path: Path) -> None:
    overlay = await started(tmp_path, policy=True)
    at = overlay.connector.udp.local_address
    async with v1_agent(HOST, overlay.relay_port, leaf=LEAF) as peer, v1_direct(*at, LEAF) as direct:
        await punched(peer)
        sound = udp(NAMED, 1, SERVICE, ECHO_PORT, b"mine")
        direct.send(udp(LEGACY, 1, SERVICE, ECHO_PORT, b"spoofed"))
        direct.send(udp(SERVICE, 1, SERVICE, ECHO_PORT, b"spoofed"))
        direct.send(udp(NAMED, 1, address(HTTP_IP), 80, b"not granted"))
        direct.send(routed(ECHO, sound))
        for control in ("01cb00710531d4", "100c" + ECHO.encode().hex(), "5a100000002a"):
            direct.send(bytes.fromhex(control))
        direct.signal(offer(1, ECHO, (HOST, 1)))
        direct.send(sound)
        assert (await peer.next_packet())[28:] == b"mine"
        assert peer.packets.empty()
        stats = legs(overlay).table.stats
        assert (stats.drop_source, stats.drop_destination, stats.drop_control, stats.drop_stream) == (2, 1, 4, 1)
        assert (stats.packets, overlay.connector.gateway.stats.packets_in) == (1, 1)
    await overlay.__aexit__(None, None, None)


async def test_handshakes_that_do_not_finish_are_bounded_and_the_uplink_lives(overlay: Overlay) -> None:
    """Initials by the hundred from one address: neither table nor answers grow with them."""
    from aioquic.quic.configuration import QuicConfiguration
    from aioquic.quic.connection import QuicConnection

    at = overlay.connector.udp.local_address
    received = bytearray()
    sock = LoopUdp(lambda data, _: received.extend(data))
    sent = 0
    for _ in range(100):
        client = QuicConnection(configuration=QuicConfiguration(is_client=True, alpn_protocols=["ztna-v1"]))
        client.connect(at, 0.0)
        for data, _ in client.datagrams_to_send(0.0):
            sock.sock.sendto(data, at)
            sent += len(data)
    counters = legs(overlay).endpoint.counters
    await eventually(lambda: counters.dropped_half_open + counters.dropped_rate > 0)
    await asyncio.sleep(0.1)
    assert legs(overlay).endpoint.half_open_count <= 4
    assert len(received) <= 3 * sent
    assert len(legs(overlay).table) == 0
    assert overlay.connector.not_ready() is None
    async with v1_agent(HOST, overlay.relay_port) as peer:
        await punched(peer)
    sock.close()


async def test_connection_ids_leave_room_for_raw_messages_and_no_retry_is_asked(overlay: Overlay) -> None:
    for _ in range(3):
        async with v1_direct(*overlay.connector.udp.local_address, LEAF) as direct:
            assert direct._quic._peer_cid.cid[0] >= 0x40
            assert len(direct._quic._peer_cid.cid) == 20
    counters = legs(overlay).endpoint.counters
    assert (counters.retries_sent, counters.accepted) == (0, 3)


async def test_without_p2p_certificates_nobody_is_answered(tmp_path: Path) -> None:
    overlay = Overlay(tmp_path, intermediate=ANONYMOUS)
    await overlay.backends.start()
    await overlay.start_relay()
    await overlay.start_connector()
    assert overlay.connector.p2p is None
    with pytest.raises((TimeoutError, ConnectionError)):
        async with asyncio.timeout(0.5), v1_direct(*overlay.connector.udp.local_address, LEAF):
            pass
    await overlay.__aexit__(None, None, None)


async def test_agents_are_told_when_the_connector_stops(overlay: Overlay) -> None:
    async with v1_direct(*overlay.connector.udp.local_address, LEAF) as direct:
        await eventually(lambda: len(legs(overlay).table) == 1)
        assert overlay.connector.status()["p2p_connections"] == 1
        assert any(s.name == "ztna_connector_p2p_opened" and s.value == 1 for s in overlay.connector.samples())
        await overlay.connector.close()
        assert (await asyncio.wait_for(direct.terminated, 5)).reason_phrase == "shutting down"


def test_anonymous_needs_a_certificate_of_the_connector(tmp_path: Path) -> None:
    value = Overlay(tmp_path).connector_value() | {"p2p": {"anonymous": True}}
    with pytest.raises(ConfigError, match=r"p2p\.anonymous.*needs cert and key"):
        ConnectorConfig.from_json(value)
    assert ConnectorConfig.from_json(value | {"p2p": {}}).p2p.anonymous is False
