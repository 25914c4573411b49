"""How a role's process runs: the event loop, signals, and what happens to memory and garbage collection."""

import asyncio
import contextlib
import gc
import signal
from collections.abc import Callable, Coroutine
from importlib import metadata
from typing import Any, Final, TypeVar

T = TypeVar("T")

GC_THRESHOLD: Final = 20_000
"""Allocations between collections of young objects. Packets make no cycles, closed connections do."""


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a role's main coroutine to its end, on uvloop where it is installed (it halves the cost of a packet)."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)


def on_signals(loop: asyncio.AbstractEventLoop, handlers: dict[signal.Signals, Callable[[], object]]) -> None:
    """Install signal handlers; where the loop cannot (not the main thread), leave the process's own."""
    for number, handler in handlers.items():
        with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
            loop.add_signal_handler(number, handler)


def settle_memory() -> None:
    """After start-up: what was loaded lives for ever, so the collector need not look at it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 20)


def version() -> str:
    """Version of the installed distribution, "unknown" when run from an unpacked tree."""
    try:
        return metadata.version("ztna")
    except metadata.PackageNotFoundError:
        return "unknown"
