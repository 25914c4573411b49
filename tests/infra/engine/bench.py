"""Runs programs in this process against the engine, without gRPC: fast enough for one test per semantic."""

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pulumi
import pulumi.runtime
from pulumi.runtime import settings as runtime_settings

from infra.engine.events import Diagnostic, Event, Phase, ResourceStep, Severity
from infra.engine.monitor import EngineService, MonitorService
from infra.engine.operation import Adapters, Options
from infra.engine.program import Launch, RunningProgram
from infra.engine.result import Result
from infra.engine.state import ResourceState
from infra.engine.urn import is_provider, name_of
from infra.engine.workspace import Workspace
from tests.infra.engine.cloud import Cloud

Program = Callable[[], None]
THREADS = 16


class _Aborted(grpc.RpcError):
    """What a stub raises when the service aborts."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details


class _Context:
    def abort(self, code: grpc.StatusCode, details: str) -> None:
        raise _Aborted(code, details)


class _Stub:
    """Calls a service's methods as if through gRPC."""

    def __init__(self, service: object) -> None:
        self._service = service

    def __getattr__(self, method: str) -> Callable[[Any], Any]:
        return lambda request: getattr(self._service, method)(request, _Context())


class InProcessProgram:
    """A program in a thread with its own event loop."""

    def __init__(self, program: Program, launch: Launch, monitor: MonitorService, engine: EngineService) -> None:
        self._program, self._launch = program, launch
        self._monitor, self._engine = _Stub(monitor), _Stub(engine)
        self._code: int | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="program")
        self._thread.start()

    def wait(self, timeout_s: float) -> int | None:
        self._thread.join(timeout_s)
        return self._code

    def stop(self) -> None:
        self._thread.join(5)

    def _run(self) -> None:
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        executor = ThreadPoolExecutor(THREADS)
        loop.set_default_executor(executor)
        config = self._launch.config
        pulumi.runtime.set_all_config(config.values, list(config.secret_keys))
        runtime_settings.configure(
            runtime_settings.Settings(
                project=self._launch.project.name, stack=self._launch.stack, monitor=self._monitor,
                engine=self._engine, parallel=self._launch.parallel, dry_run=self._launch.preview,
                organization=self._launch.organization,
            )
        )  # fmt: skip
        try:
            loop.run_until_complete(pulumi.runtime.run_in_stack(self._program))
            self._code = 0
        except Exception as error:
            pulumi.log.error(f"{type(error).__name__}: {error}")
            self._code = 1
        finally:
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0))
            executor.shutdown()
            loop.close()


class Bench:
    """A project in a directory, a cloud, and the engine between them."""

    def __init__(self, root: Path, stack: str = "dev", project: str = "bench") -> None:
        self.root, self.stack = root, stack
        root.mkdir(exist_ok=True)
        (root / "Pulumi.yaml").write_text(f"name: {project}\nruntime: python\n")
        (root / "__main__.py").write_text("")
        self.cloud = Cloud()
        self.events: list[Event] = []
        self.workspace: Workspace

    def configure(self, text: str) -> None:
        """Writes the stack's configuration file."""
        (self.root / f"Pulumi.{self.stack}.yaml").write_text(text)

    def up(self, program: Program, **options: Any) -> Result:
        """Runs `up`; events of this run only are kept."""
        return self.make(program, **options).up()

    def preview(self, program: Program) -> Result:
        """Runs `preview`."""
        return self.make(program).preview()

    def destroy(self) -> Result:
        """Runs `destroy`."""
        return self.make(lambda: None).destroy()

    def refresh(self) -> Result:
        """Runs `refresh`."""
        return self.make(lambda: None).refresh()

    def make(self, program: Program, **options: Any) -> Workspace:
        """The workspace for one run."""
        self.events = []
        self.cloud.calls.clear()

        def launch(launch: Launch, monitor: MonitorService, engine: EngineService) -> RunningProgram:
            return InProcessProgram(program, launch, monitor, engine)

        self.workspace = Workspace(
            self.root, self.stack, engine="embedded", on_event=self.events.append, options=Options(**options),
            adapters=Adapters(launch=launch, start_plugin=self.cloud.start),
        )  # fmt: skip
        return self.workspace

    # -- what happened ---------------------------------------------------------------------------------------------

    def ops(self) -> dict[str, list[str]]:
        """Finished operations by resource name, without the stack and providers."""
        result: dict[str, list[str]] = {}
        for event in self.events:
            if not isinstance(event, ResourceStep) or event.phase is not Phase.FINISHED:
                continue
            if event.type != "pulumi:pulumi:Stack" and not is_provider(event.type):
                result.setdefault(event.name, []).append(event.operation)
        return result

    def errors(self) -> str:
        """All error messages."""
        found = [item for item in self.events if isinstance(item, Diagnostic) and item.severity is Severity.ERROR]
        return "\n".join(item.message for item in found)

    def messages(self) -> str:
        """All messages."""
        return "\n".join(item.message for item in self.events if isinstance(item, Diagnostic))

    def resources(self) -> dict[str, ResourceState]:
        """Recorded resources by name, without the stack and providers; marked ones as `name (delete)`."""
        found = self.workspace.state().resources
        return {
            name_of(item.urn) + (" (delete)" if item.delete else ""): item
            for item in found
            if item.type != "pulumi:pulumi:Stack" and not is_provider(item.type)
        }


class Thing(pulumi.CustomResource):
    """A resource of the toy cloud."""

    serial: pulumi.Output[str]

    def __init__(
        self, name: str, opts: pulumi.ResourceOptions | None = None, *, kind: str = "Thing", **props: Any
    ) -> None:
        super().__init__(f"toy:index:{kind}", name, {**props, "serial": None}, opts)


class Group(pulumi.ComponentResource):
    """A component."""

    def __init__(self, name: str, opts: pulumi.ResourceOptions | None = None, **props: Any) -> None:
        super().__init__("toy:index:Group", name, props, opts)
