"""What the twin's clouds hold, in one file of the lab run: it goes with the run, and any process may go on from it.

    RUN_DIR/twin.json    every item; replaced atomically under a lock (RUN_DIR/twin.lock)

An item is written down before anything is made of it. A create that comes again for a URN goes on with the item that
the engine has never spoken of since: that is the one whose record was lost in a kill -9. One that the engine has looked
at, changed or compared is acknowledged, and a further create of its URN makes its successor.
"""

import contextlib
import fcntl
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from infra.lab.errors import LabError

Json = dict[str, Any]
NUMBERS: Final = 1
_locks: dict[Path, threading.RLock] = {}
_locks_lock = threading.Lock()


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A thing that a cloud holds.

    Attributes:
        number: unique in the world, in the order of creation.
        token, urn, id: of the resource.
        data: what the type keeps of it: addresses, names of namespaces, its inputs.
        acknowledged: whether the engine has spoken of it since it was made.
    """

    number: int
    token: str
    urn: str
    id: str = ""
    data: Json = field(default_factory=dict)
    acknowledged: bool = False


Fill = Callable[[int, list[Item]], tuple[str, Json]]
"""Of an item's number and all other items: its id and data. Called under the lock, so what it allocates is its own."""


class Store:
    """The items of one world. Safe between threads and between processes.

    Args:
        folder: the run's folder; while it is not there, there are no items.
    """

    def __init__(self, folder: Path) -> None:
        self._path, self._lock_path = folder / "twin.json", folder / "twin.lock"
        with _locks_lock:
            self._lock = _locks.setdefault(self._path, threading.RLock())

    def begin(self, urn: str, token: str, fill: Fill) -> Item:
        """Return the item of a create: the one that an interrupted create has left, or a new one, written down.

        Raises:
            LabError: there is no world to make it in.
        """
        with self._session() as state:
            for item in state.items:
                if (item.urn, item.token, item.acknowledged) == (urn, token, False):
                    return item
            number = state.next_number
            id_, data = fill(number, list(state.items))
            item = Item(number=number, token=token, urn=urn, id=id_, data=data)
            state.items.append(item)
            state.next_number += 1
            return item

    def items(self, token: str = "") -> list[Item]:
        """Every item, or those of one type, oldest first."""
        return [item for item in self._read().items if token in ("", item.token)]

    def get(self, token: str, id_: str) -> Item | None:
        """The item of a type with an id."""
        return next((item for item in self.items(token) if item.id == id_), None)

    def change(self, number: int, data: Mapping[str, Any]) -> Item | None:
        """Merge data into an item and return it; None when it is not there."""
        with self._session() as state:
            for index, item in enumerate(state.items):
                if item.number == number:
                    state.items[index] = replace(item, data={**item.data, **data})
                    return state.items[index]
        return None

    def drop(self, number: int) -> None:
        """Forget an item."""
        with self._session() as state:
            state.items[:] = [item for item in state.items if item.number != number]

    def acknowledge(self, urn: str, id_: str) -> None:
        """Note that the engine knows an item; no error where there is none."""
        if any(item.urn == urn and item.id == id_ and not item.acknowledged for item in self._read().items):
            with self._session() as state:
                state.items[:] = [
                    replace(item, acknowledged=True) if (item.urn, item.id) == (urn, id_) else item
                    for item in state.items
                ]

    @contextlib.contextmanager
    def _session(self) -> Iterator["_State"]:
        if not self._path.parent.is_dir():
            raise LabError(f"the world of this twin is not there any more ({self._path.parent}): run up again")
        with self._lock, open(self._lock_path, "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = self._read()
            yield state
            self._write(state)

    def _read(self) -> "_State":
        try:
            read = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return _State()
        return _State(items=[Item(**item) for item in read["items"]], next_number=read["next_number"])

    def _write(self, state: "_State") -> None:
        items = [{name: getattr(item, name) for name in Item.__slots__} for item in state.items]
        new = self._path.with_suffix(".new")
        new.touch(mode=0o600)
        new.write_text(json.dumps({"next_number": state.next_number, "items": items}))
        new.replace(self._path)


@dataclass
class _State:
    items: list[Item] = field(default_factory=list)
    next_number: int = NUMBERS
