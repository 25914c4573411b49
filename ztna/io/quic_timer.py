"""Timers of many connections on one event-loop timer, without work proportional to the number of connections.

A heap of [time, sequence, item] entries that are never moved: an item whose timer moved later keeps its early entry,
which is looked at when it pops and pushed again; only a timer that moved earlier adds an entry. Arming is mostly O(1).
"""

import asyncio
import heapq
import itertools
import math
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

RESOLUTION_S = 0.001
"""The loop's own timers have 1 ms resolution (libuv); asking for less makes it spin."""


Entry = list[Any]
"""[monotonic seconds, sequence, item or None]; a list so that it can be orphaned in place."""


class Timed(Protocol):
    """What a timer is attached to."""

    timer_at: float
    """When the item wants to be called (monotonic seconds), `math.inf` for never."""
    timer_entries: list[Entry]
    """This item's heap entries, earliest first; owned by the queue."""


T = TypeVar("T", bound=Timed)


class TimerQueue(Generic[T]):
    """Calls `on_due(item, now)` for each item whose `timer_at` has come, then `on_end(now)` once.

    Args:
        clock: monotonic seconds, must run at the same pace as the loop's clock.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        on_due: Callable[[T, float], None],
        on_end: Callable[[float], None],
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._on_due = on_due
        self._on_end = on_end
        self._heap: list[Entry] = []
        self._sequence = itertools.count()
        self._handle: asyncio.TimerHandle | None = None
        self._handle_at = math.inf

    def __len__(self) -> int:
        return len(self._heap)

    def arm(self, item: T, when: float) -> None:
        """Set the item's time. Takes effect on the loop's timer with the next `schedule()`."""
        item.timer_at = when
        entries = item.timer_entries
        if when < math.inf and (not entries or when < entries[0][0]):
            entry: Entry = [when, next(self._sequence), item]
            entries.insert(0, entry)
            heapq.heappush(self._heap, entry)

    def discard(self, item: T) -> None:
        """Never call the item again and hold no reference to it."""
        item.timer_at = math.inf
        for entry in item.timer_entries:
            entry[2] = None
        item.timer_entries.clear()

    def schedule(self) -> None:
        """Make sure the loop's timer fires no later than the earliest entry."""
        if not self._heap:
            return
        first = self._heap[0][0]
        if first >= self._handle_at:
            return
        if self._handle is not None:
            self._handle.cancel()
        self._handle_at = first
        delay = max(RESOLUTION_S, first - self._clock() + RESOLUTION_S / 2)
        self._handle = self._loop.call_later(delay, self._fire)

    def run_due(self, now: float) -> int:
        """Call what is due; returns how many items were called. Items may be armed from inside the call."""
        heap = self._heap
        called = 0
        while heap and heap[0][0] <= now:
            item = heapq.heappop(heap)[2]
            if item is None:
                continue
            item.timer_entries.pop(0)
            if item.timer_at <= now:
                item.timer_at = math.inf
                called += 1
                self._on_due(item, now)
            else:
                self.arm(item, item.timer_at)
        return called

    def close(self) -> None:
        """Forget everything and stop the loop's timer."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        for entry in self._heap:
            if entry[2] is not None:
                entry[2].timer_entries.clear()
        self._heap.clear()

    def _fire(self) -> None:
        self._handle = None
        self._handle_at = math.inf
        now = self._clock()
        if self.run_due(now):
            self._on_end(now)
        self.schedule()
