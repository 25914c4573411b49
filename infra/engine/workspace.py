"""The one way in: operations on a stack of a project, whichever engine carries them out."""

import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from infra.engine import gate
from infra.engine.backend import Owner, StackFile
from infra.engine.errors import CliError, LockedError, StateError
from infra.engine.events import Diagnostic, EventSink, Severity, discard
from infra.engine.official import OFFICIAL, OfficialCli, is_available
from infra.engine.operation import Adapters, Operation, Options
from infra.engine.project import Project, load, to_text
from infra.engine.props import plain
from infra.engine.recorded import read_outputs
from infra.engine.result import Result
from infra.engine.secrets import Crypter, find_passphrase
from infra.engine.stackconfig import StackConfig, StackConfigFile
from infra.engine.state import VERSION, Deployment, deployment_from_json, deployment_to_json, salt_of
from infra.graph import Graph

Engine = Literal["embedded", "pulumi"]
EngineChoice = Literal["auto", "embedded", "pulumi"]
CANCEL_WAIT_S = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Interrupted:
    """What a run that was killed has left.

    Attributes:
        owner: of its lock, with the verb; None where there is no such lock.
        pending: number of operations that were under way.
        resources: whether the state names anything that was made, or is pending.
    """

    owner: Owner | None
    pending: int
    resources: bool


class Workspace:
    """A stack of a project.

    Args:
        project_dir: the directory of Pulumi.yaml.
        stack: the stack's name.
        engine: `embedded`, `pulumi` (the official CLI), or `auto`: the one that has the stack's resources, and for a
            stack that has none the official one if it is on PATH.
        on_event: gets every event, from several threads, one at a time.
        state_dir: where state, lock and passphrase are kept; `.ztna` in the project by default.

    Raises:
        ProjectError: there is no usable project.
        CliError: the official CLI is asked for, or has the stack's resources, and is not there.
    """

    def __init__(
        self,
        project_dir: Path | str,
        stack: str,
        *,
        engine: EngineChoice = "auto",
        on_event: EventSink = discard,
        state_dir: Path | None = None,
        options: Options | None = None,
        adapters: Adapters | None = None,
    ) -> None:
        root = Path(project_dir).resolve()
        self.project: Project = load(root)
        self.stack = stack
        self.state_dir = state_dir or root / ".ztna"
        self._file = StackFile(self.state_dir, self.project.name, stack)
        self._official_file = StackFile(self.state_dir / OFFICIAL, self.project.name, stack)
        self.engine = choose_engine(engine, self._holder())
        self._on_event = on_event
        self._event_lock = threading.Lock()
        self._options = options or Options()
        self._adapters = adapters or Adapters()
        self._passphrase = ""
        self._operation: Operation | OfficialCli | None = None

    # -- operations ------------------------------------------------------------------------------------------------

    def preview(self) -> Result:
        """What `up` would do; findings of policy rules (`Options.rules`) are reported and counted in the result."""
        result = self._operate("preview")
        if result.graph is None:
            return result
        return replace(result, violations=gate.check(result.graph, self._options.rules, self._emit))

    def up(self) -> Result:
        """Brings the stack to what its program says.

        Raises:
            DeploymentFailed, Cancelled, LockedError, ConfigError, StateError, ProjectError.
            PolicyViolation: where provider plugins are driven: a mandatory rule is broken, nothing was begun.
        """
        if self.engine == "embedded" and self._options.plugin_binaries and self._options.rules:
            gate.require(self._declared({}, self._emit_errors), self._options.rules, self._emit)
        return self._operate("up")

    def refresh(self) -> Result:
        """Reads every resource anew and records what is there."""
        return self._operate("refresh")

    def destroy(self) -> Result:
        """Deletes everything the stack has made. A stack that was never up has nothing to delete."""
        return self._operate("destroy")

    def graph(self, config: Mapping[str, Any] | None = None) -> Graph:
        """The resources that the program declares, by a preview that starts from nothing: no state, no credentials.

        Args:
            config: values by `namespace:name` instead of (or beside) those of the stack's file.
        """
        return self._declared(config or {}, self._emit)

    def _declared(self, config: Mapping[str, Any], emit: EventSink) -> Graph:
        values = self.configured()
        for key, value in config.items():
            values.values[key] = to_text(value)
        with TemporaryDirectory(prefix="ztna-graph-") as empty:
            file = StackFile(Path(empty), self.project.name, self.stack)
            operation = Operation(self.project, file, values, "preview", emit, self._options, self._adapters)
            self._operation = operation
            try:
                with interruptible(operation.interrupt, self._emit):
                    result = operation.preview()
            finally:
                self._operation = None
        assert result.graph is not None
        return result.graph

    def configured(self) -> StackConfig:
        """The stack's configuration, with the options' values where its file gives none."""
        values = self.config.load()
        values.values.update({key: value for key, value in self._options.config.items() if key not in values.values})
        return values

    def _holder(self) -> Engine | None:
        """The engine whose state names resources of this stack; the embedded one if both do."""
        if self._file.has_resources():
            return "embedded"
        return "pulumi" if self._official_file.has_resources() else None

    def _operate(self, verb: str) -> Result:
        holder = self._holder()
        if holder not in (None, self.engine):
            raise StateError(
                f"stack {self.stack!r} was brought up by the other engine ({holder}); two states would fight over it",
                f"Use --engine {holder}, or first: ztna destroy --stack {self.stack} --engine {holder}",
            )
        run: Callable[[], Result]
        operation: Operation | OfficialCli
        config, passphrase = self.configured(), self._secret()
        if self.engine == "pulumi":
            operation = self._official()
            run = partial(operation.operate, verb)
        else:
            operation = Operation(
                self.project, self._file, config, passphrase, self._emit, self._options, self._adapters
            )
            run = getattr(operation, verb)
        self._operation = operation
        try:
            with interruptible(operation.interrupt, self._emit):
                return run()
        finally:
            self._operation = None

    def interrupt(self) -> None:
        """Stops the running operation as Ctrl-C does: what is under way finishes; a second call gives up on that."""
        operation = self._operation
        if operation is not None:
            operation.interrupt()

    # -- state -----------------------------------------------------------------------------------------------------

    def outputs(self, *, show_secrets: bool = False) -> dict[str, Any]:
        """The stack's outputs as plain values; secrets read `[secret]` unless shown.

        Raises:
            StateError: the stack has never been up.
        """
        if self.engine == "pulumi":
            return self._official().outputs(show_secrets=show_secrets)
        return plain(read_outputs(self._file, self._secret()), show_secrets=show_secrets)

    def export_stack(self) -> dict[str, Any]:
        """The state as `pulumi stack import` takes it (secrets stay encrypted)."""
        if self.engine == "pulumi":
            return self._official().export_stack()
        data = self._file.read()
        if data is None:
            raise StateError(f"stack {self.stack!r} has no state", "Run `ztna up` first.")
        return {"version": VERSION, "deployment": data}

    def import_stack(self, exported: dict[str, Any]) -> None:
        """Replaces the state by an exported one, after checking it.

        Raises:
            StateError: it is of another version, inconsistent, or encrypted under another passphrase.
        """
        if exported.get("version") != VERSION or not isinstance(exported.get("deployment"), dict):
            raise StateError(f"not an exported deployment of version {VERSION}")
        if self.engine == "pulumi":
            self._official().import_stack(exported)
            return
        data = exported["deployment"]
        crypter = Crypter(self._secret(), salt_of(data))
        deployment = deployment_from_json(data, crypter)
        self._file.lock("import")
        try:
            self._file.backup()
            self._file.write_text(json.dumps(deployment_to_json(deployment, crypter)))
        finally:
            self._file.unlock()

    def state(self) -> Deployment:
        """The recorded resources, secrets open."""
        data = self._official().export_stack()["deployment"] if self.engine == "pulumi" else self._file.read() or {}
        return deployment_from_json(data, Crypter(self._secret(), salt_of(data))) if data else Deployment()

    def cancel(self) -> str:
        """Stops a run of this stack in another process, or clears what a dead one left; says what it did."""
        if self.engine == "pulumi":
            return self._official().cancel(CANCEL_WAIT_S)
        return self._file.cancel(CANCEL_WAIT_S)

    def interrupted(self) -> Interrupted:
        """What a run of this stack that was killed has left.

        Raises:
            LockedError: the run is alive, or was on another host, where this one cannot see whether it is.
            CliError: the stack is the official CLI's, which keeps its own locks.
        """
        if self.engine == "pulumi":
            raise CliError(
                f"the official pulumi CLI has stack {self.stack!r} and keeps its own locks",
                f"Make sure that no run is alive, then `ztna cancel --stack {self.stack}` and the same command again.",
            )
        owner = self._file.owner()
        if self._file.is_locked():
            raise LockedError(
                f"stack {self.stack!r} is not to be recovered: {owner or 'another process'} is alive",
                "Wait for it to end, or stop it with `ztna cancel`.",
            )
        if owner is not None and not owner.is_here:
            raise LockedError(
                f"stack {self.stack!r} is locked by {owner}, and this host cannot see whether it is alive",
                "Run recover there, or `ztna cancel` here when you know that it is not.",
            )
        pending = (self._file.read() or {}).get("pending_operations") or ()
        return Interrupted(owner=owner, pending=len(pending), resources=self._file.has_resources())

    # -- configuration ---------------------------------------------------------------------------------------------

    @property
    def config(self) -> StackConfigFile:
        """The stack's configuration file: `get`, `set`, `remove`, `load`."""
        return StackConfigFile(self.project, self.stack, self._secret)

    # -- parts -----------------------------------------------------------------------------------------------------

    def _official(self) -> OfficialCli:
        return OfficialCli(self.project, self.stack, self.state_dir, self._secret(), self._emit, self._options.parallel)

    def _secret(self) -> str:
        if not self._passphrase:
            self._passphrase, note = find_passphrase(self.state_dir)
            if note:
                self._emit(Diagnostic(severity=Severity.INFO, message=note))
        return self._passphrase

    def _emit_errors(self, event: Any) -> None:
        """Before an up: its rules look at what a stack made anew would be, and that many creations would be no news."""
        if isinstance(event, Diagnostic) and event.severity is Severity.ERROR:
            self._emit(event)

    def _emit(self, event: Any) -> None:
        with self._event_lock:
            self._on_event(event)


def choose_engine(engine: EngineChoice, holder: Engine | None = None) -> Engine:
    """Which engine a choice means on this machine for a stack whose resources `holder` has.

    Raises:
        CliError: the official CLI is needed and is not on PATH.
    """
    chosen = engine if engine != "auto" else holder or ("pulumi" if is_available() else "embedded")
    if chosen == "pulumi" and not is_available():
        why = "is asked for" if engine == "pulumi" else "brought this stack up"
        raise CliError(f"the official pulumi CLI {why} and is not on PATH", "Install it, or use --engine embedded.")
    return chosen


@contextmanager
def interruptible(interrupt: Callable[[], None], emit: EventSink) -> Iterator[None]:
    """Turns SIGINT and SIGTERM into an orderly stop while the body runs, in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: object) -> None:
        # Not from the handler itself: it may have interrupted someone who holds the event lock.
        note = Diagnostic(
            severity=Severity.WARNING,
            message="Interrupted: what is under way is finished first. Interrupt again to give up on it.",
        )
        threading.Thread(target=emit, args=(note,), daemon=True).start()
        interrupt()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
