"""The child side of the engine: runs a Pulumi program, or a module such as `pulumi.dynamic`, under a parent watch.

Runs in the program's own interpreter, so it needs the standard library and `pulumi` alone. Standard input is a pipe
from the engine: when it ends the engine is gone, and so is this process, at once.

    exec.py program DIR SETTINGS-JSON
    exec.py module NAME [ARGUMENT...]
"""

import asyncio
import inspect
import json
import logging
import os
import runpy
import signal
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor

# The exit code by which the SDK says that it has already shown the error.
SHOWN = 32


def watch_parent() -> None:
    """Ends this process as soon as the engine closes its end of standard input, be it by dying."""
    watched = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)

    def wait() -> None:
        while os.read(watched, 1):
            pass
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, daemon=True, name="parent-watch").start()


def run_module(name: str, arguments: list[str]) -> None:
    """Runs a module as `python -m` does, with the working directory on the path."""
    sys.argv = [name, *arguments]
    sys.path[0] = os.getcwd()
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def run_program(program: str, settings_json: str) -> int:
    """Runs the program in a directory (`__main__.py`) or file under the SDK's runtime; returns the exit code."""
    import pulumi
    import pulumi.runtime

    runtime = pulumi.runtime
    runtime.set_all_config(runtime.get_config_env(), runtime.get_config_secret_keys_env())
    wanted = json.loads(settings_json)
    known = inspect.signature(runtime.Settings.__init__).parameters
    runtime.configure(runtime.Settings(**{key: value for key, value in wanted.items() if key in known}))
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    executor = ThreadPoolExecutor(max_workers=max(1, int(wanted["parallel"])) * 4)
    loop.set_default_executor(executor)
    # A program that fails leaves futures nobody awaits; asyncio would report each of them.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    sys.argv = [program]

    def main() -> None:
        runpy.run_path(program, run_name="__main__")

    try:
        loop.run_until_complete(runtime.run_in_stack(main))
        return 0
    except pulumi.RunError as error:
        pulumi.log.error(str(error))
        return SHOWN
    except Exception:
        pulumi.log.error("Program failed with an unhandled exception:\n" + user_traceback(program))
        return SHOWN
    finally:
        executor.shutdown(wait=True)
        loop.close()
        sys.stdout.flush()
        sys.stderr.flush()


def user_traceback(program: str) -> str:
    """The traceback from the program's own first frame on; all of it when the program has none in it."""
    kind, error, trace = sys.exc_info()
    main = program if program.endswith(".py") else os.path.join(program, "__main__.py")
    frames = traceback.extract_tb(trace)
    for index, frame in enumerate(frames):
        if os.path.abspath(frame.filename) == os.path.abspath(main):
            return "".join(traceback.format_exception(kind, error, trace, limit=index - len(frames)))
    return traceback.format_exc()


if __name__ == "__main__":
    watch_parent()
    if sys.argv[1] == "module":
        run_module(sys.argv[2], sys.argv[3:])
    else:
        sys.exit(run_program(sys.argv[2], sys.argv[3]))
