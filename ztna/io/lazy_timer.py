"""One timer that a core re-arms after every batch, mostly for a later time: moving it later costs nothing."""

import asyncio
from collections.abc import Callable
from typing import Final

TICK_S: Final = 0.001


class LazyTimer:
    """Calls `on_due` once the time given last has come.

    A timer already set for an earlier moment is left alone; when it fires too early it is set again. So the event loop
    sees a new timer only when something is due sooner than before.
    """

    __slots__ = ("_clock", "_due", "_fires_at", "_handle", "_loop", "_on_due")

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float], on_due: Callable[[], None]) -> None:
        self._loop = loop
        self._clock = clock
        self._on_due = on_due
        self._due: float | None = None
        self._fires_at = 0.0
        self._handle: asyncio.TimerHandle | None = None

    def arm(self, due: float | None) -> None:
        """Fire at `due` (seconds of the clock), or not at all."""
        self._due = due
        if due is None or (self._handle is not None and self._fires_at <= due):
            return
        if self._handle is not None:
            self._handle.cancel()
        self._set(due)

    def close(self) -> None:
        """Never fire again."""
        self._due = None
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _set(self, due: float) -> None:
        self._fires_at = due
        # uvloop calls at once for less than half of its tick, and again and again until the time has come.
        delay = due - self._clock()
        self._handle = self._loop.call_later(max(TICK_S, delay) if delay > 0 else 0.0, self._fired)

    def _fired(self) -> None:
        self._handle = None
        due = self._due
        if due is None:
            return
        if due > self._clock():
            self._set(due)
        else:
            self._due = None
            self._on_due()
