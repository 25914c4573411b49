"""An intermediate that relays sessions, from its sockets: proofs by STUN, packets, keepalives, the admin socket."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from tests.ztna.io.quic_rig import Pki
from ztna.config import IntermediateConfig
from ztna.io.admin import AdminBindError, ask
from ztna.io.intermediate import IntermediateServer
from ztna.io.metrics import render
from ztna.io.session.stun_codec import decode, encode
from ztna.proto.commands import CloseRelay, OpenRelay
from ztna.proto.control.server import ControlServer
from ztna.proto.identity import Identity
from ztna.proto.paths.stun_types import Endpoint, StunRequest, StunResponse

S, KEY = b"s" * 16, b"k" * 32
AGENT, CONNECTOR = (Identity(role, "lab", "x", frozenset(), "") for role in ("agent", "connector"))
QUIC = b"\x41" + bytes(100)


def config(pki: Pki, path: Path, **values: Any) -> IntermediateConfig:
    base = {
        "stack": "lab", "bind_addr": "127.0.0.1", "port": 0, "metrics_port": 0, "alternate_port": None,
        "cert_pem": pki.server.cert_pem, "key_pem": pki.server.key_pem, "ca_cert_pem": pki.ca.cert_pem,
    }  # fmt: skip
    return IntermediateConfig.from_json(base | values, base=path)


class Member:
    """One side of the session: a socket with its role."""

    def __init__(self, role: str, server: IntermediateServer) -> None:
        self.role = role
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.connect(server.udp.local_address)
        self.counter = 0

    async def receive(self) -> bytes | None:
        try:
            return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.sock, 2000), 0.3)
        except TimeoutError:
            return None

    async def prove(self) -> None:
        """An authentic Binding request, answered with where it came from."""
        self.counter += 1
        transaction = self.counter.to_bytes(6, "big") + bytes(6)
        self.sock.send(encode(StunRequest(transaction, f"{S.hex()}:{self.role}", priority=1), KEY))
        answer = decode(await self.receive() or b"", KEY)
        assert answer == StunResponse(transaction, Endpoint(*self.sock.getsockname()))


@pytest.fixture(scope="module")
def pki() -> Pki:
    return Pki()


@pytest.fixture
async def server(pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[IntermediateServer]:
    monkeypatch.setattr(ControlServer, "session_key", lambda self, session, role="": KEY if session == S else None)
    made = IntermediateServer(config(pki, tmp_path), structlog.get_logger(), admin_socket=tmp_path / "admin.sock")
    await made.start()
    yield made
    await made.stop()
    assert not (tmp_path / "admin.sock").exists()


def command(server: IntermediateServer, what: OpenRelay | CloseRelay) -> None:
    assert server.on_relay_command is not None
    server.on_relay_command(what)


async def ready(server: IntermediateServer) -> list[Member]:
    command(server, OpenRelay(S, KEY, AGENT, CONNECTOR))
    sides = [Member(role, server) for role in ("agent", "connector")]
    for side in sides:
        await side.prove()
    return sides


async def test_packets_pass_between_members_and_keepalives_are_answered_all_the_while(
    server: IntermediateServer,
) -> None:
    told: list[tuple[Any, ...]] = []
    server.control.relay_ready = lambda *news: told.append(news)  # type: ignore[method-assign]
    agent, connector = await ready(server)
    assert [news[:2] for news in told] == [(S, "userspace")]
    for _ in range(3):
        agent.sock.send(QUIC)
        assert await connector.receive() == QUIC
        connector.sock.send(QUIC)
        assert await agent.receive() == QUIC
        await agent.prove()
        await connector.prove()
    (session,) = server.status()["relay"]["sessions"]
    assert session["packets"] == {"agent_to_connector": 3, "connector_to_agent": 3}
    assert session["ready"] is True
    assert (
        'ztna_relay_forwarded_packets_total{direction="agent_to_connector"} 3.0'
        in render(server.relay.samples()).decode()
    )
    command(server, CloseRelay(S, "ended"))
    agent.sock.send(QUIC)
    assert await connector.receive() is None
    for side in (agent, connector):
        side.sock.close()


async def test_who_does_not_hold_the_key_proves_nothing(server: IntermediateServer) -> None:
    command(server, OpenRelay(S, KEY, AGENT, CONNECTOR))
    thief = Member("agent", server)
    thief.sock.send(encode(StunRequest(bytes(12), f"{S.hex()}:agent", priority=1), b"x" * 32))
    assert await thief.receive() is None
    (session,) = server.status()["relay"]["sessions"]
    assert session["agent_address"] is None
    thief.sock.close()


async def test_the_admin_switches_it_off_and_on(server: IntermediateServer, tmp_path: Path) -> None:
    told: list[tuple[Any, ...]] = []
    server.control.relay_lost = lambda *news: told.append(news)  # type: ignore[method-assign]
    agent, connector = await ready(server)
    path = tmp_path / "admin.sock"
    off = await asyncio.to_thread(ask, path, {"relay": "off"})
    assert (off["enabled"], off["backend"], off["sessions"][0]["ready"]) == (False, "off", False)
    assert [news[:2] for news in told] == [(S, "relay-off")]
    agent.sock.send(QUIC)
    assert await connector.receive() is None
    await agent.prove()  # where they are they still learn
    on = await asyncio.to_thread(ask, path, {"relay": "on"})
    assert (on["enabled"], on["backend"]) == (True, "userspace")
    await agent.prove()
    await connector.prove()
    agent.sock.send(QUIC)
    assert await connector.receive() == QUIC
    assert json.dumps(await asyncio.to_thread(ask, path, {"relay": "status"})) != ""
    for side in (agent, connector):
        side.sock.close()


async def test_a_socket_that_cannot_be_made_fails_only_where_it_is_asked_for(pki: Pki, tmp_path: Path) -> None:
    silent = IntermediateServer(config(pki, tmp_path), structlog.get_logger(), admin_socket=tmp_path / "no" / "a.sock")
    await silent.start()
    await silent.stop()
    wanted = config(pki, tmp_path, admin_socket="no/admin.sock")
    demanding = IntermediateServer(wanted, structlog.get_logger())
    with pytest.raises(AdminBindError, match="admin_socket"):
        await demanding.start()


async def test_the_kernel_is_demanded_where_it_cannot_be(pki: Pki, tmp_path: Path) -> None:
    server = IntermediateServer(config(pki, tmp_path, relay="kernel"), structlog.get_logger())
    with pytest.raises(OSError, match=r"loopback.*\"auto\""):
        await server.start()
