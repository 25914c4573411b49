"""A project on disk with the file program, operated in this process or in one that can be killed."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from infra.engine.events import Diagnostic, Event, Phase, ResourceStep, Severity
from infra.engine.operation import Options
from infra.engine.workspace import Workspace

PROGRAM = Path(__file__).with_name("programs") / "files.py"
_RUN = """
import json, sys
from infra.engine.errors import EngineError
from infra.engine.events import to_json
from infra.engine.workspace import Workspace
show = lambda event: print(json.dumps(to_json(event)), flush=True)
workspace = Workspace(sys.argv[1], "dev", engine="embedded", on_event=show)
try:
    getattr(workspace, sys.argv[2])()
except EngineError as error:
    print(json.dumps({"event": "error", "kind": type(error).__name__, "message": str(error)}), flush=True)
    sys.exit(3)
"""


class RealProject:
    """A project whose resources are files in `out`."""

    def __init__(self, root: Path, main: str = ".") -> None:
        self.root, self.folder = root, root / main
        self.folder.mkdir(parents=True, exist_ok=True)
        # Names the interpreter of the tests, so that a missing virtualenv can be tested apart.
        (root / "Pulumi.yaml").write_text(f"name: real\nruntime: python\nmain: {main}\n")
        shutil.copy(PROGRAM, self.folder / "__main__.py")
        self.out = self.folder / "out"
        self.events: list[Event] = []
        self._spawned: list[subprocess.Popen[str]] = []

    def want(self, files: dict[str, str], **settings: Any) -> None:
        """Sets what the program declares."""
        (self.folder / "wanted.json").write_text(json.dumps({"files": files, **settings}))

    def workspace(self, **options: Any) -> Workspace:
        """For one operation in this process."""
        self.events = []
        return Workspace(self.root, "dev", engine="embedded", on_event=self.events.append, options=Options(**options))

    def spawn(self, verb: str) -> subprocess.Popen[str]:
        """Starts an operation in a process of its own, whose output are events as JSON lines."""
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", _RUN, str(self.root), verb],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._spawned.append(process)
        return process

    def close(self) -> None:
        """Ends what a failed test has left running."""
        for process in self._spawned:
            if process.poll() is None:
                process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def hold(self) -> None:
        """Operations on files wait, once they have begun, until `release`."""
        (self.folder / "hold").touch()

    def release(self) -> None:
        """Let the held operations go on."""
        (self.folder / "hold").unlink()

    def at_once(self) -> int:
        """The most operations on files that ran at the same time."""
        return max(int(path.name.rpartition("-")[2]) for path in self.folder.glob("beside-*"))

    def files(self) -> dict[str, str]:
        """What is there."""
        return {path.name: path.read_text() for path in sorted(self.out.glob("*"))}

    def recorded(self) -> set[str]:
        """Paths of files that the state names, pending operations included."""
        try:
            data = json.loads((self.root / ".ztna/.pulumi/stacks/real/dev.json").read_text())
        except FileNotFoundError:
            return set()
        latest = data["checkpoint"]["latest"]
        states = [*latest["resources"], *(item["resource"] for item in latest.get("pending_operations", ()))]
        return {Path(item["inputs"]["path"]).name for item in states if "path" in item.get("inputs", {})}

    def ops(self) -> dict[str, list[str]]:
        """Finished operations on files, by name."""
        result: dict[str, list[str]] = {}
        for event in self.events:
            if isinstance(event, ResourceStep) and event.phase is Phase.FINISHED and event.type.endswith(":File"):
                result.setdefault(event.name, []).append(event.operation)
        return result

    def errors(self) -> str:
        """All error messages."""
        found = [item for item in self.events if isinstance(item, Diagnostic) and item.severity is Severity.ERROR]
        return "\n".join(item.message for item in found)

    def messages(self) -> list[str]:
        """All messages."""
        return [item.message for item in self.events if isinstance(item, Diagnostic)]


def processes_of(root: Path) -> list[str]:
    """Command lines of live processes that run below a directory."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()).is_relative_to(root):
                found.append(" ".join(process.cmdline())[:120])
        except (psutil.Error, OSError):
            continue
    return found


def wait_until(condition: Callable[[], bool], timeout_s: float = 15.0) -> None:
    """Returns once the condition holds.

    Raises:
        TimeoutError: it did not within `timeout_s` seconds.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.01)


def wait_for_line(process: subprocess.Popen[str], part: str) -> None:
    """Reads output up to a line that holds `part`.

    Raises:
        AssertionError: the process ended before.
    """
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if part in line:
            return
    raise AssertionError(f"{part!r} did not come: {''.join(lines)}")
