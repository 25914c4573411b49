"""The role commands: intermediate, connector, agent, status, relay, doctor.

Exit codes: 0 done, or stopped as asked; 1 failed while running; 2 wrong usage; 3 the config file or a certificate
cannot be used; 4 a port cannot be bound; 5 not reachable or not ready. A role's modules are loaded when it runs, so
help is fast.
"""

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final

import typer

EXIT_FAILED: Final = 1
EXIT_CONFIG: Final = 3
EXIT_BIND: Final = 4
EXIT_NOT_READY: Final = 5
STATUS_TIMEOUT_S: Final = 5.0

EXIT_CODES: Final = (
    "Exit codes: 0 stopped as asked, 1 failed, 2 wrong usage, 3 config or certificate unusable, "
    "4 port cannot be bound, 5 not reachable or not ready."
)

app = typer.Typer(
    name="ztna",
    help="Roles of the overlay.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="Config file (JSON).", metavar="FILE")]


@app.command(epilog=EXIT_CODES)
def intermediate(config: ConfigOption) -> None:
    """Run the relay: registration, routing, observed addresses, STUN."""
    _run("ztna.io.intermediate", config)


@app.command(epilog=EXIT_CODES)
def connector(config: ConfigOption) -> None:
    """Run a connector beside the services it serves."""
    _run("ztna.io.connector", config)


@app.command(epilog=EXIT_CODES)
def agent(
    config: ConfigOption,
    forward: Annotated[
        list[str] | None, typer.Option(help="TCP forward LOCAL=SERVICE:PORT, like 8080=http-app:80.", metavar="SPEC")
    ] = None,
    forward_udp: Annotated[
        list[str] | None, typer.Option(help="UDP forward, like 9999=echo-service:9999.", metavar="SPEC")
    ] = None,
    mode: Annotated[str | None, typer.Option(help="auto, tun (root) or user; overrides the file.")] = None,
) -> None:
    """Run an agent: TUN mode with root, port forwards without."""
    _run("ztna.io.agent", config, forward=forward or [], forward_udp=forward_udp or [], mode=mode)


@app.command(epilog=EXIT_CODES)
def status(
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Config file of the role.")] = None,
    url: Annotated[str | None, typer.Option(help="Status address, like http://127.0.0.1:9090.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole status as JSON.")] = False,
) -> None:
    """Show the state of a running role on this host."""
    if (config is None) == (url is None):
        raise typer.BadParameter("give either --config or --url")
    base = url.rstrip("/") if url is not None else _guard(lambda: _status_url(config))
    try:
        with urllib.request.urlopen(f"{base}/status", timeout=STATUS_TIMEOUT_S) as answer:  # noqa: S310 - http only, see below
            found: dict[str, Any] = json.loads(answer.read(1 << 20))
    except (OSError, ValueError) as exc:
        _fail(EXIT_NOT_READY, f"no status from {base}: {getattr(exc, 'reason', exc)}; is the role running?")
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        for key, value in found.items():
            shown = json.dumps(value) if isinstance(value, dict | list) else value
            typer.echo(f"{key:<22} {shown}")
    if found.get("state") != "ready":
        raise typer.Exit(EXIT_NOT_READY)


class RelayVerb(StrEnum):
    """What can be asked of a relay."""

    OFF = "off"
    ON = "on"
    STATUS = "status"


@app.command(epilog=EXIT_CODES)
def relay(
    verb: Annotated[RelayVerb, typer.Argument(help="off: relay nothing from now on; on: again; status: only look.")],
    config: ConfigOption,
    as_json: Annotated[bool, typer.Option("--json", help="Print the relay's whole status as JSON.")] = False,
) -> None:
    """Switch a running intermediate's relay of opaque packets, or show it; direct paths are not touched."""
    from ztna.io.admin import ask

    path = _guard(lambda: _admin_socket(config))
    try:
        found = ask(path, {"relay": verb.value})
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else exc
        _fail(EXIT_NOT_READY, f"no answer from {path}: {reason}; is the intermediate running, and are you its user?")
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    sessions = found.get("sessions") or []
    ready = sum(1 for session in sessions if session.get("ready"))
    state = "on" if found.get("enabled") else "off"
    typer.echo(f"relay {state}, back end {found.get('backend')}, {ready} of {len(sessions)} sessions relayed")
    for session in sessions:
        ways = f"{session.get('agent_address')} <-> {session.get('connector_address')}"
        typer.echo(f"  {session.get('agent')}  {session.get('connector')}  {ways}  {json.dumps(session.get('bytes'))}")


@app.command(epilog="Exit codes: 0 fine, 1 a problem was found, 2 wrong usage, 3 config unusable.")
def doctor(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Config of an agent or a connector.", metavar="FILE")
    ] = None,
    server: Annotated[str | None, typer.Option(help="Relay to examine instead.", metavar="HOST:PORT")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Examine the network to the relay: NAT, observed address, path MTU, buffers, certificates."""
    if config is None and server is None:
        raise typer.BadParameter("give --config or --server")

    def examine() -> tuple[int, str]:
        from ztna.io.doctor import run

        return run(config=config, server=server, as_json=as_json)

    code, text = _guard(examine)
    typer.echo(text)
    raise typer.Exit(code)


def main() -> None:
    """Entry point of `python -m ztna`."""
    app()


def _run(module: str, config: Path, **options: Any) -> None:
    """Run a role's `run(path, **options)`; only given options are passed on, what it returns is the exit code."""

    def start() -> int | None:
        given = {name: value for name, value in options.items() if value}
        code: int | None = import_module(module).run(config, **given)
        return code

    if code := _guard(start):
        raise typer.Exit(code)


def _guard(action: Callable[[], Any]) -> Any:
    """Turn the errors a user can mend into one line and an exit code."""
    from ztna.config_reader import ConfigError

    try:
        return action()
    except ConfigError as exc:
        _fail(EXIT_CONFIG, str(exc))
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
    except OSError as exc:
        if type(exc).__name__ in ("UdpBindError", "HttpBindError", "AdminBindError"):
            _fail(EXIT_BIND, str(exc))
        _fail(EXIT_FAILED, str(exc))


def _fail(code: int, text: str) -> None:
    print(f"ztna: {text}", file=sys.stderr)
    raise typer.Exit(code)


def _admin_socket(path: Path) -> Path:
    from ztna.config_reader import Reader, parse_json, read_text
    from ztna.io.admin import DEFAULT_NAME

    where = str(path)
    read = Reader(parse_json(read_text(path, "--config"), where), "", where)
    return path.parent / str(read.text("admin_socket", default=DEFAULT_NAME))


def _status_url(path: Path | None) -> str:
    from ztna.config_reader import ConfigError, Reader, parse_json, read_text

    assert path is not None
    where = str(path)
    read = Reader(parse_json(read_text(path, "--config"), where), "", where)
    port = read.port("metrics_port", default=_default_metrics_port(read), zero=True)
    if not port:
        raise ConfigError(f"{where}: metrics_port: is 0, so the role serves no status; set a port")
    host = read.ip("metrics_addr", default="127.0.0.1")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _default_metrics_port(read: Any) -> int:
    """The role is told by its keys: a connector's services have backends, an intermediate dials nobody."""
    from ztna.config_reader import MISSING

    if read.raw("intermediate_server") is MISSING and read.raw("serverHost") is MISSING:
        return 9090
    services = read.raw("services")
    is_connector = isinstance(services, list) and any("backend" in item or "ports" in item for item in services)
    return 9091 if is_connector else 9092
