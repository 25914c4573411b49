"""How a preview is shown: the tree of what will be there, marked with what will happen to it, and counts."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from infra.engine.events import Event, ResourceStep
    from infra.engine.result import Result


def _steps(events: Iterable["Event"]) -> list["ResourceStep"]:
    """The finished steps without the engine's own providers."""
    from infra.engine.events import Phase, ResourceStep

    return [
        event
        for event in events
        if isinstance(event, ResourceStep)
        and event.phase is Phase.FINISHED
        and not (event.type.startswith("pulumi:providers:") and event.name.startswith("default"))
    ]


def show(result: "Result", events: Iterable["Event"]) -> None:
    """Print the tree with types, names and counts, what will be deleted, and the summary."""
    from infra.cli_display import SYMBOLS, step_line, worth_a_line
    from infra.graph_text import tree

    steps = _steps(events)
    if result.graph is None:  # the official CLI tells steps only
        for step in steps:
            if worth_a_line(step):
                typer.echo(step_line(step))
    else:
        marks = {step.urn: SYMBOLS.get(step.operation, "") for step in steps}
        typer.echo(tree(result.graph, marks), nl=False)
        for step in steps:
            if step.urn not in result.graph.by_urn:
                typer.echo(f"{SYMBOLS.get(step.operation, ' ')} {step.type}  {step.name}")
    changes = ", ".join(f"{count} {name}" for name, count in result.changes.items() if count)
    typer.echo(f"preview: {changes or 'nothing to do'} in {result.duration_s:.1f} s")


def preview_json(result: "Result", events: Iterable["Event"]) -> dict[str, Any]:
    """The preview as JSON: counts by operation and by type, every step, and what could not be known."""
    from infra.engine.events import Diagnostic, Severity

    events = list(events)
    notes = [event.message for event in events if isinstance(event, Diagnostic) and event.severity != Severity.DEBUG]
    return {
        "verb": result.verb,
        "changes": result.changes,
        "duration_s": round(result.duration_s, 3),
        "counts": result.graph.counts() if result.graph is not None else {},
        "resources": [
            {
                "operation": step.operation,
                "type": step.type,
                "name": step.name,
                "urn": step.urn,
                "parent": step.parent,
                "changes": list(step.changes),
            }
            for step in sorted(_steps(events), key=lambda step: step.urn)
        ],
        "notes": notes,
    }
