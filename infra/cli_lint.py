"""The command `lint`: policy rules and the traversal lint over what a stack's program declares."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from infra.cli_common import JsonOption, StackOption, open_workspace, print_json, user_errors

if TYPE_CHECKING:
    from infra.graph import Graph
    from infra.outputs import PathPrediction

Cells = tuple[str, ...]

EXIT_FINDINGS: Final = 1
"""As of every command whose checks fail; notes and advisory findings alone end 0."""

PublicPortOption = Annotated[
    list[int] | None,
    typer.Option("--public-port", help="A port that is meant to be open to the world, besides the overlay's."),
]


@dataclass(frozen=True, slots=True)
class Row:
    """A finding as it is shown: `level` is error (mandatory), warning (advisory) or note."""

    level: str
    rule: str
    subject: str
    message: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that lint says about a stack. `unchecked` names inputs that only a deployment can tell."""

    stack: str
    rows: tuple[Row, ...]
    paths: "tuple[PathPrediction, ...]"
    unchecked: tuple[str, ...]

    @property
    def failed(self) -> bool:
        """Whether something must change."""
        return any(row.level in ("error", "warning") for row in self.rows)


def lint(
    stack: StackOption = "lab",
    as_json: JsonOption = False,
    public_port: PublicPortOption = None,
) -> None:
    """Check what a stack declares against the policy rules, and tell which paths its peers will get.

    Ends 0 when nothing must change (notes may be shown) and 1 when something must. Needs no credentials: inputs that
    only a deployment can tell are listed, and checked by the policy pack when deploying.
    """
    with user_errors():
        from infra.cli_display import Display

        with Display(quiet=True) as sink:
            graph = open_workspace(stack, "embedded", sink).graph()
        report = inspect(graph, public_port or ())
        if as_json:
            print_json({**asdict(report), "failed": report.failed})
        else:
            show(report)
        if report.failed:
            raise typer.Exit(EXIT_FINDINGS)


def inspect(graph: "Graph", public_ports: Any = ()) -> Report:
    """Run all rules and the traversal lint over a graph. Without a connector in a cloud there are no paths to tell."""
    from infra import traversal
    from infra.policy.rules import rules
    from infra.policy.unchecked import unchecked

    rows = [
        Row("error" if rule.enforcement == "mandatory" else "warning", rule.name, name_of(finding.urn), *_text(finding))
        for rule in rules(public_ports)
        for finding in rule.check(graph)
    ]
    try:
        site = traversal.site_of(graph)
    except ValueError:
        return Report(graph.stack, tuple(rows), (), unchecked(graph))
    rows += [Row(found.level, found.rule, found.subject, *_text(found)) for found in traversal.findings(site)]
    return Report(graph.stack, tuple(rows), traversal.predict(site), unchecked(graph))


def name_of(urn: str) -> str:
    """Return type and name of a URN, without stack and project."""
    parts = urn.split("::")
    return f"{parts[2].split('$')[-1].split(':')[-1]} {parts[3]}" if len(parts) == 4 else urn


def _text(finding: Any) -> tuple[str, str]:
    return finding.message, finding.remedy


def show(report: Report) -> None:
    """Print the findings and the paths as tables."""
    from infra.cli_show import table_console

    console = table_console()
    for title, columns, rows in tables(report):
        console.print(_table(title, columns, rows))
    for path in report.unchecked:
        console.print(f"not checked before deployment: {path}", style="dim", soft_wrap=True)
    worst = "must change" if report.failed else "is as it should be"
    console.print(f"stack {report.stack} {worst}: {_count(report)}", style="red" if report.failed else "green")


def tables(report: Report) -> list[tuple[str, tuple[str, ...], list[Cells]]]:
    """Return the tables to show: title, columns, rows. Services that fare alike share their rows."""
    found: list[tuple[str, tuple[str, ...], list[Cells]]] = []
    if report.rows:
        rows: list[Cells] = [
            (row.level, row.rule, row.subject, f"{row.message}\n-> {row.remedy}") for row in report.rows
        ]
        found.append(("Findings", ("level", "rule", "resource", "what, and what to do"), rows))
    if report.paths:
        shared: dict[tuple[str, str, str], list[str]] = {}
        for path in report.paths:
            shared.setdefault((path.peer_nat, path.path, path.reason), []).append(path.service)
        paths: list[Cells] = [(nat, ", ".join(names), kind, reason) for (nat, kind, reason), names in shared.items()]
        title = "Paths of sessions, by the peer's NAT"
        found.append((title, ("peer's NAT", "services", "path", "why"), paths))
    return found


def _table(title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _count(report: Report) -> str:
    levels = [row.level for row in report.rows]
    return ", ".join(f"{levels.count(level)} {level}s" for level in ("error", "warning", "note"))
