"""Reading inputs of a graph's nodes: secrets unwrapped, unknowns left alone, JSON in text parsed."""

import json
from collections.abc import Iterator
from typing import Any

from infra.graph import UNKNOWN, Node, is_secret, reveal


def get(node: Node, path: str, default: Any = None) -> Any:
    """Return the unwrapped input at a dotted path of keys, `default` where there is none."""
    value: Any = reveal(node.inputs)
    for key in path.split("."):
        if not isinstance(value, dict) or value.get(key) is None:
            return default
        value = value[key]
    return value


def items(node: Node, path: str) -> list[dict[str, Any]]:
    """Return the objects in the list at a path; an object alone counts as a list of one."""
    value = get(node, path, [])
    found = [value] if isinstance(value, dict) else value
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def parsed(value: Any) -> Any:
    """Return JSON text as what it says, anything else as it is; UNKNOWN stays UNKNOWN."""
    if not isinstance(value, str) or value == UNKNOWN:
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def texts(value: Any, path: str = "") -> Iterator[tuple[str, str, bool]]:
    """Yield (path, text, marked secret) of every string below a value; those unknown are left out."""
    yield from _texts(value, path, secret=False)


def _texts(value: Any, path: str, *, secret: bool) -> Iterator[tuple[str, str, bool]]:
    if is_secret(value):
        yield from _texts(reveal(value), path, secret=True)
    elif isinstance(value, str):
        if value != UNKNOWN:
            yield path, value, secret
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(item, f"{path}.{key}" if path else str(key), secret=secret)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _texts(item, f"{path}[{index}]", secret=secret)
