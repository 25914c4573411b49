"""The intermediate's side of `ztna-v2`: proof of identity, registrations, observed addresses, and sessions.

    connection -> Challenge (stream 1) -> Hello (stream 0) -> judged: Welcome and Observed, or closed
               -> Register, Connect, ... until either side closes

Once a connection has proved who it is, it is a peer of the intermediate like one of `ztna-v1`: the same registry, the
same policy, the same relay of packets. Messages leave through the command queue of the intermediate, so that everything
a connection is told keeps its order; OpenRelay and CloseRelay come through it too.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from ztna.proto.commands import ConnId, PingConnection
from ztna.proto.control.broker import SessionBroker
from ztna.proto.control.connections import CAPABILITIES, Connection, ControlConnections
from ztna.proto.control.fields import Role
from ztna.proto.control.messages import (
    MAX_FRAME_BYTES,
    Accept,
    Candidates,
    Connect,
    ControlMessage,
    Draining,
    EndSession,
    Error,
    Hello,
    NatReport,
    Observed,
    PathReport,
    Refusal,
    Register,
    Registered,
    ServiceState,
    Silence,
    Welcome,
)
from ztna.proto.control.proof import ProofError
from ztna.proto.control.sessions import row_of
from ztna.proto.control.suspects import Packets, Stage, Suspects
from ztna.proto.identity import Identity
from ztna.proto.intermediate import Intermediate
from ztna.proto.limits import ControlLimits
from ztna.proto.membership import DENIED, LIMIT, STANDBY, peer_name
from ztna.proto.policy import Policy
from ztna.proto.ratelimit import SourceLimiter
from ztna.proto.registry import V2, Peer, Service
from ztna.proto.wire import MAX_SERVICE_ID_BYTES

__all__ = ["CAPABILITIES", "ControlServer", "Verify"]

MALFORMED: Final = "malformed"
REFUSAL_TEXTS: Final = {
    DENIED: "the certificate or the policy does not grant it",
    LIMIT: "too many services on one connection",
    STANDBY: "another connector serves it; this one follows when it leaves",
    MALFORMED: "a service id has 1 to 255 bytes",
}

Verify = Callable[[Hello, bytes, bytes], Identity]
"""Judges a Hello, given the nonce and the SHA-256 of the server's leaf: the identity proved, or ProofError."""


class ControlServer(ControlConnections):
    """The control plane of one intermediate; see the module.

    Args:
        relay: the intermediate whose peers the connections become; its command queue takes what is to be sent.
        verify: judges a Hello.
        random: `random(n)` gives n bytes that nobody can guess.
        rtt_s: smoothed round-trip time of a connection in seconds, None before it is known.
        packets: what was sent and acknowledged on a connection; without it no report of silence has an effect.
        stun: where STUN is answered, for Welcome; ("", 0) is the address dialled.
        lease_s: how long a silent connection is kept, for Registered.
    """

    def __init__(
        self,
        relay: Intermediate,
        *,
        verify: Verify,
        random: Callable[[int], bytes],
        rtt_s: Callable[[ConnId], float | None] = lambda _: None,
        packets: Callable[[ConnId], Packets | None] = lambda _: None,
        limits: ControlLimits | None = None,
        stun: Sequence[tuple[str, int]] = (("", 0),),
        keepalive_s: float = 10.0,
        lease_s: float = 30.0,
    ) -> None:
        limits = limits or ControlLimits()
        super().__init__(relay, random, limits)
        self.stun = tuple(stun)
        self._verify = verify
        self._keepalive_s = keepalive_s
        self._lease_s = lease_s
        self._broker = SessionBroker(
            limits,
            self.stats,
            send=lambda peer, message: self._send(peer.conn, message),
            command=relay.command,
            note=relay.note,
            random=random,
            rtt_s=rtt_s,
        )
        self._reports = SourceLimiter(limits.silence_reports_per_s, limits.silence_reports_burst)
        self._suspects = Suspects(
            limits,
            self.stats,
            ping=lambda conn: relay.command(PingConnection(conn)),
            packets=packets,
            rtt_s=rtt_s,
            changed=self._suspect_changed,
        )
        relay.attach(self)

    @property
    def session_count(self) -> int:
        """Sessions brokered and not ended."""
        return len(self._broker.table)

    def sessions(self, now: float) -> list[dict[str, Any]]:
        """Return what a status page says of each session."""
        return [row_of(session, now) for session in self._broker.table]

    def session_key(self, session: bytes, role: str = "") -> bytes | None:
        """Return the key that protects STUN of a session; both roles have the same one."""
        return self._broker.key_of(session)

    # Messages

    def _hello(self, connection: Connection, hello: Hello, now: float) -> None:
        try:
            identity = self._verify(hello, connection.nonce, connection.leaf_sha256)
            shown = connection.tls_identity
            if shown is not None and shown.uri != identity.uri:
                raise ProofError("the TLS certificate names another identity than the proof")
        except ProofError as error:
            self.stats.proofs_refused += 1
            self._relay.note("info", "proof refused", conn=connection.conn, code=error.code, detail=str(error))
            self._close(connection, f"{error.code}: {error}", now)
            return
        conn = connection.conn
        self._relay.connection_opened(conn, identity, connection.address, now, protocol=V2)
        peer = self._relay.peer(conn)
        if peer is None:
            # The intermediate refused it (a role, a revocation, a bound), has said why and closes.
            self.stats.proofs_refused += 1
            self._forget(connection, now)
            return
        self.stats.proofs_accepted += 1
        self._proved(connection, peer, MAX_FRAME_BYTES)
        self._send(conn, Welcome(identity.uri, CAPABILITIES, self._keepalive_s, peer.epoch, self.stun))
        self.observed(peer)
        self._relay.note("debug", "proof accepted", conn=conn, peer=peer_name(peer), software=hello.software)

    def _act(self, connection: Connection, peer: Peer, message: ControlMessage, now: float) -> None:
        broker = self._broker
        self._suspects.heard(peer, now)
        match message:
            case Register():
                self._register(peer, message, now)
            case Connect():
                broker.connect(peer, message, now)
            case Accept():
                broker.accept(peer, message, now)
            case Candidates() | NatReport() | PathReport():
                broker.forward(peer, message, now)
            case Silence():
                self._silence(peer, message, now)
            case EndSession():
                broker.end_by(peer, message)
            case Error():
                # About anything but a session there is nothing to be done here.
                if message.session is not None:
                    broker.error(peer, message, now)
            case _:
                self.stats.drop_unknown += 1
                kind = type(message).__name__
                self._error(connection, Error("unknown-message", f"{kind} is not for a server", about=kind))

    def _register(self, peer: Peer, message: Register, now: float) -> None:
        peer.claimed = peer.claimed or message.epoch
        accepted: list[str] = []
        refused: list[Refusal] = []
        for service in message.services:
            if 1 <= len(service.encode()) <= MAX_SERVICE_ID_BYTES:
                code = self._relay.register(peer, message.role, service, now)
            else:
                code = MALFORMED
            if code is None:
                accepted.append(service)
            else:
                self.stats.standbys += code == STANDBY
                refused.append(Refusal(service, code, REFUSAL_TEXTS[code]))
        self._send(peer.conn, Registered(message.role, tuple(accepted), tuple(refused), self._lease_s))
        if message.role == "agent":
            for service in accepted:
                self._send(peer.conn, _state_of(peer.reach[service.encode()]))
        self._broker.registered(peer)

    def _silence(self, agent: Peer, message: Silence, now: float) -> None:
        """An agent hears nothing of the connector of a session: see whether that is there."""
        self.stats.silences_reported += 1
        if agent.owner is None or not self._reports.allow(agent.owner, now):
            self.stats.drop_silence_rate += 1
            return
        connector = self._broker.silent_connector(agent, message)
        if connector is not None:
            self._suspects.ask(connector, now)

    def _suspect_changed(self, connector: Peer, stage: Stage, now: float) -> None:
        self._relay.note(
            "info", f"connector {'back' if stage is Stage.CALM else stage.value}", peer=peer_name(connector)
        )
        if stage is Stage.CALM:
            self._relay.return_of(connector, now)
            self._broker.relay.back(connector)
            return
        self._relay.stand_aside(connector, now, to_standbys=stage is Stage.DOUBTED)
        if stage is Stage.ABSENT:
            self._broker.relay.absent(connector)

    # What the intermediate tells (`ztna.proto.intermediate.ControlPlane`)

    def observed(self, peer: Peer) -> None:
        """Tell a connection where it is seen; an IPv4-mapped address as the IPv4 address that it is."""
        connection = self._connections.get(peer.conn)
        if connection is not None and connection.peer is peer:
            host = peer.address[0].partition("%")[0]
            self._send(peer.conn, Observed(host.removeprefix("::ffff:") if "." in host else host, peer.address[1]))

    def registration(self, peer: Peer, role: str, service_id: str, refusal: str | None) -> None:
        """Tell a connection, unasked, what became of a registration."""
        kind: Role = "agent" if role == "agent" else "connector"
        refused = () if refusal is None else (Refusal(service_id, refusal, REFUSAL_TEXTS[refusal]),)
        self._send(peer.conn, Registered(kind, () if refused else (service_id,), refused, self._lease_s))

    def service_changed(self, service: Service) -> None:
        """Tell the agents of a service who serves it now."""
        for agent in service.agents.values():
            if agent.protocol == V2:
                self._send(agent.conn, _state_of(service))

    def peer_left(self, peer: Peer, now: float) -> None:
        """A peer is gone: its sessions wait for it, and nothing more of its control stream is taken."""
        self._suspects.forget(peer)
        self._broker.peer_left(peer, now)
        connection = self._connections.get(peer.conn)
        if connection is not None:
            connection.peer = None
            self._forget(connection, now)

    def policy_changed(self, policy: Policy, now: float) -> None:
        """End what sessions a new policy does not allow."""
        self._broker.apply_policy(policy)

    # The relay of session packets

    def relay_ready(self, session: bytes, backend: str, now: float) -> None:
        """Packets of a session are forwarded now, by this back end."""
        self._broker.relay.ready(session, backend)

    def relay_lost(self, session: bytes, reason: str, now: float) -> None:
        """Packets of a session are not forwarded any more."""
        self._broker.relay.lost(session, reason)

    # Time and output

    def drain(self, deadline_s: float) -> int:
        """Tell every member that this intermediate stops within `deadline_s`; returns how many were told."""
        members = [conn for conn, connection in self._connections.items() if connection.peer is not None]
        for conn in members:
            self._send(conn, Draining(deadline_s))
        return len(members)

    def get_timer(self) -> float | None:
        """Return when `handle_timer` is due (monotonic seconds), None if nothing waits."""
        due = (super().get_timer(), self._broker.get_timer(), self._suspects.get_timer())
        return min((at for at in due if at is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Close what is late, end sessions that waited too long, follow what connectors answer."""
        super().handle_timer(now)
        self._suspects.handle_timer(now)
        self._broker.handle_timer(now)


def _state_of(service: Service) -> ServiceState:
    connector = service.connector
    if connector is None:
        return ServiceState(service.id)
    return ServiceState(service.id, connector.owner, connector.protocol)
