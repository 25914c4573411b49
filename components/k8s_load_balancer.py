"""One address on the LAN for the relay: Cilium gives it to a Service and announces it by ARP.

Sources: docs.cilium.io/en/stable/network/lb-ipam, docs.cilium.io/en/stable/network/l2-announcements.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pulumi
from pulumi_kubernetes.apiextensions import CustomResource
from pulumi_kubernetes.core import v1 as core
from pulumi_kubernetes.meta import v1 as meta

from components.k8s_pod import K8sPort, K8sSite
from infra import naming

ADDRESS_ANNOTATIONS: Final = ("lbipam.cilium.io/ips", "io.cilium/lb-ipam-ips")
"""Both names of the annotation that asks LB IPAM for an address: of Cilium 1.15 and later, and the one before it."""
BALANCER_CLASS: Final = "io.cilium/l2-announcer"
"""Cilium's own; other controllers of LoadBalancer Services, such as ServiceLB of k3s, leave this class alone."""
L2_POLICY_VERSION: Final = "cilium.io/v2alpha1"
NAMESPACE_LABEL: Final = "io.kubernetes.service.namespace"
"""By this key Cilium's selectors match the namespace of a Service."""


@dataclass(frozen=True, kw_only=True, slots=True)
class K8sLoadBalancerArgs:
    """An address for a component's pods.

    Attributes:
        component: whose pods take the packets.
        address: the IPv4 address, within `block`.
        block: the addresses of the pool: `cidr`, or `start` and `stop`.
        pool_version: v2, or v2alpha1 before Cilium knew v2.
        interfaces: regular expressions of the interfaces on which nodes announce it.
        traffic_policy: `externalTrafficPolicy`; only Local keeps the source address of the packets.
    """

    site: K8sSite
    component: str
    address: str
    block: Mapping[str, str]
    pool_version: str
    interfaces: Sequence[str]
    ports: tuple[K8sPort, ...]
    traffic_policy: str
    after: tuple[pulumi.Resource, ...] = ()


class K8sLoadBalancer(pulumi.ComponentResource):
    """A Service of type LoadBalancer with a fixed address.

    Children: CiliumLoadBalancerIPPool x 1, CiliumL2AnnouncementPolicy x 1, Service x 1. Output: `address`.
    Pool and policy serve this namespace's Services only. It opens no port on the nodes' own addresses and makes no
    NetworkPolicy.
    """

    address: pulumi.Output[str]

    def __init__(self, name: str, args: K8sLoadBalancerArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(naming.component_token("K8sLoadBalancer"), name, {}, opts)
        child = pulumi.ResourceOptions(parent=self, depends_on=list(args.after))
        site = args.site
        labels = site.labels(args.component)
        cluster_wide = meta.ObjectMetaArgs(name=site.namespace, labels=labels)
        chosen = {"matchLabels": {NAMESPACE_LABEL: site.namespace}}
        pool = CustomResource(
            naming.child_name(name, "pool"),
            api_version=f"cilium.io/{args.pool_version}",
            kind="CiliumLoadBalancerIPPool",
            metadata=cluster_wide,
            spec={"blocks": [dict(args.block)], "allowFirstLastIPs": "Yes", "serviceSelector": chosen},
            opts=child,
        )
        nodes = {"nodeSelector": {"matchLabels": dict(site.node_selector)}} if site.node_selector else {}
        announcement = CustomResource(
            naming.child_name(name, "announcement"),
            api_version=L2_POLICY_VERSION,
            kind="CiliumL2AnnouncementPolicy",
            metadata=cluster_wide,
            spec={
                "serviceSelector": chosen,
                **nodes,
                "interfaces": list(args.interfaces),
                "loadBalancerIPs": True,
                "externalIPs": False,
            },
            opts=child,
        )
        core.Service(
            naming.child_name(name, "service"),
            metadata=meta.ObjectMetaArgs(
                name=f"{args.component}-lan",
                namespace=site.namespace,
                labels=labels,
                annotations={**dict.fromkeys(ADDRESS_ANNOTATIONS, args.address), **site.await_annotations},
            ),
            spec=core.ServiceSpecArgs(
                type="LoadBalancer",
                load_balancer_class=BALANCER_CLASS,
                external_traffic_policy=args.traffic_policy,
                allocate_load_balancer_node_ports=False,
                ip_family_policy="SingleStack",
                ip_families=["IPv4"],
                selector=site.selector(args.component),
                ports=[
                    core.ServicePortArgs(name=port.name, protocol=port.protocol, port=port.port, target_port=port.port)
                    for port in args.ports
                ],
            ),
            opts=pulumi.ResourceOptions(parent=self, depends_on=[*args.after, pool, announcement]),
        )
        self.address = pulumi.Output.from_input(args.address)
        self.register_outputs({"address": self.address})
