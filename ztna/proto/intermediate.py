"""The intermediate: registration, observed addresses, signalling and relay of packets.

Flow: a connection opens, authenticated or anonymous -> it is told its observed address -> it registers as agent or
connector of services, each answered by ACK or NACK -> packets of agents go to the connector of their service and open
flows -> packets of connectors go back along those flows. Nothing of a connection acts before `connection_opened` or
after it was closed from either side.

Connections of both protocols are peers of one registry under one policy, and their packets are relayed alike. What a
`ztna-v2` connection says and is told on its control stream is the business of the control plane (`attach`), which
opens it here once it has proved who it is.

The shell calls one method per input, then takes commands until `next_command` returns None. Packets are checked as
bytes and integers, and no object is made for them but the command: this is the hot path of the product.
"""

from collections import deque
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final, Protocol

from ztna.proto.commands import (
    CloseConnection,
    CloseRelay,
    ConnId,
    IntermediateCommand,
    Level,
    Note,
    SendDatagram,
    SendStream,
)
from ztna.proto.errors import LocalProtocolError, ServiceIdError, WireError
from ztna.proto.flows import FlowTable
from ztna.proto.identity import Identity
from ztna.proto.limits import ControlLimits, IntermediateLimits
from ztna.proto.membership import Membership, peer_name
from ztna.proto.policy import Policy
from ztna.proto.registry import V2, Peer, Registry, Service
from ztna.proto.relay import Relay
from ztna.proto.sessions import SignallingSessions
from ztna.proto.signalling import SignallingMessage, encode_frame
from ztna.proto.signalling_streams import CLIENT_STREAM, SERVER_STREAM, V2_SERVER_STREAM, SignallingStreams
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


class ControlPlane(Protocol):
    """What the intermediate tells about connections of `ztna-v2`, and about all that their sessions depend on."""

    def early_datagram(self, conn: ConnId, now: float) -> bool:
        """A DATAGRAM came on a connection that is not open here; True if it was one of ours."""

    def observed(self, peer: Peer) -> None:
        """The connection is seen at another address now."""

    def registration(self, peer: Peer, role: str, service_id: str, refusal: str | None) -> None:
        """See `ztna.proto.membership.Tell`."""

    def service_changed(self, service: Service) -> None:
        """See `ztna.proto.membership.Tell`."""

    def peer_left(self, peer: Peer, now: float) -> None:
        """The connection is gone, or about to be closed; its registrations still stand."""

    def policy_changed(self, policy: Policy, now: float) -> None:
        """A new policy was applied to connections and registrations."""


class Intermediate:
    """State of one intermediate; see the module for its flow."""

    def __init__(
        self,
        policy: Policy,
        *,
        allow_anonymous: bool = False,
        limits: IntermediateLimits | None = None,
        control_limits: ControlLimits | None = None,
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
        self._streams = SignallingStreams(self._peers, self._limits, self.stats, self._sessions.receive)
        self._relay = Relay(policy, self._flows, self._limits, self.stats, self._commands)
        self._control_plane: ControlPlane | None = None
        self._members = Membership(
            self._registry,
            self._flows,
            policy,
            allow_anonymous=allow_anonymous,
            limits=self._limits,
            stats=self.stats,
            tell=self,
            note=self.note,
            switch_s=(control_limits or ControlLimits()).switch_s,
        )

    def attach(self, control: ControlPlane) -> None:
        """Let `ztna-v2` connections in, which `control` speaks for."""
        self._control_plane = control

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._policy

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
            service.id: (None if service.connector is None else peer_name(service.connector), len(service.agents))
            for service in self._registry.services.values()
        }

    def peer(self, conn: ConnId) -> Peer | None:
        """Return an open connection, None if it is not or no longer."""
        return self._peers.get(conn)

    # Connections

    def connection_opened(
        self, conn: ConnId, identity: Identity | None, addr: Address, now: float, *, protocol: int = 1
    ) -> None:
        """A connection's identity is known (None: no client certificate was sent), and it may act unless refused."""
        if conn in self._peers:
            return
        reason = self._refusal(identity)
        if reason is not None:
            self.stats.connections_refused += 1
            self.command(CloseConnection(conn, CLOSE_REFUSED, reason))
            self.note("info", "connection refused", conn=conn, reason=reason)
            return
        peer = self._registry.add(conn, identity, addr, protocol)
        self._set_virtual_ip(peer)
        self.stats.connections_opened += 1
        self._observe(peer)
        self.note("debug", "connection opened", conn=conn, peer=peer_name(peer), address=addr, protocol=protocol)

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
            self.note("debug", "connection closed", conn=conn, peer=peer_name(peer))

    def _close(self, peer: Peer, reason: str, now: float) -> None:
        self._remove(peer, now)
        self.command(CloseConnection(peer.conn, CLOSE_REFUSED, reason))
        self.note("info", "connection ended", conn=peer.conn, peer=peer_name(peer), reason=reason)

    def _remove(self, peer: Peer, now: float) -> None:
        self.stats.connections_closed += 1
        self._sessions.connection_closed(peer)
        self._streams.connection_closed(peer)
        if peer.protocol == V2 and self._control_plane is not None:
            self._control_plane.peer_left(peer, now)
        self._members.left(peer, now)

    def _set_virtual_ip(self, peer: Peer) -> None:
        if peer.identity is not None and peer.identity.role == "agent":
            peer.virtual_ip = self._policy.agent_address(peer.identity.name)

    def _observe(self, peer: Peer) -> None:
        if peer.protocol == V2:
            if self._control_plane is not None:
                self._control_plane.observed(peer)
            return
        ip = observed_ipv4(peer.address[0])
        if ip is not None:
            self.stats.observed_addresses_sent += 1
            self._datagram(peer, ObservedAddress(ip, peer.address[1]).encode())

    # Policy and registrations

    def set_policy(self, policy: Policy, now: float) -> None:
        """Apply a new policy to everything: close the revoked, withdraw rights, follow changed addresses."""
        self._policy = self._relay.policy = self._members.policy = policy
        for peer in list(self._peers.values()):
            if peer.identity is not None and policy.revoked(peer.identity):
                self.stats.connections_revoked += 1
                self._close(peer, "client cert revoked", now)
            else:
                self._set_virtual_ip(peer)
        self._members.apply_policy(policy, now)
        self._flows.close_parked()
        for peer in self._peers.values():
            for flow in list(peer.flows):
                if self._relay.misaddressed(peer, flow.service, flow.key[1], flow.key[3]):
                    self._flows.close(flow)
        if self._control_plane is not None:
            self._control_plane.policy_changed(policy, now)

    def register(self, peer: Peer, role: str, service_id: str, now: float) -> str | None:
        """Make an open connection agent or connector of a service; None if done, else the code of the refusal."""
        return self._members.register(peer, role, service_id, now)

    def stand_aside(self, peer: Peer, now: float, *, to_standbys: bool) -> None:
        """A connector does not answer (`ztna.proto.membership`)."""
        self._members.stand_aside(peer, now, to_standbys=to_standbys)

    def return_of(self, peer: Peer, now: float) -> None:
        """It answers again."""
        self._members.return_of(peer, now)

    def registration(self, peer: Peer, role: str, service_id: str, refusal: str | None) -> None:
        """Tell a connection, unasked, that its registration changed (`ztna.proto.membership.Tell`)."""
        if peer.protocol == V2:
            if self._control_plane is not None:
                self._control_plane.registration(peer, role, service_id, refusal)
        elif refusal is None:
            self._datagram(peer, RegistrationAck(service_id).encode())
        else:
            self._datagram(peer, RegistrationNack(service_id, NackStatus.NOT_AUTHORISED).encode())

    def service_changed(self, service: Service) -> None:
        """Pass on that another connector serves a service (`ztna.proto.membership.Tell`)."""
        if self._control_plane is not None:
            self._control_plane.service_changed(service)

    # DATAGRAMs

    def datagram_received(self, conn: ConnId, data: bytes, now: float) -> None:
        """One DATAGRAM payload arrived; whatever it holds, nothing is raised."""
        peer = self._peers.get(conn)
        if peer is None:
            if self._control_plane is None or not self._control_plane.early_datagram(conn, now):
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
            if isinstance(message, RegisterAgent | RegisterConnector) and peer.protocol != V2:
                role = "agent" if isinstance(message, RegisterAgent) else "connector"
                self.registration(peer, role, message.service_id, self.register(peer, role, message.service_id, now))
            elif isinstance(message, RawPacket):
                self.stats.drop_malformed += 1
            else:
                self.stats.drop_unexpected_control += 1

    # Streams

    def stream_received(self, conn: ConnId, stream_id: int, data: bytes, fin: bool, now: float) -> None:
        """Bytes of a signalling stream arrived in order; `fin` ends the stream, and an incomplete frame with it."""
        peer = self._peers.get(conn)
        if peer is None:
            self.stats.drop_not_open += 1
        else:
            self._streams.receive(peer, stream_id, data, fin, now)

    def _signal(self, peer: Peer, message: SignallingMessage) -> None:
        """Send on the client's first stream, or on ours if it never opened one."""
        stream_id = CLIENT_STREAM if peer.has_stream_zero else SERVER_STREAM
        if peer.protocol == V2:
            stream_id = V2_SERVER_STREAM
        try:
            frame = encode_frame(message)
        except LocalProtocolError:  # an answer of nearly the largest size: StartPunching has 8 bytes more
            self.stats.drop_session_limit += 1
            return
        self.command(SendStream(peer.conn, stream_id, frame))

    # Time and output

    def get_timer(self) -> float | None:
        """Return when `handle_timer` is due (monotonic seconds), None if nothing waits."""
        waiting = (self._flows, self._sessions, self._streams, self._members)
        return min((at for part in waiting if (at := part.get_timer()) is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Expire flows, sessions and incomplete frames; let connectors that waited take over."""
        self._flows.handle_timer(now)
        self._sessions.handle_timer(now)
        self._streams.handle_timer(now)
        self._members.handle_timer(now)

    def next_command(self) -> IntermediateCommand | None:
        """Return the next thing to do, None if there is nothing more."""
        return self._commands.popleft() if self._commands else None

    def command(self, command: IntermediateCommand) -> None:
        """Queue a command behind all others; the queue is bounded, but nothing that closes is ever left out."""
        if len(self._commands) >= self._limits.commands and not isinstance(command, CloseConnection | CloseRelay):
            self.stats.drop_command_queue += 1
            return
        self._commands.append(command)

    def note(self, level: Level, event: str, **fields: object) -> None:
        """Queue a log line."""
        self.command(Note(level, event, fields))

    def _datagram(self, peer: Peer, data: bytes) -> None:
        self.command(SendDatagram(peer.conn, data))
