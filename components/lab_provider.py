"""What the lab's dynamic resource providers share: precise diffs, drift by looking, tolerant deletes.

A provider is stateless and found by reference, so its serialized form is the same in every run. A resource's id is
`RUN/NAME` (`RUN/HOST/NAME` of a process): creating it again adopts what is there, so a run killed between
making and recording loses nothing.
`diff` also looks at the machine: what has vanished is an update, so that the next `up` heals it without a refresh.
"""

import contextlib
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from pulumi.dynamic import CreateResult, DiffResult, ReadResult, ResourceProvider, UpdateResult

PROVIDER_KEY = "__provider"


class LabProvider(ResourceProvider):
    """Create, read, update and delete in terms of three verbs: `ensure`, `exists`, `remove`."""

    serialize_as_secret_always = False
    replace_on: ClassVar[tuple[str, ...]] = ("run", "rung", "name")
    """Inputs whose change means another thing, not a changed one."""

    @abstractmethod
    def ensure(self, props: dict[str, Any], olds: dict[str, Any] | None) -> dict[str, Any]:
        """Make the thing so, whatever of it exists; return computed outputs. `olds` is None when it is new."""

    @abstractmethod
    def exists(self, props: dict[str, Any]) -> bool:
        """Look whether the thing is there and whole. Must change nothing."""

    @abstractmethod
    def remove(self, props: dict[str, Any]) -> None:
        """Remove the thing; what is already gone is no error."""

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        """Report changed inputs; if there are none, look whether the thing is still there."""
        changed = changed_keys(_olds, _news)
        replaces = [key for key in changed if key in self.replace_on]
        return DiffResult(
            changes=bool(changed) or not self.exists(plain(_olds)),
            replaces=replaces,
            delete_before_replace=True,
        )

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Make the thing, or adopt it. What could be made only in part is removed: no state would know of it."""
        values = plain(props)
        try:
            made = self.ensure(values, None)
        except Exception:
            with contextlib.suppress(Exception):
                self.remove(values)
            raise
        return CreateResult(resource_id(values), {**values, **made})

    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        """Change the thing in place; make it when it has vanished."""
        values = plain(_news)
        return UpdateResult({**values, **self.ensure(values, plain(_olds))})

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """Return the recorded properties while the thing is there, and an empty id when it is not."""
        values = plain(props)
        return ReadResult(id_, values) if self.exists(values) else ReadResult("", {})

    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        """Remove the thing."""
        self.remove(plain(_props))


def resource_id(props: Mapping[str, Any]) -> str:
    """Return the id of a lab resource: its run, its host where it has one, its name."""
    return "/".join(str(props[key]) for key in ("run", "host", "name") if key in props)


def changed_keys(olds: Mapping[str, Any], news: Mapping[str, Any]) -> list[str]:
    """Return the inputs whose value differs from the recorded one, in order."""
    return [key for key, value in news.items() if key != PROVIDER_KEY and integral(olds.get(key)) != integral(value)]


def plain(props: Mapping[str, Any]) -> dict[str, Any]:
    """Return properties without the SDK's own key and with integral floats as int (the wire has only doubles)."""
    return {key: integral(value) for key, value in props.items() if key != PROVIDER_KEY}


def integral(value: Any) -> Any:
    """Return a JSON value with integral floats as int, throughout."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {key: integral(item) for key, item in value.items()}
        case list() | tuple():
            return [integral(item) for item in value]
        case _:
            return value
