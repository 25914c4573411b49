"""Captures read back: UDP packets of a pcap file, and how many bytes of them went which way. Pure.

Source: draft-ietf-opsawg-pcap (file format); LINKTYPE registry of tcpdump.org for the headers in front of IP.
"""

import ipaddress
import struct
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

_MAGICS: Final = {
    b"\xd4\xc3\xb2\xa1": "<",
    b"\xa1\xb2\xc3\xd4": ">",
    b"\x4d\x3c\xb2\xa1": "<",  # nanoseconds
    b"\xa1\xb2\x3c\x4d": ">",
}
_FILE_HEADER_BYTES: Final = 24
_RECORD_HEADER_BYTES: Final = 16
_LARGEST_RECORD_BYTES: Final = 1 << 18

# Link type -> (bytes before the network header, offset of the EtherType; None where IP starts at once).
_LINKS: Final[dict[int, tuple[int, int | None]]] = {
    1: (14, 12),  # Ethernet
    12: (0, None),  # raw IP, as OpenBSD numbers it
    101: (0, None),  # raw IP
    113: (16, 14),  # Linux cooked
    276: (20, 0),  # Linux cooked, version 2
}
_IPV4, _IPV6 = 0x0800, 0x86DD
_UDP: Final = 17


@dataclass(frozen=True, slots=True)
class UdpPacket:
    """A UDP packet as it was on the wire; `length` is that of the IP packet."""

    source: str
    source_port: int
    target: str
    target_port: int
    length: int


@dataclass(frozen=True, slots=True)
class Carried:
    """Bytes of IP packets by the way they took, and packets of neither way."""

    direct_bytes: int
    relay_bytes: int
    other_packets: int


def read_pcap(data: bytes) -> Iterator[UdpPacket]:
    """The UDP packets of a capture; whatever else it holds is passed over, and so is a record cut off at the end.

    Raises:
        ValueError: not a pcap file, or of a link type that is not known here.
    """
    order = _MAGICS.get(data[:4])
    if order is None or len(data) < _FILE_HEADER_BYTES:
        raise ValueError("not a pcap file")
    (link,) = struct.unpack_from(f"{order}I", data, 20)
    if link & 0xFFFF not in _LINKS:
        raise ValueError(f"link type {link & 0xFFFF} is not known here")
    header, ether_type = _LINKS[link & 0xFFFF]
    at = _FILE_HEADER_BYTES
    while at + _RECORD_HEADER_BYTES <= len(data):
        _, _, captured, original = struct.unpack_from(f"{order}4I", data, at)
        start, at = at + _RECORD_HEADER_BYTES, at + _RECORD_HEADER_BYTES + captured
        if captured > _LARGEST_RECORD_BYTES or at > len(data):
            return
        frame = data[start:at]
        if ether_type is not None and int.from_bytes(frame[ether_type : ether_type + 2]) not in (_IPV4, _IPV6):
            continue
        packet = _udp(frame[header:], original - header)
        if packet is not None:
            yield packet


def _udp(packet: bytes, length: int) -> UdpPacket | None:
    """The UDP packet in an IP packet that may be cut off; None for anything else, and for later fragments."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= 20:
        size = (packet[0] & 15) * 4
        later_fragment = int.from_bytes(packet[6:8]) & 0x1FFF
        source, target = packet[12:16], packet[16:20]
        protocol = packet[9]
    elif version == 6 and len(packet) >= 40:
        size, later_fragment = 40, 0
        source, target = packet[8:24], packet[24:40]
        protocol = packet[6]
    else:
        return None
    if protocol != _UDP or later_fragment or len(packet) < size + 4:
        return None
    source_port, target_port = struct.unpack_from("!HH", packet, size)
    return UdpPacket(_address(source), source_port, _address(target), target_port, length)


def _address(data: bytes) -> str:
    return str(ipaddress.ip_address(data))


def carried(
    packets: Iterable[UdpPacket],
    *,
    peers: Collection[str],
    relays: Collection[str],
    relay_ports: Collection[int],
    own_port: int | None = None,
) -> Carried:
    """Sort packets by their far end.

    Args:
        packets: those of one capture point.
        peers: addresses of the other end of the session as the world sees it.
        relays: addresses of the relay; one of them may be a peer's too (relay and connector on one host).
        relay_ports: the relay's ports.
        own_port: the session's port as the relay knows it; packets of other sockets with the relay are not this
            session's. None counts them all.
    """
    direct = relay = other = 0
    for packet in packets:
        ends = ((packet.source, packet.source_port), (packet.target, packet.target_port))
        by_relay = next((own for own, far in (ends, ends[::-1]) if far[0] in relays and far[1] in relay_ports), None)
        if by_relay is not None:
            if own_port in (None, by_relay[1]):
                relay += packet.length
        elif any(address in peers for address, _ in ends):
            direct += packet.length
        else:
            other += 1
    return Carried(direct, relay, other)
