"""What an operation has done, whichever engine carried it out."""

from dataclasses import dataclass, field
from typing import Any

from infra.graph import Graph


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What an operation did.

    Attributes:
        changes: number of resources by operation (create, update, replace, delete, same, read); of a refresh, by what
            it found (same, update, delete).
        outputs: the stack's outputs as plain values; secrets read `[secret]`, unknowns (preview) `[unknown]`.
        graph: of a preview or up by the embedded engine: what the program registered.
        violations: findings of mandatory policy rules in a preview.
    """

    verb: str
    changes: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    duration_s: float = 0.0
    graph: Graph | None = None
    violations: int = 0
