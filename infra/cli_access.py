"""Commands that use a stack that is up: status, logs, exec, verify. All they know comes from its outputs."""

import concurrent.futures
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from infra import http_probe
from infra.cli_common import (
    CliFailure,
    EngineOption,
    ExitCode,
    JsonOption,
    StackOption,
    print_json,
    stack_outputs,
    user_errors,
)
from infra.cli_twin import TwinOption, admin_prefix, enter, verify_twin
from infra.outputs import Place, StackOutputs

if TYPE_CHECKING:
    from infra.verify.model import Report
    from infra.verify.runner import Progress

PROBE_TIMEOUT_S: Final = 15.0
ROLE_NOT_READY: Final = 5
"""What `python -m ztna status` ends with when it shows a role that is not ready."""

PASS_THROUGH: Final = {"ignore_unknown_options": True, "allow_interspersed_args": False}


def status(
    stack: StackOption = "lab",
    engine: EngineOption = "auto",
    as_json: JsonOption = False,
    twin: TwinOption = False,
) -> None:
    """Ask every role how it is: state, observed address, registrations, and the path to each service.

    Ends with 1 when a role is not ready.
    """
    from infra.cli_paths import path_rows, show_paths

    with user_errors():
        if twin:
            enter(stack, engine)
        outputs = stack_outputs(stack, engine, twin=twin)
        pages = role_pages(outputs)
        rows = path_rows(outputs, pages)
        if as_json:
            print_json({**pages, "paths": rows})
        else:
            _show_status(outputs, pages)
            show_paths(rows)
        if any(page.get("state") != "ready" for page in pages.values()):
            raise typer.Exit(ExitCode.FAILED)


def role_pages(outputs: StackOutputs) -> dict[str, dict[str, Any]]:
    """Return the /status page of each role's place, asked all at once; `{"state": ..., "error": ...}` if none.

    Where the outputs give no address of the page, the role's own command asks for it in its place.
    """
    asked = {name: place for name, place in outputs.places.items() if place.status_url or place.config_path}
    with concurrent.futures.ThreadPoolExecutor(max_workers=8) as pool:
        return dict(zip(asked, pool.map(_page, asked.values()), strict=True))


def _page(place: Place) -> dict[str, Any]:
    from infra.verify.places import role_command

    if place.status_url:
        ask: tuple[str, ...] = (sys.executable, "-I", "-S", str(Path(http_probe.__file__).resolve()), place.status_url)
    else:
        ask = (*role_command(place), "status", "--json", "--config", str(place.config_path))
    try:
        done = subprocess.run([*place.exec, *ask], capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"state": "unreachable", "error": str(error)}
    if done.returncode not in (0, ROLE_NOT_READY):
        return {"state": "unreachable", "error": (done.stdout or done.stderr).strip()}
    try:
        page: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        return {"state": "unreachable", "error": (done.stdout or done.stderr).strip()[:200]}
    return page


def _show_status(outputs: StackOutputs, pages: dict[str, dict[str, Any]]) -> None:
    from rich.table import Table

    from infra.cli_show import in_order, table_console
    from infra.verify.status import read_status

    table = Table(title=f"Stack {outputs.stack}", title_justify="left", pad_edge=False)
    for column in ("place", "role", "state", "observed address", "services", "up", "pid"):
        table.add_column(column, overflow="fold")
    for name, _ in in_order({name: outputs.places[name] for name in pages}):
        page = pages[name]
        seen = read_status(page)
        services = "\n".join(f"{service} {state}".strip() for service, state in seen.services.items())
        observed = f"{seen.observed[0]}:{seen.observed[1]}" if seen.observed else ""
        uptime = f"{float(page['uptime_s']):.0f} s" if "uptime_s" in page else ""
        role = seen.role or outputs.places[name].kind
        words = (services or str(page.get("error", ""))) or "-"
        table.add_row(name, role, seen.state, observed, words, uptime, str(seen.pid or ""))
    table_console().print(table)


def complete_place(ctx: typer.Context) -> list[str]:
    """Complete the name of a place; nothing when the stack is not up."""
    try:
        return sorted(stack_outputs(str(ctx.params.get("stack") or "lab")).places)
    except Exception:  # completion must never print an error into somebody's shell
        return []


def exec_in_place(
    place: Annotated[
        str, typer.Argument(help="Where: relay, connector, agent, backend.", autocompletion=complete_place)
    ],
    command: Annotated[list[str], typer.Argument(help="Command and arguments, best after `--`.")],
    stack: StackOption = "lab",
    engine: EngineOption = "auto",
    twin: TwinOption = False,
) -> None:
    """Run a command in a place of the stack: ztna exec --stack lab agent -- curl http://100.64.0.101/get

    It ends with the command's own exit code.
    """
    with user_errors():
        found = stack_outputs(stack, engine, twin=twin).place(place)
        words = command[1:] if command[0] == "--" else command
        if not words:
            raise CliFailure(f"there is no command to run in {place!r}: ztna exec --stack {stack} {place} -- COMMAND")
        argv = [*(admin_prefix(stack) if twin else ()), *found.exec, *words]
        sys.stdout.flush()
        os.execvp(argv[0], argv)  # noqa: S606 - argv, no shell


def logs(
    places: Annotated[
        list[str] | None, typer.Argument(help="Places; all when left out.", autocompletion=complete_place)
    ] = None,
    stack: StackOption = "lab",
    engine: EngineOption = "auto",
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many lines of each log.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as more is written, until Ctrl-C.")] = False,
) -> None:
    """Print the ends of the roles' logs."""
    with user_errors():
        outputs = stack_outputs(stack, engine)
        names = places or [name for name, place in outputs.places.items() if place.logs]
        found = {path: f"{name}/{what}" for name in names for what, path in outputs.place(name).logs.items()}
        if not found:
            raise CliFailure(f"stack {stack!r} gives no logs for {', '.join(names) or 'any place'}", ExitCode.NO_STACK)
        if follow:
            os.execvp("tail", ["tail", "-n", str(lines), "-F", *found])  # noqa: S606 - argv, no shell
        for path, title in found.items():
            typer.secho(f"== {title} ({path})", bold=True)
            typer.echo(_tail(Path(path), lines))


def _tail(path: Path, lines: int) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 512 * (lines + 1)))
            text = file.read().decode("utf-8", "replace").splitlines()
    except OSError as error:
        return f"(no log: {error.strerror})"
    return "\n".join(text[-lines:] if lines else [])


def verify(
    stack: StackOption = "lab",
    engine: EngineOption = "auto",
    only: Annotated[list[str] | None, typer.Option("--only", help="Id of a check; may be given many times.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Shorter measurements and smaller bodies.")] = False,
    as_json: JsonOption = False,
    list_checks: Annotated[bool, typer.Option("--list", help="List the checks and end.")] = False,
    twin: TwinOption = False,
) -> None:
    """Prove that the stack works and measure it; write build/reports/STACK.

    Ends with 0 when every check passed, 1 when one failed, 2 when none could run.
    """
    from infra.verify.checks import CHECKS

    with user_errors():
        if list_checks:
            for check in CHECKS:
                typer.echo(f"{check.id:22} {check.title}")
            return
        if twin:
            enter(stack, engine)
            report = verify_twin(stack, quick=quick, as_json=as_json, only=only or [])
            raise typer.Exit(conclude(report, f"{stack}-twin", f"{stack} (twin)", as_json=as_json))
        outputs = stack_outputs(stack, engine, show_secrets=True)
        raise typer.Exit(_verify(outputs, only or [], quick, as_json))


def _verify(outputs: StackOutputs, only: list[str], quick: bool, as_json: bool) -> int:
    from infra.verify.runner import run_verify

    try:
        report = run_verify(outputs, only=only, quick=quick, on_progress=None if as_json else show_progress)
    except ValueError as error:
        raise CliFailure(str(error)) from error
    return conclude(report, report.stack, report.stack, as_json=as_json)


def conclude(report: "Report", folder: str, title: str, *, as_json: bool) -> int:
    """Write a report, print it or where it is, and return the exit code of `verify`."""
    written = keep(report, folder)
    if as_json:
        print_json({**report.to_json(), "report": str(written)})
    else:
        counts = ", ".join(f"{count} {word}" for word, count in report.to_json()["counts"].items() if count)
        typer.secho(f"verify {title}: {counts} in {report.seconds:.1f} s; report: {written}", bold=True)
    return report.exit_code


def keep(report: "Report", folder: str) -> Path:
    """Write a report below build/reports, and return its page."""
    from infra.cli_common import project_dir
    from infra.verify.report import REPORTS_DIR, write_report

    return write_report(report, project_dir() / REPORTS_DIR / folder)[0]


def show_progress(progress: "Progress") -> None:
    """One line per check: its name before it runs (on a terminal), its verdict with the measured value after."""
    head = f"[{progress.number:2}/{progress.total}] {progress.check.title}"
    if progress.finished is None:
        if sys.stdout.isatty():
            typer.echo(f"{head} ...\r", nl=False)
        return
    result = progress.finished.result
    colour = {"passed": typer.colors.GREEN, "not shown": typer.colors.YELLOW}.get(result.status, typer.colors.RED)
    clear = "\033[K" if sys.stdout.isatty() else ""
    verdict = typer.style(f"{result.status:9}", fg=colour)
    typer.echo(f"{clear}{head:48} {verdict} {result.measured} (expected {result.expected})")
    if result.detail:
        typer.echo(f"        {result.detail}")
