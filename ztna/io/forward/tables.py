"""Whose an nftables table is: in its comment, so that the next start can clear up after a dead process."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from ztna.io.forward.forwarding import Forwarding, is_on
from ztna.io.forward.nfnetlink import delete_table, list_tables
from ztna.io.forward.ruleset import GATEWAY_PREFIX, TABLE_PREFIX

_COMMENT: Final = re.compile(rb"ztna pid=(\d+) start=(\d+) pidns=(\d+) off=([a-z0-9,]*)")


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that made a table; `off` are the families whose forwarding was off before."""

    pid: int
    start: int
    pid_namespace: int
    off: tuple[str, ...]

    @classmethod
    def this(cls, off: tuple[str, ...]) -> Self:
        """This process."""
        pid = os.getpid()
        return cls(pid, _start_of(pid) or 0, _pid_namespace(), off)

    @classmethod
    def of(cls, userdata: bytes) -> Self | None:
        """Read a table's comment; None if no relay wrote it."""
        found = _COMMENT.search(userdata)
        if found is None:
            return None
        off = tuple(part for part in found[4].decode().split(",") if part)
        return cls(int(found[1]), int(found[2]), int(found[3]), off)

    @property
    def comment(self) -> str:
        """What `of` reads."""
        return f"ztna pid={self.pid} start={self.start} pidns={self.pid_namespace} off={','.join(self.off)}"

    @property
    def is_dead(self) -> bool:
        """Whether the process is surely gone; one of another PID namespace cannot be judged."""
        return self.pid_namespace == _pid_namespace() and _start_of(self.pid) != self.start


def clear_stale(own_table: str, *, keep_own: bool = False) -> tuple[str, ...]:
    """Remove the tables of dead relays, and `own_table`: who holds its UDP socket is the only one who may use it.

    Args:
        keep_own: leave `own_table`, since the caller replaces it in one transaction.

    Returns:
        Families whose forwarding was off before a relay that is gone, or that lives beside us, turned it on.

    Raises:
        OSError: tables may not be read or removed here.
    """
    off: set[str] = set()
    for name, owner in _relays(list_tables()).items():
        off.update(owner.off if owner is not None else ())
        if name == own_table:
            if not keep_own:
                delete_table(name)
        elif owner is not None and owner.is_dead:
            delete_table(name)
    return tuple(sorted(off))


def clear_up(own_table: str) -> None:
    """Remove what dead relays left behind, forwarding included, for a relay that does not use the kernel's.

    Without the right to look there is nothing of ours to find.
    """
    try:
        before = _relays(list_tables())
        if not before:
            return
        off = clear_stale(own_table)
        if not _relays(list_tables()):
            Forwarding(family for family in off if is_on(family)).put_back()
    except OSError:
        return


def others_live(own_table: str) -> bool:
    """Whether another relay uses forwarding in this namespace."""
    return any(name != own_table for name in _relays(list_tables()))


def _relays(tables: Mapping[str, bytes]) -> dict[str, Owner | None]:
    return {name: Owner.of(data) for name, data in tables.items() if name.startswith((TABLE_PREFIX, GATEWAY_PREFIX))}


def _start_of(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot (proc(5)); None if there is none, or only its corpse."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else int(fields[19])


def _pid_namespace() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0
