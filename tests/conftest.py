"""What every test shares: the lab's rung decides which tests can run, and what was not run is said at the end.

`make test` runs what the rung allows. CI sets ZTNA_REQUIRE_RUNG=root; then a lower rung is an error, not a shorter run.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from infra.lab.rungs import Rung, detect

LAB_TESTS = Path(__file__).parent / "lab"
_left_out: dict[str, int] = {}


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to start on a lower rung than the one demanded."""
    wanted = os.environ.get("ZTNA_REQUIRE_RUNG", "")
    if wanted and detect().rung.value != wanted.lower():
        raise pytest.UsageError(f"ZTNA_REQUIRE_RUNG={wanted}, but this machine offers less: {_why()}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests/lab as `lab`, and deselect what this machine's rung cannot run."""
    for item in items:
        if LAB_TESTS in item.path.parents:
            item.add_marker("lab")
    found = detect()
    missing = {Rung.ROOT: set(), Rung.ROOTLESS: {"root"}, Rung.LOOPBACK: {"root", "lab"}}[found.rung]
    missing |= set() if found.tun else {"tun"}
    dropped = [item for item in items if any(item.get_closest_marker(name) for name in missing)]
    _leave_out(config, items, dropped, f"they need a better rung of the lab than {_why()}")
    for name, there, reason in (
        ("cluster", bool(os.environ.get("ZTNA_TEST_KUBECONFIG")), "ZTNA_TEST_KUBECONFIG names no API server"),
        ("official", shutil.which("pulumi") is not None, "the official pulumi CLI is not on PATH"),
        ("slow", "slow" in (config.option.markexpr or ""), "they take minutes: pytest -m slow"),
        ("e2e", "e2e" in (config.option.markexpr or ""), "they bring stacks up on this machine: make test-e2e"),
        ("matrix", "matrix" in (config.option.markexpr or ""), "they take minutes: make test-lab"),
    ):
        if not there:
            _leave_out(config, items, [item for item in items if item.get_closest_marker(name)], reason)


def _leave_out(config: pytest.Config, items: list[pytest.Item], dropped: list[pytest.Item], reason: str) -> None:
    if dropped:
        _left_out[reason] = len(dropped)
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in dropped]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of several processes tells the one that prints what it left out; they all leave out the same."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["left_out"] = dict(_left_out)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a worker said (pytest-xdist; a worker that died has said nothing)."""
    _left_out.update(getattr(node, "workeroutput", {}).get("left_out", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count what was not run and say why, also when that is nothing."""
    if not _left_out:
        terminalreporter.write_line("not run: 0 tests")
    for reason, count in _left_out.items():
        terminalreporter.write_line(f"not run: {count} tests ({reason})")


def _why() -> str:
    found = detect()
    return f"{found.rung.value} ({'; '.join(found.reasons) or 'the best there is'}; TUN {'yes' if found.tun else 'no'})"
