"""Rules about containers and images: ECS task definitions and Kubernetes pods read alike."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from infra.graph import UNKNOWN, Graph, Node
from infra.policy.model import Finding
from infra.policy.values import get, items, parsed

_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
TASK_DEFINITION: Final = "aws:ecs/taskDefinition:TaskDefinition"


@dataclass(frozen=True, kw_only=True, slots=True)
class Container:
    """One container of a workload. `root` and `writable` are None where the platform's answer stands in the image."""

    path: str
    image: str
    environment: tuple[dict[str, Any], ...] = ()
    command: tuple[str, ...] = ()
    root: bool = False
    writable: bool = False
    privileged: bool = False
    escalates: bool = False
    capabilities: bool = False
    raw: dict[str, Any] = field(default_factory=dict)


def containers(node: Node) -> Iterator[Container]:
    """Yield the containers that a resource runs; none where their definition is not known before deployment."""
    if node.type == TASK_DEFINITION:
        yield from _ecs(node)
    elif node.type.startswith("kubernetes:"):
        yield from _kubernetes(node)


def _ecs(node: Node) -> Iterator[Container]:
    definitions = parsed(get(node, "containerDefinitions"))
    for index, item in enumerate(definitions if isinstance(definitions, list) else []):
        user = str(item.get("user", "")).split(":")[0]
        dropped = ((item.get("linuxParameters") or {}).get("capabilities") or {}).get("drop") or []
        yield Container(
            path=f"containerDefinitions[{index}]",
            image=str(item.get("image", UNKNOWN)),
            environment=_objects(item.get("environment")),
            command=_words(item.get("entryPoint"), item.get("command")),
            root=user in ("", "0", "root"),
            writable=item.get("readonlyRootFilesystem") is not True,
            privileged=item.get("privileged") is True,
            capabilities="ALL" not in dropped,
            raw=item,
        )


def _kubernetes(node: Node) -> Iterator[Container]:
    path = _POD_PATHS.get(node.type.rpartition(":")[2])
    if path is None:
        return
    pod = get(node, f"{path}.securityContext", {})
    for kind in ("initContainers", "containers"):
        for index, item in enumerate(items(node, f"{path}.{kind}")):
            context = item.get("securityContext") or {}
            user = context.get("runAsUser", pod.get("runAsUser"))
            dropped = (context.get("capabilities") or {}).get("drop") or []
            yield Container(
                path=f"{path}.{kind}[{index}]",
                image=str(item.get("image", "")),
                environment=_objects(item.get("env")),
                command=_words(item.get("command"), item.get("args")),
                root=context.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True or user == 0,
                writable=context.get("readOnlyRootFilesystem") is not True,
                privileged=context.get("privileged") is True,
                escalates=context.get("allowPrivilegeEscalation") is not False,
                capabilities="ALL" not in dropped,
                raw=item,
            )


_POD_PATHS: Final = {
    "Pod": "spec",
    "Deployment": "spec.template.spec",
    "DaemonSet": "spec.template.spec",
    "StatefulSet": "spec.template.spec",
    "ReplicaSet": "spec.template.spec",
    "Job": "spec.template.spec",
    "CronJob": "spec.jobTemplate.spec.template.spec",
}


def images_by_digest(graph: Graph) -> list[Finding]:
    """Images are named by digest, so that what was tested is what runs."""
    return [
        Finding(
            "images-by-digest",
            node.urn,
            f"{container.path}.image is {container.image!r}, a name that can be moved to another image",
            "name it by digest: REPOSITORY@sha256:...",
        )
        for node in graph.nodes
        for container in containers(node)
        if UNKNOWN not in container.image and not _DIGEST.search(container.image)
    ]


def not_root(graph: Graph) -> list[Finding]:
    """Containers run under a user of their own."""
    return _each(graph, "containers-not-root", "root", "may run as root", "set runAsNonRoot: true (ECS: user 65532)")


def read_only_root(graph: Graph) -> list[Finding]:
    """Containers cannot write to their own file system."""
    remedy = "set readOnlyRootFilesystem: true (ECS: readonlyRootFilesystem)"
    return _each(graph, "containers-read-only", "writable", "has a writable root file system", remedy)


def not_privileged(graph: Graph) -> list[Finding]:
    """Containers have no privilege, cannot gain any, and share no namespace of the host's but its network."""
    name = "containers-not-privileged"
    found = [
        *_each(graph, name, "privileged", "is privileged", "remove privileged"),
        *_each(graph, name, "escalates", "may gain privileges", "set allowPrivilegeEscalation: false"),
    ]
    for node in graph.nodes:
        path = _POD_PATHS.get(node.type.rpartition(":")[2]) if node.type.startswith("kubernetes:") else None
        found += [
            Finding(name, node.urn, f"{path}.{key} is true", f"remove {key}")
            for key in ("hostPID", "hostIPC")
            if path is not None and get(node, f"{path}.{key}") is True
        ]
    return found


def capabilities_dropped(graph: Graph) -> list[Finding]:
    """Containers drop all capabilities."""
    remedy = 'set capabilities.drop: ["ALL"] (ECS: linuxParameters.capabilities.drop)'
    return _each(graph, "containers-drop-capabilities", "capabilities", "keeps capabilities", remedy)


def _each(graph: Graph, rule: str, attribute: str, what: str, remedy: str) -> list[Finding]:
    return [
        Finding(rule, node.urn, f"{container.path} ({container.raw.get('name')}) {what}", remedy)
        for node in graph.nodes
        for container in containers(node)
        if getattr(container, attribute)
    ]


def _objects(value: Any) -> tuple[dict[str, Any], ...]:
    return tuple(item for item in value if isinstance(item, dict)) if isinstance(value, list) else ()


def _words(*values: Any) -> tuple[str, ...]:
    return tuple(str(word) for value in values if isinstance(value, list) for word in value)
