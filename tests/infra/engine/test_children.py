"""Waiting for child processes in a main thread that has signals to pass on."""

import ctypes
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType

from infra.engine.children import wait_for
from infra.engine.plugins import EXEC
from tests.infra.engine.real import wait_until

WATCH = EXEC.with_name("watch.py")
ENDS_BY_SIGINT = (
    "import signal, sys, time; signal.signal(signal.SIGINT, lambda *_: sys.exit(7)); "
    "print(1, flush=True); time.sleep(60)"
)


def test_a_signal_that_does_not_wake_the_main_thread_is_passed_on() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:

        def handle(number: int, frame: FrameType | None) -> None:
            process.kill()

        def signalled() -> None:
            # To this thread, once the main one waits: that goes on waiting, as if the signal had come just before.
            threading.Event().wait(0.3)
            signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

        before = signal.signal(signal.SIGUSR1, handle)
        # Where the signal is not heard, this ends the wait.
        late = threading.Timer(20, process.terminate)
        late.start()
        try:
            threading.Thread(target=signalled).start()
            assert wait_for(process) == -signal.SIGKILL
        finally:
            late.cancel()
            signal.signal(signal.SIGUSR1, before)


def test_the_watcher_passes_on_a_signal_that_does_not_wake_it() -> None:
    with subprocess.Popen(
        [sys.executable, str(WATCH), sys.executable, "-c", ENDS_BY_SIGINT],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as watcher:  # fmt: skip
        assert watcher.stdout is not None
        watcher.stdout.readline()
        tasks = Path(f"/proc/{watcher.pid}/task")
        wait_until(lambda: len(list(tasks.iterdir())) == 2)
        (thread,) = (int(path.name) for path in tasks.iterdir() if path.name != str(watcher.pid))
        threading.Event().wait(0.3)
        assert ctypes.CDLL(None).tgkill(watcher.pid, thread, signal.SIGINT) == 0
        assert watcher.wait(20) == 7
