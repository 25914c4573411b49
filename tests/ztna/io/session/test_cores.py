"""Both session cores, as client and as server, behave alike: the same suite over the four pairs, on a virtual clock."""

import datetime as dt
import random

import pytest

from tests.support.core_pair import PKI, SERVER_URI, Pair, Weather, both, send_all
from ztna.io.certs import load_anchors, verify_server
from ztna.io.session import core_base
from ztna.io.session.core import (
    PayloadLimit,
    SessionLimits,
    SessionTls,
    available,
    client_core,
    server_core,
)

CORES = ("aioquic", "qh3")
PAIRS = [(client, server) for client in CORES for server in CORES]


@pytest.fixture(params=PAIRS, ids=["-".join(pair) for pair in PAIRS])
def names(request: pytest.FixtureRequest) -> tuple[str, str]:
    found: tuple[str, str] = request.param
    return found


# handshake


def test_handshake_names_the_server_and_the_protocol(names: tuple[str, str]) -> None:
    pair = Pair(*names).handshake()
    assert (pair.client.core.name, pair.server.core.name) == names
    chain = pair.client.core.peer_chain
    assert SERVER_URI in verify_server(chain, load_anchors(PKI.ca.pem())).uris
    assert chain[0] == PKI.server.der
    assert pair.server.core.peer_chain == []
    assert pair.client.core.rtt_s == pytest.approx(0.05, abs=0.02)


def test_handshake_takes_one_round_trip_and_a_half(names: tuple[str, str]) -> None:
    pair = Pair(*names, weather=Weather(delay_s=0.75))
    start = pair.now
    assert pair.run(10, lambda: pair.server.core.established)
    assert pair.now - start <= 3 * 0.75 + 1e-6


@pytest.mark.parametrize("seed", range(10))
def test_handshake_at_30_percent_loss(names: tuple[str, str], seed: int) -> None:
    pair = Pair(*names, weather=Weather(loss=0.3), seed=seed, handshake_timeout_s=30.0)
    assert pair.run(30, lambda: both(pair) == (True, True)), (pair.client.closed, pair.server.closed)


def test_payloads_grow_to_what_the_path_carries(names: tuple[str, str]) -> None:
    pair = Pair(*names).handshake()
    pair.run(2)
    for side in (pair.client, pair.server):
        assert 1400 <= side.core.max_datagram_payload <= 1452 - 30
        assert max(map(len, side.sent)) <= 1452
        assert side.of(PayloadLimit)[-1].max_bytes == side.core.max_datagram_payload


def test_another_ca_is_refused(names: tuple[str, str]) -> None:
    pair = Pair(*names, ca=PKI.foreign)
    assert pair.run(5, lambda: pair.client.closed is not None and pair.server.core.closed)
    assert pair.client.closed is not None
    assert (pair.client.closed.code, pair.client.closed.reason) == (0x0130, "unknown CA")
    assert not pair.client.core.established
    assert not pair.client.core.send_datagram(b"x")


def test_an_expired_certificate_is_refused(names: tuple[str, str]) -> None:
    old = PKI.issue_server(PKI.ca, starts_in=dt.timedelta(days=-9), lasts=dt.timedelta(days=2))
    pair = Pair(*names, credentials=old)
    assert pair.run(5, lambda: pair.client.closed is not None)
    assert pair.client.closed is not None
    assert pair.client.closed.code == 0x012D


@pytest.mark.parametrize(("name", "accepted"), [(SERVER_URI, True), ("connector.other.ztna", False)])
def test_a_server_name_is_checked_where_given(names: tuple[str, str], name: str, accepted: bool) -> None:
    pair = Pair(*names, server_name=name) if not name.startswith("spiffe") else Pair(*names)
    pair.run(2)
    assert pair.client.core.established is accepted


def test_a_peer_that_never_answers_ends_at_the_deadline() -> None:
    for name in CORES:
        pair = Pair(name, "aioquic", weather=Weather(down=True), handshake_timeout_s=5.0)
        start = pair.now
        assert pair.run(60, lambda pair=pair: pair.client.closed is not None)  # type: ignore[misc]
        assert pair.now - start == pytest.approx(5.0, abs=0.01)
        assert pair.client.core.get_timer() is None
        assert pair.client.core.stats.handshake_timeouts == 1


def test_a_client_that_stops_half_way_is_forgotten(names: tuple[str, str]) -> None:
    pair = Pair(*names, handshake_timeout_s=5.0, weather=Weather())
    pair.collect(pair.client)
    pair.run(0.026)
    pair.up = Weather(down=True)
    pair.down = Weather(down=True)
    assert pair.run(60, lambda: pair.server.closed is not None)
    assert pair.server.closed is not None
    assert pair.server.closed.reason == "handshake timeout"
    assert pair.now - 1000.0 <= 5.1


def test_cores_are_chosen_by_name() -> None:
    tls = SessionTls(PKI.ca.cert_pem.encode(), PKI.server.credentials)
    assert available("qh3")
    assert client_core("auto", tls, 0.0).name == "qh3"
    assert server_core("aioquic", tls, 0.0).name == "aioquic"
    with pytest.raises(ValueError, match="no QUIC core named"):
        client_core("quiche", tls, 0.0)
    with pytest.raises(ValueError, match="credentials"):
        server_core("auto", SessionTls(PKI.ca.cert_pem.encode()), 0.0)


# DATAGRAM frames


def test_datagrams_arrive_once_in_spite_of_duplicates_and_reordering(names: tuple[str, str]) -> None:
    pair = Pair(*names).handshake()
    pair.up = pair.down = Weather(duplicate=0.3, reorder=0.25, loss=0.05)
    sent = [b"%04d" % number for number in range(600)]
    for at in range(0, len(sent), 10):
        for data in sent[at : at + 10]:
            assert pair.client.core.send_datagram(data)
            assert pair.server.core.send_datagram(data)
        pair.run(0.05)
    pair.run(1)
    for side in (pair.client, pair.server):
        assert len(side.datagrams) == len(set(side.datagrams))
        assert set(side.datagrams) <= set(sent)
        assert len(side.datagrams) > 0.85 * len(sent)


def test_oversize_datagrams_are_dropped_and_hold_up_nothing(names: tuple[str, str]) -> None:
    pair = Pair(*names).handshake()
    pair.run(1)
    for side in (pair.client, pair.server):
        core = side.core
        limit = core.max_datagram_payload
        sizes = [limit + 1, 1500, 2000, 9000, 65535]
        for size in sizes:
            assert not core.send_datagram(bytes(size))
            assert core.send_datagram(b"next %d" % size)
        assert core.send_datagram(bytes(limit))
        pair.run(0.5)
        other = pair.other(side)
        assert other.datagrams == [b"next %d" % size for size in sizes] + [bytes(limit)]
        assert core.stats.datagrams_dropped_size == len(sizes)


def test_a_silent_peer_bounds_what_is_queued_and_in_flight(names: tuple[str, str]) -> None:
    pair = Pair(*names, limits=SessionLimits(datagram_queue_packets=64, datagram_queue_bytes=65_536)).handshake()
    pair.run(1)
    before = pair.client.sent_bytes
    pair.down = Weather(down=True)
    core = pair.client.core
    for _ in range(200):
        for _ in range(100):
            core.send_datagram(bytes(1000))
        pair.collect(pair.client)
        pair.now += 0.0001
    assert pair.client.sent_bytes - before < 64 * 1024
    assert core.room == 0
    stats = core.stats
    assert stats.datagrams_dropped_full >= 20_000 - 64 - 64
    pair.down = pair.up
    pair.run(2)
    assert core.room > 0
    assert core.send_datagram(b"after")
    pair.run(0.2)
    assert pair.server.datagrams[-1] == b"after"


def test_the_newest_datagrams_survive_a_full_queue(names: tuple[str, str]) -> None:
    pair = Pair(*names, limits=SessionLimits(datagram_queue_packets=4)).handshake()
    for number in range(10):
        pair.client.core.send_datagram(b"%d" % number)
    pair.run(0.2)
    assert pair.server.datagrams == [b"6", b"7", b"8", b"9"]


def test_datagrams_nobody_takes_are_bounded(names: tuple[str, str]) -> None:
    pair = Pair(*names, limits=SessionLimits(datagrams_received=8)).handshake()
    core = pair.server.core
    for _ in range(20):
        pair.client.core.send_datagram(b"x")
    for packet in pair.client.core.packets(pair.now):
        core.receive([packet], pair.now)
    assert len(core.take_datagrams()) == 8
    assert core.stats.datagrams_dropped_unread == 12


def test_replayed_packets_are_delivered_once(names: tuple[str, str]) -> None:
    pair = Pair(*names).handshake()
    pair.client.sent.clear()
    pair.client.core.send_datagram(b"once")
    stream = pair.client.core.open_stream()
    pair.client.core.write(stream, b"once")
    pair.run(0.2)
    for _ in range(5):
        for packet in pair.client.sent:
            pair.inject(pair.server, packet)
        pair.run(0.1)
    assert pair.server.datagrams == [b"once"]
    assert pair.server.data[stream] == b"once"
    assert both(pair) == (True, True)


# closing, silence, paths


def test_close_tells_code_and_reason(names: tuple[str, str]) -> None:
    for near, far in (("client", "server"), ("server", "client")):
        pair = Pair(*names).handshake()
        side, other = getattr(pair, near), getattr(pair, far)
        side.core.close(0x17, "enough")
        assert side.core.closed
        assert pair.run(1, lambda other=other: other.closed is not None)  # type: ignore[misc]
        assert (side.closed.code, side.closed.reason, side.closed.by_peer) == (0x17, "enough", False)
        assert (other.closed.code, other.closed.reason, other.closed.by_peer) == (0x17, "enough", True)
        pair.run(10)
        assert (pair.client.core.get_timer(), pair.server.core.get_timer()) == (None, None)
        assert side.events[-1] == side.closed
        assert other.events[-1] == other.closed


def test_silence_ends_the_connection(names: tuple[str, str]) -> None:
    pair = Pair(*names, idle_timeout_s=20.0).handshake()
    pair.run(3)
    pair.up = pair.down = Weather(down=True)
    start = pair.now
    assert pair.run(100, lambda: pair.client.core.closed and pair.server.core.closed)
    assert 16.0 <= pair.now - start <= 26.0
    for side in (pair.client, pair.server):
        assert side.closed is not None
        assert (side.closed.code, side.closed.reason) == (0, "idle timeout")
        assert side.core.get_timer() is None


def test_pings_keep_an_idle_connection(names: tuple[str, str]) -> None:
    pair = Pair(*names, idle_timeout_s=20.0).handshake()
    for _ in range(10):
        pair.run(10)
        pair.client.core.ping()
    assert both(pair) == (True, True)


def test_after_an_outage_a_changed_path_resumes_within_a_round_trip(names: tuple[str, str]) -> None:
    for up in (True, False):
        pair = Pair(*names).handshake()
        pair.run(1)
        source, target = (pair.client, pair.server) if up else (pair.server, pair.client)
        stream = pair.client.core.open_stream()
        pair.client.core.write(stream, b"open")
        pair.run(0.2)
        pair.up = pair.down = Weather(down=True)
        source.core.write(stream, b"sent into the outage" + bytes(50_000))
        for number in range(100):
            source.core.send_datagram(b"lost %d" % number)
            pair.run(0.05)
        assert b"outage" not in target.data.get(stream, b"")
        pair.up = pair.down = Weather()
        start = pair.now
        pair.client.core.path_changed(pair.now)
        pair.server.core.path_changed(pair.now)
        source.core.send_datagram(b"fresh")
        assert pair.run(5, lambda target=target: b"fresh" in target.datagrams)  # type: ignore[misc]
        assert pair.now - start <= 0.1 + 0.03
        assert pair.run(5, lambda target=target, stream=stream: b"outage" in target.data.get(stream, b""))  # type: ignore[misc]
        assert pair.now - start <= 0.25
        assert pair.run(10, lambda target=target, stream=stream: len(target.data[stream]) >= 50_020)  # type: ignore[misc]
        assert pair.now - start <= 1.0


def test_a_path_that_swallows_large_packets_from_the_start(names: tuple[str, str]) -> None:
    pair = Pair(*names, weather=Weather(mtu=1252)).handshake()
    pair.run(5)
    data = random.Random(1).randbytes(200_000)
    for up in (True, False):
        assert send_all(pair, up, data, within_s=20) == data
    for side in (pair.client, pair.server):
        assert side.core.max_datagram_payload < 1252
        assert side.core.send_datagram(bytes(1100))
    pair.run(1)
    assert [len(data) for data in pair.server.datagrams] == [1100]


def test_a_path_that_comes_to_swallow_large_packets(names: tuple[str, str]) -> None:
    pair = Pair(*names).handshake()
    pair.run(2)
    pair.up = pair.down = Weather(mtu=1252)
    start = pair.now
    while pair.now - start < 4:
        for side in (pair.client, pair.server):
            side.core.send_datagram(bytes(side.core.max_datagram_payload))
            side.core.send_datagram(b"small")
        pair.run(0.02)
    for side in (pair.client, pair.server):
        assert side.core.max_datagram_payload < 1200
        assert side.core.stats.payload_shrunk == 1
        late = [data for data in pair.other(side).datagrams[-20:] if len(data) > 1000]
        assert late


def test_keys_are_changed_on_the_way(names: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_base, "REKEY_PACKETS", 300)
    pair = Pair(*names)
    for side in (pair.client, pair.server):
        monkeypatch.setattr(side.core, "_rekey_at", 300)
    pair.handshake()
    sent = 0
    for _ in range(150):
        for side in (pair.client, pair.server):
            for _ in range(10):
                sent += side.core.send_datagram(bytes(1000))
        pair.run(0.06)
    assert pair.client.core.stats.packets_sent > 4 * 300
    assert len(pair.client.datagrams) + len(pair.server.datagrams) == sent
    assert send_all(pair, True, bytes(300_000), within_s=20) == bytes(300_000)
    assert pair.client.core.stats.packet_errors == pair.server.core.stats.packet_errors == 0


def test_what_the_peer_owes_us_is_known(names: tuple[str, str]) -> None:
    pair = Pair(*names).handshake()
    seen = []
    pair.run(2)
    seen.append(pair.client.core.awaits_answer)
    pair.client.core.send_datagram(b"to be acknowledged")
    assert pair.client.core.packets(pair.now)  # and lost
    seen.append(pair.client.core.awaits_answer)
    pair.run(2)  # its probes are answered
    seen.append(pair.client.core.awaits_answer)
    assert seen == [False, True, False]
    # Acknowledgements are owed none.
    for _ in range(20):
        pair.server.core.send_datagram(b"one way")
        pair.run(0.2)
        assert not pair.client.core.awaits_answer


def test_an_acknowledgement_goes_with_the_answer_and_not_alone(names: tuple[str, str]) -> None:
    pair = Pair(*names).handshake()
    pair.run(2)
    pair.client.core.send_datagram(b"question")
    question = pair.client.core.packets(pair.now)
    pair.server.core.receive(question, pair.now)
    pair.server.core.send_datagram(b"answer")
    answer = pair.server.core.packets(pair.now)
    assert (len(question), len(answer)) == (1, 1)
    pair.client.core.receive(answer, pair.now)
    assert pair.client.core.take_datagrams() == [b"answer"]
    pair.server.sent.clear()
    pair.run(0.003)
    assert pair.server.sent == []
