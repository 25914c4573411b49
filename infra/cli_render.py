"""`ztna render`: the Kubernetes manifests of a stack as files, for `kubectl apply -k`, without Pulumi or a cluster."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from infra.cli_common import CliFailure, ExitCode, open_workspace, user_errors
from infra.config import ConfigError
from infra.config_pi import pi_config, pi_overlay
from infra.render import HEADER, KUSTOMIZATION, MANIFESTS, SECRETS, RenderedFile, RenderError, files
from infra.render_pki import Material, material, write_private

STACK: Final = "pi-home"
AGENTS: Final = "agents"
NEVER_COMMITTED: Final = (SECRETS, AGENTS)


@dataclass(slots=True)
class StackSource:
    """A stack's configuration as infra/config.py reads it."""

    name: str
    values: Mapping[str, str]

    def get(self, key: str) -> str | None:
        """Return the text of a key, or None."""
        return self.values.get(f"{self.name}:{key}")


def render(
    directory: Annotated[
        Path, typer.Option("--dir", "-d", help="Where to write; made if need be.", metavar="DIRECTORY", file_okay=False)
    ],
    stack: Annotated[
        str, typer.Option("--stack", "-s", envvar="ZTNA_STACK", help="Name of the stack; it must be one of Kubernetes.")
    ] = STACK,
) -> None:
    """Write a stack's Kubernetes manifests, certificates included, for `kubectl apply -k DIRECTORY`.

    Secrets and agents' profiles are readable by you alone. Certificates are kept in .ztna and used again next time.
    """
    with user_errors():
        written = render_stack(stack, directory)
    for path in written:
        typer.echo(path)
    typer.echo(f"{len(written)} files; next: kubectl apply -k {directory}")


def render_stack(stack: str, directory: Path) -> list[Path]:
    """Render a stack into a directory and return the files written. Files of an earlier rendering are replaced.

    Raises:
        CliFailure: the stack has nothing for Kubernetes, its configuration is bad, or the directory holds other things.
    """
    if stack != STACK:
        raise CliFailure(f"stack {stack!r} has nothing for Kubernetes: render --stack {STACK}")
    _require_ours(directory)
    workspace = open_workspace(stack, "embedded")
    try:
        config = pi_config(StackSource(stack, workspace.config.load().values))
        overlay, address = pi_overlay(stack, config), str(config.load_balancer_ip)
        graph = workspace.graph()
        kept = workspace.state_dir / "render" / stack
        made = material(kept, overlay, address, dns_names=[config.relay_host], now=dt.datetime.now(dt.UTC))
        rendered = files(graph, made.pems)
    except ConfigError as error:
        raise CliFailure(str(error), ExitCode.CONFIG) from error
    except RenderError as error:
        raise CliFailure(str(error), ExitCode.FAILED) from error
    return _write(directory, rendered, made)


def _require_ours(directory: Path) -> None:
    """Refuse a directory with anything but an earlier rendering in it, since its files are replaced."""
    if not directory.exists() or not any(directory.iterdir()):
        return
    kustomization = directory / KUSTOMIZATION
    if not kustomization.is_file() or not kustomization.read_text().startswith(HEADER):
        raise CliFailure(f"{directory} holds other files: give an empty or a new directory, such as {directory}/ztna")


def _write(directory: Path, rendered: Sequence[RenderedFile], made: Material) -> list[Path]:
    directory.mkdir(parents=True, exist_ok=True)
    for folder in (MANIFESTS, SECRETS):
        for old in (directory / folder).glob("*.yaml"):
            old.unlink()
    written = []
    for file in rendered:
        path = directory / file.path
        if file.secret:
            write_private(path, file.text)
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(file.text)
        written.append(path)
    for agent, texts in made.agents.items():
        for name, text in texts.items():
            write_private(directory / AGENTS / agent / name, text)
            written.append(directory / AGENTS / agent / name)
    for folder in NEVER_COMMITTED:
        (directory / folder).chmod(0o700)
        write_private(directory / folder / ".gitignore", "*\n")
    return written
