"""Junk for sessions: on their sockets, on their first stream, and more of everything than there is room for."""

import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.overlay import AGENT_IP, ECHO, HTTP, Overlay, eventually, udp_client
from tests.support.overlay_members import agent_sessions, connector_sessions, only_session, served
from ztna.io.session import agent_side, connector_side, listener, stun_codec
from ztna.io.session.connector_side import ConnectorSessions
from ztna.io.session.session import Session
from ztna.proto.control.events import SessionGranted, SessionInvited
from ztna.proto.end_to_end import (
    MAX_FRAME_BYTES,
    FrameBuffer,
    OpenUdp,
    SessionHello,
    SessionReady,
    UdpPayload,
    decode_message,
    encode_message,
)
from ztna.proto.errors import WireError
from ztna.proto.paths.stun_types import Endpoint, StunRequest, StunResponse

JUNK = 10_000
NOISE = random.Random(5).randbytes(60)
STRANGER = ("192.0.2.77", 5)


def stun_like(session: Session, chance: random.Random) -> bytes:
    """STUN of others: framed rightly, of this session by its name, signed by another key, or bent."""
    username = f"{session.id.hex()}:{chance.choice(['agent', 'connector', 'x'])}"
    request = StunRequest(chance.randbytes(12), username, 1, chance.random() < 0.5, 7, False)
    data = bytearray(stun_codec.encode(request, chance.choice([b"", b"another key" * 3])))
    kind = chance.randrange(4)
    if kind == 1:
        data = data[: chance.randrange(1, len(data))]
    elif kind == 2:
        struct.pack_into("!H", data, 2, chance.randrange(65536))
    elif kind == 3:
        data = bytearray(struct.pack("!HHI", chance.randrange(0x4000), 0, 0x2112A442) + chance.randbytes(12))
    data[0] &= 0x3F
    return bytes(data)


def quic_like(chance: random.Random) -> bytes:
    """Short and long headers with nothing behind them."""
    if chance.random() < 0.5:
        return bytes([0x40 | chance.randrange(64)]) + chance.randbytes(chance.randrange(1, 1300))
    return bytes([0xC0 | chance.randrange(64)]) + b"\0\0\0\1" + bytes([8]) + chance.randbytes(chance.randrange(8, 1300))


async def test_ten_thousand_datagrams_of_junk_are_each_counted_and_hurt_nobody(tmp_path: Path) -> None:
    chance = random.Random(7)
    async with Overlay(tmp_path) as overlay:
        theirs = served(overlay.connector).session
        for session in (only_session(overlay), theirs):
            relay = session.settings.relay
            assert relay is not None
            counted, core = session.counters, session.core.stats
            before = (counted.dropped_stun, counted.dropped_empty, counted.dropped_unknown_source)
            received, errors = core.packets_received, core.packet_errors
            sent = [0, 0, 0, 0]
            for _ in range(JUNK // 2 // 50):
                from_stranger, from_relay = [], []
                for _ in range(25):
                    kind = chance.randrange(4)
                    data = (
                        stun_like(session, chance), quic_like(chance), b"",
                        bytes([chance.randrange(4, 64)]) + chance.randbytes(40),
                    )[kind]  # fmt: skip
                    from_stranger.append(data)
                    sent[{0: 0, 1: 2, 2: 1, 3: 0}[kind]] += 1
                    from_relay.append(quic_like(chance))
                    sent[3] += 1
                session.received(0, [(STRANGER, from_stranger), ((relay.host, relay.port), from_relay)])
            after = (counted.dropped_stun, counted.dropped_empty, counted.dropped_unknown_source)
            assert [now - then for now, then in zip(after, before, strict=True)] == sent[:3]
            assert core.packets_received - received == sent[3]
            assert core.packet_errors == errors
            assert counted.dropped_error == 0
            assert session.ready
        with udp_client(overlay.forward("udp")) as client:
            assert await client.echo(b"still here") == b"still here"
        assert len(connector_sessions(overlay.connector).sessions) == 1


async def test_well_signed_nonsense_of_the_peer_ends_nothing(tmp_path: Path) -> None:
    chance = random.Random(8)
    async with Overlay(tmp_path) as overlay:
        session = only_session(overlay)
        for _ in range(300):
            response = StunResponse(chance.randbytes(12), Endpoint("203.0.113.1", 9))
            request = StunRequest(
                chance.randbytes(12), f"{session.id.hex()}:connector", chance.randrange(1 << 31), False, 0, True
            )
            batch = [stun_codec.encode(each, session.settings.key) for each in (response, request)]
            session.received(0, [((f"192.0.2.{chance.randrange(1, 255)}", chance.randrange(1, 65536)), batch)])
        assert session.counters.dropped_error == 0
        with udp_client(overlay.forward("udp")) as client:
            assert await client.works(5)


# frames

WHOLE = [
    encode_message(each)
    for each in (
        SessionHello([b"c" * 300], b"s" * 70), SessionReady([ECHO], ["x"]), OpenUdp(1, ECHO, 7),
        UdpPayload(1, b"p" * 100),
    )
]  # fmt: skip


def test_altered_frames_are_messages_or_wire_errors_and_nothing_else() -> None:
    chance = random.Random(9)
    outcomes = {"message": 0, "error": 0, "more": 0}
    for _ in range(JUNK):
        data = bytearray(chance.choice(WHOLE))
        for _ in range(chance.randrange(1, 6)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        buffer = FrameBuffer()
        try:
            buffer.feed(bytes(data))
            body = buffer.next_frame()
            outcomes["more" if body is None else "message"] += 1
            if body is not None:
                decode_message(body)
        except WireError:
            outcomes["error"] += 1
    assert min(outcomes.values()) > 100, outcomes


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc0",
        b"\x91" * 20_000,
        b"\x81\xa4type\xa6no-one",
        random.Random(5).randbytes(60),
        b"\xdf\xff\xff\xff\xff",
        b"\xc1",
    ],
    ids=["empty", "nil", "deep", "unknown", "noise", "huge-map", "unused-byte"],
)
def test_what_is_no_message_is_a_wire_error(body: bytes) -> None:
    with pytest.raises(WireError):
        decode_message(body)


def test_the_largest_udp_payload_fits_a_frame_and_a_larger_frame_is_refused() -> None:
    buffer = FrameBuffer()
    buffer.feed(encode_message(UdpPayload(0xFFFFFFFF, bytes(65507))))
    assert buffer.next_frame() is not None
    buffer.feed(struct.pack(">I", MAX_FRAME_BYTES + 1))
    with pytest.raises(WireError):
        buffer.next_frame()


@pytest.mark.parametrize("frame", [b"\xff\xff\xff\xff", b"\x00\x00\x00\x01\xc1", b"\x00\x00\x00\x00"])
@pytest.mark.parametrize("side", ["agent", "connector"])
async def test_a_malformed_frame_of_a_proven_peer_ends_that_session_and_another_follows(
    tmp_path: Path, side: str, frame: bytes
) -> None:
    async with Overlay(tmp_path) as overlay:
        ours, theirs = only_session(overlay), served(overlay.connector).session
        speaker, sessions = (
            (theirs, agent_sessions(overlay.agent))
            if side == "agent"
            else (ours, connector_sessions(overlay.connector))
        )
        speaker.core.write(0, frame)
        speaker.flush()
        await eventually(lambda: sessions.counters.dropped_malformed)
        await eventually(lambda: ours.closed and theirs.closed)
        with udp_client(overlay.forward("udp")) as client:
            assert await client.works(10)


async def test_frames_that_are_not_for_this_side_or_time_are_counted(tmp_path: Path) -> None:
    async with Overlay(tmp_path) as overlay:
        ours, theirs = only_session(overlay), served(overlay.connector).session
        for message in (SessionHello([], b""), SessionReady([HTTP]), OpenUdp(1, ECHO, 1)):
            theirs.core.write(0, encode_message(message))
            ours.core.write(0, encode_message(message))
        for session in (ours, theirs):
            session.flush()
        agents, connectors = agent_sessions(overlay.agent), connector_sessions(overlay.connector)
        await eventually(lambda: agents.counters.dropped_malformed == 2)  # a SessionReady it may say at any time
        await eventually(lambda: connectors.counters.dropped_malformed == 2)
        assert ours.ready
        assert agents.session_for(ECHO) is None, "the connector said that it serves http alone"


# room


def invited(number: int, agent: str = "agent") -> SessionInvited:
    return SessionInvited(
        bytes([number]) * 16, b"k" * 32, f"spiffe://lab/agent/{agent}", AGENT_IP, (ECHO,), ("127.0.0.1", 1)
    )


async def test_a_connector_takes_so_many_sessions_and_so_many_of_one_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Overlay(tmp_path) as overlay:
        sessions: ConnectorSessions = connector_sessions(overlay.connector)
        for number in range(10):
            sessions.control_event(invited(number))
        assert len(sessions.sessions) == connector_side.MAX_SESSIONS_PER_AGENT
        assert sessions.counters.declined == 7
        monkeypatch.setattr(connector_side, "MAX_SESSIONS", 5)
        for number in range(10, 20):
            sessions.control_event(invited(number, f"agent-{number}"))
        assert len(sessions.sessions) == 5
        assert sessions.counters.declined == 16


async def test_a_session_without_a_peer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Overlay(tmp_path) as overlay:
        # Of sessions from now on: on a busy machine a handshake takes longer.
        monkeypatch.setattr("ztna.io.session.session.ESTABLISH_S", 0.2)
        sessions = connector_sessions(overlay.connector)
        monkeypatch.setattr("ztna.io.session.session.ESTABLISH_S", 0.2)
        sessions.control_event(invited(1))
        assert len(sessions.sessions) == 2
        await eventually(lambda: len(sessions.sessions) == 1)
        assert sessions.counters.ended == 1


async def test_an_agent_takes_so_many_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_side, "MAX_SESSIONS", 3)
    async with Overlay(tmp_path) as overlay:
        sessions = agent_sessions(overlay.agent)
        for number in range(10):
            sessions.control_event(
                SessionGranted(
                    0, bytes([number]) * 16, b"k" * 32, "spiffe://lab/connector/x", b"n" * 32, (ECHO,), ("127.0.0.1", 1)
                )
            )
        assert len(sessions.sessions) == 3
        sessions.control_event(
            SessionGranted(0, b"z" * 16, b"k" * 32, "spiffe://lab/connector/x", b"n" * 32, ("other",), ("", 1))
        )
        assert len(sessions.sessions) == 3, "nothing of it is wanted"


async def test_packets_that_wait_for_a_connector_are_few_and_do_not_wait_long(tmp_path: Path) -> None:
    async with Overlay(tmp_path) as overlay:
        sessions = agent_sessions(overlay.agent)
        service = sessions.services[ECHO]
        service.session, service.protocol = None, 0
        target = service.address
        packet = b"E" + bytes(11) + sessions.routes.virtual_ip + target
        sessions.routes.send([packet] * 100)
        assert len(service.waiting) == 64
        assert sessions.counters.dropped_waiting == 36
        clock: Callable[[], float] = sessions.routes._clock
        sessions.routes._clock = lambda: clock() + 6.0
        sessions.routes.send_waiting(service)
        assert len(service.waiting) == 0
        assert sessions.counters.dropped_waiting == 100


async def test_a_listener_remembers_so_many_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "MAX_SOURCES", 3)
    async with Overlay(tmp_path) as overlay:
        port = connector_sessions(overlay.connector).listener
        assert port is not None
        session: Any = served(overlay.connector).session
        monkeypatch.setattr(session.paths, "has_pair", lambda *_: True, raising=False)
        port._learn(session, [("192.0.2.1", number) for number in range(1, 11)])
        assert len(port._sources) == 3
        assert port.counters.sources_evicted >= 7
        port.detach(session)
        assert len(port._sources) == 0
