"""The intermediate's shell around its core: relay, reload, policy, drain; and the real process with its signals."""

import asyncio
import json
import os
import signal
import sys
import urllib.request
from collections.abc import AsyncIterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
import structlog

from tests.support.certs import issue, issue_member, issue_server
from tests.ztna.io.quic_rig import Node, Pki, Raw, nodes
from ztna.config import ConfigError, load_intermediate
from ztna.io.intermediate import IntermediateServer
from ztna.io.quic_peer import Peer
from ztna.io.quic_types import AddressChanged, Closed, Connected, DatagramReceived, StreamReceived
from ztna.proto.packet import build_udp

AGENT_IP = int(IPv4Address("100.64.1.1"))
SERVICE_IP = int(IPv4Address("100.64.0.100"))
POLICY: dict[str, Any] = {
    "services": {"echo-service": {"virtual_ip": "100.64.0.100"}},
    "agents": {"agent": {"virtual_ip": "100.64.1.1", "services": ["echo-service"]}},
    "connectors": {"connector": {"services": ["echo-service"]}},
    "revoked": [],
}


@pytest.fixture(scope="module")
def pki() -> Pki:
    return Pki()


class Files:
    """A relay's directory."""

    def __init__(self, path: Path, pki: Pki) -> None:
        self.path = path
        self.pki = pki
        self.policy = json.loads(json.dumps(POLICY))
        self.config: dict[str, Any] = {
            "name": "relay",
            "stack": "lab",
            "bind_addr": "127.0.0.1",
            "port": 0,
            "metrics_port": 0,
            "alternate_port": 0,
            "cert_path": "cert.pem",
            "key_path": "key.pem",
            "ca_cert_path": "ca.pem",
            "policy_path": "policy.json",
            "log_format": "json",
        }
        self.write(pki.server.cert_pem, pki.server.key_pem)

    def write(self, cert: str, key: str) -> None:
        (self.path / "cert.pem").write_text(cert)
        (self.path / "key.pem").write_text(key)
        (self.path / "key.pem").chmod(0o600)
        (self.path / "ca.pem").write_text(self.pki.ca.cert_pem)
        self.write_policy()
        self.file.write_text(json.dumps(self.config))

    def write_policy(self) -> None:
        (self.path / "policy.json").write_text(json.dumps(self.policy))

    @property
    def file(self) -> Path:
        return self.path / "intermediate.json"


@pytest.fixture
def files(tmp_path: Path, pki: Pki) -> Files:
    return Files(tmp_path, pki)


class Bed:
    def __init__(self, files: Files) -> None:
        self.files = files
        self.logs: list[dict[str, Any]] = []
        log = structlog.wrap_logger(
            structlog.ReturnLogger(), processors=[self._log], wrapper_class=structlog.make_filtering_bound_logger(10)
        )
        config = load_intermediate(files.file)
        self.server = IntermediateServer(config, log, reread=lambda: load_intermediate(files.file))
        self.client = Node()

    def _log(self, _logger: object, _method: str, event: Any) -> str:
        self.logs.append(dict(event))
        return ""

    @property
    def address(self) -> tuple[str, int]:
        return self.server.udp.local_address

    async def join(self, role: str) -> Peer:
        """Connect and register; returns the connection after its ACK."""
        who = self.files.pki.agent if role == "agent" else self.files.pki.connector
        peer = self.client.connect(self.address, self.files.pki.client_settings(who))
        await self.client.seen.first(Connected, peer)
        peer.send_datagram((b"\x10" if role == "agent" else b"\x11") + b"\x0cecho-service")
        await self.client.until(lambda: b"\x12\x00\x0cecho-service" in self.datagrams(peer))
        return peer

    def datagrams(self, peer: Peer) -> list[bytes]:
        return [event.data for event in self.client.seen.of(DatagramReceived, peer)]

    async def http(self, path: str) -> bytes:
        assert self.server.http_address is not None
        reader, writer = await asyncio.open_connection(*self.server.http_address)
        writer.write(f"GET {path} HTTP/1.1\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer.partition(b"\r\n\r\n")[2]


@pytest.fixture
async def bed(files: Files) -> AsyncIterator[Bed]:
    made = Bed(files)
    await made.server.start()
    with nodes(made.client):
        yield made
    await made.server.stop()


async def test_observed_address_is_told_on_connection(bed: Bed) -> None:
    peer = await bed.join("agent")
    port = bed.client.address[1]
    assert bed.datagrams(peer)[0] == b"\x01\x7f\x00\x00\x01" + port.to_bytes(2, "big")


async def test_packets_pass_both_ways_between_agent_and_connector(bed: Bed) -> None:
    agent, connector = await bed.join("agent"), await bed.join("connector")
    there = build_udp(AGENT_IP, 5000, SERVICE_IP, 9999, b"ping")
    back = build_udp(SERVICE_IP, 9999, AGENT_IP, 5000, b"pong")
    agent.send_datagram(b"\x2f\x0cecho-service" + there)
    await bed.client.until(lambda: there in bed.datagrams(connector))
    connector.send_datagram(back)
    await bed.client.until(lambda: back in bed.datagrams(agent))
    status = json.loads(await bed.http("/status"))
    assert (status["role"], status["state"], status["connections"]) == ("intermediate", "ready", 2)
    assert status["services"] == {"echo-service": {"connector": "connector", "agents": 1}}
    metrics = (await bed.http("/metrics")).decode()
    assert "ztna_datagrams_relayed_total 2.0\n" in metrics
    assert "ztna_active_connections 2.0\n" in metrics
    assert "ztna_registrations_total 2.0\n" in metrics
    assert await bed.http("/readyz") == b"ok\n"


async def test_signalling_error_comes_on_the_clients_own_stream(bed: Bed) -> None:
    agent = await bed.join("agent")
    offer = bytes.fromhex("00000000" + "8877665544332211" + "0c00000000000000") + b"echo-service" + bytes(8)
    agent.send_stream(None, len(offer).to_bytes(4, "big") + offer)
    answer = await bed.client.seen.first(StreamReceived, agent)
    assert answer.stream_id == 0
    assert b"No Connector available for service 'echo-service'" in answer.data


async def test_stun_is_answered_on_the_same_socket(bed: Bed) -> None:
    raw = Raw()
    raw.udp.send(bytes.fromhex("000100002112a442") + bytes(12), bed.address)
    assert (await raw.answer())[:2] == b"\x01\x01"
    raw.close()


async def test_new_certificate_is_used_after_reload_and_sessions_stay(bed: Bed, pki: Pki) -> None:
    agent = await bed.join("agent")
    renewed = issue_server(pki.ca)
    bed.files.write(renewed.cert_pem, renewed.key_pem)
    assert bed.server.reload()
    assert not agent.closed
    fresh = bed.client.connect(bed.address, pki.client_settings(pki.connector))
    await bed.client.seen.first(Connected, fresh)
    assert agent.certificates == [pki.server.der]
    assert fresh.certificates == [renewed.der]


async def test_reload_that_fails_keeps_the_old_certificate_and_says_why(bed: Bed, pki: Pki) -> None:
    for cert, key, why in (
        (issue_server(issue("foreign", ca=True)).cert_pem, pki.server.key_pem, "does not belong to the certificate"),
        ("broken", pki.server.key_pem, "no readable PEM certificate"),
    ):
        bed.files.write(cert, key)
        assert not bed.server.reload()
        assert why in bed.logs[-1]["detail"]
    bed.files.file.write_text("{")
    assert not bed.server.reload()
    assert bed.server.reload_failures == 3
    peer = bed.client.connect(bed.address, pki.client_settings(pki.agent))
    await bed.client.seen.first(Connected, peer)
    assert peer.certificates == [pki.server.der]


async def test_revocation_in_the_policy_file_cuts_the_session_without_a_signal(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ztna.io.intermediate.POLICY_CHECK_S", 0.02)
    bed.server._policy_task = asyncio.get_running_loop().create_task(bed.server._watch_policy())
    agent, connector = await bed.join("agent"), await bed.join("connector")
    bed.files.policy["revoked"] = ["spiffe://lab/agent/agent"]
    bed.files.write_policy()
    closed = await bed.client.seen.first(Closed, agent)
    assert (closed.code, closed.reason) == (0x01, "client cert revoked")
    assert not connector.closed
    again = bed.client.connect(bed.address, bed.files.pki.client_settings(bed.files.pki.agent))
    assert (await bed.client.seen.first(Closed, again)).reason == "client cert revoked"


async def test_broken_policy_file_is_reported_and_the_old_one_stays(bed: Bed) -> None:
    bed.files.policy["agents"]["agent"]["services"] = ["no-such-service"]
    bed.files.write_policy()
    assert not bed.server.reload()
    assert "'no-such-service' is not a service" in bed.logs[-1]["detail"]
    await bed.join("agent")


async def test_certificate_of_another_stack_is_refused(bed: Bed, pki: Pki) -> None:
    other = issue_member(pki.ca, "agent", "agent", "echo-service", stack="other")
    peer = bed.client.connect(bed.address, pki.client_settings(other))
    assert (await bed.client.seen.first(Closed, peer)).code == 0x01
    assert any("belongs to another stack" in str(line.get("detail")) for line in bed.logs)


async def test_address_change_brings_a_new_observed_address(bed: Bed) -> None:
    agent = await bed.join("agent")
    theirs = next(iter(bed.server._peers.values()))
    bed.server._on_event(theirs, AddressChanged(("192.0.2.77", 4000)))
    bed.server._drain_commands()
    await bed.client.until(lambda: b"\x01\xc0\x00\x02\x4d\x0f\xa0" in bed.datagrams(agent))


async def test_start_fails_with_a_reason_and_frees_the_port(files: Files) -> None:
    files.config["stack"] = "lab"
    files.config["limits"] = {"half_opn": 3}
    files.write(files.pki.server.cert_pem, files.pki.server.key_pem)
    made = Bed(files)
    with nodes(made.client), pytest.raises(ConfigError, match="did you mean 'half_open'"):
        await made.server.start()


async def test_process_reloads_on_sighup_and_drains_on_sigterm_within_three_seconds(files: Files, pki: Pki) -> None:
    port, http = free_udp_port(), free_udp_port()
    files.config |= {"port": port, "metrics_port": http, "alternate_port": None}
    files.write(pki.server.cert_pem, pki.server.key_pem)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ztna", "intermediate", "--config", str(files.file), stderr=asyncio.subprocess.PIPE
    )
    client = Node()
    try:
        assert process.stderr is not None
        assert json.loads(await asyncio.wait_for(process.stderr.readline(), 20))["event"] == "started"
        body = await asyncio.to_thread(
            lambda: urllib.request.urlopen(f"http://127.0.0.1:{http}/status", timeout=5).read()
        )
        assert json.loads(body)["pid"] == process.pid
        peer = client.connect(("127.0.0.1", port), pki.client_settings(pki.agent))
        await client.seen.first(Connected, peer)
        process.send_signal(signal.SIGHUP)
        assert json.loads(await asyncio.wait_for(process.stderr.readline(), 10))["event"] == "reloaded"
        process.send_signal(signal.SIGTERM)
        closed = await client.seen.first(Closed, peer)
        assert (closed.code, closed.reason, closed.by_peer) == (0, "server shutting down", True)
        assert await asyncio.wait_for(process.wait(), 3) == 0
    finally:
        client.close()
        if process.returncode is None:
            os.kill(process.pid, signal.SIGKILL)
            await process.wait()


def free_udp_port() -> int:
    """A port nobody holds at this moment."""
    raw = Raw()
    port = raw.udp.local_address[1]
    raw.close()
    return port
