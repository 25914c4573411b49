"""The lazy timer heap, in virtual time."""

import asyncio
import math
import random
from collections.abc import Callable
from typing import Any

import pytest

from ztna.io.quic_timer import Entry, TimerQueue


class Item:
    def __init__(self, name: int = 0) -> None:
        self.name = name
        self.timer_at = math.inf
        self.timer_entries: list[Entry] = []


class Loop:
    """Stands for the event loop: one timer at most, fired by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.handles: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None]) -> Any:
        entry = (self.now + delay, callback)
        self.handles.append(entry)
        loop = self

        class Handle:
            def cancel(self) -> None:
                loop.handles.remove(entry)

        return Handle()

    def advance(self, to: float) -> None:
        while self.handles and min(self.handles, key=lambda entry: entry[0])[0] <= to:
            entry = min(self.handles, key=lambda entry: entry[0])
            self.handles.remove(entry)
            self.now = max(self.now, entry[0])
            entry[1]()
        self.now = to


class Bed:
    def __init__(self) -> None:
        self.loop = Loop()
        self.fired: list[tuple[int, float]] = []
        self.ends = 0
        self.queue: TimerQueue[Item] = TimerQueue(
            self.loop,  # type: ignore[arg-type]
            self.loop.time,
            lambda item, now: self.fired.append((item.name, now)),
            self._end,
        )

    def _end(self, _now: float) -> None:
        self.ends += 1

    def arm(self, item: Item, when: float) -> None:
        self.queue.arm(item, when)
        self.queue.schedule()


@pytest.fixture
def bed() -> Bed:
    return Bed()


def test_fires_in_order_within_a_millisecond_and_ends_once_per_run(bed: Bed) -> None:
    for name, when in ((1, 0.5), (2, 0.25), (3, 0.25)):
        bed.arm(Item(name), when)
    bed.loop.advance(1.0)
    assert [name for name, _ in bed.fired] == [2, 3, 1]
    assert all(at - due < 0.0021 for (_, at), due in zip(bed.fired, (0.25, 0.25, 0.5), strict=True))
    assert bed.ends == 2


def test_timer_moved_later_does_not_fire_early_and_adds_no_entry(bed: Bed) -> None:
    item = Item()
    bed.arm(item, 0.1)
    for step in range(1000):
        bed.arm(item, 0.2 + step / 1000)
    assert len(bed.queue) == 1
    bed.loop.advance(1.1)
    assert bed.fired == []
    assert bed.ends == 0
    bed.loop.advance(1.3)
    assert len(bed.fired) == 1


def test_timer_moved_earlier_fires_early_and_once(bed: Bed) -> None:
    item = Item()
    bed.arm(item, 30.0)
    bed.arm(item, 0.01)
    bed.loop.advance(40.0)
    assert len(bed.fired) == 1
    assert bed.fired[0][1] < 0.02
    assert len(bed.queue) == 0


def test_acknowledgement_timers_do_not_pile_up_in_front_of_the_idle_timer(bed: Bed) -> None:
    item = Item()
    for step in range(5000):
        now = step * 0.002
        bed.loop.advance(now)
        bed.arm(item, now + 30.0)
        bed.arm(item, now + 0.001)
        assert len(bed.queue) <= 3


def test_cancelled_timer_does_not_fire(bed: Bed) -> None:
    item = Item()
    bed.arm(item, 0.1)
    bed.arm(item, math.inf)
    bed.loop.advance(1.0)
    assert bed.fired == []


def test_discarded_item_is_not_held_nor_called(bed: Bed) -> None:
    item = Item()
    bed.arm(item, 0.2)
    bed.arm(item, 0.1)
    bed.queue.discard(item)
    assert all(entry[2] is None for entry in bed.queue._heap)
    bed.loop.advance(1.0)
    assert bed.fired == []
    assert len(bed.queue) == 0


def test_arming_touches_no_other_item(bed: Bed) -> None:
    """The cost per packet must not depend on how many connections idle: arming later is free, earlier is one push."""
    others = [Item(name) for name in range(1000)]
    for other in others:
        bed.arm(other, 30.0)
    active = Item(-1)
    bed.arm(active, 0.001)
    entries = len(bed.queue)
    for _ in range(1000):
        bed.arm(active, 5.0)
    assert len(bed.queue) == entries


def test_random_orders_agree_with_a_naive_model(bed: Bed) -> None:
    chance = random.Random(3)
    items = [Item(name) for name in range(20)]
    now = 0.0
    for _ in range(2000):
        item = chance.choice(items)
        bed.arm(item, now + chance.choice((0.001, 0.05, 1.0, 30.0)))
        now += chance.random() * 0.02
        due = {item.name for item in items if item.timer_at <= now - 0.002}
        bed.fired.clear()
        bed.loop.advance(now)
        assert due <= {name for name, _ in bed.fired}
        assert all(item.timer_at > now - 0.002 for item in items)


async def test_runs_on_a_real_loop() -> None:
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    queue: TimerQueue[Item] = TimerQueue(loop, loop.time, lambda _item, _now: None, lambda _now: done.set())
    queue.arm(Item(), loop.time() + 0.01)
    queue.schedule()
    await asyncio.wait_for(done.wait(), 5)
    queue.close()
