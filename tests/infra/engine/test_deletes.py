"""Steps at once and in order, and a main thread that hears signals while they run."""

import signal
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, cast

import pytest

from infra.engine.deletes import run_at_once, run_in_order
from infra.engine.state import ResourceState
from infra.engine.steps import Step


class Alone:
    """A step that nothing depends on."""

    state = cast(ResourceState, type("State", (), {"urn": "urn:a", "references": staticmethod(lambda: ())})())


@pytest.mark.parametrize("carry_out", [partial(run_in_order, stopping=threading.Event()), run_at_once])
def test_a_signal_that_does_not_wake_the_main_thread_is_handled_while_a_step_runs(
    carry_out: Callable[..., Any],
) -> None:
    heard = threading.Event()
    heard_in_time: list[bool] = []

    def handle(number: int, frame: FrameType | None) -> None:
        heard.set()

    def slow(step: Step) -> bool:
        # To this thread, once the main one waits: that goes on waiting, as if the signal had come just before.
        threading.Event().wait(0.3)
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        heard_in_time.append(heard.wait(10))
        return True

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        carry_out([cast(Step, Alone())], slow, parallel=1)
        assert heard_in_time == [True]
    finally:
        signal.signal(signal.SIGUSR1, before)
