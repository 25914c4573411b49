"""Everything the AWS stack says before anything is made: what its components are given, images, paths, places.

It is computed from the configuration alone; addresses, keys and certificates join it as outputs of components.
It makes no resource.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import pulumi

from components.aws_cluster import AwsCluster, AwsClusterArgs, log_group
from components.aws_images import AwsImages, AwsImagesArgs
from components.aws_nlb import AwsNlb, AwsNlbArgs
from components.aws_relay import AwsRelay, AwsRelayArgs
from components.aws_secrets import AwsSecrets, AwsSecretsArgs
from components.aws_security_groups import AwsSecurityGroups, AwsSecurityGroupsArgs
from components.aws_service_discovery import AwsServiceDiscovery, AwsServiceDiscoveryArgs
from components.aws_services import AwsService, AwsServicesArgs
from components.aws_task import AwsTask, AwsTaskArgs, Workload
from components.aws_vpc import AwsVpc, AwsVpcArgs, AwsZone
from components.aws_workloads import CONNECTOR, CONNECTOR_IMAGE, PROFILE, sources, workloads
from components.pki import Pki, PkiArgs
from components.relay_host import RelayHostArgs, SshTarget
from components.ssh_keys import SshKeys
from infra import addressing, ports, traversal, units, wiring
from infra.bundle import Target
from infra.config_aws import DOMAIN, AwsConfig, backend_host
from infra.outputs import Place, SshAccess, StackOutputs
from infra.overlay import ANY, Overlay
from infra.ssh_place import ssh_command, unit_place

T = TypeVar("T")

RELAY: Final = "relay"
HTTPS: Final = 443


@dataclass(frozen=True, kw_only=True, slots=True)
class AwsDesign:
    """The AWS stack as it will be, without its secrets."""

    config: AwsConfig
    overlay: Overlay

    @property
    def zones(self) -> tuple[AwsZone, ...]:
        """The availability zones with their subnets."""
        plans = addressing.AWS.zones(len(self.config.zones))
        return tuple(
            AwsZone(name=name, public=plan.public, private=plan.private)
            for name, plan in zip(self.config.zones, plans, strict=True)
        )

    @property
    def workloads(self) -> tuple[Workload, ...]:
        """What runs on Fargate: the connector first, then its backends."""
        return workloads(self.config)

    @property
    def forwards(self) -> bool:
        """Whether the relay's kernel forwards packets of sessions: connector and agents are on other hosts."""
        return self.overlay.settings.relay in ("auto", "kernel")

    def vpc(self) -> AwsVpcArgs:
        """The network."""
        return AwsVpcArgs(**self._ours, region=self.config.region, cidr=addressing.AWS.vpc, zones=self.zones)

    def groups(self, vpc: AwsVpc) -> AwsSecurityGroupsArgs:
        """Who may reach whom."""
        return AwsSecurityGroupsArgs(
            **self._ours,
            vpc_id=vpc.vpc_id,
            relay_port=ports.QUIC,
            connector_port=ports.CONNECTOR_UDP,
            health_port=ports.METRICS["connector"],
            health_networks=tuple(zone.public for zone in self.zones),
            admin_networks=self.config.admin_cidrs,
            backend_ports=self.config.backends,
            backend_egress=(HTTPS,),
        )

    def images(self) -> AwsImagesArgs:
        """What is built and pushed."""
        return AwsImagesArgs(**self._ours, images=sources(self.config), platforms=self.config.platforms)

    def cluster(self) -> AwsClusterArgs:
        """Where tasks run and log."""
        names = tuple(workload.name for workload in self.workloads)
        return AwsClusterArgs(**self._ours, workloads=names, log_retention_days=self.config.log_retention_days)

    def discovery(self, vpc: AwsVpc) -> AwsServiceDiscoveryArgs:
        """By which names the connector finds its backends."""
        return AwsServiceDiscoveryArgs(
            **self._ours, vpc_id=vpc.vpc_id, domain=DOMAIN, names=tuple(self.config.backends)
        )

    def balancer(self, vpc: AwsVpc) -> AwsNlbArgs:
        """The way in to the connector."""
        return AwsNlbArgs(
            **self._ours,
            vpc_id=vpc.vpc_id,
            subnet_ids=vpc.public_subnet_ids,
            zones=self.config.zones,
            port=ports.CONNECTOR_UDP,
            health_port=ports.METRICS["connector"],
        )

    def relay(self, vpc: AwsVpc, groups: AwsSecurityGroups, keys: SshKeys) -> AwsRelayArgs:
        """The relay's machine."""
        return AwsRelayArgs(
            **self._ours,
            instance_type=self.config.instance_type,
            generation=self.config.host_generation,
            ami_parameter=self.config.ami_parameter,
            user=self.config.host_user,
            subnet_id=vpc.public_subnet_ids[0],
            security_group_id=groups.intermediate_id,
            keys=keys,
            udp_ports=(ports.QUIC,),
        )

    def pki(self, relay: AwsRelay) -> PkiArgs:
        """Who gets a certificate; the relay's carries its address."""
        overlay = self.overlay
        return PkiArgs(
            stack=overlay.stack,
            settings=overlay.settings.pki,
            relay_name=overlay.relay_name,
            server_name=overlay.server_name,
            addresses=[relay.address],
            members=overlay.members(),
        )

    def host(self, relay: AwsRelay, groups: AwsSecurityGroups, keys: SshKeys, pki: Pki) -> RelayHostArgs:
        """What runs on the relay's machine."""
        config = relay.address.apply(lambda address: self.overlay.intermediate_files(external_ip=address))
        files = pulumi.Output.all(pki.files(self.overlay.relay_name), config).apply(lambda made: {**made[0], **made[1]})
        return RelayHostArgs(
            **self._ours,
            machine=relay.instance_id,
            ssh=SshTarget(
                host=relay.host,
                user=self.config.host_user,
                private_key=keys.admin_private,
                bootstrap_public=keys.bootstrap_public,
                permanent_public=keys.permanent_public,
                permanent_private=keys.permanent_private,
            ),
            target=Target(python=self.config.host_python),
            units=(units.FORWARDING_INTERMEDIATE if self.forwards else units.INTERMEDIATE,),
            files={"intermediate": files},
            ready=(units.READY[units.INTERMEDIATE.name],),
            sysctls=units.FORWARDING_SYSCTLS if self.forwards else units.SYSCTLS,
            depends=(groups,),
        )

    def secrets(self, relay: AwsRelay, balancer: AwsNlb, pki: Pki) -> AwsSecretsArgs:
        """What the connector's task is started with: its self-contained profile."""
        made = pulumi.Output.all(
            relay=relay.address, address=balancer.address, files=pki.files(self.overlay.connector_name)
        )
        return AwsSecretsArgs(**self._ours, values={CONNECTOR: made.apply(self.connector_profile)})

    def task(self, workload: Workload, images: AwsImages, cluster: AwsCluster, secrets: AwsSecrets) -> AwsTaskArgs:
        """A workload where it runs."""
        name, repository = workload.name, {CONNECTOR: CONNECTOR_IMAGE}.get(workload.name, workload.name)
        given = {CONNECTOR: {PROFILE: secrets.references[CONNECTOR]}}.get(name, {})
        return AwsTaskArgs(
            **self._ours,
            region=self.config.region,
            workload=workload,
            platform=self.config.platforms[0],
            image=images.references[repository],
            repository_arn=images.repository_arns[repository],
            account_id=images.account_id,
            log_group=cluster.log_groups[name],
            log_group_arn=cluster.log_group_arns[name],
            secrets=given,
            secret_arns=[secrets.arns[CONNECTOR]] * len(given),
        )

    def services(
        self,
        vpc: AwsVpc,
        cluster: AwsCluster,
        tasks: Mapping[str, AwsTask],
        groups: AwsSecurityGroups,
        names: AwsServiceDiscovery,
        balancer: AwsNlb,
    ) -> AwsServicesArgs:
        """The tasks that are kept running: the connector behind the load balancer, backends under their names."""
        connector = AwsService(
            task_definition_arn=tasks[CONNECTOR].task_definition_arn,
            security_group_id=groups.connector_id,
            target_group_arn=balancer.target_group_arn,
            port=ports.CONNECTOR_UDP,
            surge=False,
        )
        backends = {
            name: AwsService(
                task_definition_arn=tasks[name].task_definition_arn,
                security_group_id=groups.backend_id,
                registry_arn=names.registry_arns[name],
            )
            for name in self.config.backends
        }
        return AwsServicesArgs(
            **self._ours,
            cluster_arn=cluster.arn,
            subnet_ids=vpc.private_subnet_ids,
            services={CONNECTOR: connector, **backends},
        )

    def connector_profile(self, made: Mapping[str, Any]) -> str:
        """Return the connector's self-contained profile.

        Args:
            made: `relay` (address to dial), `address` (where peers reach it), and `files` (its certificates by name).
        """
        config = json.loads(self.overlay.connector_files(made["relay"], metrics_addr=ANY)["connector.json"])
        files = made["files"]
        whole = wiring.with_identity(
            {**config, "external_ip": made["address"]},
            ca_pem=files["ca.pem"],
            cert_pem=files["cert.pem"],
            key_pem=files["key.pem"],
        )
        return json.dumps(whole, separators=(",", ":"))

    def for_agents(
        self, make: Callable[[str, pulumi.Output[wiring.JsonObject]], pulumi.Output[T]], relay: AwsRelay
    ) -> dict[str, pulumi.Output[T]]:
        """Return what `make` makes of each agent's name and configuration."""

        def config(agent: str) -> pulumi.Output[wiring.JsonObject]:
            return relay.address.apply(lambda address: self.overlay.agent_config(agent, address))

        return {agent: make(agent, config(agent)) for agent in self.overlay.settings.agents}

    @property
    def traversal_site(self) -> traversal.Site:
        """What decides about paths: the connector's own packets leave by the NAT gateway, which maps per destination;
        its port is reached from anywhere through the load balancer, whose address it announces.

        The buffers of a Fargate task's sockets are the platform's.
        """
        return traversal.Site(
            connector=self.overlay.connector_name,
            services=tuple(service.id for service in self.overlay.services),
            connector_nat="address-and-port-dependent",
            connector_udp_open=True,
            relays=1,
            relay_alternate_open=False,
        )

    def places(self, relay_host: str, host_key: str) -> dict[str, Place]:
        """Where commands run: on the relay, by SSH that believes its host key. Tasks of Fargate are not entered."""
        ssh = ssh_command(self.config.host_user, relay_host, host_key)
        places = {
            RELAY: unit_place("intermediate", units.INTERMEDIATE, ssh, relay_host),
            CONNECTOR: Place(
                kind="connector",
                address="-",
                logs={"connector": log_group(self.overlay.run, CONNECTOR)},
            ),
        }
        for name in self.config.backends:
            places[name] = Place(kind="backend", address=backend_host(name))
        return places

    def outputs(self, **made: Any) -> StackOutputs:
        """Return the stack's outputs.

        Args:
            made: `host` (the relay's address), `host_key` and `ssh_private_key` of it, `ca_pem`, and `profiles` and
                `agent_files` by agent.
        """
        host = made["host"]
        return self.overlay.outputs(
            host,
            ca_pem=made["ca_pem"],
            profiles=made["profiles"],
            agent_files=made["agent_files"],
            places=self.places(host, made["host_key"]),
            ssh=[SshAccess(host=host, port=22, user=self.config.host_user, host_key=made["host_key"])],
            ssh_private_keys={host: made["ssh_private_key"]},
            expected_path=traversal.predict(self.traversal_site),
            relay_place=RELAY,
            connector_place=CONNECTOR,
            limits=(
                "the relay is one instance in one zone: while it is replaced or its zone is lost, sessions wait",
                "NAT behaviour of agents is classified by one port of the relay: its second, UDP 4434, is not opened",
            ),
        )

    @property
    def _ours(self) -> dict[str, Any]:
        """What every component is told of the stack."""
        return {"stack": self.overlay.stack, "run": self.overlay.run}


def design(stack: str, config: AwsConfig) -> AwsDesign:
    """Return the AWS stack that a configuration asks for."""
    overlay = Overlay(
        stack=stack,
        run=config.overlay.run,
        settings=config.overlay,
        relay_name=RELAY,
        connector_name=CONNECTOR,
        admin_socket=units.ADMIN_SOCKET,
    )
    return AwsDesign(config=config, overlay=overlay)
