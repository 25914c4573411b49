"""Raw UDP control messages: the worked vectors, telling them from QUIC, and a responder that strangers cannot use."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztna.proto.errors import LocalProtocolError, WireError
from ztna.proto.limits import ConnectorLimits
from ztna.proto.p2p import (
    BindingRequest,
    BindingResponse,
    KeepaliveRequest,
    KeepaliveResponse,
    P2pMessage,
    P2pResponder,
    decode,
    is_control,
)
from ztna.proto.signalling import SocketAddress
from ztna.proto.stats import ConnectorStats

TXN = bytes(range(1, 13))
AGENT = SocketAddress("203.0.113.5", 40000)
VECTORS: list[tuple[str, P2pMessage]] = [
    ("5a100000002a", KeepaliveRequest(42)),
    ("5a110000002a", KeepaliveResponse(42)),
    ("5a 00000000 0102030405060708090a0b0c fffffffd0001007e 00", BindingRequest(TXN, 0x7E000100FDFFFFFF)),
    (
        "5a 01000000 0102030405060708090a0b0c 01 01 00000000 7f000001 6391",
        BindingResponse(TXN, True, SocketAddress("127.0.0.1", 37219)),
    ),
    ("5a 01000000 0102030405060708090a0b0c 00 00", BindingResponse(TXN, False, None)),
]


@pytest.mark.parametrize(("wire", "message"), VECTORS, ids=lambda v: type(v).__name__)
def test_vector(wire: str, message: P2pMessage) -> None:
    data = bytes.fromhex(wire)
    assert is_control(data)
    assert decode(data) == message
    assert message.encode() == data


def test_sizes_of_a_binding_response() -> None:
    assert len(BindingResponse(TXN, True, AGENT).encode()) == 29
    assert len(BindingResponse(TXN, True, SocketAddress("2001:db8::1", 1)).encode()) == 41


txns = st.binary(min_size=12, max_size=12)
addresses = st.builds(SocketAddress, st.ip_addresses().map(str), st.integers(0, 0xFFFF))
messages: st.SearchStrategy[P2pMessage] = st.one_of(
    st.builds(KeepaliveRequest, st.integers(0, 0xFFFFFFFF)),
    st.builds(KeepaliveResponse, st.integers(0, 0xFFFFFFFF)),
    st.builds(BindingRequest, txns, st.integers(0, (1 << 64) - 1), st.booleans()),
    st.builds(BindingResponse, txns, st.booleans(), st.none() | addresses),
)


@given(messages)
def test_round_trip(message: P2pMessage) -> None:
    assert decode(message.encode()) == message


@given(messages, st.binary(min_size=1, max_size=9))
def test_trailing_bytes_are_skipped_after_binding_messages_only(message: P2pMessage, extra: bytes) -> None:
    data = message.encode() + extra
    if isinstance(message, BindingRequest | BindingResponse):
        assert decode(data) == message
    else:
        with pytest.raises(WireError):
            decode(data)


@given(
    st.one_of(
        st.binary(max_size=60),
        st.builds(lambda t, d: bytes((0x5A, t, 0, 0, 0)) + d, st.integers(0, 2), st.binary(max_size=60)),
    )
)
def test_decoding_raises_nothing_but_wire_error(data: bytes) -> None:
    with contextlib.suppress(WireError):
        decode(data)


@pytest.mark.parametrize(
    "wire",
    [
        "5a120000002a",
        "5a1000000000ff",
        "5a 00000000 0102030405060708090a0b0c fffffffd0001007e",
        "5a 00000000 0102030405060708090a0b0c fffffffd0001007e 02",
        "5a 01000000 0102030405060708090a0b0c 01",
        "5a 01000000 0102030405060708090a0b0c 02 00",
        "5a 01000000 0102030405060708090a0b0c 01 02",
        "5a 02000000 0102030405060708090a0b0c 01 00",
        "4500",
        "",
    ],
)
def test_malformed_is_refused(wire: str) -> None:
    with pytest.raises(WireError):
        decode(bytes.fromhex(wire))


@given(st.integers(0x40, 0xFF), st.binary(min_size=20, max_size=60))
def test_quic_packets_to_our_connection_ids_are_never_taken_for_control(first: int, rest: bytes) -> None:
    assert not is_control(bytes((0x5A, first)) + rest)


@pytest.mark.parametrize(
    "message",
    [
        KeepaliveRequest(-1),
        KeepaliveResponse(1 << 32),
        BindingRequest(b"short", 0),
        BindingRequest(TXN, 1 << 64),
        BindingResponse(b"", True, None),
    ],
)
def test_what_the_protocol_cannot_say_is_our_own_error(message: P2pMessage) -> None:
    with pytest.raises(LocalProtocolError):
        message.encode()


REQUEST = BindingRequest(TXN, 7).encode()


def responder(*, answer_unknown: bool = False, **limits: float) -> tuple[P2pResponder, ConnectorStats]:
    stats = ConnectorStats()
    return P2pResponder(ConnectorLimits(**limits), stats, answer_unknown=answer_unknown), stats  # type: ignore[arg-type]


def test_checks_of_an_expected_host_are_answered_from_any_port() -> None:
    subject, stats = responder()
    subject.expect(AGENT.ip, 0.0)
    mapped = SocketAddress(AGENT.ip, 61000)
    assert subject.datagram_received(REQUEST, mapped, 1.0) == BindingResponse(TXN, True, mapped).encode()
    assert subject.datagram_received(bytes.fromhex("5a100000002a"), AGENT, 1.0) == bytes.fromhex("5a110000002a")
    assert stats.p2p_answers == 2


def test_strangers_get_no_answer() -> None:
    subject, stats = responder()
    assert subject.datagram_received(REQUEST, AGENT, 0.0) is None
    assert stats.drop_p2p_unknown == 1


def test_strangers_get_one_where_configured() -> None:
    subject, _ = responder(answer_unknown=True)
    assert subject.datagram_received(REQUEST, AGENT, 0.0) is not None


def test_an_offer_counts_for_30_s_and_each_answer_for_60_more() -> None:
    subject, stats = responder()
    subject.expect(AGENT.ip, 0.0)
    assert subject.datagram_received(REQUEST, AGENT, 29.0) is not None
    assert subject.datagram_received(REQUEST, AGENT, 88.0) is not None
    assert subject.datagram_received(REQUEST, AGENT, 148.5) is None
    subject.expect(AGENT.ip, 200.0)
    assert subject.datagram_received(REQUEST, AGENT, 230.0) is None
    assert stats.drop_p2p_unknown == 2


def test_responses_and_junk_are_counted_and_not_answered() -> None:
    subject, stats = responder()
    subject.expect(AGENT.ip, 0.0)
    assert subject.datagram_received(KeepaliveResponse(1).encode(), AGENT, 0.0) is None
    assert subject.datagram_received(b"\x5a\x12junk", AGENT, 0.0) is None
    assert (stats.drop_p2p_unexpected, stats.drop_p2p_malformed) == (1, 1)


def test_one_host_cannot_draw_more_than_its_bucket() -> None:
    subject, stats = responder(p2p_rate_per_s=10.0, p2p_burst=5.0)
    subject.expect(AGENT.ip, 0.0)
    answers = [subject.datagram_received(REQUEST, AGENT, 0.0) for _ in range(8)]
    assert sum(answer is not None for answer in answers) == 5
    assert stats.drop_p2p_rate == 3
    assert subject.datagram_received(REQUEST, AGENT, 0.2) is not None


def test_the_table_of_hosts_is_bounded_and_forgets_the_expired() -> None:
    subject, stats = responder(p2p_hosts=2)
    for last in (1, 2, 3):
        subject.expect(f"192.0.2.{last}", 0.0)
    assert stats.drop_p2p_table_full == 1
    assert subject.datagram_received(REQUEST, SocketAddress("192.0.2.3", 1), 0.0) is None
    subject.expect("192.0.2.3", 31.0)
    assert subject.datagram_received(REQUEST, SocketAddress("192.0.2.3", 1), 31.0) is not None
    assert stats.drop_p2p_table_full == 1
