"""The agent's user mode: reaches services over the overlay for local sockets, without root and without a TUN device.

    local client -> shell -> open_tcp / open_udp -> packets of the agent's virtual IP -> relay -> connector

It is the client half of the packet gateway: the shell's sockets face local clients here, and backends there. Commands
and inputs have the same names and meaning (`gateway_types`).
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from ztna.proto.gateway_context import GatewayContext, refuse_segment, send_mss
from ztna.proto.gateway_types import (
    CloseUdp,
    Command,
    EchoReceived,
    GatewayLimits,
    GatewayStats,
    SendUdp,
    SocketError,
    UdpFailed,
)
from ztna.proto.packet import (
    ICMP,
    IPV4_HEADER_BYTES,
    TCP,
    UDP,
    UNREACHABLE_FRAGMENTATION_NEEDED,
    UNREACHABLE_PORT,
    Ipv4Packet,
    echo_reply_payload,
    echo_request_payload,
    embedded_flow_key,
    icmp_unreachable,
    parse_echo,
    parse_ipv4,
    parse_udp,
    well_formed,
)
from ztna.proto.packet_fragments import Reassembler
from ztna.proto.tcp import TcpEndpoint
from ztna.proto.tcp_segment import HEADERS_BYTES, parse_tcp, ports_of, sound_tcp
from ztna.proto.tcp_table import TcpTable
from ztna.proto.tcp_types import TcpSettings

__all__ = ["UserStack"]

MIN_BUDGET_BYTES: Final = 576
# RFC 6335 s6: the dynamic ports.
_FIRST_PORT: Final = 49152
_PORTS: Final = 16384


class _Flow:
    """One UDP conversation of a local client with a service."""

    __slots__ = ("active_at", "destination", "destination_port", "id", "port")

    def __init__(self, number: int, port: int, destination: int, destination_port: int, now: float) -> None:
        self.id = number
        self.port = port
        self.destination = destination
        self.destination_port = destination_port
        self.active_at = now


class UserStack:
    """One host on the overlay, in user space.

    Args:
        virtual_ip: the agent's address as an integer; packets to another are dropped and counted.
        budget_bytes: the largest IP packet that fits one DATAGRAM once wrapped (at least 576).
        random: `random(n)` returns n unpredictable bytes (sequence numbers, ports).
        limits: bounds of tables and times; `udp_flows`, `tcp_sessions`, `udp_idle_s` and the TCP ones count here.
    """

    def __init__(
        self,
        virtual_ip: int,
        *,
        budget_bytes: int,
        random: Callable[[int], bytes],
        limits: GatewayLimits | None = None,
    ) -> None:
        self.virtual_ip = virtual_ip
        self.limits = limits or GatewayLimits()
        self._context = GatewayContext(max(budget_bytes, MIN_BUDGET_BYTES), self.limits, random)
        self._commands = self._context.commands
        self._random = random
        self._tcp = TcpTable(self._context)
        self._flows: OrderedDict[int, _Flow] = OrderedDict()
        self._by_port: dict[int, _Flow] = {}
        self._last_flow = 0
        self._fragments = Reassembler(self.limits.reassembly_bytes, self.limits.reassembly_s)
        self._now = 0.0

    @property
    def stats(self) -> GatewayStats:
        """Counters since start."""
        self._context.stats.dropped_fragment_limit = self._fragments.dropped
        return self._context.stats

    @property
    def udp_flows(self) -> int:
        """Open UDP flows."""
        return len(self._flows)

    @property
    def tcp_sessions(self) -> int:
        """TCP sessions, those in TIME-WAIT included."""
        return len(self._tcp)

    @property
    def room(self) -> int | None:
        """How many TCP packets the way out still takes; see `Gateway.room`."""
        return self._tcp.room

    @room.setter
    def room(self, packets: int | None) -> None:
        self._tcp.room = packets

    def set_budget(self, budget_bytes: int) -> None:
        """Set the largest IP packet that fits; call again when the path's limit changes."""
        self._context.budget_bytes = max(budget_bytes, MIN_BUDGET_BYTES)
        for session in self._tcp.sessions:
            session.endpoint.set_send_mss(send_mss(self._context.budget_bytes))

    def set_virtual_ip(self, virtual_ip: int) -> None:
        """Take another address: what is open under the old one is broken."""
        if virtual_ip == self.virtual_ip:
            return
        for session in list(self._tcp.sessions):
            session.endpoint.abort()
            self._tcp.flush(session, self._now)
        for flow in list(self._flows.values()):
            self._close_flow(flow)
        self.virtual_ip = virtual_ip

    # -- for local clients: TCP ----------------------------------------------------------------------------------------

    def open_tcp(self, destination: int, port: int, now: float) -> int | None:
        """Connect to a service; returns the session, or None (counted) if the table is full.

        `TcpOpened` or `TcpFailed` follows; data may be given at once.
        """
        self._now = now
        context = self._context
        local_port = self._free_port(lambda p: (destination, port, self.virtual_ip, p) in self._tcp)
        if len(self._tcp) >= self.limits.tcp_sessions or local_port is None:
            context.stats.dropped_session_limit += 1
            return None
        buffer_bytes = context.tcp_buffer_share(len(self._tcp))
        settings = TcpSettings(
            send_mss=send_mss(context.budget_bytes),
            announced_mss=send_mss(context.budget_bytes),
            receive_buffer_bytes=buffer_bytes,
            send_buffer_bytes=buffer_bytes,
            idle_s=self.limits.tcp_idle_s,
        )
        endpoint = TcpEndpoint.connect(settings, int.from_bytes(self._random(4), "big"), now)
        return self._tcp.add((destination, port, self.virtual_ip, local_port), endpoint).id

    def tcp_data(self, session: int, data: bytes, now: float) -> None:
        """Take bytes from the local client; all are kept, and `PauseTcp` says when to stop reading."""
        self._now = now
        self._tcp.data(session, data)

    def tcp_eof(self, session: int, now: float) -> None:
        """The local client ended its direction; the other one stays open (half-close)."""
        self._now = now
        self._tcp.eof(session)

    def tcp_reset(self, session: int, now: float) -> None:
        """The local connection broke; the shell has already forgotten the session."""
        self._now = now
        self._tcp.broken(session)

    def tcp_writable(self, session: int, count: int, now: float) -> None:
        """The local client took `count` more bytes of what `WriteTcp` gave."""
        self._now = now
        self._tcp.writable(session, count)

    # -- for local clients: UDP and echo -------------------------------------------------------------------------------

    def open_udp(self, destination: int, port: int, now: float) -> int | None:
        """Start a flow to a service; returns it, or None (counted) if the table is full.

        It closes by itself (`CloseUdp`) when neither side has sent anything for `udp_idle_s`.
        """
        self._now = now
        local_port = self._free_port(lambda p: p in self._by_port)
        if len(self._flows) >= self.limits.udp_flows or local_port is None:
            self._context.stats.dropped_udp_flow_limit += 1
            return None
        self._last_flow += 1
        flow = _Flow(self._last_flow, local_port, destination, port, now)
        self._flows[flow.id] = flow
        self._by_port[local_port] = flow
        self._context.stats.udp_flows_opened += 1
        return flow.id

    def udp_received(self, flow: int, data: bytes, now: float) -> None:
        """Take one datagram from the local client."""
        self._now = now
        found = self._flows.get(flow)
        if found is None:
            self._context.stats.dropped_udp_unknown_flow += 1
            return
        found.active_at = now
        self._flows.move_to_end(flow)
        self._context.emit_udp(self.virtual_ip, found.port, found.destination, found.destination_port, data)

    def close_udp(self, flow: int) -> None:
        """Forget a flow; the shell has already."""
        found = self._flows.pop(flow, None)
        if found is not None:
            del self._by_port[found.port]

    def send_echo(self, destination: int, identifier: int, sequence: int, data: bytes, now: float) -> None:
        """Send an ICMP echo; `EchoReceived` follows if anything comes back."""
        self._now = now
        self._context.emit_icmp(self.virtual_ip, destination, echo_request_payload(identifier, sequence, data))

    def _free_port(self, taken: Callable[[int], bool]) -> int | None:
        """Return a random free port (RFC 6056 s3.3.1); None if chance finds none, that is, nearly all are taken."""
        start = int.from_bytes(self._random(2), "big") % _PORTS
        for step in range(256):
            port = _FIRST_PORT + (start + step) % _PORTS
            if not taken(port):
                return port
        return None

    # -- from the overlay ----------------------------------------------------------------------------------------------

    def packet_received(self, packet: bytes, now: float) -> None:
        """Take one packet from the relay; anything malformed or unexpected is counted and dropped or refused."""
        self._now = now
        stats = self._context.stats
        stats.packets_in += 1
        stats.bytes_in += len(packet)
        if len(packet) > IPV4_HEADER_BYTES and packet[9] == TCP:
            found = sound_tcp(packet)
            if found is not None and self._tcp.received(found[0], found[1], now):
                return
        ip = parse_ipv4(packet)
        if ip is None:
            if well_formed(packet):
                stats.dropped_checksum += 1
            else:
                stats.dropped_malformed += 1
            return
        if ip.destination != self.virtual_ip:
            stats.dropped_no_service += 1
            return
        if ip.more_fragments or ip.offset_bytes:
            whole = self._fragments.add(ip, packet, now)
            if whole is None:
                return
            stats.fragments_reassembled += 1
            ip, packet = whole.packet, whole.first
        if ip.protocol == UDP:
            self._udp_packet(ip, packet, now)
        elif ip.protocol == TCP:
            self._tcp_packet(ip, now)
        elif ip.protocol == ICMP:
            self._icmp_packet(ip, packet)
        else:
            stats.dropped_protocol += 1

    def _tcp_packet(self, ip: Ipv4Packet, now: float) -> None:
        segment = parse_tcp(ip.source, ip.destination, ip.payload)
        if segment is None:
            self._context.stats.dropped_checksum += 1
            return
        source_port, destination_port = ports_of(ip.payload)
        key = (ip.source, source_port, ip.destination, destination_port)
        if not self._tcp.received(key, segment, now):
            self._context.stats.dropped_no_session += 1
            refuse_segment(self._context, key, segment, now)

    def _udp_packet(self, ip: Ipv4Packet, packet: bytes, now: float) -> None:
        datagram = parse_udp(ip.source, ip.destination, ip.payload)
        if datagram is None:
            self._context.stats.dropped_checksum += 1
            return
        flow = self._by_port.get(datagram.destination_port)
        # Like a connected socket: only the service the flow is with may answer.
        if flow is None or flow.destination != ip.source or flow.destination_port != datagram.source_port:
            self._context.stats.dropped_udp_unknown_flow += 1
            self._context.refuse(self.virtual_ip, packet, now, UNREACHABLE_PORT)
            return
        flow.active_at = now
        self._flows.move_to_end(flow.id)
        self._commands.append(SendUdp(flow.id, datagram.payload))

    def _icmp_packet(self, ip: Ipv4Packet, packet: bytes) -> None:
        message = parse_echo(ip.payload)
        if message is None:
            self._error_packet(packet)
        elif message.reply:
            self._commands.append(EchoReceived(ip.source, message.identifier, message.sequence, message.data, None))
        else:
            payload = echo_reply_payload(message.identifier, message.sequence, message.data)
            self._context.emit_icmp(self.virtual_ip, ip.source, payload)

    def _error_packet(self, packet: bytes) -> None:
        """Take an ICMP destination unreachable about something we sent."""
        code, mtu_bytes = icmp_unreachable(packet)
        key = embedded_flow_key(packet)
        if code < 0 or key is None or key[1] != self.virtual_ip:
            self._context.stats.dropped_protocol += 1
            return
        protocol, _, port, destination, destination_port = key
        error = SocketError.REFUSED if code == UNREACHABLE_PORT else SocketError.UNREACHABLE
        if protocol == TCP:
            session = self._tcp.find((destination, destination_port, self.virtual_ip, port))
            # Other errors are no reason to give a connection up: they are easily forged (RFC 5927 s4.1).
            if session is not None and code == UNREACHABLE_FRAGMENTATION_NEEDED:
                fits = max(mtu_bytes, MIN_BUDGET_BYTES) - HEADERS_BYTES
                session.endpoint.set_send_mss(min(send_mss(self._context.budget_bytes), fits))
        elif protocol == UDP:
            flow = self._by_port.get(port)
            if flow is not None and (flow.destination, flow.destination_port) == (destination, destination_port):
                self._commands.append(UdpFailed(flow.id, error))
        else:
            sequence = int.from_bytes(packet[54:56], "big") if len(packet) >= 56 else 0
            self._commands.append(EchoReceived(destination, port, sequence, b"", error))

    # -- time and output -----------------------------------------------------------------------------------------------

    def get_timer(self) -> float | None:
        """Return when `handle_timer` is due, in monotonic seconds; ask once the commands are taken."""
        times = [self._tcp.get_timer(), self._fragments.get_timer()]
        if self._flows:
            times.append(next(iter(self._flows.values())).active_at + self.limits.udp_idle_s)
        return min((at for at in times if at is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Do what is due: retransmissions, expiry of flows and sessions."""
        self._now = now
        self._tcp.handle_timer(now)
        self._fragments.handle_timer(now)
        while self._flows:
            flow = next(iter(self._flows.values()))
            if now < flow.active_at + self.limits.udp_idle_s:
                return
            self._context.stats.udp_flows_expired += 1
            self._close_flow(flow)

    def _close_flow(self, flow: _Flow) -> None:
        del self._flows[flow.id]
        del self._by_port[flow.port]
        self._commands.append(CloseUdp(flow.id))

    def next_command(self) -> Command | None:
        """Return the next thing the shell must do, or None."""
        commands = self._commands
        while not commands:
            if not self._tcp.dirty:
                return None
            self._tcp.flush_next(self._now)
        return commands.popleft()
