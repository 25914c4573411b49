"""The intermediate: registration, observed addresses, signalling and relay of packets for `ztna-v1`.

Flow: a connection opens, authenticated or anonymous -> it is told its observed address -> it registers as agent or
connector of services, each answered by ACK or NACK -> packets of agents go to the connector of their service and open
flows -> packets of connectors go back along those flows. Nothing of a connection acts before `connection_opened` or
after it was closed from either side.

The shell calls one method per input, then takes commands until `next_command` returns None. Packets are checked as
bytes and integers, and no object is made for them but the command: this is the hot path of the product.
"""

from collections import deque
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from itertools import islice
from typing import Final

from ztna.proto.commands import CloseConnection, ConnId, IntermediateCommand, Level, Note, SendDatagram, SendStream
from ztna.proto.errors import LocalProtocolError, ServiceIdError, WireError
from ztna.proto.flows import FlowTable
from ztna.proto.identity import Identity
from ztna.proto.limits import IntermediateLimits
from ztna.proto.policy import Policy
from ztna.proto.registry import Peer, Registry, Service
from ztna.proto.relay import Relay
from ztna.proto.sessions import SignallingSessions
from ztna.proto.signalling import FrameReader, SignallingMessage, encode_frame
from ztna.proto.stats import IntermediateStats
from ztna.proto.wire import (
    MessageType,
    NackStatus,
    ObservedAddress,
    RawPacket,
    RegisterAgent,
    RegisterConnector,
    RegistrationAck,
    RegistrationNack,
    decode,
)

__all__ = ["CLOSE_REFUSED", "CloseConnection", "Intermediate", "Note", "SendDatagram", "SendStream"]

Address = tuple[str, int]

CLOSE_REFUSED: Final = 0x01
CLIENT_STREAM: Final = 0
SERVER_STREAM: Final = 1
UNIDIRECTIONAL: Final = 0x02  # RFC 9000 s2.1
SERVICE_ROUTED: Final = int(MessageType.SERVICE_ROUTED)


def observed_ipv4(host: str) -> str | None:
    """Return the IPv4 text of a source address, IPv4-mapped IPv6 included; None for IPv6, which the message lacks."""
    try:
        return str(IPv4Address(host))
    except AddressValueError:
        pass
    try:
        mapped = IPv6Address(host.partition("%")[0]).ipv4_mapped
    except AddressValueError:
        return None
    return None if mapped is None else str(mapped)


class Intermediate:
    """State of one intermediate; see the module for its flow."""

    def __init__(
        self, policy: Policy, *, allow_anonymous: bool = False, limits: IntermediateLimits | None = None
    ) -> None:
        """Args: allow_anonymous: let peers without a certificate in (`allow_anonymous_v1`)."""
        self._policy = policy
        self._allow_anonymous = allow_anonymous
        self._limits = limits or IntermediateLimits()
        self.stats = IntermediateStats()
        self._commands: deque[IntermediateCommand] = deque()
        self._registry = Registry()
        self._peers = self._registry.peers
        self._flows = FlowTable(self._limits, self.stats)
        self._sessions = SignallingSessions(self._registry, self._limits, self.stats, self._signal)
        self._relay = Relay(policy, self._flows, self._limits, self.stats, self._commands)
        # (connection, stream) -> when its incomplete frame is given up, in that order.
        self._frame_deadlines: dict[tuple[ConnId, int], float] = {}

    @property
    def connections(self) -> int:
        """Number of open connections."""
        return len(self._peers)

    @property
    def flows(self) -> int:
        """Number of flows."""
        return self._flows.count

    @property
    def sessions(self) -> int:
        """Number of signalling sessions."""
        return len(self._sessions)

    def services(self) -> dict[str, tuple[str | None, int]]:
        """Return for each registered service its connector's name (None if away) and its agents."""
        return {
            service.id: (None if service.connector is None else _name(service.connector), len(service.agents))
            for service in self._registry.services.values()
        }

    # Connections

    def connection_opened(self, conn: ConnId, identity: Identity | None, addr: Address, now: float) -> None:
        """A handshake is complete and the client certificate judged (`identity` None: it sent none)."""
        if conn in self._peers:
            return
        reason = self._refusal(identity)
        if reason is not None:
            self.stats.connections_refused += 1
            self._command(CloseConnection(conn, CLOSE_REFUSED, reason))
            self._note("info", "connection refused", conn=conn, reason=reason)
            return
        peer = self._registry.add(conn, identity, addr)
        self._set_virtual_ip(peer)
        self.stats.connections_opened += 1
        self._observe(peer)
        self._note("debug", "connection opened", conn=conn, peer=_name(peer), address=addr)

    def _refusal(self, identity: Identity | None) -> str | None:
        if identity is None:
            if not self._allow_anonymous:
                return "client cert required"
        elif self._policy.revoked(identity):
            return "client cert revoked"
        elif identity.role not in ("agent", "connector"):
            return "invalid client cert"
        return "too many connections" if len(self._peers) >= self._limits.connections else None

    def address_changed(self, conn: ConnId, addr: Address, now: float) -> None:
        """The connection migrated to a validated new path (RFC 9000 s9); tell the client how it is seen now."""
        peer = self._peers.get(conn)
        if peer is not None:
            peer.address = addr
            self._observe(peer)

    def connection_closed(self, conn: ConnId, now: float) -> None:
        """The connection is gone or closing; nothing of it acts any more."""
        peer = self._peers.get(conn)
        if peer is not None:
            self._remove(peer, now)
            self._note("debug", "connection closed", conn=conn, peer=_name(peer))

    def _close(self, peer: Peer, reason: str, now: float) -> None:
        self._remove(peer, now)
        self._command(CloseConnection(peer.conn, CLOSE_REFUSED, reason))
        self._note("info", "connection ended", conn=peer.conn, peer=_name(peer), reason=reason)

    def _remove(self, peer: Peer, now: float) -> None:
        self.stats.connections_closed += 1
        self._sessions.connection_closed(peer)
        for service in list(peer.serving.values()):
            self._flows.connector_left(peer, service, now, park=True)
        self._flows.agent_left(peer, now)
        for stream_id in peer.readers:
            self._frame_deadlines.pop((peer.conn, stream_id), None)
        self._registry.remove(peer)

    def _set_virtual_ip(self, peer: Peer) -> None:
        if peer.identity is not None and peer.identity.role == "agent":
            peer.virtual_ip = self._policy.agent_address(peer.identity.name)

    def _observe(self, peer: Peer) -> None:
        host, port = peer.address[0], peer.address[1]
        ip = observed_ipv4(host)
        if ip is not None:
            self.stats.observed_addresses_sent += 1
            self._datagram(peer, ObservedAddress(ip, port).encode())

    # Policy

    def set_policy(self, policy: Policy, now: float) -> None:
        """Apply a new policy to everything: close the revoked, withdraw rights, follow changed addresses."""
        self._policy = self._relay.policy = policy
        for peer in list(self._peers.values()):
            if peer.identity is not None and policy.revoked(peer.identity):
                self.stats.connections_revoked += 1
                self._close(peer, "client cert revoked", now)
                continue
            self._set_virtual_ip(peer)
            for service in list(peer.reach.values()):
                if not self._may_reach(peer, service.id):
                    self._withdraw_agent(peer, service)
            for service in list(peer.serving.values()):
                if not self._may_serve(peer, service.id):
                    self._withdraw_connector(peer, service, now)
        for service in self._registry.services.values():
            service.address = policy.service_address(service.id)
        self._flows.close_parked()
        for peer in self._peers.values():
            for flow in list(peer.flows):
                if self._relay.misaddressed(peer, flow.service, flow.key[1], flow.key[3]):
                    self._flows.close(flow)

    def _may_reach(self, peer: Peer, service_id: str) -> bool:
        return self._allow_anonymous if peer.identity is None else self._policy.may_reach(peer.identity, service_id)

    def _may_serve(self, peer: Peer, service_id: str) -> bool:
        return self._allow_anonymous if peer.identity is None else self._policy.may_serve(peer.identity, service_id)

    def _withdraw_agent(self, peer: Peer, service: Service) -> None:
        self._flows.agent_withdrawn(peer, service)
        self._registry.leave(peer, service)
        self._withdrawn(peer, "agent", service.id)

    def _withdraw_connector(self, peer: Peer, service: Service, now: float) -> None:
        self._flows.connector_left(peer, service, now, park=False)
        self._registry.release(peer, service)
        self._withdrawn(peer, "connector", service.id)

    def _withdrawn(self, peer: Peer, role: str, service_id: str) -> None:
        self.stats.registrations_withdrawn += 1
        self._datagram(peer, RegistrationNack(service_id, NackStatus.NOT_AUTHORISED).encode())
        self._note("info", "registration withdrawn", peer=_name(peer), role=role, service=service_id)

    # DATAGRAMs

    def datagram_received(self, conn: ConnId, data: bytes, now: float) -> None:
        """One DATAGRAM payload arrived; whatever it holds, nothing is raised."""
        peer = self._peers.get(conn)
        if peer is None:
            self.stats.drop_not_open += 1
            return
        peer.heard = now
        if not data:
            self.stats.drop_empty += 1
        elif data[0] == SERVICE_ROUTED:
            if len(data) < 3 or len(data) < (end := 2 + data[1]):
                self.stats.drop_truncated += 1
                return
            service = peer.reach.get(data[2:end])
            if service is None:
                self.stats.drop_not_registered += 1
            else:
                self._relay.to_connector(peer, service, data[end:], now)
        elif data[0] >> 4 == 4:
            self._relay.raw(peer, data, now)
        else:
            self._control(peer, data, now)

    def _control(self, peer: Peer, data: bytes, now: float) -> None:
        """Act on a registration; count everything else that is no packet."""
        try:
            message = decode(data)
        except ServiceIdError:
            self.stats.registrations_refused += 1
            self._datagram(peer, RegistrationNack("", NackStatus.INVALID_SERVICE_ID).encode())
        except WireError:
            self.stats.drop_truncated += 1
        else:
            if isinstance(message, RegisterAgent | RegisterConnector):
                self._register(peer, message, now)
            elif isinstance(message, RawPacket):
                self.stats.drop_malformed += 1
            else:
                self.stats.drop_unexpected_control += 1

    def _register(self, peer: Peer, message: RegisterAgent | RegisterConnector, now: float) -> None:
        service_id, key = message.service_id, message.service_id.encode()
        as_agent = isinstance(message, RegisterAgent)
        mine = peer.reach if as_agent else peer.serving
        if as_agent:
            allowed = self._may_reach(peer, service_id)
        else:
            allowed = self._may_serve(peer, service_id) and self._registry.may_take(peer, key)
        full = key not in mine and len(mine) >= self._limits.services_per_connection
        role = "agent" if as_agent else "connector"
        if full or not allowed:
            self.stats.registrations_refused += 1
            self._datagram(peer, RegistrationNack(service_id, NackStatus.NOT_AUTHORISED).encode())
            if key not in peer.denied and len(peer.denied) < self._limits.services_per_connection:
                peer.denied.add(key)
                self._note("info", "registration refused", peer=_name(peer), role=role, service=service_id)
            return
        if key not in mine:
            service = self._registry.service(key, service_id, self._policy.service_address(service_id))
            if as_agent:
                self._join(peer, service, now)
            else:
                self._take(peer, service, now)
            self._note("info", "registered", peer=_name(peer), role=role, service=service_id)
        self.stats.registrations += 1
        self._datagram(peer, RegistrationAck(service_id).encode())

    def _join(self, peer: Peer, service: Service, now: float) -> None:
        self._registry.join(peer, service)
        self._flows.agent_registered(peer, service, now)

    def _take(self, peer: Peer, service: Service, now: float) -> None:
        holder = self._registry.take(peer, service)
        if holder is not None:
            self.stats.connectors_displaced += 1
            self._flows.connector_left(holder, service, now, park=True)
            if holder.owner is not None:
                # A second process with the same certificate must not believe that it still serves.
                self._datagram(holder, RegistrationNack(service.id, NackStatus.NOT_AUTHORISED).encode())
            self._note("info", "connector displaced", peer=_name(holder), by=_name(peer), service=service.id)
        self._flows.connector_registered(peer, service, now)

    # Streams

    def stream_received(self, conn: ConnId, stream_id: int, data: bytes, fin: bool, now: float) -> None:
        """Bytes of a stream arrived in order; `fin` ends the stream, and an incomplete frame with it."""
        peer = self._peers.get(conn)
        if peer is None:
            self.stats.drop_not_open += 1
            return
        if stream_id & UNIDIRECTIONAL:
            self.stats.drop_stream += 1
            return
        if stream_id == CLIENT_STREAM:
            peer.has_stream_zero = True
        reader = peer.readers.get(stream_id)
        if reader is None:
            if (
                len(peer.readers) >= self._limits.streams_per_connection
                or len(self._frame_deadlines) >= self._limits.incomplete_frames
            ):
                self.stats.drop_stream += 1
                return
            reader = FrameReader()
        bad_frames = reader.bad_frames
        messages = reader.receive(data)
        self.stats.drop_frame += reader.bad_frames - bad_frames
        self._keep_reader(
            peer, stream_id, reader, fin, progressed=bool(messages) or reader.bad_frames > bad_frames, now=now
        )
        for message in messages:
            if conn in self._peers:
                self._sessions.receive(peer, message, now)

    def _keep_reader(
        self, peer: Peer, stream_id: int, reader: FrameReader, fin: bool, *, progressed: bool, now: float
    ) -> None:
        """Hold a reader only while it has an incomplete frame, and give each frame a deadline."""
        key = (peer.conn, stream_id)
        if fin or not reader.buffered_bytes:
            peer.readers.pop(stream_id, None)
            self._frame_deadlines.pop(key, None)
        elif stream_id not in peer.readers or progressed:
            peer.readers[stream_id] = reader
            self._frame_deadlines.pop(key, None)
            self._frame_deadlines[key] = now + self._limits.frame_s

    def _signal(self, peer: Peer, message: SignallingMessage) -> None:
        """Send on the client's first stream, or on ours if it never opened one."""
        stream_id = CLIENT_STREAM if peer.has_stream_zero else SERVER_STREAM
        try:
            frame = encode_frame(message)
        except LocalProtocolError:  # an answer of nearly the largest size: StartPunching has 8 bytes more
            self.stats.drop_session_limit += 1
            return
        self._command(SendStream(peer.conn, stream_id, frame))

    # Time and output

    def get_timer(self) -> float | None:
        """Return when `handle_timer` is due (monotonic seconds), None if nothing waits."""
        due = [at for at in (self._flows.get_timer(), self._sessions.get_timer()) if at is not None]
        due += list(islice(self._frame_deadlines.values(), 1))
        return min(due, default=None)

    def handle_timer(self, now: float) -> None:
        """Expire flows, sessions and incomplete frames."""
        self._flows.handle_timer(now)
        self._sessions.handle_timer(now)
        deadlines = self._frame_deadlines
        while deadlines:
            (conn, stream_id), deadline = next(iter(deadlines.items()))
            if deadline > now:
                return
            del deadlines[conn, stream_id]
            del self._peers[conn].readers[stream_id]
            self.stats.drop_frame_timeout += 1

    def next_command(self) -> IntermediateCommand | None:
        """Return the next thing to do, None if there is nothing more."""
        return self._commands.popleft() if self._commands else None

    def _command(self, command: IntermediateCommand) -> None:
        if len(self._commands) >= self._limits.commands and not isinstance(command, CloseConnection):
            self.stats.drop_command_queue += 1
            return
        self._commands.append(command)

    def _datagram(self, peer: Peer, data: bytes) -> None:
        self._command(SendDatagram(peer.conn, data))

    def _note(self, level: Level, event: str, **fields: object) -> None:
        self._command(Note(level, event, fields))


def _name(peer: Peer) -> str:
    """Return what a peer is called in logs and status."""
    return "anonymous" if peer.identity is None else peer.identity.name
