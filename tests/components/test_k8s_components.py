"""The Kubernetes components by themselves: what each makes of its arguments, and what it leaves out."""

from dataclasses import replace
from typing import Any

import pulumi
import pytest

from components.k8s_backends import K8sBackend, K8sBackends, K8sBackendsArgs
from components.k8s_load_balancer import K8sLoadBalancer, K8sLoadBalancerArgs
from components.k8s_namespace import K8sNamespace, K8sNamespaceArgs
from components.k8s_network_policies import WORLD, K8sFlow, K8sNetworkPolicies, K8sNetworkPoliciesArgs
from components.k8s_pod import CONFIG_DIR, K8sContainer, K8sHealth, K8sPort, K8sSite
from components.k8s_role import K8sRole, K8sRoleArgs
from components.k8s_secrets import K8sSecrets, K8sSecretsArgs
from infra.k8s import CERTIFICATES_DIGEST, CONFIG_DIGEST, MEMBER_ANNOTATION, certificates_digest
from infra.wiring import STATE_DIR
from tests.support.pulumi_mocks import Recorder, record

SITE = K8sSite(namespace="home", stack="pi-home", run="blue", node_selector={"kubernetes.io/hostname": "pi-1"})
UDP, TCP = K8sPort(name="u", protocol="UDP", port=7), K8sPort(name="t", protocol="TCP", port=7)
CONTAINER = K8sContainer(name="c", image="i@sha256:0", command=("run",), ports=(UDP, TCP), health=K8sHealth(port=7))
PEMS = {"cert.pem": "CERT", "key.pem": "KEY", "ca.pem": "CA"}
SECRET = "4dabf18193072939515e22adb298388d"
"""The key by which the wire marks a secret."""


def made(make: Any) -> Recorder:
    """What a component registers; every custom resource must have it, or one of its children, as its parent."""
    recorder, _ = record(make, stack="pi-home")
    components = {found.name for found in recorder.resources if found.is_component}
    for found in recorder.resources:
        if not found.is_component:
            assert recorder.parents[found.name].rpartition("::")[2] in components
    return recorder


def role(**changes: Any) -> Recorder:
    args = replace(K8sRoleArgs(site=SITE, containers=(CONTAINER,)), **changes)
    return made(lambda: K8sRole("relay", args).host)


def kinds(recorder: Recorder) -> list[str]:
    return sorted(found.type.rpartition(":")[2] for found in recorder.resources if not found.is_component)


def pod(recorder: Recorder) -> dict[str, Any]:
    template: dict[str, Any] = recorder.of_type("Deployment")["relay-deployment"]["spec"]["template"]
    return template


def test_a_role_without_files_and_ports_has_neither_config_map_nor_service() -> None:
    recorder = role(containers=(replace(CONTAINER, ports=()),))
    assert kinds(recorder) == ["Deployment", "PodDisruptionBudget", "ServiceAccount"]
    assert [volume["name"] for volume in pod(recorder)["spec"]["volumes"]] == ["tmp"]
    assert CONFIG_DIGEST not in pod(recorder)["metadata"].get("annotations", {})


def test_a_role_is_reached_under_its_name_on_all_its_ports() -> None:
    recorder, host = record(lambda: K8sRole("relay", K8sRoleArgs(site=SITE, containers=(CONTAINER,))).host)
    assert host == "relay.home.svc"
    spec = recorder.of_type("Service")["relay-service"]["spec"]
    assert [(port["protocol"], port["port"]) for port in spec["ports"]] == [("UDP", 7), ("TCP", 7)]
    assert spec["type"] == "ClusterIP"
    assert spec["selector"].items() <= pod(recorder)["metadata"]["labels"].items()


def test_labels_carry_the_tags_and_the_selector_leaves_the_run_out() -> None:
    recorder = role()
    labels = pod(recorder)["metadata"]["labels"]
    assert {"project": "ztna", "stack": "pi-home", "run": "blue", "component": "relay"}.items() <= labels.items()
    selector = recorder.of_type("Deployment")["relay-deployment"]["spec"]["selector"]["matchLabels"]
    assert selector == {"app.kubernetes.io/name": "relay", "app.kubernetes.io/part-of": "ztna"}


def test_files_stand_where_they_say_they_do() -> None:
    recorder = role(files={"relay.json": f'{{"key_path": "{STATE_DIR}/key.pem"}}'})
    data = recorder.of_type("ConfigMap")["relay-config"]["data"]
    assert data == {"relay.json": f'{{"key_path": "{CONFIG_DIR}/key.pem"}}'}
    (mount,) = [each for each in pod(recorder)["spec"]["containers"][0]["volumeMounts"] if each["name"] == "config"]
    assert mount == {"name": "config", "mountPath": CONFIG_DIR, "readOnly": True}


def test_a_changed_file_is_another_digest() -> None:
    digests = {pod(role(files={"a": text}))["metadata"]["annotations"][CONFIG_DIGEST] for text in ("1", "2", "2")}
    assert len(digests) == 2


@pytest.mark.parametrize(("replacement", "kind"), [("surge", "RollingUpdate"), ("recreate", "Recreate")])
def test_replacement_is_what_was_asked_for(replacement: str, kind: str) -> None:
    strategy = role(replacement=replacement).of_type("Deployment")["relay-deployment"]["spec"]["strategy"]
    assert strategy["type"] == kind
    assert ("rollingUpdate" in strategy) == (kind == "RollingUpdate")


def test_draining_comes_before_the_end_and_within_the_grace() -> None:
    spec = pod(role(drain_s=4))["spec"]
    assert spec["containers"][0]["lifecycle"] == {"preStop": {"sleep": {"seconds": 4}}}
    assert spec["terminationGracePeriodSeconds"] == 19
    assert "lifecycle" not in pod(role())["spec"]["containers"][0]


def test_health_is_a_path_or_a_port() -> None:
    tcp = pod(role())["spec"]["containers"][0]
    assert tcp["livenessProbe"]["tcpSocket"] == {"port": 7}
    paths = K8sHealth(port=9, alive="/healthz", ready="/readyz", start_s=40)
    http = pod(role(containers=(replace(CONTAINER, health=paths),)))["spec"]["containers"][0]
    assert http["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": 9}
    assert http["startupProbe"]["failureThreshold"] * http["startupProbe"]["periodSeconds"] == 40
    none = pod(role(containers=(replace(CONTAINER, health=None),)))["spec"]["containers"][0]
    assert not [key for key in none if key.endswith("Probe")]


def test_containers_of_a_pod_share_scratch_by_path() -> None:
    two = tuple(replace(CONTAINER, name=name, ports=(), scratch=("/tmp", "/var/data")) for name in ("a", "b"))
    spec = pod(role(containers=two))["spec"]
    assert [volume["name"] for volume in spec["volumes"]] == ["tmp", "var-data"]


def test_secrets_are_marked_and_name_their_member() -> None:
    def program() -> Any:
        secrets = K8sSecrets("s", K8sSecretsArgs(site=SITE, members={"relay": pulumi.Output.secret(PEMS)}))
        return secrets.certificates("relay").digest.is_secret()

    recorder, is_secret = record(program, stack="pi-home")
    secret = recorder.of_type("Secret")["s-relay"]
    assert secret["stringData"][SECRET]
    assert secret["stringData"]["value"] == {"tls.crt": "CERT", "tls.key": "KEY", "ca.crt": "CA"}
    assert secret["metadata"]["annotations"] == {MEMBER_ANNOTATION: "relay"}
    assert secret["type"] == "kubernetes.io/tls"
    assert is_secret is False, "the digest stands in a pod's annotations"


def test_a_pod_mounts_the_certificates_beside_its_files_and_rolls_with_them() -> None:
    def program() -> Any:
        secrets = K8sSecrets("s", K8sSecretsArgs(site=SITE, members={"relay": pulumi.Output.secret(PEMS)}))
        files = {"relay.json": "{}"}
        return K8sRole(
            "relay",
            K8sRoleArgs(site=SITE, containers=(CONTAINER,), files=files, certificates=secrets.certificates("relay")),
        ).host

    template = pod(made(program))
    assert template["metadata"]["annotations"][CERTIFICATES_DIGEST] == certificates_digest(PEMS)
    (volume,) = [each["projected"] for each in template["spec"]["volumes"] if "projected" in each]
    assert volume["defaultMode"] == 0o440
    assert [next(iter(source)) for source in volume["sources"]] == ["configMap", "secret"]


def test_policies_show_both_ends_of_a_flow() -> None:
    flows = [K8sFlow(source="a", target="b", ports=(UDP,)), K8sFlow(source=WORLD, target="a", ports=(TCP,))]
    args = K8sNetworkPoliciesArgs(site=SITE, components=("a", "b"), flows=flows)
    found = made(lambda: K8sNetworkPolicies("p", args).names).of_type("NetworkPolicy")
    a, b = found["p-a"]["spec"], found["p-b"]["spec"]
    assert a["egress"][0]["to"] == [{"podSelector": {"matchLabels": SITE.selector("b")}}]
    assert b["ingress"][0]["from"] == [{"podSelector": {"matchLabels": SITE.selector("a")}}]
    assert a["ingress"][0]["from"] == [{"ipBlock": {"cidr": "0.0.0.0/0"}}]
    assert "egress" not in b
    assert b["policyTypes"] == ["Ingress", "Egress"]
    assert found["p-default-deny"]["spec"]["podSelector"] == {}


def test_the_load_balancer_waits_for_its_pool_and_its_announcement() -> None:
    args = K8sLoadBalancerArgs(
        site=SITE, component="relay", address="192.0.2.1", block={"cidr": "192.0.2.1/32"}, pool_version="v2",
        interfaces=("eth0",), ports=(UDP,), traffic_policy="Local",
    )  # fmt: skip
    recorder = made(lambda: K8sLoadBalancer("lan", args).address)
    assert kinds(recorder) == ["CiliumL2AnnouncementPolicy", "CiliumLoadBalancerIPPool", "Service"]
    assert [found.name for found in recorder.resources][-1] == "lan-service"
    policy = recorder.of_type("CiliumL2AnnouncementPolicy")["lan-announcement"]["spec"]
    assert policy["nodeSelector"] == {"matchLabels": {"kubernetes.io/hostname": "pi-1"}}


def test_the_namespace_is_the_sites() -> None:
    found = made(lambda: K8sNamespace("n", K8sNamespaceArgs(site=SITE)).namespace).of_type("Namespace")
    assert found["n-namespace"]["metadata"]["name"] == "home"


def test_backends_are_roles_of_their_own_below_one_component() -> None:
    backends = tuple(K8sBackend(name=name, containers=(CONTAINER,)) for name in ("one", "two"))
    recorder = made(lambda: K8sBackends("b", K8sBackendsArgs(site=SITE, backends=backends)).names)
    assert {"one-deployment", "two-deployment"} == recorder.of_type("Deployment").keys()
    assert recorder.parents["one"].endswith("::b")
