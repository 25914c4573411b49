"""Shows an engine's events while they happen: a progress bar on a terminal, plain lines elsewhere."""

import re
import sys
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from infra.engine.events import Diagnostic, Event, OperationStarted, Phase, ResourceStep, Severity, Summary

SYMBOLS: Final = {
    "create": "+",
    "update": "~",
    "replace": "±",
    "create-replacement": "±",
    "delete-replaced": "-",
    "delete": "-",
    "discard": "-",
    "refresh": "~",
    "read": ">",
}
STYLES: Final = {Severity.WARNING: "yellow", Severity.ERROR: "bold red", Severity.INFO: "", Severity.DEBUG: "dim"}
QUIET_OPERATIONS: Final = frozenset({"same", "refresh", "read"})
"""Steps that are counted but get no line of their own unless they fail."""


class Display:
    """A sink of engine events; use as a context manager around one operation.

    Args:
        quiet: steps get no line unless they fail, and there is no summary: the caller shows the result.
    """

    def __init__(self, console: Console | None = None, *, verbose: bool = False, quiet: bool = False) -> None:
        self._console = console or Console(file=sys.stderr, highlight=False)
        self._verbose, self._quiet = verbose, quiet
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._running: dict[str, str] = {}
        self._failures: set[str] = {""}

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=30))
            self._progress = Progress(
                *columns, MofNCompleteColumn(), TimeElapsedColumn(), console=self._console, transient=True
            )
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        match event:
            case OperationStarted():
                self._started(event)
            case ResourceStep():
                self._step(event)
            case Diagnostic():
                self._diagnostic(event)
            case Summary():
                if not self._quiet:
                    self._print(summary_line(event))

    def _started(self, event: OperationStarted) -> None:
        self._print(f"{event.verb} {event.stack} with the {event.engine} engine")
        if self._progress is not None:
            self._task = self._progress.add_task(event.verb, total=event.expected or None)

    def _step(self, event: ResourceStep) -> None:
        if event.phase is Phase.STARTED:
            self._running[event.urn] = event.name
        else:
            self._running.pop(event.urn, None)
            failed = event.phase is Phase.FAILED
            self._failures.add(readable(event.message))
            if failed or self._verbose or (worth_a_line(event) and not self._quiet):
                self._print(step_line(event), style="bold red" if failed else "")
            if self._progress is not None and self._task is not None:
                self._progress.advance(self._task)
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=", ".join(list(self._running.values())[:3]) or "waiting")

    def _diagnostic(self, event: Diagnostic) -> None:
        if event.severity is not Severity.DEBUG or self._verbose:
            text = readable(event.message)
            if text not in self._failures:  # the failed step has said it already
                self._print(text, style=STYLES[event.severity])

    def _print(self, text: str, style: str = "") -> None:
        console = self._progress.console if self._progress is not None else self._console
        console.print(text, style=style, markup=False, soft_wrap=True)


def worth_a_line(event: ResourceStep) -> bool:
    """Return whether a user wants to see this step: not what stayed as it was, nor the engine's own providers."""
    return event.operation not in QUIET_OPERATIONS and not event.type.startswith("pulumi:providers:")


def readable(message: str) -> str:
    """Return an error as its raiser worded it; dynamic providers send it as a whole traceback."""
    if not message.startswith("Traceback (most recent call last)"):
        return message.strip()
    frames = list(re.finditer(r"^[A-Za-z_][\w.]*(?:: |$)", message, re.MULTILINE))
    raised = next((found for found in frames if not found.group().startswith("Traceback")), None)
    return message[raised.end() :].strip() or raised.group() if raised is not None else message.strip()


def step_line(event: ResourceStep) -> str:
    """Return the line of a step that has ended."""
    kind = event.type.rpartition(":")[2]
    took = f"  {event.duration_s:.1f} s" if event.duration_s is not None else ""
    changes = f"  [{', '.join(event.changes)}]" if event.changes else ""
    if event.phase is Phase.FAILED:
        return f" ✗ {kind} {event.name}: {event.operation} failed: {readable(event.message)}"
    return f" {SYMBOLS.get(event.operation, ' ')} {kind} {event.name}{changes}{took}"


def summary_line(event: Summary) -> str:
    """Return the last line of an operation."""
    changes = ", ".join(f"{count} {operation}" for operation, count in event.changes.items() if count)
    return f"{event.verb} {event.result}: {changes or 'nothing to do'} in {event.duration_s:.1f} s"
