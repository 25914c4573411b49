"""What a Deployment does next about its pods, as the Deployment and ReplicaSet controllers do. Pure.

    RollingUpdate    new ones within maxSurge, old ones as far as maxUnavailable and ready new ones allow
    Recreate         old ones go first, and new ones come when none is left

Source: kubernetes.io/docs/concepts/workloads/controllers/deployment.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Replica:
    """A pod of a Deployment: of which template, and how far it is. `available` is ready for minReadySeconds."""

    name: str
    template: str
    ready: bool = False
    available: bool = False
    deleting: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """How many pods of the present template to make, and which pods to let go."""

    create: int = 0
    delete: tuple[str, ...] = ()


def plan(spec: Mapping[str, Any], template: str, pods: Sequence[Replica]) -> Plan:
    """Return the next step.

    Args:
        spec: the Deployment's.
        template: hash of its present pod template.
        pods: its pods, those on their way out among them, oldest first.
    """
    wanted = int(spec.get("replicas", 1))
    active = [pod for pod in pods if not pod.deleting]
    new = [pod for pod in active if pod.template == template]
    old = [pod for pod in active if pod.template != template]
    strategy = spec.get("strategy") or {}
    if strategy.get("type") == "Recreate":
        if old:
            return Plan(delete=tuple(pod.name for pod in old))
        if any(pod.template != template for pod in pods):
            return Plan()
        return _scale(new, wanted)
    rolling = strategy.get("rollingUpdate") or {}
    surge = _share(rolling.get("maxSurge", "25%"), wanted, up=True)
    unavailable = _share(rolling.get("maxUnavailable", "25%"), wanted, up=False)
    if surge == 0 and unavailable == 0:
        unavailable = 1
    if not old:
        return _scale(new, wanted)
    create = max(0, min(wanted - len(new), wanted + surge - len(active)))
    least = wanted - unavailable
    waiting = sum(not pod.available for pod in new)
    room = max(0, len(active) - least - waiting)
    gone = [pod for pod in old if not pod.available][:room]
    available = sum(pod.available for pod in active)
    gone += [pod for pod in old if pod.available][: max(0, min(room - len(gone), available - least))]
    return Plan(create, tuple(pod.name for pod in gone))


def _scale(pods: Sequence[Replica], wanted: int) -> Plan:
    """More of them, or fewer: those that are not ready go first, then the newest."""
    if len(pods) <= wanted:
        return Plan(create=wanted - len(pods))
    order = sorted(enumerate(pods), key=lambda item: (item[1].ready, -item[0]))
    return Plan(delete=tuple(pod.name for _, pod in order[: len(pods) - wanted]))


def _share(value: Any, of: int, *, up: bool) -> int:
    """A number, or a percentage of the wanted pods: of a surge rounded up, of what may be missing down."""
    if isinstance(value, str) and value.endswith("%"):
        exact = float(value[:-1]) * of / 100
        return math.ceil(exact) if up else math.floor(exact)
    return int(value)


def complete(spec: Mapping[str, Any], template: str, pods: Sequence[Replica]) -> bool:
    """Whether the rollout is done: as many pods of the present template as wanted, all available, and no others."""
    wanted = int(spec.get("replicas", 1))
    active = [pod for pod in pods if not pod.deleting]
    new = [pod for pod in active if pod.template == template]
    return len(active) == len(new) == wanted and all(pod.available for pod in new)
