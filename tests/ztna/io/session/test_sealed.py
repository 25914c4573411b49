"""`protocol: v2` forbids every way on which the intermediate could read: it cannot be talked out of a session."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.overlay import AGENT_IP, ECHO, ECHO_IP, ECHO_PORT, Overlay, eventually, udp_client
from tests.support.overlay_members import agent_sessions, connector_sessions
from tests.ztna.io.session.test_sessions import packet
from ztna.config import AgentConfig, ConfigError
from ztna.io.client_role import client_settings
from ztna.io.quic_types import ALPN_V2

V1: dict[str, Any] = {"protocol": "v1"}
V2: dict[str, Any] = {"protocol": "v2"}


@pytest.mark.parametrize(("agent", "works"), [(V2, False), ({}, True)], ids=["v2", "auto"])
async def test_an_agent_does_not_take_a_service_for_one_of_v1(
    tmp_path: Path, agent: dict[str, Any], works: bool
) -> None:
    """The intermediate says which version a connector speaks, whether that is so or not."""
    async with Overlay(tmp_path, connector=V1, agent=agent) as overlay:
        with udp_client(overlay.forward("udp")) as client:
            if works:
                assert await client.works(10.0)
                return
            assert not await client.works(1.0)
        counters = agent_sessions(overlay.agent).counters
        assert counters.refused_legacy > 0
        assert not agent_sessions(overlay.agent).legacy(ECHO)
        # Nor does it send there by itself, or take what comes.
        overlay.agent.send_packets([packet(AGENT_IP, "100.64.0.250"), packet("100.64.9.9", ECHO_IP)])
        overlay.agent.packet_received(packet(ECHO_IP, AGENT_IP))
        stats = overlay.relay.core.stats
        assert (stats.datagrams_to_connectors, stats.datagrams_to_agents) == (0, 0)
        assert overlay.backends.udp_sources == []


@pytest.mark.parametrize(("connector", "works"), [(V2, False), ({}, True)], ids=["v2", "auto"])
async def test_a_connector_takes_nothing_by_the_intermediate(
    tmp_path: Path, connector: dict[str, Any], works: bool
) -> None:
    """Who can send there can name any agent as the source."""
    async with Overlay(tmp_path, connector=connector, agent=V1) as overlay:
        with udp_client(overlay.forward("udp")) as client:
            if works:
                assert await client.works(10.0)
                return
            assert not await client.works(1.0)
        await eventually(lambda: connector_sessions(overlay.connector).counters.dropped_unsealed > 0)
        assert overlay.backends.udp_sources == []


async def test_an_intermediate_of_v1_alone_is_not_used(tmp_path: Path) -> None:
    overlay = Overlay(tmp_path, intermediate=V1, agent=V2)
    await overlay.backends.start()
    await overlay.start_relay()
    await overlay.start_connector()
    await overlay.start_agent(ready=False)
    try:
        await eventually(lambda: overlay.agent.uplink.counters.lost_closed > 0)
        assert overlay.agent.not_ready() is not None
        assert overlay.relay.core.connections == 1
    finally:
        await overlay.__aexit__(None, None, None)


async def test_between_two_of_v2_all_is_as_ever(tmp_path: Path) -> None:
    async with Overlay(tmp_path, connector=V2, agent=V2) as overlay:
        with udp_client(overlay.forward("udp")) as client:
            assert await client.works(10.0)
        assert overlay.relay.core.stats.datagrams_to_connectors == 0
        assert overlay.forward("udp")[1] != ECHO_PORT


def test_what_sessions_need_is_demanded(tmp_path: Path) -> None:
    value = Overlay(tmp_path, agent=V2).agent_value()
    assert client_settings(AgentConfig.from_json(value)).alpn == (ALPN_V2,)

    with pytest.raises(ConfigError, match="protocol: v2 needs ca_cert_path and verify_peer"):
        client_settings(AgentConfig.from_json({**value, "verify_peer": False}))
