"""How a client loses and finds its relay: refusals are respected, silence is not, junk is ignored."""

import asyncio
import datetime as dt
import json
import secrets
from pathlib import Path
from typing import Any

import pytest
from aioice import stun

from tests.support.certs import CLIENT, issue, issue_member
from tests.support.overlay import CA, ECHO, HOST, HTTP, LoopUdp, Overlay, default_policy, eventually, identity
from ztna.config import ConfigError
from ztna.io.udp import Address, UdpBindError


async def agent_alone(tmp_path: Path, **agent: Any) -> Overlay:
    """Relay and agent; nobody waits for the agent to be ready."""
    overlay = Overlay(tmp_path, agent=agent)
    await overlay.start_relay()
    await overlay.start_agent(ready=False)
    return overlay


async def test_relay_that_refuses_the_certificate_is_asked_again_only_after_a_while(tmp_path: Path) -> None:
    stranger = issue("stranger", CA, uris=("spiffe://other/agent/agent",), usage=(CLIENT,))
    overlay = await agent_alone(tmp_path, **identity(stranger))
    uplink = overlay.agent.uplink
    await eventually(lambda: uplink.counters.lost_closed == 1)
    reason = overlay.agent.not_ready() or ""
    assert reason.startswith("not connected to the relay: ")
    assert "code 0x" in reason
    assert uplink.counters.stun_probes == 0
    assert uplink.counters.dials == 1
    await overlay.__aexit__(None, None, None)


async def test_relay_of_another_ca_is_refused(tmp_path: Path) -> None:
    other = issue("other CA", ca=True)
    member = issue_member(other, "agent", "agent", ECHO)
    overlay = await agent_alone(tmp_path, ca_cert_pem=other.cert_pem, ca_cert=None, **identity(member))
    await eventually(lambda: overlay.agent.uplink.counters.lost_closed == 1)
    assert not overlay.agent.control.is_connected
    assert overlay.relay.status()["connections"] == 0
    await overlay.__aexit__(None, None, None)


async def test_relay_of_another_name_is_refused(tmp_path: Path) -> None:
    overlay = Overlay(tmp_path)
    await overlay.start_relay()
    overlay._agent["intermediate_server"] = {**overlay.server(), "server_name": "somebody-else"}
    await overlay.start_agent(ready=False)
    await eventually(lambda: overlay.agent.uplink.counters.lost_closed == 1)
    assert not overlay.agent.control.is_connected
    await overlay.__aexit__(None, None, None)


async def test_name_that_does_not_resolve_is_tried_again(tmp_path: Path) -> None:
    server = {"host": "no-such-relay.invalid", "port": 4433}
    overlay = await agent_alone(tmp_path, intermediate_server=server)
    await eventually(lambda: overlay.agent.uplink.counters.dial_errors == 1)
    assert "cannot dial no-such-relay.invalid" in (overlay.agent.not_ready() or "")
    await overlay.__aexit__(None, None, None)


async def test_relay_by_name(tmp_path: Path) -> None:
    overlay = Overlay(tmp_path)
    await overlay.start_relay()
    overlay._agent["intermediate_server"] = {**overlay.server(), "host": "localhost"}
    await overlay.start_agent()
    assert overlay.agent.uplink.relay_address == (HOST, overlay.relay_port)
    await overlay.__aexit__(None, None, None)


async def test_stun_answers_count_only_from_the_relay_and_only_if_asked(tmp_path: Path) -> None:
    overlay = await agent_alone(tmp_path)
    await eventually(lambda: overlay.agent.not_ready() is None)
    uplink = overlay.agent.uplink
    answer = bytes(stun.Message(stun.Method.BINDING, stun.Class.RESPONSE, secrets.token_bytes(12)))
    assert uplink.relay_address is not None
    assert uplink._non_quic(answer, uplink.relay_address)
    assert not uplink._non_quic(answer, (HOST, 9))
    assert uplink.counters.stun_answers == 0
    await overlay.__aexit__(None, None, None)


async def test_junk_on_the_clients_port_harms_nothing(tmp_path: Path) -> None:
    async with Overlay(tmp_path) as overlay:
        junk = LoopUdp(lambda data, source: None)
        targets: list[Address] = [
            (HOST, overlay.agent.udp.local_address[1]),
            overlay.connector.udp.local_address,
        ]
        for to in targets:
            for size in (1, 5, 6, 20, 26, 60, 1200, 1350):
                for first in (0x00, 0x01, 0x2F, 0x45, 0x5A, 0x80, 0xC3):
                    junk.sock.sendto(bytes([first]) + secrets.token_bytes(size - 1), to)
        await eventually(lambda: overlay.agent.udp.counters.received_packets > 56)
        await eventually(lambda: overlay.connector.udp.counters.received_packets > 56)
        assert overlay.agent.not_ready() is None
        assert overlay.connector.not_ready() is None
        assert overlay.agent.uplink.endpoint.peers == [overlay.agent.uplink.peer]
        junk.close()


async def test_close_before_the_relay_ever_answered(tmp_path: Path) -> None:
    silent = LoopUdp(lambda data, source: None)
    overlay = Overlay(tmp_path)
    overlay.relay_port = silent.sock.getsockname()[1]
    await overlay.start_agent(ready=False)
    await eventually(lambda: overlay.agent.uplink.counters.dials == 1)
    await asyncio.wait_for(overlay.agent.close(), 2)
    silent.close()


async def test_expired_certificate_is_named_at_start(tmp_path: Path) -> None:
    day = dt.timedelta(days=1)
    expired = issue("agent", CA, uris=("spiffe://lab/agent/agent",), usage=(CLIENT,), starts_in=-2 * day, lasts=day)
    with pytest.raises(ConfigError, match=r"cert_pem.*expired on"):
        await Overlay(tmp_path, agent=identity(expired)).start_agent(ready=False)


async def test_certificate_of_another_ca_is_named_at_start(tmp_path: Path) -> None:
    member = issue_member(issue("other CA", ca=True), "connector", "connector", ECHO)
    overlay = Overlay(tmp_path, connector=identity(member))
    with pytest.raises(ConfigError, match=r"cert_pem.*not the CA given"):
        await overlay.start_connector(ready=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"limits": {"udp_flow": 5}}, r"limits\.udp_flow: unknown limit; did you mean 'udp_flows'"),
        (
            {
                "services": [
                    {"id": name, "virtual_ip": "100.64.0.100", "backend": "127.0.0.1:9"} for name in (ECHO, HTTP)
                ]
            },
            "virtual_ip",
        ),
    ],
)
async def test_connector_config_errors_name_the_key(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        await Overlay(tmp_path, connector=changes).start_connector(ready=False)


async def test_taken_port_names_the_key(tmp_path: Path) -> None:
    holder = LoopUdp(lambda data, source: None)
    port = holder.sock.getsockname()[1]
    with pytest.raises(UdpBindError, match=r"p2p\.port"):
        await Overlay(tmp_path, connector={"p2p": {"port": port}}).start_connector(ready=False)
    holder.close()


async def test_agent_service_without_address_names_the_key(tmp_path: Path) -> None:
    services = [{"id": ECHO, "virtual_ip": "100.64.0.100"}, {"id": "other"}]
    overlay = Overlay(tmp_path, agent={"services": services})
    with pytest.raises(ConfigError, match=r"services\[1\]\.virtual_ip"):
        await overlay.start_agent(ready=False)


async def test_withdrawn_grant_ends_the_registration(tmp_path: Path) -> None:
    policy = default_policy()
    overlay = Overlay(tmp_path, policy=policy)
    await overlay.start_relay()
    await overlay.start_agent()
    policy["agents"]["agent"]["services"] = [ECHO]
    (tmp_path / "policy.json").write_text(json.dumps(policy))
    await eventually(lambda: "denied for http-app" in (overlay.agent.not_ready() or ""), 6)
    await overlay.__aexit__(None, None, None)
