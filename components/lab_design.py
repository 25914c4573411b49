"""Everything the lab stack says before anything is made: members, services, policy, places, expected path. Pure.

It is computed from the configuration and the rung alone; keys and certificates join it as outputs of resources.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final

from components import lab_topology as topo
from components.lab_runtime import LabSite
from infra import pki, ports, wiring
from infra.addressing import LabPlan, overlay_plan
from infra.config import LabConfig
from infra.lab.rungs import Detection, Rung
from infra.lab.topology import Topology
from infra.naming import check_label, run_name
from infra.outputs import (
    AgentOutput,
    ConnectorOutput,
    NatOutput,
    Place,
    RelayEndpoint,
    ServiceOutput,
    ServicePort,
    StackOutputs,
)
from infra.release import source_digest

ECHO_SERVICE: Final = "echo-service"
HTTP_SERVICE: Final = "http-app"
FOREIGN: Final = "foreign-connector"
SERVER_NAME: Final = "ztna-server"
LOOPBACK_SOURCE: Final = "127.0.0.1"


@dataclass(frozen=True, kw_only=True, slots=True)
class LabDesign:
    """The lab stack as it will be, without its secrets."""

    stack: str
    run: str
    config: LabConfig
    detection: Detection
    plan: LabPlan
    topology: Topology
    relay: RelayEndpoint
    services: tuple[ServiceOutput, ...]
    connector: ConnectorOutput
    agent: AgentOutput
    agent_nat: NatOutput | None
    connector_nat: NatOutput | None
    release: str

    @property
    def rung(self) -> Rung:
        """The rung that realises it."""
        return self.detection.rung

    @property
    def members(self) -> dict[str, pki.LeafNames]:
        """Who gets a certificate. The foreign connector is of this CA, but no service is granted to it."""
        relay, granted = self.relay, [service.id for service in self.services]
        addresses = [address for address in (relay.host, relay.alternate_host) if address]
        return {
            relay.name: pki.server_names(self.stack, relay.name, relay.server_name, addresses),
            self.connector.name: pki.client_names(self.stack, "connector", self.connector.name, granted),
            self.agent.name: pki.client_names(self.stack, "agent", self.agent.name, granted),
            FOREIGN: pki.client_names(self.stack, "connector", FOREIGN, ()),
        }

    @property
    def site(self) -> LabSite:
        """Where its resources are."""
        return LabSite(run=self.run, rung=self.rung)

    @property
    def announcement(self) -> str:
        """What the user is told before anything is made: the rung, why not a better one, what it cannot show."""
        head = f"lab {self.run!r} on the {self.rung.value} rung"
        reasons = "".join(f"\n  not better because {reason}" for reason in self.detection.reasons)
        return head + reasons + "".join(f"\n  {limit}" for limit in self.detection.limits)

    def intermediate_files(self) -> dict[str, str]:
        """The intermediate's files but its certificates."""
        config = wiring.intermediate_config(
            self.stack,
            self.relay,
            log_level=self.config.log_level,
            metrics_addr=metrics_addr(self.rung, self.plan.relay),
            relay_mode=self.config.relay,
        )
        policy = wiring.policy(self.services, [self.agent], [self.connector])
        return {"intermediate.json": json.dumps(config, indent=1), "policy.json": json.dumps(policy, indent=1)}

    def connector_files(self) -> dict[str, str]:
        """The connector's files but its certificates."""
        return {"connector.json": json.dumps(self.connector_config(self.connector.name), indent=1)}

    def ready_url(self, place: str) -> str:
        """Return what a role must answer to count as created: usable, or just alive behind a NAT that blocks UDP."""
        found = self.places()[place]
        alive = found.nat is not None and found.nat.udp_blocked
        return (found.status_url or "").removesuffix("/status") + ("/healthz" if alive else "/readyz")

    def connector_config(self, name: str) -> dict[str, Any]:
        """The content of connector.json for a connector of this name."""
        return wiring.connector_config(
            self.stack,
            name,
            self.relay,
            self.services,
            bind_addr=str(self.plan.connector) if self.rung is Rung.LOOPBACK else "0.0.0.0",
            log_level=self.config.log_level,
            metrics_addr=metrics_addr(self.rung, self.plan.connector),
        )

    def agent_config(self) -> dict[str, Any]:
        """The content of agent.json, without its certificates."""
        return wiring.agent_config(
            self.stack,
            self.agent,
            self.relay,
            self.services,
            log_level=self.config.log_level,
            metrics_addr=metrics_addr(self.rung, self.plan.agent),
        )

    def places(self) -> dict[str, Place]:
        """Where commands run, by name."""
        # On loopback an unbound socket has this source address, whatever the address it sends to (RFC 1122 s3.2.1.3).
        agent = LOOPBACK_SOURCE if self.rung is Rung.LOOPBACK else self.plan.agent
        roles = (
            (topo.RELAY, "intermediate", self.plan.relay, self.relay.metrics_url, None),
            (topo.CONNECTOR, "connector", self.plan.connector, self.connector.metrics_url, self.connector_nat),
            (topo.AGENT, "agent", agent, self.agent.metrics_url, self.agent_nat),
        )
        found = {
            name: Place(
                kind=kind,  # type: ignore[arg-type]  # one of PlaceKind by the table above
                address=str(address),
                exec=self._lab("exec", name, "--"),
                controls={verb: self._lab(verb, name, kind) for verb in ("start", "stop", "kill", "restart")},
                logs={kind: str(self.site.log_path(name, kind))},
                config_path=str(self.site.files_dir(name, kind) / f"{kind}.json"),
                status_url=(metrics or "").removesuffix("/metrics") + "/status",
                nat=nat,
            )
            for name, kind, address, metrics, nat in roles
        }
        found[topo.BACKEND] = Place(
            kind="backend",
            address=str(self.plan.backend),
            exec=self._lab("exec", topo.BACKEND, "--"),
            logs={name: str(self.site.log_path(topo.BACKEND, name)) for name in ("echo", "httpbin")},
        )
        for nat in (self.agent_nat, self.connector_nat):
            if nat is not None:
                outermost = nat.name if nat.levels < 2 else f"{nat.name}_carrier"
                found[nat.name] = Place(kind="nat", address=nat.public_address, exec=self._lab("exec", outermost, "--"))
        return found

    def _lab(self, verb: str, *words: str) -> tuple[str, ...]:
        return (sys.executable, "-m", "infra.lab", verb, "--run", self.run, *words)

    def outputs(self, *, ca_pem: str, profile: str, probes: Mapping[str, str]) -> StackOutputs:
        """Return the stack's outputs, once certificates are there."""
        path = wiring.expected_path(self.agent.name, self.connector.name, self.agent_nat, self.connector_nat)
        return StackOutputs(
            stack=self.stack,
            run=self.run,
            rung=self.rung.value,
            relays=(self.relay,),
            connectors=(self.connector,),
            services=self.services,
            agents=(replace(self.agent, profile=profile),),
            places=self.places(),
            ca_pem=ca_pem,
            probes=dict(probes),
            expected_paths=(path,),
            limits=self.detection.limits,
            topology=self.topology.to_spec(),
            environment=wiring.environment(self.stack, self.relay, self.services, [self.connector]),
        )


def design(stack: str, config: LabConfig, project: Path) -> LabDesign:
    """Return the lab that a configuration asks for on this machine, for the project in a directory.

    Raises:
        ConfigError: a rung was asked for by name and does not work here, or a NAT's behaviour is none.
    """
    detection = topo.find_rung(config.rung)
    plan = topo.plan_of(detection.rung)
    overlay = overlay_plan([ECHO_SERVICE, HTTP_SERVICE], [topo.AGENT])
    services = _services(plan, {name: str(address) for name, address in overlay.services.items()})
    granted = tuple(service.id for service in services)
    has_nats = detection.rung is not Rung.LOOPBACK
    return LabDesign(
        stack=stack,
        run=check_label(config.run or run_name(stack, project), "run"),
        config=config,
        detection=detection,
        plan=plan,
        topology=topo.lab_topology(config, plan),
        relay=_relay(detection.rung, plan),
        services=services,
        connector=ConnectorOutput(
            name=topo.CONNECTOR,
            services=granted,
            place=topo.CONNECTOR,
            metrics_url=_metrics("connector", metrics_addr(detection.rung, plan.connector)),
        ),
        agent=AgentOutput(
            name=topo.AGENT,
            virtual_ip=str(overlay.agents[topo.AGENT]),
            services=granted,
            mode="tun" if detection.tun else "user",
            forwards={} if detection.tun else wiring.user_forwards(services, str(plan.agent)),
            place=topo.AGENT,
            metrics_url=_metrics("agent", metrics_addr(detection.rung, plan.agent)),
        ),
        agent_nat=topo.nat_output(topo.AGENT_NAT, config.agent_nat, str(plan.agent_outside)) if has_nats else None,
        release=source_digest(),
        connector_nat=(
            topo.nat_output(topo.CONNECTOR_NAT, config.connector_nat, str(plan.connector_outside)) if has_nats else None
        ),
    )


def metrics_addr(rung: Rung, host: IPv4Address) -> str:
    """Where a role answers HTTP: its host's own loopback; without namespaces, the host's address in 127/8."""
    return str(host) if rung is Rung.LOOPBACK else "127.0.0.1"


def _relay(rung: Rung, plan: LabPlan) -> RelayEndpoint:
    return RelayEndpoint(
        name=topo.RELAY,
        host=str(plan.relay),
        port=ports.QUIC,
        server_name=SERVER_NAME,
        alternate_host=str(plan.relay_alternate),
        alternate_port=ports.STUN_ALTERNATE,
        metrics_url=_metrics("intermediate", metrics_addr(rung, plan.relay)),
        place=topo.RELAY,
    )


def _services(plan: LabPlan, addresses: Mapping[str, str]) -> tuple[ServiceOutput, ...]:
    return (
        ServiceOutput(
            id=ECHO_SERVICE,
            virtual_ip=addresses[ECHO_SERVICE],
            ports=(
                ServicePort(protocol="udp", port=ports.ECHO),
                ServicePort(protocol="tcp", port=ports.ECHO),
                ServicePort(protocol="icmp", port=0),
            ),
            connector=topo.CONNECTOR,
            backend=f"{plan.backend}:{ports.ECHO}",
            untunnelled=(f"udp:{plan.relay}:{ports.ECHO}", f"tcp:{plan.relay}:{ports.ECHO}"),
        ),
        ServiceOutput(
            id=HTTP_SERVICE,
            virtual_ip=addresses[HTTP_SERVICE],
            ports=(ServicePort(protocol="tcp", port=ports.HTTP),),
            connector=topo.CONNECTOR,
            backend=f"{plan.backend}:{ports.HTTPBIN}",
            port_backends={f"tcp/{ports.HTTP}": f"{plan.backend}:{ports.HTTPBIN}"},
        ),
    )


def _metrics(role: str, address: str) -> str:
    return f"http://{address}:{ports.METRICS[role]}/metrics"
