"""Property paths as used by `ignore_changes` and `replace_on_changes`: `a.b[0]["c.d"]`, `*` for every key or index."""

import json
from typing import Any

from infra.engine.errors import EngineError
from infra.engine.props import SIG, Props

Path = tuple[str | int, ...]
_MISSING = object()


def parse(text: str) -> Path:
    """Parses a property path.

    Raises:
        EngineError: unbalanced bracket, empty element or a bad quoted key; the message shows the path.
    """
    parts: list[str | int] = []
    rest = text
    while rest:
        if rest.startswith("["):
            end = _closing_bracket(rest, text)
            parts.append(_bracketed(rest[1:end], text))
            rest = rest[end + 1 :]
            if rest.startswith("."):
                rest = rest[1:]
        else:
            stops = [i for i in (rest.find("."), rest.find("[")) if i >= 0]
            end = min(stops, default=len(rest))
            if end == 0:
                raise EngineError(f"property path {text!r} has an empty element")
            parts.append(rest[:end])
            rest = rest[end + 1 :] if rest[end : end + 1] == "." else rest[end:]
    if not parts:
        raise EngineError("a property path is empty")
    return tuple(parts)


def _closing_bracket(rest: str, text: str) -> int:
    if rest.startswith('["'):
        end = 2
        while end < len(rest) and rest[end] != '"':
            end += 2 if rest[end] == "\\" else 1
        end += 1
    else:
        end = rest.find("]")
    if not 0 < end < len(rest) or rest[end] != "]":
        raise EngineError(f"property path {text!r} lacks a closing bracket")
    return end


def _bracketed(inner: str, text: str) -> str | int:
    if inner.startswith('"'):
        try:
            return str(json.loads(inner))
        except ValueError as error:
            raise EngineError(f"property path {text!r} has a bad quoted key") from error
    if inner == "*":
        return "*"
    if not inner.isdigit():
        raise EngineError(f"property path {text!r}: {inner!r} is neither an index nor a quoted key")
    return int(inner)


def contains(pattern: Path, path: Path) -> bool:
    """Whether the pattern names the path or something above it."""
    if len(pattern) > len(path):
        return False
    return all(want in ("*", have) for want, have in zip(pattern, path, strict=False))


def keep_old(new: Props, old: Props, ignored: list[str] | tuple[str, ...]) -> Props:
    """New properties in which every ignored path has its old value, or is gone when there was none."""
    result = new
    for text in ignored:
        result = _keep(result, old, parse(text))
    return result


def _keep(new: Any, old: Any, path: Path) -> Any:
    head, rest = path[0], path[1:]
    if head == "*":
        for key in _keys(new) | _keys(old):
            new = _keep(new, old, (key, *rest))
        return new
    before = _get(old, head)
    if rest:
        inner = _get(new, head)
        if inner is _MISSING or before is _MISSING:
            # There is no counterpart to copy from or into: the path is not ours to invent.
            return new if inner is _MISSING else _set(new, head, _keep(inner, {}, rest))
        return _set(new, head, _keep(inner, before, rest))
    return _remove(new, head) if before is _MISSING else _set(new, head, before)


def _keys(value: Any) -> set[str | int]:
    if isinstance(value, dict) and SIG not in value:
        return set(value)
    return set(range(len(value))) if isinstance(value, list) else set()


def _get(value: Any, key: str | int) -> Any:
    if isinstance(value, dict) and SIG not in value and isinstance(key, str):
        return value.get(key, _MISSING)
    if isinstance(value, list) and isinstance(key, int) and key < len(value):
        return value[key]
    return _MISSING


def _set(value: Any, key: str | int, item: Any) -> Any:
    if isinstance(value, dict) and SIG not in value and isinstance(key, str):
        return {**value, key: item}
    if isinstance(value, list) and isinstance(key, int) and key < len(value):
        return [*value[:key], item, *value[key + 1 :]]
    return value


def _remove(value: Any, key: str | int) -> Any:
    if isinstance(value, dict) and SIG not in value:
        return {name: item for name, item in value.items() if name != key}
    return value
