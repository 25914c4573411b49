"""Demonstrations on a stack that is up: `ztna demo fallback`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infra.cli_common import (
    CliFailure,
    EngineOption,
    ExitCode,
    JsonOption,
    StackOption,
    print_json,
    project_dir,
    stack_outputs,
    user_errors,
)

if TYPE_CHECKING:
    from infra.verify.fallback import Course

app = typer.Typer(help="Show what the overlay does when something happens to the network.", no_args_is_help=True)


@app.callback()
def demo() -> None:
    """Show what the overlay does when something happens to the network."""


@app.command()
def fallback(
    stack: StackOption = "lab",
    engine: EngineOption = "auto",
    agent: Annotated[str | None, typer.Option(help="Name of the agent; the first when left out.")] = None,
    service: Annotated[str, typer.Option(help="A service that echoes UDP.")] = "echo-service",
    as_json: JsonOption = False,
) -> None:
    """Cut the direct path while echoes flow, mend it, and draw what happened.

    Packets between the two NATs are dropped outside them for some seconds; what goes by the relay passes. The path is
    mended however this ends. Writes fallback.png and fallback.json to build/reports/STACK. Ends with 0 when traffic
    fell back to the relay and returned to the direct path.
    """
    from infra.verify.context import Context, VerifyError
    from infra.verify.fallback import run_fallback
    from infra.verify.places import chosen
    from infra.verify.report import REPORTS_DIR
    from infra.verify.timeline import write_timeline

    with user_errors():
        outputs = stack_outputs(stack, engine)
        if not outputs.agents:
            raise CliFailure(f"stack {stack!r} has no agent", ExitCode.NO_STACK)
        reduced = chosen(outputs, agent or outputs.agents[0].name, service)

        def say(text: str) -> None:
            typer.echo(f"  {text}", err=as_json)

        try:
            course = run_fallback(Context(reduced), reduced.service(service), on_step=say)
        except VerifyError as error:
            raise CliFailure(str(error), ExitCode.FAILED) from error
        directory = project_dir() / REPORTS_DIR / outputs.stack
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "fallback.json").write_text(json.dumps(course.to_json()) + "\n")
        picture = write_timeline(course, directory / "fallback.png", f"{outputs.stack}: {service}, direct path cut")
        if as_json:
            print_json({**course.to_json(), "picture": str(picture)})
        else:
            _show(course, picture)
        raise typer.Exit(ExitCode.OK if course.succeeded else ExitCode.FAILED)


def _show(course: "Course", picture: Path) -> None:
    for phase in course.phases:
        rtt = "no answer" if phase.rtt_ms != phase.rtt_ms else f"median {phase.rtt_ms:.2f} ms"
        typer.echo(f"  {phase.name:8} {phase.answered:4} of {phase.sent:4} echoes answered, {rtt}")
    fell = "never" if course.to_relay_s is None else f"{course.to_relay_s:.2f} s after the cut"
    back = "never" if course.to_direct_s is None else f"{course.to_direct_s:.2f} s after the mending"
    typer.secho(f"relay {fell}, {course.outage_s:.2f} s without an answer; direct again {back}", bold=True)
    typer.echo(f"picture: {picture}")
