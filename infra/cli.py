"""The `ztna` command: deploy stacks, use and verify them, and run the roles of the overlay."""

from collections.abc import Callable
from copy import copy
from importlib import import_module
from importlib.util import find_spec
from typing import Final

import typer

from infra import cli_access, cli_config, cli_demo, cli_graph, cli_paths, cli_profile, cli_recover, cli_stack
from infra.cli_common import EXIT_CODES
from ztna import cli as roles

EPILOG: Final = "Exit codes: " + "; ".join(f"{code.value} {meaning}" for code, meaning in EXIT_CODES.items()) + "."
MOUNTED: Final = ("intermediate", "connector", "agent", "relay", "doctor")
"""Role commands of `python -m ztna` that `ztna` offers too; `status` is the stack's here."""


def find_commands(module: str, *names: str) -> "list[Callable[..., None]]":
    """Return the commands of a module that may be left out of an installation."""
    if find_spec(module) is None:
        return []
    found = import_module(module)
    return [getattr(found, name) for name in names]


app = typer.Typer(
    name="ztna",
    help="A zero-trust overlay of one's own: bring stacks up, reach their services, prove that they work.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

DEPLOY, USE, ROLES = "Deploy", "Use", "Roles"
DEPLOYING: Final[tuple[Callable[..., None], ...]] = (
    cli_stack.up,
    cli_stack.preview,
    cli_stack.refresh,
    cli_stack.destroy,
    cli_stack.output,
    cli_stack.cancel,
    cli_recover.recover,
    cli_graph.graph,
    *find_commands("infra.cli_lint", "lint"),
    *find_commands("infra.cli_render", "render"),
)
for command in DEPLOYING:
    app.command(rich_help_panel=DEPLOY, epilog=EPILOG)(command)
app.add_typer(cli_config.app, name="config", rich_help_panel=DEPLOY)
app.command("exec", rich_help_panel=USE, context_settings=cli_access.PASS_THROUGH)(cli_access.exec_in_place)
for access in (cli_profile.profile, cli_access.status, cli_access.logs, cli_access.verify):
    app.command(rich_help_panel=USE, epilog=EPILOG)(access)
for about in (cli_paths.why, cli_paths.prove):
    app.command(rich_help_panel=USE, epilog=cli_paths.EPILOG)(about)
app.add_typer(cli_demo.app, name="demo", rich_help_panel=USE)


def mount(source: typer.Typer) -> None:
    """Offer the role commands beside the stack's, each with its own exit codes."""
    for info in source.registered_commands:
        name = info.name or (info.callback.__name__ if info.callback is not None else "")
        if name in MOUNTED:
            mounted = copy(info)
            mounted.rich_help_panel = ROLES
            app.registered_commands.append(mounted)


mount(roles.app)


def main() -> None:
    """Entry point."""
    app()
