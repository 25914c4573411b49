"""Fields of Kubernetes objects as the twin has them: modelled, taken without effect and why, or refused by path. Pure.

A tree of names says which: `...` is modelled with all below it, a LeftOut is taken without effect, a dict goes on.
Lists are passed through. A field that no tree has is refused.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from infra.engine.argcheck import did_you_mean
from infra.engine.props import UNKNOWN
from infra.engine.providers import Failure
from infra.twin.interface import LeftOut

Tree = Mapping[str, Any]

METADATA: Final[Tree] = {"name": ..., "namespace": ..., "labels": ..., "annotations": ...}
TEMPLATE_METADATA: Final[Tree] = {"labels": ..., "annotations": ...}
SELECTOR: Final[Tree] = {"matchLabels": ..., "matchExpressions": ...}
_TIMES: Final[Tree] = dict.fromkeys(
    ("periodSeconds", "timeoutSeconds", "failureThreshold", "successThreshold", "initialDelaySeconds"), ...
)
PROBE: Final[Tree] = {
    **_TIMES,
    "httpGet": {"path": ..., "port": ..., "scheme": LeftOut(why="probes speak HTTP alone", harmless=(None, "HTTP"))},
    "tcpSocket": {"port": ...},
}
_KEY: Final[Tree] = {"name": ..., "key": ..., "optional": ...}
_KEYS: Final[Tree] = {"items": {"key": ..., "path": ...}, "optional": ...}
_SECCOMP: Final = LeftOut(why="no system call is filtered")
_SECURITY: Final[Tree] = {
    "runAsNonRoot": ...,
    "runAsUser": ...,
    "runAsGroup": ...,
    "seccompProfile": _SECCOMP,
}
CONTAINER: Final[Tree] = {
    "name": ...,
    "image": ...,
    "imagePullPolicy": LeftOut(why="no image is pulled: contents are this machine's"),
    "command": ...,
    "args": ...,
    "workingDir": ...,
    "env": {
        "name": ...,
        "value": ...,
        "valueFrom": {"secretKeyRef": _KEY, "configMapKeyRef": _KEY},
    },
    "ports": {"name": ..., "containerPort": ..., "protocol": ...},
    "lifecycle": {"preStop": {"sleep": {"seconds": ...}}},
    "resources": {
        "requests": LeftOut(why="nothing is scheduled by them"),
        "limits": LeftOut(why="memory and CPU are not limited"),
    },
    "securityContext": {
        **_SECURITY,
        "allowPrivilegeEscalation": LeftOut(why="a container never gains a right", harmless=(None, False)),
        "privileged": LeftOut(why="a container is never privileged", harmless=(None, False)),
        "readOnlyRootFilesystem": ...,
        "capabilities": {"drop": ...},
    },
    "volumeMounts": {"name": ..., "mountPath": ..., "readOnly": ..., "subPath": ...},
    "startupProbe": PROBE,
    "livenessProbe": PROBE,
    "readinessProbe": PROBE,
}  # fmt: skip
POD: Final[Tree] = {
    "containers": CONTAINER,
    "volumes": {
        "name": ...,
        "emptyDir": {
            "medium": LeftOut(why="an emptyDir is in memory anyway", harmless=(None, "", "Memory")),
            "sizeLimit": LeftOut(why="the size of an emptyDir is not limited"),
        },
        "configMap": {"name": ..., "defaultMode": ..., **_KEYS},
        "secret": {"secretName": ..., "defaultMode": ..., **_KEYS},
        "projected": {
            "defaultMode": ...,
            "sources": {"configMap": {"name": ..., **_KEYS}, "secret": {"name": ..., **_KEYS}},
        },
    },
    "serviceAccountName": LeftOut(why="an account has no token and no rights"),
    "automountServiceAccountToken": LeftOut(why="no token is mounted", harmless=(False,)),
    "enableServiceLinks": LeftOut(why="no variables of Services are set", harmless=(False,)),
    "nodeSelector": ...,
    "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": SELECTOR}}},
    "tolerations": LeftOut(why="the node has no taint"),
    "priorityClassName": LeftOut(why="nothing is evicted"),
    "terminationGracePeriodSeconds": ...,
    "restartPolicy": ...,
    "hostNetwork": ...,
    "dnsPolicy": ...,
    "securityContext": {**_SECURITY, "fsGroup": ..., "supplementalGroups": ...},
}
_PEERS: Final[Tree] = {
    "podSelector": SELECTOR,
    "namespaceSelector": SELECTOR,
    "ipBlock": {"cidr": ..., "except": ...},
}
_POLICY_PORTS: Final[Tree] = {"protocol": ..., "port": ..., "endPort": ...}
SPECS: Final[Mapping[str, Tree]] = {
    "Namespace": {"metadata": METADATA},
    "ConfigMap": {
        "metadata": METADATA,
        "data": ...,
        "binaryData": ...,
        "immutable": LeftOut(why="it can be changed all the same"),
    },
    "Secret": {
        "metadata": METADATA,
        "type": ...,
        "data": ...,
        "stringData": ...,
        "immutable": LeftOut(why="it can be changed all the same"),
    },
    "ServiceAccount": {
        "metadata": METADATA,
        "automountServiceAccountToken": LeftOut(why="no token is mounted", harmless=(False,)),
    },
    "Deployment": {
        "metadata": METADATA,
        "spec": {
            "replicas": ...,
            "minReadySeconds": ...,
            "progressDeadlineSeconds": ...,
            "revisionHistoryLimit": LeftOut(why="no old revision is kept to go back to"),
            "strategy": {"type": ..., "rollingUpdate": ...},
            "selector": SELECTOR,
            "template": {"metadata": TEMPLATE_METADATA, "spec": POD},
        },
    },
    "Service": {
        "metadata": METADATA,
        "spec": {
            "type": ...,
            "selector": ...,
            "ports": {"name": ..., "protocol": ..., "port": ..., "targetPort": ..., "appProtocol": ...},
            "clusterIP": ...,
            "externalTrafficPolicy": ...,
            "internalTrafficPolicy": LeftOut(why="there is one node", harmless=(None, "Cluster")),
            "loadBalancerClass": ...,
            "allocateLoadBalancerNodePorts": LeftOut(why="no port of the node is opened", harmless=(False,)),
            "ipFamilyPolicy": ...,
            "ipFamilies": ...,
            "sessionAffinity": ...,
        },
    },
    "PodDisruptionBudget": {"metadata": METADATA, "spec": LeftOut(why="the node is never drained")},
    "NetworkPolicy": {
        "metadata": METADATA,
        "spec": {
            "podSelector": SELECTOR,
            "policyTypes": ...,
            "ingress": {"from": _PEERS, "ports": _POLICY_PORTS},
            "egress": {"to": _PEERS, "ports": _POLICY_PORTS},
        },
    },
    "CiliumLoadBalancerIPPool": {
        "metadata": METADATA,
        "spec": {"blocks": ..., "serviceSelector": SELECTOR, "allowFirstLastIPs": ..., "disabled": ...},
    },
    "CiliumL2AnnouncementPolicy": {
        "metadata": METADATA,
        "spec": {
            "serviceSelector": SELECTOR,
            "nodeSelector": SELECTOR,
            "interfaces": ...,
            "loadBalancerIPs": ...,
            "externalIPs": LeftOut(why="no Service has external addresses"),
        },
    },
}


def walk(value: Any, tree: Any, path: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield what is not modelled of a value: (path, field path without indices, why); `why` is empty where refused."""
    if value is None or value == UNKNOWN or tree is ...:
        return
    if isinstance(tree, LeftOut):
        if value not in tree.harmless and value not in ([], {}):
            yield path, _plain(path), tree.why
        return
    if isinstance(value, Sequence) and not isinstance(value, str):
        for index, item in enumerate(value):
            yield from walk(item, tree, f"{path}[{index}]")
        return
    if not isinstance(value, Mapping):
        return  # of the wrong type: the schema's to say
    for name, item in value.items():
        below = f"{path}.{name}" if path else str(name)
        if name in tree:
            yield from walk(item, tree[name], below)
        elif item not in (None, False, [], {}):
            yield below, _plain(below) + did_you_mean(name, tree), ""


def _plain(path: str) -> str:
    return "".join(part.split("]", 1)[-1] for part in path.split("["))


def refused(kind: str, manifest: Mapping[str, Any]) -> Iterator[Failure]:
    """Yield every field that the twin does not model."""
    for path, plain, why in walk(_body(manifest), SPECS[kind]):
        if not why:
            yield Failure(path, f"the twin of {kind} does not model {plain} (docs/twin.md)")


def left_out(kind: str, manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (field, why) of what is taken without effect."""
    return list(dict.fromkeys((plain, why) for _, plain, why in walk(_body(manifest), SPECS[kind]) if why))


def _body(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in manifest.items() if name not in ("apiVersion", "kind", "status")}


def tree_left_out(kind: str) -> dict[str, LeftOut]:
    """Every field of a kind that is taken without effect, by path."""
    found: dict[str, LeftOut] = {}

    def visit(tree: Any, path: str) -> None:
        if isinstance(tree, LeftOut):
            found[path] = tree
        elif isinstance(tree, Mapping):
            for name, below in tree.items():
                visit(below, f"{path}.{name}" if path else name)

    visit(SPECS[kind], "")
    return found
