"""Peers of `ztna-v1` as they are in the field, written from the protocol's text on plain aioquic: nothing of ours.

An agent has no certificate, sends UDP payloads of 1200 bytes at most, wraps packets for a service in 0x2F and sends
others bare. A connector has no certificate either, sends no server name, serves one service, repeats its registration
after 2 and 4 s, and answers on its relay connection with bare packets.
"""

import asyncio
import contextlib
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, DatagramFrameReceived, QuicEvent, StreamDataReceived

if TYPE_CHECKING:
    from tests.support.certs import Issued

ALPN = "ztna-v1"
AGENT_UDP_BYTES, CONNECTOR_UDP_BYTES = 1200, 1350
# A DATAGRAM of N bytes needs N + 42 towards a connection ID of 20 bytes.
OVERHEAD_BYTES = 42
WAIT_S = 5.0


class V1Peer(QuicConnectionProtocol):
    """One connection to an intermediate. What arrives is kept in order: `control` for 01, 12, 13, `packets` for IP."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.control: asyncio.Queue[bytes] = asyncio.Queue()
        self.packets: asyncio.Queue[bytes] = asyncio.Queue()
        self.streams: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()
        self.terminated: asyncio.Future[ConnectionTerminated] = asyncio.get_running_loop().create_future()
        self.on_packet: Callable[[bytes], None] = self.packets.put_nowait

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, DatagramFrameReceived):
            if event.data[:1] in (b"\x01", b"\x12", b"\x13"):
                self.control.put_nowait(event.data)
            else:
                self.on_packet(event.data)
        elif isinstance(event, StreamDataReceived):
            self.streams.put_nowait((event.stream_id, event.data))
        elif isinstance(event, ConnectionTerminated) and not self.terminated.done():
            self.terminated.set_result(event)

    @property
    def local_port(self) -> int:
        """The UDP port of this connection's socket."""
        assert self._transport is not None
        return int(self._transport.get_extra_info("sockname")[1])

    def send(self, payload: bytes) -> None:
        """Send one DATAGRAM; aioquic would block for ever on one that is too large."""
        limit = self._quic.configuration.max_datagram_size - OVERHEAD_BYTES
        assert len(payload) <= limit, f"{len(payload)} bytes do not fit {limit}"
        self._quic.send_datagram_frame(payload)
        self.transmit()

    def signal(self, body: bytes) -> None:
        """Write one signalling frame on stream 0."""
        self._quic.send_stream_data(0, struct.pack(">I", len(body)) + body)
        self.transmit()

    async def observed(self) -> tuple[str, int]:
        """The observed address that the intermediate sends right after the handshake."""
        message = await self.next_control()
        assert message[0] == 0x01
        assert len(message) == 7
        return ".".join(map(str, message[1:5])), message[5] << 8 | message[6]

    async def register(self, kind: int, service: str) -> bytes:
        """Register and return the answer, ACK or NACK."""
        self.send(register(kind, service))
        return await self.next_control()

    async def next_control(self) -> bytes:
        return await asyncio.wait_for(self.control.get(), WAIT_S)

    async def next_packet(self, timeout_s: float = WAIT_S) -> bytes:
        return await asyncio.wait_for(self.packets.get(), timeout_s)

    async def next_stream_bytes(self) -> tuple[int, bytes]:
        return await asyncio.wait_for(self.streams.get(), WAIT_S)


def register(kind: int, service: str) -> bytes:
    """10 or 11, length, id."""
    return bytes((kind, len(service))) + service.encode()


def acknowledgment(service: str) -> bytes:
    """12, status 0, length, id."""
    return bytes((0x12, 0, len(service))) + service.encode()


def routed(service: str, packet: bytes) -> bytes:
    """2F, length, id, packet."""
    return bytes((0x2F, len(service))) + service.encode() + packet


@contextlib.asynccontextmanager
async def v1_agent(
    host: str, port: int, *, alpn: Sequence[str] = (ALPN,), name: str = "ztna-server", leaf: "Issued | None" = None
) -> AsyncIterator[V1Peer]:
    """Connect as the agent in the field does; its host turned verification off. `leaf`: as a newer one may."""
    configuration = QuicConfiguration(
        is_client=True,
        alpn_protocols=list(alpn),
        server_name=name,
        certificate=None if leaf is None else leaf.certificate,
        private_key=None if leaf is None else leaf.key,
        verify_mode=ssl.CERT_NONE,
        max_datagram_size=AGENT_UDP_BYTES,
        max_datagram_frame_size=65536,
        idle_timeout=30.0,
        connection_id_length=16,
    )
    async with connect(host, port, configuration=configuration, create_protocol=V1Peer) as peer:
        assert isinstance(peer, V1Peer)
        yield peer


def v1_direct(host: str, port: int, leaf: "Issued | None" = None) -> contextlib.AbstractAsyncContextManager[V1Peer]:
    """Connect to a connector directly: a socket of its own, and another server name."""
    return v1_agent(host, port, name="ztna-connector", leaf=leaf)


@contextlib.asynccontextmanager
async def v1_connector(
    host: str, port: int, service: str, serve: Callable[[bytes], Sequence[bytes]]
) -> AsyncIterator[V1Peer]:
    """Connect and register as a connector in the field; `serve` turns a packet into the packets that answer it."""
    configuration = QuicConfiguration(
        is_client=True,
        alpn_protocols=[ALPN],
        verify_mode=ssl.CERT_NONE,
        max_datagram_size=CONNECTOR_UDP_BYTES,
        max_datagram_frame_size=65536,
        idle_timeout=30.0,
        connection_id_length=20,
    )
    async with connect(host, port, configuration=configuration, create_protocol=V1Peer) as peer:
        assert isinstance(peer, V1Peer)
        await peer.observed()

        def answer(packet: bytes) -> None:
            for reply in serve(packet):
                peer.send(reply)

        peer.on_packet = answer
        assert await peer.register(0x11, service) == acknowledgment(service)
        yield peer


def checksum(data: bytes) -> int:
    """RFC 1071, the slow and plain way."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data[: len(data) // 2 * 2]))
    if len(data) % 2:
        total += data[-1] << 8
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(protocol: int, source: bytes, destination: bytes, body: bytes) -> bytes:
    """A packet as those peers build it: no options, identification 0, DF, TTL 64."""
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0x4000, 64, protocol, 0) + source + destination
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + body


def udp(source: bytes, source_port: int, destination: bytes, destination_port: int, payload: bytes) -> bytes:
    """An IPv4/UDP packet with checksum 0, as those peers send it."""
    body = struct.pack("!HHHH", source_port, destination_port, 8 + len(payload), 0) + payload
    return ipv4(17, source, destination, body)


def offer(session: int, service: str, candidate: tuple[str, int]) -> bytes:
    """CandidateOffer with one host candidate."""
    host, port = candidate
    name = f"host_{host}".encode()
    body = struct.pack("<IQQ", 0, session, len(service)) + service.encode() + struct.pack("<Q", 1)
    body += struct.pack("<II4sH", 0, 0, address(host), port) + struct.pack("<IQ", 0x7EFFFFFF, len(name)) + name + b"\0"
    return body


def punching(frame: bytes) -> tuple[int, list[tuple[int, str, int]]]:
    """StartPunching with its length: session, and (type, host, port) of each candidate, all of IPv4."""
    length, tag, session, delay_ms, count = struct.unpack_from("<4sIQQQ", frame)
    assert (int.from_bytes(length, "big"), tag, delay_ms) == (len(frame) - 4, 2, 100)
    at, found = 32, []
    for _ in range(count):
        kind, family, host, port, _, name = struct.unpack_from("<II4sHIQ", frame, at)
        assert family == 0
        found.append((kind, ".".join(map(str, host)), port))
        at += 26 + name
        at += 11 if frame[at] else 1
    assert at == len(frame)
    return session, found


def echo_answers(packet: bytes) -> list[bytes]:
    """What a connector in the field with an echo backend behind its service address answers to UDP and ping."""
    source, destination, body = packet[12:16], packet[16:20], packet[20:]
    if packet[9] == 1 and body[:2] == b"\x08\x00":
        reply = b"\x00\x00\x00\x00" + body[4:]
        return [ipv4(1, destination, source, reply[:2] + struct.pack("!H", checksum(reply)) + reply[4:])]
    if packet[9] == 17:
        source_port, destination_port = struct.unpack("!HH", body[:4])
        return [udp(destination, destination_port, source, source_port, body[8:])]
    return []


def address(text: str) -> bytes:
    """Four bytes of a dotted address."""
    return bytes(map(int, text.split(".")))
