"""Sessions between real roles in one process, with an intermediate, an agent or a connector that cannot be trusted."""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.certs import issue_member
from tests.support.overlay import (
    AGENT_IP,
    CA,
    ECHO,
    ECHO_IP,
    ECHO_PORT,
    HTTP,
    HTTP_IP,
    Overlay,
    default_policy,
    eventually,
    identity,
    udp_client,
)
from tests.support.overlay_members import (
    agent_sessions,
    another_connector,
    connector_sessions,
    only_session,
    served,
)
from ztna.io.session import identity as session_identity
from ztna.io.session.agent_gateway import AgentGateway
from ztna.io.session.agent_side import AgentSessions
from ztna.io.session.session import Session
from ztna.proto.control import broker
from ztna.proto.control.events import SessionGranted, SessionInvited
from ztna.proto.control.messages import Connect, Invite
from ztna.proto.control.sessions import granted_of, invite_of
from ztna.proto.end_to_end import (
    CloseUdp,
    OpenTcp,
    OpenUdp,
    SessionHello,
    SessionReady,
    UdpPayload,
    UdpResult,
    encode_message,
    flow_datagram,
)
from ztna.proto.packet import build_udp

CONNECTOR, OTHER = "spiffe://lab/connector/connector", "spiffe://lab/connector/other"
RELAYED = {"direct": "off"}


def address(text: str) -> int:
    return int.from_bytes(bytes(map(int, text.split("."))), "big")


def packet(source: str, target: str) -> bytes:
    """A UDP datagram that an echo would answer."""
    return build_udp(address(source), 4000, address(target), ECHO_PORT, b"marker")


@contextlib.asynccontextmanager
async def unready(overlay: Overlay) -> Any:
    """The overlay with an agent that is not waited for."""
    await overlay.backends.start()
    await overlay.start_relay()
    await overlay.start_connector()
    try:
        yield overlay
    finally:
        await overlay.__aexit__(None, None, None)


# the wrong connector


async def test_a_connector_that_the_profile_does_not_name_gets_nothing(tmp_path: Path) -> None:
    services = [{"id": ECHO, "virtual_ip": ECHO_IP, "connectors": ["another"]}]
    async with unready(Overlay(tmp_path, agent={"services": services})) as overlay:
        overlay.forwards = overlay.forwards[:2]
        await overlay.start_agent(ready=False)
        sessions = agent_sessions(overlay.agent)
        await eventually(lambda: sessions.counters.rejected)
        with udp_client(overlay.forward("udp")) as client:
            assert not await client.works(0.3)
        assert connector_sessions(overlay.connector).counters.ready == 0
        assert overlay.agent.not_ready() is not None
        assert overlay.backends.udp_sources == []


@pytest.fixture
def two_services() -> dict[str, Any]:
    """One connector serves the echo, another one http."""
    policy = default_policy()
    policy["connectors"] = {"connector": {"services": [ECHO]}, "other": {"services": [HTTP]}}
    return policy


@contextlib.asynccontextmanager
async def two_connectors(directory: Path, policy: dict[str, Any]) -> Any:
    """`connector` may serve the echo, `other` http; both have both in their configurations."""
    own = identity(issue_member(CA, "connector", "connector", ECHO))
    overlay = Overlay(directory, policy=policy, connector=own)
    await overlay.backends.start()
    await overlay.start_relay()
    await overlay.start_connector(ready=False)
    other = await another_connector(overlay, grants=(HTTP,), ready=False, **identity(OTHER_LEAF))
    try:
        yield overlay, other
    finally:
        await other.close()
        await overlay.__aexit__(None, None, None)


OTHER_LEAF = issue_member(CA, "connector", "other", HTTP)


@pytest.mark.parametrize("named", [OTHER, CONNECTOR], ids=["as-itself", "as-the-right-one"])
async def test_another_valid_connector_from_the_intermediate_gets_nothing_for_a_service_that_is_not_its(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_services: dict[str, Any], named: str
) -> None:
    connect = broker.SessionBroker.connect

    def lying_connect(self: Any, agent: Any, message: Connect, now: float) -> None:
        connect(self, agent, msgspec.structs.replace(message, service=HTTP), now)

    def lying_granted(session: Any, request: int) -> Any:
        return msgspec.structs.replace(granted_of(session, request), connector=named, services=(ECHO, HTTP))

    monkeypatch.setattr(broker.SessionBroker, "connect", lying_connect)
    monkeypatch.setattr(broker, "granted_of", lying_granted)
    monkeypatch.setattr(broker, "shared_services", lambda agent, connector: (ECHO, HTTP))
    async with two_connectors(tmp_path, two_services) as (overlay, other):
        await overlay.start_agent(ready=False)
        sessions = agent_sessions(overlay.agent)
        if named == OTHER:
            # Http is its, so there is a session; the echo is not.
            await eventually(lambda: sessions.session_for(HTTP) is not None)
        else:
            await eventually(lambda: sessions.counters.rejected)
            assert sessions.session_for(HTTP) is None
        assert sessions.session_for(ECHO) is None
        with udp_client(overlay.forward("udp")) as client:
            assert not await client.works(0.3)
        assert overlay.backends.udp_sources == []
        assert connector_sessions(other).counters.ready == (named == OTHER)


async def test_a_grant_of_more_services_is_judged_like_the_first(tmp_path: Path, two_services: dict[str, Any]) -> None:
    async with two_connectors(tmp_path, two_services) as (overlay, other):
        await overlay.start_agent()
        sessions = agent_sessions(overlay.agent)
        session, right = sessions.session_for(HTTP), sessions.session_for(ECHO)
        assert session is not None
        assert session is not right
        # Intermediate and connector agree that `other` serves the echo, too; its certificate does not.
        state = served(other)
        state.session.core.write(0, encode_message(SessionReady([ECHO, HTTP])))
        state.session.flush()
        sessions.control_event(
            SessionGranted(
                0, session.id, session.settings.key, session.settings.peer, state.nonce, (ECHO, HTTP), ("", 1)
            )
        )
        await eventually(lambda: sessions._states[session.id].served == (ECHO, HTTP))
        assert session.services == (HTTP,)
        assert sessions.session_for(ECHO) is right


# the wrong agent


async def test_an_invitation_in_another_agents_name_gives_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lie(session: Any) -> Invite:
        return msgspec.structs.replace(invite_of(session), agent="spiffe://lab/agent/victim", agent_ip="100.64.1.9")

    monkeypatch.setattr(broker, "invite_of", lie)
    async with unready(Overlay(tmp_path)) as overlay:
        await overlay.start_agent(ready=False)
        sessions = connector_sessions(overlay.connector)
        await eventually(lambda: sessions.counters.rejected)
        assert sessions.counters.ready == 0
        assert sessions.traffic == {}


async def test_a_recorded_proof_opens_no_second_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[SessionHello] = []
    make = session_identity.hello

    def hello(*arguments: Any, **named: Any) -> SessionHello:
        recorded.append(make(*arguments, **named))
        return recorded[0]

    monkeypatch.setattr(session_identity, "hello", hello)
    async with Overlay(tmp_path) as overlay:
        sessions = connector_sessions(overlay.connector)
        nonce = served(overlay.connector).nonce
        only_session(overlay).close("again")
        await eventually(lambda: sessions.counters.rejected)
        assert len(recorded) >= 2
        assert sessions.counters.ready == 1
        assert nonce not in [state.nonce for state in sessions._states.values()]


@pytest.mark.parametrize(
    ("say", "ends"),
    [
        (lambda session: session.core.send_datagram(packet(AGENT_IP, ECHO_IP)), False),
        (lambda session: session.core.send_datagram(flow_datagram(1, b"early")), False),
        (lambda session: session.core.write(0, encode_message(OpenUdp(1, ECHO, ECHO_PORT))), True),
        (lambda session: session.core.write(0, encode_message(UdpPayload(1, b"early"))), True),
        (lambda session: session.core.write(4, encode_message(OpenTcp(ECHO, ECHO_PORT)) + b"early"), True),
        (lambda session: session.core.write(0, encode_message(SessionHello([], b"", 2))), True),
    ],
    ids=["packet", "flow-payload", "flow", "large-payload", "stream", "empty-proof"],
)
async def test_nothing_is_taken_before_the_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, say: Callable[[Session], Any], ends: bool
) -> None:
    def speak(self: AgentSessions, session: Session) -> None:
        assert (session.core.open_stream(), session.core.open_stream()) == (0, 4)
        say(session)

    monkeypatch.setattr(AgentSessions, "_prove", speak)
    async with unready(Overlay(tmp_path)) as overlay:
        connected = overlay.backends
        await overlay.start_agent(ready=False)
        sessions = connector_sessions(overlay.connector)
        await eventually(lambda: sessions.counters.dropped_unproven or sessions.counters.rejected)
        if ends:
            await eventually(lambda: sessions.counters.ended)
        await asyncio.sleep(0)
        assert sessions.counters.ready == 0
        assert sessions.open_flows() == {"udp": 0, "tcp": 0}
        assert connected.udp_sources == []


# what goes where


async def test_an_agent_reaches_only_what_it_may_and_only_as_itself(tmp_path: Path) -> None:
    policy = default_policy()
    policy["agents"]["agent"]["services"] = [ECHO]
    async with unready(Overlay(tmp_path, policy=policy)) as overlay:
        await overlay.start_agent(ready=False)
        sessions = agent_sessions(overlay.agent)
        await eventually(lambda: sessions.session_for(ECHO) is not None)
        session = only_session(overlay)
        traffic = served(overlay.connector).traffic
        assert isinstance(traffic, AgentGateway)
        for source, target in (("100.64.1.2", ECHO_IP), (AGENT_IP, HTTP_IP), (AGENT_IP, "127.0.0.1")):
            assert session.core.send_datagram(packet(source, target))
        assert session.core.send_datagram(b"")
        assert session.core.send_datagram(b"\x02junk")
        assert session.core.send_datagram(b"\x01\x00")
        session.flush()
        counters = connector_sessions(overlay.connector).counters
        await eventually(lambda: traffic.dropped_source + traffic.dropped_not_allowed + counters.dropped_malformed >= 5)
        assert traffic.dropped_source == 1
        assert traffic.dropped_not_allowed == 2
        assert overlay.backends.udp_sources == []
        session.core.send_datagram(packet(AGENT_IP, ECHO_IP))
        session.flush()
        await eventually(lambda: len(overlay.backends.udp_sources) == 1)
        # Streams and flows name what they want; the same holds for them.
        stream = session.core.open_stream()
        session.core.write(stream, encode_message(OpenTcp(HTTP, 80)))
        session.core.write(0, encode_message(OpenUdp(9, HTTP, 80)))
        session.flush()
        state = served(overlay.connector)
        assert state.streams is not None
        assert state.flows is not None
        streams, flows = state.streams, state.flows
        await eventually(lambda: (streams.counters.refused_denied, flows.counters.refused) == (1, 1))


async def test_a_connector_speaks_only_for_its_services_and_to_this_agent(tmp_path: Path) -> None:
    async with Overlay(tmp_path) as overlay:
        state = served(overlay.connector)
        for source, target in (("100.64.0.199", AGENT_IP), (ECHO_IP, "100.64.1.2"), ("127.0.0.1", AGENT_IP)):
            assert state.session.core.send_datagram(packet(source, target))
        state.session.core.send_datagram(b"\x02junk")
        state.session.flush()
        counters = agent_sessions(overlay.agent).counters
        await eventually(lambda: (counters.dropped_foreign, counters.dropped_malformed) == (3, 1))
        assert agent_sessions(overlay.agent).routes.send([packet("100.64.1.2", ECHO_IP)]) == []
        assert counters.dropped_source == 1


async def test_a_connector_has_no_say_in_flows_of_another(tmp_path: Path, two_services: dict[str, Any]) -> None:
    async with two_connectors(tmp_path, two_services) as (overlay, other):
        await overlay.start_agent()
        with udp_client(overlay.forward("udp")) as client:
            assert await client.echo(b"mine") == b"mine"
            forwards = overlay.user.forwards
            assert forwards is not None
            (flow,) = forwards._flows
            core = served(other).session.core
            core.send_datagram(flow_datagram(flow, b"forged"))
            for message in (UdpPayload(flow, b"forged"), UdpResult(flow, "refused"), CloseUdp(flow)):
                core.write(0, encode_message(message))
            core.write(0, encode_message(SessionReady([HTTP], ["done"])))
            served(other).session.flush()
            await eventually(lambda: forwards.counters.dropped_unknown == 2)
            assert client.received.empty()
            assert await client.echo(b"again") == b"again"
            assert forwards.counters.udp_failed == 0
            first = served(overlay.connector).flows
            assert first is not None
            assert first.counters.opened == 1, "it was never closed"


@pytest.mark.parametrize("agent_ip", ["", "fd00::1"])
async def test_an_invitation_without_an_inner_address_is_declined(tmp_path: Path, agent_ip: str) -> None:
    async with Overlay(tmp_path) as overlay:
        sessions = connector_sessions(overlay.connector)
        invited = SessionInvited(b"i" * 16, b"k" * 32, "spiffe://lab/agent/agent", agent_ip, (ECHO,), ("127.0.0.1", 1))
        sessions.control_event(invited)
        assert sessions.counters.declined == 1
        assert len(sessions.sessions) == 1
