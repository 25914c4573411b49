"""Control messages: every one survives its encoding, and nothing that is not one is taken for one."""

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ztna.proto.control.strategies import BY_KIND, KINDS, messages
from ztna.proto.control import messages as m
from ztna.proto.control.messages import MAX_FRAME_BYTES, FrameReader, UnknownMessageError, decode, encode_frame
from ztna.proto.errors import LocalProtocolError, WireError

SESSION, KEY, NONCE = b"s" * 16, b"k" * 32, b"n" * 32


def body(value: object) -> bytes:
    return msgspec.msgpack.encode(value)


def fields(message: Any) -> dict[str, Any]:
    """A message as the map that goes over the wire."""
    decoded: dict[str, Any] = msgspec.msgpack.decode(encode_frame(message)[4:])
    return decoded


def test_every_message_has_a_strategy_and_a_docstring() -> None:
    assert set(BY_KIND) == set(KINDS)
    assert all((kind.__doc__ or "").strip() for kind in KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_messages_are_frozen_and_survive_their_encoding(kind: type[Any]) -> None:
    @settings(max_examples=40)
    @given(BY_KIND[kind])
    def check(message: Any) -> None:
        frame = encode_frame(message)
        assert int.from_bytes(frame[:4], "big") == len(frame) - 4
        assert decode(frame[4:]) == message
        assert hash(message) == hash(decode(frame[4:]))
        with pytest.raises(AttributeError):
            setattr(message, kind.__struct_fields__[0], None)

    check()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_damaged_message_is_a_message_or_a_wire_error(kind: type[Any]) -> None:
    @settings(max_examples=40)
    @given(BY_KIND[kind], st.integers(0, 10_000), st.integers(0, 255), st.integers(0, 10_000))
    def check(message: Any, at: int, value: int, cut: int) -> None:
        encoded = bytearray(encode_frame(message)[4:])
        encoded[at % len(encoded)] = value
        for damaged in (bytes(encoded), bytes(encoded[: cut % len(encoded)])):
            with contextlib.suppress(WireError):
                assert isinstance(decode(damaged), KINDS)

    check()


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_a_wire_error(data: bytes) -> None:
    with contextlib.suppress(WireError):
        assert isinstance(decode(data), KINDS)


@given(messages, st.text(min_size=1, max_size=12), st.recursive(st.none() | st.integers(0, 9), st.lists))
def test_unknown_fields_are_ignored(message: Any, name: str, value: object) -> None:
    known = fields(message)
    assert decode(body(known | {f"x-{name}": value})) == message


def test_an_unknown_type_is_told_apart_from_a_broken_message() -> None:
    with pytest.raises(UnknownMessageError) as refused:
        decode(body({"type": "teleport", "to": "mars"}))
    assert refused.value.kind == "teleport"
    for broken in ({"type": "connect"}, {"type": 5}, {"no": "type"}, ["connect"], "connect", 7, None):
        with pytest.raises(WireError) as caught:
            decode(body(broken))
        assert not isinstance(caught.value, UnknownMessageError)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\xdf\xff\xff\xff\xff",
        b"\x91" * 50_000 + b"\xc0",
        b"\x82\xa4type\xa7connect\xa1x" + b"\x91" * 50_000 + b"\xc0",
        b"\x81\xa4type\xa2\xff\xff",
        b"\x81\xa4type\xc7\x0c\xff" + b"\xff" * 12,
        encode_frame(m.Draining(1.0))[4:] + b"\0",
    ],
    ids=["empty", "reserved", "huge map", "nested", "nested field", "not UTF-8", "timestamp", "trailing"],
)
def test_hostile_encodings_are_wire_errors(data: bytes) -> None:
    with pytest.raises(WireError):
        decode(data)


@pytest.mark.parametrize(
    ("message", "change"),
    [
        (m.Challenge(NONCE), {"nonce": b"short"}),
        (m.Hello((b"c",), b"s"), {"chain": []}),
        (m.Hello((b"c",), b"s"), {"chain": [b"c"] * 5}),
        (m.Hello((b"c",), b"s"), {"chain": [b"c" * 20_000]}),
        (m.Welcome("x"), {"stun": [["not an address", 1]]}),
        (m.Welcome("x"), {"keepalive_s": float("nan")}),
        (m.Register("agent", ("a",)), {"role": "intermediate"}),
        (m.Register("agent", ("a",)), {"services": ["a"] * 257}),
        (m.Register("agent", ("a",)), {"services": ["a" * 256]}),
        (m.Register("agent", ("a",)), {"epoch": -1}),
        (m.Registered("agent"), {"lease_s": float("inf")}),
        (m.Observed("192.0.2.1", 1), {"host": ""}),
        (m.Observed("192.0.2.1", 1), {"host": "fe80::1%eth0"}),
        (m.Observed("192.0.2.1", 1), {"port": 65536}),
        (m.Connect(1, "a"), {"request": -1}),
        (m.Connect(1, "a"), {"session": b"s" * 15}),
        (m.Connect(1, "a"), {"key": b"k" * 31}),
        (m.Invite(SESSION, KEY, "a", "", ()), {"agent_ip": "300.1.1.1"}),
        (m.Accept(SESSION, NONCE), {"nonce": NONCE + b"x"}),
        (m.Granted(1, SESSION, KEY, "c", NONCE, ()), {"relay": ["x", 1]}),
        (m.Candidates(SESSION), {"start_in_ms": -1.0}),
        (m.PathReport(SESSION, "direct"), {"path": "carrier pigeon"}),
        (m.PathReport(SESSION, "direct"), {"loss": float("nan")}),
        (m.PathReport(SESSION, "direct"), {"rtt_ms": float("nan")}),
        (m.Draining(1.0), {"deadline_s": float("nan")}),
        (m.Error("denied"), {"session": b"x"}),
    ],
)  # fmt: skip
def test_values_out_of_bounds_are_wire_errors(message: Any, change: dict[str, Any]) -> None:
    assert decode(body(fields(message))) == message
    with pytest.raises(WireError):
        decode(body(fields(message) | change))


@pytest.mark.parametrize(
    "change",
    [
        {"host": "relay.example"},
        {"host": "10.0.0.1%1"},
        {"port": 0},
        {"type": "tcp"},
        {"priority": 1 << 32},
        {"foundation": "f" * 65},
        {"related": ["", 1]},
    ],
)
def test_candidates_are_checked(change: dict[str, Any]) -> None:
    good = {"type": "host", "host": "10.0.0.1", "port": 5, "priority": 9}
    message = fields(m.Candidates(SESSION))
    assert decode(body(message | {"candidates": [good]})) == m.Candidates(
        SESSION, (m.Candidate("host", "10.0.0.1", 5, 9),)
    )
    for candidates in ([good | change], [good] * 65):
        with pytest.raises(WireError):
            decode(body(message | {"candidates": candidates}))


def test_what_we_send_must_fit_a_frame() -> None:
    with pytest.raises(LocalProtocolError, match="65536"):
        encode_frame(m.Hello((b"c" * MAX_FRAME_BYTES,), b"s"))


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_frames_in_pieces_of_any_size(step: int) -> None:
    sent: list[m.ControlMessage] = [m.Connect(1, "echo"), m.Draining(2.5), m.EndSession(SESSION, "done")]
    stream = b"".join(map(encode_frame, sent))
    reader = FrameReader()
    bodies = [found for at in range(0, len(stream), step) for found in reader.receive(stream[at : at + step])]
    assert [decode(found) for found in bodies] == sent
    assert (reader.buffered_bytes, reader.broken) == (0, False)


def test_a_frame_that_is_too_large_breaks_the_stream_but_not_what_came_before() -> None:
    reader = FrameReader()
    good = encode_frame(m.Draining(1.0))
    assert reader.receive(good + (MAX_FRAME_BYTES + 1).to_bytes(4, "big")) == [good[4:]]
    assert reader.broken
    assert reader.receive(good) == []
    assert reader.buffered_bytes == 0


def test_the_largest_frame_is_taken_and_no_more_is_held() -> None:
    reader = FrameReader()
    frame = MAX_FRAME_BYTES.to_bytes(4, "big") + bytes(MAX_FRAME_BYTES)
    assert reader.receive(frame[:-1]) == []
    assert reader.buffered_bytes == len(frame) - 1
    assert reader.receive(frame[-1:]) == [bytes(MAX_FRAME_BYTES)]


@given(st.lists(st.binary(max_size=200), max_size=20), st.integers(16, 300))
def test_a_reader_holds_at_most_one_frame(chunks: list[bytes], limit: int) -> None:
    reader = FrameReader(limit)
    for chunk in chunks:
        for found in reader.receive(chunk):
            assert len(found) <= limit
        assert reader.buffered_bytes <= limit + 4


def test_tags_are_the_names_in_snake_case() -> None:
    assert fields(m.ServiceState("echo"))["type"] == "service_state"
    assert fields(m.Error("denied"))["type"] == "error"
    assert fields(m.NatReport(SESSION, "a", "b"))["type"] == "nat_report"
