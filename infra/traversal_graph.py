"""Reads a `traversal.Site` back from a resource graph: what a stack really declares, to set beside what it says. Pure.

Each kind of cloud has its own reader, chosen by the resources there are. Names of connector and services come from the
certificate requests, which are the rights themselves. What only a deployment can tell does not count against a site.
"""

import re
from dataclasses import replace
from typing import Any, Final

from infra import ports
from infra.graph import UNKNOWN, Graph, Node
from infra.policy.network import OVERLAY_PORTS, Opening, openings
from infra.policy.values import get
from infra.traversal import NatMapping, Site

_CONNECTOR_URI = re.compile(r"spiffe://[^/]+/connector/(?P<name>[^/]+)")
_SERVICE_NAME = re.compile(r"connector\.(?P<service>[^.]+)\.ztna")
DROPLET: Final = "digitalocean:index/droplet:Droplet"
FIREWALL: Final = "digitalocean:index/firewall:Firewall"
RESERVED_TYPES: Final = ("digitalocean:index/reservedIp:ReservedIp", "digitalocean:index/reservedIpAssignment")
LISTENER: Final = "aws:lb/listener:Listener"
K8S_SERVICE: Final = "kubernetes:core/v1:Service"
DEPLOYMENT: Final = "kubernetes:apps/v1:Deployment"


def read_site(graph: Graph) -> Site:
    """Return the site of a graph's connector.

    Raises:
        ValueError: the graph has no connector, or is of no cloud that is known here.
    """
    name, services = connector_of(graph)
    unplaced = Site(connector=name, services=services, connector_nat="none", connector_udp_open=False)
    unplaced = replace(unplaced, udp_buffer_bytes=udp_buffers(graph))
    if graph.of_type(DROPLET):
        return _digitalocean(graph, unplaced)
    if any(node.type.startswith("aws:") for node in graph.nodes):
        return _aws(graph, unplaced)
    if any(node.type.startswith("kubernetes:") for node in graph.nodes):
        return _kubernetes(graph, unplaced)
    raise ValueError(f"stack {graph.stack!r} declares no droplet, no AWS resource and nothing of Kubernetes")


def connector_of(graph: Graph) -> tuple[str, tuple[str, ...]]:
    """Return the name of the connector and the services that its certificate grants it. Raises ValueError without."""
    for node in graph.of_type("tls:index/certRequest:CertRequest"):
        for uri in get(node, "uris", []):
            found = _CONNECTOR_URI.fullmatch(uri)
            if found:
                granted = (_SERVICE_NAME.fullmatch(text) for text in get(node, "dnsNames", []))
                return found["name"], tuple(each["service"] for each in granted if each)
    raise ValueError(f"stack {graph.stack!r} requests no certificate for a connector (spiffe://STACK/connector/NAME)")


def udp_buffers(graph: Graph) -> int | None:
    """Return the smaller of the two socket limits that a release demands of its host, None where nothing says so."""
    found = [
        int(value)
        for node in graph.nodes
        for key in ("net.core.rmem_max", "net.core.wmem_max")
        if isinstance(sysctls := get(node, "sysctls"), dict)
        if isinstance(value := sysctls.get(key), int | float)
    ]
    return min(found, default=None)


def _digitalocean(graph: Graph, site: Site) -> Site:
    """Everything on droplets: their addresses are public, the firewall before them is stateful."""
    opened = _open_udp(graph.of_type(FIREWALL))
    return replace(
        site,
        connector_nat="none",
        connector_udp_open=ports.CONNECTOR_UDP in opened,
        relays=len(graph.of_type(DROPLET)),
        relay_udp_open=ports.QUIC in opened,
        relay_alternate_open=ports.STUN_ALTERNATE in opened,
        relay_address_fixed=any(node.type.startswith(RESERVED_TYPES) for node in graph.nodes),
    )


def _aws(graph: Graph, site: Site) -> Site:
    """Relay on EC2, connector on Fargate or on the relay's own instance."""
    instances = graph.of_type("aws:ec2/instance:Instance")
    tasks = [node for node in graph.of_type("aws:ecs/service:Service") if _is_connector(graph, node)]
    relay = _open_udp(_group_rules(graph, instances))
    return replace(
        site,
        connector_nat=_task_nat(tasks),
        connector_udp_open=_task_reachable(graph, tasks) if tasks else ports.CONNECTOR_UDP in relay,
        relays=len(instances),
        relay_udp_open=ports.QUIC in relay,
        relay_alternate_open=ports.STUN_ALTERNATE in relay,
        relay_address_fixed=bool(graph.of_type("aws:ec2/eipAssociation:EipAssociation")),
        udp_buffer_bytes=None if tasks else site.udp_buffer_bytes,  # a task has no sysctls of its own
    )


def _is_connector(graph: Graph, service: Node) -> bool:
    """The service that listens for agents: behind the balancer, or named so."""
    return bool(get(service, "loadBalancers")) or "connector" in service.name


def _task_nat(tasks: list[Node]) -> NatMapping:
    """A task without a public address leaves by a NAT gateway, which maps by address and port."""
    public = all(get(task, "networkConfiguration.assignPublicIp") is True for task in tasks)
    return "none" if public else "address-and-port-dependent"


def _task_reachable(graph: Graph, tasks: list[Node]) -> bool:
    """Its group lets the port in, and there is an address to send to: its own, or an internet-facing balancer's."""
    admitted = ports.CONNECTOR_UDP in _open_udp(_group_rules(graph, tuple(tasks)))
    listeners = [
        node
        for node in graph.of_type(LISTENER)
        if get(node, "port") == ports.CONNECTOR_UDP and get(node, "protocol") in ("UDP", "TCP_UDP")
    ]
    balancers = [
        node for node in graph.of_type("aws:lb/loadBalancer:LoadBalancer") if get(node, "internal") is not True
    ]
    return admitted and (_task_nat(tasks) == "none" or bool(listeners and balancers and get(tasks[0], "loadBalancers")))


def _group_rules(graph: Graph, members: tuple[Node, ...]) -> tuple[Node, ...]:
    """The groups that machines or tasks depend on, and the rules of these groups."""
    groups = {
        urn
        for member in members
        for urn in _reached(graph, member)
        if graph.by_urn[urn].type == "aws:ec2/securityGroup:SecurityGroup"
    }
    rules = tuple(node for node in graph.nodes if groups & set(node.dependencies) and node.type.startswith("aws:"))
    return (*(graph.by_urn[urn] for urn in groups), *rules)


def _reached(graph: Graph, node: Node) -> set[str]:
    """What a node names directly."""
    return {urn for urn in node.dependencies if urn in graph.by_urn}


def _kubernetes(graph: Graph, site: Site) -> Site:
    """Pods leave their node by a masquerade with random ports, unless they use the node's own network."""
    outside = [node for node in graph.of_type(K8S_SERVICE) if get(node, "spec.type") in ("LoadBalancer", "NodePort")]
    of_relay = [node for node in outside if _selects(node, "intermediate", "relay")]
    of_connector = [node for node in outside if _selects(node, site.connector)]
    relay = _open_udp(tuple(of_relay))
    relays = [node for node in graph.of_type(DEPLOYMENT) if _name(node) in ("intermediate", "relay")]
    pods = [node for node in graph.of_type(DEPLOYMENT) if _name(node) in (site.connector, "connector")]
    host_network = bool(pods) and all(get(node, "spec.template.spec.hostNetwork") is True for node in pods)
    policies = {get(node, "spec.externalTrafficPolicy", "Cluster") for node in (*of_relay, *of_connector)}
    return replace(
        site,
        connector_nat="none" if host_network else "address-and-port-dependent",
        connector_udp_open=ports.CONNECTOR_UDP in _open_udp(tuple(of_connector)),
        relays=len(relays),
        relay_udp_open=ports.QUIC in relay,
        relay_alternate_open=ports.STUN_ALTERNATE in relay,
        relay_address_fixed=bool(of_relay) and all(_fixed(node) for node in of_relay),
        traffic_policy="Local" if policies <= {"Local", UNKNOWN} and policies else "Cluster" if policies else None,
        relayed_accepted=bool(relays),
    )


def _fixed(service: Node) -> bool:
    annotations = get(service, "metadata.annotations", {})
    return bool(get(service, "spec.loadBalancerIP")) or any("ip" in key.rpartition("/")[2] for key in annotations)


def _name(node: Node) -> str:
    return str(get(node, "metadata.name", node.name))


def _selects(service: Node, *components: str) -> bool:
    selector: dict[str, Any] = get(service, "spec.selector", {})
    return bool(set(selector.values()) & set(components))


def _open_udp(nodes: tuple[Node, ...]) -> frozenset[int]:
    """The overlay's ports that some resource opens to everybody."""
    found: list[Opening] = [opening for node in nodes for opening in openings(node) if opening.from_world]
    return frozenset(
        port
        for port in OVERLAY_PORTS
        for opening in found
        if opening.protocol in ("udp", "all") and opening.first <= port <= opening.last
    )
