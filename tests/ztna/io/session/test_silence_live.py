"""A connector that is gone without a word, by real sockets: who notices, and who serves instead."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.overlay import ECHO, HTTP, Overlay, default_policy, eventually, udp_client
from tests.support.overlay_members import agent_sessions, another_connector, connector_sessions, only_session
from ztna.io.connector import Connector
from ztna.io.udp import UdpSocket
from ztna.proto.paths.path_types import PathKind

NOTICED_S = 15.0
"""Far above what it takes, as these machines are busy, and far below the 30 s after which idle connections are lost."""

TWO: dict[str, Any] = default_policy() | {
    "connectors": {name: {"services": [ECHO, HTTP]} for name in ("connector", "other")}
}
RELAYED: dict[str, Any] = {"agent": {"direct": "off"}, "connector": {"direct": "off"}}


class Frozen:
    """A connector that neither reads nor writes; what is sent to it waits in its sockets."""

    def __init__(self, connector: Connector) -> None:
        self._sockets: list[UdpSocket] = [connector.udp]
        for session in connector_sessions(connector).sessions:
            self._sockets += [udp for udp in session.sockets._sockets.values() if udp not in self._sockets]
        self._ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._saved: list[int] = []
        for udp in self._sockets:
            asyncio.get_running_loop().remove_reader(udp.fileno())
            self._saved.append(os.dup(udp.fileno()))
            os.dup2(self._ends[0].fileno(), udp.fileno(), inheritable=False)

    def thaw(self) -> None:
        """Let it go on."""
        for udp, saved in zip(self._sockets, self._saved, strict=True):
            if udp.fileno() >= 0:
                os.dup2(saved, udp.fileno(), inheritable=False)
                asyncio.get_running_loop().add_reader(udp.fileno(), udp._readable)
            os.close(saved)
        self._saved, self._sockets = [], []
        for end in self._ends:
            end.close()


@contextlib.contextmanager
def frozen(connector: Connector) -> Iterator[Frozen]:
    found = Frozen(connector)
    try:
        yield found
    finally:
        found.thaw()


async def test_a_standby_serves_soon_after_a_connector_vanished(tmp_path: Path) -> None:
    async with Overlay(tmp_path, policy=TWO) as overlay:
        sessions, dead = agent_sessions(overlay.agent), only_session(overlay)
        standby = await another_connector(overlay)
        _, writer = await asyncio.open_connection(*overlay.forward("tcp"))  # streams do not keep the dead alive
        writer.write(b"one")
        await eventually(lambda: len(sessions.streams_of(dead)) == 1)
        try:
            with frozen(overlay.connector), udp_client(overlay.forward("udp")) as client:
                began = asyncio.get_running_loop().time()
                while (serving := sessions.session_for(ECHO)) is dead or serving is None:
                    client.send(b"anybody there?")
                    await asyncio.sleep(0.05)
                    assert asyncio.get_running_loop().time() - began < NOTICED_S
                assert serving.settings.peer.endswith("/other")
                assert await client.works(5.0)
                await eventually(lambda: dead.closed)
            assert overlay.relay.core.services()[ECHO][0] == "other"
        finally:
            writer.close()
            await standby.close()


async def test_without_a_standby_the_path_is_none_until_the_connector_answers(tmp_path: Path) -> None:
    async with Overlay(tmp_path, **RELAYED) as overlay:
        session = only_session(overlay)
        with udp_client(overlay.forward("udp")) as client:
            with frozen(overlay.connector):
                client.send(b"anybody there?")
                await eventually(lambda: session.paths.kind is PathKind.NONE, NOTICED_S)
                assert overlay.relay.core.services()[ECHO][0] is None
            await eventually(lambda: session.paths.kind is PathKind.RELAY, NOTICED_S)
            assert await client.works(5.0)
        assert only_session(overlay) is session


@pytest.mark.parametrize("open_stream", [True, False])
async def test_a_replaced_session_lives_on_for_its_open_streams_alone(
    tmp_path: Path, open_stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ztna.io.session.agent_side.STREAMS_S", 0.3)
    async with Overlay(tmp_path, policy=TWO) as overlay:
        sessions, old = agent_sessions(overlay.agent), only_session(overlay)
        standby = await another_connector(overlay)
        try:
            reader, writer = await asyncio.open_connection(*overlay.forward("tcp"))
            writer.write(b"one")
            assert await asyncio.wait_for(reader.readexactly(3), 10) == b"one"
            if not open_stream:
                writer.close()
                await eventually(lambda: not len(sessions.streams_of(old)))
            # The connector is believed to be silent, in error.
            core, holder = overlay.relay.core, overlay.relay.core._registry.services[ECHO.encode()].connector
            assert holder is not None
            core.stand_aside(holder, overlay.relay.now(), to_standbys=True)
            overlay.relay.drain_commands()
            await eventually(lambda: sessions.session_for(ECHO) not in (None, old))
            if open_stream:
                await asyncio.sleep(1.5)
                writer.write(b"two")
                assert await asyncio.wait_for(reader.readexactly(3), 10) == b"two"
                assert not old.closed
                writer.close()
            await eventually(lambda: old.closed)
        finally:
            await standby.close()
