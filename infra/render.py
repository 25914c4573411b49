"""Kubernetes manifests from a stack's resource graph: what `pulumi up` would send to a cluster, as YAML. Pure.

A preview knows everything but certificates. They are given by member, and filled in by the annotation that names the
member (infra/k8s.py). Whatever else is unknown is an error that names it, never a guess.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml

from infra.graph import UNKNOWN, Graph, Node, is_secret
from infra.k8s import CERTIFICATES_DIGEST, MEMBER_ANNOTATION, certificates_digest, secret_data

PREFIX: Final = "kubernetes:"
HEADER: Final = "# Rendered by `ztna render`; change the configuration of the stack and render again.\n"
KUSTOMIZATION: Final = "kustomization.yaml"
MANIFESTS, SECRETS = "manifests", "secrets"
ORDER: Final = (
    "Namespace",
    "ServiceAccount",
    "Secret",
    "ConfigMap",
    "NetworkPolicy",
    "CiliumLoadBalancerIPPool",
    "CiliumL2AnnouncementPolicy",
    "Service",
    "Deployment",
    "PodDisruptionBudget",
)
"""In this order objects can be applied; another kind comes last."""

FIRST_KEYS: Final = ("apiVersion", "kind", "name", "metadata", "type")

Manifest = dict[str, Any]
Pems = Mapping[str, Mapping[str, str]]
"""PEM files (cert.pem, key.pem, ca.pem) by member."""


class RenderError(Exception):
    """A manifest cannot be rendered. The message names the resource, the property and the remedy."""


@dataclass(frozen=True, slots=True)
class RenderedFile:
    """A file below the directory, and whether it holds a key."""

    path: str
    text: str
    secret: bool


def manifests(graph: Graph, pems: Pems) -> list[Manifest]:
    """Return the Kubernetes objects of a graph in the order in which they can be applied.

    Raises:
        RenderError: there are none; a value is unknown; a secret would stand outside a Secret; a member has no PEMs.
    """
    found = [_manifest(node, pems) for node in graph.nodes if node.custom and node.type.startswith(PREFIX)]
    if not found:
        raise RenderError(f"stack {graph.stack!r} has nothing for Kubernetes: render a stack like pi-home")
    return sorted(found, key=_rank)


def files(graph: Graph, pems: Pems) -> list[RenderedFile]:
    """Return one file per object and the kustomization that lists them, for `kubectl apply -k`.

    Raises:
        RenderError: as `manifests`.
    """
    rendered = []
    for manifest in manifests(graph, pems):
        secret = manifest["kind"] == "Secret"
        rank, kind, name = _rank(manifest)
        path = f"{SECRETS if secret else MANIFESTS}/{rank:02}-{kind.lower()}-{name}.yaml"
        rendered.append(RenderedFile(path, HEADER + to_yaml(manifest), secret))
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [file.path for file in rendered],
    }
    return [*rendered, RenderedFile(KUSTOMIZATION, HEADER + to_yaml(kustomization), False)]


def to_yaml(manifest: Manifest) -> str:
    """Return an object as YAML: the usual keys first, the others by name, so that two renderings can be compared."""
    text: str = yaml.dump(_ordered(manifest), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


def _ordered(value: Any) -> Any:
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: (FIRST_KEYS.index(key) if key in FIRST_KEYS else len(FIRST_KEYS), key))
        return {key: _ordered(value[key]) for key in keys}
    return [_ordered(item) for item in value] if isinstance(value, list) else value


def _rank(manifest: Manifest) -> tuple[int, str, str]:
    kind = str(manifest["kind"])
    return (ORDER.index(kind) if kind in ORDER else len(ORDER), kind, str(manifest["metadata"]["name"]))


def _manifest(node: Node, pems: Pems) -> Manifest:
    inputs = {key: value for key, value in node.inputs.items() if not key.startswith("__")}
    if inputs.get("kind") == "Secret":
        return _secret(node, inputs, pems)
    template = inputs.get("spec", {}).get("template", {}) if isinstance(inputs.get("spec"), dict) else {}
    annotations = template.get("metadata", {}).get("annotations", {})
    if CERTIFICATES_DIGEST in annotations:
        member = str(annotations.get(MEMBER_ANNOTATION))
        digest = certificates_digest(_pems(node, member, pems))
        filled = {**template["metadata"], "annotations": {**annotations, CERTIFICATES_DIGEST: digest}}
        inputs["spec"] = {**inputs["spec"], "template": {**template, "metadata": filled}}
    _require_plain(node, inputs)
    return _integral(inputs)  # type: ignore[no-any-return]  # a mapping stays one


def _secret(node: Node, inputs: Manifest, pems: Pems) -> Manifest:
    rest = {key: value for key, value in inputs.items() if key not in ("data", "stringData")}
    _require_plain(node, rest)
    annotations = rest.get("metadata", {}).get("annotations", {})
    if MEMBER_ANNOTATION not in annotations:
        raise RenderError(
            f"{node.name} ({node.type}) has no annotation {MEMBER_ANNOTATION}, so nobody knows what to put into it: "
            "give the Secret that annotation, with the member whose certificates it holds"
        )
    return {**rest, "stringData": secret_data(_pems(node, str(annotations[MEMBER_ANNOTATION]), pems))}


def _pems(node: Node, member: str, pems: Pems) -> Mapping[str, str]:
    try:
        return pems[member]
    except KeyError:
        known = ", ".join(sorted(pems)) or "none"
        raise RenderError(
            f"{node.name} ({node.type}) wants the certificates of {member!r}; there are those of: {known}"
        ) from None


def _require_plain(node: Node, inputs: Manifest) -> None:
    for path, value in _leaves(inputs, ""):
        if is_secret(value):
            raise RenderError(
                f"{node.name} ({node.type}): {path} is secret and would be written in clear: put it into a Secret"
            )
        if value == UNKNOWN:
            raise RenderError(
                f"{node.name} ({node.type}): {path} is known only after a deployment: give it by configuration, or "
                "deploy with `pulumi up`"
            )


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every value that is no container, and every secret, by its path."""
    if is_secret(value) or not isinstance(value, dict | list):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}".lstrip("."))
    else:
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}[{index}]")


def _integral(value: Any) -> Any:
    """Integral floats as int: the wire between program and engine has only doubles."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {key: _integral(item) for key, item in value.items()}
        case list():
            return [_integral(item) for item in value]
        case _:
            return value


class _Dumper(yaml.SafeDumper):
    """Texts of several lines (PEM, JSON) as blocks, and no anchors: two equal labels are written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)
