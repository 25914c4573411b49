"""Steps that run at once, and the order of deletes: dependents before what they depend on.

The main thread waits for them with a time-out: a signal that comes just before a wait does not end it, and its handler
runs in that thread only.
"""

import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Final

from infra.engine.steps import Step

SIGNALS_S: Final = 0.1


def run_in_order(steps: list[Step], run: Callable[[Step], bool], *, parallel: int, stopping: threading.Event) -> None:
    """Runs deletes, up to `parallel` at a time; what a failed one depends on stays.

    Args:
        steps: in the order of the state.
        run: carries one out and says whether it succeeded.
    """
    blocked_by = dependents_of(steps)
    outcomes: dict[Step, bool] = {}
    running: dict[Future[bool], Step] = {}
    waiting = list(steps)
    with ThreadPoolExecutor(parallel, thread_name_prefix="delete") as pool:
        while waiting or running:
            ready = [step for step in waiting if blocked_by[step] <= outcomes.keys()]
            waiting = [step for step in waiting if step not in ready]
            for step in ready:
                if stopping.is_set() or not all(outcomes[dependent] for dependent in blocked_by[step]):
                    outcomes[step] = False
                else:
                    running[pool.submit(run, step)] = step
            if running:
                done, _ = wait(list(running), SIGNALS_S, return_when=FIRST_COMPLETED)
                for future in done:
                    outcomes[running.pop(future)] = future.result()


def run_at_once(steps: list[Step], run: Callable[[Step], object], *, parallel: int) -> None:
    """Runs steps that do not depend on each other, up to `parallel` at a time."""
    with ThreadPoolExecutor(parallel, thread_name_prefix="step") as pool:
        running = [pool.submit(run, step) for step in steps]
        while wait(running, SIGNALS_S).not_done:
            pass
    for future in running:
        future.result()


def dependents_of(steps: list[Step]) -> dict[Step, set[Step]]:
    """For each delete the deletes that must come before it: those of resources that refer to it.

    In a state, references go to earlier resources only. Keeping to that rules out cycles where a replaced resource and
    its successor, which share a URN, are both deleted.
    """
    blocked_by: dict[Step, set[Step]] = {step: set() for step in steps}
    earlier: dict[str, list[Step]] = {}
    for step in steps:
        for reference in step.state.references():
            for needed in earlier.get(reference, ()):
                blocked_by[needed].add(step)
        earlier.setdefault(step.state.urn, []).append(step)
    return blocked_by
