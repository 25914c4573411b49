"""The agent's sessions: one per connector, asked for as soon as the intermediate names a connector that has them.

Flow per service: the intermediate names its connector -> Connect -> Granted -> session: relay path, handshake, proof
both ways, ready -> packets and streams. While a session is being made a few packets wait for it. When the connector
speaks only `ztna-v1`, packets go by DATAGRAM frames through the intermediate as before.

A session outlives the connection to the intermediate: only its own peer, or silence, ends it. A new one replaces an
old one once it is ready, so that nothing is sent into the void meanwhile.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from ztna.config_reader import ConfigError
from ztna.io import certs
from ztna.io.logs import Logger
from ztna.io.quic_types import Credentials
from ztna.io.session import identity
from ztna.io.session.asked import AskedSession
from ztna.io.session.asking import Asking
from ztna.io.session.core import (
    CoreEvent,
    HandshakeDone,
    PayloadLimit,
    SessionTls,
    StreamReceived,
    StreamReset,
    StreamWritable,
    client_core,
)
from ztna.io.session.routes import ServiceRoutes
from ztna.io.session.session import Session
from ztna.io.session.session_parts import SessionSettings
from ztna.io.session.session_types import UNFINISHED_CHECKSUMS, AgentSessionCounters, ControlPlane, Local
from ztna.io.session.side import SessionSide
from ztna.io.session.streams import StreamTable
from ztna.proto.control.events import ControlUp, Observed, Registering, ServiceStateChanged, SessionGranted
from ztna.proto.end_to_end import (
    UDP_FLOW,
    CloseUdp,
    SessionReady,
    UdpPayload,
    UdpResult,
    decode_message,
    encode_message,
    split_flow_datagram,
)
from ztna.proto.errors import WireError
from ztna.proto.paths.path_types import PathConfig
from ztna.proto.paths.stun_types import Endpoint

HELLO_STREAM: Final = 0
MAX_SESSIONS: Final = 64
LINGER_S: Final = 1.0
STREAMS_S: Final = 5.0
"""How often a session that was replaced is looked at while streams are open on it."""


class AgentSessions(SessionSide[ControlPlane]):
    """See the module.

    Args:
        services: id -> (virtual IP, names of the connectors allowed to serve it; empty: any with the grant).
        virtual_ip: our own inner address.
        credentials: our certificate as it is on disk now.
        too_large: called with a packet and the limit in bytes, to answer it by ICMP.
        sealed: whether nothing may go by the intermediate unsealed: services of `ztna-v1` then have nobody.
    """

    def __init__(
        self,
        services: Mapping[str, tuple[str, tuple[str, ...]]],
        virtual_ip: str,
        *,
        stack: str,
        anchors: certs.TrustAnchors,
        credentials: Callable[[], Credentials],
        control: ControlPlane,
        local: Local,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        log: Logger,
        paths: PathConfig,
        core: str = "auto",
        bind_addr: str = "0.0.0.0",
        too_large: Callable[[bytes, int], None],
        sealed: bool = False,
    ) -> None:
        super().__init__(control)
        self.counters = AgentSessionCounters()
        self.routes = ServiceRoutes(services, virtual_ip, counters=self.counters, clock=clock, too_large=too_large)
        self.services = self.routes.services
        self._stack = stack
        self._anchors = anchors
        self._credentials = credentials
        self._local = local
        self._loop = loop
        self._clock = clock
        self._log = log
        self._paths = paths
        self._core = core
        self.bind_addr = bind_addr
        self._sessions: dict[bytes, Session] = {}
        self._states: dict[bytes, AskedSession] = {}
        self.asking = Asking(
            self.routes,
            control,
            local,
            counters=self.counters,
            sessions=self._sessions.values,
            sealed=sealed,
            loop=loop,
            log=log,
        )

    @property
    def sessions(self) -> list[Session]:
        """Every session, also those not ready yet."""
        return list(self._sessions.values())

    def streams_of(self, session: Session) -> StreamTable:
        """The TCP streams of a session."""
        return self._states[session.id].streams

    def legacy(self, service_id: str) -> bool:
        """Whether a service is reached by DATAGRAM frames through the intermediate."""
        service = self.services.get(service_id)
        return service is not None and service.session is None and service.protocol == 1

    def session_for(self, service_id: str) -> Session | None:
        """The ready session that carries a service."""
        service = self.services.get(service_id)
        return None if service is None or service.session is None or not service.session.ready else service.session

    @property
    def max_packet_bytes(self) -> int | None:
        """Largest packet that every ready session takes, None if there is none."""
        limits = [session.core.max_datagram_payload for session in self._sessions.values() if session.ready]
        return min(limits, default=None)

    async def close(self) -> None:
        """Tell every peer, and forget all."""
        self.asking.close()
        for session in self.sessions:
            session.close("agent shutting down")
        await asyncio.sleep(0)

    # control plane

    def control_event(self, event: object) -> None:
        """An event of the control connection; others than those of sessions are ignored."""
        match event:
            case ControlUp():
                self._control_up(event)
            case Registering(services):
                self.asking.registering(services)
            case ServiceStateChanged(service, connector, protocol):
                self.asking.changed(service, connector, protocol)
            case SessionGranted():
                self._granted(event)
            case Observed(address):
                for each in self.sessions:
                    each.observed(address.ip)
            case _:
                session = self._sessions.get(getattr(event, "session", b""))
                if session is not None:
                    session.control_event(event)

    def _control_up(self, event: ControlUp) -> None:
        self._control.corners = tuple(Endpoint(*place) for place in event.stun[1:])
        if event.protocol == 1:
            self.asking.without_sessions()

    def _granted(self, granted: SessionGranted) -> None:
        wanted = tuple(name for name in granted.services if name in self.services)
        known = self._states.get(granted.session)
        if known is not None:
            known.granted = wanted
            if known.session.ready:
                self._settle(known)
            return
        if not wanted or len(self._sessions) >= MAX_SESSIONS:
            self._control.end_session(granted.session, "not wanted")
            return
        self.counters.granted += 1
        host, port = granted.relay
        tls = SessionTls(ca_pem=self._anchors.pem, credentials=None)
        settings = SessionSettings(
            session=granted.session,
            key=granted.key,
            role="agent",
            peer=granted.connector,
            relay=Endpoint(host or self._control.relay_host, port),
            corners=self._control.corners,
            bind_addr=self.bind_addr,
            paths=self._paths,
        )
        try:
            session = Session(
                settings,
                core=lambda now: client_core(self._core, tls, now),
                owner=self,
                loop=self._loop,
                clock=self._clock,
                log=self._log,
            )
        except OSError as exc:
            self._log.warning("session_failed", detail=str(exc))
            self._control.end_session(granted.session, "no socket")
            return
        session.services = wanted
        self._sessions[session.id] = session
        streams = StreamTable(session.core, loop=self._loop, clock=self._clock, on_input=session.flush_soon)
        self._states[session.id] = AskedSession(session, granted.nonce, wanted, streams)
        session.start()

    # SessionOwner

    def session_event(self, session: Session, event: CoreEvent) -> None:
        """Handshake, streams, payload limit."""
        match event:
            case HandshakeDone():
                self._prove(session)
            case StreamReceived(stream, data, fin):
                if stream == HELLO_STREAM:
                    session.core.consumed(stream, len(data))
                    self._control_frames(session, data)
                else:
                    self._states[session.id].streams.received(stream, data, fin)
            case StreamReset(stream, _):
                self._states[session.id].streams.reset(stream)
            case StreamWritable(stream):
                self._states[session.id].streams.writable(stream)
            case PayloadLimit():
                self._local.sessions_changed()

    def _prove(self, session: Session) -> None:
        """The handshake showed the connector's certificate: judge it, then prove ourselves."""
        state, chain = self._states[session.id], session.core.peer_chain
        try:
            session.services = self._judged(state)
            message = identity.hello(
                self._credentials(), nonce=state.nonce, server_leaf=chain[0], session=session.id,
                capabilities=self._local.capabilities,
            )  # fmt: skip
        except (identity.SessionRejected, ConfigError) as exc:
            self.counters.rejected += 1
            self._log.warning("session_refused", session=session.id.hex(), detail=str(exc))
            session.close("the peer was refused")
            return
        stream = session.core.open_stream()
        session.core.write(stream, encode_message(message))

    def _judged(self, state: AskedSession) -> tuple[str, ...]:
        """Of what the intermediate grants, the services that certificate and profile give; SessionRejected if none."""
        session = state.session
        allowed = {name: self.services[name].connectors for name in state.granted}
        return identity.judge_connector(
            session.core.peer_chain, self._anchors, self._stack, expected=session.settings.peer, allowed=allowed
        )

    def _control_frames(self, session: Session, data: bytes) -> None:
        state, local = self._states[session.id], self._local
        try:
            state.hello.feed(data)
            while not session.closed and (body := state.hello.next_frame()) is not None:
                message = decode_message(body)
                if isinstance(message, SessionReady):
                    self._ready(state, message)
                elif isinstance(message, UdpResult):
                    local.flow_failed(session, message.flow, message.error)
                elif isinstance(message, UdpPayload):
                    local.flow_received(session, message.flow, message.payload)
                elif isinstance(message, CloseUdp):
                    local.flow_closed(session, message.flow)
                else:
                    self.counters.dropped_malformed += 1
        except WireError as exc:
            self.counters.dropped_malformed += 1
            self._log.warning("session_refused", session=session.id.hex(), detail=str(exc))
            session.close("malformed frame")

    def _ready(self, state: AskedSession, ready: SessionReady) -> None:
        """The connector believes us, and says what it serves us; again whenever that changes."""
        session = state.session
        first, session.proven = not session.proven, True
        session.unfinished_checksums = UNFINISHED_CHECKSUMS in ready.capabilities and (
            UNFINISHED_CHECKSUMS in self._local.capabilities
        )
        state.served = tuple(ready.services)
        self._settle(state)
        if first:
            self.counters.ready += 1
            self._log.info("session_ready", peer=session.settings.peer, services=list(session.services))

    def _settle(self, state: AskedSession) -> None:
        """Let a session carry what it may carry now, and nothing else any more."""
        session, before = state.session, state.session.services
        try:
            judged = self._judged(state)
        except identity.SessionRejected as exc:
            self._log.warning("services_refused", session=session.id.hex(), detail=str(exc))
            judged = ()
        session.services = tuple(name for name in judged if name in state.served)
        for name in before:
            if name not in session.services and self.services[name].session is session:
                self.services[name].session = None
                self.asking.later(self.services[name])
        self._attach(session)

    def _attach(self, session: Session) -> None:
        """Let the session carry its services; one that it leaves idle is closed."""
        for name in session.services:
            service = self.services[name]
            self.asking.settled(service)
            previous, service.session = service.session, session
            if previous is not None and previous is not session:
                self._close_if_idle(previous)
            self.routes.send_waiting(service)
        self._local.sessions_changed()

    def _close_if_idle(self, session: Session) -> None:
        if not session.closed and self._is_idle(session):
            # What is under way on it shall arrive; it may also get a service back meanwhile.
            self._loop.call_later(LINGER_S, self._close_replaced, session)

    def _close_replaced(self, session: Session) -> None:
        if session.closed or not self._is_idle(session):
            return
        if len(self._states[session.id].streams) and not session.silence.is_silent:
            # Whoever serves next knows nothing of these streams. They may be idle: ask whether the peer is there.
            session.core.ping()
            session.flush_soon()
            self._loop.call_later(STREAMS_S, self._close_replaced, session)
        else:
            session.close("replaced")

    def _is_idle(self, session: Session) -> bool:
        return all(service.session is not session for service in self.services.values())

    def session_datagrams(self, session: Session, datagrams: list[bytes]) -> None:
        """Packets of the services, and payloads of UDP flows."""
        own, by_address, local = self.routes.virtual_ip, self.routes.by_address, self._local
        ours = datagrams[0][12:20]
        service = by_address.get(ours[:4])
        if service is not None and service.session is session and ours[4:] == own:
            # Nearly always all of them are of one service.
            packets = [data for data in datagrams if data[12:20] == ours and data[0] >> 4 == 4]
            if len(packets) == len(datagrams):
                local.packets_received(packets)
                return
        packets = []
        for data in datagrams:
            if data and data[0] >> 4 == 4:
                service = by_address.get(data[12:16])
                if service is None or data[16:20] != own or service.session is not session:
                    self.counters.dropped_foreign += 1
                else:
                    packets.append(data)
            elif data and data[0] == UDP_FLOW and (found := split_flow_datagram(data)) is not None:
                local.flow_received(session, *found)
            else:
                self.counters.dropped_malformed += 1
        if packets:
            local.packets_received(packets)

    def session_batch_ended(self, session: Session) -> None:
        """Let the local side answer within the batch."""
        self._local.batch_ended()

    def session_silent(self, session: Session) -> None:
        """The intermediate sees whether the connector is there, and who serves instead."""
        self._control.silence(session.id)

    def session_closed(self, session: Session, reason: str) -> None:
        """Forget the session; its services ask for another one."""
        self._sessions.pop(session.id, None)
        self.routes.forget(session)
        state = self._states.pop(session.id, None)
        if state is not None:
            state.streams.close()
        self.counters.ended += 1
        self._log.info("session_ended", session=session.id.hex(), peer=session.settings.peer, reason=reason)
        self._control.end_session(session.id, reason)
        for name in session.services:
            service = self.services[name]
            if service.session is session:
                service.session = None
            self.asking.later(service)
        self._local.sessions_changed()

    # what people see

    def not_ready(self) -> str | None:
        """Which services still wait for their session, None if none does."""
        return self.asking.not_ready()
