"""A lab with real roles in it: one intermediate on two addresses, connectors and agents as processes in its hosts.

Unlike `bed`, whose hosts share one segment, the topology is the caller's, and there may be many of each role. Every
connector serves one service of its own (an echo on UDP and TCP beside it), and every agent may reach all of them, by
port forwards on its host's loopback.
"""

import datetime as dt
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from infra import pki, ports, wiring
from infra.lab.process import ProcessInfo, is_alive
from infra.lab.runtime import Lab
from infra.lab.topology import Topology
from infra.outputs import AgentOutput, ConnectorOutput, RelayEndpoint, ServiceOutput, ServicePort
from infra.verify.sessions import RelayState, SessionRecord, read_relay, read_sessions
from tests.support.inside import Inside

STACK = "lab"
RELAY = "relay"
READY_S = 30.0
FIRST_FORWARD = 20_000
TCP = 1_000
"""Added to the port of a UDP forward it gives the TCP forward of the same service."""

ROOT = Path(__file__).resolve().parents[2]
Config = Mapping[str, Any]


class BedError(Exception):
    """The bed could not be brought up; carries the end of a role's log."""


@dataclass(frozen=True, slots=True)
class SessionBedSpec:
    """What a bed is made of.

    Args:
        topology: with a host `relay`.
        agents, connectors: names of hosts, which are also the names of the roles that run there.
        relay: the relay's address; `alternate` its second one.
        relay_config, agent_config, connector_config: keys put over what the wiring makes.
        services: connectors by the service they serve; a service of each connector's own when left out.
        backends: hosts where echoes run; those of the connectors when left out.
    """

    topology: Topology
    agents: tuple[str, ...]
    connectors: tuple[str, ...]
    relay: str = "172.20.0.2"
    alternate: str = "172.20.0.3"
    relay_config: Config = field(default_factory=dict)
    agent_config: Config = field(default_factory=dict)
    connector_config: Config = field(default_factory=dict)
    services: Mapping[str, tuple[str, ...]] | None = None

    @property
    def served(self) -> Mapping[str, tuple[str, ...]]:
        """Connectors by service."""
        return self.services if self.services is not None else {service_of(name): (name,) for name in self.connectors}


def service_of(connector: str) -> str:
    """The service that a connector alone serves."""
    return f"echo-{connector}"


class SessionBed:
    """The bed as a context manager: everything it made is gone after it. Agents are started by the caller."""

    def __init__(self, name: str, directory: Path, spec: SessionBedSpec) -> None:
        self.spec, self.directory = spec, directory
        self.lab = Lab(name)
        self.ca = pki.make_ca(STACK, now=dt.datetime.now(dt.UTC))
        self.processes: dict[str, ProcessInfo] = {}
        self.insides: dict[str, Inside] = {}
        self._stack = ExitStack()
        self.services = list(spec.served)

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._stack.enter_context(self.lab)
        try:
            self.lab.realise(self.spec.topology)
            for host in (RELAY, *self.spec.connectors, *self.spec.agents):
                self.insides[host] = self._stack.enter_context(Inside(self.lab.exec_prefix(host)))
            self._write_files()
            for host in self.spec.connectors:
                self._spawn(host, "echo", "infra.echo", "--bind", "127.0.0.1", "--port", str(ports.ECHO))
            self.start(RELAY)
            self.wait_ready(RELAY)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    # -- files --------------------------------------------------------------------------------------------------

    def role_of(self, host: str) -> str:
        """intermediate, connector or agent."""
        return "intermediate" if host == RELAY else "agent" if host in self.spec.agents else "connector"

    def relay_endpoint(self) -> RelayEndpoint:
        """The intermediate, as profiles name it."""
        return RelayEndpoint(
            name=RELAY, host=self.spec.relay, port=ports.QUIC, server_name="ztna-server",
            alternate_host=self.spec.alternate, alternate_port=ports.STUN_ALTERNATE,
        )  # fmt: skip

    def service_outputs(self) -> list[ServiceOutput]:
        """Every service, with the first of its connectors."""
        both = (ServicePort(protocol="udp", port=ports.ECHO), ServicePort(protocol="tcp", port=ports.ECHO))
        return [
            ServiceOutput(
                id=service, virtual_ip=f"100.64.0.{100 + number}", ports=both, connector=connectors[0],
                backend=f"127.0.0.1:{ports.ECHO}",
            )
            for number, (service, connectors) in enumerate(self.spec.served.items())
        ]  # fmt: skip

    def port(self, service: str, protocol: str = "udp") -> int:
        """The port on an agent's loopback that stands for a service."""
        return FIRST_FORWARD + self.services.index(service) + (TCP if protocol == "tcp" else 0)

    def agent_output(self, name: str) -> AgentOutput:
        """An agent that may reach everything."""
        forwards = {
            wiring.forward_key(service, protocol, ports.ECHO): f"127.0.0.1:{self.port(service, protocol)}"
            for service in self.services
            for protocol in ("udp", "tcp")
        }
        number = self.spec.agents.index(name) + 1
        return AgentOutput(
            name=name, virtual_ip=f"100.64.1.{number}", services=tuple(self.services), mode="user", forwards=forwards
        )

    def connector_output(self, name: str) -> ConnectorOutput:
        """A connector and what it serves."""
        served = tuple(service for service, names in self.spec.served.items() if name in names)
        return ConnectorOutput(name=name, services=served)

    def _write_files(self) -> None:
        services, relay = self.service_outputs(), self.relay_endpoint()
        agents = [self.agent_output(name) for name in self.spec.agents]
        connectors = [self.connector_output(name) for name in self.spec.connectors]
        (self.directory / "ca.pem").write_text(self.ca.cert_pem)
        policy = wiring.policy(services, agents, connectors)
        (self.directory / "policy.json").write_text(json.dumps(policy))
        addresses = [relay.host, relay.alternate_host or relay.host]
        names = pki.server_names(STACK, RELAY, relay.server_name, addresses)
        config = wiring.intermediate_config(STACK, relay, log_level="info", metrics_addr="127.0.0.1")
        # The address in the profile is the one that clients dial; where it listens may be wider.
        self.write(
            RELAY, names, {**config, "admin_socket": str(self.directory / "admin.sock"), **self.spec.relay_config}
        )
        for connector in connectors:
            own = [service for service in services if service.id in connector.services]
            config = wiring.connector_config(
                STACK, connector.name, relay, own, bind_addr="0.0.0.0", log_level="info", metrics_addr="127.0.0.1"
            )
            names = pki.client_names(STACK, "connector", connector.name, connector.services)
            self.write(connector.name, names, {**config, **self.spec.connector_config})
        for agent in agents:
            config = wiring.agent_config(STACK, agent, relay, services, log_level="info", metrics_addr="127.0.0.1")
            for service in config["services"]:
                service["connectors"] = list(self.spec.served[service["id"]])
            names = pki.client_names(STACK, "agent", agent.name, agent.services)
            tls = {"ca_cert": "{dir}/ca.pem", "cert_path": "{dir}/cert.pem", "key_path": "{dir}/key.pem"}
            self.write(agent.name, names, {**config, **tls, **self.spec.agent_config})

    def write(self, name: str, names: pki.LeafNames, config: Config) -> None:
        """Write a role's certificate and configuration; `{dir}` in it is where they are."""
        pair = pki.make_leaf(self.ca, names, now=dt.datetime.now(dt.UTC), days=2)
        folder = self.directory / name
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / "cert.pem").write_text(pair.cert_pem)
        key = folder / "key.pem"
        key.touch(mode=0o600)
        key.write_text(pair.key_pem)
        for shared in ("ca.pem", "policy.json"):
            (folder / shared).write_text((self.directory / shared).read_text())
        self.config_path(name).write_text(json.dumps(config, indent=1).replace(wiring.STATE_DIR, str(folder)))

    def config_path(self, host: str) -> Path:
        """A role's configuration file."""
        return self.directory / host / f"{self.role_of(host)}.json"

    def change_config(self, host: str, **keys: Any) -> None:
        """Put keys over a role's configuration; it counts from its next start."""
        path = self.config_path(host)
        path.write_text(json.dumps(json.loads(path.read_text()) | keys, indent=1))

    # -- processes ----------------------------------------------------------------------------------------------

    def start(self, host: str) -> None:
        """Start a role."""
        role = self.role_of(host)
        self._spawn(host, role, "ztna", role, "--config", str(self.config_path(host)))

    def stop(self, host: str) -> None:
        """Stop a role in good order."""
        self.lab.stop(host, self.role_of(host))

    def signal(self, host: str, number: int) -> None:
        """Send a signal to a role."""
        self.lab.signal(host, self.role_of(host), number)

    def start_all(self, hosts: Iterable[str], *, wait_s: float = READY_S, ready: Iterable[str] | None = None) -> None:
        """Start roles and wait until those that can be ready are."""
        names = list(hosts)
        for host in names:
            self.start(host)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda host: self.wait_ready(host, wait_s), names if ready is None else ready))

    def _spawn(self, host: str, name: str, module: str, *arguments: str) -> None:
        argv = [sys.executable, "-m", module, *arguments]
        log = self.directory / f"{host}-{name}.log"
        self.processes[f"{host}/{name}"] = self.lab.spawn(host, name, argv, cwd=str(ROOT), log_path=log)

    def alive(self, host: str) -> bool:
        """Whether a role's process runs."""
        info = self.processes[f"{host}/{self.role_of(host)}"]
        return is_alive(info.pid, info.start_time)

    def pid(self, host: str) -> int:
        """A role's process."""
        return self.processes[f"{host}/{self.role_of(host)}"].pid

    def log_tail(self, host: str, lines: int = 15) -> str:
        """The end of a role's log."""
        path = self.directory / f"{host}-{self.role_of(host)}.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else "(no log)"

    def wait_ready(self, host: str, timeout_s: float = READY_S) -> None:
        """Wait until a role says that it is ready. Raises BedError with the end of its log."""

        def settled() -> bool:
            return self.status(host).get("state") == "ready" or not self.alive(host)

        if not until(settled, timeout_s) or not self.alive(host):
            raise BedError(f"{host} is not ready after {timeout_s:g} s; its log ends:\n{self.log_tail(host)}")

    # -- asking it ----------------------------------------------------------------------------------------------

    def url(self, host: str, page: str = "status") -> str:
        """The address of a role's page, inside its host."""
        return f"http://127.0.0.1:{ports.METRICS[self.role_of(host)]}/{page}"

    def status(self, host: str) -> dict[str, Any]:
        """A role's /status page; empty where it does not answer."""
        return self.insides[host].page(self.url(host)) or {}

    def sessions(self, host: str) -> dict[str, SessionRecord]:
        """The sessions of an agent or a connector, by the peer's name."""
        return {session.peer_name: session for session in read_sessions(self.status(host))}

    def session(self, host: str, peer: str) -> SessionRecord | None:
        """The session with a peer, as one end records it."""
        return self.sessions(host).get(peer)

    def relay_state(self) -> RelayState:
        """What the relay carries."""
        found = read_relay(self.status(RELAY))
        return found if found is not None else RelayState(False, "", ())

    def admin(self, *words: str) -> str:
        """Run `python -m ztna relay WORDS` beside the intermediate."""
        argv = [sys.executable, "-m", "ztna", "relay", *words, "--config", str(self.config_path(RELAY))]
        return self.lab.run(RELAY, ["env", "-C", str(ROOT), *argv]).stdout

    def echoes(
        self, agent: str, services: Sequence[str], *, count: int = 20, size: int = 200, wait_s: float = 1.0,
        window: int = 4,
    ) -> dict[str, Any]:  # fmt: skip
        """Echo through several services at once; per service what came back."""
        found: dict[str, Any] = self.insides[agent].ask(
            "echoes", timeout_s=count * wait_s / window + 60,
            ports={service: self.port(service) for service in services}, count=count, size=size, wait_s=wait_s,
            window=window,
        )  # fmt: skip
        return found


def until(condition: Callable[[], object], timeout_s: float, interval_s: float = 0.1) -> bool:
    """Wait for a condition; False if it does not come about in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval_s)
    return True


def run_name(what: str) -> str:
    """A name of a lab run that belongs to this process."""
    return f"{what}-{os.getpid()}"
