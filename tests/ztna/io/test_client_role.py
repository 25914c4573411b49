"""Agent and connector as processes: ready, observed over HTTP, stopped in order, refused with the documented codes."""

import asyncio
import contextlib
import json
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.overlay import ECHO, ECHO_PORT, HOST, Overlay, eventually, udp_client

ROOT = Path(__file__).parents[3]


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])


async def start(role: str, path: Path, *options: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ztna", role, "--config", str(path), *options,
        stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, cwd=ROOT,
    )  # fmt: skip


@contextlib.asynccontextmanager
async def running(role: str, path: Path, *options: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await start(role, path, *options)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def ended(role: str, path: Path, *options: str) -> tuple[int, str]:
    """Exit code and stderr of a process that ends by itself."""
    process = await start(role, path, *options)
    _, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode is not None
    return process.returncode, err.decode()


async def get(port: int, path: str) -> tuple[int, str]:
    def fetch() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, exc.read().decode()
        except OSError:
            return 0, ""

    return await asyncio.to_thread(fetch)


async def until_ready(port: int) -> None:
    deadline = time.monotonic() + 30
    while (await get(port, "/readyz"))[0] != 200:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


def write(path: Path, value: dict[str, Any]) -> Path:
    path.write_text(json.dumps(value))
    return path


async def test_connector_process_serves_tells_and_says_goodbye(tmp_path: Path) -> None:
    overlay = Overlay(tmp_path)
    await overlay.backends.start()
    await overlay.start_relay()
    port = free_port()
    p2p = {"port": free_port(socket.SOCK_DGRAM)}
    path = write(tmp_path / "connector.json", {**overlay.connector_value(), "metrics_port": port, "p2p": p2p})
    async with running("connector", path) as process:
        await until_ready(port)
        status = json.loads((await get(port, "/status"))[1])
        assert (status["role"], status["state"], status["pid"]) == ("connector", "ready", process.pid)
        assert {entry["id"]: entry["state"] for entry in status["services"]}[ECHO] == "registered"
        await overlay.start_agent()
        with udp_client(overlay.forward("udp")) as client:
            assert await client.echo(b"through processes") == b"through processes"
        metrics = (await get(port, "/metrics"))[1]
        assert "ztna_connector_forwarded_packets_total 1.0" in metrics
        assert (await get(port, "/healthz"))[0] == 200
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 15) == 0
        await eventually(lambda: overlay.relay.status()["connections"] == 1, 10)
    await overlay.__aexit__(None, None, None)


async def test_agent_process_forwards_what_the_command_line_says(tmp_path: Path) -> None:
    overlay = Overlay(tmp_path)
    await overlay.backends.start()
    await overlay.start_relay()
    await overlay.start_connector()
    port, local = free_port(), free_port(socket.SOCK_DGRAM)
    path = write(tmp_path / "agent.json", {**overlay.agent_value(), "mode": "auto", "metrics_port": port})
    async with running("agent", path, "--forward-udp", f"{local}={ECHO}:{ECHO_PORT}") as process:
        await until_ready(port)
        assert json.loads((await get(port, "/status"))[1])["mode"] == "user"
        with udp_client((HOST, local)) as client:
            assert await client.echo(b"forwarded") == b"forwarded"
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 3) == 0
    await overlay.__aexit__(None, None, None)


async def test_not_ready_says_why(tmp_path: Path) -> None:
    port = free_port()
    overlay = Overlay(tmp_path)
    overlay.relay_port = free_port(socket.SOCK_DGRAM)
    value = {**overlay.agent_value(), "metrics_port": port}
    path = write(tmp_path / "agent.json", value)
    async with running("agent", path, "--forward", f"{free_port()}={ECHO}:1"):
        deadline = time.monotonic() + 30
        while (answer := await get(port, "/readyz"))[0] == 0:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        assert answer[0] == 503
        assert answer[1].startswith("not connected to the relay")


@pytest.mark.parametrize(
    ("changes", "options", "code", "message"),
    [
        ({"modee": "user"}, (), 3, "did you mean 'mode'"),
        ({"mode": "user"}, (), 3, "give --forward"),
        ({}, ("--forward", "80"), 3, "like 8080=http-app:80"),
        ({"cert_pem": "-----BEGIN CERTIFICATE-----"}, ("--forward", "0=echo-service:1"), 3, "cert_pem"),
    ],
)
async def test_agent_that_cannot_start_says_why(
    tmp_path: Path, changes: dict[str, Any], options: tuple[str, ...], code: int, message: str
) -> None:
    path = write(tmp_path / "agent.json", {**Overlay(tmp_path).agent_value(), **changes})
    found, text = await ended("agent", path, *options)
    assert found == code
    assert message in text
    assert "Traceback" not in text


async def test_taken_ports_have_their_own_exit_code(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind((HOST, 0))
        p2p = {"port": holder.getsockname()[1]}
        path = write(tmp_path / "connector.json", {**Overlay(tmp_path).connector_value(), "p2p": p2p})
        code, text = await ended("connector", path)
    assert code == 4
    assert "p2p.port" in text
    with socket.create_server((HOST, 0)) as holder:
        value = {**Overlay(tmp_path).connector_value(), "metrics_port": holder.getsockname()[1]}
        code, text = await ended("connector", write(tmp_path / "connector.json", value))
    assert code == 4
    assert "metrics_port" in text
