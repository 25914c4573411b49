"""Answers of provider functions (`invoke`) that were recorded, for previews without the provider."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from infra.engine.props import Props, reveal

FOLDER = Path(__file__).with_name("fixtures")


@dataclass(frozen=True, slots=True)
class Recorded:
    """An answer and where it comes from."""

    result: Props
    source: str


def recorded(function: str, args: Props) -> Recorded | None:
    """The recorded answer of a function to exactly these arguments; None when there is none."""
    package = function.split(":", 1)[0]
    plain = reveal(args)
    for entry in _entries(FOLDER / f"{package}.json"):
        if entry["function"] == function and entry["args"] == plain:
            return Recorded(entry["result"], entry["source"])
    return None


@cache
def _entries(path: Path) -> list[dict[str, Any]]:
    """The entries of a file: each has function, args, result and source (where the answer was taken from)."""
    return json.loads(path.read_text())["recorded"] if path.exists() else []
