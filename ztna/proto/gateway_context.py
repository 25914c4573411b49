"""What the parts of the gateway share: the way out to the agents, the commands to the shell, services, counters."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from ztna.proto.gateway_types import (
    LEGACY_RELAY_BUDGET_BYTES,
    Backend,
    Command,
    EmitPacket,
    GatewayLimits,
    GatewayService,
    GatewayStats,
)
from ztna.proto.packet import (
    ICMP,
    TCP,
    UDP,
    UNREACHABLE_HOST,
    address_text,
    build_ipv4,
    build_udp,
    build_unreachable,
    udp_payload,
)
from ztna.proto.packet_fragments import fragment
from ztna.proto.tcp_segment import HEADERS_BYTES, Segment, SegmentBuilder, rst_for

__all__ = ["GatewayContext", "ServiceTable", "refuse_segment", "send_mss"]

_MAX_UDP_DATA: Final = 65507
_LEAST_TCP_BUFFER: Final = 16 * 1024


class ServiceTable:
    """Which backend serves a destination. Peers name virtual addresses and ports, never a backend."""

    __slots__ = ("_any", "_by_address")

    def __init__(self, services: Sequence[GatewayService]) -> None:
        self._any: GatewayService | None = None
        self._by_address: dict[int, GatewayService] = {}
        for service in services:
            if service.backend is None and not service.ports:
                raise ValueError(f"service {service.id!r}: neither backend nor ports; give it one of them")
            if service.virtual_ip is None:
                if len(services) > 1:
                    raise ValueError(
                        f"service {service.id!r}: virtual_ip is missing; with several services each needs one"
                    )
                self._any = service
            elif service.virtual_ip in self._by_address:
                other = self._by_address[service.virtual_ip].id
                where = address_text(service.virtual_ip)
                raise ValueError(f"service {service.id!r}: virtual_ip {where} is already that of {other!r}")
            else:
                self._by_address[service.virtual_ip] = service

    def service(self, address: int) -> GatewayService | None:
        """Return the service at an address."""
        return self._by_address.get(address, self._any)

    def backend(self, service: GatewayService, protocol: int, port: int) -> Backend | None:
        """Return where a port of a service goes; None if the port is not admitted."""
        if service.ports:
            for rule in service.ports:
                if rule.port == port and rule.number == protocol:
                    return rule.backend
            return None
        if service.protocol != "any" and protocol != (TCP if service.protocol == "tcp" else UDP):
            return None
        return service.backend

    @staticmethod
    def echo_backend(service: GatewayService) -> Backend:
        """Return whose host ICMP echo to the service speaks for."""
        return service.backend if service.backend is not None else service.ports[0].backend


class GatewayContext:
    """Commands, limits, counters and the way out."""

    __slots__ = (
        "_error_allowance",
        "_error_at",
        "_identification",
        "budget_bytes",
        "commands",
        "limits",
        "random",
        "stats",
    )

    def __init__(self, budget_bytes: int, limits: GatewayLimits, random: Callable[[int], bytes]) -> None:
        self.budget_bytes = budget_bytes
        self.limits = limits
        self.random = random
        self.stats = GatewayStats()
        self.commands: deque[Command] = deque()
        self._identification = int.from_bytes(random(2), "big")
        self._error_allowance = limits.errors_per_s
        self._error_at = 0.0

    def emit(self, packet: bytes) -> None:
        """Send a packet that fits."""
        self.stats.packets_out += 1
        self.stats.bytes_out += len(packet)
        self.commands.append(EmitPacket(packet))

    def emit_udp(self, source: int, source_port: int, destination: int, destination_port: int, data: bytes) -> None:
        """Send a UDP datagram, in fragments if one packet does not fit."""
        if len(data) + 28 <= self.budget_bytes:
            self.emit(build_udp(source, source_port, destination, destination_port, data))
        elif len(data) > _MAX_UDP_DATA:
            self.stats.dropped_reply_too_large += 1
        else:
            payload = udp_payload(source, source_port, destination, destination_port, data)
            self._emit_fragments(UDP, source, destination, payload)

    def emit_icmp(self, source: int, destination: int, payload: bytes) -> None:
        """Send an ICMP message, in fragments if one packet does not fit."""
        if len(payload) + 20 <= self.budget_bytes:
            self.emit(build_ipv4(ICMP, source, destination, payload))
        else:
            self._emit_fragments(ICMP, source, destination, payload)

    def _emit_fragments(self, protocol: int, source: int, destination: int, payload: bytes) -> None:
        self.stats.replies_fragmented += 1
        self._identification = (self._identification + 1) & 0xFFFF
        for packet in fragment(protocol, source, destination, payload, self.budget_bytes, self._identification):
            self.emit(packet)

    def may_send_error(self, now: float) -> bool:
        """Say whether one more ICMP error or reset may be sent now (RFC 1812 s4.3.2.8)."""
        rate = self.limits.errors_per_s
        self._error_allowance = min(rate, self._error_allowance + (now - self._error_at) * rate)
        self._error_at = now
        if self._error_allowance < 1:
            self.stats.errors_suppressed += 1
            return False
        self._error_allowance -= 1
        return True

    def refuse(self, source: int, original: bytes, now: float, code: int = UNREACHABLE_HOST) -> None:
        """Tell the sender of `original` that it did not arrive, within the rate for errors."""
        if self.may_send_error(now):
            packet = build_unreachable(source, original, code)
            if packet is not None and len(packet) <= self.budget_bytes:
                self.emit(packet)

    def tcp_buffer_share(self, sessions: int) -> int:
        """Return how large each buffer of one more session may be, so that all together stay within the limit."""
        limits = self.limits
        share = limits.tcp_buffers_total_bytes // (2 * (sessions + 1))
        return max(min(limits.tcp_buffer_bytes, share), _LEAST_TCP_BUFFER)


def send_mss(budget_bytes: int) -> int:
    """Return the largest TCP payload that fits our DATAGRAMs and those of relays in the field."""
    return min(budget_bytes, LEGACY_RELAY_BUDGET_BYTES) - HEADERS_BYTES


def refuse_segment(context: GatewayContext, key: tuple[int, int, int, int], segment: Segment, now: float) -> None:
    """Answer a segment with a reset (RFC 9293 s3.10.7.1), within the rate for errors; `key` as in the packet."""
    reply = rst_for(segment)
    if reply is not None and context.may_send_error(now):
        source, source_port, destination, destination_port = key
        context.emit(SegmentBuilder(destination, destination_port, source, source_port).build(reply))
