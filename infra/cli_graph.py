"""The command `graph`: a stack's resources and what they depend on, as text, JSON or a drawing."""

from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from infra.cli_common import CliFailure, StackOption, open_workspace, print_json, user_errors

Format = Literal["text", "json", "svg"]


def check_format(value: str) -> str:
    """Return a format's name or raise the usage error that lists those there are."""
    if value not in get_args(Format):
        raise typer.BadParameter(f"{value!r} is not a format; choose {', '.join(get_args(Format))}")
    return value


def graph(
    stack: StackOption = "lab",
    form: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            help="text (a tree and counts), json, or svg.",
            callback=check_format,
            autocompletion=lambda: list(get_args(Format)),
        ),
    ] = "text",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file.")] = None,
) -> None:
    """Show what the stack's program declares: resources, components, dependencies. Needs no credentials.

    Computed by a preview that starts from nothing; values that only a deployment can tell read `<unknown>`.
    """
    with user_errors():
        from infra.cli_display import Display

        with Display(quiet=True) as sink:
            found = open_workspace(stack, "embedded", sink).graph()
        if output is None:
            if form == "json":
                print_json(found.to_json())
            else:
                typer.echo(found.to_text() if form == "text" else found.to_svg(), nl=False)
            return
        import json

        text = json.dumps(found.to_json(), indent=1) + "\n" if form == "json" else found.to_text()
        try:
            output.write_text(found.to_svg() if form == "svg" else text)
        except OSError as error:
            raise CliFailure(f"--output {output}: {error.strerror or error}") from error
