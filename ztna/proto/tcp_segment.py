"""TCP segments: parsing from and building into IPv4 packets, and the options this endpoint speaks.

TCP header (RFC 9293 s3.1)::

    0 source port  2 destination port  4 sequence number  8 acknowledgment number
    12 data offset/flags  14 window  16 checksum  18 urgent pointer  20 options

Options understood: MSS (RFC 9293 s3.7.1), window scale (RFC 7323 s2), SACK permitted and SACK (RFC 2018). Others,
timestamps among them, are skipped: an option that is not offered back is not in use.
"""

from struct import Struct
from typing import Final, NamedTuple

from ztna.proto.packet import IPV4_HEADER_BYTES, TCP

__all__ = [
    "ACK",
    "FIN",
    "NO_OPTIONS",
    "PSH",
    "RST",
    "SYN",
    "Segment",
    "SegmentBuilder",
    "TcpOptions",
    "parse_tcp",
    "ports_of",
    "rst_for",
    "sound_tcp",
]

FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
PSH: Final = 0x08
ACK: Final = 0x10

SEQUENCE_MASK: Final = 0xFFFFFFFF
TCP_HEADER_BYTES: Final = 20
HEADERS_BYTES: Final = IPV4_HEADER_BYTES + TCP_HEADER_BYTES
MAX_WINDOW_SHIFT: Final = 14

_TCP = Struct("!HHIIHH")
_PACKET = Struct("!HHHHHHIIHHIIHHHH")
_SACK_BLOCK = Struct("!II")


class TcpOptions(NamedTuple):
    """Options of one segment: the peer's MSS in bytes, its window shift, whether SACK is permitted, SACK blocks."""

    mss: int | None = None
    window_shift: int | None = None
    sack_permitted: bool = False
    sack_blocks: tuple[tuple[int, int], ...] = ()


NO_OPTIONS: Final = TcpOptions()


class Segment(NamedTuple):
    """One segment without its ports; `window` is the field as on the wire, not scaled."""

    seq: int
    ack: int
    flags: int
    window: int
    payload: bytes | bytearray = b""
    options: TcpOptions = NO_OPTIONS

    @property
    def length(self) -> int:
        """Sequence space the segment occupies: payload bytes plus SYN plus FIN (RFC 9293 s3.4)."""
        return len(self.payload) + (self.flags >> 1 & 1) + (self.flags & 1)


def parse_tcp(source: int, destination: int, payload: bytes) -> Segment | None:
    """Parse the payload of an IPv4 packet as TCP; None if it is truncated, malformed, or its checksum is wrong."""
    size = len(payload)
    if size < TCP_HEADER_BYTES:
        return None
    total = int.from_bytes(payload, "big")
    if size & 1:
        total <<= 8
    if (total + source + destination + TCP + size) % 0xFFFF:
        return None
    _, _, seq, ack, word, window = _TCP.unpack_from(payload)
    start = word >> 12 << 2
    if start == TCP_HEADER_BYTES:
        return Segment(seq, ack, word & 0x3F, window, payload[TCP_HEADER_BYTES:])
    if start < TCP_HEADER_BYTES or start > size:
        return None
    return Segment(seq, ack, word & 0x3F, window, payload[start:], _parse_options(payload[TCP_HEADER_BYTES:start]))


def sound_tcp(packet: bytes) -> tuple[tuple[int, int, int, int], Segment] | None:
    """Return ((source, source port, destination, destination port), segment) of a plain TCP packet in one step.

    Plain means no IP options, no fragment and both checksums right. None says only that the packet needs the longer
    way, `parse_ipv4` and `parse_tcp`.
    """
    size = len(packet)
    if size < HEADERS_BYTES:
        return None
    first, total, ident, offset, protocol, check, source, destination, sport, dport, seq, ack, word, window, _, _ = (
        _PACKET.unpack_from(packet)
    )
    if first >> 8 != 0x45 or protocol & 0xFF != TCP or offset & 0xBFFF or total != size:
        return None
    if (first + total + ident + offset + protocol + check + source + destination) % 0xFFFF:
        return None
    # The IP header sums to nothing, so the whole packet sums to its TCP part.
    whole = int.from_bytes(packet, "big")
    if size & 1:
        whole <<= 8
    if (whole + source + destination + TCP + size - IPV4_HEADER_BYTES) % 0xFFFF:
        return None
    start = (word >> 12 << 2) + IPV4_HEADER_BYTES
    if start == HEADERS_BYTES:
        segment = Segment(seq, ack, word & 0x3F, window, packet[HEADERS_BYTES:])
    elif start < HEADERS_BYTES or start > size:
        return None
    else:
        options = _parse_options(packet[HEADERS_BYTES:start])
        segment = Segment(seq, ack, word & 0x3F, window, packet[start:], options)
    return (source, sport, destination, dport), segment


def ports_of(payload: bytes) -> tuple[int, int]:
    """Return source and destination port of a segment that `parse_tcp` accepted."""
    return payload[0] << 8 | payload[1], payload[2] << 8 | payload[3]


def _parse_options(data: bytes) -> TcpOptions:
    """Parse an options field; a malformed rest is ignored, for the segment itself is intact (its checksum held)."""
    mss: int | None = None
    shift: int | None = None
    permitted = False
    blocks: tuple[tuple[int, int], ...] = ()
    at, size = 0, len(data)
    while at < size:
        kind = data[at]
        if kind == 0:
            break
        if kind == 1:
            at += 1
            continue
        length = data[at + 1] if at + 1 < size else 0
        if length < 2 or at + length > size:
            break
        if kind == 2 and length == 4:
            mss = data[at + 2] << 8 | data[at + 3]
        elif kind == 3 and length == 3:
            shift = min(data[at + 2], MAX_WINDOW_SHIFT)
        elif kind == 4 and length == 2:
            permitted = True
        elif kind == 5 and length >= 10 and not (length - 2) & 7:
            blocks = tuple(_SACK_BLOCK.iter_unpack(data[at + 2 : at + length]))
        at += length
    return TcpOptions(mss, shift, permitted, blocks)


def _build_options(options: TcpOptions) -> bytes:
    parts: list[bytes] = []
    if options.mss is not None:
        parts.append(b"\x02\x04" + options.mss.to_bytes(2, "big"))
    if options.sack_permitted:
        parts.append(b"\x01\x01\x04\x02")
    if options.window_shift is not None:
        parts.append(b"\x01\x03\x03" + options.window_shift.to_bytes(1, "big"))
    if options.sack_blocks:
        parts.append(b"\x01\x01\x05" + (2 + 8 * len(options.sack_blocks)).to_bytes(1, "big"))
        parts.extend(_SACK_BLOCK.pack(*block) for block in options.sack_blocks)
    return b"".join(parts)


class SegmentBuilder:
    """Turns the segments of one direction of one connection into IPv4 packets: DF, identification 0, TTL 64."""

    __slots__ = ("_destination", "_destination_port", "_ip_sum", "_source", "_source_port", "_tcp_sum")

    def __init__(self, source: int, source_port: int, destination: int, destination_port: int) -> None:
        self._source = source
        self._source_port = source_port
        self._destination = destination
        self._destination_port = destination_port
        # The words of both headers that never change, summed once (RFC 1071 s2: the order of addition is free).
        self._ip_sum = 0x4500 + 0x4000 + (64 << 8 | TCP) + source + destination
        self._tcp_sum = source + destination + TCP + source_port + destination_port

    def build(self, segment: Segment) -> bytes:
        """Return the packet carrying `segment`."""
        seq, ack, flags, window, payload, options = segment
        size = len(payload)
        if options is not NO_OPTIONS:
            option_bytes = _build_options(options)
            payload = option_bytes + payload
            word = 5 + (len(option_bytes) >> 2) << 12 | flags
        else:
            word = 0x5000 | flags
        total = int.from_bytes(payload, "big")
        if size & 1:
            total <<= 8
        size = len(payload) + HEADERS_BYTES
        remainder = (self._tcp_sum + size - IPV4_HEADER_BYTES + seq + ack + word + window + total) % 0xFFFF
        return (
            _PACKET.pack(
                0x4500,
                size,
                0,
                0x4000,
                0x4006,
                -(self._ip_sum + size) % 0xFFFF,
                self._source,
                self._destination,
                self._source_port,
                self._destination_port,
                seq,
                ack,
                word,
                window,
                0xFFFF - remainder if remainder else 0,
                0,
            )
            + payload
        )


def rst_for(segment: Segment) -> Segment | None:
    """Return the reset that answers a segment for no connection; None for a reset. Source: RFC 9293 s3.10.7.1."""
    if segment.flags & RST:
        return None
    if segment.flags & ACK:
        return Segment(segment.ack, 0, RST, 0)
    return Segment(0, (segment.seq + segment.length) & SEQUENCE_MASK, RST | ACK, 0)
