"""Child processes of the engine: the program and provider plugins. None outlives the engine.

Each gets a pipe as standard input that the engine never writes to; the child ends when the pipe does (exec.py). Each
is its own session, so that Ctrl-C at the terminal reaches the engine alone, which then ends things in order.
"""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

GRACE_S = 2.0
SIGNALS_S = 0.1


class Child:
    """A running child process.

    Args:
        argv: the command.
        on_line: called with (`stdout` or `stderr`, line) from reader threads.
        first_line: keep the first line of standard output back for `read_line`.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        cwd: Path,
        env: dict[str, str],
        on_line: Callable[[str, str], None],
        first_line: bool = False,
    ) -> None:
        self._process = subprocess.Popen(
            list(argv), cwd=cwd, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
        self._first = ""
        self._first_read = threading.Event()
        self._on_line = on_line
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._readers = [
            threading.Thread(target=self._read, args=("stdout", self._process.stdout, first_line), daemon=True),
            threading.Thread(target=self._read, args=("stderr", self._process.stderr, False), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, name: str, stream: IO[str], first_line: bool) -> None:
        if first_line:
            self._first = stream.readline()
            self._first_read.set()
        for line in stream:
            self._on_line(name, line.rstrip("\n"))

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def read_line(self, timeout_s: float) -> str:
        """The first line of standard output; empty when the child ended without one or was silent for `timeout_s`."""
        self._first_read.wait(timeout_s)
        return self._first.strip()

    def wait(self, timeout_s: float | None = None) -> int | None:
        """The exit code once all output has been read, None when it still runs after `timeout_s` seconds."""
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        for reader in self._readers:
            # A grandchild may hold the pipes open for longer than we care to listen.
            reader.join(GRACE_S)
        return code

    def stop(self) -> None:
        """Ends the child: it is told by its closed pipe, then by SIGTERM, then by SIGKILL to its process group."""
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        deadline = time.monotonic() + GRACE_S
        for sig in (signal.SIGTERM, signal.SIGKILL):
            if self.wait(max(0.0, (deadline - time.monotonic()) / 2)) is not None:
                break
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, sig)
        self.wait(GRACE_S)
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None and not any(reader.is_alive() for reader in self._readers):
                stream.close()


def wait_for(process: subprocess.Popen[bytes]) -> int:
    """The exit code of a process, for a main thread that passes signals on to it.

    One that comes just before a wait does not end it: its handler would run when the process has ended.
    """
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(SIGNALS_S)
