"""A test bed: intermediate, connector, backend and agent as real processes on one segment of a lab, without NATs.

On the root and rootless rungs each host is a network namespace and the agent has a TUN device; on the loopback rung
hosts are addresses of 127.0.0.0/8 and the agent forwards ports. What is measured through the overlay can so be set
beside plain UDP between the very same hosts.
"""

import datetime as dt
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from infra import pki, ports, wiring
from infra.lab.process import ProcessInfo, is_alive
from infra.lab.rungs import Rung
from infra.lab.runtime import Lab
from infra.lab.topology import Host, Impairment, Link, Segment, Topology
from infra.outputs import AgentOutput, ConnectorOutput, RelayEndpoint, ServiceOutput, ServicePort
from infra.verify.context import Background, Finished, Json, parse_probe

STACK = "bed"
RELAY, CONNECTOR, AGENT, BACKEND = "relay", "connector", "agent", "backend"
ADDRESSES = {RELAY: "172.20.0.2", CONNECTOR: "172.20.0.12", AGENT: "172.20.0.11", BACKEND: "172.20.0.20"}
RELAY_ALTERNATE = "172.20.0.3"
ROLE_OF = {RELAY: "intermediate", CONNECTOR: "connector", AGENT: "agent"}
SINK_PORT = 9998
READY_TIMEOUT_S = 20.0

ROOT = Path(__file__).resolve().parents[2]
"""Working directory of programs of `tests`, which are found from there."""

CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class BedError(Exception):
    """The bed could not be brought up; carries the tail of the log of the role that failed."""


@dataclass(frozen=True, slots=True)
class Service:
    """A service of the bed: its ports and the backend port each of them goes to."""

    id: str
    virtual_ip: str
    ports: Mapping[tuple[str, int], int]


ECHO = Service("echo-service", "100.64.0.100", {("udp", ports.ECHO): ports.ECHO, ("tcp", ports.ECHO): ports.ECHO})
HTTP = Service("http-app", "100.64.0.101", {("tcp", ports.HTTP): ports.HTTPBIN})
SINK = Service("sink", "100.64.0.102", {("udp", SINK_PORT): SINK_PORT})


@dataclass(slots=True)
class Bed:
    """The bed as a context manager; everything it made is gone after it.

    Args:
        name: of the lab run.
        directory: for configuration files and logs.
        services: what the connector serves.
        agents: names of the agents with a certificate each; the first runs in the agent's host unless `run_agent`
            is false (a test then brings clients of its own).
        agent_loss: share of packets lost in each direction of the agent's link.
        limits: the `limits` of intermediate.json.
        protocol: what agent and connector are restricted to; `v1` carries everything in DATAGRAM frames through the
            intermediate's process.
    """

    name: str
    directory: Path
    services: Sequence[Service] = (ECHO, HTTP, SINK)
    agents: Sequence[str] = (AGENT,)
    run_agent: bool = True
    agent_loss: float = 0.0
    limits: Mapping[str, float] = field(default_factory=dict)
    rung: Rung | None = None
    protocol: str = "auto"
    lab: Lab = field(init=False)
    ca: pki.KeyPair = field(init=False)
    processes: dict[str, ProcessInfo] = field(init=False, default_factory=dict)

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.lab = Lab(self.name, rung=self.rung)
        self.ca = pki.make_ca(STACK, now=_now())
        self.lab.__enter__()
        try:
            self.lab.realise(self._topology())
            self._write_files()
            self._spawn(BACKEND, "echo", "infra.echo", "--bind", self.address(BACKEND), "--port", str(ports.ECHO))
            for role in (RELAY, CONNECTOR, *((AGENT,) if self.run_agent else ())):
                self.start(role)
                self.wait_ready(role)
        except BaseException:
            self.lab.destroy()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.lab.__exit__(kind, error, trace)

    # -- what it is made of -------------------------------------------------------------------------------------

    @property
    def has_namespaces(self) -> bool:
        return self.lab.rung is not Rung.LOOPBACK

    @property
    def agent_mode(self) -> str:
        return "tun" if self.lab.detection.tun else "user"

    def address(self, host: str) -> str:
        """The IPv4 address of a host on this rung."""
        return self.lab.address(ADDRESSES[host])

    def metrics_addr(self, host: str) -> str:
        """Loopback of the host's namespace; without namespaces its own address, since 127.0.0.1 belongs to all."""
        return "127.0.0.1" if self.has_namespaces else self.address(host)

    def url(self, role: str, page: str) -> str:
        """The address of a role's HTTP page."""
        return f"http://{self.metrics_addr(role)}:{ports.METRICS[ROLE_OF[role]]}/{page}"

    def _topology(self) -> Topology:
        lossy = Impairment(loss=self.agent_loss)

        def host(name: str) -> Host:
            impairment = lossy if name == AGENT else Impairment()
            extra = (f"{RELAY_ALTERNATE}/24",) if name == RELAY else ()
            link = Link("public", f"{ADDRESSES[name]}/24", up=impairment, down=impairment)
            return Host(name, (link,), addresses=extra)

        return Topology(segments=(Segment("public", "172.20.0.0/24"),), hosts=tuple(map(host, ADDRESSES)))

    def relay_endpoint(self) -> RelayEndpoint:
        return RelayEndpoint(
            name=RELAY, host=self.address(RELAY), port=ports.QUIC, server_name="ztna-server",
            alternate_host=self.lab.address(RELAY_ALTERNATE), alternate_port=ports.STUN_ALTERNATE,
        )  # fmt: skip

    def service_outputs(self) -> list[ServiceOutput]:
        backend = self.address(BACKEND)
        return [
            ServiceOutput(
                id=service.id, virtual_ip=service.virtual_ip, connector=CONNECTOR,
                ports=tuple(ServicePort(protocol=protocol, port=port) for protocol, port in service.ports),  # type: ignore[arg-type]
                backend=f"{backend}:{next(iter(service.ports.values()))}",
                port_backends={f"{name}/{port}": f"{backend}:{to}" for (name, port), to in service.ports.items()},
            )
            for service in self.services
        ]  # fmt: skip

    def agent_output(self, name: str) -> AgentOutput:
        services = self.service_outputs()
        number = list(self.agents).index(name) + 1
        forwards = wiring.user_forwards(services, self.address(AGENT)) if self.agent_mode == "user" else {}
        return AgentOutput(
            name=name, virtual_ip=f"100.64.1.{number}", services=tuple(service.id for service in services),
            mode="tun" if self.agent_mode == "tun" else "user", forwards=forwards,
        )  # fmt: skip

    def _write_files(self) -> None:
        services, relay = self.service_outputs(), self.relay_endpoint()
        granted = [service.id for service in services]
        connector = ConnectorOutput(name=CONNECTOR, services=tuple(granted))
        agents = [self.agent_output(name) for name in self.agents]
        addresses = [relay.host, relay.alternate_host or relay.host]
        self._leaf(RELAY, pki.server_names(STACK, RELAY, relay.server_name, addresses))
        self._leaf(CONNECTOR, pki.client_names(STACK, "connector", CONNECTOR, granted))
        for name in self.agents:
            self._leaf(name, pki.client_names(STACK, "agent", name, granted))
        self.path("ca.pem").write_text(self.ca.cert_pem)
        self._write("policy.json", wiring.policy(services, agents, [connector]))
        config = wiring.intermediate_config(STACK, relay, log_level="info", metrics_addr=self.metrics_addr(RELAY))
        self._write("intermediate.json", config | {"limits": dict(self.limits)}, RELAY)
        bind = self.address(CONNECTOR)
        self._write(
            "connector.json",
            wiring.connector_config(
                STACK,
                CONNECTOR,
                relay,
                services,
                bind_addr=bind,
                log_level="info",
                metrics_addr=self.metrics_addr(CONNECTOR),
            )
            | {"protocol": self.protocol},
            CONNECTOR,
        )
        self.path("agent.json").write_text(json.dumps(self.agent_profile(self.agents[0])))

    def agent_profile(self, name: str) -> Json:
        """The self-contained agent.json of one agent."""
        config = wiring.agent_config(
            STACK, self.agent_output(name), self.relay_endpoint(), self.service_outputs(), log_level="info",
            metrics_addr=self.metrics_addr(AGENT),
        ) | {"protocol": self.protocol}  # fmt: skip
        certificate, key = self.path(f"{name}.cert.pem"), self.path(f"{name}.key.pem")
        return wiring.with_identity(
            config, ca_pem=self.ca.cert_pem, cert_pem=certificate.read_text(), key_pem=key.read_text()
        )

    def path(self, name: str) -> Path:
        return self.directory / name

    def _leaf(self, name: str, names: pki.LeafNames) -> None:
        pair = pki.make_leaf(self.ca, names, now=_now(), days=2)
        self.path(f"{name}.cert.pem").write_text(pair.cert_pem)
        key = self.path(f"{name}.key.pem")
        key.touch(mode=0o600)
        key.write_text(pair.key_pem)

    def _write(self, name: str, config: Mapping[str, Any], owner: str | None = None) -> None:
        """Write a role's file, with the directory and the owner's own certificate in place of the templates."""
        text = json.dumps(config, indent=1).replace(wiring.STATE_DIR, str(self.directory))
        if owner:
            for kind in ("cert", "key"):
                text = text.replace(f"{self.directory}/{kind}.pem", f"{self.directory}/{owner}.{kind}.pem")
        self.path(name).write_text(text)

    # -- processes ----------------------------------------------------------------------------------------------

    def start(self, role: str) -> ProcessInfo:
        """Start a role (relay, connector or agent); `wait_ready` waits until it is of use."""
        name = ROLE_OF[role]
        return self._spawn(role, name, "ztna", name, "--config", str(self.path(f"{name}.json")))

    def _spawn(self, host: str, name: str, module: str, *arguments: str) -> ProcessInfo:
        argv = [sys.executable, "-m", module, *arguments]
        log = self.path(f"{host}-{name}.log")
        self.processes[host if host in ROLE_OF else name] = info = self.lab.spawn(host, name, argv, log_path=log)
        return info

    def spawn_http(self) -> None:
        """Start httpbin on the backend and wait until it listens."""
        arguments = ("--listen", f"{self.address(BACKEND)}:{ports.HTTPBIN}", "httpbin:app")
        self._spawn(BACKEND, "httpbin", "waitress", *arguments)
        target = f"{self.address(BACKEND)}:{ports.HTTPBIN}"
        self._wait(
            lambda: self.probe(BACKEND, "http", "--target", target, "--path", "/get")["status"] == 200, "httpbin"
        )

    def kill(self, role: str, number: int = 9) -> None:
        os.kill(self.processes[role].pid, number)

    def alive(self, role: str) -> bool:
        info = self.processes[role]
        return is_alive(info.pid, info.start_time)

    def wait_ready(self, role: str, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until /readyz answers 200. Raises BedError with the tail of the role's log."""
        url = self.url(role, "readyz")
        self._wait(lambda: self.page(role, url)["status"] == 200, role, timeout_s)

    def _wait(self, condition: Any, role: str, timeout_s: float = READY_TIMEOUT_S) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if condition():
                return
            if role in self.processes and not self.alive(role):
                break
            time.sleep(0.1)
        raise BedError(f"{role} is not ready after {timeout_s:g} s; its log ends:\n{self.log_tail(role)}")

    def log_tail(self, role: str, lines: int = 15) -> str:
        logs = sorted(self.directory.glob(f"{role}-*.log")) + sorted(self.directory.glob(f"*-{role}.log"))
        return "\n".join(logs[0].read_text(errors="replace").splitlines()[-lines:]) if logs else "(no log)"

    # -- asking it ----------------------------------------------------------------------------------------------

    def probe(self, host: str, *arguments: object, timeout_s: float = 60.0) -> Json:
        """Run a probe of infra.verify in a host."""
        argv = self._probe_argv(host, arguments)
        done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, check=False)
        return parse_probe(Finished(done.returncode, done.stdout, done.stderr), argv)

    def start_probe(self, host: str, *arguments: object) -> Background:
        argv = self._probe_argv(host, arguments)
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        return Background(process, argv)

    def _probe_argv(self, host: str, arguments: Sequence[object]) -> tuple[str, ...]:
        prefix = self.lab.exec_prefix(host)
        return (*prefix, sys.executable, "-m", "infra.verify.probe", *map(str, arguments))

    def page(self, role: str, url: str) -> Json:
        """GET a page inside a role's host; without namespaces asked directly."""
        if self.has_namespaces:
            return self.probe(role, "get-json", "--url", url)
        try:
            with urllib.request.urlopen(url, timeout=3) as response:
                return {"status": response.status, "json": _json_or_none(response.read())}
        except urllib.error.HTTPError as error:
            return {"status": error.code, "json": None}
        except OSError:
            return {"status": 0, "json": None}

    def status(self, role: str) -> Json:
        """The role's /status page."""
        page = self.page(role, self.url(role, "status"))
        if not isinstance(page["json"], dict):
            raise BedError(f"{role} gives no status page; its log ends:\n{self.log_tail(role)}")
        status: Json = page["json"]
        return status

    def target(self, service: Service, protocol: str, port: int) -> str:
        """`host:port` at which the agent's host reaches a service."""
        if self.agent_mode == "user":
            return self.agent_output(self.agents[0]).forwards[wiring.forward_key(service.id, protocol, port)]
        return f"{service.virtual_ip}:{port}"

    def ping(self, host: str, address: str, count: int, interval_s: float) -> list[float]:
        """Round-trip times in ms of those of `count` echo requests that were answered, by iputils' ping."""
        if self.agent_mode != "tun":
            raise BedError("ping needs the agent's TUN device, which this rung does not have")
        argv = ["ping", "-n", "-c", str(count), "-i", f"{interval_s:g}", "-W", "2", address]
        done = self.lab.run(host, argv, timeout_s=count * interval_s + 10, check=False)
        return [float(ms) for ms in re.findall(r"time=([0-9.]+) ms", done.stdout)]

    def cpu_s(self, role: str) -> float:
        """CPU seconds (user and system) that the role's process has used so far."""
        return cpu_seconds(self.processes[role].pid)

    def rss_bytes(self, role: str) -> int:
        """Resident memory of the role's process."""
        return rss_bytes(self.processes[role].pid)


def cpu_seconds(pid: int) -> float:
    """utime + stime of /proc/PID/stat (proc(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS_PER_S


def rss_bytes(pid: int) -> int:
    """Resident pages of /proc/PID/statm (proc(5))."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES


def _json_or_none(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
