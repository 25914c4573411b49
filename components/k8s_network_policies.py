"""Who may talk to whom in the namespace: nobody, but for the flows named here.

Source: kubernetes.io/docs/concepts/services-networking/network-policies. Answers to what was let in or out pass by
themselves, and the node that runs a pod always reaches it: so the kubelet's probes need no opening.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pulumi
from pulumi_kubernetes.meta import v1 as meta
from pulumi_kubernetes.networking import v1 as net

from components.k8s_pod import K8sPort, K8sSite
from infra import naming

WORLD: Final = "world"
"""Either end of a flow: every IPv4 address. For Cilium these are addresses outside the cluster only."""
BOTH: Final = ("Ingress", "Egress")
DNS: Final = (K8sPort(name="dns", protocol="UDP", port=53), K8sPort(name="dns-tcp", protocol="TCP", port=53))


@dataclass(frozen=True, kw_only=True, slots=True)
class K8sFlow:
    """Packets that may pass: from pods of one component (or WORLD) to ports of another's."""

    source: str
    target: str
    ports: tuple[K8sPort, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class K8sNetworkPoliciesArgs:
    """The flows of a namespace.

    Attributes:
        components: those that have pods.
        resolvers: those of them that look up names in the cluster's DNS.
        udp_out: those of them that send UDP to WORLD, on any port; nothing but answers comes in by it.
    """

    site: K8sSite
    components: Sequence[str]
    flows: Sequence[K8sFlow]
    resolvers: Sequence[str] = ()
    udp_out: Sequence[str] = ()
    after: tuple[pulumi.Resource, ...] = ()


class K8sNetworkPolicies(pulumi.ComponentResource):
    """Default deny in both directions, and for each component what it may take and send.

    Children: NetworkPolicy x (1 + components). Outputs: `names`. It makes no policy of Cilium's own kinds.
    """

    names: pulumi.Output[list[str]]

    def __init__(self, name: str, args: K8sNetworkPoliciesArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(naming.component_token("K8sNetworkPolicies"), name, {}, opts)
        child = pulumi.ResourceOptions(parent=self, depends_on=list(args.after))
        # An empty list of rules is left out: with the policy type named, nothing passes either way, and the API server
        # drops it, so that it would look changed for ever.
        net.NetworkPolicy(
            naming.child_name(name, "default-deny"),
            metadata=_metadata(args.site, "default-deny"),
            spec=net.NetworkPolicySpecArgs(pod_selector=meta.LabelSelectorArgs(), policy_types=BOTH),
            opts=child,
        )
        for component in args.components:
            net.NetworkPolicy(
                naming.child_name(name, component),
                metadata=_metadata(args.site, component),
                spec=net.NetworkPolicySpecArgs(
                    pod_selector=meta.LabelSelectorArgs(match_labels=args.site.selector(component)),
                    policy_types=BOTH,
                    ingress=_ingress(args, component) or None,
                    egress=_egress(args, component) or None,
                ),
                opts=child,
            )
        self.names = pulumi.Output.from_input(["default-deny", *args.components])
        self.register_outputs({"names": self.names})


def _metadata(site: K8sSite, component: str) -> meta.ObjectMetaArgs:
    return meta.ObjectMetaArgs(name=component, namespace=site.namespace, labels=site.labels(component))


def _ingress(args: K8sNetworkPoliciesArgs, component: str) -> list[net.NetworkPolicyIngressRuleArgs]:
    return [
        net.NetworkPolicyIngressRuleArgs(from_=[_peer(args.site, flow.source)], ports=_ports(flow.ports))
        for flow in args.flows
        if flow.target == component
    ]


def _egress(args: K8sNetworkPoliciesArgs, component: str) -> list[net.NetworkPolicyEgressRuleArgs]:
    rules = [
        net.NetworkPolicyEgressRuleArgs(to=[_peer(args.site, flow.target)], ports=_ports(flow.ports))
        for flow in args.flows
        if flow.source == component
    ]
    if component in args.udp_out:
        udp = [net.NetworkPolicyPortArgs(protocol="UDP")]
        rules.append(net.NetworkPolicyEgressRuleArgs(to=[_peer(args.site, WORLD)], ports=udp))
    return rules + [_dns()] * (component in args.resolvers)


def _peer(site: K8sSite, component: str) -> net.NetworkPolicyPeerArgs:
    if component == WORLD:
        return net.NetworkPolicyPeerArgs(ip_block=net.IPBlockArgs(cidr="0.0.0.0/0"))
    return net.NetworkPolicyPeerArgs(pod_selector=meta.LabelSelectorArgs(match_labels=site.selector(component)))


def _ports(ports: Sequence[K8sPort]) -> list[net.NetworkPolicyPortArgs]:
    return [net.NetworkPolicyPortArgs(protocol=port.protocol, port=port.port) for port in ports]


def _dns() -> net.NetworkPolicyEgressRuleArgs:
    """The cluster's DNS, by the labels that it has in every distribution (k8s-app=kube-dns also for CoreDNS)."""
    peer = net.NetworkPolicyPeerArgs(
        namespace_selector=meta.LabelSelectorArgs(match_labels={"kubernetes.io/metadata.name": "kube-system"}),
        pod_selector=meta.LabelSelectorArgs(match_labels={"k8s-app": "kube-dns"}),
    )
    return net.NetworkPolicyEgressRuleArgs(to=[peer], ports=_ports(DNS))
