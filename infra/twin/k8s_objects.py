"""Objects of the cluster and what follows from them: who selects whom, endpoints, addresses, host names. Pure.

An object is the manifest as JSON. Its key is `KIND/NAMESPACE/NAME`, with an empty namespace for kinds of the cluster.
"""

import hashlib
import ipaddress
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Any, Final

Json = dict[str, Any]

BALANCER_CLASS: Final = "io.cilium/l2-announcer"
ADDRESS_ANNOTATIONS: Final = ("lbipam.cilium.io/ips", "io.cilium/lb-ipam-ips")
NAMESPACE_NAME: Final = "kubernetes.io/metadata.name"
SERVICE_NAMESPACE, SERVICE_NAME = "io.kubernetes.service.namespace", "io.kubernetes.service.name"
CLUSTER_KINDS: Final = frozenset({"Namespace", "CiliumLoadBalancerIPPool", "CiliumL2AnnouncementPolicy"})


def key_of(manifest: Mapping[str, Any]) -> str:
    """The key of an object."""
    kind, metadata = manifest["kind"], manifest["metadata"]
    space = "" if kind in CLUSTER_KINDS else metadata.get("namespace") or "default"
    return f"{kind}/{space}/{metadata['name']}"


def matches(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Whether a LabelSelector chooses labels; an empty one chooses all, None nothing.

    Raises:
        ValueError: an operator that is none.
    """
    if selector is None:
        return False
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(_expression(rule, labels) for rule in selector.get("matchExpressions") or ())


def _expression(rule: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value, values = labels.get(rule["key"]), rule.get("values") or ()
    match rule["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case other:
            raise ValueError(f"{other!r} is no operator of a selector: In, NotIn, Exists or DoesNotExist")


@dataclass(frozen=True, kw_only=True, slots=True)
class PodView:
    """A pod as the rest of the cluster sees it.

    Attributes:
        host_network: whether it has the node's address; policies do not reach it then.
        ready: whether it may get traffic.
        deleting: whether it is on its way out.
        ports: container ports by name.
    """

    name: str
    namespace: str
    labels: Mapping[str, str]
    address: str
    ready: bool
    deleting: bool = False
    host_network: bool = False
    ports: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cluster:
    """All objects, by key."""

    objects: Mapping[str, Json]

    def kind(self, kind: str) -> list[Json]:
        """Objects of one kind, by name."""
        return [item for key, item in sorted(self.objects.items()) if key.startswith(f"{kind}/")]

    def get(self, kind: str, namespace: str, name: str) -> Json | None:
        """One object."""
        return self.objects.get(f"{kind}/{namespace}/{name}")

    def namespace_labels(self, name: str) -> dict[str, str]:
        """A namespace's labels, with the one that every namespace has."""
        found = self.objects.get(f"Namespace//{name}")
        labels = dict((found or {}).get("metadata", {}).get("labels") or {})
        return {**labels, NAMESPACE_NAME: name}


def endpoints(service: Json, pods: Iterable[PodView]) -> list[PodView]:
    """The pods that a Service sends to: ready ones, else those that still serve while they end."""
    selector = service["spec"].get("selector")
    if not selector:
        return []
    space = service["metadata"].get("namespace") or "default"
    chosen = [
        pod for pod in pods if pod.namespace == space and pod.ready and matches({"matchLabels": selector}, pod.labels)
    ]
    staying = [pod for pod in chosen if not pod.deleting]
    return sorted(staying or chosen, key=lambda pod: pod.name)


def target_port(port: Mapping[str, Any], pod: PodView) -> int | None:
    """The port of a pod that a Service's port leads to; None where the pod has none of that name."""
    target = port.get("targetPort", port["port"])
    if isinstance(target, str) and not target.isdigit():
        return pod.ports.get(target)
    return int(target)


# -- addresses of load balancers ---------------------------------------------------------------------------------------


def is_balancer(service: Json) -> bool:
    """Whether Cilium gives a Service an address."""
    spec = service["spec"]
    return spec.get("type") == "LoadBalancer" and spec.get("loadBalancerClass") in (None, BALANCER_CLASS)


def _service_labels(service: Json) -> dict[str, str]:
    metadata = service["metadata"]
    own = {SERVICE_NAMESPACE: metadata.get("namespace") or "default", SERVICE_NAME: metadata["name"]}
    return {**(metadata.get("labels") or {}), **own}


def pool_addresses(pool: Json) -> Iterator[IPv4Address]:
    """Every address of a pool, in order."""
    ends = pool["spec"].get("allowFirstLastIPs") != "No"
    for block in pool["spec"].get("blocks") or ():
        if "cidr" in block:
            network = IPv4Network(block["cidr"])
            yield from (network if ends or network.prefixlen > 30 else network.hosts())
        else:
            first, last = IPv4Address(block["start"]), IPv4Address(block.get("stop") or block["start"])
            yield from (IPv4Address(number) for number in range(int(first), int(last) + 1))


def balancer_addresses(cluster: Cluster) -> dict[str, str]:
    """Addresses by key of LoadBalancer Services, as LB IPAM gives them: the one asked for, else a pool's first free."""
    pools = [pool for pool in cluster.kind("CiliumLoadBalancerIPPool") if not pool["spec"].get("disabled")]
    services = [service for service in cluster.kind("Service") if is_balancer(service)]
    # Those that ask for an address come first: nobody else may have taken it from the same pool.
    services.sort(key=lambda service: not _requested(service))
    given: dict[str, str] = {}
    for service in services:
        labels, wanted = _service_labels(service), _requested(service)
        for pool in pools:
            selector = pool["spec"].get("serviceSelector")
            if selector is not None and not matches(selector, labels):
                continue
            free = (str(address) for address in pool_addresses(pool) if str(address) not in given.values())
            address = next((text for text in free if not wanted or text in wanted), None)
            if address is not None:
                given[key_of(service)] = address
                break
    return given


def _requested(service: Json) -> list[str]:
    annotations = service["metadata"].get("annotations") or {}
    for name in ADDRESS_ANNOTATIONS:
        if annotations.get(name):
            return [word.strip() for word in annotations[name].split(",")]
    return []


def announced(cluster: Cluster, interfaces: Sequence[str], labels: Mapping[str, str]) -> dict[str, list[str]]:
    """Addresses that the node answers ARP for, with the interfaces on which it does."""
    found: dict[str, list[str]] = {}
    for key, address in balancer_addresses(cluster).items():
        service = cluster.objects[key]
        for policy in cluster.kind("CiliumL2AnnouncementPolicy"):
            spec = policy["spec"]
            if not spec.get("loadBalancerIPs"):
                continue
            if "serviceSelector" in spec and not matches(spec["serviceSelector"], _service_labels(service)):
                continue
            if "nodeSelector" in spec and not matches(spec["nodeSelector"], labels):
                continue
            wanted = spec.get("interfaces")
            names = [name for name in interfaces if not wanted or any(re.search(rule, name) for rule in wanted)]
            found[address] = sorted({*found.get(address, ()), *names})
    return {address: names for address, names in found.items() if names}


# -- scheduling --------------------------------------------------------------------------------------------------------


def unschedulable(pod: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    """Why the node does not take a pod; empty when it does."""
    wanted = pod.get("nodeSelector") or {}
    missing = {key: value for key, value in wanted.items() if labels.get(key) != value}
    if missing:
        return f"0/1 nodes are available: 1 node(s) didn't match Pod's node selector {json.dumps(missing)}"
    affinity = ((pod.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    if affinity and not any(matches(term, labels) for term in affinity["nodeSelectorTerms"]):
        return "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity"
    return ""


def template_hash(template: Mapping[str, Any]) -> str:
    """10 hex digits that change when, and only when, a pod template does."""
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:10]


# -- names -------------------------------------------------------------------------------------------------------------


def host_names(cluster: Cluster, pods: Sequence[PodView], domain: str) -> dict[str, list[str]]:
    """Addresses by host name, as the cluster's DNS has them: of a Service its own, of a headless one its pods'."""
    found = {}
    for service in cluster.kind("Service"):
        metadata, spec = service["metadata"], service["spec"]
        name = f"{metadata['name']}.{metadata.get('namespace') or 'default'}.svc.{domain}"
        if spec.get("clusterIP") == "None":
            found[name] = [pod.address for pod in endpoints(service, pods)]
        elif spec.get("clusterIP"):
            found[name] = [spec["clusterIP"]]
    return found


def is_address(text: str) -> bool:
    """Whether a text is an IPv4 address."""
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True
