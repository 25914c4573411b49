"""The program's child process: how it is started, and what it says."""

import json
import os
from collections import deque
from collections.abc import Callable

from infra.engine.children import Child
from infra.engine.plugins import EXEC
from infra.engine.project import Project
from infra.engine.stackconfig import StackConfig

# What the SDK says when the engine has hung up on it, which it does when something else went wrong already.
HUNG_UP = "Resource monitor has terminated"
_TAIL_LINES = 40


def start(
    project: Project,
    stack: str,
    config: StackConfig,
    *,
    port: int,
    preview: bool,
    parallel: int,
    organization: str,
    on_line: Callable[[str, str], None],
) -> Child:
    """Starts the program against the services on a loopback port."""
    address = f"127.0.0.1:{port}"
    settings = {
        "project": project.name,
        "stack": stack,
        "monitor": address,
        "engine": address,
        "parallel": parallel,
        "dry_run": preview,
        "organization": organization,
        "root_directory": str(project.root),
    }
    env = {
        **os.environ,
        **program_env(project, config),
        "PULUMI_CONFIG": json.dumps(config.values),
        "PULUMI_CONFIG_SECRET_KEYS": json.dumps(sorted(config.secret_keys)),
    }
    argv = [project.python, "-u", str(EXEC), "program", str(project.program), json.dumps(settings)]
    return Child(argv, cwd=project.program_directory, env=env, on_line=on_line)


def program_env(project: Project, config: StackConfig) -> dict[str, str]:
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
