"""The overlay of a cloud stack as it is declared: services, agents, connector, their files, the stack's outputs. Pure.

What only a deployment knows (the relay's address) is an argument, so that a program gives it inside `apply`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from infra import ports, wiring
from infra.addressing import OverlayPlan
from infra.config_overlay import OverlaySettings, address_plan
from infra.outputs import (
    AgentOutput,
    ConnectorOutput,
    PathPrediction,
    Place,
    RelayEndpoint,
    ServiceOutput,
    SshAccess,
    StackOutputs,
)
from infra.wiring import JsonObject
from infra.wiring_macos import MacosApp

LOOPBACK: Final = "127.0.0.1"
ANY: Final = "0.0.0.0"
RUNG: Final = "cloud"


@dataclass(frozen=True, kw_only=True, slots=True)
class PkiMembers:
    """Who gets a client certificate: names of connectors and agents, and the services granted to each.

    `macos` is the app that agents on Macs run, which their files are for.
    """

    connectors: dict[str, tuple[str, ...]]
    agents: dict[str, tuple[str, ...]]
    macos: MacosApp = field(default_factory=MacosApp)


@dataclass(frozen=True, kw_only=True, slots=True)
class Overlay:
    """The overlay of one stack: one relay, one connector for all services, and agents that may reach all of them.

    Attributes:
        stack: the stack's name, which certificates carry.
        run: the name that tags carry.
        relay_port: UDP port of the intermediate.
        admin_socket: where the intermediate makes the socket of `ztna relay`; None for beside its configuration.
        own_host: the connector runs on the relay's host and dials it over loopback.
        alternate_port: its second UDP port for NAT classification (RFC 5780 section 6); None where the connector
            has 4434 on the same host.
    """

    stack: str
    run: str
    settings: OverlaySettings
    relay_name: str = "relay"
    connector_name: str = "connector"
    server_name: str = "ztna-server"
    relay_port: int = ports.QUIC
    alternate_port: int | None = None
    admin_socket: str | None = None
    own_host: bool = False

    @property
    def services(self) -> tuple[ServiceOutput, ...]:
        """The services with their virtual addresses, in the order of the configuration."""
        plan = self._plan
        return tuple(
            ServiceOutput(
                id=service.id,
                virtual_ip=str(plan.services[service.id]),
                ports=service.ports,
                connector=self.connector_name,
                backend=service.backend,
                port_backends=dict(service.port_backends),
            )
            for service in self.settings.services
        )

    @property
    def connector(self) -> ConnectorOutput:
        """The connector, which serves every service."""
        return ConnectorOutput(name=self.connector_name, services=self._granted)

    @property
    def agents(self) -> tuple[AgentOutput, ...]:
        """The agents without their profiles. Each has port forwards too, for where no TUN device may be made."""
        plan = self._plan
        forwards = wiring.user_forwards(self.services, LOOPBACK)
        return tuple(
            AgentOutput(
                name=name, virtual_ip=str(plan.agents[name]), services=self._granted, mode="tun", forwards=forwards
            )
            for name in self.settings.agents
        )

    @property
    def _plan(self) -> OverlayPlan:
        return address_plan(self.settings.services, self.settings.agents)

    @property
    def _granted(self) -> tuple[str, ...]:
        return tuple(service.id for service in self.settings.services)

    def members(self) -> PkiMembers:
        """Return who gets a client certificate, and for which services."""
        return PkiMembers(
            connectors={self.connector_name: self._granted},
            agents=dict.fromkeys(self.settings.agents, self._granted),
            macos=self.settings.macos,
        )

    def relay(self, host: str) -> RelayEndpoint:
        """Return the relay as reached at (or bound to) an address or name."""
        return RelayEndpoint(
            name=self.relay_name,
            host=host,
            port=self.relay_port,
            server_name=self.server_name,
            alternate_port=self.alternate_port,
        )

    def policy_json(self) -> str:
        """Return policy.json."""
        return _text(wiring.policy(self.services, self.agents, [self.connector]))

    def intermediate_files(
        self, bind_addr: str = ANY, external_ip: str | None = None, metrics_addr: str = LOOPBACK
    ) -> dict[str, str]:
        """Return intermediate.json and policy.json; their paths begin with `wiring.STATE_DIR`."""
        config = wiring.intermediate_config(
            self.stack,
            self.relay(bind_addr),
            log_level=self.settings.log_level,
            metrics_addr=metrics_addr,
            external_ip=external_ip,
            allow_anonymous_v1=self.settings.allow_anonymous_v1,
            relay_mode=self.settings.relay,
            own_host=self.own_host,
            admin_socket=self.admin_socket,
        )
        return {"intermediate.json": _text(config), "policy.json": self.policy_json()}

    def connector_files(self, relay_host: str, bind_addr: str = ANY, metrics_addr: str = LOOPBACK) -> dict[str, str]:
        """Return connector.json for a relay at an address or name."""
        config = wiring.connector_config(
            self.stack,
            self.connector_name,
            self.relay(relay_host),
            self.services,
            bind_addr=bind_addr,
            log_level=self.settings.log_level,
            metrics_addr=metrics_addr,
        )
        return {"connector.json": _text(config)}

    def agent_config(self, agent: str, relay_host: str) -> JsonObject:
        """Return agent.json without its certificates, for a relay at an address or name.

        Its mode is `auto`: a TUN device where that is allowed, port forwards where not.

        Raises:
            KeyError: the stack has no such agent.
        """
        found = {output.name: output for output in self.agents}[agent]
        config = wiring.agent_config(
            self.stack,
            found,
            self.relay(relay_host),
            self.services,
            log_level=self.settings.log_level,
            metrics_addr=LOOPBACK,
        )
        return {**config, "mode": "auto"}

    def outputs(
        self,
        relay_host: str,
        *,
        ca_pem: str,
        profiles: Mapping[str, str],
        places: Mapping[str, Place] | None = None,
        agent_files: Mapping[str, Mapping[str, str]] | None = None,
        ssh: Sequence[SshAccess] = (),
        ssh_private_keys: Mapping[str, str] | None = None,
        expected_path: Sequence[PathPrediction] = (),
        relay_port: int | None = None,
        relay_place: str | None = None,
        connector_place: str | None = None,
        limits: Sequence[str] = (),
        probes: Mapping[str, str] | None = None,
    ) -> StackOutputs:
        """Return the stack's outputs, once its addresses and certificates are known.

        Args:
            relay_host: the address or name that agents dial.
            profiles: agent.json of each agent.
            relay_port: the UDP port that agents dial, where it is not the one that the relay binds.
            relay_place: key of the relay's host in `places`; likewise `connector_place`.
        """
        relay = replace(self.relay(relay_host), port=relay_port or self.relay_port, place=relay_place)
        return StackOutputs(
            stack=self.stack,
            run=self.run,
            rung=RUNG,
            relays=(relay,),
            connectors=(replace(self.connector, place=connector_place),),
            services=self.services,
            agents=tuple(replace(agent, profile=profiles.get(agent.name, "")) for agent in self.agents),
            places=dict(places or {}),
            ca_pem=ca_pem,
            probes=dict(probes or {}),
            limits=tuple(limits),
            environment=wiring.environment(self.stack, relay, self.services, [self.connector]),
            expected_path=tuple(expected_path),
            ssh=tuple(ssh),
            agent_files={name: dict(files) for name, files in (agent_files or {}).items()},
            ssh_private_keys=dict(ssh_private_keys or {}),
        )


def _text(document: JsonObject) -> str:
    return json.dumps(document, indent=1)
