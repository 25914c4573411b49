"""Signalling: the worked vectors, round trips, and a frame reader that bad input cannot stop."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztna.proto.errors import LocalProtocolError, WireError
from ztna.proto.signalling import (
    MAX_FRAME_BYTES,
    Candidate,
    CandidateAnswer,
    CandidateOffer,
    CandidateType,
    ErrorCode,
    FrameReader,
    PunchingResult,
    SignallingError,
    SignallingMessage,
    SocketAddress,
    StartPunching,
    decode,
    decode_optional_address,
    encode_frame,
    encode_optional_address,
)

BASE = SocketAddress("192.168.1.100", 50000)
HOST = Candidate(CandidateType.HOST, BASE, 0x7EFFFFFF, "host_192.168.1.100")
HOST_HEX = "00000000 00000000 c0a80164 50c3 ffffff7e 1200000000000000 686f73745f3139322e3136382e312e313030 00"
CANDIDATES = [
    (HOST, HOST_HEX, 45),
    (
        Candidate(
            CandidateType.SERVER_REFLEXIVE, SocketAddress("203.0.113.5", 54321), 0x64FFFFFF, "srflx_203.0.113.5", BASE
        ),
        "01000000 00000000 cb007105 31d4 ffffff64 1100000000000000 7372666c785f3230332e302e3131332e35"
        " 01 00000000 c0a80164 50c3",
        54,
    ),
    (
        Candidate(CandidateType.RELAY, SocketAddress("198.51.100.7", 4433), 0x00FFFFFF, "relay_198.51.100.7", BASE),
        "03000000 00000000 c6336407 5111 ffffff00 1200000000000000 72656c61795f3139382e35312e3130302e37"
        " 01 00000000 c0a80164 50c3",
        55,
    ),
]
FRAMES: list[tuple[str, SignallingMessage]] = [
    (
        "00000055 00000000 8877665544332211 0c00000000000000 746573742d73657276696365 0100000000000000" + HOST_HEX,
        CandidateOffer(0x1122334455667788, "test-service", (HOST,)),
    ),
    (
        "00000049 02000000 3930000000000000 6400000000000000 0100000000000000" + HOST_HEX,
        StartPunching(12345, 100, (HOST,)),
    ),
    (
        "00000018 03000000 3930000000000000 01 01 00000000 cb007105 31d4",
        PunchingResult(12345, True, SocketAddress("203.0.113.5", 54321)),
    ),
    ("0000000e 03000000 3930000000000000 00 00", PunchingResult(12345, False)),
    (
        "00000042 04000000 01 0700000000000000 02000000 2900000000000000"
        " 4e6f20436f6e6e6563746f7220617661696c61626c6520666f7220736572766963652027 6e6f706527",
        SignallingError(7, ErrorCode.NO_CONNECTOR_AVAILABLE, "No Connector available for service 'nope'"),
    ),
    ("00000012 04000000 00 00000000 0100000000000000 78", SignallingError(None, ErrorCode.UNKNOWN, "x")),
]


@pytest.mark.parametrize(("candidate", "wire", "size"), CANDIDATES, ids=["host", "srflx", "relay"])
def test_candidate_vector(candidate: Candidate, wire: str, size: int) -> None:
    encoded = bytes.fromhex(wire)
    assert len(encoded) == size
    body = CandidateAnswer(5, (candidate,)).encode()
    assert body == bytes.fromhex("01000000 0500000000000000 0100000000000000") + encoded
    assert decode(body) == CandidateAnswer(5, (candidate,))


@pytest.mark.parametrize(("wire", "message"), FRAMES, ids=lambda v: type(v).__name__)
def test_frame_vector(wire: str, message: SignallingMessage) -> None:
    frame = bytes.fromhex(wire)
    assert encode_frame(message) == frame
    reader = FrameReader()
    assert reader.receive(frame) == [message]
    assert (reader.buffered_bytes, reader.bad_frames) == (0, 0)


@pytest.mark.parametrize(
    ("address", "wire"),
    [
        (SocketAddress("203.0.113.5", 54321), "01 00000000 cb007105 31d4"),
        (SocketAddress("2001:db8::1", 4433), "01 01000000 20010db8000000000000000000000001 5111"),
        (None, "00"),
    ],
)
def test_address_vector(address: SocketAddress | None, wire: str) -> None:
    assert encode_optional_address(address) == bytes.fromhex(wire)
    assert decode_optional_address(bytes.fromhex(wire)) == address


u64 = st.integers(0, (1 << 64) - 1)
addresses = st.builds(SocketAddress, st.ip_addresses().map(lambda ip: str(type(ip)(ip.packed))), st.integers(0, 0xFFFF))
candidates = st.lists(
    st.builds(
        Candidate,
        st.sampled_from(CandidateType),
        addresses,
        st.integers(0, (1 << 32) - 1),
        st.text(max_size=20),
        st.none() | addresses,
    ),
    max_size=4,
).map(tuple)
messages: st.SearchStrategy[SignallingMessage] = st.one_of(
    st.builds(CandidateOffer, u64, st.text(max_size=40), candidates),
    st.builds(CandidateAnswer, u64, candidates),
    st.builds(StartPunching, u64, u64, candidates),
    st.builds(PunchingResult, u64, st.booleans(), st.none() | addresses),
    st.builds(SignallingError, st.none() | u64, st.sampled_from(ErrorCode), st.text(max_size=40)),
)


@given(messages, st.binary(max_size=8))
def test_round_trip_and_left_over_bytes_are_skipped(message: SignallingMessage, extra: bytes) -> None:
    assert decode(message.encode() + extra) == message


@given(messages, st.data())
def test_every_truncation_is_refused(message: SignallingMessage, data: st.DataObject) -> None:
    body = message.encode()
    cut = data.draw(st.integers(0, len(body) - 1))
    with pytest.raises(WireError):
        decode(body[:cut])


@given(
    st.one_of(
        st.binary(max_size=200),
        st.builds(lambda t, d: bytes((t, 0, 0, 0)) + d, st.integers(0, 5), st.binary(max_size=200)),
    )
)
def test_decoding_raises_nothing_but_wire_error(body: bytes) -> None:
    with contextlib.suppress(WireError):
        decode(body)


@pytest.mark.parametrize(
    "body",
    [
        "05000000",
        "03000000 3930000000000000 02 00",
        "03000000 3930000000000000 01 02",
        "03000000 3930000000000000 01 01 02000000 cb007105 31d4",
        "04000000 00 07000000 0000000000000000",
        "04000000 00 00000000 0100000000000000 ff",
        "04000000 00 00000000 ffffffffffffffff",
        "01000000 0500000000000000 0100000000000000 04000000" + "00" * 40,
        "01000000 0500000000000000 ffffffffffffffff",
        "01000000 0500000000000000 0200000000000000" + HOST_HEX,
    ],
)
def test_malformed_body_is_refused(body: str) -> None:
    with pytest.raises(WireError):
        decode(bytes.fromhex(body))


def test_a_huge_count_is_refused_before_anything_is_built() -> None:
    with pytest.raises(WireError, match="does not fit"):
        decode(bytes.fromhex("01000000 0500000000000000 ffffff0000000000") + bytes(1000))


@pytest.mark.parametrize(
    "message",
    [
        StartPunching(1 << 64, 0, ()),
        PunchingResult(-1, True),
        PunchingResult(1, True, SocketAddress("nowhere", 1)),
        PunchingResult(1, True, SocketAddress("127.0.0.1", 65536)),
        CandidateAnswer(1, (Candidate(CandidateType.HOST, BASE, 1 << 32, ""),)),
        CandidateOffer(1, "\udc80", ()),
        SignallingError(None, ErrorCode.UNKNOWN, "x" * MAX_FRAME_BYTES),
    ],
)
def test_what_the_protocol_cannot_say_is_our_own_error(message: SignallingMessage) -> None:
    with pytest.raises(LocalProtocolError):
        encode_frame(message)


@given(st.lists(messages, max_size=4), st.data())
def test_frames_arrive_whole_however_they_are_cut(sent: list[SignallingMessage], data: st.DataObject) -> None:
    wire = b"".join(map(encode_frame, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=6)))
    reader = FrameReader()
    received = [
        message
        for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True)
        for message in reader.receive(wire[start:end])
    ]
    assert received == sent
    assert (reader.buffered_bytes, reader.bad_frames) == (0, 0)


GOOD = PunchingResult(1, False)


def test_an_undecodable_body_is_skipped_alone() -> None:
    reader = FrameReader()
    bad = (5).to_bytes(4, "big") + b"\xff" * 5
    empty = bytes(4)
    assert reader.receive(encode_frame(GOOD) + bad + empty + encode_frame(GOOD)) == [GOOD, GOOD]
    assert reader.bad_frames == 2


@pytest.mark.parametrize("length", [65537, 0x16030100, 0xFFFFFFFF])
def test_an_oversize_length_wipes_the_buffer_and_the_stream_stays_usable(length: int) -> None:
    reader = FrameReader()
    assert reader.receive(encode_frame(GOOD) + length.to_bytes(4, "big") + encode_frame(GOOD)) == [GOOD]
    assert (reader.buffered_bytes, reader.bad_frames) == (0, 1)
    assert reader.receive(encode_frame(GOOD)) == [GOOD]


def test_the_largest_frame_is_accepted() -> None:
    overhead = len(SignallingError(None, ErrorCode.UNKNOWN, "").encode())
    largest = SignallingError(None, ErrorCode.UNKNOWN, "x" * (MAX_FRAME_BYTES - overhead))
    assert FrameReader().receive(encode_frame(largest)) == [largest]


@given(st.lists(st.binary(max_size=3000), max_size=30))
def test_reader_survives_anything_within_its_bound(chunks: list[bytes]) -> None:
    reader = FrameReader()
    for chunk in chunks:
        reader.receive(chunk)
        assert reader.buffered_bytes <= MAX_FRAME_BYTES + 3


def test_clear_forgets_the_incomplete_frame() -> None:
    reader = FrameReader()
    reader.receive(encode_frame(GOOD)[:7])
    assert reader.buffered_bytes == 7
    reader.clear()
    assert reader.receive(encode_frame(GOOD)) == [GOOD]
