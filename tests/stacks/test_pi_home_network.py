"""What the LAN and the pods of the pi-home stack reach: the address, its announcement, the NetworkPolicies."""

import pytest

from tests.support.pi_home import graph, objects, pods, port_list


def test_the_relay_is_reached_at_the_configured_address_by_both_annotations() -> None:
    annotations = objects()["Service", "intermediate-lan"]["metadata"]["annotations"]
    assert annotations == {"lbipam.cilium.io/ips": "10.0.150.205", "io.cilium/lb-ipam-ips": "10.0.150.205"}


def test_udp_4433_and_4434_are_what_the_lan_reaches_and_nothing_else() -> None:
    services = [each for (kind, _), each in objects(True).items() if kind == "Service"]
    (service,) = [each for each in services if each["spec"]["type"] != "ClusterIP"]
    assert port_list(service["spec"]["ports"]) == ["UDP/4433", "UDP/4434"]
    assert service["spec"]["allocateLoadBalancerNodePorts"] is False
    assert service["spec"]["loadBalancerClass"] == "io.cilium/l2-announcer"
    assert service["spec"]["selector"]["app.kubernetes.io/name"] == "intermediate"


def test_the_traffic_policy_is_local_or_the_observed_address_would_lie() -> None:
    assert objects()["Service", "intermediate-lan"]["spec"]["externalTrafficPolicy"] == "Local"


def test_the_pool_serves_this_namespace_only_and_holds_the_address() -> None:
    spec = objects()["CiliumLoadBalancerIPPool", "ztna"]["spec"]
    assert spec["blocks"] == [{"cidr": "10.0.150.205/32"}]
    assert spec["serviceSelector"] == {"matchLabels": {"io.kubernetes.service.namespace": "ztna"}}


def test_a_range_and_the_older_version_of_the_pool_come_from_config() -> None:
    (node,) = graph(pool="10.0.150.200-10.0.150.210", ciliumPoolVersion="v2alpha1").of_type(
        "kubernetes:cilium.io/v2alpha1:CiliumLoadBalancerIPPool"
    )
    assert node.inputs["apiVersion"] == "cilium.io/v2alpha1"
    assert node.inputs["spec"]["blocks"] == [{"start": "10.0.150.200", "stop": "10.0.150.210"}]


def test_the_announcing_nodes_are_those_that_run_the_relay() -> None:
    spec = objects(quake=True)["CiliumL2AnnouncementPolicy", "ztna"]["spec"]
    assert spec["nodeSelector"] == {"matchLabels": {"kubernetes.io/hostname": "pi-1"}}
    assert pods(quake=True)["intermediate"]["nodeSelector"]["kubernetes.io/hostname"] == "pi-1"
    assert (spec["loadBalancerIPs"], spec["externalIPs"]) == (True, False)
    assert spec["interfaces"] == ["^eth[0-9]+", "^en.*"]
    assert "nodeSelector" not in objects()["CiliumL2AnnouncementPolicy", "ztna"]["spec"]


def rules(name: str, direction: str) -> list[tuple[str, list[str]]]:
    """Peers and ports of a NetworkPolicy in one direction."""
    peer_key = "from" if direction == "ingress" else "to"
    found = []
    for rule in objects()["NetworkPolicy", name]["spec"].get(direction, []):
        (peer,) = rule[peer_key]
        if "ipBlock" in peer:
            who = peer["ipBlock"]["cidr"]
        else:
            who = " ".join(
                label
                for key in ("namespaceSelector", "podSelector")
                for label_key, label in peer.get(key, {"matchLabels": {}})["matchLabels"].items()
                if label_key != "app.kubernetes.io/part-of"
            )
        found.append((who, port_list(rule["ports"])))
    return found


def test_by_default_nothing_passes() -> None:
    spec = objects()["NetworkPolicy", "default-deny"]["spec"]
    assert spec["podSelector"] == {}
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in spec
    assert "egress" not in spec


def test_the_relay_takes_udp_from_everywhere_and_sends_nothing_of_itself() -> None:
    assert rules("intermediate", "ingress") == [("0.0.0.0/0", ["UDP/4433", "UDP/4434"]), ("connector", ["UDP/4433"])]
    assert rules("intermediate", "egress") == []


def test_the_connector_reaches_relay_backends_and_dns_and_is_reached_by_nobody() -> None:
    assert rules("connector", "ingress") == []
    assert rules("connector", "egress") == [
        ("intermediate", ["UDP/4433"]),
        ("echo-server", ["UDP/9999", "TCP/9999"]),
        ("httpbin", ["TCP/8080"]),
        ("0.0.0.0/0", ["UDP"]),  # direct paths: peers have any port
        ("kube-system kube-dns", ["UDP/53", "TCP/53"]),
    ]


@pytest.mark.parametrize(("name", "opened"), [("echo-server", ["UDP/9999", "TCP/9999"]), ("httpbin", ["TCP/8080"])])
def test_backends_are_reached_by_the_connector_alone_and_reach_nobody(name: str, opened: list[str]) -> None:
    assert rules(name, "ingress") == [("connector", opened)]
    assert rules(name, "egress") == []


def test_every_pod_is_under_a_policy_of_its_own() -> None:
    for name, deployment in ((name, each) for (kind, name), each in objects(True).items() if kind == "Deployment"):
        chosen = objects(True)["NetworkPolicy", name]["spec"]["podSelector"]["matchLabels"]
        assert chosen == deployment["spec"]["selector"]["matchLabels"]
        assert chosen.items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
