"""The re-armed timer: earlier wins, later costs nothing and still fires on time, None disarms."""

import asyncio
from collections.abc import Callable
from typing import cast

from ztna.io.lazy_timer import TICK_S, LazyTimer


class Handle:
    """What `call_later` returns."""

    def __init__(self, due: float, callback: Callable[[], None]) -> None:
        self.due, self.callback, self.cancelled = due, callback, False

    def cancel(self) -> None:
        self.cancelled = True


class FakeLoop:
    """Only `call_later`, in virtual time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[Handle] = []

    def call_later(self, delay: float, callback: Callable[[], None]) -> Handle:
        self.calls.append(Handle(self.now + delay, callback))
        return self.calls[-1]

    def advance(self, to: float) -> None:
        while due := [call for call in self.calls if call.due <= to and not call.cancelled]:
            call = min(due, key=lambda call: call.due)
            self.calls.remove(call)
            self.now = call.due
            call.callback()
        self.now = to


def make() -> tuple[FakeLoop, LazyTimer, list[float]]:
    loop = FakeLoop()
    fired: list[float] = []
    timer = LazyTimer(cast(asyncio.AbstractEventLoop, loop), lambda: loop.now, lambda: fired.append(loop.now))
    return loop, timer, fired


def test_fires_once_at_the_last_time_given() -> None:
    loop, timer, fired = make()
    timer.arm(1.0)
    timer.arm(3.0)
    loop.advance(10)
    assert fired == [3.0]


def test_an_earlier_time_is_obeyed() -> None:
    loop, timer, fired = make()
    timer.arm(5.0)
    timer.arm(2.0)
    loop.advance(10)
    assert fired == [2.0]


def test_later_times_set_no_new_timer() -> None:
    loop, timer, _ = make()
    for due in (1.0, 1.1, 1.2, 5.0, 60.0):
        timer.arm(due)
    assert len(loop.calls) == 1


def test_none_disarms_until_armed_again() -> None:
    loop, timer, fired = make()
    timer.arm(1.0)
    timer.arm(None)
    loop.advance(2.0)
    assert fired == []
    timer.arm(3.0)
    loop.advance(4.0)
    assert fired == [3.0]


def test_a_time_in_the_past_fires_at_once() -> None:
    loop, timer, fired = make()
    loop.now = 10.0
    timer.arm(1.0)
    loop.advance(10.0)
    assert fired == [10.0]


def test_closed_timer_stays_silent() -> None:
    loop, timer, fired = make()
    timer.arm(1.0)
    timer.close()
    loop.advance(5.0)
    assert fired == []


def test_what_is_due_in_less_than_a_tick_waits_one_whole_tick() -> None:
    loop, timer, fired = make()
    timer.arm(TICK_S / 4)
    assert [call.due for call in loop.calls] == [TICK_S]
    loop.advance(1.0)
    assert fired == [TICK_S]
    timer.arm(0.5)
    assert loop.calls[-1].due == 1.0
