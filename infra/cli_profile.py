"""`ztna profile`: an agent's files, as its owner takes them to the machine that they are for."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

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
from infra.outputs import StackOutputs
from infra.wiring_macos import agent_files


def profile(
    agent: Annotated[str, typer.Argument(help="Name of the agent; the only one when left out.")] = "",
    out: Annotated[Path, typer.Option("--out", help="Directory to write the files to.")] = Path(),
    stack: StackOption = "lab",
    engine: EngineOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Write an agent's files: agent.json with its key, and the same for shells and for the macOS app without it."""
    with user_errors():
        files = files_of(stack_outputs(stack, engine, show_secrets=True), agent)
        written = write_files(files, out)
        if as_json:
            print_json({name: str(path) for name, path in written.items()})
            return
        for path in written.values():
            typer.echo(path)


def files_of(outputs: StackOutputs, agent: str) -> dict[str, str]:
    """Return an agent's files by name; those that the stack does not export are made of its profile.

    Raises:
        OutputsError: the stack has no such agent.
        CliFailure: no agent was named and there are several, or its profile is not there.
    """
    if not agent and len(outputs.agents) != 1:
        names = ", ".join(found.name for found in outputs.agents) or "none"
        raise CliFailure(f"stack {outputs.stack!r} has the agents {names}: say which one", ExitCode.USAGE)
    found = outputs.agent(agent or outputs.agents[0].name)
    exported = outputs.agent_files.get(found.name)
    if exported:
        return exported
    if not found.profile:
        raise CliFailure(f"agent {found.name!r} has no profile: deploy it with `ztna up`", ExitCode.NO_STACK)
    return agent_files(json.loads(found.profile))


def write_files(files: dict[str, str], directory: Path) -> dict[str, Path]:
    """Write files that only their owner may read, each whole or not at all; return where they are."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    written = {}
    for name, text in files.items():
        path = directory / name
        draft = directory / f".{name}.new"
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        draft.replace(path)
        written[name] = path
    return written
