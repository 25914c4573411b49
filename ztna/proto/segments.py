"""TCP and UDP super-segments as a TUN device with offloads gives and takes them: cut into packets, joined from packets.

    kernel -> one header and up to 64 KiB -> `split` -> packets of the path's size
    packets of one flow, in order -> `join` -> one header and up to 64 KiB -> kernel

The meta data before each packet is virtio's `struct virtio_net_hdr`, 10 bytes in the machine's byte order (Virtual I/O
Device 1.2, s5.1.6)::

    0 flags  1 GSO type  2 header length  4 GSO size  6 checksum start  8 checksum offset

An unfinished checksum is one that the kernel left to the device: its field holds only the sum of the pseudo header, or
nothing. Packets that travel inside an authenticated session may stay so; the far kernel is told to finish them.
"""

from collections.abc import Container, Sequence
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from struct import Struct
from typing import Final, NamedTuple

from ztna.proto.packet import FRAGMENT_OFFSET_MASK, IPV4_HEADER_BYTES, MORE_FRAGMENTS, TCP, UDP, checksum

__all__ = ["META_BYTES", "PLAIN", "Meta", "finish", "join", "parse_meta", "single", "split"]

META_BYTES: Final = 10
PLAIN: Final = bytes(META_BYTES)
NEEDS_CHECKSUM: Final = 1
GSO_NONE, GSO_TCP4, GSO_UDP4, GSO_ECN = 0, 1, 5, 0x80

MAX_PACKET_BYTES: Final = 65535
MAX_UDP_SEGMENTS: Final = 64
UDP_HEADER_BYTES: Final = 8
TCP_CHECKSUM, UDP_CHECKSUM = 16, 6
FIN, PSH, ACK, CWR = 0x01, 0x08, 0x10, 0x80
_FRAGMENT: Final = MORE_FRAGMENTS | FRAGMENT_OFFSET_MASK

_META = Struct("=BBHHHH")
# version and TOS, total length, flags and offset, TTL, protocol, addresses and ports, sequence, acknowledgement and
# data offset, flags, window
_TCP_HEAD = Struct("!HHxxHBBxx12sI5sB2s")
_UDP_HEAD = Struct("!HHxxHBBxx12sH")
_LENGTH_AND_ID = Struct("!HH")
# Of two UDP datagrams that may differ in identification, checksums and data alone: version to length, flags to
# protocol, addresses to UDP length.
_ALIKE: Final = itemgetter(slice(0, 4), slice(6, 10), slice(12, 26))
_WORD = Struct("!H")


class Meta(NamedTuple):
    """One virtio_net_hdr."""

    flags: int
    gso_type: int
    header_bytes: int
    gso_bytes: int
    checksum_start: int
    checksum_offset: int


def parse_meta(data: bytes | bytearray) -> Meta:
    """Read the meta data before a packet; `data` has at least META_BYTES."""
    return Meta._make(_META.unpack_from(data))


def finish(packet: bytes, start: int, offset: int) -> bytes | None:
    """Complete an unfinished checksum: the field at `start + offset` holds the pseudo header's sum.

    Returns:
        The packet, None if the field is not inside it.
    """
    field = start + offset
    if field + 2 > len(packet) or start < IPV4_HEADER_BYTES:
        return None
    # 0 would say "no checksum" in UDP; 0xffff is the same sum (RFC 768).
    value = checksum(packet[start:]) or 0xFFFF
    return packet[:field] + _WORD.pack(value) + packet[field + 2 :]


def split(meta: Meta, packet: bytes, unfinished: bool) -> list[bytes] | None:
    """Cut a super-segment into packets whose checksums are complete, or left to the far kernel if `unfinished`.

    Returns:
        The packets in order; None if `meta` does not describe `packet`.
    """
    header = (packet[0] & 15) * 4 if packet else 0
    size = meta.gso_bytes
    if header < IPV4_HEADER_BYTES or not size or len(packet) < header + UDP_HEADER_BYTES:
        return None
    kind = meta.gso_type & ~GSO_ECN
    if kind == GSO_TCP4 and packet[9] == TCP and len(packet) >= header + 20:
        return _split_tcp(packet, header, size, unfinished)
    if kind == GSO_UDP4 and packet[9] == UDP:
        return _split_udp(packet, header, size, unfinished)
    return None


@lru_cache(maxsize=64)
def _tcp_layout(middle: int, tail: int) -> Struct:
    """Version to identification, then what stays, then sequence, what stays, flags, window, checksum, what stays."""
    return Struct(f"!2sHH4sH{middle}sI5sB2sH{tail}s")


def _split_tcp(packet: bytes, ip: int, size: int, unfinished: bool) -> list[bytes] | None:
    head = ip + (packet[ip + 12] >> 4) * 4
    total = len(packet)
    if head < ip + 20 or head > total:
        return None
    first, constant, ports = packet[:2], packet[6:10], packet[12 : ip + 4]
    ack, window, tail = packet[ip + 8 : ip + 13], packet[ip + 14 : ip + 16], packet[ip + 18 : head]
    (identification,) = _WORD.unpack_from(packet, 4)
    sequence = int.from_bytes(packet[ip + 4 : ip + 8], "big")
    last_flags = packet[ip + 13]
    flags = last_flags & ~(FIN | PSH)
    pack = _tcp_layout(len(ports), len(tail)).pack
    base = int.from_bytes(first, "big") + int.from_bytes(constant, "big") + _sum(packet[12:ip])
    packets: list[bytes] = []
    for at in range(head, total, size) if head < total else (head,):
        data = packet[at : at + size]
        if at + size >= total:
            flags = last_flags & ~CWR if at > head else last_flags
        length = head + len(data)
        # As `checksum` does, on words that are summed already.
        rest = (base + length + identification) % 0xFFFF
        header = pack(
            first, length, identification, constant, 0xFFFF - rest if rest else 0,
            ports, sequence, ack, flags, window, 0, tail,
        )  # fmt: skip
        packets.append(header + data if unfinished else _finish_new(header + data, ip, TCP_CHECKSUM))
        flags &= ~CWR
        sequence = (sequence + size) & 0xFFFFFFFF
        identification = (identification + 1) & 0xFFFF
    return packets


def _split_udp(packet: bytes, ip: int, size: int, unfinished: bool) -> list[bytes]:
    head = ip + UDP_HEADER_BYTES
    first, constant, ports = packet[:2], packet[6:10], packet[ip : ip + 4]
    (identification,) = _WORD.unpack_from(packet, 4)
    base = int.from_bytes(first, "big") + int.from_bytes(constant, "big") + _sum(packet[12:ip])
    packets: list[bytes] = []
    for at in range(head, len(packet), size):
        data = packet[at : at + size]
        length = head + len(data)
        rest = (base + length + identification) % 0xFFFF
        header = (
            first + _LENGTH_AND_ID.pack(length, identification) + constant
            + _WORD.pack(0xFFFF - rest if rest else 0) + packet[12:ip]
            + ports + _LENGTH_AND_ID.pack(length - ip, 0)
        )  # fmt: skip
        packets.append(header + data if unfinished else _finish_new(header + data, ip, UDP_CHECKSUM))
        identification = (identification + 1) & 0xFFFF
    return packets


def _sum(data: bytes) -> int:
    return int.from_bytes(data, "big") % 0xFFFF


def _pseudo(packet: bytes, ip: int) -> int:
    """The sum of the pseudo header (RFC 9293 s3.1, RFC 768), not yet folded."""
    return int.from_bytes(packet[12:20], "big") + packet[9] + len(packet) - ip


def _finish_new(packet: bytes, ip: int, offset: int) -> bytes:
    """Complete the checksum of a packet whose field is zero."""
    value = checksum(packet[ip:], _pseudo(packet, ip)) or 0xFFFF
    return packet[: ip + offset] + _WORD.pack(value) + packet[ip + offset + 2 :]


class _Run:
    """Packets of one flow that become one super-segment."""

    __slots__ = ("data", "flags", "head", "like", "next", "parts", "protocol", "size")

    def __init__(self, first: bytes, protocol: int, head: int, size: int, like: tuple[object, ...]) -> None:
        self.protocol = protocol
        self.head = head
        self.size = size
        self.like = like
        self.parts: list[bytes] = [first]
        self.data = size
        self.next = 0
        self.flags = 0


def join(packets: Sequence[bytes], unfinished: Container[bytes], *, udp: bool = True) -> list[tuple[int, list[bytes]]]:
    """Join what the kernel takes in one piece.

    Args:
        packets: IP packets in the order of their arrival; each flow keeps it.
        unfinished: sources (4 bytes) that leave checksums of TCP and UDP to us. Those of joined packets are never
            looked at: the session they came through has authenticated every byte.
        udp: whether the kernel takes UDP super-segments.

    Returns:
        For each write the number of packets and the buffers that make it up, meta data first.
    """
    out: list[_Run | bytes] = []
    runs: dict[bytes, _Run] = {}
    for _, group in groupby(packets, _ALIKE):
        alike = list(group)
        while alike:
            packet = alike.pop(0)
            size = len(packet)
            protocol = packet[9] if size >= _TCP_HEAD.size else 0
            if protocol == TCP:
                item = _join_tcp(packet, size, runs)
            elif protocol == UDP and udp:
                item = _join_udp(packet, size, runs)
                if alike:
                    _join_alike(packet, alike, runs)
            else:
                item = packet
            if item is not None:
                out.append(item)
    return [
        (1, single(item, item[12:16] in unfinished)) if isinstance(item, bytes) else _joined(item, unfinished)
        for item in out
    ]


def _join_tcp(packet: bytes, size: int, runs: dict[bytes, _Run]) -> _Run | bytes | None:
    """Append to the flow's run (None), begin one, or return a packet that must stand alone and ends the run."""
    first, total, fragment, ttl, _, key, sequence, ack, flags, window = _TCP_HEAD.unpack_from(packet)
    head = IPV4_HEADER_BYTES + (ack[4] >> 4) * 4
    data = size - head
    if total != size or first >> 8 != 0x45 or fragment & _FRAGMENT or flags & ~PSH != ACK or head < 40 or data <= 0:
        runs.pop(key, None)
        return packet
    like = (first, fragment, ttl, ack, window, packet[40:head])
    run = runs.get(key)
    if (
        run is not None
        and run.next == sequence
        and data <= run.size
        and run.like == like
        and run.data + head + data <= MAX_PACKET_BYTES
    ):
        run.parts.append(packet[head:])
        run.data += data
        run.flags |= flags
        run.next = (sequence + data) & 0xFFFFFFFF
        if data < run.size:
            # A shorter one may only be the last.
            del runs[key]
        return None
    run = runs[key] = _Run(packet, TCP, head, data, like)
    run.flags = flags
    run.next = (sequence + data) & 0xFFFFFFFF
    return run


def _join_udp(packet: bytes, size: int, runs: dict[bytes, _Run]) -> _Run | bytes | None:
    """The same for UDP, whose datagrams have no number: those of equal size that came one after the other."""
    first, total, fragment, ttl, _, key, length = _UDP_HEAD.unpack_from(packet)
    head = IPV4_HEADER_BYTES + UDP_HEADER_BYTES
    data = size - head
    if total != size or first >> 8 != 0x45 or fragment & _FRAGMENT or length + IPV4_HEADER_BYTES != size or data <= 0:
        runs.pop(key, None)
        return packet
    run = runs.get(key)
    like = (first, fragment, ttl)
    if (
        run is not None
        and data <= run.size
        and run.protocol == UDP
        and run.like == like
        and run.data + head + data <= MAX_PACKET_BYTES
    ):
        run.parts.append(packet[head:])
        run.data += data
        if data < run.size or len(run.parts) == MAX_UDP_SEGMENTS:
            del runs[key]
        return None
    run = runs[key] = _Run(packet, UDP, head, data, like)
    return run


def _join_alike(packet: bytes, alike: list[bytes], runs: dict[bytes, _Run]) -> None:
    """Append to the run that a datagram has just joined what follows and is like it, and take that out of `alike`."""
    run, head, size = runs.get(packet[12:24]), IPV4_HEADER_BYTES + UDP_HEADER_BYTES, len(packet)
    if run is None or run.protocol != UDP or run.size != size - head:
        return
    count = min(MAX_UDP_SEGMENTS - len(run.parts), (MAX_PACKET_BYTES - head - run.data) // run.size, len(alike))
    if list(map(len, alike[:count])).count(size) == count:
        run.parts += [each[head:] for each in alike[:count]]
        run.data += run.size * count
        del alike[:count]
        if len(run.parts) == MAX_UDP_SEGMENTS:
            del runs[packet[12:24]]


def _joined(run: _Run, unfinished: Container[bytes]) -> tuple[int, list[bytes]]:
    first, head, count = run.parts[0], run.head, len(run.parts)
    if count == 1:
        return 1, single(first, first[12:16] in unfinished)
    total = head + run.data
    # 10 to 12 is the checksum: zero while it is reckoned.
    ip = first[:2] + _WORD.pack(total) + first[4:10] + b"\0\0" + first[12:IPV4_HEADER_BYTES]
    ip = ip[:10] + _WORD.pack(checksum(ip)) + ip[12:]
    pseudo = (_sum(first[12:20]) + run.protocol + total - IPV4_HEADER_BYTES) % 0xFFFF
    if run.protocol == TCP:
        rest = first[20:33] + bytes((run.flags,)) + first[34:36] + _WORD.pack(pseudo) + first[38:head]
        meta = _META.pack(NEEDS_CHECKSUM, GSO_TCP4, head, run.size, IPV4_HEADER_BYTES, TCP_CHECKSUM)
    else:
        rest = first[20:24] + _LENGTH_AND_ID.pack(total - IPV4_HEADER_BYTES, pseudo)
        meta = _META.pack(NEEDS_CHECKSUM, GSO_UDP4, head, run.size, IPV4_HEADER_BYTES, UDP_CHECKSUM)
    return count, [meta, ip, rest, first[head:], *run.parts[1:]]


_FINISH_TCP: Final = _META.pack(NEEDS_CHECKSUM, GSO_NONE, 0, 0, IPV4_HEADER_BYTES, TCP_CHECKSUM)
_FINISH_UDP: Final = _META.pack(NEEDS_CHECKSUM, GSO_NONE, 0, 0, IPV4_HEADER_BYTES, UDP_CHECKSUM)


def single(packet: bytes, unfinished: bool) -> list[bytes]:
    """The buffers of one packet as it is; if the peer may have left its checksum, the kernel is told to reckon it."""
    if not unfinished or len(packet) < IPV4_HEADER_BYTES + UDP_HEADER_BYTES:
        return [PLAIN, packet]
    ip = (packet[0] & 15) * 4
    protocol = packet[9]
    offset = TCP_CHECKSUM if protocol == TCP else UDP_CHECKSUM if protocol == UDP else 0
    field = ip + offset
    if not offset or _WORD.unpack_from(packet, 6)[0] & _FRAGMENT or ip < IPV4_HEADER_BYTES or len(packet) < field + 2:
        return [PLAIN, packet]
    pseudo = _WORD.pack(_pseudo(packet, ip) % 0xFFFF)
    if ip == IPV4_HEADER_BYTES:
        meta = _FINISH_TCP if protocol == TCP else _FINISH_UDP
    else:
        meta = _META.pack(NEEDS_CHECKSUM, GSO_NONE, 0, 0, ip, offset)
    return [meta, packet[:field], pseudo, packet[field + 2 :]]
