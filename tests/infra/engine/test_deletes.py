"""Deletes in order, and a main thread that hears signals while they run."""

import signal
import threading
from types import FrameType
from typing import cast

from infra.engine.deletes import run_in_order
from infra.engine.state import ResourceState
from infra.engine.steps import Step


class Alone:
    """A delete that nothing depends on."""

    state = cast(ResourceState, type("State", (), {"urn": "urn:a", "references": staticmethod(lambda: ())})())


def test_a_signal_that_does_not_wake_the_main_thread_is_handled_while_a_delete_runs() -> None:
    heard = threading.Event()
    heard_in_time: list[bool] = []

    def handle(number: int, frame: FrameType | None) -> None:
        heard.set()

    def delete(step: Step) -> bool:
        # To this thread, once the main one waits: that goes on waiting, as if the signal had come just before.
        threading.Event().wait(0.3)
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        heard_in_time.append(heard.wait(10))
        return True

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        run_in_order([cast(Step, Alone())], delete, parallel=1, stopping=threading.Event())
        assert heard_in_time == [True]
    finally:
        signal.signal(signal.SIGUSR1, before)
