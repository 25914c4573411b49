"""The connector's packet gateway: agents' IP packets on one side, backend sockets on the other, without root or TUN."""

from collections.abc import Callable, Sequence

from ztna.proto.gateway_context import GatewayContext, ServiceTable, refuse_segment, send_mss
from ztna.proto.gateway_echo import EchoResponder
from ztna.proto.gateway_tcp import TcpAdmission
from ztna.proto.gateway_types import (
    Backend,
    Command,
    GatewayLimits,
    GatewayService,
    GatewayStats,
    SocketError,
)
from ztna.proto.gateway_udp import UdpFlows
from ztna.proto.packet import (
    ICMP,
    IPV4_HEADER_BYTES,
    TCP,
    UDP,
    UNREACHABLE_FRAGMENTATION_NEEDED,
    UNREACHABLE_PORT,
    UNREACHABLE_PROTOCOL,
    Ipv4Packet,
    embedded_flow_key,
    icmp_unreachable,
    parse_echo,
    parse_ipv4,
    parse_udp,
    sound_udp,
    well_formed,
)
from ztna.proto.packet_fragments import Reassembler
from ztna.proto.tcp_segment import HEADERS_BYTES, RST, SYN, parse_tcp, ports_of, sound_tcp
from ztna.proto.tcp_table import TcpTable

__all__ = ["Gateway"]

MIN_BUDGET_BYTES = 576


class Gateway:
    """Serves the services of one connector; see `gateway_types` for the commands it gives.

    Call an input method, then take `next_command()` until it is None, after each batch rather than after each packet:
    acknowledgments and data are merged when the commands are taken.

    Args:
        services: what is served; with a `virtual_ip` of None there may be only one.
        budget_bytes: the largest IP packet that fits one DATAGRAM towards the relay (at least 576).
        limits: bounds of tables and times.
        random: `random(n)` returns n unpredictable bytes (initial sequence numbers: RFC 9293 s3.4.1).

    Raises:
        ValueError: two services share a virtual IP, or a service has neither backend nor ports.
    """

    def __init__(
        self,
        services: Sequence[GatewayService],
        *,
        budget_bytes: int,
        random: Callable[[int], bytes],
        limits: GatewayLimits | None = None,
    ) -> None:
        self.limits = limits or GatewayLimits()
        self._services = ServiceTable(services)
        self._context = GatewayContext(max(budget_bytes, MIN_BUDGET_BYTES), self.limits, random)
        self._commands = self._context.commands
        self._udp = UdpFlows(self._context)
        self._tcp = TcpTable(self._context)
        self._admission = TcpAdmission(self._context, self._tcp)
        self._echo = EchoResponder(self._context)
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
        return len(self._udp)

    @property
    def tcp_sessions(self) -> int:
        """TCP sessions, those in TIME-WAIT included."""
        return len(self._tcp)

    @property
    def room(self) -> int | None:
        """How many TCP packets the way out still takes; None (at first) means any number.

        Set it before taking commands, to what the DATAGRAM queue has free: TCP then waits instead of losing packets.
        At 0 TCP stands still until it is set again.
        """
        return self._tcp.room

    @room.setter
    def room(self, packets: int | None) -> None:
        self._tcp.room = packets

    def set_budget(self, budget_bytes: int) -> None:
        """Set the largest IP packet that fits one DATAGRAM; call again when the path's limit changes."""
        self._context.budget_bytes = max(budget_bytes, MIN_BUDGET_BYTES)
        for session in self._tcp.sessions:
            session.endpoint.set_send_mss(send_mss(self._context.budget_bytes))

    # -- from the agents -----------------------------------------------------------------------------------------------

    def packet_received(self, packet: bytes, now: float) -> None:
        """Take one packet from the relay; anything malformed or not admitted is counted and dropped or refused."""
        self._now = now
        stats = self._context.stats
        stats.packets_in += 1
        stats.bytes_in += len(packet)
        if len(packet) > IPV4_HEADER_BYTES and self._known_flow(packet, now):
            return
        ip = parse_ipv4(packet)
        if ip is None:
            if well_formed(packet):
                stats.dropped_checksum += 1
            else:
                stats.dropped_malformed += 1
            return
        if ip.more_fragments or ip.offset_bytes:
            whole = self._fragments.add(ip, packet, now)
            if whole is None:
                return
            stats.fragments_reassembled += 1
            ip, packet = whole.packet, whole.first
        if ip.protocol == UDP:
            self._udp_received(ip, packet, now)
        elif ip.protocol == TCP:
            self._tcp_received(ip, now)
        elif ip.protocol == ICMP:
            self._icmp_received(ip, packet, now)
        else:
            stats.dropped_protocol += 1
            if self._services.service(ip.destination) is not None:
                self._context.refuse(ip.destination, packet, now, UNREACHABLE_PROTOCOL)

    def _known_flow(self, packet: bytes, now: float) -> bool:
        """Take a plain packet of an open flow or session, which is what nearly every packet is; False for the rest."""
        protocol = packet[9]
        if protocol == UDP:
            key = sound_udp(packet)
            flow = self._udp.find(key) if key is not None else None
            if flow is None:
                return False
            self._udp.forward(flow, packet[28:], packet, now)
            return True
        if protocol == TCP:
            found = sound_tcp(packet)
            return found is not None and self._tcp.received(found[0], found[1], now)
        return False

    def _udp_received(self, ip: Ipv4Packet, packet: bytes, now: float) -> None:
        context = self._context
        source, destination = ip.source, ip.destination
        datagram = parse_udp(source, destination, ip.payload)
        if datagram is None:
            context.stats.dropped_checksum += 1
            return
        flow = self._udp.find((source, datagram.source_port, destination, datagram.destination_port))
        if flow is None:
            service = self._services.service(destination)
            if service is None:
                context.stats.dropped_no_service += 1
                context.refuse(destination, packet, now)
                return
            backend = self._services.backend(service, UDP, datagram.destination_port)
            if backend is None or not datagram.source_port:
                context.stats.dropped_port_refused += 1
                context.refuse(destination, packet, now, UNREACHABLE_PORT)
                return
            flow = self._udp.open(source, destination, datagram, backend, now)
            if flow is None:
                return
        self._udp.forward(flow, datagram.payload, packet, now)

    def _tcp_received(self, ip: Ipv4Packet, now: float) -> None:
        context = self._context
        segment = parse_tcp(ip.source, ip.destination, ip.payload)
        if segment is None:
            context.stats.dropped_checksum += 1
            return
        source_port, destination_port = ports_of(ip.payload)
        key = (ip.source, source_port, ip.destination, destination_port)
        if self._tcp.received(key, segment, now):
            return
        if not segment.flags & SYN or segment.flags & RST:
            context.stats.dropped_no_session += 1
            refuse_segment(context, key, segment, now)
            return
        service = self._services.service(ip.destination)
        if service is None:
            context.stats.dropped_no_service += 1
            refuse_segment(context, key, segment, now)
            return
        backend = self._services.backend(service, TCP, destination_port)
        if backend is None:
            context.stats.dropped_port_refused += 1
            refuse_segment(context, key, segment, now)
            return
        self._admission.open(key, segment, service, backend, now)

    def _icmp_received(self, ip: Ipv4Packet, packet: bytes, now: float) -> None:
        context = self._context
        message = parse_echo(ip.payload)
        if message is None:
            self._error_received(packet)
            return
        service = self._services.service(ip.destination)
        if message.reply or service is None:
            context.stats.dropped_no_service += 1
            if not message.reply:
                context.refuse(ip.destination, packet, now)
            return
        backend = self._services.echo_backend(service)
        self._echo.received(ip.source, ip.destination, message, packet, backend, now)

    def _error_received(self, packet: bytes) -> None:
        """Take the one ICMP error that matters here: TCP segments do not fit somewhere on the way (RFC 1191)."""
        code, mtu_bytes = icmp_unreachable(packet)
        flow = embedded_flow_key(packet)
        if code != UNREACHABLE_FRAGMENTATION_NEEDED or flow is None or flow[0] != TCP:
            self._context.stats.dropped_protocol += 1
            return
        _, source, source_port, destination, destination_port = flow
        session = self._tcp.find((destination, destination_port, source, source_port))
        if session is not None:
            # Believed down to the size every host must take.
            fits = max(mtu_bytes, MIN_BUDGET_BYTES) - HEADERS_BYTES
            session.endpoint.set_send_mss(min(send_mss(self._context.budget_bytes), fits))

    # -- from the backends ---------------------------------------------------------------------------------------------

    def udp_received(self, flow: int, data: bytes, now: float) -> None:
        """Take one datagram from the flow's backend socket."""
        self._now = now
        if (backend := self._udp.received(flow, data, now)) is not None:
            self._echo.alive(backend, now)

    def udp_error(self, flow: int, error: SocketError, now: float) -> None:
        """Take a socket error of a flow: the agent gets the matching ICMP error; the flow stays open."""
        self._now = now
        self._judge(self._udp.backend_of(flow), error, now)
        self._udp.failed(flow, error, now)

    def tcp_connected(self, session: int, now: float) -> None:
        """The backend accepted: the handshake with the agent goes on."""
        self._now = now
        known = self._tcp.get(session)
        if known is not None and known.backend is not None:
            self._echo.alive(known.backend, now)
        self._tcp.connected(session, now)

    def tcp_failed(self, session: int, error: SocketError, now: float) -> None:
        """The backend did not accept: the agent is refused. The shell has already forgotten the session."""
        self._now = now
        known = self._tcp.get(session)
        if known is not None:
            self._judge(known.backend, error, now)
        self._tcp.broken(session)

    def tcp_data(self, session: int, data: bytes, now: float) -> None:
        """Take bytes read from the backend; all are kept, and `PauseTcp` says when to stop reading."""
        self._now = now
        self._tcp.data(session, data)

    def tcp_eof(self, session: int, now: float) -> None:
        """The backend ended its direction; the other one stays open (half-close)."""
        self._now = now
        self._tcp.eof(session)

    def tcp_reset(self, session: int, now: float) -> None:
        """The backend connection broke; the shell has already forgotten the session."""
        self._now = now
        self._tcp.broken(session)

    def tcp_writable(self, session: int, count: int, now: float) -> None:
        """The backend took `count` more bytes of what `WriteTcp` gave; this opens the agent's window again."""
        self._now = now
        self._tcp.writable(session, count)

    def backend_answered(self, backend: Backend, alive: bool, now: float) -> None:
        """Take the result of `PingBackend`."""
        self._now = now
        if alive:
            self._echo.alive(backend, now)
        else:
            self._echo.dead(backend, now)

    def _judge(self, backend: Backend | None, error: SocketError, now: float) -> None:
        if backend is None:
            return
        if error in (SocketError.REFUSED, SocketError.RESET):
            self._echo.alive(backend, now)
        elif error in (SocketError.UNREACHABLE, SocketError.TIMED_OUT):
            self._echo.dead(backend, now)

    # -- time and output -----------------------------------------------------------------------------------------------

    def get_timer(self) -> float | None:
        """Return when `handle_timer` is due, in monotonic seconds; ask once the commands are taken."""
        due: float | None = None
        for part in (self._tcp, self._udp, self._echo, self._fragments):
            at = part.get_timer()
            if at is not None and (due is None or at < due):
                due = at
        return due

    def handle_timer(self, now: float) -> None:
        """Do what is due: retransmissions, expiry of flows and sessions, unanswered echoes."""
        self._now = now
        self._tcp.handle_timer(now)
        self._udp.handle_timer(now)
        self._echo.handle_timer(now)
        self._fragments.handle_timer(now)

    def next_command(self) -> Command | None:
        """Return the next thing the shell must do, or None."""
        commands = self._commands
        while not commands:
            if not self._tcp.dirty:
                return None
            self._tcp.flush_next(self._now)
        return commands.popleft()
