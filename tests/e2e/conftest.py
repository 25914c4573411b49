"""End-to-end tests against a stack that is up: `pytest tests/e2e --stack NAME`, or `--outputs FILE` of exported JSON.

Without either option there is nothing to ask, and nothing is collected here.
"""

import json
from pathlib import Path

import pytest

from infra.outputs import StackOutputs, from_exports
from infra.verify.checks import CHECKS
from infra.verify.context import Context

ROOT = Path(__file__).resolve().parents[2]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that name the stack."""
    group = parser.getgroup("stack", "the stack under test")
    group.addoption("--stack", default=None, help="name of a stack of this project that is up")
    group.addoption("--outputs", default=None, type=Path, help="JSON file of a stack's outputs, with secrets")
    group.addoption("--quick", action="store_true", help="shorter measurements and smaller bodies")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Collect nothing where no stack is named."""
    named = config.getoption("--stack", None) or config.getoption("--outputs", None)
    return None if named or collection_path == Path(__file__).parent else True


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per check of `ztna verify`."""
    if "check" in metafunc.fixturenames:
        metafunc.parametrize("check", CHECKS, ids=[check.id for check in CHECKS])


@pytest.fixture(scope="session")
def outputs(request: pytest.FixtureRequest) -> StackOutputs:
    """The outputs of the stack named on the command line."""
    file: Path | None = request.config.getoption("--outputs")
    if file is not None:
        return from_exports(json.loads(file.read_text()))
    from infra.engine.workspace import Workspace  # late: an outputs file needs no engine

    stack: str = request.config.getoption("--stack")
    return from_exports(Workspace(ROOT, stack).outputs(show_secrets=True))


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest, outputs: StackOutputs) -> Context:
    """How the checks reach the stack."""
    return Context(outputs, quick=request.config.getoption("--quick"))
