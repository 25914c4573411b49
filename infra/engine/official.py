"""The official Pulumi CLI as engine: driven as a subprocess, reporting through the same events.

State lives in a file backend of its own (`<state_dir>/official`) unless PULUMI_BACKEND_URL says otherwise. The stack's
configuration is given as a copy, so that the CLI's encryption salt does not end up in a tracked file.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from infra.engine.backend import StackFile, start_time, write_durably
from infra.engine.children import Child
from infra.engine.errors import Cancelled, CliError, DeploymentFailed, LockedError, StateError
from infra.engine.events import Diagnostic, Event, EventSink, OperationStarted, Phase, ResourceStep, Severity, Summary
from infra.engine.plugins import EXEC
from infra.engine.project import Project, read_yaml
from infra.engine.result import Result
from infra.engine.urn import name_of

OFFICIAL = "official"
"""The file backend's directory, below the directory of the embedded engine's state."""

_PHASES = {
    "resourcePreEvent": Phase.STARTED,
    "resOutputsEvent": Phase.FINISHED,
    "resOpFailedEvent": Phase.FAILED,
}
_SEVERITIES = {
    "info": Severity.INFO,
    "info#err": Severity.INFO,
    "warning": Severity.WARNING,
    "error": Severity.ERROR,
}


class OfficialCli:
    """One stack of a project under the official CLI.

    Args:
        passphrase: what secrets are encrypted under.
        parallel: resource operations at a time.
    """

    def __init__(
        self, project: Project, stack: str, state_dir: Path, passphrase: str, emit: EventSink, parallel: int
    ) -> None:
        self._project, self._stack, self._emit, self._parallel = project, stack, emit, parallel
        self._root = state_dir / OFFICIAL
        self._work = self._root / "work" / project.name
        self._config = self._work / f"Pulumi.{stack}.yaml"
        self._file = StackFile(self._root, project.name, stack)
        self._env = _environment(self._root, passphrase)
        self._child: Child | None = None
        self._interrupted = False
        self._errors = 0
        self._summary: dict[str, Any] = {}
        self._said: list[str] = []
        self._seen: set[tuple[str, str, str]] = set()

    # -- operations ------------------------------------------------------------------------------------------------

    def operate(self, verb: str) -> Result:
        """Runs preview, up, refresh or destroy.

        Raises:
            LockedError, Cancelled, DeploymentFailed, CliError.
        """
        began = time.monotonic()
        if verb != "preview":
            self._say(self._file.lock(verb))
        try:
            self._prepare()
            self._emit(OperationStarted(verb=verb, engine="pulumi", stack=self._stack))
            code = self._run(verb)
        finally:
            self._file.unlock()
        duration = time.monotonic() - began
        word = "interrupted" if self._interrupted else "failed" if code or self._errors else "succeeded"
        changes = {str(key): int(value) for key, value in self._summary.get("resourceChanges", {}).items()}
        self._emit(Summary(verb=verb, result=word, changes=changes, duration_s=duration))
        self._raise_for(verb, code)
        outputs = self.outputs(show_secrets=False) if verb in ("up", "refresh") else {}
        return Result(verb=verb, changes=changes, outputs=outputs, duration_s=duration)

    def interrupt(self) -> None:
        """Passes an interrupt on; the CLI finishes what is under way, and gives up at the second."""
        self._interrupted = True
        if self._child is not None:
            os.kill(self._child.pid, signal.SIGINT)

    def _run(self, verb: str) -> int:
        arguments = [verb, "--non-interactive", "--json", "--config-file", str(self._config), "--stack", self._stack]
        if verb != "preview":
            arguments += ["--yes", "--skip-preview"]
        arguments += ["--parallel", str(self._parallel)]
        argv = [sys.executable, "-u", str(EXEC.with_name("watch.py")), "pulumi", *arguments]
        self._child = Child(argv, cwd=self._project.root, env=self._env, on_line=self._line)
        try:
            code: int | None = None
            while code is None:
                code = self._child.wait(0.2)
            return code
        finally:
            self._child.stop()

    def _raise_for(self, verb: str, code: int) -> None:
        said = "\n".join(self._said)
        if self._interrupted:
            raise Cancelled(f"{verb} was interrupted", "Run the same command again to go on.")
        if "currently locked" in said:
            raise LockedError(said, "Wait for the other run to end, or stop it with `ztna cancel`.")
        if code or self._errors:
            raise DeploymentFailed(
                f"{verb} failed under the official CLI" + (f":\n{said}" if said and not self._errors else ""),
                "What was done is recorded; correct the cause and run the same command again.",
            )

    def _prepare(self) -> None:
        """Makes backend, stack and the copy of the configuration, and clears locks that dead processes left."""
        if not self._exists():
            self._call("stack", "init", self._stack, "--no-select", "--non-interactive", cwd=self._work)
        salt = read_yaml(self._config).get("encryptionsalt")
        config = read_yaml(self._project.stack_file(self._stack))
        if salt:
            config.setdefault("encryptionsalt", salt)
        write_durably(self._config, yaml.safe_dump(config, sort_keys=False))
        self._clear_dead_locks()

    def _exists(self) -> bool:
        """Whether the CLI's backend has the stack, also one made without us (`pulumi up` in the project)."""
        project = self._work / "Pulumi.yaml"
        if not project.exists():
            write_durably(project, yaml.safe_dump({"name": self._project.name, "runtime": "python"}))
        (self._root / ".pulumi").mkdir(parents=True, exist_ok=True)
        listed = json.loads(self._call("stack", "ls", "--json", cwd=self._work))
        return any(item["name"].rsplit("/", 1)[-1] == self._stack for item in listed)

    def _clear_dead_locks(self) -> None:
        locks = self._root / ".pulumi/locks/organization" / self._project.name / self._stack
        for path in locks.glob("*.json"):
            try:
                pid = int(json.loads(path.read_text())["pid"])
            except (OSError, ValueError, KeyError, TypeError):
                continue
            if not start_time(pid):
                path.unlink(missing_ok=True)
                self._say(f"Took over the lock of a pulumi process that is no more ({pid}).")

    # -- state -----------------------------------------------------------------------------------------------------

    def outputs(self, *, show_secrets: bool) -> dict[str, Any]:
        """The stack's outputs as plain values."""
        arguments = ["stack", "output", "--json", "--stack", self._stack]
        result: dict[str, Any] = json.loads(self._stateful(*arguments, *(["--show-secrets"] if show_secrets else [])))
        return result

    def export_stack(self) -> dict[str, Any]:
        """The state as the CLI exports it."""
        result: dict[str, Any] = json.loads(self._stateful("stack", "export", "--stack", self._stack))
        return result

    def import_stack(self, exported: dict[str, Any]) -> None:
        """Replaces the state by an exported one."""
        self._prepare()
        self._call("stack", "import", "--stack", self._stack, cwd=self._work, given=json.dumps(exported))

    def cancel(self, wait_s: float) -> str:
        """Stops a run of ours, and clears the CLI's locks on the stack."""
        said = self._file.cancel(wait_s)
        if self._exists():
            self._call("cancel", "--yes", "--stack", self._stack, cwd=self._work)
        return said

    def _stateful(self, *arguments: str) -> str:
        if not self._exists():
            raise StateError(f"stack {self._stack!r} has no state under the official CLI", "Run `ztna up` first.")
        return self._call(*arguments, cwd=self._work)

    def _call(self, *arguments: str, cwd: Path, given: str | None = None) -> str:
        done = subprocess.run(
            ["pulumi", *arguments, "--color", "never"], cwd=cwd, env=self._env, capture_output=True, text=True,
            check=False, input=given,
        )  # fmt: skip
        if done.returncode:
            raise CliError(f"pulumi {' '.join(arguments[:2])} failed: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    # -- events ----------------------------------------------------------------------------------------------------

    def _line(self, stream: str, line: str) -> None:
        data: Any = None
        if stream == "stdout" and line.startswith("{"):
            try:
                data = json.loads(line)
            except ValueError:
                data = None
        if not isinstance(data, dict):
            if line.strip():
                self._said.append(line)
            return
        self._summary = data.get("summaryEvent", self._summary)
        event = from_engine_event(data)
        if isinstance(event, ResourceStep):
            # A component is reported again when it registers its outputs.
            step = (event.phase.value, event.urn, event.operation)
            if step in self._seen:
                return
            self._seen.add(step)
        if isinstance(event, Diagnostic) and event.severity is Severity.ERROR:
            self._errors += 1
        if event is not None:
            self._emit(event)

    def _say(self, message: str) -> None:
        if message:
            self._emit(Diagnostic(severity=Severity.INFO, message=message))


def _environment(root: Path, passphrase: str) -> dict[str, str]:
    ours = {
        "PULUMI_BACKEND_URL": f"file://{root}",
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        # Without it `preview --json` prints one document at the end instead of events.
        "PULUMI_ENABLE_STREAMING_JSON_PREVIEW": "true",
    }
    env = {**ours, **os.environ}
    if "PULUMI_CONFIG_PASSPHRASE" not in env and "PULUMI_CONFIG_PASSPHRASE_FILE" not in env:
        env["PULUMI_CONFIG_PASSPHRASE"] = passphrase
    return env


def from_engine_event(data: dict[str, Any]) -> Event | None:
    """The CLI's engine event as one of ours; None for what we have no counterpart of."""
    diagnostic = data.get("diagnosticEvent")
    if diagnostic:
        severity = _SEVERITIES.get(str(diagnostic.get("severity")))
        if severity is None or diagnostic.get("ephemeral"):
            return None
        text = f"{diagnostic.get('prefix', '')}{diagnostic.get('message', '')}".rstrip("\n")
        return Diagnostic(
            severity=severity, message=text.removeprefix(f"{severity}: "), urn=str(diagnostic.get("urn", ""))
        )
    for kind, phase in _PHASES.items():
        if kind not in data:
            continue
        about = data[kind].get("metadata", {})
        # `replace` announces the two steps of a replacement, which follow.
        if about.get("op") == "replace":
            return None
        state = about.get("new") or about.get("old") or {}
        return ResourceStep(
            phase=phase,
            operation=str(about.get("op", "")),
            urn=str(about.get("urn", "")),
            type=str(about.get("type", "")),
            name=name_of(str(about.get("urn", ""))),
            parent=str(state.get("parent", "")),
            changes=tuple(about.get("diffs") or ()),
        )
    return None


def is_available() -> bool:
    """Whether the official CLI is on PATH."""
    return shutil.which("pulumi") is not None
