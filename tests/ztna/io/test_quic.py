"""The QUIC endpoint between two sockets: handshake, DATAGRAMs, streams, migration, keepalive, sizes, close."""

import asyncio
import ssl

import pytest
from aioquic import tls
from aioquic.quic.connection import QuicConnection

from tests.support.certs import issue
from tests.ztna.io.quic_rig import Nat, Node, Pki, nodes
from ztna.io.certs import verify_server
from ztna.io.quic_connection import ACK_DELAY_S, ACK_EVERY
from ztna.io.quic_parts import FRAME_TABLE, random_cid
from ztna.io.quic_types import (
    AddressChanged,
    Closed,
    Connected,
    ConnectionLimits,
    DatagramReceived,
    PayloadLimit,
    PeerRejected,
    StreamReceived,
)
from ztna.io.udp import UdpSocket


@pytest.fixture(scope="module")
def pki() -> Pki:
    return Pki()


async def test_handshake_identifies_the_client_and_carries_datagrams_both_ways(pki: Pki) -> None:
    server, client = Node(pki.server_settings()), Node()
    with nodes(server, client):
        peer = client.connect(server, pki.client_settings(pki.agent))
        assert (await client.seen.first(Connected)).alpn == "ztna-v1"
        peer.send_datagram(b"to the server")
        got = await server.seen.first(DatagramReceived)
        assert got.data == b"to the server"
        theirs = server.seen.peers(Connected)[0]
        assert theirs.identity is not None
        assert theirs.certificates == [pki.agent.der]
        assert theirs.address == client.address
        theirs.send_datagram(b"to the client")
        assert (await client.seen.first(DatagramReceived)).data == b"to the client"
        assert peer.stats.datagrams_sent == 1
        assert peer.stats.datagram_bytes_received == len(b"to the client")
        assert peer.rtt_s is not None


async def test_retry_is_sent_before_any_state_is_kept(pki: Pki) -> None:
    server, client = Node(pki.server_settings()), Node()
    with nodes(server, client):
        client.connect(server, pki.client_settings(pki.agent))
        await client.seen.first(Connected)
        assert server.counters.retries_sent == 1
        assert server.counters.retry_tokens_validated == 1


async def test_without_retry_the_first_initial_is_answered(pki: Pki) -> None:
    server, client = Node(pki.server_settings(retry=False)), Node()
    with nodes(server, client):
        client.connect(server, pki.client_settings(pki.agent))
        await client.seen.first(Connected)
        assert server.counters.retries_sent == 0


async def test_stream_data_arrives_in_order_and_replies_use_the_same_stream(pki: Pki) -> None:
    server, client = Node(pki.server_settings()), Node()
    body = bytes(range(256)) * 1024
    with nodes(server, client):
        peer = client.connect(server, pki.client_settings(pki.agent))
        await client.seen.first(Connected)
        assert peer.send_stream(None, body) == 0
        await server.until(lambda: sum(len(event.data) for event in server.seen.of(StreamReceived)) == len(body))
        assert b"".join(event.data for event in server.seen.of(StreamReceived)) == body
        theirs = server.seen.peers(Connected)[0]
        assert theirs.has_stream(0)
        assert not theirs.has_stream(1)
        assert theirs.send_stream(0, b"answer") == 0
        assert theirs.send_stream(None, b"pushed") == 1
        await client.until(lambda: len(client.seen.of(StreamReceived)) == 2)
        assert {(event.stream_id, event.data) for event in client.seen.of(StreamReceived)} == {
            (0, b"answer"),
            (1, b"pushed"),
        }


async def test_stream_send_buffer_is_bounded(pki: Pki) -> None:
    server, client = Node(pki.server_settings()), Node()
    with nodes(server, client):
        peer = client.connect(server, pki.client_settings(pki.agent, limits=ConnectionLimits(stream_send_bytes=1000)))
        await client.seen.first(Connected)
        assert peer.send_stream(None, bytes(1001)) == -1
        assert peer.stats.stream_bytes_refused == 1001
        assert peer.send_stream(None, bytes(1000)) == 0


async def test_more_stream_data_passes_than_any_window_holds(pki: Pki) -> None:
    limits = ConnectionLimits(stream_window_bytes=4096, connection_window_bytes=8192)
    server, client = Node(pki.server_settings(limits=limits)), Node()
    body = bytes(200_000)
    with nodes(server, client):
        peer = client.connect(server, pki.client_settings(pki.agent))
        await client.seen.first(Connected)
        peer.send_stream(None, body)
        await server.until(lambda: sum(len(event.data) for event in server.seen.of(StreamReceived)) == len(body))


async def test_payload_limit_grows_after_a_probe_and_full_size_datagrams_pass(pki: Pki) -> None:
    server, client = Node(pki.server_settings()), Node()
    with nodes(server, client):
        peer = client.connect(server, pki.client_settings(pki.agent))
        await client.seen.first(Connected)
        assert peer.max_datagram_payload == 1158
        assert (await client.seen.first(PayloadLimit)).max_bytes == 1308
        assert peer.max_datagram_payload == 1308
        assert peer.send_datagram(bytes(1308))
        assert len((await server.seen.first(DatagramReceived)).data) == 1308


async def test_path_that_swallows_large_packets_keeps_the_small_size(pki: Pki) -> None:
    server, client = Node(pki.server_settings()), Node()
    nat = Nat(server)
    nat.drop_larger_than = 1252
    with nodes(server, client):
        peer = client.connect(nat.inside.local_address, pki.client_settings(pki.agent))
        await client.seen.first(Connected)
        await client.until(lambda: client.counters.size_probes_lost >= 1)
        assert peer.max_datagram_payload == 1158
        peer.send_datagram(bytes(1158))
        await server.seen.first(DatagramReceived)
    nat.close()


async def test_black_hole_in_mid_session_shrinks_the_payload_and_traffic_goes_on(pki: Pki) -> None:
    server, client = Node(pki.server_settings()), Node()
    nat = Nat(server)
    with nodes(server, client):
        peer = client.connect(nat.inside.local_address, pki.client_settings(pki.agent))
        await client.seen.first(PayloadLimit)
        nat.drop_larger_than = 1252
        for _ in range(6):
            peer.send_datagram(bytes(1300))
        await client.until(lambda: len(client.seen.of(PayloadLimit)) == 2)
        assert client.seen.of(PayloadLimit)[1].max_bytes == 1158
        assert not peer.send_datagram(bytes(1300))
        assert peer.send_datagram(bytes(1100))
        await server.until(lambda: [len(event.data) for event in server.seen.of(DatagramReceived)] == [1100])
    nat.close()


async def test_rebinding_nat_is_followed_and_reported_once(pki: Pki) -> None:
    server, client = Node(pki.server_settings()), Node()
    nat = Nat(server)
    with nodes(server, client):
        peer = client.connect(nat.inside.local_address, pki.client_settings(pki.agent))
        await client.seen.first(Connected)
        await server.seen.first(Connected)
        new_address = nat.rebind()
        peer.send_datagram(b"from elsewhere")
        changed = await server.seen.first(AddressChanged)
        assert changed.address == new_address
        theirs = server.seen.peers(AddressChanged)[0]
        assert theirs.address == new_address
        theirs.send_datagram(b"found you")
        await client.until(lambda: b"found you" in [event.data for event in client.seen.of(DatagramReceived)])
        assert len(server.seen.of(AddressChanged)) == 1
    nat.close()


async def test_client_pings_keep_an_idle_connection_alive(pki: Pki) -> None:
    server, client = Node(pki.server_settings(idle_timeout_s=0.6)), Node()
    with nodes(server, client):
        kept = client.connect(server, pki.client_settings(pki.agent, keepalive_s=0.1))
        idle = client.connect(server, pki.client_settings(pki.agent, keepalive_s=None))
        closed = await client.seen.first(Closed)
        assert (closed.code, closed.reason, closed.by_peer) == (0, "idle timeout", False)
        assert idle.closed
        assert not kept.closed


async def test_close_reaches_the_peer_with_code_and_reason(pki: Pki) -> None:
    server, client = Node(pki.server_settings()), Node()
    with nodes(server, client):
        peer = client.connect(server, pki.client_settings(pki.agent))
        await server.seen.first(Connected)
        server.seen.peers(Connected)[0].close(7, "enough")
        closed = await client.seen.first(Closed, peer)
        assert (closed.code, closed.reason, closed.by_peer) == (7, "enough", True)
        assert server.seen.of(Closed)[0].by_peer is False
        assert not peer.send_datagram(b"late")
        assert peer.send_stream(None, b"late") == -1


async def test_drain_closes_all_and_returns_when_they_are_gone(pki: Pki) -> None:
    server, client = Node(pki.server_settings()), Node()
    with nodes(server, client):
        for _ in range(5):
            client.connect(server, pki.client_settings(pki.agent))
        await server.until(lambda: len(server.seen.of(Connected)) == 5)
        await asyncio.wait_for(server.endpoint.drain(0, "server shutting down", 3.0), 3.5)
        await client.until(lambda: len(client.seen.of(Closed)) == 5)
        assert {event.reason for event in client.seen.of(Closed)} == {"server shutting down"}
        assert server.endpoint.peers == []
        client.connect(server, pki.client_settings(pki.agent))
        await server.until(lambda: server.counters.dropped_no_server)


async def test_server_of_another_ca_is_refused_by_the_client(pki: Pki) -> None:
    server, client = Node(pki.server_settings()), Node()
    with nodes(server, client):
        client.connect(server, pki.client_settings(pki.agent, ca=issue("another CA", ca=True)))
        closed = await client.seen.first(Closed)
        assert closed.code >= 0x100
        assert client.seen.of(Connected) == []


async def test_server_with_another_name_is_refused_by_the_client(pki: Pki) -> None:
    server, client = Node(pki.server_settings()), Node()
    with nodes(server, client):
        settings = pki.client_settings(pki.agent)
        client.connect(server, type(settings)(settings.ca_pem, "other-server", credentials=settings.credentials))
        assert "doesn't match" in (await client.seen.first(Closed)).reason


async def test_client_may_judge_the_server_further(pki: Pki) -> None:
    server, client = Node(pki.server_settings()), Node()

    def refuse(chain: list[bytes]) -> object:
        assert verify_server(chain, pki.anchors).uris == ("spiffe://lab/intermediate/relay",)
        raise PeerRejected("not this one")

    with nodes(server, client):
        client.connect(server, pki.client_settings(pki.agent, authenticate=refuse))
        closed = await client.seen.first(Closed)
        assert (closed.code, closed.reason) == (0x01, "not this one")
        assert client.seen.of(Connected) == []


async def test_handshake_with_nobody_ends_by_its_deadline(pki: Pki) -> None:
    client, nobody = Node(), UdpSocket("127.0.0.1", 0)
    with nodes(client):
        client.connect(nobody.local_address, pki.client_settings(pki.agent, handshake_timeout_s=0.2))
        closed = await client.seen.first(Closed)
        assert closed.reason == "handshake timeout"
        assert client.endpoint.peers == []
    nobody.close()


async def test_datagrams_of_one_batch_leave_in_few_system_calls(pki: Pki) -> None:
    server, client = Node(pki.server_settings()), Node()
    with nodes(server, client):
        peer = client.connect(server, pki.client_settings(pki.agent))
        await client.seen.first(PayloadLimit)
        await server.until(lambda: server.seen.of(PayloadLimit))
        calls = client.udp.counters.send_calls
        for _ in range(10):
            peer.send_datagram(bytes(1200))
        client.endpoint.flush()
        assert client.udp.counters.send_calls - calls <= 3
        await server.until(lambda: len(server.seen.of(DatagramReceived)) == 10)


async def test_failing_handlers_are_counted_and_stop_nothing(pki: Pki) -> None:
    def broken(_peer: object, _data: bytes) -> None:
        raise RuntimeError("handler")

    server, client = Node(pki.server_settings(), on_datagram=broken), Node()
    with nodes(server, client):
        peer = client.connect(server, pki.client_settings(pki.agent))
        await client.seen.first(Connected)
        peer.send_datagram(b"one")
        await server.until(lambda: server.counters.handler_errors == 1)
        peer.send_datagram(b"two")
        await server.until(lambda: server.counters.handler_errors == 2)


async def test_established_connection_keeps_nothing_of_the_handshake(pki: Pki) -> None:
    server, client = Node(pki.server_settings()), Node()
    with nodes(server, client):
        peer = client.connect(server, pki.client_settings(pki.agent))
        await client.seen.first(PayloadLimit)
        await server.seen.first(PayloadLimit)
        for connection in (peer.connection, server.seen.peers(Connected)[0].connection):
            assert type(connection.tls).__name__ == "SpentTls"
            assert connection._crypto_buffers == {}
            assert len(connection._loss.spaces) == 1
            assert connection.peer_certificate_chain() == []


def test_connection_ids_cannot_be_taken_for_control_messages() -> None:
    cids = {random_cid() for _ in range(2000)}
    assert len(cids) == 2000
    assert {len(cid) for cid in cids} == {20}
    assert min(cid[0] for cid in cids) >= 0x40


def test_aioquic_still_has_the_switch_for_client_certificates() -> None:
    context = tls.Context(is_client=False, verify_mode=ssl.CERT_NONE)
    assert context._request_client_certificate is False


def test_frame_table_matches_aioquics_own() -> None:
    from ztna.io.quic_config import client_configuration

    settings = Pki().client_settings()
    handlers = QuicConnection(configuration=client_configuration(settings))._QuicConnection__frame_handlers  # type: ignore[attr-defined]
    assert {kind: (method.__name__, epochs) for kind, (method, epochs) in handlers.items()} == FRAME_TABLE


async def test_bulk_is_acknowledged_by_count_and_a_single_packet_later(pki: Pki) -> None:
    server, client = Node(pki.server_settings()), Node()
    with nodes(server, client):
        client.connect(server, pki.client_settings(pki.agent))
        await server.seen.first(Connected)
        connection = server.seen.peers(Connected)[0].connection
        space = connection._spaces[tls.Epoch.ONE_RTT]
        now = client.endpoint._clock()
        space.ack_at = None
        connection.pace_acknowledgements(now)
        space.ack_at = now + ACK_DELAY_S
        for _ in range(ACK_EVERY - 1):
            connection.pace_acknowledgements(now)
            assert space.ack_at > now
        connection.pace_acknowledgements(now)
        assert space.ack_at == now
