"""What follows from objects: selectors, endpoints, addresses, announcements, scheduling, names."""

from typing import Any

import pytest

from infra.twin.k8s_objects import (
    Cluster,
    PodView,
    announced,
    balancer_addresses,
    endpoints,
    host_names,
    key_of,
    matches,
    target_port,
    template_hash,
    unschedulable,
)

LABELS = {"app": "web", "tier": "front"}


@pytest.mark.parametrize(
    ("selector", "chosen"),
    [
        ({}, True),
        (None, False),
        ({"matchLabels": {"app": "web"}}, True),
        ({"matchLabels": {"app": "web", "x": "y"}}, False),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "db"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}, False),
        ({"matchExpressions": [{"key": "gone", "operator": "NotIn", "values": ["web"]}]}, True),
        ({"matchExpressions": [{"key": "tier", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}, False),
    ],
)
def test_selectors(selector: dict[str, Any] | None, chosen: bool) -> None:
    assert matches(selector, LABELS) is chosen


def test_an_unknown_operator_is_an_error() -> None:
    with pytest.raises(ValueError, match="'Near'"):
        matches({"matchExpressions": [{"key": "a", "operator": "Near"}]}, LABELS)


def pod(name: str, *, ready: bool = True, deleting: bool = False, namespace: str = "shop") -> PodView:
    return PodView(
        name=name, namespace=namespace, labels=LABELS, address=f"10.42.0.{10 + len(name)}", ready=ready,
        deleting=deleting, ports={"http": 8080},
    )  # fmt: skip


def service(name: str = "web", **more: Any) -> dict[str, Any]:
    annotations = more.pop("annotations", {})
    spec = {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}], "clusterIP": "10.43.1.1", **more}
    return {
        "kind": "Service",
        "metadata": {"name": name, "namespace": "shop", "annotations": annotations},
        "spec": spec,
    }


def test_endpoints_are_ready_pods_and_ending_ones_only_where_no_other_is_left() -> None:
    first, second, ending = pod("a"), pod("bb", ready=False), pod("ccc", deleting=True)
    assert endpoints(service(), [first, second, ending, pod("dddd", namespace="other")]) == [first]
    assert endpoints(service(), [second, ending]) == [ending]
    assert endpoints(service(selector=None), [first]) == []


def test_target_ports_by_name_and_number() -> None:
    assert target_port({"port": 80, "targetPort": "http"}, pod("a")) == 8080
    assert target_port({"port": 80, "targetPort": "gone"}, pod("a")) is None
    assert target_port({"port": 80}, pod("a")) == 80


def cluster(*objects: dict[str, Any]) -> Cluster:
    return Cluster({key_of(item): item for item in objects})


def pool(*blocks: dict[str, str], **spec: Any) -> dict[str, Any]:
    return {"kind": "CiliumLoadBalancerIPPool", "metadata": {"name": "lan"}, "spec": {"blocks": list(blocks), **spec}}


def balancer(name: str, wanted: str = "", **more: Any) -> dict[str, Any]:
    annotations = {"lbipam.cilium.io/ips": wanted} if wanted else {}
    return service(name, type="LoadBalancer", annotations=annotations, **more)


def test_the_address_asked_for_is_given_though_another_service_could_have_it() -> None:
    given = balancer_addresses(
        cluster(
            pool({"start": "10.0.0.1", "stop": "10.0.0.2"}), balancer("a"), balancer("b", "10.0.0.1"), balancer("c")
        )
    )
    assert given == {"Service/shop/a": "10.0.0.2", "Service/shop/b": "10.0.0.1"}


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        (pool({"cidr": "10.0.0.0/30"}), "10.0.0.0"),
        (pool({"cidr": "10.0.0.0/30"}, allowFirstLastIPs="No"), "10.0.0.1"),
        (pool({"cidr": "10.0.0.5/32"}, allowFirstLastIPs="No"), "10.0.0.5"),
        (pool({"cidr": "10.0.0.0/30"}, disabled=True), None),
        (
            pool({"cidr": "10.0.0.0/30"}, serviceSelector={"matchLabels": {"io.kubernetes.service.namespace": "x"}}),
            None,
        ),
    ],
)
def test_pools(made: dict[str, Any], wanted: str | None) -> None:
    assert balancer_addresses(cluster(made, balancer("a"))).get("Service/shop/a") == wanted


def test_an_address_outside_of_the_pool_and_another_class_get_nothing() -> None:
    made = pool({"cidr": "10.0.0.0/30"})
    assert balancer_addresses(cluster(made, balancer("a", "10.0.1.1"))) == {}
    assert balancer_addresses(cluster(made, balancer("a", loadBalancerClass="other"))) == {}


@pytest.mark.parametrize(
    ("spec", "interfaces"),
    [
        ({"loadBalancerIPs": True}, ["eth0"]),
        ({"loadBalancerIPs": True, "interfaces": ["^eth[0-9]+", "^en.*"]}, ["eth0"]),
        ({"loadBalancerIPs": True, "interfaces": ["^wlan"]}, None),
        ({"loadBalancerIPs": False}, None),
        ({"loadBalancerIPs": True, "nodeSelector": {"matchLabels": {"kubernetes.io/hostname": "pi-2"}}}, None),
        ({"loadBalancerIPs": True, "serviceSelector": {"matchLabels": {"app": "db"}}}, None),
    ],
)
def test_an_address_is_announced_by_a_policy_that_chooses_service_node_and_interface(
    spec: dict[str, Any], interfaces: list[str] | None
) -> None:
    policy = {"kind": "CiliumL2AnnouncementPolicy", "metadata": {"name": "lan"}, "spec": spec}
    there = cluster(pool({"cidr": "10.0.0.5/32"}), balancer("a"), policy)
    assert announced(there, ("eth0",), {"kubernetes.io/hostname": "pi-1"}).get("10.0.0.5") == interfaces


def test_pods_that_the_node_does_not_take_say_why() -> None:
    node = {"kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux"}
    arch = {"key": "kubernetes.io/arch", "operator": "In", "values": ["arm64"]}
    required = {"nodeSelectorTerms": [{"matchExpressions": [arch]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    assert unschedulable({}, node) == ""
    assert unschedulable({"nodeSelector": {"kubernetes.io/os": "linux"}}, node) == ""
    assert "node selector" in unschedulable({"nodeSelector": {"disk": "ssd"}}, node)
    assert "node affinity" in unschedulable({"affinity": affinity}, node)
    arch["values"] = ["arm64", "amd64"]
    assert unschedulable({"affinity": affinity}, node) == ""


def test_names_are_of_services_and_a_headless_ones_are_its_pods() -> None:
    there = cluster(service(), service("each", clusterIP="None"))
    assert host_names(there, [pod("a")], "cluster.local") == {
        "web.shop.svc.cluster.local": ["10.43.1.1"],
        "each.shop.svc.cluster.local": ["10.42.0.11"],
    }


def test_a_template_has_a_hash_of_its_own() -> None:
    assert template_hash({"a": 1, "b": 2}) == template_hash({"b": 2, "a": 1}) != template_hash({"a": 1})
