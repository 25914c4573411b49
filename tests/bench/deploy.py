"""Times of `up`, of an `up` that changes nothing, and of `destroy`, of the lab stack under the embedded engine.

They run in a copy of the project's top with a state of their own and under a run name of their own, so that a lab which
is up stays untouched.
"""

import os
import time
from pathlib import Path
from typing import Any

from infra.engine.workspace import Workspace
from infra.lab.runtime import Lab
from tests.bench.model import Row, limited
from tests.support.project import link_project

STACK = "lab"

_UP_LIMIT_S, _SECOND_UP_LIMIT_S = 240.0, 60.0


def make_project(directory: Path, run: str) -> Path:
    """A project directory that shares the sources and has the lab's configuration with another run name."""
    file = link_project(directory) / f"Pulumi.{STACK}.yaml"
    config = file.read_text().rstrip("\n")
    file.write_text(f"{config}\n  {STACK}:run: {run}\n")
    return directory


def times(directory: Path) -> tuple[list[Row], dict[str, Any]]:
    """Deploy, deploy again, destroy; whatever happens, nothing stays behind."""
    run = f"bench-{os.getpid()}-deploy"
    workspace = Workspace(make_project(directory, run), STACK, engine="embedded")
    took: dict[str, float] = {}
    try:
        for name, operation in (("up", workspace.up), ("no-op up", workspace.up), ("destroy", workspace.destroy)):
            started = time.monotonic()
            operation()
            took[name] = round(time.monotonic() - started, 2)
    finally:
        Lab(run).destroy()
    rows = [
        limited("Deployment of the lab stack", "up", took["up"], "s", at_most=_UP_LIMIT_S),
        limited("Deployment of the lab stack", "up that changes nothing", took["no-op up"], "s",
                at_most=_SECOND_UP_LIMIT_S, baseline=took["up"]),
        Row("Deployment of the lab stack", "destroy", took["destroy"], "s"),
    ]  # fmt: skip
    return rows, {"seconds": took}
