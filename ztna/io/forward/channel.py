"""What the intermediate and its relay workers say to each other, over a SOCK_SEQPACKET pair.

One message per packet: a tag byte, then msgpack (`msgspec` structs below), or for `LOCAL` a datagram with its source.
The sockets of a pair travel with `Install` as SCM_RIGHTS, the agent's first.
"""

import socket
import struct
from typing import Final

import msgspec

from ztna.proto.paths.stun_types import Endpoint

CONTROL: Final = b"C"
LOCAL: Final = b"L"
MESSAGE_BYTES: Final = 1 << 17
REPORTED_SESSIONS: Final = 512
"""Sessions in one report: about 40 KiB."""

_PORT: Final = struct.Struct("!HB")


class InstallPair(msgspec.Struct, tag="install", frozen=True):
    """To the worker, with two sockets: pump between them."""

    session: bytes
    a: tuple[str, int]
    b: tuple[str, int]


class RemovePair(msgspec.Struct, tag="remove", frozen=True):
    """To the worker: stop."""

    session: bytes


class Report(msgspec.Struct, tag="report", frozen=True):
    """From the worker: totals of sessions that moved since the last report, and of drops by reason."""

    totals: dict[bytes, tuple[int, int, int, int]]
    drops: dict[str, int]


Message = InstallPair | RemovePair | Report

_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """A control message as one packet."""
    return CONTROL + _ENCODER.encode(message)


def decode(packet: bytes) -> Message:
    """The inverse; the other side is our own code, so a malformed one is a defect and raises."""
    message: Message = _DECODER.decode(packet[1:])
    return message


def encode_local(data: bytes, source: Endpoint) -> bytes:
    """A datagram for the main handler as one packet."""
    host = source.host.encode()
    return LOCAL + _PORT.pack(source.port, len(host)) + host + data


def decode_local(packet: bytes) -> tuple[bytes, Endpoint]:
    """The inverse."""
    port, length = _PORT.unpack_from(packet, 1)
    at = 1 + _PORT.size
    return packet[at + length :], Endpoint(packet[at : at + length].decode(), port)


def receive(channel: socket.socket) -> tuple[bytes, list[int]]:
    """One packet and the descriptors that came with it; b"" when the other side is gone.

    Raises:
        BlockingIOError: nothing is there.
    """
    try:
        packet, descriptors, _, _ = socket.recv_fds(channel, MESSAGE_BYTES, 2)
    except ConnectionResetError:
        return b"", []
    return packet, descriptors
