"""Commands that deploy: up, preview, refresh, destroy, output, cancel."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli_common import (
    CliFailure,
    EngineOption,
    ExitCode,
    JsonOption,
    StackOption,
    YesOption,
    confirm,
    open_workspace,
    print_json,
    user_errors,
)
from infra.outputs import EXPORT_KEYS, OutputsError, from_exports

if TYPE_CHECKING:
    from infra.engine.events import EventSink
    from infra.engine.operation import Result
    from infra.engine.workspace import Workspace

VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Show unchanged resources and debug messages.")]


def up(
    stack: StackOption = "lab",
    engine: EngineOption = "auto",
    yes: YesOption = False,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Bring the stack up, or to what its program and configuration say now; show what was deployed.

    Run it again after any failure or interruption: it goes on from what is there.
    """
    with user_errors():
        if not yes:
            _operate("preview", stack, engine, as_json=False, verbose=verbose)
            confirm(f"Bring stack {stack} up?", yes)
        result, outputs = _operate("up", stack, engine, as_json=as_json, verbose=verbose)
        if as_json:
            print_json({**_json(result), "outputs": outputs})
        else:
            from infra.cli_show import show_stack, table_console

            show_stack(from_exports(outputs), table_console())


def preview(
    stack: StackOption = "lab",
    engine: EngineOption = "auto",
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Show what `up` would do; change nothing."""
    with user_errors():
        result, _ = _operate("preview", stack, engine, as_json=as_json, verbose=verbose)
        if as_json:
            print_json(_json(result))


def refresh(
    stack: StackOption = "lab",
    engine: EngineOption = "auto",
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Look at every resource and record what is really there; the next `up` makes again what has vanished."""
    with user_errors():
        result, _ = _operate("refresh", stack, engine, as_json=as_json, verbose=verbose)
        if as_json:
            print_json(_json(result))


def destroy(
    stack: StackOption = "lab",
    engine: EngineOption = "auto",
    yes: YesOption = False,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Remove everything that the stack made."""
    with user_errors():
        confirm(f"Destroy everything in stack {stack}?", yes)
        result, _ = _operate("destroy", stack, engine, as_json=as_json, verbose=verbose)
        if as_json:
            print_json(_json(result))


def cancel(stack: StackOption = "lab", engine: EngineOption = "auto") -> None:
    """Stop the operation that holds the stack, or clear the lock of one that is dead."""
    with user_errors():
        typer.echo(open_workspace(stack, engine).cancel())


def output(
    key: Annotated[
        str | None, typer.Argument(help="One output; all when left out.", autocompletion=lambda: list(EXPORT_KEYS))
    ] = None,
    stack: StackOption = "lab",
    engine: EngineOption = "auto",
    show_secrets: Annotated[bool, typer.Option("--show-secrets", help="Print private keys in the clear.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print what the stack promises: relays, services, agents, places, CA, profiles."""
    with user_errors():
        outputs = _outputs(open_workspace(stack, engine), show_secrets=show_secrets)
        if key is not None:
            if key not in outputs:
                known = ", ".join(sorted(outputs)) or "none: deploy with `ztna up`"
                raise CliFailure(f"stack {stack!r} has no output {key!r}; it has: {known}", ExitCode.NO_STACK)
            value = outputs[key]
            typer.echo(value) if isinstance(value, str) and not as_json else print_json(value)
        elif as_json:
            print_json(outputs)
        else:
            from infra.cli_show import show_stack, table_console

            try:
                show_stack(from_exports(outputs), table_console())
            except OutputsError as error:
                raise CliFailure(f"stack {stack!r}: {error}", ExitCode.NO_STACK) from error


def _operate(verb: str, stack: str, engine: str, *, as_json: bool, verbose: bool) -> tuple["Result", dict[str, Any]]:
    """Run one operation with its display; return its result and, for `up`, the outputs without secrets."""
    from infra.cli_display import Display
    from infra.engine.events import discard

    display: AbstractContextManager[EventSink] = nullcontext(discard) if as_json else Display(verbose=verbose)
    with display as sink:
        workspace = open_workspace(stack, engine, sink)
        run: Callable[[], Result] = getattr(workspace, verb)
        result = run()
    return result, _outputs(workspace) if verb == "up" else {}


def _outputs(workspace: "Workspace", *, show_secrets: bool = False) -> dict[str, Any]:
    from infra.engine.errors import StateError

    try:
        return workspace.outputs(show_secrets=show_secrets)
    except StateError as error:
        raise CliFailure(str(error), ExitCode.NO_STACK) from error


def _json(result: "Result") -> dict[str, Any]:
    return {"verb": result.verb, "changes": result.changes, "duration_s": round(result.duration_s, 3)}
