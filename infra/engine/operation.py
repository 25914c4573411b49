"""One operation on a stack from lock to unlock: preview, up, refresh or destroy."""

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from infra.engine import urn as urns
from infra.engine.backend import StackFile
from infra.engine.builtin import BuiltinProvider
from infra.engine.callbacks import CallbackClient
from infra.engine.errors import Cancelled, DeploymentFailed, ResourceError
from infra.engine.events import Diagnostic, EventSink, OperationStarted, Severity, Summary
from infra.engine.execute import Executor
from infra.engine.graphs import graph_of
from infra.engine.hooks import HookRunner
from infra.engine.monitor import EngineService, MonitorService, deployment_info, serve_engine
from infra.engine.plugins import DYNAMIC, PluginHost
from infra.engine.program import HUNG_UP, Launch, Launcher, RunningProgram, Tail, launch_child, program_env
from infra.engine.project import Project
from infra.engine.props import Props, plain, secret
from infra.engine.providers import Provider
from infra.engine.recorded import read_outputs, stack_outputs
from infra.engine.recover import Recovery
from infra.engine.registrar import Registrar
from infra.engine.registry import Registry
from infra.engine.result import Result
from infra.engine.secrets import Crypter
from infra.engine.snapshot import Snapshot
from infra.engine.stackconfig import StackConfig
from infra.engine.state import Deployment, deployment_from_json, salt_of
from infra.engine.steps import Op, Planner, Step
from infra.engine.transforms import Transforms

if TYPE_CHECKING:
    from infra.policy.model import Rule

PROGRAM_EXIT_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How operations run.

    Attributes:
        parallel: provider operations at a time.
        idempotent: type prefixes of resources whose interrupted operations are simply done again.
        plugin_binaries: whether `pulumi-resource-*` on PATH may be started.
        continue_on_error: a failed resource does not end the operation.
        config: values by `namespace:name` for keys that the stack's file gives no value.
        rules: policy rules: previews report what breaks them; with plugin binaries `up` does not begin then.
    """

    parallel: int = 16
    idempotent: tuple[str, ...] = ("pulumi-python:dynamic",)
    plugin_binaries: bool = False
    continue_on_error: bool = False
    organization: str = "organization"
    config: Mapping[str, str] = field(default_factory=dict)
    rules: "tuple[Rule, ...]" = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapters:
    """Where an operation touches the outside; tests put in-process ones here.

    Attributes:
        launch: starts the program.
        start_plugin: starts the provider of a package.
    """

    launch: Launcher = launch_child
    start_plugin: Callable[[PluginHost, str], Provider] = PluginHost.start


class Operation:
    """Runs once. `interrupt` may be called from any thread or a signal handler."""

    def __init__(
        self,
        project: Project,
        file: StackFile,
        config: StackConfig,
        passphrase: str,
        emit: EventSink,
        options: Options,
        adapters: Adapters,
    ) -> None:
        self._project, self._file, self._config, self._options = project, file, config, options
        self._adapters = adapters
        self._passphrase, self._emit = passphrase, emit
        self._interrupts = 0
        self._executor: Executor | None = None
        self._registry: Registry | None = None
        self._program_errors = 0

    # -- the four verbs --------------------------------------------------------------------------------------------

    def preview(self) -> Result:
        """What `up` would do; changes nothing."""
        return self._run("preview")

    def up(self) -> Result:
        """Brings the stack to what the program says."""
        return self._run("up")

    def refresh(self) -> Result:
        """Reads every resource anew and records what is there."""
        return self._run("refresh")

    def destroy(self) -> Result:
        """Deletes everything in the state."""
        return self._run("destroy")

    def interrupt(self) -> None:
        """Begins nothing new and lets what is under way finish; a second call gives up on that, too.

        Giving up ends the providers: operations under way fail, stay pending in the state, and are settled by the next
        run.
        """
        self._interrupts += 1
        if self._executor is not None:
            self._executor.stopping.set()
        if self._interrupts > 1 and self._registry is not None:
            # Not here: this may be a signal handler that has interrupted someone inside the registry.
            threading.Thread(target=self._registry.close, daemon=True, name="give-up").start()

    # -- parts -----------------------------------------------------------------------------------------------------

    def _run(self, verb: str) -> Result:
        began = time.monotonic()
        preview = verb == "preview"
        with ExitStack() as stack:
            if not preview:
                note = self._file.lock(verb)
                stack.callback(self._file.unlock)
                self._note(note)
            data = self._file.read() or {}
            crypter = Crypter(self._passphrase, salt_of(data), eager=bool(data) or not preview)
            work = _Work(self, verb, data, crypter, stack)
            self._emit(
                OperationStarted(verb=verb, engine="embedded", stack=self._file.stack, expected=len(work.snapshot.base))
            )
            if not preview and data:
                self._file.backup()
            work.recover()
            getattr(work, "up" if preview else verb)()
        return work.finish(began)

    def _note(self, message: str) -> None:
        if message:
            self._emit(Diagnostic(severity=Severity.INFO, message=message))


class _Work:
    """The parts of a running operation, joined."""

    def __init__(
        self, operation: Operation, verb: str, data: dict[str, Any], crypter: Crypter, stack: ExitStack
    ) -> None:
        self._operation, self._verb, self._stack = operation, verb, stack
        self._preview = verb == "preview"
        self._project, self._options = operation._project, operation._options
        self._emit = operation._emit
        self._crypter = crypter
        self._tail = Tail()
        self._logged_errors = 0
        deployment = deployment_from_json(data, crypter) if data else Deployment()
        self.snapshot = Snapshot(deployment, crypter, None if self._preview else operation._file.write_text)
        host = PluginHost(
            python=self._project.python,
            cwd=self._project.program_directory,
            env=program_env(self._project),
            on_line=lambda stream, line: self._say(Severity.INFO, line) if line else None,
            binaries=self._options.plugin_binaries,
            preview=self._preview,
            engine=lambda: self._served_engine,
            on_note=lambda sentence: self._say(Severity.INFO, sentence),
        )
        self._builtin = BuiltinProvider(self._read_stack, lambda urn: self._planner.registered.get(urn))
        self._registry = operation._registry = Registry(
            lambda package: operation._adapters.start_plugin(host, package), self._builtin, deployment.resources
        )
        stack.callback(self._registry.close)
        self._callbacks = CallbackClient()
        stack.callback(self._callbacks.close)
        self._hooks = HookRunner(self._callbacks, self._emit, self._preview)
        self._executor = operation._executor = Executor(
            self.snapshot, self._registry, self._emit, self._hooks, parallel=self._options.parallel,
            preview=self._preview,
        )  # fmt: skip
        if operation._interrupts:
            self._executor.stopping.set()
        dynamic = any(item.type == urns.PROVIDER_PREFIX + DYNAMIC for item in deployment.resources)
        if dynamic or (not deployment.resources and verb in ("preview", "up")):
            # Half a second that passes beside the start of the program.
            self._registry.start_early(DYNAMIC)
        self._planner: Planner
        self._unsettled = 0
        self._stack_outputs: Props | None = None

    @cached_property
    def _served_engine(self) -> str:
        server, address = serve_engine(EngineService(self._plugin_log))
        self._stack.callback(server.stop, None)
        return address

    def recover(self) -> None:
        """Settles what an interrupted run left under way."""
        pending = self.snapshot.deployment().pending
        if self._preview and pending:
            self._say(
                Severity.WARNING, f"{len(pending)} operations of an interrupted run are pending; up does them first."
            )
            return
        recovery = Recovery(self.snapshot, self._registry, self._emit, self._options.idempotent)
        recovery.run()
        self._unsettled = len(recovery.unsettled)

    # -- up and preview --------------------------------------------------------------------------------------------

    def up(self) -> None:
        """Runs the program, then deletes what it no longer names."""
        file = self._operation._file
        self._planner = Planner(
            self._project.name, file.stack, self.snapshot.base, self._registry.find, preview=self._preview
        )
        registrar = Registrar(
            self._planner, self._executor, self._registry, self.snapshot, self._hooks, Transforms(self._callbacks),
            config_for=self._config_for, directory=self._project.program_directory, preview=self._preview,
            continue_on_error=self._options.continue_on_error,
        )  # fmt: skip
        running = self._launch(registrar)
        try:
            if self._program_succeeds(running, registrar) and not self._executor.errors:
                self._delete_the_rest()
            self._stack_outputs = registrar.stack_outputs
        finally:
            registrar.finished.set()
            self._executor.wait_idle(lambda: self._operation._interrupts > 1)
            if self._operation._interrupts < 2:
                running.wait(PROGRAM_EXIT_S)
            running.stop()
            self.snapshot.save()

    def _launch(self, registrar: Registrar) -> RunningProgram:
        config, options, stack = self._operation._config, self._options, self._operation._file.stack
        info = deployment_info(
            project=self._project.name, stack=stack, organization=options.organization, config=config.values,
            secret_keys=sorted(config.secret_keys), preview=self._preview, parallel=options.parallel,
        )  # fmt: skip
        launch = Launch(
            project=self._project, stack=stack, config=config, preview=self._preview, parallel=options.parallel,
            organization=options.organization, on_line=self._program_line,
        )  # fmt: skip
        return self._operation._adapters.launch(launch, MonitorService(registrar, info), EngineService(self._log))

    def _program_succeeds(self, running: RunningProgram, registrar: Registrar) -> bool:
        """Waits for the program's last registration or its end; whether there was nothing wrong with it."""
        while not registrar.signalled.wait(0.02):
            if self._executor.stopping.is_set():
                return False
            code = running.wait(0)
            if code is None:
                continue
            if code == 0 or registrar.signalled.is_set():
                break
            if not self._logged_errors and not self._executor.errors:
                tail = self._tail.text()
                self._executor.fail(f"the program ended with exit code {code}" + (f":\n{tail}" if tail else ""))
            return False
        return not self._logged_errors and not self._executor.stopping.is_set()

    def _delete_the_rest(self) -> None:
        try:
            steps = self._planner.plan_deletes()
        except ResourceError as error:
            self._executor.fail(str(error))
            return
        self._executor.run_deletes(steps)

    def _config_for(self, package: str) -> Props:
        """A default provider's configuration: its own namespace; all of it, with namespaces, for dynamic providers."""
        config = self._operation._config
        result: Props = {}
        for key, value in sorted(config.values.items()):
            namespace, _, name = key.partition(":")
            marked = secret(value) if key in config.secret_keys else value
            if package == DYNAMIC:
                result[key] = marked
            elif namespace == package:
                result[name] = marked
        return result

    # -- destroy and refresh ---------------------------------------------------------------------------------------

    def destroy(self) -> None:
        """Deletes every resource in the state."""
        steps = []
        for state in self.snapshot.base:
            if state.protect and not state.delete:
                raise ResourceError(
                    f"cannot destroy: {state.urn} is protected", "Remove `protect` in the program and run up first."
                )
            steps.append(Step(Op.DISCARD if state.pending_replacement else Op.DELETE, state))
        self._executor.run_deletes(steps)
        self.snapshot.save()
        self._stack_outputs = {}

    def refresh(self) -> None:
        """Reads every owned or read resource."""
        wanted = [
            Step(Op.REFRESH, state)
            for state in self.snapshot.base
            if state.custom and not urns.is_provider(state.type) and not state.delete and not state.pending_replacement
        ]
        self._executor.run_all(wanted)
        self.snapshot.prune()
        self.snapshot.save()

    # -- the end ---------------------------------------------------------------------------------------------------

    def finish(self, began: float) -> Result:
        """The result.

        Raises:
            Cancelled, DeploymentFailed: interrupted, or something failed; the state says how far it went.
        """
        interrupted = self._operation._interrupts > 0
        failed = self._executor.errors + self._logged_errors + (self._unsettled if self._verb == "destroy" else 0)
        word = "interrupted" if interrupted else "failed" if failed else "succeeded"
        duration = time.monotonic() - began
        self._emit(Summary(verb=self._verb, result=word, changes=dict(self._executor.counts), duration_s=duration))
        if interrupted:
            raise Cancelled(f"{self._verb} was interrupted", "Run the same command again to go on.")
        if failed:
            raise DeploymentFailed(
                f"{self._verb} failed with {failed} error{'s' if failed > 1 else ''}",
                "What was done is recorded; correct the cause and run the same command again.",
            )
        recorded = self._stack_outputs
        outputs = stack_outputs(self.snapshot.deployment().resources) if recorded is None else recorded
        ran = self._verb in ("preview", "up")
        return Result(
            verb=self._verb,
            changes=dict(self._executor.counts),
            outputs=plain(outputs, show_secrets=False),
            duration_s=duration,
            graph=graph_of(self._operation._file.stack, self._planner.registered.values(), outputs) if ran else None,
        )

    # -- messages --------------------------------------------------------------------------------------------------

    def _say(self, severity: Severity, message: str, urn: str = "") -> None:
        self._emit(Diagnostic(severity=severity, message=message, urn=urn))

    def _log(self, severity: Severity, message: str, urn: str) -> None:
        if severity is Severity.ERROR:
            if HUNG_UP in message and self._executor.stopping.is_set():
                return
            self._logged_errors += 1
        self._say(severity, message, urn)

    def _plugin_log(self, severity: Severity, message: str, urn: str) -> None:
        # What a plugin calls an error is one only if its operation fails, which is reported then.
        self._say(Severity.WARNING if severity is Severity.ERROR else severity, message, urn)

    def _program_line(self, stream: str, line: str) -> None:
        self._tail.add(stream, line)
        if line and not (self._executor.stopping.is_set() and stream == "stderr"):
            self._say(Severity.INFO, line)

    def _read_stack(self, name: str) -> Props:
        """The outputs of another stack here; named `stack`, `project/stack` or `organization/project/stack`."""
        parts = name.split("/")
        project = parts[-2] if len(parts) > 1 else self._project.name
        return read_outputs(self._operation._file.sibling(project, parts[-1]), self._operation._passphrase)
