"""`ztna config`: list, read and write a stack's configuration."""

import json
from difflib import get_close_matches
from typing import Annotated, Any

import typer

from infra.cli_common import (
    CliFailure,
    EngineOption,
    ExitCode,
    JsonOption,
    StackOption,
    open_workspace,
    print_json,
    user_errors,
)
from infra.config import Key
from infra.config_tables import CONFIG_KEYS

app = typer.Typer(help="Read and write the configuration of a stack (Pulumi.STACK.yaml).", no_args_is_help=True)


def known_keys(stack: str) -> dict[str, Key]:
    """Return a stack's keys by full name, `namespace:name`."""
    return {f"{stack}:{key.name}": key for key in CONFIG_KEYS.get(stack, ())}


def complete_key(ctx: typer.Context) -> list[tuple[str, str]]:
    """Complete a key, with its help."""
    return [(name, key.help) for name, key in known_keys(str(ctx.params.get("stack") or "lab")).items()]


def full_name(stack: str, name: str) -> str:
    """Return the full name of a key; the namespace may be left out.

    Raises:
        CliFailure: the stack has no such key; the message gives the nearest one.
    """
    keys = known_keys(stack)
    full = name if ":" in name else f"{stack}:{name}"
    if full in keys or not full.startswith(f"{stack}:") or not keys:
        return full
    near = get_close_matches(full, keys, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise CliFailure(f"{full!r} is no key of stack {stack!r}: {hint}It has {', '.join(keys)}", ExitCode.CONFIG)


@app.command("list")
def list_keys(stack: StackOption = "lab", engine: EngineOption = "auto", as_json: JsonOption = False) -> None:
    """Show every key: what it means, its value, its default."""
    with user_errors():
        values = open_workspace(stack, engine).config.load().values
        rows = [
            {"key": name, "value": values.get(name), "default": key.default, "example": key.example, "help": key.help}
            for name, key in known_keys(stack).items()
        ]
        if as_json:
            print_json(rows)
            return
        from rich.table import Table

        from infra.cli_show import table_console

        table = Table(pad_edge=False)
        for column in ("key", "value", "default", "help"):
            table.add_column(column, overflow="fold")
        for row in rows:
            default = "required" if row["default"] is None else row["default"]
            table.add_row(row["key"], row["value"] or "", default, f"{row['help']}; for example {row['example']}")
        table_console().print(table)


KeyArgument = Annotated[str, typer.Argument(help="Key, such as lab:agentNat.", autocompletion=complete_key)]


@app.command("get")
def get_value(
    key: KeyArgument, stack: StackOption = "lab", engine: EngineOption = "auto", as_json: JsonOption = False
) -> None:
    """Print one value."""
    with user_errors():
        name = full_name(stack, key)
        value = open_workspace(stack, engine).config.get(name)
        print_json(value) if as_json else typer.echo(value)


@app.command("set")
def set_value(
    key: KeyArgument,
    value: Annotated[str, typer.Argument(help="Text, or JSON for an object.")],
    stack: StackOption = "lab",
    engine: EngineOption = "auto",
    secret: Annotated[bool, typer.Option("--secret", help="Encrypt the value in the file.")] = False,
) -> None:
    """Write one value into Pulumi.STACK.yaml; `ztna up` applies it."""
    with user_errors():
        name, structured = full_name(stack, key), _structured(key, value)
        open_workspace(stack, engine).config.set(name, structured, secret=secret)


@app.command("rm")
def remove_value(key: KeyArgument, stack: StackOption = "lab", engine: EngineOption = "auto") -> None:
    """Take one value out of Pulumi.STACK.yaml."""
    with user_errors():
        name = full_name(stack, key)
        open_workspace(stack, engine).config.remove(name)


def _structured(key: str, value: str) -> Any:
    """Return an object or a list as such, so that the file shows it as YAML; any other text as it is."""
    if not value.lstrip().startswith(("{", "[")):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise CliFailure(f"{key}: {value!r} is not JSON: {error}", ExitCode.CONFIG) from error
