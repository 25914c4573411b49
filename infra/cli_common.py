"""What the `ztna` commands share: options, exit codes, the project and its outputs, and how errors are shown."""

import enum
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, get_args

import typer

from infra.outputs import OutputsError, StackOutputs, from_exports

if TYPE_CHECKING:
    from infra.engine.events import EventSink
    from infra.engine.workspace import Workspace

PROJECT_FILE: Final = "Pulumi.yaml"
EngineName = Literal["auto", "embedded", "pulumi"]


class ExitCode(enum.IntEnum):
    """What the `ztna` command ends with; `exec` ends with the code of the command it ran."""

    OK = 0
    FAILED = 1
    USAGE = 2
    CONFIG = 3
    NO_STACK = 4
    LOCKED = 5
    INTERRUPTED = 130


EXIT_CODES: Final = {
    ExitCode.OK: "done",
    ExitCode.FAILED: "an operation or a check failed; what was done is recorded, the same command goes on from there",
    ExitCode.USAGE: "wrong usage, or verify could not run at all",
    ExitCode.CONFIG: "project file, configuration or an encrypted value is missing or bad (1 if the program says so)",
    ExitCode.NO_STACK: "the stack is not up, or has no such place",
    ExitCode.LOCKED: "another operation on the stack is running",
    ExitCode.INTERRUPTED: "interrupted (Ctrl-C); nothing was left half-done",
}


class CliFailure(Exception):
    """An error of the command itself: what, which value, and the remedy."""

    def __init__(self, message: str, code: ExitCode = ExitCode.USAGE) -> None:
        super().__init__(message)
        self.code = code


def project_dir() -> Path:
    """Return the nearest directory upwards that holds the project, else the one this package lies in."""
    here = Path.cwd()
    own = Path(__file__).resolve().parent.parent
    return next((folder for folder in (here, *here.parents, own) if (folder / PROJECT_FILE).is_file()), own)


def stack_names() -> list[str]:
    """Return the stacks that have a configuration file (for shell completion)."""
    return sorted(path.name.split(".")[1] for path in project_dir().glob("Pulumi.*.yaml"))


def check_engine(value: str) -> str:
    """Return an engine's name or raise the usage error that lists those there are."""
    if value not in get_args(EngineName):
        raise typer.BadParameter(f"{value!r} is not an engine; choose {', '.join(get_args(EngineName))}")
    return value


StackOption = Annotated[
    str,
    typer.Option("--stack", "-s", envvar="ZTNA_STACK", help="Name of the stack.", autocompletion=stack_names),
]
EngineOption = Annotated[
    str,
    typer.Option(
        envvar="ZTNA_ENGINE",
        help="auto (the official pulumi CLI when it is on PATH), embedded, or pulumi.",
        callback=check_engine,
        autocompletion=lambda: list(get_args(EngineName)),
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
RealOption = Annotated[
    bool,
    typer.Option(
        "--real",
        help="With the embedded engine: let it drive provider plugins (pulumi-resource-NAME on PATH). Real clouds, "
        "real costs.",
    ),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before changing anything.")]


def open_workspace(
    stack: str, engine: str = "auto", on_event: "EventSink | None" = None, *, real: bool = False, twin: bool = False
) -> "Workspace":
    """Open a stack of the project. Imported late: `ztna --help` must not wait for an engine.

    Args:
        real: the embedded engine drives the provider plugins on PATH.
        twin: the stack's twin on this machine, with a state of its own.

    Raises:
        CliFailure: plugins are asked for of the official CLI, which drives them anyway; or two of these at once.
    """
    from infra.engine.events import discard
    from infra.engine.operation import Options
    from infra.engine.workspace import Workspace
    from infra.policy.rules import RULES

    if twin:
        from infra.cli_twin import check_alone, workspace

        check_alone(engine, real=real)
        return workspace(stack, on_event or discard)
    if real and engine == "pulumi":
        raise CliFailure("--real is for the embedded engine; the official pulumi CLI drives providers by itself")
    chosen = "embedded" if real else engine
    options = Options(plugin_binaries=real, rules=RULES)
    return Workspace(project_dir(), stack, engine=chosen, on_event=on_event or discard, options=options)  # type: ignore[arg-type]  # checked by check_engine


def stack_outputs(stack: str, engine: str = "auto", *, show_secrets: bool = False, twin: bool = False) -> StackOutputs:
    """Read the outputs of a stack that is up.

    Raises:
        CliFailure: it is not up.
    """
    try:
        workspace = open_workspace(stack, engine, twin=twin)
        if twin:
            from infra.cli_twin import with_identities

            return with_identities(stack, from_exports(workspace.outputs(show_secrets=True)))
        return from_exports(workspace.outputs(show_secrets=show_secrets))
    except OutputsError as error:
        raise CliFailure(f"stack {stack!r}: {error}", ExitCode.NO_STACK) from error


def exit_code_of(error: Exception) -> ExitCode | None:
    """Return the exit code of an error that is meant for the user, None for a fault of ours."""
    from infra.engine import errors

    table: tuple[tuple[type[Exception], ExitCode], ...] = (
        (errors.LockedError, ExitCode.LOCKED),
        (errors.Cancelled, ExitCode.INTERRUPTED),
        (errors.ConfigError, ExitCode.CONFIG),
        (errors.ProjectError, ExitCode.CONFIG),
        (errors.EngineError, ExitCode.FAILED),
        (OutputsError, ExitCode.NO_STACK),
        (OSError, ExitCode.FAILED),
    )
    if isinstance(error, CliFailure):
        return error.code
    return next((code for kind, code in table if isinstance(error, kind)), None)


@contextmanager
def user_errors() -> Iterator[None]:
    """Show errors meant for the user as one message on standard error, and end with their code."""
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    except Exception as error:
        code = exit_code_of(error)
        if code is None:
            raise
        typer.secho(f"ztna: {error}", fg=typer.colors.RED, err=True)
        raise typer.Exit(code) from error


def print_json(value: Any) -> None:
    """Print one JSON value."""
    typer.echo(json.dumps(value, indent=1, default=str))


def confirm(question: str, yes: bool) -> None:
    """Ask before a change unless told not to.

    Raises:
        CliFailure: there is nobody to ask.
        typer.Exit: the answer was no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise CliFailure("there is no terminal to confirm on: add --yes")
    if not typer.confirm(question):
        raise typer.Exit(ExitCode.OK)


Loader = Callable[[], Any]
