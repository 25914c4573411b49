"""Forms that the clouds have in common: times, choices with a hint, the lowest number that is free."""

import datetime as dt
from collections.abc import Iterable, Iterator
from typing import Any

from infra.engine.argcheck import did_you_mean
from infra.engine.providers import Failure
from infra.twin.interface import TwinError, known


def now() -> str:
    """The time as APIs write it."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def one_of(name: str, value: Any, there: Iterable[Any], what: str, remedy: str = "") -> Iterator[Failure]:
    """Yield a failure unless a known value is among those there are."""
    choice = list(there)
    if known(value) and value not in choice:
        listed = ", ".join(map(str, choice))
        yield Failure(name, f"the twin has no {what} {value!r}{did_you_mean(value, choice)}; it has {listed}{remedy}")


def lowest_free(taken: Iterable[int], first: int, last: int, what: str) -> int:
    """Return the lowest number that is not taken. Raises TwinError when none is left."""
    used = set(taken)
    for number in range(first, last + 1):
        if number not in used:
            return number
    raise TwinError(f"no {what} is left: {last - first + 1} are in use")
