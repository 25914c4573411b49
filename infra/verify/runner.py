"""Run the checks of a stack one after another and collect the report."""

import datetime
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.outputs import StackOutputs
from infra.verify.checks import select
from infra.verify.context import Context, VerifyError
from infra.verify.model import Check, CheckResult, Report, Result, Status, not_shown


@dataclass(frozen=True, slots=True)
class Progress:
    """Before a check (`finished` None) and after it. `number` counts from 1."""

    number: int
    total: int
    check: Check
    finished: CheckResult | None = None


OnProgress = Callable[[Progress], None]


def run_verify(
    outputs: StackOutputs,
    *,
    only: Sequence[str] = (),
    quick: bool = False,
    on_progress: OnProgress | None = None,
    context: Context | None = None,
) -> Report:
    """Verify a running stack from its outputs.

    Args:
        outputs: what the stack exported, with secrets for the checks that need a second identity.
        only: ids of checks; all when empty.
        quick: shorter measurements and smaller bodies.
        on_progress: called before and after each check.
        context: how to reach the stack; replaced by tests.

    Raises:
        ValueError: `only` names a check that does not exist.
    """
    checks = select(tuple(only))
    context = context or Context(outputs, quick=quick)
    started_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    started = time.monotonic()
    results = []
    for number, check in enumerate(checks, 1):
        if on_progress:
            on_progress(Progress(number, len(checks), check))
        results.append(run_check(check, context))
        if on_progress:
            on_progress(Progress(number, len(checks), check, results[-1]))
    return Report(
        stack=outputs.stack, run=outputs.run, started_at=started_at, seconds=time.monotonic() - started,
        conditions=conditions(outputs), services=tuple(_service(outputs, service.id) for service in outputs.services),
        results=tuple(results), limits=outputs.limits, topology=outputs.topology,
    )  # fmt: skip


def run_check(check: Check, context: Context) -> CheckResult:
    """One check; whatever it raises becomes an ERROR result, so that the others still run."""
    started = time.monotonic()
    try:
        path = context.expected_path if check.needs_path and context.outputs.expected_paths else None
        if path is not None and path.path == "none":
            result = not_shown(f"the stack expects no path: {path.reason}")
        else:
            result = check.run(context)
    except VerifyError as error:
        result = Result(Status.ERROR, "could not run", "-", str(error))
    except Exception as error:  # the barrier: a fault in one check must not hide the others' results
        result = Result(Status.ERROR, "could not run", "-", f"{type(error).__name__}: {error}")
    return CheckResult(check.id, check.title, result, time.monotonic() - started)


def conditions(outputs: StackOutputs) -> dict[str, str]:
    """Under what the figures were measured: machine, load, rung."""
    return {
        "rung": outputs.rung,
        "kernel": platform.release(),
        "CPU": f"{cpu_model()} x {os.cpu_count()}",
        "load average at the end": " ".join(f"{value:.2f}" for value in os.getloadavg()),
        "Python": platform.python_version(),
    }


def cpu_model() -> str:
    """The processor's name as the kernel gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    return names[0] if names else platform.machine()


def _service(outputs: StackOutputs, service_id: str) -> dict[str, object]:
    service = outputs.service(service_id)
    return {"id": service.id, "virtual_ip": service.virtual_ip, "backend": service.backend,
            "ports": [f"{port.protocol}/{port.port}" for port in service.ports],
            "untunnelled": list(service.untunnelled)}  # fmt: skip
