"""IPv4, UDP, TCP and ICMP packets: checks, flow keys, parsing and building.

This is the only module of the data plane that knows header offsets. Addresses are 32-bit integers here: the data path
compares and hashes them, and only people read them (`ipaddress.IPv4Address` turns one into text).

IPv4 header (RFC 791 s3.1)::

    0 version/IHL  1 TOS  2 total length  4 identification  6 flags/fragment offset
    8 TTL  9 protocol  10 header checksum  12 source  16 destination  20 options

What decides the speed: 2**16 is 1 modulo 0xffff, so the one's complement sum of RFC 1071 is the whole packet read as
one big-endian integer modulo 0xffff, and header fields of 16 or 32 bits may be added to it as they are, before
anything is serialised.
"""

from struct import Struct
from typing import Final, NamedTuple

__all__ = [
    "ICMP",
    "IPV4_HEADER_BYTES",
    "TCP",
    "UDP",
    "EchoMessage",
    "FlowKey",
    "FragmentKey",
    "Ipv4Packet",
    "UdpDatagram",
    "address_text",
    "build_echo_reply",
    "build_echo_request",
    "build_fragmentation_needed",
    "build_ipv4",
    "build_udp",
    "build_unreachable",
    "checksum",
    "echo_reply_payload",
    "echo_request_payload",
    "embedded_flow_key",
    "flow_key",
    "fragment_key",
    "icmp_unreachable",
    "parse_echo",
    "parse_ipv4",
    "parse_udp",
    "sound_udp",
    "udp_payload",
    "well_formed",
]

ICMP: Final = 1
TCP: Final = 6
UDP: Final = 17

IPV4_HEADER_BYTES: Final = 20
DONT_FRAGMENT: Final = 0x4000
MORE_FRAGMENTS: Final = 0x2000
FRAGMENT_OFFSET_MASK: Final = 0x1FFF
TTL: Final = 64

ICMP_ECHO_REPLY: Final = 0
ICMP_UNREACHABLE: Final = 3
ICMP_SOURCE_QUENCH: Final = 4
ICMP_REDIRECT: Final = 5
ICMP_ECHO: Final = 8
ICMP_TIME_EXCEEDED: Final = 11
ICMP_PARAMETER_PROBLEM: Final = 12
UNREACHABLE_HOST: Final = 1
UNREACHABLE_PROTOCOL: Final = 2
UNREACHABLE_PORT: Final = 3
UNREACHABLE_FRAGMENTATION_NEEDED: Final = 4
UNREACHABLE_PROHIBITED: Final = 13

# (protocol, source, source port, destination, destination port); ICMP echo has its identifier as both ports.
FlowKey = tuple[int, int, int, int, int]
# (protocol, source, destination, identification): what all fragments of one packet share (RFC 791 s3.2).
FragmentKey = tuple[int, int, int, int]

_ERROR_TYPES: Final = frozenset(
    {ICMP_UNREACHABLE, ICMP_SOURCE_QUENCH, ICMP_REDIRECT, ICMP_TIME_EXCEEDED, ICMP_PARAMETER_PROBLEM}
)
_IPV4 = Struct("!BxHHHxBxxII")  # version/IHL, total length, identification, flags/offset, protocol, source, destination
_IPV4_AND_PORTS = Struct("!BxHxxHxBxxIIHH")
_HEADER = Struct("!HHHHHHII")
_UDP_PACKET = Struct("!HHHHHHIIHHHH")
_UDP = Struct("!HHHH")
_PORTS = Struct("!HH")
_ICMP = Struct("!BBHHH")


class Ipv4Packet(NamedTuple):
    """One parsed IPv4 packet; `payload` starts after the header, options included."""

    source: int
    destination: int
    protocol: int
    identification: int
    offset_bytes: int
    more_fragments: bool
    payload: bytes


class UdpDatagram(NamedTuple):
    """One parsed UDP datagram."""

    source_port: int
    destination_port: int
    payload: bytes


class EchoMessage(NamedTuple):
    """One ICMP echo or echo reply."""

    reply: bool
    identifier: int
    sequence: int
    data: bytes


def checksum(data: bytes, initial: int = 0) -> int:
    """Return the Internet checksum of `data` plus the already summed words `initial`.

    The result of verifying a correct packet (its checksum field included) is 0. Source: RFC 1071.
    """
    total = int.from_bytes(data, "big")
    if len(data) & 1:
        total <<= 8
    remainder = (total + initial) % 0xFFFF
    # A sum that is a non-zero multiple of 0xffff folds to 0xffff, whose complement is 0; no packet sums to plain 0.
    return 0xFFFF - remainder if remainder else 0


def address_text(address: int) -> str:
    """Return a 32-bit address in dotted notation."""
    return f"{address >> 24}.{address >> 16 & 255}.{address >> 8 & 255}.{address & 255}"


def well_formed(packet: bytes) -> bool:
    """Say whether `packet` is one whole IPv4 packet: version 4, a sane header length, total length exactly its size."""
    size = len(packet)
    if size < 20:
        return False
    first = packet[0]
    if first == 0x45:
        return (packet[2] << 8 | packet[3]) == size
    return first >> 4 == 4 and 20 <= (first & 15) << 2 <= size and (packet[2] << 8 | packet[3]) == size


def flow_key(packet: bytes) -> FlowKey | None:
    """Return the flow of a packet as (protocol, source, source port, destination, destination port), all integers.

    ICMP echo and echo reply have their identifier as both ports. None means the packet names no flow: too short,
    another protocol, an ICMP error (use `embedded_flow_key`), or a later fragment, which carries no ports (route it
    like the first fragment with the same `fragment_key`).
    """
    if len(packet) < 24:
        return None
    first, _, offset, protocol, source, destination, source_port, destination_port = _IPV4_AND_PORTS.unpack_from(packet)
    if offset & FRAGMENT_OFFSET_MASK or first >> 4 != 4:
        return None
    header_bytes = 20
    if first != 0x45:
        header_bytes = (first & 15) << 2
        if header_bytes < 20 or len(packet) < header_bytes + 4:
            return None
        source_port, destination_port = _PORTS.unpack_from(packet, header_bytes)
    if protocol in (UDP, TCP):
        return protocol, source, source_port, destination, destination_port
    if protocol == ICMP and len(packet) >= header_bytes + 8 and packet[header_bytes] in (ICMP_ECHO, ICMP_ECHO_REPLY):
        identifier = packet[header_bytes + 4] << 8 | packet[header_bytes + 5]
        return protocol, source, identifier, destination, identifier
    return None


def embedded_flow_key(packet: bytes) -> FlowKey | None:
    """Return the flow of the packet that an ICMP error quotes, as that packet was sent; None if it is no ICMP error.

    To find whom the error concerns, reverse the flow: the error travels to the embedded packet's source. Source:
    RFC 792, RFC 1122 s3.2.2 (at least the header and 8 bytes are quoted).
    """
    if len(packet) < 56 or packet[9] != ICMP or packet[0] >> 4 != 4:
        return None
    start = (packet[0] & 15) << 2
    if start < 20 or len(packet) < start + 8 + 24 or packet[start] not in _ERROR_TYPES:
        return None
    return flow_key(packet[start + 8 :])


def fragment_key(packet: bytes) -> FragmentKey | None:
    """Return what the fragments of one packet share, or None if `packet` is not a fragment (RFC 791 s3.2)."""
    if len(packet) < 20:
        return None
    _, _, identification, offset, protocol, source, destination = _IPV4.unpack_from(packet)
    if not offset & (MORE_FRAGMENTS | FRAGMENT_OFFSET_MASK):
        return None
    return protocol, source, destination, identification


def parse_ipv4(packet: bytes) -> Ipv4Packet | None:
    """Parse a well-formed packet with a correct header checksum; None for anything else."""
    if not well_formed(packet):
        return None
    first, _, identification, offset, protocol, source, destination = _IPV4.unpack_from(packet)
    header_bytes = (first & 15) << 2
    if int.from_bytes(packet[:header_bytes], "big") % 0xFFFF:
        return None
    return Ipv4Packet(
        source,
        destination,
        protocol,
        identification,
        (offset & FRAGMENT_OFFSET_MASK) << 3,
        bool(offset & MORE_FRAGMENTS),
        packet[header_bytes:],
    )


def build_ipv4(
    protocol: int,
    source: int,
    destination: int,
    payload: bytes,
    *,
    identification: int = 0,
    flags_and_offset: int = DONT_FRAGMENT,
) -> bytes:
    """Build an IPv4 packet without options, TTL 64. Identification 0 with DF is an atomic datagram (RFC 6864 s4.1)."""
    total = 20 + len(payload)
    total_sum = 0x4500 + total + identification + flags_and_offset + (TTL << 8 | protocol) + source + destination
    header = _HEADER.pack(
        0x4500,
        total,
        identification,
        flags_and_offset,
        TTL << 8 | protocol,
        -total_sum % 0xFFFF,
        source,
        destination,
    )
    return header + payload


def parse_udp(source: int, destination: int, payload: bytes) -> UdpDatagram | None:
    """Parse an IPv4 payload as UDP; None if truncated or its checksum is wrong (0 means none, RFC 768)."""
    if len(payload) < 8:
        return None
    source_port, destination_port, length, check = _UDP.unpack_from(payload)
    if length < 8 or length > len(payload):
        return None
    if length != len(payload):
        payload = payload[:length]
    if check and checksum(payload, source + destination + UDP + length):
        return None
    return UdpDatagram(source_port, destination_port, payload[8:])


def sound_udp(packet: bytes) -> tuple[int, int, int, int] | None:
    """Return (source, source port, destination, destination port) of a plain UDP packet in one step.

    Plain means no IP options, no fragment, lengths that agree and both checksums right; its payload is then
    `packet[28:]`. None says only that the packet needs the longer way, `parse_ipv4` and `parse_udp`.
    """
    size = len(packet)
    if size < 28:
        return None
    first, total, identification, offset, protocol, check, source, destination, sport, dport, length, udp_check = (
        _UDP_PACKET.unpack_from(packet)
    )
    # DF alone may be set beside the offset; total length and UDP length must be exact.
    if first >> 8 != 0x45 or protocol & 0xFF != UDP or offset & 0xBFFF or total != size or length != size - 20:
        return None
    if (first + total + identification + offset + protocol + check + source + destination) % 0xFFFF:
        return None
    if udp_check:
        # The header sums to nothing, so the whole packet sums to its UDP part.
        whole = int.from_bytes(packet, "big")
        if size & 1:
            whole <<= 8
        if (whole + source + destination + UDP + length) % 0xFFFF:
            return None
    return source, sport, destination, dport


def build_udp(source: int, source_port: int, destination: int, destination_port: int, payload: bytes) -> bytes:
    """Build an unfragmented IPv4/UDP packet, DF set, with its checksum computed."""
    length = 8 + len(payload)
    addresses = source + destination
    ports = (source_port << 16) + destination_port
    total = int.from_bytes(payload, "big")
    if length & 1:
        total <<= 8
    remainder = (total + addresses + UDP + 2 * length + ports) % 0xFFFF
    return (
        _UDP_PACKET.pack(
            0x4500,
            20 + length,
            0,
            DONT_FRAGMENT,
            TTL << 8 | UDP,
            -(0x4500 + 20 + length + DONT_FRAGMENT + (TTL << 8 | UDP) + addresses) % 0xFFFF,
            source,
            destination,
            source_port,
            destination_port,
            length,
            # 0 on the wire would say "no checksum"; remainder 0 gives 0xffff, its other spelling (RFC 768).
            0xFFFF - remainder,
        )
        + payload
    )


def udp_payload(source: int, source_port: int, destination: int, destination_port: int, payload: bytes) -> bytes:
    """Build the UDP header and payload alone, for a datagram that will be fragmented."""
    length = 8 + len(payload)
    header = _UDP.pack(source_port, destination_port, length, 0)
    check = checksum(header + payload, source + destination + UDP + length)
    return _UDP.pack(source_port, destination_port, length, check or 0xFFFF) + payload


def parse_echo(payload: bytes) -> EchoMessage | None:
    """Parse the payload of an IPv4 packet as ICMP echo or echo reply; None for another type or a wrong checksum."""
    if len(payload) < 8 or checksum(payload):
        return None
    kind, code, _, identifier, sequence = _ICMP.unpack_from(payload)
    if code or kind not in (ICMP_ECHO, ICMP_ECHO_REPLY):
        return None
    return EchoMessage(kind == ICMP_ECHO_REPLY, identifier, sequence, payload[8:])


def icmp_unreachable(packet: bytes) -> tuple[int, int]:
    """Return code and next-hop MTU of an ICMP destination unreachable, (-1, 0) for anything else (RFC 1191 s4)."""
    start = (packet[0] & 15) << 2
    if len(packet) < start + 8 or packet[9] != ICMP or packet[start] != ICMP_UNREACHABLE or checksum(packet[start:]):
        return -1, 0
    return packet[start + 1], packet[start + 6] << 8 | packet[start + 7]


def _build_icmp(kind: int, code: int, word: int, second: int, data: bytes) -> bytes:
    check = checksum(data, (kind << 8 | code) + word + second)
    return _ICMP.pack(kind, code, check, word, second) + data


def echo_request_payload(identifier: int, sequence: int, data: bytes) -> bytes:
    """Build the ICMP message of an echo, for `build_ipv4` or for fragments."""
    return _build_icmp(ICMP_ECHO, 0, identifier, sequence, data)


def build_echo_request(source: int, destination: int, identifier: int, sequence: int, data: bytes) -> bytes:
    """Build an ICMP echo packet."""
    return build_ipv4(ICMP, source, destination, echo_request_payload(identifier, sequence, data))


def echo_reply_payload(identifier: int, sequence: int, data: bytes) -> bytes:
    """Build the ICMP message of an echo reply, for `build_ipv4` or for fragments."""
    return _build_icmp(ICMP_ECHO_REPLY, 0, identifier, sequence, data)


def build_echo_reply(source: int, destination: int, identifier: int, sequence: int, data: bytes) -> bytes:
    """Build an ICMP echo reply packet."""
    return build_ipv4(ICMP, source, destination, echo_reply_payload(identifier, sequence, data))


def build_unreachable(source: int, original: bytes, code: int, *, mtu_bytes: int = 0) -> bytes | None:
    """Build the ICMP destination unreachable that `source` sends about `original`, to the source of `original`.

    Returns None where RFC 1122 s3.2.2 forbids an error: about an ICMP error, a later fragment, or a packet from or to
    an address that is not one host's.
    """
    if len(original) < 20:
        return None
    first, _, _, offset, protocol, sender, destination = _IPV4.unpack_from(original)
    header_bytes = (first & 15) << 2
    if offset & FRAGMENT_OFFSET_MASK or len(original) < header_bytes:
        return None
    if protocol == ICMP and (len(original) <= header_bytes or original[header_bytes] in _ERROR_TYPES):
        return None
    if sender >> 28 >= 14 or sender >> 24 in (0, 127) or destination >> 28 >= 14:
        return None
    # RFC 1812 s4.3.2.3 wants as much of the original as fits 576 bytes; the legacy minimum of 8 bytes holds the ports.
    quoted = original[: 576 - 28]
    return build_ipv4(ICMP, source, sender, _build_icmp(ICMP_UNREACHABLE, code, 0, mtu_bytes, quoted))


def build_fragmentation_needed(source: int, original: bytes, mtu_bytes: int) -> bytes | None:
    """Build "fragmentation needed and DF set" with the next-hop MTU (RFC 1191 s4); None as for `build_unreachable`."""
    return build_unreachable(source, original, UNREACHABLE_FRAGMENTATION_NEEDED, mtu_bytes=mtu_bytes)
