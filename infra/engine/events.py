"""What happens during an operation, as frozen records for progress displays and `--json`."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Phase(StrEnum):
    """Where a resource step stands."""

    STARTED = "started"
    FINISHED = "finished"
    FAILED = "failed"


class Severity(StrEnum):
    """How loud a diagnostic is."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, kw_only=True, slots=True)
class OperationStarted:
    """An operation begins.

    Args:
        verb: preview, up, refresh or destroy.
        engine: `embedded` or `pulumi`.
        stack: the stack's name.
        expected: how many resources the last run left in the state; a hint for progress bars.
    """

    verb: str
    engine: str
    stack: str
    expected: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class ResourceStep:
    """One step on one resource.

    Args:
        operation: same, create, update, replace, delete, read, refresh, create-replacement, delete-replaced, discard.
        parent: URN of the parent, empty for the stack.
        duration_s: seconds from start to end; None while it runs.
        changes: top-level property names that differ, where known.
        message: the error of a failed step.
    """

    phase: Phase
    operation: str
    urn: str
    type: str
    name: str
    parent: str = ""
    duration_s: float | None = None
    changes: tuple[str, ...] = ()
    message: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnostic:
    """A message of the program, a provider or the engine; `urn` is empty when it belongs to no resource."""

    severity: Severity
    message: str
    urn: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """The end of an operation: how many resources had which operation, and how long it took."""

    verb: str
    result: str
    changes: dict[str, int] = field(default_factory=dict)
    duration_s: float = 0.0


Event = OperationStarted | ResourceStep | Diagnostic | Summary
EventSink = Callable[[Event], None]


def discard(event: Event) -> None:
    """The sink of a caller who does not listen."""


def to_json(event: Event) -> dict[str, Any]:
    """The event as JSON-able dict; `event` names its kind."""
    kinds = {OperationStarted: "operation", ResourceStep: "resource", Diagnostic: "diagnostic", Summary: "summary"}
    return {"event": kinds[type(event)], **asdict(event)}
