"""How a service of ECS is brought to what it shall be: what to start and what to stop. Pure.

    a new deployment starts tasks as far as the maximum lets it -> when they are healthy, those of the old one stop
    a task that fails is stopped and counted -> too many while the deployment is under way: it has failed (the circuit
    breaker) -> the last one that was complete is deployed again

Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/deployment-circuit-breaker.html
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

IN_PROGRESS: Final = "IN_PROGRESS"
COMPLETED: Final = "COMPLETED"
FAILED: Final = "FAILED"
LEAST_FAILURES: Final = 3
MOST_FAILURES: Final = 200
LONGEST_WAIT_S: Final = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskView:
    """A task as a decision sees it.

    Attributes:
        live: it is started or runs, and nobody has begun to stop it.
        healthy: it runs, and its checks say so.
        fault: why it must be stopped; empty for one that is well.
    """

    number: int
    deployment: int
    live: bool
    healthy: bool
    fault: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What is to be done: how many tasks of the newest deployment to start, which to stop and why, and whether the
    newest deployment is complete."""

    start: int
    stop: tuple[tuple[int, str], ...]
    complete: bool


def decide(
    *,
    desired: int,
    least_percent: int,
    most_percent: int,
    newest: int,
    state: str,
    tasks: Sequence[TaskView],
    wait: bool,
) -> Decision:
    """Return what is to be done now.

    Args:
        desired: how many tasks there shall be.
        least_percent: of them that must stay healthy while an old one is stopped.
        most_percent: of them that may be there at once.
        newest: id of the newest deployment.
        state: of it.
        tasks: all that are there, those on their way out among them.
        wait: whether nothing may be started yet.
    """
    stop = [(task.number, task.fault) for task in tasks if task.live and task.fault]
    live = [task for task in tasks if task.live and not task.fault]
    new = [task for task in live if task.deployment == newest]
    old = [task for task in live if task.deployment != newest]
    stop += [(task.number, "the service's desired count is lower") for task in new[desired:]]
    new = new[:desired]
    fit = sum(task.healthy for task in new)
    room = math.floor(desired * most_percent / 100) - len(tasks)
    missing = desired - len(new)
    if fit >= desired:
        stop += [(task.number, "another deployment took its place") for task in old]
    elif state != FAILED and missing > room:
        spare = sum(task.healthy for task in live) - math.ceil(desired * least_percent / 100)
        going = [task for task in old if not task.healthy]
        going += [task for task in old if task.healthy][: max(spare, 0)]
        stop += [(task.number, "it makes room for another deployment") for task in going[: missing - max(room, 0)]]
    start = 0 if wait or state == FAILED else max(0, min(missing, room))
    return Decision(start=start, stop=tuple(stop), complete=fit >= desired and not old)


def breaks(failures: int, desired: int) -> bool:
    """Whether so many failed tasks of a deployment under way are too many."""
    return failures >= min(MOST_FAILURES, max(LEAST_FAILURES, math.ceil(desired / 2)))


def pause_s(failures: int) -> float:
    """How long to wait after so many failures in a row before the next start."""
    return min(LONGEST_WAIT_S, 1.0 * 2 ** min(failures, 6) / 2) if failures else 0.0
