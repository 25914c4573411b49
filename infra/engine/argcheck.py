"""Checks a resource's inputs against what its SDK says of them; messages name the key, the value and the remedy."""

import difflib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from infra.engine import urn as urns
from infra.engine.props import ARCHIVE_SIG, ASSET_SIG, RESOURCE_SIG, UNKNOWN, Props, is_secret, join_path, signature
from infra.engine.providers import Failure
from infra.engine.sdkschema import Enumeration, Fields, Sdk, Type

_NAMES = {
    "str": "a string", "int": "a whole number", "float": "a number", "bool": "true or false",
    "asset": "an asset", "archive": "an archive", "list": "a list", "map": "a map", "object": "an object",
}  # fmt: skip
_ENGINE_KEYS = frozenset({"version", "pluginDownloadURL"})
_SHOWN_CHARS = 60
_SHOWN_VALUES = 6


@dataclass(slots=True)
class Report:
    """What a check found.

    Attributes:
        failures: what the provider would refuse.
        warnings: values that the SDK does not know, of enums that are open.
        known: whether there is a class to check against at all.
    """

    failures: list[Failure] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    known: bool = True


def check(sdk: Sdk, token: str, inputs: Props) -> Report:
    """Checks the inputs of a resource, or the configuration of a provider."""
    fields = sdk.arguments(token)
    if fields is None:
        return Report(_unknown_type(sdk, token), known=False)
    checker = _Checker(sdk)
    if urns.is_provider(token):
        # Of a provider everything travels as string: what is no string, as JSON text.
        inputs = {
            key: _decoded(value, fields.fields[key].type) if key in fields.fields else value
            for key, value in inputs.items()
            if key not in _ENGINE_KEYS
        }
    checker.object("", inputs, fields)
    return checker.report


def _unknown_type(sdk: Sdk, token: str) -> list[Failure]:
    if sdk.package == "kubernetes":
        return []  # Custom resources have types of their own, which no SDK knows.
    return [
        Failure(
            "type", f"the SDK {sdk.package} {sdk.version} has no resource {token!r}{did_you_mean(token, sdk.tokens)}"
        )
    ]


def _decoded(value: Any, type_: Type) -> Any:
    inner = value["value"] if is_secret(value) else value
    if type_ == "str" or not isinstance(inner, str) or inner == UNKNOWN:
        return value
    try:
        return json.loads(inner)
    except ValueError:
        return value


class _Checker:
    def __init__(self, sdk: Sdk) -> None:
        self._sdk = sdk
        self.report = Report()

    def object(self, path: str, value: Props, fields: Fields) -> None:
        """Checks names and values of an object."""
        for key, item in value.items():
            if key in fields.fields:
                self._value(join_path(path, key), item, fields.fields[key].type)
            elif not key.startswith("__"):
                names = [*fields.fields, *fields.python]
                self._fail(join_path(path, key), f"{fields.name} has no argument {key!r}{did_you_mean(key, names)}")
        for key, wanted in fields.fields.items():
            if wanted.required and value.get(key) is None:
                self._fail(join_path(path, key), f"{fields.name} needs it ({self._name(wanted.type)}), it is missing")

    def _value(self, path: str, value: Any, type_: Type, *, hidden: bool = False) -> None:
        if is_secret(value):
            value, hidden = value["value"], True
        if value is None or value == UNKNOWN or type_ == "any":
            return
        problems = list(self._problems(path, value, type_, hidden))
        self.report.failures += problems

    def _problems(self, path: str, value: Any, type_: Type, hidden: bool) -> Iterator[Failure]:
        """Failures of one value; nested ones included."""
        kind = type_ if isinstance(type_, str) else type_[0]
        if kind == "union":
            yield from self._union(path, value, type_[1:], hidden)
        elif kind == "ref":
            yield from self._reference(path, value, type_, hidden)
        elif kind == "literal":
            if value not in type_[1:]:
                yield Failure(path, f"must be {_or(map(repr, type_[1:]))}, not {_show(value, hidden)}")
        elif kind == "list" and isinstance(value, list):
            for index, item in enumerate(value):
                yield from self._inner(f"{path}[{index}]", item, type_[1], hidden)
        elif kind == "map" and _is_object(value):
            for key, item in value.items():
                yield from self._inner(join_path(path, key), item, type_[1], hidden)
        elif not _fits(value, kind):
            yield Failure(path, f"must be {_NAMES[kind]}, not {_show(value, hidden)}")

    def _inner(self, path: str, value: Any, type_: Type, hidden: bool) -> list[Failure]:
        """Failures of a nested value, collected apart."""
        inner = _Checker(self._sdk)
        inner._value(path, value, type_, hidden=hidden)
        self.report.warnings += inner.report.warnings
        return inner.report.failures

    def _union(self, path: str, value: Any, members: list[Type], hidden: bool) -> Iterator[Failure]:
        results = [(member, self._trial(path, value, member, hidden)) for member in members]
        enums = [found for member in members if isinstance(found := self._resolved(member), Enumeration)]
        if any(not report.failures for _, report in results):
            if enums and isinstance(value, str) and not hidden and not any(value in enum.values for enum in enums):
                self._warn_open(path, value, enums[0])
            return
        # The member of the value's own kind says best what is wrong.
        objects = [report for member, report in results if isinstance(self._resolved(member), Fields)]
        if _is_object(value) and objects:
            yield from min(objects, key=lambda report: len(report.failures)).failures
        else:
            wanted = _or(dict.fromkeys(map(self._name, members)))
            yield Failure(path, f"must be {wanted}, not {_show(value, hidden)}")

    def _trial(self, path: str, value: Any, type_: Type, hidden: bool) -> Report:
        inner = _Checker(self._sdk)
        inner._value(path, value, type_, hidden=hidden)
        return inner.report

    def _reference(self, path: str, value: Any, type_: Type, hidden: bool) -> Iterator[Failure]:
        found = self._resolved(type_)
        if isinstance(found, Fields):
            if not _is_object(value):
                yield Failure(path, f"must be {self._name(type_)}, not {_show(value, hidden)}")
                return
            inner = _Checker(self._sdk)
            inner.object(path, value, found)
            self.report.warnings += inner.report.warnings
            yield from inner.report.failures
        elif isinstance(found, Enumeration):
            if value not in found.values:
                hint = "" if hidden else did_you_mean(value, found.values)
                values = ", ".join(map(repr, found.values[:_SHOWN_VALUES]))
                more = ", ..." if len(found.values) > _SHOWN_VALUES else ""
                yield Failure(path, f"must be a {found.name} ({values}{more}), not {_show(value, hidden)}{hint}")
        elif signature(value) != RESOURCE_SIG and not isinstance(value, str):
            yield Failure(path, f"must be a resource ({type_[2]}) or its id, not {_show(value, hidden)}")

    def _resolved(self, type_: Type) -> Fields | Enumeration | None:
        return self._sdk.resolve(type_) if isinstance(type_, list) and type_[0] == "ref" else None

    def _name(self, type_: Type) -> str:
        kind = type_ if isinstance(type_, str) else type_[0]
        if kind == "ref":
            found = self._resolved(type_)
            return f"an object {found.name}" if isinstance(found, Fields) else f"a {type_[2]}"
        if kind == "union":
            return _or(dict.fromkeys(map(self._name, type_[1:])))
        if kind == "literal":
            return _or(map(repr, type_[1:]))
        return f"a list of {self._name(type_[1])}" if kind == "list" else _NAMES.get(kind, kind)

    def _warn_open(self, path: str, value: str, enum: Enumeration) -> None:
        hint = did_you_mean(value, enum.values)
        if hint:
            self.report.warnings.append(f"{path}: {value!r} is none of the values of {enum.name} that are known{hint}")

    def _fail(self, path: str, reason: str) -> None:
        self.report.failures.append(Failure(path, reason))


def _fits(value: Any, kind: str) -> bool:
    if kind == "str":
        # A resource given for a string stands for its id.
        return isinstance(value, str) or signature(value) == RESOURCE_SIG
    if kind == "bool":
        return isinstance(value, bool)
    if kind in ("int", "float"):
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole or (kind == "float" and isinstance(value, float))
    return signature(value) == {"asset": ASSET_SIG, "archive": ARCHIVE_SIG}.get(kind, "-")


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and not signature(value)


def _show(value: Any, hidden: bool) -> str:
    kinds = {str: "string", bool: "boolean", int: "number", float: "number", list: "list", dict: "object"}
    kind = kinds.get(type(value), "value")
    if hidden:
        return f"a secret {kind}"
    text = json.dumps(value, default=str)
    return f"the {kind} {text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + '...'}"


def _or(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def did_you_mean(word: Any, known: Iterable[Any]) -> str:
    """Return which of the known words may have been meant, in brackets; nothing where none is close."""
    close = difflib.get_close_matches(str(word), [str(item) for item in known], 1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""
