"""Commands about the path that a service's packets take: why it is as it is, and the proof of it."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli_common import (
    CliFailure,
    EngineOption,
    ExitCode,
    JsonOption,
    StackOption,
    print_json,
    project_dir,
    stack_outputs,
    user_errors,
)
from infra.outputs import StackOutputs

if TYPE_CHECKING:
    from infra.verify.proof import Finding
    from infra.verify.why import Explanation

PATH_CODES = "0 direct, 10 relayed, 11 unreachable, 12 the witnesses disagree, 1 it could not be told"
EPILOG = f"Exit codes: {PATH_CODES}; 2 wrong usage, 4 the stack is not up or has no such agent or service."


def complete_agent(ctx: typer.Context) -> list[str]:
    """Complete the name of an agent; nothing when the stack is not up."""
    try:
        return [agent.name for agent in stack_outputs(str(ctx.params.get("stack") or "lab")).agents]
    except Exception:  # completion must never print an error into somebody's shell
        return []


def complete_service(ctx: typer.Context) -> list[str]:
    """Complete the id of a service; nothing when the stack is not up."""
    try:
        return [service.id for service in stack_outputs(str(ctx.params.get("stack") or "lab")).services]
    except Exception:  # likewise
        return []


AgentArgument = Annotated[str, typer.Argument(help="Name of the agent.", autocompletion=complete_agent)]
ServiceArgument = Annotated[str, typer.Argument(help="Id of the service.", autocompletion=complete_service)]


def path_rows(outputs: StackOutputs, pages: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return how each agent of the stack reaches each of its services, from the agents' /status pages.

    A service without a session has path `none`: nobody has sent anything to it yet, or it cannot be reached.
    """
    from infra.verify.sessions import find_by_service, read_sessions
    from infra.verify.status import read_status

    rows = []
    for name, page in pages.items():
        if outputs.places[name].kind != "agent" or "sessions" not in page:
            continue
        sessions = read_sessions(page)
        for service in read_status(page).services:
            found = find_by_service(sessions, service)
            row: dict[str, Any] = {"agent": str(page.get("name") or name), "service": service, "path": "none"}
            if found is not None:
                row |= {
                    "connector": found.peer_name, "path": found.path, "peer_address": found.peer_address,
                    "reason": found.blocked_by or found.reason, "rtt_ms": found.rtt_ms, "loss": found.loss,
                    "since_s": found.since_s, "switches": found.switches,
                }  # fmt: skip
            rows.append(row)
    return rows


def show_paths(rows: list[dict[str, Any]]) -> None:
    """Print the rows as a table; nothing where there are none."""
    from rich.table import Table

    from infra.cli_show import table_console

    if not rows:
        return
    table = Table(title="Paths", title_justify="left", pad_edge=False)
    for column in ("agent", "service", "path", "peer", "RTT", "loss", "since", "switches", "reason"):
        table.add_column(column, overflow="fold")
    for row in rows:
        known = "rtt_ms" in row
        rtt = f"{row['rtt_ms']:.1f} ms" if row.get("rtt_ms") is not None else "-"
        table.add_row(
            row["agent"], row["service"], row["path"], row.get("peer_address") or "-", rtt,
            f"{row['loss']:.1%}" if known else "-", f"{duration_words(row['since_s'])} ago" if known else "-",
            str(row.get("switches", "-")), row.get("reason") or ("-" if known else "no session yet"),
        )  # fmt: skip
    table_console().print(table)


def duration_words(seconds: float) -> str:
    """Return a time span in its largest unit: 42 s, 7 min, 3 h, 2 d."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def why(
    agent: AgentArgument,
    service: ServiceArgument,
    stack: StackOption = "lab",
    engine: EngineOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Say why an agent reaches a service as it does: the step that fails, what shows it, what to change."""
    from infra.verify.context import Context
    from infra.verify.places import chosen, status_pages
    from infra.verify.why import Subject, explain

    with user_errors():
        outputs = chosen(stack_outputs(stack, engine), agent, service)
        context = Context(outputs)
        places = (context.agent_place, context.connector_place, context.relay_place)
        agent_page, connector_page, relay_page = status_pages(context, *places)
        connector = context.connector.name
        found = explain(Subject(agent, connector, service, agent_page, connector_page, relay_page))
        if as_json:
            print_json({"agent": agent, "service": service, "connector": connector, **found.to_json()})
        else:
            _show_why(agent, service, found)
        raise typer.Exit(found.exit_code)


def _show_why(agent: str, service: str, found: "Explanation") -> None:
    typer.secho(f"{agent} reaches {service}: {found.outcome.value}", bold=True)
    for step in found.steps:
        mark = {True: "yes", False: "NO", None: "?"}[step.holds]
        typer.echo(f"  {mark:4}{step.name}: {step.evidence}")
    if found.step is not None:
        typer.echo(f"Because: {found.reason}")
        typer.echo(f"Seen:    {found.evidence}")
        typer.echo(f"Change:  {found.advice}")


def prove(
    agent: AgentArgument,
    service: ServiceArgument,
    stack: StackOption = "lab",
    engine: EngineOption = "auto",
    as_json: JsonOption = False,
    requests: Annotated[int, typer.Option("--requests", min=20, max=10_000, help="Extent of the burst.")] = 200,
    window: Annotated[
        bool, typer.Option("--window/--no-window", help="Switch the relay off for a moment, for every session.")
    ] = True,
) -> None:
    """Prove by which path an agent reaches a service, from witnesses that do not depend on each other.

    The ends' records, captures outside each NAT, the relay's counters, and a moment with the relay off. Writes
    build/reports/STACK/proof-AGENT-SERVICE.json with the evidence beside it.
    """
    from infra.verify.context import VerifyError
    from infra.verify.prove import prove as collect
    from infra.verify.report import REPORTS_DIR

    with user_errors():
        outputs = stack_outputs(stack, engine)
        directory = project_dir() / REPORTS_DIR / outputs.stack

        def say(text: str) -> None:
            typer.echo(f"  {text}", err=as_json)

        try:
            proof = collect(outputs, agent, service, directory, requests=requests, window=window, on_step=say)
        except VerifyError as error:
            raise CliFailure(str(error), ExitCode.FAILED) from error
        if as_json:
            print_json({**proof.report, "report": str(proof.path)})
        else:
            _show_proof(agent, service, proof.finding)
            typer.echo(f"report: {proof.path}")
        raise typer.Exit(proof.exit_code)


def _show_proof(agent: str, service: str, finding: "Finding") -> None:
    typer.secho(f"{agent} reaches {service}: {finding.verdict.value} ({finding.reason})", bold=True)
    for name, (opinion, words) in finding.opinions.items():
        typer.echo(f"  {name:9} {opinion.value:8} {words}")
