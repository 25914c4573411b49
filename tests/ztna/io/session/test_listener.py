"""The connector's own UDP port as a way in: checks and packets of sessions among those of its control connection."""

import os
import random
from pathlib import Path

import pytest

from tests.support.overlay import HOST, Overlay, eventually, udp_client
from ztna.io.session.listener import LISTENER
from ztna.io.session.stun_codec import session_of
from ztna.proto.paths.parts import Parts


@pytest.fixture(autouse=True)
def only_the_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer learns of no other candidates, as if every NAT between kept packets to them out."""
    tell = Parts.tell
    monkeypatch.setattr(Parts, "tell", lambda self, told: tell(self, [each for each in told if each.local == LISTENER]))


async def test_an_agent_reaches_the_connector_directly_at_its_own_port(tmp_path: Path) -> None:
    async with Overlay(tmp_path, agent={"direct": "auto"}) as overlay:
        overlay.agent.udp.send(b"junk", overlay.connector.udp.local_address)
        with udp_client(overlay.forward("udp")) as client:
            assert await client.works(5)
            (session,) = overlay.agent.sessions.sessions if overlay.agent.sessions else []
            await eventually(lambda: session.status()["path"] == "direct")
            port = overlay.connector.udp.local_address[1]
            assert session.status()["peer_address"] == f"{HOST}:{port}"
            data = os.urandom(1000)
            assert await client.echo(data) == data
        assert overlay.connector.sessions is not None
        listener = overlay.connector.sessions.listener
        assert listener is not None
        assert listener.counters.diverted > 2
        assert listener.counters.sources_learned == 1
        assert all(each.paths._parts.gathering.listener_proven for each in overlay.connector.sessions.sessions)
        assert overlay.connector.not_ready() is None, "the control connection shares the port and lives on"
        source = (HOST, session.sockets.port())
        session.close("enough")
        packet = (b"\x40" + bytes(30), source)
        await eventually(lambda: listener.divert([packet]) == [packet])


async def test_packets_of_strangers_are_left_to_the_control_connection(tmp_path: Path) -> None:
    async with Overlay(tmp_path, agent={"direct": "off"}) as overlay:
        assert overlay.connector.sessions is not None
        listener = overlay.connector.sessions.listener
        assert listener is not None
        junk = [
            (b"", ("192.0.2.1", 1)),
            (b"\x40" + os.urandom(40), ("192.0.2.1", 2)),
            (os.urandom(20), ("192.0.2.1", 3)),
        ]
        assert listener.divert(junk) == junk
        assert listener.counters.sources_learned == 0


@pytest.mark.parametrize("data", [b"", b"\x00" * 19, b"\x00\x01\x00\x00" + bytes(16), random.Random(5).randbytes(64)])
def test_what_names_no_session_is_no_sessions(data: bytes) -> None:
    assert session_of(data) is None


def test_the_index_is_beyond_extra_sockets() -> None:
    assert LISTENER > 4096
