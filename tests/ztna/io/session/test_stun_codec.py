"""STUN messages of a session: what is encoded is decoded, and nothing else is believed or breaks anything."""

import struct

import pytest
from aioice import stun
from hypothesis import given, settings
from hypothesis import strategies as st

from ztna.io.session.stun_codec import MAX_MESSAGE_BYTES, decode, encode
from ztna.io.stun import looks_like_stun
from ztna.proto.paths.stun_types import Endpoint, StunError, StunMessage, StunRequest, StunResponse

KEY = bytes(range(32))
T = b"\0\0\0\0\0\x07random"
USERNAME = "00112233445566778899aabbccddeeff:agent"
REQUEST = StunRequest(T, USERNAME, priority=0x7E0000FF, controlling=True, tie_breaker=2**64 - 1, use_candidate=True)

transactions = st.binary(min_size=12, max_size=12)
endpoints = st.builds(
    Endpoint, (st.ip_addresses(v=4) | st.just("2001:db8::1").map(str)).map(str), st.integers(1, 65535)
)
messages: st.SearchStrategy[StunMessage] = st.one_of(
    st.builds(
        StunRequest,
        transactions,
        st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=64),
        st.integers(0, 2**32 - 1),
        st.booleans(),
        st.integers(0, 2**64 - 1),
        st.booleans(),
    ),
    st.builds(StunResponse, transactions, endpoints),
    st.builds(StunError, transactions, st.integers(300, 699)),
)


@given(messages)
def test_what_is_encoded_is_decoded(message: StunMessage) -> None:
    data = encode(message, KEY)
    assert looks_like_stun(data)
    assert decode(data, KEY) == message


def test_attributes_are_those_of_ice() -> None:
    message = stun.parse_message(encode(REQUEST, KEY))
    assert list(message.attributes) == [
        "USERNAME",
        "PRIORITY",
        "ICE-CONTROLLING",
        "USE-CANDIDATE",
        "MESSAGE-INTEGRITY",
        "FINGERPRINT",
    ]
    assert message.check_message_integrity(KEY)


def test_a_plain_request_is_what_any_server_answers() -> None:
    message = stun.parse_message(encode(StunRequest(T, ""), KEY))
    assert list(message.attributes) == ["FINGERPRINT"]
    assert decode(encode(StunRequest(T, ""), KEY), KEY) is None


@given(messages)
def test_another_key_is_not_believed(message: StunMessage) -> None:
    assert decode(encode(message, KEY), bytes(32)) is None


@given(messages, st.data())
def test_a_changed_bit_is_not_believed(message: StunMessage, data: st.DataObject) -> None:
    packet = bytearray(encode(message, KEY))
    at = data.draw(st.integers(0, len(packet) * 8 - 1))
    packet[at // 8] ^= 1 << at % 8
    assert decode(bytes(packet), KEY) is None


@given(st.binary(max_size=200))
@settings(max_examples=300)
def test_noise_never_raises(data: bytes) -> None:
    decode(data, KEY)
    header = struct.pack("!HHI12s", 0x0101, len(data), stun.COOKIE, T)
    decode(header + data, KEY)


@given(messages, st.binary(max_size=24), st.integers(0, 200), st.integers(0, 24))
def test_mutations_never_raise(message: StunMessage, splice: bytes, at: int, cut: int) -> None:
    packet = encode(message, KEY)
    changed = packet[:at] + splice + packet[at + cut :]
    decode(changed[:2] + struct.pack("!H", max(0, len(changed) - 20) & 0xFFFF) + changed[4:], KEY)


def unsigned(message: stun.Message) -> bytes:
    message.add_fingerprint()
    return bytes(message)


def test_only_answers_may_lack_integrity() -> None:
    mapped = {"XOR-MAPPED-ADDRESS": ("203.0.113.5", 40000)}
    answer = unsigned(stun.Message(stun.Method.BINDING, stun.Class.RESPONSE, T, dict(mapped)))
    assert decode(answer, KEY) == StunResponse(T, Endpoint("203.0.113.5", 40000), authenticated=False)
    attributes = {"USERNAME": USERNAME, "PRIORITY": 1, "ICE-CONTROLLING": 1}
    assert decode(unsigned(stun.Message(stun.Method.BINDING, stun.Class.REQUEST, T, attributes)), KEY) is None
    refused = stun.Message(stun.Method.BINDING, stun.Class.ERROR, T, {"ERROR-CODE": (487, "Role Conflict")})
    assert decode(unsigned(refused), KEY) is None


def signed(attributes: dict[str, object], method: stun.Method = stun.Method.BINDING) -> bytes:
    message = stun.Message(method, stun.Class.REQUEST, T, attributes)
    message.add_message_integrity(KEY)
    return bytes(message)


@pytest.mark.parametrize(
    "attributes",
    [
        {"PRIORITY": 1, "ICE-CONTROLLING": 1},
        {"USERNAME": USERNAME, "ICE-CONTROLLING": 1},
        {"USERNAME": USERNAME, "PRIORITY": 1},
        {"USERNAME": USERNAME, "PRIORITY": 1, "ICE-CONTROLLING": 1, "ICE-CONTROLLED": 1},
        {"USERNAME": "u" * 65, "PRIORITY": 1, "ICE-CONTROLLED": 1},
    ],
)
def test_an_incomplete_check_is_refused_though_signed(attributes: dict[str, object]) -> None:
    assert decode(signed(attributes), KEY) is None


def test_other_methods_and_giants_are_refused() -> None:
    assert decode(signed({"USERNAME": USERNAME, "PRIORITY": 1, "ICE-CONTROLLED": 1}, stun.Method.ALLOCATE), KEY) is None
    giant = signed({"USERNAME": USERNAME, "PRIORITY": 1, "ICE-CONTROLLED": 1, "DATA": bytes(MAX_MESSAGE_BYTES)})
    assert decode(giant, KEY) is None


def test_ipv4_mapped_addresses_are_ipv4() -> None:
    message = StunResponse(T, Endpoint("::ffff:203.0.113.5", 7))
    assert decode(encode(message, KEY), KEY) == StunResponse(T, Endpoint("203.0.113.5", 7))


@pytest.mark.parametrize(
    "message",
    [StunRequest(T, USERNAME, priority=2**32), StunRequest(T, USERNAME, tie_breaker=2**64), StunRequest(T[:11], "u")],
)
def test_fields_out_of_range_are_our_mistake(message: StunMessage) -> None:
    with pytest.raises(ValueError, match=r"encodable|12 bytes"):
        encode(message, KEY)
