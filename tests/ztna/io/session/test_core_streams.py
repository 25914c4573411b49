"""Streams of the session cores over the four pairs: whole at any weather, each direction by itself, back-pressure."""

import hashlib
import random

import pytest

from tests.support.core_pair import Pair, Weather, both, send_all
from ztna.io.session.core import SessionLimits, StreamReset, StreamWritable

CORES = ("aioquic", "qh3")
PAIRS = [(client, server) for client in CORES for server in CORES]


@pytest.fixture(params=PAIRS, ids=["-".join(pair) for pair in PAIRS])
def names(request: pytest.FixtureRequest) -> tuple[str, str]:
    found: tuple[str, str] = request.param
    return found


@pytest.mark.parametrize("size", [1_000_000, pytest.param(10_000_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
def test_streams_arrive_whole_at_20_percent_loss(names: tuple[str, str], up: bool, size: int) -> None:
    pair = Pair(*names, seed=7).handshake()
    pair.client.keep = pair.server.keep = False
    pair.up = pair.down = Weather(delay_s=0.005, loss=0.2, reorder=0.1, duplicate=0.02)
    data = random.Random(3).randbytes(size)
    received = send_all(pair, up, data, within_s=3600)
    assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()


@pytest.mark.parametrize("corrupt", [0.02, 0.3])
def test_corrupt_packets_cost_themselves_alone(names: tuple[str, str], corrupt: float) -> None:
    pair = Pair(*names, weather=Weather(corrupt=corrupt), seed=11, handshake_timeout_s=60.0)
    assert pair.run(60, lambda: both(pair) == (True, True))
    data = random.Random(5).randbytes(300_000)
    assert send_all(pair, True, data, within_s=600) == data
    for side in (pair.client, pair.server):
        assert side.core.stats.packet_errors == 0


def test_each_direction_ends_by_itself(names: tuple[str, str]) -> None:
    pair = Pair(*names).handshake()
    stream = pair.client.core.open_stream()
    pair.client.core.write(stream, b"question", True)
    assert pair.run(1, lambda: stream in pair.server.ended)
    assert stream not in pair.client.ended
    pair.server.core.write(stream, b"answer")
    pair.server.core.write(stream, b"", True)
    assert pair.run(1, lambda: stream in pair.client.ended)
    assert (bytes(pair.server.data[stream]), bytes(pair.client.data[stream])) == (b"question", b"answer")
    pair.client.core.write(stream, b"late")
    assert pair.client.core.stats.stream_bytes_refused == 4
    assert pair.client.core.writable(stream) == 0


@pytest.mark.parametrize("seed", range(6))
def test_an_end_that_comes_alone_outlives_an_outage(names: tuple[str, str], seed: int) -> None:
    rng = random.Random(seed)
    pair = Pair(*names, seed=seed).handshake()
    pair.run(2.5)
    stream = pair.client.core.open_stream()
    pair.client.core.write(stream, bytes(rng.choice((1500, 20_000))))
    pair.run(0.1)
    pair.client.core.write(stream, bytes(8000))
    pair.up.down = pair.down.down = True
    pair.run(rng.uniform(0.0, 0.3))
    pair.client.core.write(stream, b"", True)
    pair.run(rng.uniform(1.0, 6.0))
    pair.up.down = pair.down.down = False
    assert pair.run(30, lambda: stream in pair.server.ended)


@pytest.mark.parametrize("loss", [0.0, 0.02])
def test_an_end_that_comes_alone_does_not_wait_for_other_streams(names: tuple[str, str], loss: float) -> None:
    pair = Pair(*names, seed=3).handshake()
    pair.run(2.5)
    pair.up = pair.down = Weather(delay_s=0.01, loss=loss)
    bulk, brief = pair.client.core.open_stream(), pair.client.core.open_stream()

    def feed() -> bool:
        room = pair.client.core.writable(bulk)
        pair.client.core.write(bulk, bytes(room))
        return brief in pair.server.ended

    pair.run(0.5, feed)
    pair.client.core.write(brief, b"brief")
    pair.run(0.005, feed)
    began = pair.now
    pair.client.core.write(brief, b"", True)
    assert pair.run(10, feed)
    assert pair.now - began < (0.5 if not loss else 3.0)


def test_reset_ends_both_directions_at_the_peer(names: tuple[str, str]) -> None:
    pair = Pair(*names).handshake()
    stream = pair.client.core.open_stream()
    pair.client.core.write(stream, b"x" * 10)
    pair.run(0.2)
    pair.client.core.reset(stream, 7)
    pair.run(0.5)
    resets = pair.server.of(StreamReset)
    assert resets
    assert {(reset.stream_id, reset.code) for reset in resets} == {(stream, 7)}
    assert pair.server.core.writable(stream) == 0
    pair.server.core.write(stream, b"into the void")
    pair.run(0.5)
    assert pair.client.data.get(stream) is None
    assert both(pair) == (True, True)


def test_many_streams_come_and_go(names: tuple[str, str]) -> None:
    pair = Pair(*names, limits=SessionLimits(max_streams_bidi=8)).handshake()
    done = 0
    for _ in range(40):
        opened = []
        while (stream := pair.client.core.open_stream()) >= 0:
            opened.append(stream)
        assert 1 <= len(opened) <= 8
        for stream in opened:
            pair.client.core.write(stream, b"%d" % stream, True)
        assert pair.run(5, lambda opened=opened: set(opened) <= pair.server.ended)  # type: ignore[misc]
        for stream in opened:
            assert pair.server.data[stream] == b"%d" % stream
            pair.server.core.write(stream, b"ok", True)
        assert pair.run(5, lambda opened=opened: set(opened) <= pair.client.ended)  # type: ignore[misc]
        done += len(opened)
        pair.run(0.3)
    assert done >= 40


def test_a_receiver_that_does_not_consume_stops_its_sender(names: tuple[str, str]) -> None:
    limits = SessionLimits(stream_send_bytes=131_072)
    for up in (True, False):
        pair = Pair(*names, limits=limits).handshake()
        source, target = (pair.client, pair.server) if up else (pair.server, pair.client)
        slow, quick = pair.client.core.open_stream(), pair.client.core.open_stream()
        for stream in (slow, quick):
            pair.client.core.write(stream, b"open")
        pair.run(0.2)
        target.consume = False
        given = 0
        for _ in range(100):
            while (room := source.core.writable(slow)) > 0:
                source.core.write(slow, bytes(room))
                given += room
            pair.run(0.1)
        held = len(target.data[slow])
        assert held <= 65_536 + 4
        assert given <= held + limits.stream_send_bytes
        # Nothing else is held up by it.
        source.core.write(quick, b"quick", True)
        source.core.send_datagram(b"datagram")
        pair.run(0.3)
        assert bytes(target.data[quick]).endswith(b"quick")
        assert target.datagrams == [b"datagram"]
        # And it goes on when the application takes what there is.
        target.consume = True
        target.core.consumed(slow, held)
        assert pair.run(30, lambda source=source, slow=slow: source.core.writable(slow) >= 65_536)  # type: ignore[misc]
        assert StreamWritable(slow) in source.events


def test_windows_grow_with_use(names: tuple[str, str]) -> None:
    pair = Pair(*names, weather=Weather(delay_s=0.1)).handshake()
    pair.client.keep = pair.server.keep = False
    start = pair.now
    data = bytes(8_000_000)
    assert send_all(pair, True, data, within_s=60) == data
    # With the first window alone this would take 24 s.
    assert pair.now - start < 8


def test_writing_far_beyond_what_fits_is_our_own_mistake(names: tuple[str, str]) -> None:
    limits = SessionLimits(stream_send_bytes=65_536)
    pair = Pair(*names, limits=limits).handshake()
    stream = pair.client.core.open_stream()
    pair.client.core.write(stream, bytes(65_536))
    pair.client.core.write(stream, bytes(3 * 65_536))
    with pytest.raises(BufferError):
        pair.client.core.write(stream, bytes(2 * 65_536))
    assert both(pair) == (True, True)
