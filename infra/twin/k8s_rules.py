"""The node's nftables rules, from Services, their endpoints and NetworkPolicies. Pure.

    prerouting, output   Service addresses -> pods (dstnat); a flow stays with the pod that it was given
    forward              what policies say of both pods, on their own addresses; answers always pass
    postrouting          pods leave with the node's address and any port (as flannel and Cilium masquerade); a pod that
                         meets itself behind a Service sees the node

Everything is one table that is replaced at once; conntrack keeps the flows that are under way.
"""

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any, Final

from infra.twin.k8s_cluster import LAN_INTERFACE, POD_INTERFACE, POD_NETWORK, SERVICE_NETWORK
from infra.twin.k8s_objects import (
    Cluster,
    Json,
    PodView,
    balancer_addresses,
    endpoints,
    key_of,
    matches,
    target_port,
)

TABLE: Final = "inet kube"
MASQUERADE_MARK: Final = "0x4000"


def ruleset(cluster: Cluster, pods: Sequence[PodView]) -> str:
    """Return the rules for `nft -f`.

    Args:
        cluster: every object.
        pods: every pod that has an address, ready or not.
    """
    balancers = balancer_addresses(cluster)
    services = [line for service in cluster.kind("Service") for line in _service(service, pods, balancers)]
    under, chains = _policies(cluster, pods)
    held = ", ".join(sorted(balancers.values()))
    inside = f"{{ {POD_NETWORK}, {SERVICE_NETWORK} }}"
    forward = [
        "ct state established,related accept",
        f"ip daddr {SERVICE_NETWORK} counter reject",
        *([f"ip daddr {{ {held} }} counter drop"] if held else []),
        *under["out"],
        *under["in"],
    ]
    leaving = [
        f"meta mark {MASQUERADE_MARK} masquerade",
        f'oifname "{LAN_INTERFACE}" ip saddr {POD_NETWORK} ip daddr != {inside} masquerade fully-random',
        *(f"ip saddr {pod.address} ip daddr {pod.address} masquerade" for pod in pods if not pod.host_network),
    ]
    return "\n".join(
        (
            f"table {TABLE}",
            f"delete table {TABLE}",
            f"table {TABLE} {{",
            *_chain("services", "", services),
            *_chain("prerouting", "type nat hook prerouting priority dstnat; policy accept;", ["jump services"]),
            *_chain("output", "type nat hook output priority -100; policy accept;", ["jump services"]),
            *_chain("postrouting", "type nat hook postrouting priority srcnat; policy accept;", leaving),
            *chains,
            *_chain("forward", "type filter hook forward priority filter; policy accept;", forward),
            *_chain(
                "input",
                "type filter hook input priority filter; policy accept;",
                ["ct state established,related accept", *under["out"]],
            ),
            "}",
        )
    )


def _chain(name: str, head: str, rules: Sequence[str]) -> list[str]:
    return [f"  chain {name} {{", *([f"    {head}"] if head else []), *(f"    {rule}" for rule in rules), "  }"]


# -- Services ----------------------------------------------------------------------------------------------------------


def _service(service: Json, pods: Sequence[PodView], balancers: Mapping[str, str]) -> list[str]:
    spec, lines = service["spec"], []
    behind = endpoints(service, pods)
    outside = balancers.get(key_of(service))
    for port in spec.get("ports") or ():
        protocol, number = str(port.get("protocol", "TCP")).lower(), int(port["port"])
        targets = [(pod.address, target) for pod in behind if (target := target_port(port, pod)) is not None]
        if not targets:
            continue
        to = _dnat(targets)
        if spec.get("clusterIP") not in (None, "None"):
            lines.append(f"ip daddr {spec['clusterIP']} {protocol} dport {number} {to}")
        if outside:
            arriving = f"ip daddr {outside} {protocol} dport {number}"
            if spec.get("externalTrafficPolicy") != "Local":
                lines.append(f'iifname "{LAN_INTERFACE}" {arriving} meta mark set {MASQUERADE_MARK} {to}')
            lines.append(f"{arriving} {to}")
    return lines


def _dnat(targets: Sequence[tuple[str, int]]) -> str:
    if len(targets) == 1:
        address, port = targets[0]
        return f"dnat ip to {address}:{port}"
    choices = ", ".join(f"{index} : {address} . {port}" for index, (address, port) in enumerate(targets))
    return f"dnat ip to numgen random mod {len(targets)} map {{ {choices} }}"


# -- NetworkPolicies ---------------------------------------------------------------------------------------------------


def _policies(cluster: Cluster, pods: Sequence[PodView]) -> tuple[dict[str, list[str]], list[str]]:
    """Jumps by direction for pods that policies choose, and the chains that they jump to."""
    policies = cluster.kind("NetworkPolicy")
    jumps: dict[str, list[str]] = {"in": [], "out": []}
    chains: list[str] = []
    for pod in pods:
        if pod.host_network:
            continue
        mine = [
            policy
            for policy in policies
            if (policy["metadata"].get("namespace") or "default") == pod.namespace
            and matches(policy["spec"]["podSelector"], pod.labels)
        ]
        name = pod.address.replace(".", "-")
        for way, kind, field, address in (("out", "Egress", "to", "saddr"), ("in", "Ingress", "from", "daddr")):
            of_kind = [policy for policy in mine if kind in _types(policy["spec"])]
            if not of_kind:
                continue
            rules = [line for policy in of_kind for line in _rules(cluster, policy, pods, kind.lower(), field)]
            chains += _chain(f"{way}-{name}", "", [*dict.fromkeys(rules), "counter drop"])
            jumps[way].append(f"ip {address} {pod.address} jump {way}-{name}")
    return jumps, chains


def _types(spec: Json) -> Sequence[str]:
    if spec.get("policyTypes"):
        return tuple(spec["policyTypes"])
    return ("Ingress", "Egress") if spec.get("egress") else ("Ingress",)


def _rules(cluster: Cluster, policy: Json, pods: Sequence[PodView], direction: str, field: str) -> list[str]:
    address = "daddr" if direction == "egress" else "saddr"
    space = policy["metadata"].get("namespace") or "default"
    lines = []
    for rule in policy["spec"].get(direction) or ():
        peers = rule.get(field)
        who = [""] if not peers else [text for peer in peers if (text := _peer(cluster, peer, space, pods, address))]
        what = [_port(port) for port in rule.get("ports") or ()] or [""]
        lines += [" ".join(word for word in (peer, port, "return") if word) for peer in who for port in what]
    return lines


def _peer(cluster: Cluster, peer: Json, space: str, pods: Sequence[PodView], address: str) -> str:
    """The addresses of a peer; empty where there are none."""
    block = peer.get("ipBlock")
    if block is not None:
        # For Cilium a block never means pods: they are known by their labels.
        without = ", ".join([*map(str, _apart(block.get("except") or ())), str(POD_NETWORK)])
        inside = "" if ipaddress.IPv4Network(block["cidr"]).prefixlen == 0 else f"ip {address} {block['cidr']} "
        return f"{inside}ip {address} != {{ {without} }}"
    chosen = []
    for pod in pods:
        if pod.host_network:
            continue
        if "namespaceSelector" in peer:
            if not matches(peer["namespaceSelector"], cluster.namespace_labels(pod.namespace)):
                continue
        elif pod.namespace != space:
            continue
        if "podSelector" not in peer or matches(peer["podSelector"], pod.labels):
            chosen.append(pod.address)
    return f"ip {address} {{ {', '.join(sorted(chosen))} }}" if chosen else ""


def _apart(networks: Sequence[str]) -> list[ipaddress.IPv4Network]:
    """Networks without overlaps, which an anonymous set does not take."""
    return list(ipaddress.collapse_addresses(ipaddress.IPv4Network(text) for text in networks))


def _port(port: Mapping[str, Any]) -> str:
    protocol = str(port.get("protocol", "TCP")).lower()
    if port.get("port") is None:
        return f"meta l4proto {protocol}"
    last = f"-{int(port['endPort'])}" if port.get("endPort") else ""
    return f"{protocol} dport {int(port['port'])}{last}"


# -- the LAN -----------------------------------------------------------------------------------------------------------


def announcement_script(addresses: Mapping[str, Sequence[str]]) -> str:
    """Return the shell script by which the node answers ARP for addresses and for no others; it may be run again.

    A proxy entry answers where the address would be routed elsewhere (arp(7), proxy_arp): so each has a route to the
    pods, where only what a Service translates arrives.
    """
    wanted = {address: names for address, names in addresses.items() if LAN_INTERFACE in names}
    kept = " ".join(sorted(wanted))
    return "\n".join(
        (
            *(f"ip route replace {address}/32 dev {POD_INTERFACE} proto 203" for address in sorted(wanted)),
            *(f"ip neigh replace proxy {address} dev {LAN_INTERFACE}" for address in sorted(wanted)),
            "for old in $(ip -4 route show proto 203 | cut -d' ' -f1); do",
            f"  case ' {kept} ' in *\" $old \"*) ;; *) ip route del $old proto 203",
            f"    ip neigh del proxy $old dev {LAN_INTERFACE} || true ;; esac",
            "done",
        )
    )
