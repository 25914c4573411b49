"""`ztna recover`: after a `kill -9` of `up`, `refresh` or `destroy` at whatever moment, go on with it."""

import time
from typing import TYPE_CHECKING, Final

import typer

from infra.cli_common import (
    CliFailure,
    EngineOption,
    ExitCode,
    RealOption,
    StackOption,
    open_workspace,
    user_errors,
)
from infra.cli_stack import VerboseOption, bring_up, operate
from infra.cli_twin import TwinOption, check_alone, enter, intent_of, lab_errors, site_of, workspace

if TYPE_CHECKING:
    from infra.engine.workspace import Interrupted, Workspace

VERBS: Final = ("up", "refresh", "destroy")
DYING_S: Final = 10.0
"""A killed command's own processes end with it, but not in the same instant."""


def recover(
    stack: StackOption = "lab",
    engine: EngineOption = "auto",
    verbose: VerboseOption = False,
    real: RealOption = False,
    twin: TwinOption = False,
) -> None:
    """Go on after a run that was killed: clear its lock, do again what was under way, and finish what it was at.

    The lock of a run that is alive is never touched. Where nothing says what was wanted, it says which command does.
    """
    with user_errors():
        if twin:
            check_alone(engine, real=real)
            _recover_twin(stack, engine, verbose=verbose)
            return
        found = open_workspace(stack, engine, real=real).interrupted()
        verb = _verb(stack, found, "")
        if not verb:
            return
        _say(f"going on with `ztna {verb}` ({found.owner})")
        if verb == "up":
            bring_up(stack, engine, verbose=verbose, real=real)
        else:
            operate(verb, stack, engine, as_json=False, verbose=verbose, real=real)


def _recover_twin(stack: str, engine: str, *, verbose: bool) -> None:
    from infra.engine.errors import LockedError
    from infra.engine.events import discard
    from infra.engine.intent import is_live

    intent = intent_of(stack)
    noted = intent.read()
    if noted is not None and is_live(noted):
        raise LockedError(f"stack {stack!r} is not to be recovered: {noted} is alive", "Wait for it to end.")
    opened = workspace(stack, discard)
    found = _once_dead(opened)
    verb = _verb(stack, found, noted.verb if noted is not None else "", " --twin")
    if not verb:
        return
    _say(f"going on with `ztna {verb} --twin` ({noted or found.owner})")
    if verb == "destroy" and not found.resources:
        # All that is left is the world, or a part of it.
        with lab_errors():
            site_of(stack).close()
        intent.forget()
        return
    words = [verb, "--stack", stack, "--twin"]
    words += (["--yes"] if verb != "refresh" else []) + (["--verbose"] if verbose else [])
    enter(stack, engine, make=True, fetch=verb == "up", close=verb == "destroy", again=words, verb=verb)


def _once_dead(opened: "Workspace") -> "Interrupted":
    """Return what a killed run has left, once its own processes have ended. Raises LockedError for one that lives."""
    from infra.engine.errors import LockedError

    deadline = time.monotonic() + DYING_S
    while True:
        try:
            return opened.interrupted()
        except LockedError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def _verb(stack: str, found: "Interrupted", noted: str, option: str = "") -> str:
    """Return what to go on with; nothing when that is nothing.

    Raises:
        CliFailure: something was under way, and nobody knows what for; it says which command finishes.
    """
    verb = noted or (found.owner.verb if found.owner is not None else "")
    if verb in VERBS:
        return verb
    if found.pending:
        raise CliFailure(
            f"{found.pending} operations on stack {stack!r} were interrupted, and nothing says what for: run `ztna up "
            f"--stack {stack}{option}` to have the stack, or `ztna destroy --stack {stack}{option}` to have it gone; "
            "either does them first",
            ExitCode.FAILED,
        )
    _say(f"nothing to do: no run on stack {stack!r} was killed")
    return ""


def _say(sentence: str) -> None:
    typer.echo(f"recover: {sentence}", err=True)
