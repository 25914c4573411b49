"""`--twin`: the stack's program, unmodified, on this machine. Commands that talk to hosts run at the administrator's.

The administrator is a host of the world (infra/twin/world.py): a command with --twin is started again with the network
of that host's namespace, and with everything else of this machine. So the engine, dynamic providers and ssh reach
public addresses that exist in the world only, and nothing of this machine's own network is changed.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Final

import typer

from infra.cli_common import CliFailure, ExitCode, project_dir

if TYPE_CHECKING:
    from infra.engine.events import EventSink
    from infra.engine.intent import Intent
    from infra.engine.workspace import Workspace
    from infra.outputs import StackOutputs
    from infra.twin.site import Site
    from infra.verify.model import CheckResult, Report

FRESH: Final = "ZTNA_TWIN_FRESH"
"""In the environment of a command at the administrator's: the world was made anew for it."""
TOOLS: Final = ("ip", "nft", "nsenter", "setpriv", "systemd-nspawn", "mmdebstrap", "ssh")
"""What is asked for before anything is made."""
STATE: Final = Path(".ztna") / "twin"
"""Of the twin's stacks, apart from that of real ones, whose ids mean something elsewhere."""
_AGAIN: Final = "import sys; sys.argv[0] = 'ztna'; from infra.cli import main; main()"

TwinOption = Annotated[
    bool,
    typer.Option(
        "--twin",
        help="On this machine instead of the cloud: the same program with resources realised as namespaces, machines "
        "and firewalls (docs/twin.md). Needs root.",
    ),
]


def site_of(stack: str) -> "Site":
    """The world of a stack's twin, of this checkout, whether it is there or not."""
    from infra.twin.site import Site, run_name

    return Site(run_name(stack, project_dir()), say=lambda line: typer.secho(f"twin: {line}", err=True))


def workspace(stack: str, on_event: "EventSink") -> "Workspace":
    """Open a stack of the twin."""
    from infra.engine.operation import Options
    from infra.engine.workspace import Workspace
    from infra.policy.rules import RULES
    from infra.twin.packages import IDEMPOTENT, adapters
    from infra.twin.stacks import config_of

    options = Options(idempotent=IDEMPOTENT, rules=RULES, config=config_of(stack))
    folder = project_dir()
    return Workspace(
        folder,
        stack,
        engine="embedded",
        on_event=on_event,
        state_dir=folder / STATE,
        options=options,
        adapters=adapters(site_of(stack)),
    )


def check_alone(engine: str, *, real: bool = False) -> None:
    """Raise CliFailure when an option beside --twin asks for another engine, or for providers of clouds."""
    if real or engine == "pulumi":
        other = "--real" if real else "--engine pulumi (or ZTNA_ENGINE)"
        raise CliFailure(f"--twin has providers of its own and the embedded engine: leave out {other}")


def at_admin() -> bool:
    """Whether this process runs at the administrator's."""
    from infra.twin.site import RUN

    return RUN in os.environ


def is_fresh() -> bool:
    """Whether the world was made for this command, so that what the state records is not there."""
    return FRESH in os.environ


def enter(
    stack: str,
    engine: str,
    *,
    real: bool = False,
    make: bool = False,
    fetch: bool = False,
    close: bool = False,
    again: Sequence[str] = (),
    verb: str = "",
) -> None:
    """Go on at the administrator's: run this command again there, and end with its exit code. Returns at once there.

    Args:
        stack: whose world.
        engine, real: the command's own options, which must ask for nothing else (`check_alone`).
        make: make the world, unless it is there.
        fetch: fetch what a release needs beforehand, which the world does not reach.
        close: remove the world after the command has succeeded.
        again: the command to run there; this one unless given.
        verb: what is noted while it lasts, for `ztna recover` after a kill; nothing if empty.

    Raises:
        CliFailure: there is no world, this user may not make one, or another engine is asked for.
        typer.Exit: with the command's exit code.
    """
    check_alone(engine, real=real)
    if at_admin():
        return
    if os.geteuid() != 0:
        raise CliFailure("--twin needs root: machines and firewalls are made of this machine's own kernel")
    site = site_of(stack)
    with intent_of(stack).during(verb):
        code = _enter(stack, site, make=make, fetch=fetch, close=close, again=again or sys.argv[1:])
    raise typer.Exit(code)


def intent_of(stack: str) -> "Intent":
    """What is noted of the operation that is under way on a stack's twin."""
    from infra.engine.intent import Intent

    return Intent(project_dir() / STATE, stack)


def _enter(stack: str, site: "Site", *, make: bool, fetch: bool, close: bool, again: Sequence[str]) -> int:
    there = site.exists
    if not there and not make:
        raise CliFailure(f"the twin of {stack!r} is not up: ztna up --stack {stack} --twin", ExitCode.NO_STACK)
    with lab_errors():
        if fetch:
            _fetch(stack, site)
        if make:
            site.open()
            _furnish(stack, site)
    code = _run_there(site, again, fresh=not there)
    if code == 0 and close:
        with lab_errors():
            site.close()
    return code


@contextmanager
def lab_errors() -> Iterator[None]:
    """Give what the lab or the bundle cannot do to the user as the command's own failure."""
    from infra.bundle import BundleError
    from infra.lab.errors import LabError

    try:
        yield
    except (LabError, BundleError) as error:
        raise CliFailure(str(error), ExitCode.FAILED) from error


def _fetch(stack: str, site: "Site") -> None:
    from infra.engine.events import discard
    from infra.lab.errors import require_tool
    from infra.twin import stacks

    for tool in TOOLS:
        require_tool(tool)
    values = workspace(stack, discard).configured().values
    for key, (value, why) in stacks.STACKS.get(stack, stacks.TwinStack()).config.items():
        if values[key] == value:
            site.say(f"{key} is {value}: {why}")
    stacks.fetch(stack, values, project_dir(), site.say)


def _furnish(stack: str, site: "Site") -> None:
    from infra.engine.events import discard
    from infra.twin import stacks

    stacks.furnish(stack, workspace(stack, discard).configured().values, site)


def _run_there(site: "Site", again: Sequence[str], *, fresh: bool) -> int:
    from infra.engine.children import wait_for
    from infra.twin.site import OUTSIDE, RUN
    from infra.twin.world import ADMIN

    # It ends with us: a world is changed by nobody whom nobody can stop.
    tied = ("setpriv", "--pdeathsig", "KILL", "--")
    argv = [*site.inside(ADMIN), *tied, sys.executable, "-c", _AGAIN, *again]
    env = {**os.environ, RUN: site.run, OUTSIDE: f"/proc/{os.getpid()}/ns/net", **({FRESH: "1"} if fresh else {})}
    process = subprocess.Popen(argv, env=env)

    def pass_on(number: int, frame: FrameType | None) -> None:
        process.send_signal(number)

    # Ctrl-C goes to the whole group of the terminal: the command there stops in order, and we wait for it.
    before = {
        number: signal.signal(number, handler)
        for number, handler in ((signal.SIGINT, signal.SIG_IGN), (signal.SIGTERM, pass_on))
    }
    try:
        return wait_for(process)
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def with_identities(stack: str, outputs: "StackOutputs") -> "StackOutputs":
    """Return the outputs with places whose ssh has the key that the stack made; its file goes with the world.

    Args:
        stack: whose world.
        outputs: with secrets.
    """
    from infra.lab import state

    places = {}
    folder = state.run_dir(site_of(stack).run)
    for name, place in outputs.places.items():
        key = outputs.ssh_private_keys.get(place.address)
        if key and place.exec[:1] == ("ssh",) and folder.is_dir():
            path = folder / f"key.{place.address}"
            path.touch(mode=0o600)
            path.write_text(key)
            named = ("-o", f"IdentityFile={path}", "-o", "IdentitiesOnly=yes")
            controls = {verb: ("ssh", *named, *argv[1:]) for verb, argv in place.controls.items()}
            place = replace(place, exec=("ssh", *named, *place.exec[1:]), controls=controls)
        places[name] = place
    return replace(outputs, places=places)


def limits(stack: str) -> list[str]:
    """What the twin does not model of the types that a stack has, one sentence each."""
    from infra.engine.events import discard
    from infra.twin.catalogue import limits_of

    return limits_of(item.type for item in workspace(stack, discard).state().resources)


def show_limits(stack: str) -> None:
    """Print that list: what passes here may fail in the cloud by one of them."""
    typer.secho("\nThe twin does not model (docs/twin.md):", bold=True)
    for sentence in limits(stack):
        typer.echo(f"  {sentence}")


def admin_prefix(stack: str) -> tuple[str, ...]:
    """Argv prefix that runs a command with the administrator's network.

    Raises:
        CliFailure: the twin is not up.
    """
    from infra.twin.world import ADMIN

    site = site_of(stack)
    if not site.exists:
        raise CliFailure(f"the twin of {stack!r} is not up: ztna up --stack {stack} --twin", ExitCode.NO_STACK)
    return site.inside(ADMIN)


def verify_twin(stack: str, *, quick: bool, as_json: bool, only: Sequence[str] = ()) -> "Report":
    """Hold a stack's promises against its twin, showing each result unless `as_json`. Raises CliFailure."""
    from infra.cli_common import stack_outputs
    from infra.twin.verify import verify

    def show(result: "CheckResult") -> None:
        if not as_json:
            found = result.result
            colour = {"passed": typer.colors.GREEN, "not shown": typer.colors.YELLOW}.get(
                found.status, typer.colors.RED
            )
            typer.echo(f"{result.title:48} {typer.style(f'{found.status:9}', fg=colour)} {found.measured}")
            if found.detail:
                typer.echo(f"        {found.detail}")

    outputs = stack_outputs(stack, show_secrets=True, twin=True)
    outputs = replace(outputs, limits=(*outputs.limits, *limits(stack)))
    try:
        with lab_errors():
            return verify(site_of(stack), outputs, quick=quick, on_result=show, only=only)
    except ValueError as error:
        raise CliFailure(str(error)) from error
