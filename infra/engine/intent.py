"""What operation a command has begun on a stack, noted before anything is done and struck out when it ends by itself.

    ROOT/intents/STACK.json    {"verb", "pid", "start_time", ...}: the owner, as in a lock (infra/engine/backend.py)

A note whose owner is no more is that of a command that was killed, at whatever moment.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from infra.engine.backend import Owner, check_name, write_durably


class Intent:
    """The note of one stack.

    Args:
        root: where state and locks are.
        stack: its name.
    """

    def __init__(self, root: Path, stack: str) -> None:
        self._path = root / "intents" / f"{check_name('stack', stack)}.json"

    def read(self) -> Owner | None:
        """Who has noted what; None where nothing is under way."""
        return Owner.read(self._path)

    @contextlib.contextmanager
    def during(self, verb: str) -> Iterator[None]:
        """Note an operation for the while of it, failed or not; nothing for an empty verb.

        One that a live command has noted stays: the lock of the stack decides between the two.
        """
        noted = self.read()
        if not verb or (noted is not None and is_live(noted)):
            yield
            return
        write_durably(self._path, Owner.this(verb).to_json())
        try:
            yield
        finally:
            self.forget()

    def forget(self) -> None:
        """Strike it out."""
        self._path.unlink(missing_ok=True)


def is_live(owner: Owner) -> bool:
    """Whether an owner still runs; one on another host is taken to."""
    return owner.is_running or not owner.is_here
