"""Everything the pi-home stack says before anything is made: pods, flows, files, the expected path. Pure.

It is computed from the configuration alone; keys and certificates join it as outputs of resources.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, Final, TypeVar

import pulumi

from components.k8s_backends import K8sBackend
from components.k8s_load_balancer import K8sLoadBalancerArgs
from components.k8s_network_policies import WORLD, K8sFlow, K8sNetworkPoliciesArgs
from components.k8s_pod import CONFIG_DIR, K8sContainer, K8sHealth, K8sPort, K8sSite
from infra import ports, traversal
from infra.config_pi import (
    ADMIN_SOCKET,
    CONNECTOR,
    ECHO,
    HTTPBIN,
    INTERMEDIATE,
    QUAKEKUBE,
    TRAFFIC_POLICY,
    PiConfig,
    pi_overlay,
    service_host,
)
from infra.outputs import Place, StackOutputs
from infra.overlay import ANY, Overlay

DRAIN_S: Final = 3
"""The old relay serves so long after it left the Service; clients that it sends away then find the new one alone."""
QUAKE_CONFIG: Final = """\
fragLimit: 25
timeLimit: 15m
game:
  motd: "Reached through ztna"
  type: FreeForAll
  inactivity: 10m
server:
  hostname: "quakekube"
  maxClients: 12
maps:
- name: q3dm7
  type: FreeForAll
- name: q3dm17
  type: FreeForAll
"""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class PiDesign:
    """The pi-home stack as it will be, without its secrets."""

    config: PiConfig
    overlay: Overlay

    @property
    def site(self) -> K8sSite:
        """Where its resources go."""
        return K8sSite(
            namespace=self.config.namespace,
            stack=self.overlay.stack,
            run=self.overlay.run,
            node_selector=self.config.node_selector,
            await_ready=self.config.await_ready,
        )

    @property
    def address(self) -> str:
        """The relay's address on the LAN."""
        return str(self.config.load_balancer_ip)

    @property
    def relay_ports(self) -> tuple[K8sPort, ...]:
        """What the relay answers on: QUIC and STUN, and STUN's second port."""
        return (
            K8sPort(name="quic", protocol="UDP", port=ports.QUIC),
            K8sPort(name="stun-alternate", protocol="UDP", port=ports.STUN_ALTERNATE),
        )

    @property
    def intermediate(self) -> K8sContainer:
        """The relay's container. Its own directory holds the socket of `ztna relay`."""
        role = self._role(INTERMEDIATE, self.relay_ports)
        return replace(role, scratch=(*role.scratch, str(PurePosixPath(ADMIN_SOCKET).parent)))

    @property
    def connector(self) -> K8sContainer:
        """The connector's container. It dials out: nothing dials it."""
        return self._role(CONNECTOR, ())

    @property
    def backends(self) -> tuple[K8sBackend, ...]:
        """The services' pods."""
        echo = K8sContainer(
            name=ECHO,
            image=self.config.overlay_image,
            command=("python", "-m", "infra.echo", "--bind", ANY, "--port", str(ports.ECHO)),
            ports=(
                K8sPort(name="echo-udp", protocol="UDP", port=ports.ECHO),
                K8sPort(name="echo-tcp", protocol="TCP", port=ports.ECHO),
            ),
            health=K8sHealth(port=ports.ECHO),
        )
        listen = f"--listen={ANY}:{ports.HTTPBIN}"
        httpbin = K8sContainer(
            name=HTTPBIN,
            image=self.config.http_image,
            command=("python", "-m", "waitress", listen, "--threads=8", "httpbin:app"),
            ports=(K8sPort(name="http", protocol="TCP", port=ports.HTTPBIN),),
            health=K8sHealth(port=ports.HTTPBIN, alive="/status/200", ready="/status/200"),
            memory_mib=256,
        )
        found = (K8sBackend(name=ECHO, containers=(echo,)), K8sBackend(name=HTTPBIN, containers=(httpbin,)))
        image = self.config.quakekube_image
        return (*found, _quakekube(image)) if image else found

    @property
    def components(self) -> tuple[str, ...]:
        """Everything that has pods."""
        return (INTERMEDIATE, CONNECTOR, *(backend.name for backend in self.backends))

    @property
    def resolvers(self) -> tuple[str, ...]:
        """What looks up names: the connector those of the relay and of its backends."""
        return (CONNECTOR,)

    @property
    def flows(self) -> tuple[K8sFlow, ...]:
        """Who may talk to whom; everything else is denied."""
        to_backends = tuple(
            K8sFlow(
                source=CONNECTOR,
                target=backend.name,
                ports=tuple(port for container in backend.containers for port in container.ports),
            )
            for backend in self.backends
        )
        return (
            K8sFlow(source=WORLD, target=INTERMEDIATE, ports=self.relay_ports),
            K8sFlow(source=CONNECTOR, target=INTERMEDIATE, ports=self.relay_ports[:1]),
            *to_backends,
        )

    def intermediate_files(self) -> dict[str, str]:
        """intermediate.json and policy.json."""
        return self.overlay.intermediate_files(external_ip=self.address, metrics_addr=ANY)

    def connector_files(self) -> dict[str, str]:
        """connector.json, which dials the relay by its ClusterIP and demands the stack's server name of it."""
        return self.overlay.connector_files(self.config.relay_host, metrics_addr=ANY)

    def policies(self, *after: pulumi.Resource) -> K8sNetworkPoliciesArgs:
        """Who may talk to whom. On direct paths the connector sends UDP to peers at any address."""
        return K8sNetworkPoliciesArgs(
            site=self.site,
            components=self.components,
            flows=self.flows,
            resolvers=self.resolvers,
            udp_out=(CONNECTOR,),
            after=after,
        )

    def balancer(self, *after: pulumi.Resource) -> K8sLoadBalancerArgs:
        """The relay's address on the LAN."""
        return K8sLoadBalancerArgs(
            site=self.site,
            component=INTERMEDIATE,
            address=self.address,
            block=self.config.pool.block,
            pool_version=self.config.pool_version,
            interfaces=self.config.interfaces,
            ports=self.relay_ports,
            traffic_policy=TRAFFIC_POLICY,
            after=after,
        )

    def for_agents(self, make: Callable[[str, dict[str, Any]], T]) -> dict[str, T]:
        """Return what `make` makes of each agent's name and configuration; agents dial the address on the LAN."""
        agents = self.overlay.settings.agents
        return {agent: make(agent, self.overlay.agent_config(agent, self.address)) for agent in agents}

    @property
    def traversal_site(self) -> traversal.Site:
        """What decides about paths: the connector's packets leave its node by a NAT, and its port is not exposed.

        A direct path would save nothing here, where relay and connector share a cluster.
        """
        return traversal.Site(
            connector=self.overlay.connector_name,
            services=tuple(service.id for service in self.overlay.services),
            connector_nat="address-and-port-dependent",
            connector_udp_open=False,
            relays=1,
            traffic_policy=TRAFFIC_POLICY,
            relayed_accepted=True,
        )

    def places(self) -> dict[str, Place]:
        """Where commands run, by name: in the pods, by kubectl."""
        kubectl = self._kubectl()

        def place(kind: Any, name: str, address: str) -> Place:
            target = f"deployment/{name}"
            controls = {
                "restart": (*kubectl, "rollout", "restart", target),
                "stop": (*kubectl, "scale", target, "--replicas=0"),
                "start": (*kubectl, "scale", target, "--replicas=1"),
            }
            return Place(
                kind=kind,
                address=address,
                exec=(*kubectl, "exec", target, "--"),
                controls=controls,
                config_path=f"{CONFIG_DIR}/{name}.json" if name in ports.METRICS else None,
            )

        found = {
            INTERMEDIATE: place("intermediate", INTERMEDIATE, self.address),
            CONNECTOR: place("connector", CONNECTOR, "-"),  # it dials out: it has no address of its own
        }
        for backend in self.backends:
            found[backend.name] = place("backend", backend.name, service_host(backend.name, self.config.namespace))
        return found

    def outputs(
        self, *, ca_pem: str, profiles: Mapping[str, str], agent_files: Mapping[str, Mapping[str, str]]
    ) -> StackOutputs:
        """Return the stack's outputs, once certificates are there."""
        return self.overlay.outputs(
            self.address,
            ca_pem=ca_pem,
            profiles=profiles,
            agent_files=agent_files,
            places=self.places(),
            relay_place=INTERMEDIATE,
            connector_place=CONNECTOR,
            expected_path=traversal.predict(self.traversal_site),
            limits=self.config.limits,
        )

    def _role(self, role: str, role_ports: tuple[K8sPort, ...]) -> K8sContainer:
        return K8sContainer(
            name=role,
            image=self.config.overlay_image,
            command=("python", "-m", "ztna", role, "--config", f"{CONFIG_DIR}/{role}.json"),
            ports=role_ports,
            health=K8sHealth(port=ports.METRICS[role], alive="/healthz", ready="/readyz"),
            cpu_m=100,
            memory_mib=256,
        )

    def _kubectl(self) -> tuple[str, ...]:
        config = self.config
        kubeconfig = ("--kubeconfig", config.kubeconfig) if config.kubeconfig else ()
        context = ("--context", config.context) if config.context else ()
        return ("kubectl", *kubeconfig, *context, "--namespace", config.namespace)


def design(stack: str, config: PiConfig) -> PiDesign:
    """Return the pi-home stack that a configuration asks for."""
    return PiDesign(config=config, overlay=pi_overlay(stack, config))


def _quakekube(image: str) -> K8sBackend:
    """QuakeKube: page, data and web socket of the game on TCP 8080, the game itself on UDP 27960.

    Source: github.com/ChrisRx/quake-kube, cmd/q3/app/run/run.go. The image brings the demo's data.
    """
    game = K8sContainer(
        name=QUAKEKUBE,
        image=image,
        command=(
            *("q3", "run", "--agree-eula", f"--config={CONFIG_DIR}/config.yaml", "--assets-dir=/assets"),
            *(f"--client-addr={ANY}:8080", f"--server-addr={ANY}:27960", "--shutdown-delay=5s"),
        ),
        ports=(
            K8sPort(name="client", protocol="TCP", port=8080),
            K8sPort(name="game", protocol="UDP", port=27960),
        ),
        health=K8sHealth(port=8080, start_s=180),
        env={"HOME": "/tmp"},  # noqa: S108 - the pod's own, an emptyDir
        scratch=("/tmp", "/assets"),  # noqa: S108 - likewise
        cpu_m=250,
        memory_mib=768,
    )
    return K8sBackend(name=QUAKEKUBE, containers=(game,), files={"config.yaml": QUAKE_CONFIG})
