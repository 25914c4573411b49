"""Runs a command and ends with it; ends it when standard input ends, first with SIGINT, then with SIGKILL.

Stands between the engine and a program that does not watch the engine itself: a plugin binary, the official CLI.
Standard library only.

    watch.py COMMAND [ARGUMENT...]
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

GRACE_S = 30.0
SIGNALS_S = 0.1


def main(argv: list[str]) -> int:
    """Runs argv; returns its exit code. SIGINT and SIGTERM are passed on."""
    early: list[int] = []
    pass_on = early.append
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: pass_on(number))
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True)
    pass_on = child.send_signal
    for heard in early:
        child.send_signal(heard)

    def wait() -> None:
        while os.read(0, 1):
            pass
        child.send_signal(signal.SIGINT)
        time.sleep(GRACE_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)

    threading.Thread(target=wait, daemon=True, name="parent-watch").start()
    while True:
        # A signal that comes just before a wait does not end it: its handler would run when the child has ended.
        with contextlib.suppress(subprocess.TimeoutExpired):
            return child.wait(SIGNALS_S)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
