"""A package's provider for the engine, over the package's resource types: what is common to all types is here."""

import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from infra.engine.argcheck import check as check_arguments
from infra.engine.argcheck import did_you_mean
from infra.engine.errors import ResourceError
from infra.engine.props import UNKNOWN, Props, changed_paths, for_provider, mark_secrets, secret
from infra.engine.providers import Diff, Existing, Failure, Outcome
from infra.engine.sdkschema import Sdk
from infra.engine.urn import name_of, type_of
from infra.lab.errors import LabError
from infra.twin.interface import Call, Json, NotReady, TwinError, TwinFunction, TwinType
from infra.twin.site import Site

AUTONAME_HEX: Final = 7
Note = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package as the twin has it.

    Attributes:
        name: as in `digitalocean`.
        types: its resource types.
        functions: its functions.
        config: keys of provider configuration that are taken, without effect: the twin has no account.
        refuse: yields what of a configuration of these keys the twin cannot do.
    """

    name: str
    types: Sequence[TwinType]
    functions: Sequence[TwinFunction] = ()
    config: frozenset[str] = frozenset()
    refuse: Callable[[Json], Iterable[Failure]] = field(default=lambda config: ())

    def by_token(self) -> dict[str, TwinType]:
        """Its types by token."""
        return {item.type_name: item for item in self.types}


class TwinProvider:
    """One package of the twin, in process.

    Args:
        package: its types.
        site: where they are realised; None in a preview of a stack that has no world yet.
        sdk: the package's SDK, whose types the arguments are checked against; None for packages without one.
        note: gets each sentence (once) on what the twin leaves out.
    """

    def __init__(self, package: Package, site: Site, sdk: Sdk | None, note: Note) -> None:
        self._package, self._site, self._sdk = package, site, sdk
        self._types = package.by_token()
        self._functions = {item.type_name: item for item in package.functions}
        self._note_to = note
        self._noted: set[str] = set()
        self._lock = threading.Lock()

    # -- configuration ---------------------------------------------------------------------------------------------

    def check_config(self, urn: str, olds: Props, news: Props) -> tuple[Props, list[Failure]]:
        taken = self._package.config | {"version", "pluginDownloadURL"}
        unknown = [
            Failure(key, f"the twin of {self._package.name} takes no such configuration{did_you_mean(key, taken)}")
            for key in news
            if key not in taken and not key.startswith("__")
        ]
        return news, unknown or list(self._package.refuse(_open(news)))

    def diff_config(self, urn: str, olds: Props, news: Props) -> Diff:
        return Diff(False)

    def configure(self, urn: str, id_: str, inputs: Props) -> None:
        return None

    # -- resources -------------------------------------------------------------------------------------------------

    def check(self, urn: str, olds: Props, news: Props) -> tuple[Props, list[Failure]]:
        kind = self._types.get(type_of(urn))
        if kind is None:
            return news, [Failure("type", self._no_type(type_of(urn)))]
        filled = self._filled(kind, name_of(urn), olds, news)
        if self._sdk is not None:
            report = check_arguments(self._sdk, kind.type_name, filled)
            for warning in report.warnings:
                self._note(f"{kind.type_name} {name_of(urn)!r}: {warning}")
            if report.failures:
                return filled, report.failures
        opened = _open(filled)
        failures = [*_not_modelled(kind, opened), *kind.validate(opened)]
        for sentence in (*_left_out(kind, name_of(urn), opened), *kind.notes(name_of(urn), opened)):
            self._note(sentence)
        return filled, failures

    def _filled(self, kind: TwinType, name: str, olds: Props, news: Props) -> Props:
        filled = {**{key: value for key, value in kind.defaults.items() if news.get(key) is None}, **news}
        filled = {key: value for key, value in filled.items() if not (key in kind.defaults and value is None)}
        for key, value in kind.defaults.items():
            filled.setdefault(key, value)
        if kind.autoname and filled.get(kind.autoname) is None:
            end = secrets.token_hex(AUTONAME_HEX)[:AUTONAME_HEX]
            filled[kind.autoname] = olds.get(kind.autoname) or f"{name}-{end}"
        return filled

    def diff(self, urn: str, id_: str, old_inputs: Props, old_outputs: Props, news: Props, ignored: list[str]) -> Diff:
        kind = self._type(urn)
        self._site.store.acknowledge(urn, id_)
        # A property that the type does not take is empty, or `check` had refused it: empty in another way is no change.
        changed = frozenset(map(_top, changed_paths(old_inputs, news))) & kind.properties()
        if not changed:
            return Diff(False)
        replaces = kind.replaces(changed, _open(old_inputs), _open(news))
        return Diff(
            True, tuple(sorted(replaces)), tuple(sorted(changed)), bool(replaces) and kind.delete_before_replace
        )

    def create(self, urn: str, inputs: Props, timeout_s: float, preview: bool) -> Outcome:
        kind = self._type(urn)
        if preview:
            return Outcome("", {**self._all_unknown(kind), **inputs})
        errors: tuple[str, ...] = ()
        with _as_resource_errors(kind, urn):
            try:
                made = kind.create(self._call(urn), _open(inputs))
            except NotReady as waiting:
                made, errors = waiting.made, (waiting.reason,)
        return Outcome(made.id, self._outputs(kind, inputs, made.outputs), init_errors=errors)

    def read(self, urn: str, id_: str, inputs: Props, outputs: Props, timeout_s: float) -> Outcome:
        kind = self._type(urn)
        self._site.store.acknowledge(urn, id_)
        with _as_resource_errors(kind, urn):
            found = kind.read(self._call(urn, id_), _open(outputs))
        if found is None:
            return Outcome("", {})
        return Outcome(id_, self._outputs(kind, {**outputs, **inputs}, found), inputs or None)

    def update(self, old: Existing, news: Props, timeout_s: float, ignored: list[str], preview: bool) -> Outcome:
        kind = self._type(old.urn)
        if preview:
            unknown = dict.fromkeys(kind.computed(_open(old.inputs), _open(news)), UNKNOWN)
            return Outcome(old.id, {**old.outputs, **news, **unknown})
        self._site.store.acknowledge(old.urn, old.id)
        errors: tuple[str, ...] = ()
        with _as_resource_errors(kind, old.urn):
            try:
                outputs = kind.update(self._call(old.urn, old.id), _open(old.outputs), _open(old.inputs), _open(news))
            except NotReady as waiting:
                outputs, errors = waiting.made.outputs, (waiting.reason,)
        return Outcome(old.id, self._outputs(kind, news, outputs), init_errors=errors)

    def delete(self, old: Existing, timeout_s: float) -> None:
        kind = self._type(old.urn)
        self._site.store.acknowledge(old.urn, old.id)
        with _as_resource_errors(kind, old.urn):
            kind.delete(self._call(old.urn, old.id), _open(old.outputs), _open(old.inputs))

    def invoke(self, function: str, args: Props, preview: bool) -> tuple[Props, list[Failure]]:
        found = self._functions.get(function)
        if found is None:
            known = ", ".join(sorted(self._functions)) or "none"
            raise TwinError(f"the twin does not model the function {function} (of this package it has: {known})")
        opened = _open(args)
        failures = [
            Failure(key, f"the twin of {function} does not model it{did_you_mean(key, found.arguments)}")
            for key, value in opened.items()
            if key not in found.arguments and value is not None
        ]
        return ({}, failures) if failures else (found.call(self._site, opened), [])

    def cancel(self) -> None:
        return None

    def close(self) -> None:
        return None

    # -- parts -----------------------------------------------------------------------------------------------------

    def _type(self, urn: str) -> TwinType:
        kind = self._types.get(type_of(urn))
        if kind is None:
            raise TwinError(self._no_type(type_of(urn)))
        return kind

    def _no_type(self, token: str) -> str:
        known = ", ".join(sorted(item.rpartition(":")[2] for item in self._types))
        return (
            f"the twin does not model resources of type {token}{did_you_mean(token, self._types)}; of "
            f"{self._package.name} it has: {known} (docs/twin.md)"
        )

    def _call(self, urn: str, id_: str = "") -> Call:
        return Call(site=self._site, urn=urn, name=name_of(urn), id=id_)

    def _all_unknown(self, kind: TwinType) -> Props:
        names = self._sdk.outputs(kind.type_name) if self._sdk is not None else ()
        return dict.fromkeys(names, UNKNOWN)

    def _outputs(self, kind: TwinType, marks: Props, made: Json) -> Props:
        """All outputs, secrets marked. Raises TwinError for one that the SDK has and the twin gave no value."""
        unfilled = {name for name in self._all_unknown(kind) if name not in made} - kind.properties()
        if unfilled and self._sdk is not None:
            taken = self._sdk.arguments(kind.type_name)
            unfilled -= set(taken.fields) if taken is not None else set()  # an argument that nobody gave
        if unfilled:
            raise TwinError(
                f"the twin of {kind.type_name} fills no output {', '.join(sorted(unfilled))}: a fault of its"
            )
        outputs = mark_secrets(made, marks)
        return {key: secret(value) if key in kind.secret_outputs else value for key, value in outputs.items()}

    def _note(self, sentence: str) -> None:
        with self._lock:
            if sentence in self._noted:
                return
            self._noted.add(sentence)
        self._note_to(sentence)


class _as_resource_errors:
    """Gives what fails in the lab the name of the resource."""

    def __init__(self, kind: TwinType, urn: str) -> None:
        self._what = f"{kind.type_name} {name_of(urn)!r}"

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, LabError | OSError):
            raise ResourceError(f"{self._what}: {error}") from error


def _open(props: Props) -> Json:
    return for_provider(props, secrets=False, references=False)


def _top(path: str) -> str:
    return path.split(".")[0].split("[")[0]


def _not_modelled(kind: TwinType, inputs: Json) -> Iterator[Failure]:
    taken = kind.properties()
    for key, value in inputs.items():
        if key not in taken and not key.startswith("__") and value not in (None, False, [], {}):
            yield Failure(
                key,
                f"the twin does not model it{did_you_mean(key, taken)}; it takes {', '.join(sorted(taken))} "
                "(docs/twin.md)",
            )


def _left_out(kind: TwinType, name: str, inputs: Json) -> Iterator[str]:
    for key, entry in kind.left_out.items():
        if key in inputs and inputs[key] not in entry.harmless:
            yield f"not modelled by the twin: {kind.type_name.rpartition(':')[2]} {name!r} {key}: {entry.why}"
