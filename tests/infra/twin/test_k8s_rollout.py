"""Rollouts: bounds hold at every step, and every rollout comes to its end."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.twin.k8s_rollout import Plan, Replica, complete, plan

OLD, NEW = "old", "new"


def replica(name: str, template: str = NEW, state: str = "available", *, deleting: bool = False) -> Replica:
    return Replica(
        name=name, template=template, ready=state != "waiting", available=state == "available", deleting=deleting
    )


SURGE: dict[str, Any] = {
    "replicas": 1, "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
}  # fmt: skip
RECREATE: dict[str, Any] = {"replicas": 1, "strategy": {"type": "Recreate"}}


@pytest.mark.parametrize(
    ("spec", "pods", "wanted"),
    [
        (SURGE, [], Plan(create=1)),
        (SURGE, [replica("a", OLD)], Plan(create=1)),
        (SURGE, [replica("a", OLD), replica("b", state="waiting")], Plan()),
        (SURGE, [replica("a", OLD), replica("b", state="ready")], Plan()),  # minReadySeconds is not over
        (SURGE, [replica("a", OLD), replica("b")], Plan(delete=("a",))),
        (SURGE, [replica("a", OLD, deleting=True), replica("b")], Plan()),
        (SURGE, [replica("a", OLD, "waiting")], Plan(create=1)),
        (SURGE, [replica("a", OLD, "waiting"), replica("b")], Plan(delete=("a",))),
        (RECREATE, [replica("a", OLD)], Plan(delete=("a",))),
        (RECREATE, [replica("a", OLD, deleting=True)], Plan()),
        (RECREATE, [], Plan(create=1)),
        ({"replicas": 0}, [replica("a")], Plan(delete=("a",))),
        ({"replicas": 1}, [replica("a"), replica("b"), replica("c", state="waiting")], Plan(delete=("c", "b"))),
        ({"replicas": 4}, [replica(name, OLD) for name in "abcd"], Plan(create=1, delete=("a",))),  # 25 % each
    ],
)  # fmt: skip
def test_the_next_step(spec: dict[str, Any], pods: list[Replica], wanted: Plan) -> None:
    assert plan(spec, NEW, pods) == wanted


@given(
    replicas=st.integers(0, 5),
    surge=st.integers(0, 3),
    unavailable=st.integers(0, 3),
    recreate=st.booleans(),
    old=st.lists(st.sampled_from(("waiting", "ready", "available")), max_size=5),
)
def test_a_rollout_keeps_its_bounds_and_ends(
    replicas: int, surge: int, unavailable: int, recreate: bool, old: list[str]
) -> None:
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}
    spec = {"replicas": replicas, "strategy": {"type": "Recreate"} if recreate else rolling}
    pods = [replica(f"old-{index}", OLD, state) for index, state in enumerate(old)]
    least = min(replicas - max(unavailable, surge == 0), sum(pod.available for pod in pods))
    for step in range(60):
        made = plan(spec, NEW, pods)
        if not made.create and not made.delete and not any(pod.deleting or not pod.available for pod in pods):
            break
        pods = [replace(pod, deleting=True) if pod.name in made.delete else pod for pod in pods]
        pods += [replica(f"new-{step}-{index}", state="waiting") for index in range(made.create)]
        active = [pod for pod in pods if not pod.deleting]
        if recreate:
            assert len({pod.template for pod in pods}) <= 1
        else:
            assert len(active) <= max(len(old), replicas + surge)
            assert sum(pod.available for pod in active) >= least
        # What was deleted is gone, and new ones come up.
        pods = [replace(pod, ready=True, available=True) if pod.template == NEW else pod for pod in active]
    assert complete(spec, NEW, pods)


def test_it_is_not_complete_while_an_old_pod_stands() -> None:
    assert complete(SURGE, NEW, [replica("a"), replica("b", OLD, deleting=True)])
    assert not complete(SURGE, NEW, [replica("a"), replica("b", OLD)])
    assert not complete(SURGE, NEW, [replica("a", state="ready")])
    assert not complete(SURGE, NEW, [])
