"""A cloud in memory and its provider: every call is recorded, failures and delays are arranged by the test."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from infra.engine.errors import ResourceError, UnsupportedError
from infra.engine.plugins import PluginHost
from infra.engine.props import Props, has_unknown, reveal
from infra.engine.providers import Diff, Existing, Failure, Outcome, OutcomeUnknown, Provider
from infra.engine.urn import name_of, type_of

Call = tuple[str, str]


@dataclass
class Cloud:
    """What exists, what was called, and what is to go wrong.

    Attributes:
        things: id to properties.
        calls: (verb, resource name) in order; checks and diffs are not recorded.
        failing: (verb, name) to the error message of that call.
        lost: calls that take effect, and whose answer is lost.
        unready: names of resources that come into being unfinished.
        before: called at the start of an operation, with (verb, name).
    """

    things: dict[str, Props] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    failing: dict[Call, str] = field(default_factory=dict)
    lost: set[Call] = field(default_factory=set)
    unready: set[str] = field(default_factory=set)
    invalid: dict[str, list[Failure]] = field(default_factory=dict)
    before: Callable[[str, str], None] = lambda verb, name: None
    configured: list[Props] = field(default_factory=list)
    checked: list[tuple[str, Props, Props]] = field(default_factory=list)
    timeouts: dict[Call, float] = field(default_factory=dict)
    _serial: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, verb: str, name: str) -> None:
        """Records a call; raises what the test arranged."""
        with self._lock:
            self.calls.append((verb, name))
        self.before(verb, name)
        if (verb, name) in self.failing:
            raise ResourceError(self.failing[verb, name])

    def next_id(self, name: str) -> str:
        """A new id."""
        with self._lock:
            self._serial += 1
            return f"{name}#{self._serial}"

    def names(self) -> list[str]:
        """Names of what exists."""
        return sorted(id_.split("#")[0] for id_ in self.things)

    def verbs(self, name: str) -> list[str]:
        """What was called on one resource."""
        return [verb for verb, called in self.calls if called == name]

    def start(self, host: PluginHost, package: str) -> Provider:
        """Starts the provider of package `toy`; there is no other."""
        if package != "toy":
            raise UnsupportedError(f"the test has no provider for package {package!r}")
        return ToyProvider(self)


class ToyProvider:
    """Serves `toy:index:*`. Inputs named `pin...` force a replacement.

    Thing compares inputs itself, Single deletes before it replaces, Vague leaves the comparison to the engine.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    def check_config(self, urn: str, olds: Props, news: Props) -> tuple[Props, list[Failure]]:
        return news, []

    def diff_config(self, urn: str, olds: Props, news: Props) -> Diff:
        return Diff(None, replaces=("region",) if olds.get("region") != news.get("region") else ())

    def configure(self, urn: str, id_: str, inputs: Props) -> None:
        self._cloud.configured.append(inputs)

    def check(self, urn: str, olds: Props, news: Props) -> tuple[Props, list[Failure]]:
        self._cloud.checked.append((name_of(urn), olds, news))
        return news, self._cloud.invalid.get(name_of(urn), [])

    def diff(self, urn: str, id_: str, old_inputs: Props, old_outputs: Props, news: Props, ignored: list[str]) -> Diff:
        olds, wanted = reveal(old_inputs), reveal(news)
        keys = [key for key in sorted({*olds, *wanted}) if olds.get(key) != wanted.get(key)]
        pinned = tuple(key for key in keys if key.startswith("pin"))
        if type_of(urn) == "toy:index:Vague":
            return Diff(None)
        return Diff(bool(keys), pinned, tuple(keys), type_of(urn) == "toy:index:Single")

    def create(self, urn: str, inputs: Props, timeout_s: float, preview: bool) -> Outcome:
        name = name_of(urn)
        if preview:
            return Outcome("", inputs)
        assert not has_unknown(inputs)
        self._cloud.timeouts["create", name] = timeout_s
        self._cloud.begin("create", name)
        id_ = self._cloud.next_id(name)
        self._cloud.things[id_] = inputs
        if ("create", name) in self._cloud.lost:
            raise OutcomeUnknown("the answer was lost")
        return self._outcome(name, id_, inputs)

    def read(self, urn: str, id_: str, inputs: Props, outputs: Props, timeout_s: float) -> Outcome:
        self._cloud.begin("read", name_of(urn))
        found = self._cloud.things.get(id_)
        return Outcome("", {}) if found is None else Outcome(id_, {**found, "serial": id_}, found)

    def update(self, old: Existing, news: Props, timeout_s: float, ignored: list[str], preview: bool) -> Outcome:
        name = name_of(old.urn)
        if preview:
            return Outcome(old.id, news)
        self._cloud.begin("update", name)
        self._cloud.things[old.id] = news
        if ("update", name) in self._cloud.lost:
            raise OutcomeUnknown("the answer was lost")
        return self._outcome(name, old.id, news)

    def delete(self, old: Existing, timeout_s: float) -> None:
        name = name_of(old.urn)
        self._cloud.timeouts["delete", name] = timeout_s
        self._cloud.begin("delete", name)
        self._cloud.things.pop(old.id, None)
        if ("delete", name) in self._cloud.lost:
            raise OutcomeUnknown("the answer was lost")

    def invoke(self, function: str, args: Props, preview: bool) -> tuple[Props, list[Failure]]:
        if args.get("bad"):
            return {}, [Failure("bad", "is bad")]
        return {"echo": args.get("text"), "function": function}, []

    def cancel(self) -> None:
        return None

    def close(self) -> None:
        return None

    def _outcome(self, name: str, id_: str, inputs: Props) -> Outcome:
        errors = ("not yet",) if name in self._cloud.unready else ()
        outputs: dict[str, Any] = {**inputs, "serial": id_}
        return Outcome(id_, outputs, inputs, init_errors=errors)
