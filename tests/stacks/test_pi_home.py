"""The pi-home stack: what it declares, by a preview without a cluster; what it promises, by a recorder."""

import datetime as dt
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from infra import http_probe, ports, traversal
from infra.cli_render import StackSource
from infra.config_pi import pi_config, pi_overlay
from infra.graph import Graph, Node, is_secret, reveal
from infra.outputs import StackOutputs
from infra.policy.rules import check
from infra.render import manifests
from infra.render_pki import material
from infra.traversal_graph import read_site
from stacks import pi_home
from tests.support import kube
from tests.support.mounts import Objects, mount
from tests.support.netns import in_new_namespace
from tests.support.pi_home import CONFIG, QUAKE, ROLES, ROOT, graph, objects, port_list
from tests.support.preview import preview_graph
from tests.support.pulumi_mocks import Recorder, record
from ztna.config import load_connector, load_intermediate
from ztna.io.material import load_material

COMPUTED = {
    "tls:index/privateKey:PrivateKey": {"privateKeyPemPkcs8": "KEY"},
    "tls:index/selfSignedCert:SelfSignedCert": {"certPem": "CA"},
    "tls:index/certRequest:CertRequest": {"certRequestPem": "REQUEST"},
    "tls:index/locallySignedCert:LocallySignedCert": {"certPem": "CERT"},
}

INVENTORY = {
    "kubernetes:apps/v1:Deployment": [
        "connector recreate 1 pod, health 9091 /healthz /readyz",
        "echo-server surge 1 pod, health 9999 tcp",
        "httpbin surge 1 pod, health 8080 /status/200 /status/200",
        "intermediate surge 1 pod, health 9090 /healthz /readyz",
    ],
    "kubernetes:cilium.io/v2:CiliumLoadBalancerIPPool": ["ztna [{'cidr': '10.0.150.205/32'}]"],
    "kubernetes:cilium.io/v2alpha1:CiliumL2AnnouncementPolicy": ["ztna ['^eth[0-9]+', '^en.*']"],
    "kubernetes:core/v1:ConfigMap": ["connector connector.json", "intermediate intermediate.json policy.json"],
    "kubernetes:core/v1:Namespace": ["ztna restricted"],
    "kubernetes:core/v1:Secret": ["connector-tls kubernetes.io/tls", "intermediate-tls kubernetes.io/tls"],
    "kubernetes:core/v1:Service": [
        "echo-server ClusterIP UDP/9999 TCP/9999",
        "httpbin ClusterIP TCP/8080",
        "intermediate ClusterIP UDP/4433 UDP/4434",
        "intermediate-lan LoadBalancer UDP/4433 UDP/4434",
    ],
    "kubernetes:core/v1:ServiceAccount": ["connector", "echo-server", "httpbin", "intermediate"],
    "kubernetes:networking.k8s.io/v1:NetworkPolicy": [
        "connector in 0 out 5",
        "default-deny in 0 out 0",
        "echo-server in 1 out 0",
        "httpbin in 1 out 0",
        "intermediate in 2 out 0",
    ],
    "kubernetes:policy/v1:PodDisruptionBudget": ["connector 1", "echo-server 1", "httpbin 1", "intermediate 1"],
    "pulumi:providers:kubernetes": ["cluster"],
    "tls:index/certRequest:CertRequest": [
        "pki-connector-g1-request",
        "pki-intermediate-g1-request",
        "pki-laptop-g1-request",
    ],
    "tls:index/locallySignedCert:LocallySignedCert": ["pki-connector-g1", "pki-intermediate-g1", "pki-laptop-g1"],
    "tls:index/privateKey:PrivateKey": [
        "pki-ca-g1-key",
        "pki-connector-g1-key",
        "pki-intermediate-g1-key",
        "pki-laptop-g1-key",
    ],
    "tls:index/selfSignedCert:SelfSignedCert": ["pki-ca-g1"],
    "ztna:components:K8sBackends": ["backends"],
    "ztna:components:K8sLoadBalancer": ["lan"],
    "ztna:components:K8sNamespace": ["namespace"],
    "ztna:components:K8sNetworkPolicies": ["policies"],
    "ztna:components:K8sRole": ["connector", "echo-server", "httpbin", "intermediate"],
    "ztna:components:K8sSecrets": ["secrets"],
    "ztna:components:Pki": ["pki"],
}
"""Everything the stack declares under the committed configuration, reviewed: type, count, key properties."""


def key_properties(node: Node) -> str:
    """What the inventory says of a node beside its type."""
    inputs: dict[str, Any] = reveal(node.inputs)
    if not node.type.startswith("kubernetes:"):
        return node.name
    name, spec = inputs["metadata"]["name"], inputs.get("spec", {})
    match inputs["kind"]:
        case "Deployment":
            (container, *_) = spec["template"]["spec"]["containers"]
            ready, alive = container["readinessProbe"], container["livenessProbe"]
            asked = ready.get("httpGet") or ready["tcpSocket"]
            paths = f"{alive['httpGet']['path']} {asked['path']}" if "path" in asked else "tcp"
            way = {"Recreate": "recreate", "RollingUpdate": "surge"}[spec["strategy"]["type"]]
            return f"{name} {way} {int(spec['replicas'])} pod, health {int(asked['port'])} {paths}"
        case "Service":
            return " ".join([name, spec["type"], *port_list(spec["ports"])])
        case "NetworkPolicy":
            return f"{name} in {len(spec.get('ingress', []))} out {len(spec.get('egress', []))}"
        case "Namespace":
            return f"{name} {inputs['metadata']['labels']['pod-security.kubernetes.io/enforce']}"
        case "Secret":
            return f"{name} {inputs['type']}"
        case "ConfigMap":
            return " ".join([name, *sorted(inputs["data"])])
        case "PodDisruptionBudget":
            return f"{name} {int(spec['maxUnavailable'])}"
        case "CiliumLoadBalancerIPPool":
            return f"{name} {spec['blocks']}"
        case "CiliumL2AnnouncementPolicy":
            return f"{name} {spec['interfaces']}"
        case _:
            return str(name)


def test_the_inventory_is_the_reviewed_one() -> None:
    found: dict[str, list[str]] = {}
    for node in graph().nodes:
        if node.type != "pulumi:pulumi:Stack":
            found.setdefault(node.type, []).append(key_properties(node))
    assert {kind: sorted(names) for kind, names in sorted(found.items())} == INVENTORY


def test_quakekube_adds_its_pod_its_service_and_its_openings_and_nothing_else() -> None:
    more = set(objects(quake=True)) - set(objects())
    kinds = ("ConfigMap", "Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service", "ServiceAccount")
    assert more == {(kind, "quakekube") for kind in kinds}
    assert port_list(objects(quake=True)["Service", "quakekube"]["spec"]["ports"]) == ["TCP/8080", "UDP/27960"]
    policy = objects(quake=True)["NetworkPolicy", "quakekube"]["spec"]
    assert [port_list(rule["ports"]) for rule in policy["ingress"]] == [["TCP/8080", "UDP/27960"]]
    assert "egress" not in policy


def test_every_child_has_a_component_as_parent_and_names_are_unique() -> None:
    nodes = graph().nodes
    names = [node.name for node in nodes if node.custom]
    assert len(names) == len(set(names))
    components = {node.urn for node in nodes if node.type.startswith("ztna:components:")}
    for node in nodes:
        if node.custom and not node.type.startswith("pulumi:"):
            assert node.parent in components, node.urn


def test_objects_of_the_cluster_all_go_through_the_stacks_own_provider() -> None:
    (provider,) = graph().of_type("pulumi:providers:kubernetes")
    for node in graph().nodes:
        if node.custom and node.type.startswith("kubernetes:"):
            assert node.provider.startswith(provider.urn), node.urn


@pytest.mark.parametrize("quake", [False, True])
def test_every_manifest_satisfies_the_schemas(quake: bool) -> None:
    for manifest in objects(quake).values():
        kube.validate(manifest)


def test_the_schemas_refuse_a_slip() -> None:
    service = json.loads(json.dumps(objects()["Service", "intermediate-lan"]))
    service["spec"]["externalTrafficPolice"] = "Local"
    with pytest.raises(Exception, match="externalTrafficPolice"):
        kube.validate(service)
    pool = json.loads(json.dumps(objects()["CiliumLoadBalancerIPPool", "ztna"]))
    pool["spec"]["block"] = []
    with pytest.raises(Exception, match="block"):
        kube.validate(pool)


def test_policy_rules_find_nothing() -> None:
    assert check(graph()) == []
    assert check(preview_graph("pi-home", QUAKE)) == []


# -- certificates and configuration ------------------------------------------------------------------------------------


def test_keys_are_secret_wherever_they_stand() -> None:
    for node in graph().nodes:
        if node.type == "kubernetes:core/v1:Secret":
            assert is_secret(node.inputs["stringData"]), node.name
    text = json.dumps(graph().to_json())
    assert "PRIVATE KEY" not in text


def test_the_relays_certificate_carries_its_address_and_its_name_in_the_cluster() -> None:
    (request,) = [node for node in graph().nodes if node.name == "pki-intermediate-g1-request"]
    assert request.inputs["ipAddresses"] == ["10.0.150.205"]
    assert {"ztna-server", "intermediate", "intermediate.ztna.svc"} <= set(request.inputs["dnsNames"])


def test_the_connector_dials_the_relays_cluster_ip_and_demands_the_stacks_server_name() -> None:
    server = json.loads(objects()["ConfigMap", "connector"]["data"]["connector.json"])["intermediate_server"]
    assert server == {"host": "intermediate.ztna.svc", "port": 4433, "server_name": "ztna-server"}
    assert objects()["Service", "intermediate"]["spec"]["type"] == "ClusterIP"


def rendered(tmp_path: Path, found: Graph | None = None) -> Objects:
    """The objects with certificates that are real, as `ztna render` makes them."""
    config = pi_config(StackSource("pi-home", {key: str(value) for key, value in CONFIG.items()}))
    now = dt.datetime.now(dt.UTC)
    pki = material(tmp_path / "pki", pi_overlay("pi-home", config), str(config.load_balancer_ip), now=now)
    return {(each["kind"], each["metadata"]["name"]): each for each in manifests(found or graph(), pki.pems)}


def test_files_of_the_pods_load_as_they_are_mounted(tmp_path: Path) -> None:
    """The very files, put where the projected volume puts them, read by the readers of the roles themselves."""
    made = rendered(tmp_path)
    command = mount(made, "intermediate", tmp_path / "intermediate")
    assert command == ["python", "-m", "ztna", "intermediate", "--config", f"{tmp_path}/intermediate/intermediate.json"]
    relay = load_intermediate(Path(command[-1]))
    assert (relay.port, relay.alternate_port, relay.external_ip) == (4433, 4434, "10.0.150.205")
    loaded = load_material(relay)
    assert loaded.policy.reachable == {"laptop": frozenset({"echo-service", "http-app"})}
    connector = load_connector(Path(mount(made, "connector", tmp_path / "connector")[-1]))
    assert [service.id for service in connector.services] == ["echo-service", "http-app"]
    assert connector.relay.server_name == "ztna-server"


@pytest.mark.lab
@pytest.mark.root
def test_relay_and_connector_become_ready_from_the_rendered_files(tmp_path: Path) -> None:
    """Both roles run by the manifests' own commands and files. Changed are only the names that the cluster's DNS knows,
    and the connector's port: here both share one address, where each pod has its own.
    """
    made = rendered(tmp_path)
    commands = [mount(made, role, tmp_path / role) for role in ("intermediate", "connector")]
    config = tmp_path / "connector" / "connector.json"
    document = json.loads(re.sub(r"[a-z-]+\.ztna\.svc", "127.0.0.1", config.read_text()))
    config.write_text(json.dumps({**document, "p2p": {"port": 14434}}))

    def body() -> str:
        running = [subprocess.Popen([sys.executable, *command[1:]], cwd=ROOT) for command in commands]
        try:
            return until_ready("http://127.0.0.1:9091/readyz", timeout_s=20.0)
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait(10)

    assert in_new_namespace(body) == "ok"


def until_ready(url: str, timeout_s: float) -> str:
    """Return what a readiness path says once it answers 200, or why it did not in time."""
    probe = [sys.executable, "-I", "-S", http_probe.__file__, "--until-ready", f"{timeout_s:g}", url]
    done = subprocess.run(probe, capture_output=True, text=True)
    return "ok" if done.returncode == 0 else done.stdout + done.stderr


# -- what it promises --------------------------------------------------------------------------------------------------


def run(**config: str) -> tuple[Recorder, StackOutputs]:
    settings = {key: str(value) for key, value in CONFIG.items()} | {f"pi-home:{k}": v for k, v in config.items()}
    return record(pi_home.program, stack="pi-home", config=settings, computed=COMPUTED)


def test_outputs_give_agents_the_address_on_the_lan_and_a_ready_profile() -> None:
    _, outputs = run()
    (relay,) = outputs.relays
    assert (relay.host, relay.port, relay.server_name, relay.place) == (
        "10.0.150.205", ports.QUIC, "ztna-server", "intermediate",
    )  # fmt: skip
    (agent,) = outputs.agents
    profile = json.loads(agent.profile)
    assert profile["intermediate_server"]["host"] == "10.0.150.205"
    assert (profile["key_pem"], profile["ca_cert_pem"]) == ("KEY", "CA")
    assert set(outputs.agent_files["laptop"]) == {
        "agent.json", "agent.env", "agent.plist", "agent.mobileconfig", "ca.pem",
    }  # fmt: skip
    assert (outputs.rung, outputs.ca_pem) == ("cloud", "CA")


def test_places_are_reached_by_kubectl_in_the_configured_context() -> None:
    _, outputs = run(context="pi", kubeconfig="/home/me/.kube/pi")
    kubectl = ("kubectl", "--kubeconfig", "/home/me/.kube/pi", "--context", "pi", "--namespace", "ztna")
    assert outputs.place("intermediate").exec == (*kubectl, "exec", "deployment/intermediate", "--")
    assert set(outputs.places) == set(ROLES)
    assert outputs.place("intermediate").address == "10.0.150.205"


def test_expected_paths_are_those_of_what_is_declared() -> None:
    _, outputs = run()
    site = read_site(graph())
    assert outputs.expected_path == traversal.predict(site)
    assert not [finding for finding in traversal.findings(site) if finding.level != "note"]
    lying = replace(site, traffic_policy="Cluster")
    assert outputs.expected_path != traversal.predict(lying)


def test_render_dir_kubeconfig_and_context_are_the_providers() -> None:
    recorder, _ = run(renderDir="rendered", context="pi", kubeconfig="kube.yaml")
    (provider,) = [found for found in recorder.resources if found.type == "pulumi:providers:kubernetes"]
    assert provider.inputs["renderYamlToDirectory"] == "rendered"
    assert (provider.inputs["context"], provider.inputs["kubeconfig"]) == ("pi", "kube.yaml")


def test_the_program_is_short_and_has_no_branches() -> None:
    text = Path(pi_home.__file__).read_text()
    assert len(text.splitlines()) <= 80
    assert not [word for word in (" if ", " for ", " while ", " try:", " match ") if word in text.split('"""')[-1]]


@pytest.mark.cluster
def test_a_real_api_server_takes_the_manifests(tmp_path: Path) -> None:
    """Server-side dry run, where ZTNA_TEST_KUBECONFIG names an API server; checks by schema run everywhere."""
    config = kube.kubeconfig()
    assert config is not None
    kube.dry_run(config, list(rendered(tmp_path, preview_graph("pi-home", QUAKE)).values()), tmp_path)
