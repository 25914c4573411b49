"""What strangers and misbehaving peers can do to an endpoint: one test per guard."""

import asyncio
import datetime as dt
import os
import random
from collections.abc import Callable

import pytest
from aioquic._buffer import Buffer
from aioquic.quic.packet import QuicPacketType, encode_quic_version_negotiation, pull_quic_header

from tests.support.certs import CLIENT, Issued, issue, issue_member
from tests.ztna.io.quic_rig import Nat, Node, Pki, Raw, nodes
from ztna.io.quic_config import client_configuration
from ztna.io.quic_connection import GuardedConnection
from ztna.io.quic_guard import (
    AdmissionLimits,
    TokenBucket,
    TokenBuckets,
    UsedTokens,
    carries_no_token,
    source_key,
)
from ztna.io.quic_types import Closed, Connected, ConnectionLimits, DatagramReceived, PayloadLimit, StreamReceived
from ztna.proto.identity import Identity


@pytest.fixture(scope="module")
def pki() -> Pki:
    return Pki()


def client_hello(pki: Pki, address: tuple[str, int], *, version: int = 1) -> tuple[bytes, GuardedConnection]:
    """The first Initial of a client, and the client."""
    connection = GuardedConnection(configuration=client_configuration(pki.client_settings()), limits=ConnectionLimits())
    connection.connect(address, 0.0)
    first = connection.datagrams_to_send(0.0)[0][0]
    return first[:1] + version.to_bytes(4, "big") + first[5:], connection


# Size of DATAGRAM frames


async def test_oversize_datagram_is_dropped_and_the_next_one_passes(pki: Pki) -> None:
    server, client = Node(pki.server_settings()), Node()
    with nodes(server, client):
        peer = client.connect(server, pki.client_settings(pki.agent))
        await client.seen.first(PayloadLimit)
        for size in (1309, 1400, 9000, 65535):
            assert not peer.send_datagram(bytes(size))
        assert peer.send_datagram(b"next")
        await server.seen.first(DatagramReceived)
        assert [event.data for event in server.seen.of(DatagramReceived)] == [b"next"]
        assert peer.stats.dropped_size == 4


async def test_datagram_queue_drops_the_oldest_when_the_peer_is_silent(pki: Pki) -> None:
    server, client = Node(pki.server_settings()), Node()
    with nodes(server, client):
        peer = client.connect(server, pki.client_settings(pki.agent))
        await client.seen.first(PayloadLimit)
        server.close()
        for index in range(5000):
            peer.send_datagram(index.to_bytes(4, "big") + bytes(1000))
        waiting = peer.connection._datagrams_pending
        assert len(waiting) <= 64
        assert sum(map(len, waiting)) <= 65536
        assert waiting[-1][:4] == (4999).to_bytes(4, "big")
        assert peer.stats.dropped_queue_full > 4800


# Before a connection exists


async def test_short_initial_gets_no_answer(pki: Pki) -> None:
    server, raw = Node(pki.server_settings()), Raw()
    hello, _ = client_hello(pki, server.address)
    with nodes(server):
        for size in (60, 1199):
            raw.send(hello[:size], server)
        await server.until(lambda: server.counters.dropped_initial_small == 2)
        raw.send(hello, server)
        assert len(await raw.answer()) < len(hello)
        assert raw.received == []
        assert server.counters.retries_sent == 1
    raw.close()


async def test_retry_token_from_another_address_or_port_is_refused(pki: Pki) -> None:
    server, honest, thief = Node(pki.server_settings()), Raw(), Raw("127.0.0.2")
    hello, connection = client_hello(pki, server.address)
    with nodes(server):
        honest.send(hello, server)
        connection.receive_datagram(await honest.answer(), server.address, 0.0)
        with_token = connection.datagrams_to_send(0.0)[0][0]
        assert pull_quic_header(Buffer(data=with_token), host_cid_length=20).token
        neighbour = Raw()
        thief.send(with_token, server)
        neighbour.send(with_token, server)
        await server.until(lambda: server.counters.retry_token_failures == 2)
        assert server.endpoint.half_open_count == 0
        honest.send(with_token, server)
        await server.until(lambda: server.counters.accepted == 1)
        neighbour.close()
    honest.close()
    thief.close()


async def test_retry_token_works_once(pki: Pki) -> None:
    limits = AdmissionLimits(handshake_timeout_s=0.1)
    server, raw = Node(pki.server_settings(admission=limits)), Raw()
    hello, connection = client_hello(pki, server.address)
    with nodes(server):
        raw.send(hello, server)
        connection.receive_datagram(await raw.answer(), server.address, 0.0)
        with_token = connection.datagrams_to_send(0.0)[0][0]
        raw.send(with_token, server)
        await server.until(lambda: server.counters.handshake_timeouts == 1)
        raw.send(with_token, server)
        await server.until(lambda: server.counters.retry_token_failures == 1)
        assert server.counters.accepted == 1
    raw.close()


async def test_forged_token_is_dropped_without_answer(pki: Pki) -> None:
    server, raw = Node(pki.server_settings()), Raw()
    hello, _ = client_hello(pki, server.address)
    at = 6 + hello[5]
    at += 1 + hello[at]
    forged = hello[:at] + b"\x40\x50" + os.urandom(80) + hello[at + 1 :]
    with nodes(server):
        raw.send(forged, server)
        await server.until(lambda: server.counters.retry_token_failures == 1)
        assert server.udp.counters.sent_packets == 0
    raw.close()


async def test_version_negotiation_lists_v1_only_and_answers_no_version_negotiation(pki: Pki) -> None:
    server, raw = Node(pki.server_settings()), Raw()
    hello, _ = client_hello(pki, server.address, version=0x6B3343CF)
    with nodes(server):
        raw.send(hello, server)
        header = pull_quic_header(Buffer(data=await raw.answer()), host_cid_length=20)
        assert header.packet_type == QuicPacketType.VERSION_NEGOTIATION
        assert header.supported_versions == [1]
        raw.send(encode_quic_version_negotiation(os.urandom(20), os.urandom(20), [1] * 300), server)
        await server.until(lambda: server.counters.dropped_header == 1)
        assert raw.received == []
    raw.close()


async def test_half_open_handshakes_are_capped_and_the_oldest_goes(pki: Pki) -> None:
    limits = AdmissionLimits(half_open=8, half_open_per_source=100)
    server, raw, client = Node(pki.server_settings(retry=False, admission=limits)), Raw(), Node()
    with nodes(server, client):
        for _ in range(30):
            raw.send(client_hello(pki, server.address)[0], server)
        await server.until(lambda: server.counters.accepted == 30)
        assert server.endpoint.half_open_count == 8
        assert server.counters.half_open_evicted == 22
        client.connect(server, pki.client_settings(pki.agent))
        await client.seen.first(Connected)
    raw.close()


async def test_one_source_cannot_fill_the_half_open_table(pki: Pki) -> None:
    limits = AdmissionLimits(half_open_per_source=4)
    server, raw = Node(pki.server_settings(retry=False, admission=limits)), Raw()
    with nodes(server):
        for _ in range(10):
            raw.send(client_hello(pki, server.address)[0], server)
        await server.until(lambda: server.counters.dropped_half_open == 6)
        assert server.endpoint.half_open_count == 4
    raw.close()


async def test_unfinished_handshake_is_forgotten_at_its_deadline(pki: Pki) -> None:
    limits = AdmissionLimits(handshake_timeout_s=0.1)
    server, raw = Node(pki.server_settings(retry=False, admission=limits)), Raw()
    with nodes(server):
        for _ in range(5):
            raw.send(client_hello(pki, server.address)[0], server)
        await server.until(lambda: server.counters.handshake_timeouts == 5)
        assert server.endpoint.half_open_count == 0
        assert server.endpoint.peers == []
        assert server.seen.events == []
    raw.close()


async def test_handshakes_are_rate_limited_per_source(pki: Pki) -> None:
    limits = AdmissionLimits(handshake_rate=0.001, handshake_burst=3)
    server, raw = Node(pki.server_settings(retry=False, admission=limits)), Raw()
    with nodes(server):
        for _ in range(5):
            raw.send(client_hello(pki, server.address)[0], server)
        await server.until(lambda: server.counters.dropped_rate == 2)
        assert server.counters.accepted == 3
    raw.close()


async def test_stateless_answers_are_bounded_for_all_sources_but_token_holders_get_in(pki: Pki) -> None:
    limits = AdmissionLimits(stateless_rate=0.001, stateless_burst=1)
    server, raw, client = Node(pki.server_settings(admission=limits)), Raw(), Node()
    with nodes(server, client):
        client.connect(server, pki.client_settings(pki.agent))
        await client.seen.first(Connected)
        raw.send(client_hello(pki, server.address)[0], server)
        await server.until(lambda: server.counters.dropped_flood == 1)
        assert server.counters.retries_sent == 1
    raw.close()


async def test_connections_are_capped(pki: Pki) -> None:
    server, client = Node(pki.server_settings(admission=AdmissionLimits(max_connections=1))), Node()
    with nodes(server, client):
        client.connect(server, pki.client_settings(pki.agent))
        await client.seen.first(Connected)
        client.connect(server, pki.client_settings(pki.agent))
        await server.until(lambda: server.counters.dropped_connections_full == 1)


async def test_junk_of_every_kind_leaves_the_endpoint_alive_and_counted(pki: Pki) -> None:
    server, raw, client = Node(pki.server_settings()), Raw(), Node()
    chance = random.Random(7)
    hello, _ = client_hello(pki, server.address)
    kinds: list[Callable[[], bytes]] = [
        lambda: chance.randbytes(chance.randint(1, 1500)),
        lambda: b"\x40" + chance.randbytes(chance.randint(0, 60)),
        lambda: b"\xc0\0\0\0\1" + chance.randbytes(1300),
        lambda: hello[: chance.randint(1, len(hello))],
        lambda: hello + chance.randbytes(100),
        lambda: bytes(byte ^ (1 << chance.randint(0, 7)) if chance.random() < 0.01 else byte for byte in hello),
        lambda: b"\xc0\0\0\0\1\x14" + chance.randbytes(20) + b"\xff" * 1300,
    ]
    with nodes(server, client):
        peer = client.connect(server, pki.client_settings(pki.agent))
        await server.seen.first(PayloadLimit)
        for _ in range(30):
            for kind in kinds * 10:
                raw.send(kind(), server)
            before = len(server.seen.of(DatagramReceived))
            peer.send_datagram(b"still there")
            await server.until(lambda before=before: len(server.seen.of(DatagramReceived)) > before)  # type: ignore[misc]
        assert server.counters.connection_errors == 0
        assert server.counters.dropped_error == 0
        dropped = sum(
            getattr(server.counters, name) for name in server.counters.__slots__ if name.startswith("dropped")
        )
        assert dropped + server.counters.retry_token_failures > 1000
        assert server.endpoint.half_open_count <= 128
    raw.close()


async def test_junk_with_the_connection_id_of_a_session_does_not_harm_it(pki: Pki) -> None:
    server, raw, client = Node(pki.server_settings()), Raw(), Node()
    with nodes(server, client):
        peer = client.connect(server, pki.client_settings(pki.agent))
        await server.seen.first(PayloadLimit)
        cid = server.seen.peers(Connected)[0].cids[0]
        for first in (
            b"\x40",
            b"\x5f",
            b"\xc0\0\0\0\1\x14",
            b"\xe0\0\0\0\1\x14",
            b"\xd0\0\0\0\1\x14",
            b"\xf0\0\0\0\1\x14",
        ):
            for size in (0, 3, 20, 100, 1300):
                raw.send(first + cid + os.urandom(size), server)
        peer.send_datagram(b"unharmed")
        await server.seen.first(DatagramReceived)
        assert not peer.closed
        assert server.seen.of(Closed) == []
    raw.close()


async def test_non_quic_hook_sees_control_messages_before_quic_does(pki: Pki) -> None:
    taken: list[bytes] = []

    def hook(data: bytes, _source: tuple[str, int]) -> bool:
        taken.append(data)
        return True

    server, raw, client = Node(pki.server_settings(), non_quic=hook), Raw(), Node()
    with nodes(server, client):
        client.connect(server, pki.client_settings(pki.agent))
        await client.seen.first(Connected)
        assert taken == []
        raw.send(b"\x00\x01\x00\x00!\x12\xa4B" + bytes(12), server)
        raw.send(b"\x5a\x10\0\0\0\x2a", server)
        await server.until(lambda: len(taken) == 2)
    raw.close()


# Client certificates


def leaf_without_name(pki: Pki) -> Issued:
    return issue("nameless", pki.ca, usage=(CLIENT,))


def leaf_of_another_ca(_pki: Pki) -> Issued:
    return issue_member(issue("test CA", ca=True), "agent", "agent", "echo-service")


def leaf_expired(pki: Pki) -> Issued:
    return issue(
        "agent",
        pki.ca,
        uris=("spiffe://lab/agent/agent",),
        usage=(CLIENT,),
        starts_in=dt.timedelta(days=-2),
        lasts=dt.timedelta(days=1),
    )


def leaf_not_yet_valid(pki: Pki) -> Issued:
    return issue("agent", pki.ca, uris=("spiffe://lab/agent/agent",), usage=(CLIENT,), starts_in=dt.timedelta(hours=1))


def leaf_of_another_stack(pki: Pki) -> Issued:
    return issue_member(pki.ca, "agent", "agent", "echo-service", stack="other")


def leaf_for_servers(pki: Pki) -> Issued:
    return pki.server


def leaf_signed_by_a_leaf(pki: Pki) -> Issued:
    return issue_member(pki.agent, "agent", "agent", "echo-service")


def no_certificate(_pki: Pki) -> None:
    return None


@pytest.mark.parametrize(
    ("make", "code", "reason"),
    [
        (no_certificate, 0x01, "client cert required"),
        (leaf_without_name, 0x01, "invalid client cert"),
        (leaf_of_another_stack, 0x01, "invalid client cert"),
        (leaf_of_another_ca, 0x130, "unknown CA"),
        (leaf_signed_by_a_leaf, 0x130, "unknown CA"),
        (leaf_expired, 0x12D, "client cert expired"),
        (leaf_not_yet_valid, 0x12D, "client cert expired"),
        (leaf_for_servers, 0x12B, "invalid client cert"),
    ],
)
async def test_refused_client_is_told_why_and_nothing_of_it_is_delivered(
    pki: Pki, make: Callable[[Pki], Issued | None], code: int, reason: str
) -> None:
    server, client = Node(pki.server_settings()), Node()
    with nodes(server, client):
        peer = client.connect(server, pki.client_settings(make(pki)))
        # The client's last handshake flight may carry data already: it must not act.
        await client.seen.first(Connected)
        peer.send_datagram(b"\x11\x04evil")
        peer.send_stream(None, b"evil")
        closed = await client.seen.first(Closed, peer)
        assert (closed.code, closed.reason) == (code, reason)
        assert server.seen.events == []
        assert server.counters.rejected_certificates == 1
        assert server.endpoint.established_count == 0


async def test_data_beside_the_clients_last_flight_does_not_act_before_it_is_judged(pki: Pki) -> None:
    server, raw = Node(pki.server_settings(retry=False)), Raw()
    connection = GuardedConnection(configuration=client_configuration(pki.client_settings()), limits=ConnectionLimits())
    connection.connect(server.address, 0.0)
    with nodes(server):
        for data, _ in connection.datagrams_to_send(0.0):
            raw.send(data, server)
        while not connection._handshake_complete:
            connection.receive_datagram(await raw.answer(), server.address, 0.1)
        connection.send_datagram_frame(b"\x11\x04evil")
        connection.queue_stream(None, b"evil")
        flight = [data for data, _ in connection.datagrams_to_send(0.2)]
        for data in flight:
            raw.send(data, server)
        await server.until(lambda: server.counters.rejected_certificates == 1)
        assert server.seen.of(DatagramReceived) == []
        assert server.seen.of(StreamReceived) == []
    raw.close()


async def test_anonymous_client_is_let_in_only_where_configured(pki: Pki) -> None:
    server, client = Node(pki.server_settings(allow_anonymous=True)), Node()
    with nodes(server, client):
        client.connect(server, pki.client_settings())
        await server.seen.first(Connected)
        assert server.seen.peers(Connected)[0].identity is None
        client.connect(server, pki.client_settings(pki.agent))
        await server.until(lambda: len(server.seen.of(Connected)) == 2)
        identity = server.seen.peers(Connected)[1].identity
        assert isinstance(identity, Identity)
        assert (identity.role, identity.name) == ("agent", "agent")
        assert identity.grants == {"agent:echo-service"}


# What an authenticated peer can do


async def test_sparse_stream_offsets_cannot_inflate_windows(pki: Pki) -> None:
    limits = ConnectionLimits(stream_window_bytes=16_384, connection_window_bytes=32_768)
    server, client = Node(pki.server_settings(limits=limits)), Node()
    with nodes(server, client):
        peer = client.connect(server, pki.client_settings(pki.agent))
        await client.seen.first(PayloadLimit)
        peer.send_stream(None, b"x")
        await server.seen.first(StreamReceived)
        theirs = server.seen.peers(Connected)[0].connection
        stream = theirs._streams[0]
        for _ in range(10):
            # What one byte at the highest allowed offset does to a receiver.
            stream.receiver.highest_offset = stream.max_stream_data_local
            theirs._local_max_data.used = theirs._local_max_data.value
            # A lost MAX_DATA and MAX_STREAM_DATA, so that both are written again.
            theirs._local_max_data.sent = stream.max_stream_data_local_sent = 0
            theirs.send_ping(1)
            theirs.datagrams_to_send(asyncio.get_running_loop().time())
        assert stream.max_stream_data_local == 16_384
        assert theirs._local_max_data.value == 32_768


async def test_more_datagrams_than_the_queue_holds_pass_in_one_batch_while_the_window_allows(pki: Pki) -> None:
    server, client = Node(pki.server_settings()), Node()
    with nodes(server, client):
        peer = client.connect(server, pki.client_settings(pki.agent))
        await client.seen.first(PayloadLimit)
        for index in range(150):
            peer.send_datagram(bytes([index]))
        await server.until(lambda: len(server.seen.of(DatagramReceived)) == 150)
        assert peer.stats.dropped_queue_full == 0


async def test_streams_are_limited(pki: Pki) -> None:
    server, client = Node(pki.server_settings(limits=ConnectionLimits(max_streams_bidi=4))), Node()
    with nodes(server, client):
        peer = client.connect(server, pki.client_settings(pki.agent))
        await client.seen.first(Connected)
        for _ in range(20):
            peer.send_stream(None, b"x")
        peer.send_datagram(b"done")
        await server.seen.first(DatagramReceived)
        assert len({event.stream_id for event in server.seen.of(StreamReceived)}) <= 4
        assert len(server.seen.peers(Connected)[0].connection._streams) <= 4


async def test_address_changes_do_not_accumulate(pki: Pki) -> None:
    server, client = Node(pki.server_settings()), Node()
    nat = Nat(server)
    with nodes(server, client):
        peer = client.connect(nat.inside.local_address, pki.client_settings(pki.agent))
        await client.seen.first(PayloadLimit)
        for count in range(30):
            nat.rebind()
            peer.send_datagram(bytes([count]))
            await server.until(lambda count=count: len(server.seen.of(DatagramReceived)) > count)  # type: ignore[misc]
        connection = server.seen.peers(Connected)[0].connection
        assert len(connection._network_paths) <= 8
        assert len(server.seen.peers(Connected)[0].cids) <= 4
    nat.close()


# The tables


def test_token_bucket_refills_and_is_bounded() -> None:
    buckets = TokenBuckets(rate=1.0, burst=2.0, sources=3)
    assert [buckets.take("a", 0.0) for _ in range(3)] == [True, True, False]
    assert buckets.take("b", 0.0)
    assert not buckets.take("a", 0.5)
    assert buckets.take("a", 1.5)
    for index in range(100):
        buckets.take(f"source {index}", 2.0)
    assert len(buckets) == 3


def test_shared_token_bucket() -> None:
    bucket = TokenBucket(rate=10.0, burst=1.0)
    assert bucket.take(100.0)
    assert not bucket.take(100.05)
    assert bucket.take(100.15)


def test_used_tokens_are_remembered_while_they_could_be_replayed() -> None:
    used = UsedTokens(lifetime_s=30.0, capacity=100)
    assert used.spend(b"one", 0.0)
    assert not used.spend(b"one", 29.0)
    assert used.spend(b"one", 31.0)
    for index in range(1000):
        used.spend(index.to_bytes(4, "big"), 40.0)
    assert len(used) <= 100


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_sources_are_limited_by_address_or_prefix(host: str, key: str) -> None:
    assert source_key(host) == key


def test_token_presence_is_read_without_parsing(pki: Pki) -> None:
    hello, _ = client_hello(pki, ("127.0.0.1", 1))
    at = 6 + hello[5]
    at += 1 + hello[at]
    assert carries_no_token(hello)
    assert not carries_no_token(hello[:at] + b"\x10" + bytes(16) + hello[at + 1 :])
    assert carries_no_token(hello[:7])
    assert carries_no_token(b"")
