import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztna.proto.end_to_end import (
    MAX_FRAME_BYTES,
    CloseUdp,
    FrameBuffer,
    OpenTcp,
    OpenUdp,
    SessionHello,
    SessionMessage,
    SessionReady,
    TcpResult,
    UdpPayload,
    UdpResult,
    decode_message,
    encode_message,
    flow_datagram,
    split_flow_datagram,
)
from ztna.proto.errors import LocalProtocolError, WireError

FLOW = st.integers(0, 2**32 - 1)
MESSAGES: st.SearchStrategy[SessionMessage] = st.one_of(
    st.builds(SessionHello, st.lists(st.binary(max_size=40), max_size=3), st.binary(max_size=80)),
    st.builds(SessionReady, st.lists(st.text(max_size=20), max_size=4)),
    st.builds(OpenUdp, FLOW, st.text(max_size=20), st.integers(0, 65535)),
    st.builds(UdpResult, FLOW, st.text(max_size=20)),
    st.builds(CloseUdp, FLOW),
    st.builds(UdpPayload, FLOW, st.binary(max_size=2000)),
    st.builds(OpenTcp, st.text(max_size=20), st.integers(0, 65535)),
    st.builds(TcpResult, st.none() | st.text(max_size=20)),
)


@given(messages=st.lists(MESSAGES, max_size=5), cuts=st.lists(st.integers(1, 50), max_size=20), rest=st.binary())
def test_frames_come_out_as_they_went_in_however_the_stream_is_cut(
    messages: list[SessionMessage], cuts: list[int], rest: bytes
) -> None:
    rest = b"" if not messages else rest
    wire = b"".join(map(encode_message, messages)) + rest
    buffer, at = FrameBuffer(), 0
    found: list[SessionMessage] = []
    for size in [*cuts, len(wire)]:
        buffer.feed(wire[at : at + size])
        at += size
        while len(found) < len(messages) and (body := buffer.next_frame()) is not None:
            found.append(decode_message(body))
    assert found == messages
    assert buffer.rest() == rest
    assert buffer.rest() == b""


@given(st.binary(max_size=200))
def test_junk_is_a_wire_error_and_nothing_else(junk: bytes) -> None:
    with contextlib.suppress(WireError):
        decode_message(junk)


def test_unknown_fields_are_skipped_and_unknown_messages_refused() -> None:
    body = msgspec.msgpack.encode({"type": "open-tcp", "service": "web", "port": 80, "later": [1, 2]})
    assert decode_message(body) == OpenTcp("web", 80)
    with pytest.raises(WireError):
        decode_message(msgspec.msgpack.encode({"type": "teleport"}))


def test_a_frame_that_announces_more_than_the_bound_is_refused_before_it_arrives() -> None:
    buffer = FrameBuffer()
    buffer.feed((MAX_FRAME_BYTES + 1).to_bytes(4, "big"))
    with pytest.raises(WireError):
        buffer.next_frame()
    with pytest.raises(LocalProtocolError):
        encode_message(UdpPayload(1, bytes(MAX_FRAME_BYTES)))


@given(flow=FLOW, payload=st.binary(max_size=1500))
def test_a_payload_of_a_flow_survives_its_datagram(flow: int, payload: bytes) -> None:
    assert split_flow_datagram(flow_datagram(flow, payload)) == (flow, payload)


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x01\x00\x00\x00", b"\x45" + bytes(20)])
def test_what_is_no_flow_datagram_is_told_apart(data: bytes) -> None:
    assert split_flow_datagram(data) is None
