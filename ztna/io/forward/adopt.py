"""What a relay that went away left in the kernel for the next one on its port: pairs that are still forwarded.

A planned restart must not cost what it need not: the rules go on without a process for as long as `alive` lasts. The
next process takes the pairs over with its own rules, in one transaction, and drops those whose session nobody proves to
it in time. It knows nothing of the sessions, nor has to: an element is an address that one side of a session proved.

Until when that is stands in the maps `until`, so that however often a process is restarted or killed, no pair lasts
longer than ORPHANED_S beyond the last process that its session was proved to.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from ztna.io.forward.nfnetlink import Change, Element, NftError, SetElements

__all__ = ["MAPS", "ORPHANED_S", "Elements", "Orphans", "left_in"]

MAPS: Final = ("host", "port", "own")
ORPHANED_S: Final = 30.0
_PORT_PAD: Final = b"\0\0"

Elements = Mapping[str, Mapping[bytes, bytes]]
"""{name of the map: {key: data}} in bytes as the kernel holds them."""


def left_in(table: str, versions: Iterable[int], now: float) -> dict[str, dict[bytes, bytes]]:
    """Return what is to be taken over of a table, `until` included; nothing unless it forwarded until now.

    Args:
        now: seconds of the clock that all processes of this host share (CLOCK_MONOTONIC).
    """
    sets = SetElements(table)
    try:
        if not sets.elements("alive"):
            return {}
        found = {}
        for version in versions:
            until = sets.elements(f"until{version}")
            hosts = sets.elements(f"host{version}")
            kept = {key: until.get(key) or _packed(now + ORPHANED_S) for key in hosts}
            kept = {key: deadline for key, deadline in kept.items() if _seconds(deadline) > now}
            for kind in MAPS:
                elements = sets.elements(f"{kind}{version}")
                found[f"{kind}{version}"] = {key: data for key, data in elements.items() if key in kept}
            found[f"until{version}"] = kept
        return found
    except NftError:
        return {}  # no such table, or one with other maps
    finally:
        sets.close()


@dataclass(frozen=True, slots=True)
class _Orphan:
    other: bytes
    """The key of the other side."""
    version: int
    until: float


@dataclass(slots=True)
class Orphans:
    """Pairs taken over whose session did not come back yet, by key."""

    _left: dict[bytes, _Orphan] = field(default_factory=dict)

    @classmethod
    def of(cls, left: Elements) -> "Orphans":
        """Those of what `left_in` found."""
        found: dict[bytes, _Orphan] = {}
        for version in (int(name[-1]) for name in left if name.startswith("host")):
            hosts, ports, until = (left[f"{kind}{version}"] for kind in ("host", "port", "until"))
            for key, host in hosts.items():
                other = host + ports.get(key, b"")[:2] + _PORT_PAD
                found[key] = _Orphan(other, version, _seconds(until[key]))
        return cls(found)

    def __len__(self) -> int:
        return len(self._left)

    def claimed(self, keys: Iterable[bytes]) -> Iterator[Change]:
        """A session proved these addresses: what they stood for before goes, with the way back."""
        for key in keys:
            orphan = self._left.get(key)
            if orphan is None:
                continue
            back = self._left.get(orphan.other)
            if back is not None and back.other == key:
                yield from self._remove(orphan.other)
            yield from self._remove(key)

    def overdue(self, now: float) -> Iterator[Change]:
        """Nobody came for these."""
        for key in [key for key, orphan in self._left.items() if orphan.until <= now]:
            yield from self._remove(key)

    def _remove(self, key: bytes) -> Iterator[Change]:
        orphan = self._left.pop(key, None)
        if orphan is not None:
            for kind in (*MAPS, "until"):
                yield Change(f"{kind}{orphan.version}", [Element(key)], delete=True)


def _packed(seconds: float) -> bytes:
    return round(seconds).to_bytes(4, sys.byteorder)


def _seconds(data: bytes) -> int:
    return int.from_bytes(data[:4], sys.byteorder)
