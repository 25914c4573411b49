"""Everything the do-nyc1 stack says before anything is made: files of the roles, units, the expected path.

It is computed from the configuration alone; addresses, keys and certificates join it as outputs of resources.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import pulumi

from components.do_address import DoAddress
from components.pki import Pki
from components.ssh_keys import SshKeys
from infra import traversal, units
from infra.config_do import DoConfig
from infra.outputs import Place, PlaceKind, SshAccess, StackOutputs
from infra.overlay import LOOPBACK, Overlay
from infra.ssh_place import ssh_command, unit_place
from infra.units import Unit
from infra.wiring import JsonObject

ADMIN_USER: Final = "root"
SSH: Final = 22
RELAY: Final = "relay"
CONNECTOR: Final = "connector"
UNITS: Final[tuple[Unit, ...]] = (units.INTERMEDIATE, units.BACKEND_HTTP, units.BACKEND_ECHO, units.CONNECTOR)
"""What runs on the droplet, in the order in which it is started.

The relay has no capability: every session ends at the connector beside it, which the kernel's back end cannot relay to.
"""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class DoDesign:
    """The do-nyc1 stack as it will be, without its secrets."""

    config: DoConfig
    overlay: Overlay

    @property
    def ready(self) -> tuple[str, ...]:
        """What must answer on the droplet before the public address comes to it."""
        return tuple(units.READY[unit.name] for unit in UNITS)

    @property
    def dns_names(self) -> tuple[str, ...]:
        """Names of the relay in DNS, which its certificate carries."""
        return tuple(dns.fqdn for dns in self.config.dns)

    @property
    def traversal_site(self) -> traversal.Site:
        """What decides about paths: the connector has a public address of its own, and its port is open."""
        return traversal.Site(
            connector=self.overlay.connector_name,
            services=self.overlay.connector.services,
            connector_nat="none",
            connector_udp_open=True,
            udp_buffer_bytes=units.UDP_BUFFER_BYTES,
        )

    def files(
        self,
        intermediate: pulumi.Output[dict[str, str]],
        connector: pulumi.Output[dict[str, str]],
        address: pulumi.Output[str],
    ) -> dict[str, pulumi.Output[dict[str, str]]]:
        """Return the files of each role, its certificates among them. They are secret.

        The connector dials the relay over loopback: it is released, and must be ready, before the public address is
        there, and a provider need not let a machine reach itself by a reserved address.
        """
        relay: pulumi.Output[dict[str, str]] = pulumi.Output.all(pems=intermediate, address=address).apply(
            lambda made: {**made["pems"], **self.overlay.intermediate_files(external_ip=made["address"])}
        )
        beside = connector.apply(lambda pems: {**pems, **self.overlay.connector_files(LOOPBACK)})
        return {"intermediate": relay, "connector": beside}

    def exports(self, *, address: DoAddress, keys: SshKeys, pki: Pki) -> pulumi.Output[StackOutputs]:
        """Return the stack's outputs as they become known."""

        def outputs(made: dict[str, Any]) -> StackOutputs:
            host = made["host"]
            return self.overlay.outputs(
                host,
                ca_pem=made["ca_pem"],
                profiles=made["profiles"],
                agent_files=made["agent_files"],
                ssh=(SshAccess(host=host, port=SSH, user=ADMIN_USER, host_key=made["host_key"]),),
                places=places(ssh_command(ADMIN_USER, host, made["host_key"]), host),
                relay_place=RELAY,
                connector_place=CONNECTOR,
                ssh_private_keys={host: made["admin_key"]},
                expected_path=traversal.predict(self.traversal_site),
            )

        return pulumi.Output.all(
            host=address.host,
            ca_pem=pki.ca_pem,
            profiles=self._for_agents(pki.profile, address.host),
            agent_files=self._for_agents(pki.agent_files, address.host),
            host_key=keys.permanent_public,
            admin_key=keys.admin_private,
        ).apply(outputs)

    def _for_agents(
        self, make: Callable[[str, pulumi.Output[JsonObject]], T], host: pulumi.Output[str]
    ) -> dict[str, T]:
        """Return what `make` makes of each agent's name and configuration; agents dial the relay's public host."""

        def config(agent: str) -> pulumi.Output[JsonObject]:
            return host.apply(lambda known: self.overlay.agent_config(agent, known))

        return {agent: make(agent, config(agent)) for agent in self.overlay.settings.agents}


def places(ssh: tuple[str, ...], host: str) -> dict[str, Place]:
    """Return where commands run: all roles are on the one droplet, each with the unit that its controls are for."""
    kinds: tuple[tuple[str, PlaceKind, Unit], ...] = (
        (RELAY, "intermediate", units.INTERMEDIATE),
        (CONNECTOR, "connector", units.CONNECTOR),
        ("httpbin", "backend", units.BACKEND_HTTP),
        ("echo", "backend", units.BACKEND_ECHO),
    )
    return {name: unit_place(kind, unit, ssh, host) for name, kind, unit in kinds}


def design(stack: str, config: DoConfig) -> DoDesign:
    """Return the stack that a configuration asks for."""
    overlay = Overlay(
        stack=stack,
        run=config.overlay.run,
        settings=config.overlay,
        admin_socket=units.ADMIN_SOCKET,
        own_host=True,
    )
    return DoDesign(config=config, overlay=overlay)
