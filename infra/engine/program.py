"""The running program: in a child process, served over gRPC on loopback."""

import json
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import grpc

from infra.engine.children import Child
from infra.engine.monitor import EngineService, MonitorService, serve
from infra.engine.plugins import EXEC
from infra.engine.project import Project
from infra.engine.stackconfig import StackConfig

# What the SDK says when the engine has hung up on it, which it does when something else went wrong already.
HUNG_UP = "Resource monitor has terminated"
_TAIL_LINES = 40


class RunningProgram(Protocol):
    """A program that has been started."""

    def wait(self, timeout_s: float) -> int | None:
        """Its exit code, None when it still runs after `timeout_s` seconds."""

    def stop(self) -> None:
        """Ends it, if it still runs, and all that serves it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What a program is started with; `on_line` gets (`stdout` or `stderr`, line)."""

    project: Project
    stack: str
    config: StackConfig
    preview: bool
    parallel: int
    organization: str
    on_line: Callable[[str, str], None]


Launcher = Callable[[Launch, MonitorService, EngineService], RunningProgram]


class ChildProgram:
    """A program in a child process and the server it talks to."""

    def __init__(self, child: Child, server: grpc.Server) -> None:
        self._child, self._server = child, server

    def wait(self, timeout_s: float) -> int | None:
        return self._child.wait(timeout_s)

    def stop(self) -> None:
        self._child.stop()
        self._server.stop(None)


def launch_child(launch: Launch, monitor: MonitorService, engine: EngineService) -> RunningProgram:
    """Serves both services and starts the program in its own interpreter."""
    server, port = serve(monitor, engine, launch.parallel)
    project, address = launch.project, f"127.0.0.1:{port}"
    settings = {
        "project": project.name,
        "stack": launch.stack,
        "monitor": address,
        "engine": address,
        "parallel": launch.parallel,
        "dry_run": launch.preview,
        "organization": launch.organization,
        "root_directory": str(project.root),
    }
    env = {
        **os.environ,
        **program_env(project),
        "PULUMI_CONFIG": json.dumps(launch.config.values),
        "PULUMI_CONFIG_SECRET_KEYS": json.dumps(sorted(launch.config.secret_keys)),
    }
    argv = [project.python, "-u", str(EXEC), "program", str(project.program), json.dumps(settings)]
    return ChildProgram(Child(argv, cwd=project.program_directory, env=env, on_line=launch.on_line), server)


def program_env(project: Project) -> dict[str, str]:
    """Environment variables that programs and their dynamic providers find under the official CLI, too."""
    options = {f"PULUMI_RUNTIME_{key.upper()}": str(value) for key, value in project.runtime_options.items()}
    return {**options, "PULUMI_PROJECT": project.name}


class Tail:
    """The last lines of standard error, to explain a program that died without a word to the engine."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=_TAIL_LINES)

    def add(self, stream: str, line: str) -> None:
        """Remembers a line of standard error."""
        if stream == "stderr":
            self._lines.append(line)

    def text(self) -> str:
        """The remembered lines."""
        return "\n".join(self._lines)
