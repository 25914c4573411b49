"""Forwards: how they are written, what happens when they cannot listen, and their bounds."""

import asyncio
import socket
from pathlib import Path

import pytest

from tests.support.overlay import ECHO, HOST, HTTP, Overlay, eventually, udp_client
from ztna.config import AgentConfig, ConfigError, ForwardConfig, ServiceConfig
from ztna.io.agent import choose_mode, random_virtual_ip, run
from ztna.io.udp import UdpBindError
from ztna.io.user_mode import listen, parse_forward

SERVICES = (ServiceConfig(id=ECHO, virtual_ip="100.64.0.100"), ServiceConfig(id=HTTP, virtual_ip="100.64.0.101"))


@pytest.mark.parametrize(
    ("text", "listening", "service", "port"),
    [
        ("8080=http-app:80", ("127.0.0.1", 8080), HTTP, 80),
        ("0.0.0.0:8080=http-app:80", ("0.0.0.0", 8080), HTTP, 80),
        ("[::1]:9=echo-service:9999", ("::1", 9), ECHO, 9999),
        ("0=echo-service:1", ("127.0.0.1", 0), ECHO, 1),
    ],
)
def test_forward_is_read(text: str, listening: tuple[str, int], service: str, port: int) -> None:
    expected = ForwardConfig(protocol="tcp", listen=listening, service=service, port=port)
    assert parse_forward(text, "tcp", SERVICES) == expected


@pytest.mark.parametrize(
    "text", ["", "8080", "8080=", "8080=http-app", "8080=:80", "x=http-app:80", "8080=http-app:x", "99999=http-app:80"]
)
def test_malformed_forward_shows_the_form(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--forward-udp: .* like 8080=http-app:80"):
        parse_forward(text, "udp", SERVICES)


def test_unknown_service_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match="the agent has echo-service, http-app"):
        parse_forward("80=http:80", "tcp", SERVICES)


@pytest.mark.parametrize(("protocol", "kind"), [("tcp", socket.SOCK_STREAM), ("udp", socket.SOCK_DGRAM)])
def test_taken_port_is_named(protocol: str, kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_INET, kind) as holder:
        holder.bind((HOST, 0))
        if protocol == "tcp":
            holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(UdpBindError, match=rf"{protocol.upper()} forwards\.listen={port} .*in use"):
            listen(ForwardConfig(protocol=protocol, listen=(HOST, port), service=ECHO, port=9))


async def test_taken_port_leaves_no_other_listener_open(tmp_path: Path) -> None:
    overlay = Overlay(tmp_path)
    await overlay.start_relay()
    with socket.create_server((HOST, 0)) as holder:
        taken = ForwardConfig(protocol="tcp", listen=holder.getsockname()[:2], service=ECHO, port=1)
        overlay.forwards = (*overlay.forwards, taken)
        with pytest.raises(UdpBindError):
            await overlay.start_agent()
    await overlay.__aexit__(None, None, None)


async def test_sessions_over_the_limit_are_refused_and_counted(tmp_path: Path) -> None:
    async with Overlay(tmp_path, agent={"limits": {"tcp_sessions": 1}}) as overlay:
        first = await asyncio.open_connection(*overlay.forward("tcp"))
        first[1].write(b"x")
        assert await asyncio.wait_for(first[0].read(1), 5) == b"x"
        second = await asyncio.open_connection(*overlay.forward("tcp"))
        assert await asyncio.wait_for(second[0].read(), 5) == b""
        assert overlay.user.counters.tcp_refused == 1
        for _, writer in (first, second):
            writer.close()
            await writer.wait_closed()


async def test_flows_over_the_limit_are_dropped_and_counted_and_expire(tmp_path: Path) -> None:
    async with Overlay(tmp_path, agent={"limits": {"udp_flows": 1, "udp_idle_s": 0.3}}) as overlay:
        with udp_client(overlay.forward("udp")) as first, udp_client(overlay.forward("udp")) as second:
            assert await first.echo(b"one") == b"one"
            second.send(b"two")
            forwards = overlay.user.forwards
            assert forwards is not None
            await eventually(lambda: forwards.counters.dropped_flow_limit == 1)
            await eventually(lambda: forwards.udp_flows == 0)
            assert await second.echo(b"two") == b"two"


def agent_config(mode: str = "auto", **changes: object) -> AgentConfig:
    return AgentConfig.from_json(
        {
            "intermediate_server": {"host": HOST, "port": 1},
            "services": [{"id": ECHO, "virtual_ip": "100.64.0.100"}],
            "verify_peer": False,
            "mode": mode,
            **changes,
        }
    )


def test_mode_is_chosen_by_what_is_given_and_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ztna.io.agent.tun_available", lambda: None)
    assert choose_mode(agent_config(), forwards_given=False)[0] == "tun"
    assert choose_mode(agent_config(), forwards_given=True)[0] == "user"
    assert choose_mode(agent_config("tun"), forwards_given=True)[0] == "tun"
    monkeypatch.setattr("ztna.io.agent.tun_available", lambda: "no permission")
    assert choose_mode(agent_config(), forwards_given=False) == ("user", "no permission")


def test_user_mode_without_forwards_says_what_to_give() -> None:
    with pytest.raises(ConfigError, match="give --forward"):
        run(agent_config("user"))


def test_tun_mode_without_own_address_names_the_key() -> None:
    with pytest.raises(ConfigError, match="virtual_ip: missing"):
        run(agent_config("tun"))


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="--mode"):
        run(agent_config(), mode="fast")


def test_random_address_is_one_of_65535() -> None:
    assert random_virtual_ip().startswith("100.127.")
