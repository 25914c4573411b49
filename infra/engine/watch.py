"""Runs a command and ends with it: relays its output, and kills its process group when standard input ends.

Stands between the engine and a plugin binary that does not watch the engine itself. Standard library only.

    watch.py COMMAND [ARGUMENT...]
"""

import os
import signal
import subprocess
import sys
import threading


def main(argv: list[str]) -> int:
    """Runs argv; returns its exit code."""
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True)

    def wait() -> None:
        while os.read(0, 1):
            pass
        os.killpg(child.pid, signal.SIGKILL)

    threading.Thread(target=wait, daemon=True, name="parent-watch").start()
    return child.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
