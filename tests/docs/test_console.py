"""Every command of the pages runs, in the order of each page, against a lab of its own.

The pages share one deployment, README first; its state and its run are those of a project directory of its own, so a
developer's lab stays untouched. `make` targets are only checked to exist: CI runs `make test`, and
scripts/acceptance.sh runs `make up` and `make down`.
"""

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.lab.runtime import Lab
from infra.naming import run_name
from tests.docs.pages import PAGES, ROOT, Command, commands
from tests.support.project import link_project

STACK = "lab"
COMMANDS = [command for page in PAGES for command in commands(page)]
MAKE = [command for command in COMMANDS if command.text.startswith("make ")]
RUN = [command for command in COMMANDS if command not in MAKE]
SILENT = re.compile(r"ztna config (set|rm) ")
"""Commands that say nothing when all is well."""
COMMAND_TIMEOUT_S = 180.0
NEEDS_THE_LAB = (pytest.mark.lab, pytest.mark.root, pytest.mark.engine)
"""The pages show an agent in TUN mode, which is sure to be there for root only."""


@pytest.mark.parametrize("command", MAKE, ids=lambda command: f"{command.page}:{command.text}")
def test_make_targets_exist(command: Command) -> None:
    done = subprocess.run(["make", "-n", *shlex.split(command.text)[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_commands_are_those_of_the_project() -> None:
    assert len(RUN) >= 15
    for command in RUN:
        assert command.text.startswith(("ztna ", ".venv/bin/python -m ")), f"{command}: how is this to be run here?"


class Project:
    """A project directory with the lab stack up."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._env = {**os.environ, "PATH": f"{directory}/.venv/bin:{os.environ['PATH']}", "ZTNA_ENGINE": "embedded"}

    def run(self, text: str) -> subprocess.CompletedProcess[str]:
        """Run a command line as a user would type it."""
        argv = ["bash", "-c", text]
        return subprocess.run(
            argv,
            cwd=self.directory,
            env=self._env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
        )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    directory = link_project(tmp_path_factory.mktemp("docs") / "project")
    made = Project(directory)
    try:
        up = made.run("ztna up --stack lab --yes")
        assert up.returncode == 0, up.stdout + up.stderr
        yield made
    finally:
        Lab(run_name(STACK, directory)).destroy()


@pytest.mark.parametrize(
    "command",
    [pytest.param(command, marks=NEEDS_THE_LAB, id=f"{command.page}:{command.line}") for command in RUN],
)
def test_commands_of_the_pages_run(project: Project, command: Command) -> None:
    done = project.run(command.text)
    said = f"{command.page}:{command.line}: $ {command.text}\n{done.stdout}{done.stderr}"
    assert done.returncode == 0, said
    assert (done.stdout + done.stderr).strip() or SILENT.match(command.text), said


@pytest.mark.lab
@pytest.mark.root
@pytest.mark.engine
def test_destroy_leaves_nothing_of_the_run(project: Project) -> None:
    assert project.run("ztna destroy --stack lab --yes").returncode == 0
    listed = project.run("ip netns list").stdout
    assert run_name(STACK, project.directory) not in listed
