"""Intermediate, connector and agent in one process over loopback, with echo backends: every port is ephemeral."""

import asyncio
import contextlib
import io
import json
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import structlog

from tests.support.certs import Issued, issue, issue_member, issue_server
from ztna.config import AgentConfig, ConnectorConfig, ForwardConfig, IntermediateConfig
from ztna.io import logs
from ztna.io.agent import Agent
from ztna.io.connector import Connector
from ztna.io.intermediate import IntermediateServer
from ztna.io.tun import TunDevice
from ztna.io.tun_side import TunSide
from ztna.io.udp import Address
from ztna.io.user_mode import UserMode

HOST = "127.0.0.1"
ECHO_IP, HTTP_IP, AGENT_IP = "100.64.0.100", "100.64.0.101", "100.64.1.1"
ECHO, HTTP = "echo-service", "http-app"
ECHO_PORT, HTTP_PORT = 9999, 80
READY_S = 30.0

FORWARDS = tuple(
    ForwardConfig(protocol=protocol, listen=(HOST, 0), service=service, port=port)
    for protocol, service, port in (
        ("udp", ECHO, ECHO_PORT),
        ("tcp", ECHO, ECHO_PORT),
        ("tcp", HTTP, 81),
        ("udp", HTTP, 80),
    )
)

CA = issue("stack CA", ca=True)
RELAY_LEAF = issue_server(CA)


def quiet_log() -> structlog.typing.FilteringBoundLogger:
    return logs.setup(level="debug", format="text", stream=io.StringIO())


async def eventually(condition: Callable[[], object], timeout_s: float = READY_S) -> float:
    """Wait until `condition` holds, looking every 10 ms; returns how long it took."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    while not condition():
        if loop.time() - started > timeout_s:
            raise AssertionError(f"not so after {timeout_s} s")
        await asyncio.sleep(0.01)
    return loop.time() - started


class LoopUdp:
    """A non-blocking UDP socket on the running loop that hands over what it receives.

    Made of a plain socket: asyncio's datagram transports swallow empty datagrams, and close only later.
    """

    def __init__(self, on_datagram: Callable[[bytes, Address], None], *, bind: Address | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_datagram = on_datagram
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.sock.bind(bind or (HOST, 0))
        self._loop.add_reader(self.sock.fileno(), self._readable)

    def _readable(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._on_datagram(*self.sock.recvfrom(65535))

    def close(self) -> None:
        if self.sock.fileno() >= 0:
            self._loop.remove_reader(self.sock.fileno())
            self.sock.close()


async def echo_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Echo until the client ends its direction, then end ours."""
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


class Backends:
    """An echo on one UDP and one TCP port."""

    def __init__(self) -> None:
        self.udp_sources: list[Address] = []
        self.udp_port = self.tcp_port = 0
        self._udp: LoopUdp | None = None
        self._tcp: asyncio.Server | None = None

    async def start(self) -> None:
        self.open_udp()
        self._tcp = await asyncio.start_server(echo_stream, HOST, 0)
        self.tcp_port = self._tcp.sockets[0].getsockname()[1]

    def open_udp(self) -> None:
        """Listen, on the same port as before if there was one."""
        self._udp = LoopUdp(self._echo, bind=(HOST, self.udp_port))
        self.udp_port = self._udp.sock.getsockname()[1]

    def _echo(self, data: bytes, source: Address) -> None:
        assert self._udp is not None
        self.udp_sources.append(source)
        self._udp.sock.sendto(data, source)

    def close_udp(self) -> None:
        if self._udp is not None:
            self._udp.close()

    def close_tcp(self) -> None:
        if self._tcp is not None:
            self._tcp.close()

    async def close(self) -> None:
        self.close_udp()
        self.close_tcp()
        await asyncio.sleep(0)


class Overlay:
    """The three roles. Keys given replace those of the role's config; with a device the agent is in TUN mode.

    `protocol` of the class is the one that agents and connectors are restricted to.

    Attributes:
        relay, connector, agent, backends: what runs; `forward` gives the local end of a forward of the agent.
    """

    protocol = "auto"

    def __init__(
        self,
        directory: Path,
        *,
        intermediate: Mapping[str, Any] | None = None,
        connector: Mapping[str, Any] | None = None,
        agent: Mapping[str, Any] | None = None,
        policy: Mapping[str, Any] | None = None,
        device: TunDevice | None = None,
    ) -> None:
        self._device = device
        self.forwards = FORWARDS
        self.directory = directory
        self.backends = Backends()
        self._intermediate = dict(intermediate or {})
        self._connector = dict(connector or {})
        self._agent = dict(agent or {})
        self._policy = policy or default_policy()
        self.relay: IntermediateServer
        self.connector: Connector
        self.agent: Agent
        self.relay_port = 0

    async def __aenter__(self) -> Self:
        await self.backends.start()
        await self.start_relay()
        await self.start_connector()
        await self.start_agent()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for role in ("agent", "connector"):
            if hasattr(self, role):
                await getattr(self, role).close()
        await self.crash_relay()
        await self.backends.close()

    # roles

    async def start_relay(self) -> None:
        """Start the intermediate, on the port it had before if it ran already."""
        path = self.directory / "policy.json"
        path.write_text(json.dumps(self._policy))
        value = {
            **identity(RELAY_LEAF), "ca_cert_pem": CA.cert_pem, "stack": "lab", "bind_addr": HOST,
            "port": self.relay_port, "alternate_port": 0, "metrics_port": 0, "policy_path": str(path),
            "relay": "userspace", "admin_socket": str(self.directory / "admin.sock"),
            **self._intermediate,
        }  # fmt: skip
        self.relay = IntermediateServer(IntermediateConfig.from_json(value), quiet_log())
        await self.relay.start()
        self.relay_port = self.relay.udp.local_address[1]

    async def crash_relay(self) -> None:
        """End the intermediate as kill -9 does: no close frame, and nobody on the port."""
        self.relay.endpoint.close()
        await self.relay.stop()

    def connector_value(self) -> dict[str, Any]:
        udp, tcp = (f"{HOST}:{port or 9}" for port in (self.backends.udp_port, self.backends.tcp_port))
        rules = [("udp", ECHO_PORT, udp), ("tcp", ECHO_PORT, tcp)]
        services = [
            {
                "id": ECHO,
                "virtual_ip": ECHO_IP,
                "ports": [{"protocol": name, "port": port, "backend": to} for name, port, to in rules],
            },
            {"id": HTTP, "virtual_ip": HTTP_IP, "ports": [{"protocol": "tcp", "port": HTTP_PORT, "backend": tcp}]},
        ]
        member = issue_member(CA, "connector", "connector", ECHO, HTTP)
        return {
            **identity(member), "name": "connector", "ca_cert_pem": CA.cert_pem, "bind_addr": HOST,
            "intermediate_server": self.server(), "services": services, "p2p": {"port": 0}, "metrics_port": 0,
            "protocol": self.protocol, **self._connector,
        }  # fmt: skip

    def refused_ports(self) -> int:
        """Packets, streams and flows to ports that the connector does not admit."""
        refused = self.connector.gateway.stats.dropped_port_refused
        sessions = self.connector.sessions
        if sessions is not None:
            for state in sessions.served:
                assert state.streams is not None
                assert state.flows is not None
                refused += state.streams.counters.refused_denied + state.flows.counters.refused
        return refused

    async def start_connector(self, *, ready: bool = True) -> None:
        config = ConnectorConfig.from_json(self.connector_value())
        loop = asyncio.get_running_loop()
        self.connector = Connector(config, loop=loop, log=quiet_log())
        await self.connector.start()
        if ready:
            await eventually(lambda: self.connector.not_ready() is None)

    def agent_value(self) -> dict[str, Any]:
        services = [{"id": ECHO, "virtual_ip": ECHO_IP}, {"id": HTTP, "virtual_ip": HTTP_IP}]
        member = issue_member(CA, "agent", "agent", ECHO, HTTP)
        return {
            **identity(member), "name": "agent", "ca_cert_pem": CA.cert_pem, "virtual_ip": AGENT_IP, "mode": "user",
            "intermediate_server": self.server(), "services": services, "metrics_port": 0, "protocol": self.protocol,
            **self._agent,
        }  # fmt: skip

    async def start_agent(self, *, ready: bool = True) -> None:
        # A config file asks for a definite port; tests take whatever is free.
        config = replace(AgentConfig.from_json(self.agent_value()), forwards=self.forwards)
        self.agent = Agent(config, loop=asyncio.get_running_loop(), log=quiet_log(), local=self._local)
        if self.agent.sessions is not None:
            self.agent.sessions.bind_addr = HOST  # candidates of other interfaces are no business of these tests
        await self.agent.start()
        if ready:
            await eventually(lambda: self.agent.not_ready() is None)

    def _local(self, agent: Agent) -> UserMode | TunSide:
        if self._device is not None:
            return TunSide(agent, self._device)
        self.user = UserMode(agent, agent.config.forwards)
        return self.user

    def server(self) -> dict[str, Any]:
        return {"host": HOST, "port": self.relay_port or 4433, "server_name": "ztna-server"}

    # use

    def forward(self, protocol: str, service: str = ECHO) -> Address:
        """Where the agent listens for the first forward of this kind."""
        found: list[tuple[ForwardConfig, Address]] = list(
            zip(self.agent.config.forwards, self.user.addresses, strict=True)
        )
        return next(at for config, at in found if (config.protocol, config.service) == (protocol, service))


def identity(leaf: Issued) -> dict[str, str]:
    """The inline certificate keys of a config."""
    return {"cert_pem": leaf.cert_pem, "key_pem": leaf.key_pem}


def default_policy() -> dict[str, Any]:
    """One agent and one connector, both granted both services."""
    both = [ECHO, HTTP]
    return {
        "services": {ECHO: {"virtual_ip": ECHO_IP}, HTTP: {"virtual_ip": HTTP_IP}},
        "agents": {"agent": {"virtual_ip": AGENT_IP, "services": both}},
        "connectors": {"connector": {"services": both}},
        "revoked": [],
    }


class UdpClient:
    """A local client of a UDP forward."""

    def __init__(self, to: Address) -> None:
        self.received: asyncio.Queue[bytes] = asyncio.Queue()
        self.udp = LoopUdp(lambda data, _: self.received.put_nowait(data))
        self.udp.sock.connect(to)

    def send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            self.udp.sock.send(data)

    async def echo(self, data: bytes, timeout_s: float = 5.0) -> bytes:
        """Send and wait for one answer."""
        self.send(data)
        return await asyncio.wait_for(self.received.get(), timeout_s)

    async def works(self, timeout_s: float = 0.1) -> bool:
        """Whether an echo comes back in time; answers to earlier tries count too."""
        try:
            await self.echo(b"are you there", timeout_s)
        except TimeoutError:
            return False
        return True


@contextlib.contextmanager
def udp_client(to: Address) -> Iterator[UdpClient]:
    """A UDP socket connected to a forward."""
    client = UdpClient(to)
    try:
        yield client
    finally:
        client.udp.close()
