"""Program: hostile datagrams and messages, reproducible by seed. `python -m tests.support.fuzz KIND ...` prints JSON.

The UDP kinds need nothing of the target but its port. `agent-*` kinds authenticate first, with a profile, and then
misbehave inside the connection.
"""

import argparse
import asyncio
import json
import random
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import (
    QuicPacketType,
    encode_long_header_first_byte,
    encode_quic_retry,
    encode_quic_version_negotiation,
)

from tests.support.v1_clients import Client, Clients, Profile, read_profile
from ztna.proto import packet, wire

Generator = Callable[[random.Random], Iterator[bytes]]

_V1 = 1
_COOKIE = 0x2112A442


def client_initial() -> bytes:
    """A valid first Initial of a client, 1200 bytes or more, without token."""
    connection = QuicConnection(
        configuration=QuicConfiguration(alpn_protocols=["ztna-v1"], is_client=True, server_name="ztna-server")
    )
    connection.connect(("192.0.2.1", 4433), now=0.0)
    return connection.datagrams_to_send(now=0.0)[0][0]


def mutate(rng: random.Random, data: bytes, *, header_bytes: int = 64) -> bytes:
    """Flip, insert, delete or overwrite a few bytes, mostly near the front where the fields are."""
    value = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        if not value:
            break
        at = rng.randrange(min(len(value), header_bytes if rng.random() < 0.8 else len(value)))
        match rng.randrange(4):
            case 0:
                value[at] ^= 1 << rng.randrange(8)
            case 1:
                value[at] = rng.choice((0, 1, 0x3F, 0x40, 0x7F, 0x80, 0xBF, 0xC0, 0xFF))
            case 2:
                del value[at : at + rng.randint(1, 8)]
            case _:
                value[at:at] = rng.randbytes(rng.randint(1, 8))
    return bytes(value)


def junk(rng: random.Random) -> Iterator[bytes]:
    """Random bytes of any size that fits a datagram."""
    while True:
        yield rng.randbytes(rng.choice((0, 1, 2, 5, 6, 7, 20, 26, 64, 200, 1199, 1200, 1350, 1472)))


def mutated_initials(rng: random.Random) -> Iterator[bytes]:
    """A real Initial with a few bytes changed."""
    while True:
        initial = client_initial()
        for _ in range(50):
            yield mutate(rng, initial)


def protected_initials(rng: random.Random) -> Iterator[bytes]:
    """Initials that decrypt, since anybody can make their keys, around fuzzed frames."""
    while True:
        cid, source = rng.randbytes(rng.choice((8, 16, 20))), rng.randbytes(8)
        crypto = CryptoPair()
        crypto.setup_initial(cid=cid, is_client=True, version=_V1)
        payload = rng.choice(
            (rng.randbytes(1162), bytes([rng.randrange(32)]) + bytes(1161), b"\x06" + rng.randbytes(1161))
        )
        first = encode_long_header_first_byte(_V1, QuicPacketType.INITIAL, 1)
        header = bytes([first]) + struct.pack("!I", _V1) + bytes([len(cid)]) + cid + bytes([len(source)]) + source
        header += b"\0" + struct.pack("!H", 0x4000 | (len(payload) + 2 + 16)) + struct.pack("!H", rng.randrange(4))
        yield crypto.encrypt_packet(header, payload, 0)


def short_headers(rng: random.Random) -> Iterator[bytes]:
    """1-RTT packets of no connection."""
    while True:
        yield bytes([0x40 | rng.randrange(64)]) + rng.randbytes(rng.randint(0, 1300))


def stun_like(rng: random.Random) -> Iterator[bytes]:
    """Binding requests with broken lengths, attributes and cookies, and other methods."""
    while True:
        attributes = b"".join(
            struct.pack("!HH", rng.choice((3, 0x20, 0x8022, 0x26, 0x27, rng.randrange(65536))), length)
            + rng.randbytes(length)
            for length in (rng.choice((0, 4, 8, 20, 3)) for _ in range(rng.randint(0, 4)))
        )
        attributes += bytes(-len(attributes) % 4)
        kind = rng.choice((0x0001, 0x0101, 0x0111, 0x0011, rng.randrange(0x4000)))
        cookie = _COOKIE if rng.random() < 0.8 else rng.randrange(2**32)
        message = struct.pack("!HHI", kind, len(attributes), cookie) + rng.randbytes(12) + attributes
        yield message if rng.random() < 0.5 else mutate(rng, message)


def p2p_like(rng: random.Random) -> Iterator[bytes]:
    """Messages beginning with 5A: keepalives and binding requests, whole, cut and mutated."""
    while True:
        keepalive = b"\x5a" + bytes([rng.choice((0x10, 0x11, rng.randrange(256)))]) + rng.randbytes(4)
        binding = b"\x5a" + struct.pack("<I", rng.randrange(3)) + rng.randbytes(12) + rng.randbytes(9)
        yield rng.choice(
            (keepalive, binding, binding[: rng.randrange(27)], mutate(rng, binding), mutate(rng, keepalive))
        )


def coalesced(rng: random.Random) -> Iterator[bytes]:
    """Initials cut short, doubled, or followed by junk, Handshake and 1-RTT headers."""
    while True:
        initial = client_initial()
        for _ in range(50):
            tail = rng.choice((rng.randbytes(40), b"\xe0" + initial[1:60], b"\x40" + rng.randbytes(60), initial[:200]))
            yield rng.choice(
                (initial[: rng.randrange(len(initial))], initial + tail, initial[:600] + initial, tail + initial)
            )


def versions(rng: random.Random) -> Iterator[bytes]:
    """Version Negotiation packets, Retries out of nowhere, and Initials of versions that nobody speaks."""
    initial = client_initial()
    while True:
        ids = rng.randbytes(8), rng.randbytes(rng.choice((0, 8, 20)))
        negotiation = encode_quic_version_negotiation(
            source_cid=ids[0], destination_cid=ids[1], supported_versions=[rng.randrange(2**32) for _ in range(3)]
        )
        retry = encode_quic_retry(
            version=_V1, source_cid=ids[0], destination_cid=ids[1], original_destination_cid=ids[0],
            retry_token=rng.randbytes(rng.randrange(1, 90)),
        )  # fmt: skip
        unknown = initial[:1] + struct.pack("!I", rng.randrange(2, 2**32)) + initial[5:]
        yield rng.choice((negotiation, mutate(rng, negotiation), retry, unknown))


UDP_KINDS: dict[str, Generator] = {
    "junk": junk,
    "mutated-initials": mutated_initials,
    "protected-initials": protected_initials,
    "short-headers": short_headers,
    "stun-like": stun_like,
    "p2p-like": p2p_like,
    "coalesced": coalesced,
    "versions": versions,
}


def control_payloads(rng: random.Random) -> Iterator[bytes]:
    """DATAGRAM payloads: control messages mutated, cut, of the wrong role; other people's message types."""
    while True:
        service = rng.choice(("echo-service", "http-app", "", "x" * 255, "\N{SNOWMAN}", "no-such"))
        message = rng.choice(
            (
                wire.RegisterAgent(service).encode(),
                wire.RegisterConnector(service).encode(),
                wire.RegistrationAck(service).encode(),
                wire.ServiceRouted(service, rng.randbytes(rng.randrange(1, 60))).encode(),
                bytes([rng.randrange(256)]) + rng.randbytes(rng.randrange(80)),
                b"\x5a\x10" + rng.randbytes(4),
            )
        )
        yield message if rng.random() < 0.3 else mutate(rng, message, header_bytes=8)


def inner_packets(rng: random.Random, client: Client) -> Iterator[bytes]:
    """Service-routed IPv4 packets: fuzzed TCP, UDP, ICMP and fragments to real services; spoofed and broken ones."""
    services = list(client.profile.services.items())
    while True:
        name, address = rng.choice(services)
        source = client.profile.virtual_ip if rng.random() < 0.9 else rng.randrange(2**32)
        protocol = rng.choice((1, 6, 6, 6, 17, rng.randrange(256)))
        ports = struct.pack("!HH", rng.randrange(65536), rng.choice((80, 9999, rng.randrange(65536))))
        body = _transport(rng, protocol, ports)
        if protocol == 6 and rng.random() < 0.7:  # with a right checksum it gets past the door
            body = _tcp_checksummed(source, address, body)
        offset = rng.choice((packet.DONT_FRAGMENT, packet.DONT_FRAGMENT, rng.randrange(65536)))
        inner = packet.build_ipv4(protocol, source, address, body, flags_and_offset=offset)
        yield wire.service_routed_prefix(name) + (inner if rng.random() < 0.8 else mutate(rng, inner, header_bytes=20))


def _transport(rng: random.Random, protocol: int, ports: bytes) -> bytes:
    """The payload of a fuzzed IPv4 packet: ICMP, TCP or UDP by its number, else junk."""
    if protocol == 1:
        kind = rng.choice((8, 0, 3, 11, rng.randrange(256)))
        return bytes([kind, rng.randrange(16)]) + rng.randbytes(rng.randrange(2, 60))
    if protocol == 6:
        offset = rng.choice((0x50, 0x60, 0xF0, 0))
        fixed = rng.randbytes(8) + bytes([offset, rng.randrange(64)]) + rng.randbytes(6)
        return ports + fixed + rng.randbytes(rng.choice((0, 4, 40, 500)))
    if protocol == 17:
        return ports + struct.pack("!HH", rng.choice((8, 20, 0, 65535)), 0) + rng.randbytes(rng.randrange(60))
    return rng.randbytes(rng.randrange(80))


def _tcp_checksummed(source: int, destination: int, segment: bytes) -> bytes:
    segment = segment[:16] + b"\0\0" + segment[18:]
    total = packet.checksum(segment, source + destination + 6 + len(segment))
    return segment[:16] + struct.pack("!H", total) + segment[18:]


def stream_bytes(rng: random.Random) -> Iterator[bytes]:
    """Signalling frames: wrong lengths, fuzzed bincode, huge counts, cut ones."""
    while True:
        body = struct.pack("<I", rng.choice((0, 1, 2, 3, 4, rng.randrange(2**32)))) + rng.randbytes(8)
        body += struct.pack("<Q", rng.choice((0, 1, 12, 2**63, rng.randrange(2**32)))) + rng.randbytes(
            rng.randrange(120)
        )
        length = rng.choice((len(body), len(body), 0, 65536, 65537, 2**32 - 1, rng.randrange(200)))
        yield struct.pack("!I", length) + body


def send_udp(arguments: argparse.Namespace) -> dict[str, Any]:
    """Send COUNT datagrams of a kind from one socket, paced so that no socket buffer has to drop any."""
    rng = random.Random(arguments.seed)
    generator = UDP_KINDS[arguments.kind](rng)
    sent = refused = answered = answered_bytes = sent_bytes = 0
    host, _, port = arguments.target.rpartition(":")
    started = time.monotonic()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect((host, int(port)))
        while sent + refused < arguments.count:
            try:
                data = next(generator)
                sock.send(data)
                sent += 1
                sent_bytes += len(data)
            except OSError:
                refused += 1
            try:
                while reply := sock.recv(65535):
                    answered += 1
                    answered_bytes += len(reply)
            except OSError:
                pass
            ahead = (sent + refused) / arguments.rate - (time.monotonic() - started)
            if ahead > 0.002:
                time.sleep(ahead)
    return {"sent": sent, "refused": refused, "answered": answered, "sent_bytes": sent_bytes,
            "answered_bytes": answered_bytes}  # fmt: skip


def _inside(kind: str, rng: random.Random, client: Client) -> Iterator[bytes]:
    """The messages of an `agent-*` kind."""
    if kind == "agent-packets":
        return inner_packets(rng, client)
    return control_payloads(rng) if kind == "agent-datagrams" else stream_bytes(rng)


async def send_inside(arguments: argparse.Namespace, profile: Profile) -> dict[str, Any]:
    """Authenticate, register, then send COUNT fuzzed messages inside the connection; reconnect when thrown out."""
    rng = random.Random(arguments.seed)
    clients = Clients(arguments.bind)
    sent = connections = 0
    stream: int | None = None
    while sent < arguments.count and connections < 2000:
        client = await clients.connect(profile)
        connections += 1
        stream = None
        generator = _inside(arguments.kind, rng, client)
        while sent < arguments.count and client.closed is None:
            data = next(generator)
            if arguments.kind == "agent-streams":
                if sent % 20 == 0:
                    stream = None  # one bad length swallows the rest of a stream: begin a new one
                stream = client.peer.send_stream(stream, data)
                if stream < 0:
                    client.peer.close(0, "again")
                    break
            elif not client.peer.send_datagram(data):
                continue
            sent += 1
            if sent % 16 == 0:
                await asyncio.sleep(16 / arguments.rate)
    await clients.close()
    return {"sent": sent, "connections": connections, "problems": clients.problems[:5]}


_HTTP_REQUESTS = (
    b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /status HTTP/1.1\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"GET " + b"A" * 9000,
)


def send_http(arguments: argparse.Namespace) -> dict[str, Any]:
    """COUNT broken requests to an HTTP port, each on a connection of its own; some are left hanging."""
    rng = random.Random(arguments.seed)
    host, _, port = arguments.target.rpartition(":")
    hanging: list[socket.socket] = []
    sent = answered = 0
    for _ in range(arguments.count):
        request = rng.choice((*_HTTP_REQUESTS, rng.randbytes(200)))
        try:
            sock = socket.create_connection((host, int(port)), timeout=2)
            sock.sendall(request if rng.random() < 0.4 else mutate(rng, request))
            sent += 1
            if rng.random() < 0.02 and len(hanging) < 40:
                hanging.append(sock)
                continue
            sock.shutdown(socket.SHUT_WR)
            sock.settimeout(0.05)
            answered += bool(sock.recv(4096))
        except OSError:
            pass
        if sock not in hanging:
            sock.close()
    for sock in hanging:
        sock.close()
    return {"sent": sent, "answered": answered, "hanging": len(hanging)}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.fuzz")
    parser.add_argument("kind", choices=(*UDP_KINDS, "agent-datagrams", "agent-packets", "agent-streams", "http"))
    parser.add_argument("--target", default="", help="HOST:PORT")
    parser.add_argument("--profile", type=Path)
    parser.add_argument("--bind", default="0.0.0.0")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=8000.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.kind in UDP_KINDS:
        result = send_udp(arguments)
    elif arguments.kind == "http":
        result = send_http(arguments)
    else:
        result = asyncio.run(send_inside(arguments, read_profile(arguments.profile)))
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
