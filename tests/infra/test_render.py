"""Manifests from a graph: what is filled in, what is refused, how it is written."""

from typing import Any

import pytest
import yaml

from infra.graph import SECRET, UNKNOWN, Graph, Node
from infra.k8s import CERTIFICATES_DIGEST, MEMBER_ANNOTATION, certificates_digest
from infra.render import KUSTOMIZATION, RenderError, files, manifests, to_yaml

PEMS = {"relay": {"cert.pem": "CERT\n", "key.pem": "KEY\n", "ca.pem": "CA\n"}}


def node(kind: str, name: str, **inputs: Any) -> Node:
    base = {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}}
    return Node(urn=f"urn::{kind}::{name}", type=f"kubernetes:core/v1:{kind}", name=name, inputs={**base, **inputs})


def secret(annotations: dict[str, str]) -> Node:
    metadata = {"name": "relay-tls", "annotations": annotations}
    return node("Secret", "relay-tls", metadata=metadata, stringData={SECRET: UNKNOWN}, type="kubernetes.io/tls")


def deployment(**annotations: Any) -> Node:
    template = {"metadata": {"annotations": annotations}, "spec": {"replicas": 1.0}}
    return node("Deployment", "relay", apiVersion="apps/v1", spec={"template": template})


def graph(*nodes: Node) -> Graph:
    return Graph(stack="s", nodes=nodes)


def test_secrets_get_the_certificates_of_the_member_they_name() -> None:
    (made,) = manifests(graph(secret({MEMBER_ANNOTATION: "relay"})), PEMS)
    assert made["stringData"] == {"tls.crt": "CERT\n", "tls.key": "KEY\n", "ca.crt": "CA\n"}
    assert "data" not in made


def test_pods_get_the_digest_of_the_certificates_that_they_mount() -> None:
    (made,) = manifests(graph(deployment(**{MEMBER_ANNOTATION: "relay", CERTIFICATES_DIGEST: UNKNOWN})), PEMS)
    annotations = made["spec"]["template"]["metadata"]["annotations"]
    assert annotations[CERTIFICATES_DIGEST] == certificates_digest(PEMS["relay"])
    assert made["spec"]["template"]["spec"]["replicas"] == 1
    assert isinstance(made["spec"]["template"]["spec"]["replicas"], int)


def test_the_digest_changes_with_a_certificate_and_gives_nothing_of_the_key() -> None:
    pems = PEMS["relay"]
    assert certificates_digest(pems) != certificates_digest({**pems, "cert.pem": "OTHER"})
    assert certificates_digest(pems) != certificates_digest({**pems, "ca.pem": "OTHER"})
    assert certificates_digest(pems) == certificates_digest({**pems, "key.pem": "OTHER"})


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ([], "nothing for Kubernetes"),
        ([secret({})], f"has no annotation {MEMBER_ANNOTATION}"),
        ([secret({MEMBER_ANNOTATION: "moon"})], "wants the certificates of 'moon'; there are those of: relay"),
        ([node("Service", "a", spec={"ports": [{"port": UNKNOWN}]})], r"spec\.ports\[0\]\.port is known only after"),
        ([node("ConfigMap", "a", data={"k": {SECRET: "x"}})], r"data\.k is secret and would be written in clear"),
    ],
)
def test_what_is_not_known_or_would_leak_is_refused_by_name(nodes: list[Node], why: str) -> None:
    with pytest.raises(RenderError, match=why):
        manifests(graph(*nodes), PEMS)


def test_objects_come_in_the_order_in_which_they_can_be_applied() -> None:
    kinds = ["Deployment", "Service", "ConfigMap", "Namespace", "Job"]
    made = manifests(graph(*(node(kind, "a") for kind in kinds)), {})
    assert [manifest["kind"] for manifest in made] == ["Namespace", "ConfigMap", "Service", "Deployment", "Job"]


def test_components_and_other_providers_are_no_manifests() -> None:
    component = Node(urn="u", type="ztna:components:K8sRole", name="relay", custom=False)
    key = Node(urn="k", type="tls:index/privateKey:PrivateKey", name="key")
    assert len(manifests(graph(component, key, node("Namespace", "a")), {})) == 1


def test_each_object_is_a_file_and_the_kustomization_lists_all_of_them() -> None:
    rendered = files(graph(node("Namespace", "a"), secret({MEMBER_ANNOTATION: "relay"})), PEMS)
    assert [(file.path, file.secret) for file in rendered] == [
        ("manifests/00-namespace-a.yaml", False),
        ("secrets/02-secret-relay-tls.yaml", True),
        (KUSTOMIZATION, False),
    ]
    assert yaml.safe_load(rendered[-1].text)["resources"] == [file.path for file in rendered[:-1]]
    assert all(file.text.startswith("# Rendered by") for file in rendered)


def test_yaml_is_the_same_whatever_the_order_of_keys_and_has_blocks_for_texts_of_lines() -> None:
    one = to_yaml({"kind": "A", "data": {"b": "x\ny\n", "a": "1"}, "apiVersion": "v1"})
    two = to_yaml({"apiVersion": "v1", "data": {"a": "1", "b": "x\ny\n"}, "kind": "A"})
    assert one == two == "apiVersion: v1\nkind: A\ndata:\n  a: '1'\n  b: |\n    x\n    y\n"
    labels = {"x": "y"}
    assert "&" not in to_yaml({"a": labels, "b": labels})
