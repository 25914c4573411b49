"""Structured logs on stderr: one event name and its values per line, as JSON or text.

Peer addresses stay below INFO: fields that hold one are removed from any line above DEBUG. Each event name has its own
budget of lines, so that nobody outside can fill a disk; what was left out is counted in the next line of that event.
"""

import logging
import sys
import time
from collections.abc import Callable, MutableMapping
from typing import Any, Final, TextIO

import structlog

ADDRESS_FIELDS: Final = frozenset({"address", "addr", "source", "peer_address", "local_peer", "observed"})
LINES_PER_S: Final = 5.0
LINES_BURST: Final = 20.0
MAX_EVENTS: Final = 512
LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}

EventDict = MutableMapping[str, Any]
Logger = structlog.typing.FilteringBoundLogger


class RateLimit:
    """A structlog processor that drops lines of an event that comes too often."""

    def __init__(self, clock: Callable[[], float], per_s: float = LINES_PER_S, burst: float = LINES_BURST) -> None:
        self._clock = clock
        self._per_s = per_s
        self._burst = burst
        self._buckets: dict[str, list[float]] = {}

    def __call__(self, _logger: object, _method: str, event: EventDict) -> EventDict:
        """Pass the line on, or raise structlog.DropEvent."""
        now = self._clock()
        name = str(event.get("event"))
        bucket = self._buckets.get(name)
        if bucket is None:
            if len(self._buckets) >= MAX_EVENTS:
                self._buckets.clear()
            bucket = self._buckets[name] = [self._burst, now, 0.0]
        bucket[0] = min(self._burst, bucket[0] + (now - bucket[1]) * self._per_s)
        bucket[1] = now
        if bucket[0] < 1.0:
            bucket[2] += 1
            raise structlog.DropEvent
        bucket[0] -= 1.0
        if bucket[2]:
            event["suppressed"] = int(bucket[2])
            bucket[2] = 0.0
        return event


def hide_addresses(_logger: object, method: str, event: EventDict) -> EventDict:
    """Remove peers' addresses from anything above DEBUG."""
    if method != "debug":
        for field in ADDRESS_FIELDS & event.keys():
            del event[field]
    return event


class _Stream:
    """Writes lines and never raises: a full disk or a closed pipe must not stop the data plane."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, message: str) -> None:
        try:
            self._stream.write(message + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            return

    debug = info = warning = warn = error = critical = exception = log = msg


class _StandardLibrary(logging.Handler):
    """Carries warnings of libraries (asyncio above all) into the same log."""

    def __init__(self, logger: Logger) -> None:
        super().__init__(logging.WARNING)
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        detail = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            detail = f"{detail}: {record.exc_info[1]!r}"
        self._logger.warning("library", library=record.name, detail=detail)


def setup(
    *, level: str, format: str, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic, **bound: Any
) -> Logger:
    """Configure this process's log and return its logger.

    Args:
        level: debug, info, warning or error.
        format: json or text.
        bound: values for every line, like role and name.
    """
    renderer: Any = structlog.processors.JSONRenderer() if format == "json" else _render_text
    processors: list[Any] = [
        RateLimit(clock),
        hide_addresses,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        renderer,
    ]
    logger: Logger = structlog.wrap_logger(
        _Stream(stream or sys.stderr),
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        cache_logger_on_first_use=True,
    ).bind(**bound)
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler, _StandardLibrary):
            root.removeHandler(handler)
    root.addHandler(_StandardLibrary(logger))
    return logger


def _render_text(_logger: object, _method: str, event: EventDict) -> str:
    """`2026-01-31T12:00:00Z info    started port=4433`."""
    time_text = event.pop("timestamp", "")
    level = event.pop("level", "")
    name = event.pop("event", "")
    exception = event.pop("exception", None)
    values = " ".join(f"{key}={_value(value)}" for key, value in event.items())
    line = f"{time_text} {level:<7} {name} {values}".rstrip()
    return line if exception is None else f"{line}\n{exception}"


def _value(value: object) -> str:
    text = str(value)
    return repr(text) if not text or any(char.isspace() or not char.isprintable() for char in text) else text
