"""The last step of `ztna up`: what the stack promises is held against what is there, and `up` fails with it.

    quick    twin: `ztna verify --quick`; lab: `ztna verify --quick` without what disrupts; cloud: ports, from here
    full     `ztna verify` as it stands
    off      nothing

The key `verify` of the stack's configuration says which (docs/configuration.md).
"""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import typer

from infra.cli_common import CliFailure, ExitCode, open_workspace, stack_outputs
from infra.config import parse_verify
from infra.config_tables import CONFIG_KEYS
from infra.verify.model import Status

if TYPE_CHECKING:
    from infra.outputs import StackOutputs
    from infra.verify.model import CheckResult, Report

KEY: Final = "verify"
SHOWN_FAILURES: Final = 5


def mode_of(stack: str, values: Mapping[str, Any]) -> str:
    """Return how much is verified of a stack with this configuration; `off` for one that has no such key.

    Raises:
        CliFailure: the value is none of VERIFY_MODES.
    """
    key = next((key for key in CONFIG_KEYS.get(stack, ()) if key.name == KEY), None)
    if key is None:
        return "off"
    text = str(values.get(f"{stack}:{KEY}", key.default))
    try:
        return parse_verify(text)
    except ValueError as error:
        remedy = f"ztna config set --stack {stack} {stack}:{KEY} {key.example}"
        raise CliFailure(f"{stack}:{KEY} is {text!r}: {error}\n{remedy}", ExitCode.CONFIG) from error


def verify_after_up(
    stack: str, engine: str, changes: Mapping[str, int], *, twin: bool, as_json: bool
) -> dict[str, Any] | None:
    """Verify what `up` has brought up, as the configuration asks.

    Args:
        stack: its name.
        engine: which engine has it.
        changes: what this `up` did, by operation: how to roll back depends on it.
        twin: whether it is the twin that is up.
        as_json: whether nothing may be printed.

    Returns:
        The report as JSON values; None where nothing was to be verified.

    Raises:
        CliFailure: a check failed; the message says which, why, and how to go back.
    """
    mode = mode_of(stack, open_workspace(stack, engine, twin=twin).config.load().values)
    if mode == "off":
        return None
    if not as_json:
        typer.secho(f"\nVerifying ({stack}:{KEY} is {mode}):", bold=True)
    report = _report(stack, engine, mode, twin=twin, as_json=as_json)
    if report.exit_code:
        raise CliFailure(failure(stack, report, changes, twin=twin), ExitCode.FAILED)
    return report.to_json()


def failure(stack: str, report: "Report", changes: Mapping[str, int], *, twin: bool) -> str:
    """Return what `up` says when verification failed: each check that did, the cause, and how to roll back."""
    bad = [entry for entry in report.results if entry.result.status in (Status.FAILED, Status.ERROR)]
    lines = [f"  {_sentence(entry)}" for entry in bad[:SHOWN_FAILURES]]
    if len(bad) > SHOWN_FAILURES:
        lines.append(f"  and {len(bad) - SHOWN_FAILURES} more")
    words = f"--stack {stack}{' --twin' if twin else ''}"
    touched = {operation for operation, count in changes.items() if count} - {"same", "read"}
    if touched == {"create"}:
        back = (
            f"Nothing was there before: correct the cause and run `ztna up {words}` again, or `ztna destroy {words}`."
        )
    elif touched:
        back = (
            "To roll back, put program and configuration back to what they were before this update, and run "
            f"`ztna up {words}`: it changes back what this one has changed."
        )
    else:
        back = f"This update changed nothing: look at what the sentences name, then `ztna verify {words}`."
    return "\n".join((f"{stack} is up, and does not keep what it promises:", *lines, back))


def _sentence(entry: "CheckResult") -> str:
    result = entry.result
    return f"{entry.title}: {result.detail or f'{result.measured}, not {result.expected}'}"


def _report(stack: str, engine: str, mode: str, *, twin: bool, as_json: bool) -> "Report":
    from infra.cli_access import conclude, keep, show_progress
    from infra.verify.checks import CHECKS
    from infra.verify.runner import run_verify

    folder, title = stack, stack
    if twin:
        from infra.cli_twin import verify_twin

        report = verify_twin(stack, quick=mode == "quick", as_json=as_json)
        folder, title = f"{stack}-twin", f"{stack} (twin)"
    else:
        outputs = stack_outputs(stack, engine, show_secrets=True)
        if mode == "quick" and outputs.rung == "cloud":
            report = ports_from_here(outputs)
        else:
            only = [check.id for check in CHECKS if mode == "full" or not check.disruptive]
            shown = None if as_json else show_progress
            report = run_verify(outputs, only=only, quick=mode == "quick", on_progress=shown)
    if as_json:
        # `up` prints one JSON value of its own, with the report in it.
        keep(report, folder)
    else:
        conclude(report, folder, title, as_json=False)
    return report


def ports_from_here(outputs: "StackOutputs") -> "Report":
    """Ask every promised port of a stack in the cloud from this machine, which is an administrator's."""
    from infra.verify.context import Context
    from infra.verify.model import Check, Report
    from infra.verify.reach import Source, reach
    from infra.verify.runner import conditions, run_check

    began, started_at = time.monotonic(), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    here = Source(name="here", admin=True, refusals=True)
    check = Check("reach-here", "Ports from here", lambda context: reach(context.outputs, here), needs_path=False)
    return Report(
        stack=outputs.stack, run=outputs.run, started_at=started_at, seconds=time.monotonic() - began,
        conditions=conditions(outputs), services=(), results=(run_check(check, Context(outputs)),),
        limits=outputs.limits,
    )  # fmt: skip
