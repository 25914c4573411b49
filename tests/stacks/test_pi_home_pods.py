"""Pods of the pi-home stack: what they may do, what they need, how they are replaced."""

import json
from typing import Any

import pytest

from infra.config_pi import EXAMPLE_DIGEST
from infra.graph import Graph
from tests.support.pi_home import ROLES, graph, objects, pods

CONTAINERS = tuple((name, name) for name in (*ROLES, "quakekube"))


def pod_and_container(name: str, container: str) -> tuple[dict[str, Any], dict[str, Any]]:
    pod = pods(quake=True)[name]
    assert {(owner, each["name"]) for owner, found in pods(quake=True).items() for each in found["containers"]} == set(
        CONTAINERS
    )
    return pod, next(each for each in pod["containers"] if each["name"] == container)


def test_the_namespace_admits_restricted_pods_only() -> None:
    labels = objects()["Namespace", "ztna"]["metadata"]["labels"]
    for mode in ("enforce", "audit", "warn"):
        assert labels[f"pod-security.kubernetes.io/{mode}"] == "restricted"


@pytest.mark.parametrize(("name", "inner"), CONTAINERS)
def test_containers_have_no_privilege_and_write_nowhere_but_in_scratch(name: str, inner: str) -> None:
    pod, container = pod_and_container(name, inner)
    own, whole = container["securityContext"], pod["securityContext"]
    assert own["capabilities"] == {"drop": ["ALL"]}
    assert (own["allowPrivilegeEscalation"], own["readOnlyRootFilesystem"], own["runAsNonRoot"]) == (False, True, True)
    assert own["seccompProfile"] == whole["seccompProfile"] == {"type": "RuntimeDefault"}
    assert whole["runAsNonRoot"] is True
    assert whole["runAsUser"] == whole["runAsGroup"] == whole["fsGroup"] != 0
    assert "hostNetwork" not in pod
    empty = {volume["name"] for volume in pod["volumes"] if "emptyDir" in volume}
    assert all(mount["name"] in empty or mount["readOnly"] for mount in container["volumeMounts"])
    assert all("sizeLimit" in volume["emptyDir"] for volume in pod["volumes"] if "emptyDir" in volume)


@pytest.mark.parametrize(("name", "inner"), CONTAINERS)
def test_containers_have_resources_and_an_image_by_digest(name: str, inner: str) -> None:
    _, container = pod_and_container(name, inner)
    assert container["image"].endswith(f"@{EXAMPLE_DIGEST}")
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}
    assert container["resources"]["limits"] == {"memory": container["resources"]["requests"]["memory"]}


@pytest.mark.parametrize("name", [*ROLES, "quakekube"])
def test_pods_hold_no_token_and_run_on_both_architectures(name: str) -> None:
    pod = pods(quake=True)[name]
    assert pod["automountServiceAccountToken"] is False
    assert objects(quake=True)["ServiceAccount", name]["automountServiceAccountToken"] is False
    assert pod["serviceAccountName"] == name
    required = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    (term,) = required["nodeSelectorTerms"]
    assert term["matchExpressions"] == [
        {"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64", "arm64"]}
    ]  # fmt: skip
    assert "kubernetes.io/arch" not in pod["nodeSelector"]


@pytest.mark.parametrize("role", ["intermediate", "connector"])
def test_the_kubelet_asks_healthz_and_readyz_where_the_role_listens(role: str) -> None:
    (container,) = pods()[role]["containers"]
    config = json.loads(objects()["ConfigMap", role]["data"][f"{role}.json"])
    assert config["metrics_addr"] == "0.0.0.0", "the kubelet asks from outside the pod"
    for probe, path in (("livenessProbe", "/healthz"), ("readinessProbe", "/readyz"), ("startupProbe", "/healthz")):
        assert container[probe]["httpGet"] == {"path": path, "port": config["metrics_port"]}


@pytest.mark.parametrize("name", ROLES)
def test_a_drain_of_the_node_is_let_through(name: str) -> None:
    budget = objects()["PodDisruptionBudget", name]["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["selector"]["matchLabels"] == objects()["Deployment", name]["spec"]["selector"]["matchLabels"]


def test_the_new_relay_is_there_before_the_old_one_goes_and_connectors_never_meet() -> None:
    relay, connector = objects()["Deployment", "intermediate"]["spec"], objects()["Deployment", "connector"]["spec"]
    assert relay["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    (container,) = relay["template"]["spec"]["containers"]
    drain_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert 0 < drain_s < relay["template"]["spec"]["terminationGracePeriodSeconds"]
    assert connector["strategy"] == {"type": "Recreate"}


def test_another_configuration_is_another_pod_template() -> None:
    def digests(found: Graph) -> dict[str, str]:
        return {
            node.name: node.inputs["spec"]["template"]["metadata"].get("annotations", {}).get("ztna/config-digest", "")
            for node in found.of_type("kubernetes:apps/v1:Deployment")
        }

    before, after = digests(graph()), digests(graph(logLevel="debug"))
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"intermediate-deployment", "connector-deployment"}


def test_up_waits_for_pods_and_address_unless_told_otherwise() -> None:
    def skipped(found: Graph) -> set[str]:
        annotated = [node for node in found.nodes if node.type.startswith("kubernetes:")]
        return {
            f"{node.inputs['kind']}/{node.inputs['metadata']['name']}"
            for node in annotated
            if node.inputs["metadata"].get("annotations", {}).get("pulumi.com/skipAwait") == "true"
        }

    assert skipped(graph()) == set()
    services = {f"Service/{name}" for name in ("intermediate", "intermediate-lan", "echo-server", "httpbin")}
    assert skipped(graph(awaitReady="false")) == services | {f"Deployment/{name}" for name in ROLES}
