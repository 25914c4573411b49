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
    RealOption,
    StackOption,
    YesOption,
    confirm,
    open_workspace,
    print_json,
    user_errors,
)
from infra.cli_preview import preview_json
from infra.cli_twin import TwinOption, enter, is_fresh, show_limits
from infra.outputs import EXPORT_KEYS, OutputsError, from_exports

if TYPE_CHECKING:
    from infra.engine.events import Event, EventSink
    from infra.engine.result import Result
    from infra.engine.workspace import Workspace

VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Show unchanged resources and debug messages.")]


def up(
    stack: StackOption = "lab",
    engine: EngineOption = "auto",
    yes: YesOption = False,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
    real: RealOption = False,
    twin: TwinOption = False,
) -> None:
    """Bring the stack up, or to what its program and configuration say now; verify and show what was deployed.

    Run it again after any failure or interruption: it goes on from what is there.
    """
    with user_errors():
        if twin:
            enter(stack, engine, real=real, make=True, fetch=True, verb="up")
        if not yes:
            _preview(stack, engine, verbose=verbose, real=real, twin=twin)
            confirm(f"Bring stack {stack} up?", yes)
        bring_up(stack, engine, as_json=as_json, verbose=verbose, real=real, twin=twin)


def bring_up(
    stack: str,
    engine: str,
    *,
    as_json: bool = False,
    verbose: bool = False,
    real: bool = False,
    twin: bool = False,
) -> None:
    """Bring the stack up, show what was deployed, and verify it as its configuration asks.

    Raises:
        CliFailure: it is up and does not keep what it promises.
    """
    from infra.cli_gate import verify_after_up

    result, outputs = operate("up", stack, engine, as_json=as_json, verbose=verbose, real=real, twin=twin)
    if not as_json:
        from infra.cli_show import show_stack, table_console

        show_stack(from_exports(outputs), table_console())
        if twin:
            show_limits(stack)
    verified = verify_after_up(stack, engine, result.changes, twin=twin, as_json=as_json)
    if as_json:
        print_json({**_json(result), "outputs": outputs, **({"verify": verified} if verified else {})})


def preview(
    stack: StackOption = "lab",
    engine: EngineOption = "auto",
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
    real: RealOption = False,
    twin: TwinOption = False,
) -> None:
    """Show what `up` would do; change nothing. Clouds need neither credentials nor provider plugins for it.

    Without plugins, arguments are checked against the SDK's types; what only the provider can tell is shown as unknown.
    """
    with user_errors():
        if as_json:
            result, events = _recorded_preview(stack, engine, None, real=real, twin=twin)
            print_json(preview_json(result, events))
            _require_policies(stack, result)
        else:
            _preview(stack, engine, verbose=verbose, real=real, twin=twin)


def refresh(
    stack: StackOption = "lab",
    engine: EngineOption = "auto",
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
    real: RealOption = False,
    twin: TwinOption = False,
) -> None:
    """Look at every resource and record what is really there; the next `up` makes again what has vanished."""
    with user_errors():
        if twin:
            enter(stack, engine, real=real, make=True)
        result, _ = operate("refresh", stack, engine, as_json=as_json, verbose=verbose, real=real, twin=twin)
        if as_json:
            print_json(_json(result))


def destroy(
    stack: StackOption = "lab",
    engine: EngineOption = "auto",
    yes: YesOption = False,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
    real: RealOption = False,
    twin: TwinOption = False,
) -> None:
    """Remove everything that the stack made."""
    with user_errors():
        confirm(f"Destroy everything in stack {stack}?", yes)
        if twin:
            enter(stack, engine, real=real, make=True, close=True, verb="destroy")
        result, _ = operate("destroy", stack, engine, as_json=as_json, verbose=verbose, real=real, twin=twin)
        if as_json:
            print_json(_json(result))


def cancel(stack: StackOption = "lab", engine: EngineOption = "auto", twin: TwinOption = False) -> None:
    """Stop the operation that holds the stack, or clear the lock of one that is dead."""
    with user_errors():
        typer.echo(open_workspace(stack, engine, twin=twin).cancel())


def output(
    key: Annotated[
        str | None, typer.Argument(help="One output; all when left out.", autocompletion=lambda: list(EXPORT_KEYS))
    ] = None,
    stack: StackOption = "lab",
    engine: EngineOption = "auto",
    show_secrets: Annotated[bool, typer.Option("--show-secrets", help="Print private keys in the clear.")] = False,
    as_json: JsonOption = False,
    twin: TwinOption = False,
) -> None:
    """Print what the stack promises: relays, services, agents, places, CA, profiles."""
    with user_errors():
        outputs = _outputs(open_workspace(stack, engine, twin=twin), show_secrets=show_secrets)
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


def _preview(stack: str, engine: str, *, verbose: bool, real: bool, twin: bool) -> None:
    """Run a preview and show it: notes on standard error, the tree on standard output."""
    from infra.cli_display import Display
    from infra.cli_preview import show

    with Display(verbose=verbose, quiet=True) as sink:
        result, events = _recorded_preview(stack, engine, sink, real=real, twin=twin)
    show(result, events)
    _require_policies(stack, result)


def _require_policies(stack: str, result: "Result") -> None:
    """Raise PolicyViolation when the preview found a breach of a mandatory rule."""
    if result.violations:
        from infra.engine.gate import violation

        raise violation(stack, result.violations)


def _recorded_preview(
    stack: str, engine: str, sink: "EventSink | None", *, real: bool, twin: bool
) -> tuple["Result", list["Event"]]:
    events: list[Event] = []

    def record(event: "Event") -> None:
        events.append(event)
        if sink is not None:
            sink(event)

    return open_workspace(stack, engine, record, real=real, twin=twin).preview(), events


def operate(
    verb: str, stack: str, engine: str, *, as_json: bool, verbose: bool, real: bool = False, twin: bool = False
) -> tuple["Result", dict[str, Any]]:
    """Run one operation with its display; return its result and, for `up`, the outputs without secrets."""
    from infra.cli_display import Display
    from infra.engine.events import discard

    display: AbstractContextManager[EventSink] = nullcontext(discard) if as_json else Display(verbose=verbose)
    with display as sink:
        workspace = open_workspace(stack, engine, sink, real=real, twin=twin)
        if twin and verb == "up" and is_fresh():
            # The world is new: what an earlier one held is to be made again.
            workspace.refresh()
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
