"""A change in a place that undoes itself: when told, when this process dies, and in any case after a while.

A shell in the place makes the change, waits for the end of its standard input, and undoes it. However the one who
holds the other end of that pipe goes (an error, Ctrl-C, kill -9), the pipe closes. Ctrl-C on the terminal does not
reach that shell: it is in a session of its own.
"""

import contextlib
import select
import shlex
import subprocess
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from infra.verify.context import VerifyError

_START_TIMEOUT_S = 15.0
_UNDO_TIMEOUT_S = 20.0
_MADE = "made"


class NotUndone(VerifyError):
    """A change could not be taken back; the text says which, and what the command said."""


class Held:
    """A change while the block runs.

    Args:
        what: names it in errors.
        prefix: argv that runs a command in the place.
        make: argv of the change.
        undo: argv that takes it back; run once, also when the change failed half-way.
        limit_s: undone after so long in any case.

    Raises:
        VerifyError: it could not be made (on entry).
        NotUndone: it could not be taken back (on exit).
    """

    def __init__(
        self, what: str, prefix: Sequence[str], make: Sequence[str], undo: Sequence[str], *, limit_s: float
    ) -> None:
        self._what = self.name = what
        made, undone = shlex.join(make), shlex.join(undo)
        script = (
            'trap "" INT HUP TERM\n'
            f"if {made} < /dev/null 1>&2; then echo {_MADE}; timeout {limit_s:g} cat > /dev/null; fi\n"
            f"{undone} < /dev/null 1>&2"
        )
        self._argv = [*prefix, "sh", "-c", script]
        self._process: subprocess.Popen[str] | None = None
        self.since = 0.0

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            self._await_made(self._process)
        except BaseException:
            with contextlib.suppress(VerifyError):
                self.release()
            raise
        self.since = time.time()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Undo the change now and wait until that is done; nothing where it is undone already."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            _, errors = process.communicate("", timeout=_UNDO_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            # Killing it would leave the change: it goes on by itself.
            raise NotUndone(f"{self._what}: not undone after {_UNDO_TIMEOUT_S:g} s; it goes on trying") from None
        except KeyboardInterrupt:
            # Impatience: the pipe is closed, so it is being undone; wait for that all the same.
            process.wait(timeout=_UNDO_TIMEOUT_S)
            raise
        if process.returncode:
            raise NotUndone(f"{self._what}: {errors.strip()[-300:] or f'ended with {process.returncode}'}")

    def _await_made(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], _START_TIMEOUT_S)
        if not ready:
            raise VerifyError(f"{self._what}: no answer after {_START_TIMEOUT_S:g} s")
        if process.stdout.readline().strip() != _MADE:
            _, errors = process.communicate("", timeout=_UNDO_TIMEOUT_S)
            self._process = None
            raise VerifyError(f"{self._what}: {errors.strip()[-300:] or 'failed'}")
