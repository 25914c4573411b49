"""Demonstrations on a stack that is up: `ztna demo fallback`."""

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import msgspec
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
from infra.outputs import StackOutputs

if TYPE_CHECKING:
    from infra.verify.fallback import Course
    from infra.verify.held import Held

app = typer.Typer(help="Show what the overlay does when something happens to the network.", no_args_is_help=True)


Nats = Literal["as-is", "double"]
_HELD_LIMIT_S = 180.0


def check_nat(value: str) -> str:
    """Return a variant's name or raise the usage error that lists those there are."""
    if value not in get_args(Nats):
        raise typer.BadParameter(f"{value!r} is no variant; choose {', '.join(get_args(Nats))}")
    return value


def doubled(outputs: StackOutputs) -> "list[Held]":
    """Return the changes that put a carrier's NAT outside each home router of the lab; they undo themselves.

    Raises:
        CliFailure: the stack has no routers of the lab to change.
    """
    from infra.lab.nat import preset
    from infra.lab.topology import Router
    from infra.verify.held import Held

    routers = [Router.from_spec(spec) for spec in outputs.topology.get("routers", []) if spec.get("nat")]
    if not routers:
        raise CliFailure(f"--nat double changes routers of the lab, and stack {outputs.stack!r} has none")
    command = (sys.executable, "-m", "infra.lab", "router", "--run", outputs.run)
    return [
        Held(
            router.name,
            (),
            (*command, json.dumps(msgspec.structs.replace(router, nat=preset("cgnat")).to_spec())),
            (*command, json.dumps(router.to_spec())),
            limit_s=_HELD_LIMIT_S,
        )
        for router in routers
    ]


@app.callback()
def demo() -> None:
    """Show what the overlay does when something happens to the network."""


@app.command()
def fallback(
    stack: StackOption = "lab",
    engine: EngineOption = "auto",
    agent: Annotated[str | None, typer.Option(help="Name of the agent; the first when left out.")] = None,
    service: Annotated[str, typer.Option(help="A service that echoes UDP.")] = "echo-service",
    nat: Annotated[
        str,
        typer.Option(
            help="as-is, or double: a carrier's NAT in front of both homes meanwhile (the lab alone).",
            callback=check_nat,
            autocompletion=lambda: list(get_args(Nats)),
        ),
    ] = "as-is",
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
            with contextlib.ExitStack() as stack_of_nats:
                for change in doubled(outputs) if nat == "double" else ():
                    say(f"a carrier's NAT outside {stack_of_nats.enter_context(change).name}")
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
