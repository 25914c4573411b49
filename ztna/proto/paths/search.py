"""When ports that nobody named are tried: the rules that start `ztna.proto.paths.prediction`."""

from typing import Final

from ztna.proto.natclass import Behavior, PortAllocation
from ztna.proto.paths.parts import Parts
from ztna.proto.paths.path_types import CloseSockets, NatSeen, OpenSockets, PathKind
from ztna.proto.paths.prediction import BIRTHDAY_SOCKETS

VARYING: Final = (Behavior.ADDRESS_DEPENDENT, Behavior.ADDRESS_AND_PORT_DEPENDENT)
BIRTHDAY_AFTER_S: Final = 3.0
"""Ordinary checks have their chance first."""


def plan_search(parts: Parts, now: float) -> None:
    """Start, and end, what the NATs of both sides call for."""
    parts.search_at = None
    if parts.extra_sockets:
        _close_sockets(parts, now)
    if not parts.config.direct or parts.selector.kind is PathKind.DIRECT or parts.checks_begin_at is None:
        return
    peer = parts.peer_nat
    mapped = parts.peer_mapped()
    if peer is None or not mapped:
        return
    if peer.mapping in VARYING and peer.allocation is PortAllocation.SEQUENTIAL:
        parts.prediction.start(mapped[0], max(now, parts.checks_begin_at))
    if parts.config.birthday and not parts.birthday.started and not parts.has_direct_success():
        _plan_birthday(parts, parts.nat.seen, peer, now)


def _plan_birthday(parts: Parts, own: NatSeen, peer: NatSeen, now: float) -> None:
    """One side's mapping varies, the other's does not: then 256 ports on the one are found from the other."""
    assert parts.checks_begin_at is not None
    if (own.mapping in VARYING) == (peer.mapping in VARYING) or Behavior.UNKNOWN in (own.mapping, peer.mapping):
        return
    at = parts.checks_begin_at + BIRTHDAY_AFTER_S
    if now < at:
        parts.search_at = at
        return
    opens = own.mapping in VARYING
    parts.birthday.start(parts.peer_mapped()[0], opens_sockets=opens, now=now)
    if opens:
        parts.emit(OpenSockets(BIRTHDAY_SOCKETS))
        parts.search_at = parts.birthday.ends_at


def _close_sockets(parts: Parts, now: float) -> None:
    """The search is over: only the socket of a pair that works stays open."""
    over = parts.selector.kind is PathKind.DIRECT or now >= parts.birthday.ends_at
    if not over:
        parts.search_at = parts.birthday.ends_at
        return
    current = parts.selector.direct
    kept = {current.local} if current is not None else set()
    closed = tuple(sorted(parts.extra_sockets - kept))
    if closed:
        for local in closed:
            parts.pairs.remove_local(local)
            parts.gathering.hosts.pop(local, None)
        parts.extra_sockets &= kept
        parts.emit(CloseSockets(closed))
