"""A gateway with scripted randomness, and helpers that speak to it as agents do."""

from ztna.proto.gateway import Gateway
from ztna.proto.gateway_types import (
    Backend,
    Command,
    EmitPacket,
    GatewayLimits,
    GatewayService,
    OpenTcp,
    PortRule,
)
from ztna.proto.packet import Ipv4Packet, build_udp, parse_ipv4, parse_udp
from ztna.proto.tcp_segment import ACK, SYN, Segment, SegmentBuilder, TcpOptions, parse_tcp

AGENT = 0x64400101  # 100.64.1.1
ECHO = 0x64400064  # 100.64.0.100
HTTP = 0x64400065  # 100.64.0.101
BACKEND = Backend("172.22.0.20", 9999)
WEB = Backend("172.22.0.20", 8080)
BUDGET_BYTES = 1294
SERVICES = (
    GatewayService(id="echo-service", virtual_ip=ECHO, backend=BACKEND),
    GatewayService(id="http-app", virtual_ip=HTTP, ports=(PortRule("tcp", 80, WEB),)),
)


def make_gateway(limits: GatewayLimits | None = None, budget_bytes: int = BUDGET_BYTES) -> Gateway:
    return Gateway(SERVICES, budget_bytes=budget_bytes, random=lambda count: bytes(range(1, count + 1)), limits=limits)


def commands(gateway: Gateway) -> list[Command]:
    found: list[Command] = []
    while (command := gateway.next_command()) is not None:
        found.append(command)
    return found


def packets(found: list[Command]) -> list[Ipv4Packet]:
    """The packets among the commands, parsed (so their checksums hold)."""
    parsed = [parse_ipv4(command.packet) for command in found if isinstance(command, EmitPacket)]
    assert None not in parsed
    return [packet for packet in parsed if packet is not None]


def segments(found: list[Command]) -> list[Segment]:
    parsed = [parse_tcp(p.source, p.destination, p.payload) for p in packets(found)]
    assert None not in parsed
    return [segment for segment in parsed if segment is not None]


def udp(
    port: int = 1000, data: bytes = b"hello", destination: int = ECHO, to: int = 9999, source: int = AGENT
) -> bytes:
    return build_udp(source, port, destination, to, data)


def udp_reply(command: Command) -> tuple[int, int, int, int, bytes]:
    (packet,) = packets([command])
    datagram = parse_udp(packet.source, packet.destination, packet.payload)
    assert datagram is not None
    return (
        packet.source,
        datagram.source_port,
        packet.destination,
        datagram.destination_port,
        datagram.payload,
    )


class TcpClient:
    """The agent's end of one TCP connection, by hand."""

    def __init__(
        self, port: int = 40000, destination: int = ECHO, to: int = 9999, source: int = AGENT, mss: int | None = 1254
    ) -> None:
        self.builder = SegmentBuilder(source, port, destination, to)
        self.mss = mss
        self.next = 1000
        self.their_next = 0

    def syn(self) -> bytes:
        return self.builder.build(Segment(self.next, 0, SYN, 64000, b"", TcpOptions(self.mss, None, True)))

    def segment(self, flags: int = ACK, data: bytes = b"", window: int = 64000) -> bytes:
        packet = self.builder.build(Segment(self.next, self.their_next, flags, window, data))
        self.next += len(data) + (flags & 1)
        return packet

    def open(self, gateway: Gateway, now: float = 1.0) -> int:
        """Connect through the gateway; returns the session."""
        gateway.packet_received(self.syn(), now)
        (opened,) = commands(gateway)
        assert isinstance(opened, OpenTcp)
        gateway.tcp_connected(opened.session, now)
        (syn_ack,) = segments(commands(gateway))
        assert syn_ack.flags == SYN | ACK
        self.next += 1
        self.their_next = syn_ack.seq + 1
        gateway.packet_received(self.segment(), now)
        assert commands(gateway) == []
        return opened.session
