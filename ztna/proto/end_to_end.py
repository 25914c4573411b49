"""What agent and connector say to each other inside a session's end-to-end QUIC connection.

Flow: handshake -> SessionHello (agent, stream 0: who it is, proven) -> SessionReady (connector: what it serves to that
agent) -> DATAGRAM frames and streams both ways. Nothing but SessionHello is taken before it was judged.

===================  ==================================================================================
stream 0             frames: u32 BE length, msgpack of a message below; both ways, for the session's life
streams 4, 8, ...    one TCP connection each: a frame OpenTcp (agent), a frame TcpResult (connector), then
                     the bytes themselves; FIN is a half-close, RESET_STREAM a reset
DATAGRAM 0x4_, 0x6_  an IP packet as it is
DATAGRAM 0x01        u32 BE flow id, then the payload of a UDP datagram of that flow
===================  ==================================================================================
"""

from struct import Struct
from typing import Final

import msgspec

from ztna.proto.errors import LocalProtocolError, WireError

__all__ = [
    "MAX_FRAME_BYTES",
    "UDP_FLOW",
    "CloseUdp",
    "FrameBuffer",
    "OpenTcp",
    "OpenUdp",
    "SessionHello",
    "SessionMessage",
    "SessionReady",
    "TcpResult",
    "UdpPayload",
    "UdpResult",
    "decode_message",
    "encode_message",
    "flow_datagram",
    "split_flow_datagram",
]

MAX_FRAME_BYTES: Final = 65536 + 64
"""The largest UDP payload there is (65507 bytes) with the fields around it."""

UDP_FLOW: Final = 0x01
FLOW_HEADER_BYTES: Final = 5
_LENGTH = Struct(">I")
_FLOW = Struct(">BI")


class SessionHello(msgspec.Struct, frozen=True, tag="session-hello"):
    """The agent's proof of identity: its chain (DER, leaf first) and a signature over the connector's nonce."""

    chain: list[bytes]
    signature: bytes
    protocol: int = 2
    capabilities: list[str] = []


class SessionReady(msgspec.Struct, frozen=True, tag="session-ready"):
    """The connector believes the agent, and serves it these services."""

    services: list[str]
    capabilities: list[str] = []


class OpenUdp(msgspec.Struct, frozen=True, tag="open-udp"):
    """The agent begins a flow of UDP datagrams to a port of a service; `flow` is never used twice."""

    flow: int
    service: str
    port: int


class UdpResult(msgspec.Struct, frozen=True, tag="udp-result"):
    """The connector cannot carry a flow, or its backend answered with an error: "refused", "unreachable", "denied"."""

    flow: int
    error: str


class CloseUdp(msgspec.Struct, frozen=True, tag="close-udp"):
    """One side forgot a flow."""

    flow: int


class UdpPayload(msgspec.Struct, frozen=True, tag="udp-payload"):
    """A UDP payload of a flow that is too large for one DATAGRAM frame; either way."""

    flow: int
    payload: bytes


class OpenTcp(msgspec.Struct, frozen=True, tag="open-tcp"):
    """First frame of a stream: the port of a service that its bytes are for."""

    service: str
    port: int


class TcpResult(msgspec.Struct, frozen=True, tag="tcp-result"):
    """First frame back: None, or why there is no connection ("refused", "unreachable", "timed out", "denied")."""

    error: str | None = None


SessionMessage = SessionHello | SessionReady | OpenUdp | UdpResult | CloseUdp | UdpPayload | OpenTcp | TcpResult

_encoder = msgspec.msgpack.Encoder()
_decoder: "msgspec.msgpack.Decoder[SessionMessage]" = msgspec.msgpack.Decoder(SessionMessage)


def encode_message(message: SessionMessage) -> bytes:
    """Return a message as a frame.

    Raises:
        LocalProtocolError: it is larger than any peer takes.
    """
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise LocalProtocolError(f"a frame of {len(body)} bytes; at most {MAX_FRAME_BYTES} are taken")
    return _LENGTH.pack(len(body)) + body


def decode_message(body: bytes) -> SessionMessage:
    """Decode the body of a frame; unknown fields are skipped.

    Raises:
        WireError: it is no message of this protocol.
    """
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError) as exc:
        raise WireError(f"not a session message: {exc}") from None


class FrameBuffer:
    """Reassembles length-prefixed frames from the bytes of one stream; holds at most one incomplete frame."""

    __slots__ = ("_buffer", "_max_bytes")

    def __init__(self, max_bytes: int = MAX_FRAME_BYTES) -> None:
        self._buffer = bytearray()
        self._max_bytes = max_bytes

    def feed(self, data: bytes) -> None:
        """Take bytes in the order of the stream; take the frames that they complete before feeding more."""
        self._buffer += data

    def next_frame(self) -> bytes | None:
        """Return the next complete frame's body, None if there is none.

        Raises:
            WireError: the peer announced a frame larger than the bound; the stream is of no more use.
        """
        buffer = self._buffer
        if len(buffer) < 4:
            return None
        (size,) = _LENGTH.unpack_from(buffer)
        if size > self._max_bytes:
            raise WireError(f"a frame of {size} bytes is announced; at most {self._max_bytes} are taken")
        if len(buffer) < 4 + size:
            return None
        body = bytes(buffer[4 : 4 + size])
        del buffer[: 4 + size]
        return body

    def rest(self) -> bytes:
        """Return and forget what was fed and is no frame: the first raw bytes after a stream's opening frame."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest


def flow_datagram(flow: int, payload: bytes) -> bytes:
    """Return the DATAGRAM that carries one UDP payload of a flow."""
    return _FLOW.pack(UDP_FLOW, flow) + payload


def split_flow_datagram(data: bytes) -> tuple[int, bytes] | None:
    """Return (flow, payload) of a DATAGRAM that begins with 0x01, None if it is truncated."""
    if len(data) < FLOW_HEADER_BYTES or data[0] != UDP_FLOW:
        return None
    return _FLOW.unpack_from(data)[1], data[FLOW_HEADER_BYTES:]
