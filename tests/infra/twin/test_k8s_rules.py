"""The node's rules as text; what they do to packets is shown by test_k8s_node.py."""

from typing import Any

from infra.twin.k8s_network import system_objects, system_pods
from infra.twin.k8s_objects import Cluster, PodView, key_of
from infra.twin.k8s_rules import announcement_script, ruleset
from tests.support.pi_home import objects

HELD = "10.0.150.205"


def pod(name: str, last: int, *, ready: bool = True, host_network: bool = False) -> PodView:
    labels = {"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "ztna"}
    address = "10.0.150.11" if host_network else f"10.42.0.{last}"
    return PodView(name=name, namespace="ztna", labels=labels, address=address, ready=ready, host_network=host_network)


RELAY, CONNECTOR, ECHO = pod("intermediate", 10), pod("connector", 11), pod("echo-server", 12)


def pi_home(**services: dict[str, Any]) -> Cluster:
    """The objects of pi-home, Services with an address each as the API server gives it."""
    found = {key_of(item): dict(item) for item in objects().values()}
    for number, (key, item) in enumerate(sorted(found.items())):
        if item["kind"] == "Service":
            changed = services.get(item["metadata"]["name"].replace("-", "_"), {})
            found[key] = {**item, "spec": {"clusterIP": f"10.43.1.{number}", **item["spec"], **changed}}
    return Cluster({**system_objects(), **found})


def lines(cluster: Cluster, pods: list[PodView]) -> list[str]:
    return [line.strip() for line in ruleset(cluster, [*system_pods(), *pods]).splitlines()]


def chain(found: list[str], name: str) -> list[str]:
    start = found.index(f"chain {name} {{") + 1
    return found[start : found.index("}", start)]


def test_services_lead_to_ready_pods_and_the_lan_keeps_its_source() -> None:
    found = chain(lines(pi_home(), [RELAY, CONNECTOR, ECHO]), "services")
    assert f"ip daddr {HELD} udp dport 4433 dnat ip to 10.42.0.10:4433" in found
    assert "ip daddr 10.43.0.10 udp dport 53 dnat ip to 10.42.0.2:53" in found
    assert not [line for line in found if "mark" in line]
    assert not [line for line in found if "10.42.0.12:4433" in line]


def test_traffic_policy_cluster_marks_what_comes_from_outside() -> None:
    found = lines(pi_home(intermediate_lan={"externalTrafficPolicy": "Cluster"}), [RELAY])
    plain, to = f"ip daddr {HELD} udp dport 4433", "dnat ip to 10.42.0.10:4433"
    services = chain(found, "services")
    assert services.index(f'iifname "eth0" {plain} meta mark set 0x4000 {to}') < services.index(f"{plain} {to}")
    assert "meta mark 0x4000 masquerade" in chain(found, "postrouting")


def test_two_pods_share_new_flows_and_an_unready_one_gets_none() -> None:
    more = [RELAY, pod("intermediate", 20), pod("intermediate", 21, ready=False)]
    found = chain(lines(pi_home(), more), "services")
    choice = "dnat ip to numgen random mod 2 map { 0 : 10.42.0.10 . 4433, 1 : 10.42.0.20 . 4433 }"
    assert f"ip daddr {HELD} udp dport 4433 {choice}" in found


def test_a_service_without_pods_is_refused_and_other_ports_of_the_address_are_dropped() -> None:
    found = lines(pi_home(), [])
    assert not [line for line in chain(found, "services") if HELD in line]
    forward = chain(found, "forward")
    assert "ip daddr 10.43.0.0/16 counter reject" in forward
    assert f"ip daddr {{ {HELD} }} counter drop" in forward


def test_policies_of_a_pod_are_its_own_and_the_default() -> None:
    found = lines(pi_home(), [RELAY, CONNECTOR, ECHO])
    assert chain(found, "in-10-42-0-12") == [
        "ip saddr { 10.42.0.11 } udp dport 9999 return",
        "ip saddr { 10.42.0.11 } tcp dport 9999 return",
        "counter drop",
    ]
    assert chain(found, "out-10-42-0-12") == ["counter drop"]
    assert chain(found, "in-10-42-0-10") == [
        "ip saddr != { 10.42.0.0/24 } udp dport 4433 return",
        "ip saddr != { 10.42.0.0/24 } udp dport 4434 return",
        "ip saddr { 10.42.0.11 } udp dport 4433 return",
        "counter drop",
    ]
    out = chain(found, "out-10-42-0-11")
    assert "ip daddr { 10.42.0.2 } udp dport 53 return" in out
    assert "ip daddr != { 10.42.0.0/24 } meta l4proto udp return" in out
    forward = chain(found, "forward")
    assert forward.index("ip saddr 10.42.0.11 jump out-10-42-0-11") < forward.index(
        "ip daddr 10.42.0.10 jump in-10-42-0-10"
    )
    assert forward[1] == "ct state established,related accept"
    assert not [line for line in found if "in-10-42-0-2 " in line], "no policy is in the namespace of the DNS"


def test_pods_of_the_nodes_network_are_under_no_policy_and_leave_as_the_node() -> None:
    found = lines(pi_home(), [RELAY, pod("connector", 0, host_network=True)])
    assert not [line for line in found if "10-0-150-11" in line]
    assert "ip saddr 10.0.150.11 ip daddr 10.0.150.11 masquerade" not in chain(found, "postrouting")
    masquerade = (
        'oifname "eth0" ip saddr 10.42.0.0/24 ip daddr != { 10.42.0.0/24, 10.43.0.0/16 } masquerade fully-random'
    )
    assert masquerade in chain(found, "postrouting")


def policy(**spec: Any) -> Cluster:
    made = {
        "kind": "NetworkPolicy",
        "metadata": {"name": "p", "namespace": "ztna"},
        "spec": {"podSelector": {}, **spec},
    }
    return Cluster({key_of(made): made})


def test_peers_of_other_namespaces_blocks_and_ranges_of_ports() -> None:
    peers = [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}},
        {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.1.2.0/24"]}},
        {"podSelector": {"matchLabels": {"nobody": "is"}}},
    ]
    ports = [{"protocol": "TCP", "port": 80, "endPort": 90}]
    found = lines(policy(policyTypes=["Egress"], egress=[{"to": peers, "ports": ports}, {}]), [ECHO])
    assert chain(found, "out-10-42-0-12") == [
        "ip daddr { 10.42.0.2 } tcp dport 80-90 return",
        "ip daddr 10.0.0.0/8 ip daddr != { 10.1.0.0/16, 10.42.0.0/24 } tcp dport 80-90 return",
        "return",
        "counter drop",
    ]
    assert "chain in-10-42-0-12 {" not in found


def test_types_follow_from_the_rules_where_none_are_named() -> None:
    assert "chain out-10-42-0-12 {" not in lines(policy(ingress=[]), [ECHO])
    assert "chain out-10-42-0-12 {" in lines(policy(egress=[{}]), [ECHO])


def test_the_node_answers_for_what_is_announced_and_takes_back_the_rest() -> None:
    text = announcement_script({"10.0.150.205": ["eth0"], "10.0.150.206": ["wlan0"]})
    assert "ip route replace 10.0.150.205/32 dev eth1 proto 203" in text
    assert "ip neigh replace proxy 10.0.150.205 dev eth0" in text
    assert "206" not in text
    assert "case ' 10.0.150.205 ' in" in text
