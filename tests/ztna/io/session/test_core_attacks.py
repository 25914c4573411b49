"""What a peer may try against a session core: bounded memory, and the connection closed or unharmed; never a raise."""

import os
import random
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aioquic import tls
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.core_pair import Pair, Weather
from ztna.io.session import core_qh3_audit
from ztna.io.session.core_aioquic import AioquicCore
from ztna.io.session.core_base import ERRORS_IN_A_ROW
from ztna.io.session.core_qh3_audit import cost_of

MIB = 1 << 20
CORES = ("aioquic", "qh3")
PACKET = 1100
FRAMES = 200
PACKETS = 300


@pytest.fixture(params=CORES)
def victim(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def varint(value: int) -> bytes:
    if value < 0x40:
        return bytes((value,))
    if value < 0x4000:
        return (value | 0x4000).to_bytes(2, "big")
    if value < 1 << 30:
        return (value | 0x8000_0000).to_bytes(4, "big")
    return (value | 0xC000_0000_0000_0000).to_bytes(8, "big")


def forge(core: AioquicCore, payload: bytes) -> bytes:
    """A 1-RTT packet of this client with any payload."""
    connection = core._connection
    assert connection is not None
    number = connection._packet_number
    connection._packet_number += 1
    crypto = connection._cryptos[tls.Epoch.ONE_RTT]
    head = bytes((0x41 | crypto.key_phase << 2,)) + connection._peer_cid.cid + (number & 0xFFFF).to_bytes(2, "big")
    return crypto.encrypt_packet(head, payload, number)


def packed(frames: Iterator[bytes], packets: int) -> Iterator[bytes]:
    for _ in range(packets):
        payload: list[bytes] = []
        room = PACKET
        for frame in frames:
            payload.append(frame)
            room -= len(frame)
            if room < 60 or len(payload) >= FRAMES:
                break
        if not payload:
            return
        yield b"".join(payload)


def rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def attack(
    victim: str, payloads: Iterator[bytes], *, acknowledge: bool = True, batch: int = 32
) -> tuple[Pair, int, int]:
    """Send payloads from an established client; returns the pair, bytes of memory gained, bytes the victim answered."""
    pair = Pair("aioquic", victim).handshake()
    pair.run(1)
    attacker = pair.client.core
    assert isinstance(attacker, AioquicCore)
    pair.server.keep = pair.client.keep = False
    target = pair.server.core
    tracemalloc.start()
    before, answered, traced = rss(), 0, 0
    packets: list[bytes] = []
    for payload in payloads:
        packets.append(forge(attacker, payload))
        if len(packets) < batch:
            continue
        pair.now += 0.001
        target.receive(packets, pair.now)
        packets = []
        pair.drain(pair.server)
        answers = target.packets(pair.now)
        answered += sum(map(len, answers))
        if acknowledge and answers:
            attacker.receive(answers, pair.now)
            pair.drain(pair.client)
            target.receive(attacker.packets(pair.now), pair.now)
        if target.closed:
            break
    traced = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return pair, max(traced, rss() - before), answered


def unharmed(pair: Pair) -> bool:
    """Whether the connection still carries DATAGRAMs, if it was not closed."""
    if pair.server.core.closed:
        return True
    pair.client.core.send_datagram(b"alive")
    pair.run(1)
    return b"alive" in pair.server.datagrams


def numbered(make: Callable[[int], bytes]) -> Iterator[bytes]:
    number = 0
    while True:
        yield make(number)
        number += 1


def new_connection_id(number: int) -> bytes:
    sequence = number + 2
    cid = os.urandom(16)
    return b"\x18" + varint(sequence) + varint(sequence) + bytes((len(cid),)) + cid + os.urandom(16)


FLOODS: dict[str, Callable[[int], bytes]] = {
    "PATH_CHALLENGE": lambda _: b"\x1a" + os.urandom(8),
    "NEW_CONNECTION_ID": new_connection_id,
    "CRYPTO gaps": lambda number: b"\x06" + varint(2 + 2 * number) + varint(1) + b"x",
    "sparse STREAM": lambda number: b"\x0e" + varint(0) + varint(1 + 2 * number) + varint(1) + b"x",
    "DATA_BLOCKED": lambda number: b"\x14" + varint(number),
    "NEW_TOKEN": lambda _: b"\x07" + varint(64) + bytes(64),
    "PING": lambda _: b"\x01",
    "MAX_DATA": lambda number: b"\x10" + varint(1_000_000 + number),
}


@pytest.mark.parametrize("acknowledge", [True, False], ids=["acknowledging", "silent"])
@pytest.mark.parametrize("kind", FLOODS)
def test_floods_of_frames_stay_within_bounds(victim: str, kind: str, acknowledge: bool) -> None:
    payloads = packed(numbered(FLOODS[kind]), PACKETS)
    pair, memory, answered = attack(victim, payloads, acknowledge=acknowledge)
    assert memory < 12 * MIB, f"{memory / MIB:.1f} MiB"
    assert answered < PACKETS * PACKET
    assert unharmed(pair)


def test_offsets_at_the_end_of_every_window(victim: str) -> None:
    def frames() -> Iterator[bytes]:
        for stream in range(0, 512 * 4, 4):
            yield b"\x0e" + varint(stream) + varint(65_000) + varint(1) + b"x"

    pair, memory, _ = attack(victim, packed(frames(), 10_000))
    assert memory < 12 * MIB
    assert unharmed(pair)


def test_beyond_a_window_is_a_flow_control_error(victim: str) -> None:
    frame = b"\x0e" + varint(0) + varint(1 << 30) + varint(1) + b"x"
    pair, _, _ = attack(victim, iter([frame]), batch=1)
    assert pair.server.closed is not None
    assert pair.server.closed.code == 0x03


def test_data_beyond_its_credit_closes(victim: str) -> None:
    """A peer that heeds QUIC's windows, which qh3 opens by itself, but not ours."""
    pair = Pair("aioquic", victim).handshake()
    pair.server.consume = False
    attacker = pair.client.core
    assert isinstance(attacker, AioquicCore)
    for at in range(0, 400_000, 1000):
        if pair.server.core.closed:
            break
        payload = b"\x0e" + varint(4) + varint(at) + varint(1000) + bytes(1000)
        pair.server.core.receive([forge(attacker, payload)], pair.now)
        pair.server.core.packets(pair.now)
        pair.drain(pair.server)
    pair.drain(pair.server)
    assert pair.server.closed is not None
    assert pair.server.closed.code == 0x03
    assert len(pair.server.data[4]) <= 65_536


def test_acknowledgements_of_what_was_never_sent(victim: str) -> None:
    frame = b"\x02" + varint(1_000_000) + varint(0) + varint(0) + varint(0)
    pair, _, _ = attack(victim, iter([frame] * 4), batch=1)
    assert unharmed(pair)


def test_acknowledgements_of_very_many_ranges(victim: str) -> None:
    def frames() -> Iterator[bytes]:
        while True:
            yield b"\x02" + varint(8) + varint(0) + varint(4) + varint(0) + (varint(0) + varint(0)) * 4

    pair, memory, _ = attack(victim, packed(frames(), PACKETS))
    assert memory < 12 * MIB
    assert unharmed(pair)


def test_credit_records_are_checked(victim: str) -> None:
    for payload in (
        b"\x0b" + varint(2) + varint(3) + b"abc",  # ends the stream of records
        b"\x0a" + varint(6) + varint(1) + b"x",  # a second unidirectional stream
    ):
        pair, _, _ = attack(victim, iter([payload]), batch=1)
        assert pair.server.core.closed
    records = b"".join((number * 4).to_bytes(8, "big") + (1 << 40).to_bytes(8, "big") for number in range(60))
    pair, memory, _ = attack(victim, iter([b"\x0a" + varint(2) + varint(len(records)) + records]), batch=1)
    assert memory < 4 * MIB
    assert unharmed(pair)


def test_the_audit_tells_floods_from_sessions() -> None:
    challenge = b"\x1a" + bytes(8)
    assert cost_of(challenge * 20) == 20
    assert cost_of(new_connection_id(1) * 3) == 3
    assert cost_of(b"\x06\x00\x01x" * 5) == 5
    assert cost_of(b"\x0e\x00\x01\x01x" * 30) == 30 - core_qh3_audit.TINY_STREAMS
    assert cost_of(b"\x02\x08\x00\x01\x00\x00\x00" + b"\x10\x05" + b"\x31\x40\x64" + bytes(100)) == 0
    assert cost_of(b"\x0c\x00\x05" + bytes(1000)) == 0
    assert cost_of(b"\x1a\x00") == 1  # cut short


@given(st.binary(max_size=1300))
@settings(max_examples=300)
def test_the_audit_never_raises(payload: bytes) -> None:
    assert cost_of(payload) >= 0


def test_a_long_honest_session_is_not_taken_for_a_flood() -> None:
    pair = Pair("qh3", "qh3").handshake()
    pair.client.keep = pair.server.keep = False
    pair.up = pair.down = Weather(loss=0.05, reorder=0.1)
    for number in range(400):
        for side in (pair.client, pair.server):
            for _ in range(10):
                side.core.send_datagram(bytes(1000))
        if number % 50 == 0:
            pair.client.core.path_changed(pair.now)
        stream = pair.client.core.open_stream()
        if stream >= 0:
            pair.client.core.write(stream, b"GET / HTTP/1.1\r\n\r\n", True)
            pair.run(0.06)
            pair.server.core.write(stream, b"x" * 3, True)
        pair.run(0.02)
    assert (pair.client.core.established, pair.server.core.established) == (True, True)


# packets that are none


def junk(rng: random.Random, sample: list[bytes]) -> bytes:
    packet = bytearray(rng.choice(sample))
    match rng.randrange(6):
        case 0:
            return rng.randbytes(rng.randrange(1, 1500))
        case 1:
            return bytes(packet[: rng.randrange(1, len(packet))])
        case 2:
            for _ in range(rng.randint(1, 8)):
                packet[rng.randrange(min(64, len(packet)))] = rng.randrange(256)
        case 3:
            return bytes(packet) + rng.randbytes(rng.randrange(1, 400))
        case 4:
            return bytes((rng.choice((0x40, 0x60, 0xC0, 0xD0, 0xE0, 0xF0)),)) + bytes(packet[1:])
        case _:
            at = rng.randrange(len(packet))
            return bytes(packet[:at] + rng.randbytes(4) + packet[at:])
    return bytes(packet)


@pytest.mark.parametrize("peer", CORES)
@pytest.mark.parametrize("seed", range(4))
def test_junk_never_raises_nor_harms(victim: str, peer: str, seed: int) -> None:
    rng = random.Random(seed)
    pair = Pair(peer, victim, seed=seed)
    pair.run(0.02)
    for _ in range(300):
        sample = [packet for side in (pair.client, pair.server) for packet in side.sent[-20:]]
        for side in (pair.client, pair.server):
            side.core.receive([junk(rng, sample) for _ in range(3)] + [b""], pair.now)
        pair.client.core.send_datagram(b"beat")
        pair.run(0.004)
    pair.run(5)
    for side in (pair.client, pair.server):
        assert side.core.stats.packet_errors < ERRORS_IN_A_ROW
    assert unharmed(pair)


@given(st.lists(st.binary(max_size=1600), max_size=6), st.booleans())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_noise_before_the_handshake_never_raises(victim: str, packets: list[bytes], client: bool) -> None:
    pair = Pair(victim, victim)
    side = pair.client if client else pair.server
    side.core.packets(pair.now)
    side.core.receive(packets, pair.now)
    side.core.packets(pair.now)
    side.core.get_timer()
    assert not side.core.established


def test_a_core_that_breaks_costs_packets_then_the_connection(victim: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair("aioquic", victim).handshake()
    core = pair.server.core

    def broken(*_: object) -> None:
        raise KeyError("a defect")

    monkeypatch.setattr(core, "_feed", broken)
    monkeypatch.setattr(core, "_feed_all", broken)
    for number in range(ERRORS_IN_A_ROW):
        assert not core.closed, number
        core.receive([b"packet"], pair.now)
    assert core.closed
    assert core.stats.packet_errors == ERRORS_IN_A_ROW
    pair.drain(pair.server)
    assert pair.server.closed is not None
    assert pair.server.closed.code == 0x01
