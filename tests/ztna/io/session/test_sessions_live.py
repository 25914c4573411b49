"""Sessions that live on while things change around them: restarts, policies, revocations, slow and silent peers."""

import asyncio
import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.overlay import (
    AGENT_IP,
    ECHO,
    ECHO_IP,
    ECHO_PORT,
    HOST,
    HTTP,
    HTTP_PORT,
    Overlay,
    default_policy,
    eventually,
    udp_client,
)
from tests.support.overlay_members import (
    OtherAgent,
    agent_sessions,
    another_connector,
    connector_sessions,
    only_session,
    served,
    write_policy,
)
from tests.ztna.io.session.test_sessions import packet
from ztna.config import ForwardConfig
from ztna.io.session import unconfirmed
from ztna.io.session.agent_gateway import AgentGateway
from ztna.io.session.agent_side import AgentSessions
from ztna.io.session.asking import Asking
from ztna.io.session.session import Session
from ztna.proto.control.sessions import SessionTable
from ztna.proto.end_to_end import OpenUdp, encode_message

RELAYED: dict[str, Any] = {"agent": {"direct": "off"}, "connector": {"direct": "off"}}
DIRECT: dict[str, Any] = {}
URI = "spiffe://lab/agent/agent"


def revoked() -> dict[str, Any]:
    return default_policy() | {"revoked": [URI]}


async def drip(overlay: Overlay, size: int, until: asyncio.Event) -> tuple[bytes, bytes]:
    """Echo over one TCP connection until told to end, then to its end; digests of what was sent and what came back."""
    reader, writer = await asyncio.open_connection(*overlay.forward("tcp"))
    sent, back = hashlib.sha256(), hashlib.sha256()

    async def read() -> None:
        while data := await reader.read(1 << 16):
            back.update(data)

    reading = asyncio.create_task(read())
    while not until.is_set():
        data = os.urandom(size)
        sent.update(data)
        writer.write(data)
        await writer.drain()
        await asyncio.sleep(0.01)
    writer.write_eof()
    await asyncio.wait_for(reading, 75)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return sent.digest(), back.digest()


@pytest.mark.parametrize("config", [RELAYED, DIRECT], ids=["relayed", "direct"])
async def test_a_transfer_goes_on_over_a_restart_of_the_relay_in_the_same_session(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    async with Overlay(tmp_path, **config) as overlay:
        session, state = only_session(overlay), served(overlay.connector)
        over = asyncio.Event()
        transfer = asyncio.create_task(drip(overlay, 8000, over))
        await eventually(lambda: state.streams is not None and len(state.streams) == 1)
        await overlay.crash_relay()
        await overlay.start_relay()
        roles = (overlay.agent, overlay.connector)
        await eventually(lambda: all(role.not_ready() is None for role in roles), 60)
        waiting = connector_sessions(overlay.connector)._unconfirmed._waiting
        await eventually(lambda: not waiting, 60)
        over.set()
        sent, back = await transfer
        assert sent == back
        assert only_session(overlay) is session
        assert served(overlay.connector) is state
        assert connector_sessions(overlay.connector).counters.ready == 1


# policy


async def test_services_come_and_go_by_policy_in_one_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ztna.proto.registration.DENIED_INTERVAL_S", 0.5)
    policy = default_policy()
    policy["agents"]["agent"]["services"] = [ECHO]
    overlay = Overlay(tmp_path, policy=policy)
    overlay.forwards = (
        *overlay.forwards[:2],
        ForwardConfig(protocol="tcp", listen=(HOST, 0), service=HTTP, port=HTTP_PORT),
    )
    await overlay.backends.start()
    await overlay.start_relay()
    await overlay.start_connector()
    try:
        await overlay.start_agent(ready=False)
        sessions = agent_sessions(overlay.agent)
        await eventually(lambda: sessions.session_for(ECHO) is not None)
        session = only_session(overlay)
        assert sessions.session_for(HTTP) is None
        write_policy(overlay, default_policy())
        await eventually(lambda: sessions.session_for(HTTP) is session, 40)
        reader, writer = await asyncio.open_connection(*overlay.forward("tcp", HTTP))
        other_reader, other_writer = await asyncio.open_connection(*overlay.forward("tcp"))
        for each, told in ((reader, writer), (other_reader, other_writer)):
            told.write(b"hello")
            assert await asyncio.wait_for(each.readexactly(5), 10) == b"hello"
        write_policy(overlay, policy)
        await eventually(lambda: sessions.session_for(HTTP) is None, 5)
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), 5) == b""
        other_writer.write(b"still")
        assert await asyncio.wait_for(other_reader.readexactly(5), 5) == b"still"
        assert only_session(overlay) is session
        assert session.services == (ECHO,)
        for told in (writer, other_writer):
            told.close()
    finally:
        await overlay.__aexit__(None, None, None)


@pytest.mark.parametrize("deaf", [False, True], ids=["obedient", "deaf"])
async def test_a_revoked_agent_is_cut_within_five_seconds_also_when_direct(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaf: bool
) -> None:
    control_event = Session.control_event

    def ignore(self: Session, event: object) -> None:
        if self.settings.role != "agent":
            control_event(self, event)

    async with Overlay(tmp_path) as overlay:
        session = only_session(overlay)
        await eventually(lambda: session.status()["path"] == "direct")
        with udp_client(overlay.forward("udp")) as client:
            assert await client.works(5)
            if deaf:
                monkeypatch.setattr(Session, "control_event", ignore)
            started = asyncio.get_running_loop().time()
            # Nobody tells the intermediate: it finds the file changed.
            (tmp_path / "policy.json").write_text(json.dumps(revoked()))
            state = connector_sessions(overlay.connector)
            await eventually(lambda: not state.sessions, 5)
            await eventually(lambda: session.closed, 5)
            assert asyncio.get_running_loop().time() - started < 5
            echoes = len(overlay.backends.udp_sources)
            assert not await client.works(0.5)
            assert len(overlay.backends.udp_sources) == echoes
        assert not agent_sessions(overlay.agent).sessions


async def test_an_agent_revoked_while_the_relay_was_away_does_not_keep_its_direct_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unconfirmed, "CONFIRM_S", 0.2)
    async with Overlay(tmp_path) as overlay:
        session = only_session(overlay)
        await eventually(lambda: session.status()["path"] == "direct")
        with udp_client(overlay.forward("udp")) as client:
            assert await client.works(5)
            await overlay.crash_relay()
            await overlay.agent.uplink.close()  # it has no reason to come back
            overlay._policy = revoked()
            await overlay.start_relay()
            assert await client.works(5), "for the moment"
            await eventually(lambda: not connector_sessions(overlay.connector).sessions, 20)
            assert not await client.works(0.5)


# slow consumers


async def test_an_agent_that_reads_nothing_costs_little_and_slows_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = 64 << 20
    policy = default_policy()
    policy["agents"]["another"] = {"virtual_ip": "100.64.1.2", "services": [ECHO, HTTP]}

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            for _ in range(total >> 16):
                writer.write(bytes(1 << 16))
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(flood, HOST, 0)
    overlay = Overlay(tmp_path, policy=policy)
    overlay.backends.tcp_port = server.sockets[0].getsockname()[1]
    monkeypatch.setattr(overlay.backends, "start", _udp_only(overlay))
    async with overlay:
        slow = only_session(overlay)
        monkeypatch.setattr(slow.core, "consumed", lambda stream, count: None)
        state = served(overlay.connector)
        _, writer = await asyncio.open_connection(*overlay.forward("tcp"))
        streams, flows = state.streams, state.flows
        assert streams is not None
        assert flows is not None
        await eventually(lambda: streams.sockets.counters.bytes_received > 1 << 16)
        async with OtherAgent(overlay, "another", "100.64.1.2") as another:
            address = another.user.addresses[0]
            with udp_client(address) as client:
                for number in range(50):
                    assert await client.echo(b"%d" % number) == b"%d" % number
            # What the agent asks for without reading the answers does not pile up either.
            for flow in range(20_000):
                flows.execute(OpenUdp(flow, "no such service", 1))
            assert 0 < flows.counters.refused - flows.counters.dropped_tell < 15_000
        held = streams.sockets.counters.bytes_received
        assert held < 2 << 20, "what the windows and one send buffer hold"
        assert state.session.counters.dropped_error == 0
        writer.close()
    server.close()


def _udp_only(overlay: Overlay) -> Any:
    async def start() -> None:
        overlay.backends.open_udp()

    return start


# one session after another, and two at once


async def test_what_waits_for_a_connector_is_delivered_when_it_is_back(tmp_path: Path) -> None:
    async with Overlay(tmp_path) as overlay:
        first = only_session(overlay)
        with udp_client(overlay.forward("udp")) as client:
            assert await client.echo(b"before") == b"before"
            await overlay.connector.close()
            await eventually(lambda: first.closed)
            client.send(b"waited")
            assert agent_sessions(overlay.agent).routes.send([packet(AGENT_IP, ECHO_IP)]) == []
            reader, writer = await asyncio.open_connection(*overlay.forward("tcp"))
            writer.write(b"hello")
            await overlay.start_connector()
            assert await asyncio.wait_for(client.received.get(), 10) == b"waited"
            assert await asyncio.wait_for(reader.readexactly(5), 10) == b"hello"
            writer.close()
        assert only_session(overlay) is not first
        traffic = served(overlay.connector).traffic
        assert isinstance(traffic, AgentGateway)
        await eventually(lambda: traffic.gateway.stats.packets_in >= 1)


async def test_a_new_session_is_ready_before_the_old_one_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both_at_once: list[bool] = []
    attach = AgentSessions._attach

    def watched(self: AgentSessions, session: Session) -> None:
        both_at_once.append(any(each.ready for each in self.sessions if each is not session))
        attach(self, session)

    async with Overlay(tmp_path) as overlay:
        sessions, first = agent_sessions(overlay.agent), only_session(overlay)
        monkeypatch.setattr(AgentSessions, "_attach", watched)
        # As if it had forgotten the first: it makes a second between the same two.
        monkeypatch.setattr(SessionTable, "between", lambda *_: None)
        with udp_client(overlay.forward("udp")) as client:
            assert await client.works(5)
            sessions.asking.ask(sessions.services[ECHO])
            await eventually(lambda: len(sessions.sessions) == 2)
            while not first.closed:
                assert await client.works(5), "at no time without a session"
        second = only_session(overlay)
        assert both_at_once[0]
        assert {sessions.session_for(ECHO), sessions.session_for(HTTP)} == {second}
        await eventually(lambda: len(connector_sessions(overlay.connector).served) == 1)
        traffic = served(overlay.connector).traffic
        assert traffic is not None
        assert traffic.session is not None
        assert traffic.session.id == second.id


async def test_another_connector_takes_over_and_the_first_keeps_its_other_service(tmp_path: Path) -> None:
    policy = default_policy()
    policy["connectors"]["other"] = {"services": [ECHO]}
    async with Overlay(tmp_path, policy=policy) as overlay:
        sessions, first = agent_sessions(overlay.agent), only_session(overlay)
        services = [overlay.connector_value()["services"][0]]
        other = await another_connector(overlay, grants=(ECHO,), ready=False, services=services)
        try:
            policy["connectors"]["connector"]["services"] = [HTTP]
            write_policy(overlay, policy)
            await eventually(lambda: sessions.session_for(ECHO) not in (None, first), 30)
            assert sessions.session_for(HTTP) is first
            assert served(other).session.services == (ECHO,)
            with udp_client(overlay.forward("udp")) as client:
                assert await client.works(5)
        finally:
            await other.close()


async def test_flows_are_never_opened_for_a_port_of_no_service(tmp_path: Path) -> None:
    async with Overlay(tmp_path) as overlay:
        session = only_session(overlay)
        for number, port in enumerate((0, 22, ECHO_PORT + 1, 65535, 70_000), 100):
            session.core.write(0, encode_message(OpenUdp(number, ECHO, port)))
        session.flush()
        flows = served(overlay.connector).flows
        assert flows is not None
        await eventually(lambda: flows.counters.refused == 5)
        assert len(flows) == 0


# asking


async def test_a_session_is_asked_for_with_the_registration_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []
    ask = Asking.ask

    def recorded(self: Asking, service: Any) -> None:
        asked.append((service.id, service.protocol))
        ask(self, service)

    monkeypatch.setattr(Asking, "ask", recorded)
    async with Overlay(tmp_path) as overlay:
        assert sorted(asked) == [(ECHO, 0), (HTTP, 0)], "nobody had said yet who serves them"
        session = only_session(overlay)
        asked.clear()
        # With a connector that comes later it is asked for then.
        await overlay.connector.close()
        await eventually(lambda: session.closed)
        asked.clear()
        await overlay.start_connector()
        await eventually(lambda: agent_sessions(overlay.agent).session_for(ECHO) is not None, 20)
        assert (ECHO, 2) in asked
