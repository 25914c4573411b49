"""What a stack's program declares, for tests: its graph from a preview without credentials, state or plugins."""

import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from infra.engine.events import Diagnostic, Event, Severity
from infra.engine.project import to_text
from infra.engine.workspace import Workspace
from infra.graph import Graph
from tests.support.project import ROOT

_LINKED = (".venv", "ztna", "infra", "components", "stacks", "docker", "Dockerfile", ".dockerignore", "uv.lock")
_COPIED = ("Pulumi.yaml", "__main__.py", "pyproject.toml")


def preview_graph(stack: str, config: dict[str, Any] | None = None) -> Graph:
    """The graph of a stack under its committed configuration, with `config` (by `namespace:name`) on top.

    Previewed once per session for each stack and configuration, in a project directory of its own that links this
    checkout's sources.

    Raises:
        AssertionError: the preview fails; the message holds what it said.
    """
    return _preview(stack, json.dumps({key: to_text(value) for key, value in (config or {}).items()}, sort_keys=True))


@cache
def _preview(stack: str, config: str) -> Graph:
    said: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Diagnostic) and event.severity is not Severity.DEBUG:
            said.append(event.message)

    with tempfile.TemporaryDirectory(prefix="ztna-preview-") as scratch:
        workspace = Workspace(_project(Path(scratch), stack), stack, engine="embedded", on_event=listen)
        try:
            return workspace.graph(json.loads(config))
        except Exception as error:
            raise AssertionError("\n".join([f"preview of {stack}: {error}", *said])) from error


def _project(directory: Path, stack: str) -> Path:
    """The directory with links to the sources and copies of the project's files."""
    for name in _LINKED:
        if (ROOT / name).exists():
            (directory / name).symlink_to(ROOT / name)
    for name in (*_COPIED, f"Pulumi.{stack}.yaml"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, directory / name)
    return directory
