"""The connector's sessions: accepted on the intermediate's invitation, served once the agent has proved itself.

Flow: Invite -> sockets, QUIC server, fresh nonce -> Accept -> checks, relay path -> handshake -> the agent's proof on
stream 0 -> SessionReady -> its packets go to a gateway of its own, its streams and UDP flows to backend sockets.
Nothing of a session but the proof is looked at before that was judged.
"""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from ipaddress import IPv4Address
from typing import Final

from ztna.io import certs
from ztna.io.logs import Logger
from ztna.io.proof import chain_der
from ztna.io.quic_types import Credentials
from ztna.io.resolve import BackendNames
from ztna.io.session import identity
from ztna.io.session.core import (
    CoreEvent,
    PayloadLimit,
    SessionTls,
    StreamReceived,
    StreamReset,
    StreamWritable,
    server_core,
)
from ztna.io.session.flows import FlowSockets
from ztna.io.session.listener import Listener
from ztna.io.session.served import ServedSession, TrafficByAgent, forwarded, open_flows
from ztna.io.session.session import Session
from ztna.io.session.session_parts import SessionSettings
from ztna.io.session.session_types import UNFINISHED_CHECKSUMS, Accepting, AgentTraffic, ConnectorSessionCounters
from ztna.io.session.side import SessionSide
from ztna.io.session.streams import StreamTable
from ztna.io.session.unconfirmed import Unconfirmed
from ztna.proto.control.events import ControlError, ControlUp, Observed, SessionInvited
from ztna.proto.end_to_end import (
    UDP_FLOW,
    SessionHello,
    SessionMessage,
    SessionReady,
    decode_message,
    encode_message,
    split_flow_datagram,
)
from ztna.proto.errors import WireError
from ztna.proto.gateway_context import ServiceTable
from ztna.proto.gateway_types import GatewayService
from ztna.proto.packet import TCP, UDP
from ztna.proto.paths.path_types import PathConfig, PathSelected
from ztna.proto.paths.stun_types import Endpoint

HELLO_STREAM: Final = 0
MAX_SESSIONS: Final = 256
MAX_SESSIONS_PER_AGENT: Final = 4
NONCE_BYTES: Final = 32


class ConnectorSessions(SessionSide[Accepting]):
    """See the module.

    Args:
        services: what this connector serves.
        traffic: makes the place where the packets of an agent go, given its inner address (4 bytes).
        may_reach: our own policy: (agent's name, service); True where none is configured.
        listener: the connector's own UDP port, if agents may reach it.
    """

    def __init__(
        self,
        services: Sequence[GatewayService],
        *,
        stack: str,
        anchors: certs.TrustAnchors,
        credentials: Callable[[], Credentials],
        control: Accepting,
        names: BackendNames,
        traffic: Callable[[bytes], AgentTraffic],
        may_reach: Callable[[str, str], bool],
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        log: Logger,
        paths: PathConfig,
        core: str = "auto",
        bind_addr: str = "0.0.0.0",
        listener: Listener | None = None,
    ) -> None:
        super().__init__(control)
        self.counters = ConnectorSessionCounters()
        self._services = {service.id: service for service in services}
        self._table = ServiceTable(services)
        self._stack = stack
        self._anchors = anchors
        self._credentials = credentials
        self._names = names
        self._may_reach = may_reach
        self._loop = loop
        self._clock = clock
        self._log = log
        self._paths = paths
        self._core = core
        self._bind_addr = bind_addr
        self.listener = listener
        self._states: dict[bytes, ServedSession] = {}
        self._traffic = TrafficByAgent(traffic)
        self._unconfirmed = Unconfirmed(loop, self._ask)

    @property
    def sessions(self) -> list[Session]:
        """Every session, also those whose agent is not proven yet."""
        return [state.session for state in self._states.values()]

    @property
    def served(self) -> list[ServedSession]:
        """The sessions whose agent is proven, with what belongs to them."""
        return [state for state in self._states.values() if state.identity is not None]

    @property
    def traffic(self) -> Mapping[str, AgentTraffic]:
        """Where packets go, by the agent's SPIFFE ID."""
        return self._traffic

    async def close(self) -> None:
        """Tell every agent, and forget all."""
        self._unconfirmed.close()
        for session in self.sessions:
            session.close("connector shutting down")
        self._traffic.close()
        await asyncio.sleep(0)

    # control plane

    def control_event(self, event: object) -> None:
        """An event of the control connection; others than those of sessions are ignored."""
        if isinstance(event, ControlUp):
            self._control.corners = tuple(Endpoint(*place) for place in event.stun[1:])
            self._unconfirmed.begin(self._states)
            return
        if isinstance(event, ControlError):
            self._refused(event)
            return
        if isinstance(event, SessionInvited):
            self._invited(event)
            return
        if isinstance(event, Observed):
            if self.listener is not None:
                self.listener.observed(event.address.ip, event.address.port)
            for session in self.sessions:
                session.observed(event.address.ip)
            return
        state = self._states.get(getattr(event, "session", b""))
        if state is not None:
            self._unconfirmed.confirmed(state.session.id)
            state.session.control_event(event)

    def _refused(self, error: ControlError) -> None:
        known = self._states.get(error.about) if isinstance(error.about, bytes) else None
        if known is not None and error.code == "unknown-session" and self._unconfirmed.denied(known.session.id):
            known.session.close("the intermediate knows no such session")

    def _ask(self, session_id: bytes) -> None:
        """Report the path as it is: an intermediate that knows the session takes it as said before."""
        state = self._states.get(session_id)
        if state is not None:
            seen = state.session.paths.snapshot(self._clock())
            self.session_path(state.session, PathSelected(seen.kind, seen.remote, 0, seen.reason))

    def _invited(self, invited: SessionInvited) -> None:
        self.counters.invited += 1
        known = self._states.get(invited.session)
        if known is not None and (known.session.settings.key, known.agent) == (invited.key, invited.agent):
            # The intermediate was restarted, or the agent wants more services of ours.
            self._unconfirmed.confirmed(invited.session)
            known.offered = tuple(invited.services)
            self._control.accept(invited.session, known.nonce)
            if known.session.ready:
                self._serve(known)
            return
        if known is not None or invited.resume:
            self._decline(invited, "unknown-session", "there is no such session here")
            return
        try:
            IPv4Address(invited.agent_ip)
        except ValueError:
            self._decline(invited, "declined", "the agent has no inner IPv4 address")
            return
        services = [name for name in invited.services if name in self._services]
        of_agent = sum(state.agent == invited.agent for state in self._states.values())
        if not services:
            self._decline(invited, "unknown-service", "none of the services is ours")
        elif len(self._states) >= MAX_SESSIONS or of_agent >= MAX_SESSIONS_PER_AGENT:
            self._decline(invited, "limit", "too many sessions")
        else:
            self._accept(invited)

    def _decline(self, invited: SessionInvited, code: str, text: str) -> None:
        self.counters.declined += 1
        self._control.decline(invited.session, code, text)

    def _accept(self, invited: SessionInvited) -> None:
        host, port = invited.relay
        settings = SessionSettings(
            session=invited.session,
            key=invited.key,
            role="connector",
            peer=invited.agent,
            relay=Endpoint(host or self._control.relay_host, port),
            corners=self._control.corners,
            bind_addr=self._bind_addr,
            paths=self._paths,
        )
        try:
            credentials = self._credentials()
            tls = SessionTls(ca_pem=self._anchors.pem, credentials=credentials)
            session = Session(
                settings,
                core=lambda now: server_core(self._core, tls, now),
                owner=self,
                loop=self._loop,
                clock=self._clock,
                log=self._log,
            )
        except Exception as exc:
            self._log.warning("session_failed", detail=str(exc))
            self._decline(invited, "declined", "no session can be made")
            return
        state = ServedSession(session, invited, os.urandom(NONCE_BYTES), chain_der(credentials)[0])
        self._states[session.id] = state
        self._control.accept(session.id, state.nonce)
        session.start()
        if self.listener is not None and self._paths.direct:
            self.listener.attach(session)

    # SessionOwner

    def session_event(self, session: Session, event: CoreEvent) -> None:
        """The proof first; then streams and payload limits."""
        state = self._states[session.id]
        if isinstance(event, StreamReceived):
            if event.stream_id == HELLO_STREAM:
                session.core.consumed(HELLO_STREAM, len(event.data))
                self._control_frames(state, event.data)
            elif state.streams is not None:
                state.streams.received(event.stream_id, event.data, event.fin)
            else:
                self.counters.dropped_unproven += 1
                session.close("spoke before it proved itself")
        elif isinstance(event, StreamReset) and state.streams is not None:
            state.streams.reset(event.stream_id)
        elif isinstance(event, StreamWritable) and state.streams is not None:
            state.streams.writable(event.stream_id)
        elif isinstance(event, PayloadLimit) and state.traffic is not None:
            state.traffic.budget_changed()

    def _control_frames(self, state: ServedSession, data: bytes) -> None:
        session = state.session
        try:
            state.buffer.feed(data)
            while not session.closed and (body := state.buffer.next_frame()) is not None:
                self._message(state, decode_message(body))
        except WireError as exc:
            self.counters.dropped_malformed += 1
            self._log.warning("session_refused", session=session.id.hex(), detail=str(exc))
            session.close("malformed frame")

    def _message(self, state: ServedSession, message: SessionMessage) -> None:
        session = state.session
        if isinstance(message, SessionHello):
            if session.proven:
                self.counters.dropped_malformed += 1
            else:
                self._judge(state, message)
        elif not session.proven:
            self.counters.dropped_unproven += 1
            session.close("spoke before it proved itself")
        elif state.flows is None or not state.flows.execute(message):
            self.counters.dropped_malformed += 1

    def _judge(self, state: ServedSession, message: SessionHello) -> None:
        session = state.session
        try:
            state.identity = identity.judge_agent(
                message,
                self._anchors,
                self._stack,
                expected=state.agent,
                nonce=state.nonce,
                server_leaf=state.leaf,
                session=session.id,
            )
        except identity.SessionRejected as exc:
            self.counters.rejected += 1
            self._log.warning("session_refused", session=session.id.hex(), detail=str(exc))
            session.close("the proof was refused")
            return
        session.proven = True
        state.capabilities = tuple(message.capabilities)
        self.counters.ready += 1
        self._serve(state)
        self._log.info("session_ready", peer=state.agent, services=list(session.services))

    def _serve(self, state: ServedSession) -> None:
        """Say what this agent reaches, and carry it from now on; again when the intermediate offers it more."""
        session, who = state.session, state.identity
        assert who is not None
        granted = [
            name
            for name in state.offered
            if name in self._services and who.grants_service("agent", name) and self._may_reach(who.name, name)
        ]
        session.services = tuple(granted)
        if state.streams is None:
            tcp, udp = (partial(self._backend, session, protocol) for protocol in (TCP, UDP))
            state.streams = StreamTable(
                session.core, loop=self._loop, clock=self._clock, on_input=session.flush_soon, backends=tcp
            )
            state.flows = FlowSockets(
                session.core, loop=self._loop, clock=self._clock, on_input=session.flush_soon, backends=udp
            )
            state.traffic = self._traffic.place_of(state)
        elif state.flows is not None:
            state.streams.keep(granted)
            state.flows.keep(granted)
        assert state.traffic is not None
        state.traffic.allow(granted)
        ours = state.traffic.capabilities
        session.unfinished_checksums = UNFINISHED_CHECKSUMS in ours and UNFINISHED_CHECKSUMS in state.capabilities
        state.traffic.attach(session)
        if session.core.writable(HELLO_STREAM) > 0:  # not so for an agent that reads nothing
            session.core.write(HELLO_STREAM, encode_message(SessionReady(granted, list(ours))))
        session.flush_soon()

    def _backend(self, session: Session, protocol: int, service_id: str, port: int) -> tuple[str, int] | str:
        """Where a port of a service is, for streams and UDP flows."""
        service = self._services.get(service_id)
        if service is None or service_id not in session.services:
            return "denied"
        backend = self._table.backend(service, protocol, port)
        if backend is None:
            return "denied"
        address = self._names.address(backend.host)
        return "unreachable" if address is None else (address, backend.port)

    def session_datagrams(self, session: Session, datagrams: list[bytes]) -> None:
        """Packets of the agent, and payloads of its UDP flows."""
        state = self._states[session.id]
        traffic, flows = state.traffic, state.flows
        if traffic is None or flows is None:
            self.counters.dropped_unproven += len(datagrams)
            return
        packets = [data for data in datagrams if data and data[0] >> 4 == 4]
        for data in datagrams if len(packets) < len(datagrams) else ():
            if data and data[0] >> 4 == 4:
                continue
            if data and data[0] == UDP_FLOW and (found := split_flow_datagram(data)) is not None:
                flows.received(*found)
            else:
                self.counters.dropped_malformed += 1
        if packets:
            traffic.packets_received(packets)

    def session_batch_ended(self, session: Session) -> None:
        """Let the gateway answer within the batch."""
        traffic = self._states[session.id].traffic
        if traffic is not None and traffic.session is session:
            traffic.drain()

    def session_closed(self, session: Session, reason: str) -> None:
        """Forget the session; the agent's flows wait a while for its next one."""
        state = self._states.pop(session.id, None)
        if state is None:
            return
        self._unconfirmed.confirmed(session.id)
        if self.listener is not None:
            self.listener.detach(session)
        if state.streams is not None:
            state.streams.close()
        if state.flows is not None:
            state.flows.close()
        if state.traffic is not None:
            state.traffic.detach(session)
        self.counters.ended += 1
        self._log.info("session_ended", session=session.id.hex(), peer=state.agent, reason=reason)
        self._control.end_session(session.id, reason)

    # what people see

    def open_flows(self) -> dict[str, int]:
        """UDP flows and TCP connections open now."""
        return open_flows(self._states.values(), self._traffic.values())

    def forwarded(self) -> tuple[int, int]:
        """Packets of agents to backends, and payload bytes both ways, of the sessions that are there now."""
        return forwarded(self._states.values(), self._traffic.values())
