"""Forwarding in the kernel: nftables maps rewrite addresses, no packet passes through this process.

The ruleset is in ztna/io/forward/ruleset.py. Installing a pair is one netlink transaction of about 0.2 ms.
"""

import contextlib
import errno
import ipaddress
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from ztna.io.forward.adopt import MAPS, ORPHANED_S, Orphans, left_in
from ztna.io.forward.forwarding import Forwarding
from ztna.io.forward.nfnetlink import Change, Element, NftError, SetElements, delete_table, list_tables
from ztna.io.forward.ruleset import ALIVE_S, MARK, MARK_MASK, Ruleset, families_of, table_name
from ztna.io.forward.sockets import source_towards
from ztna.io.forward.tables import Owner, clear_stale, others_live
from ztna.io.forward.types import ForwardError, PairCounters
from ztna.proto.paths.stun_types import Endpoint

_NFT_TIMEOUT_S: Final = 10.0
_CHECK_S: Final = 5.0
_STUCK_PACKETS: Final = 20
_HEADERS: Final = {4: 28, 6: 48}
"""IP and UDP header bytes, which the kernel's counters include; once per batch joined by GSO."""


@dataclass(slots=True)
class _Pair:
    a: Endpoint
    b: Endpoint
    own_a: str
    own_b: str
    version: int
    key_a: bytes = field(init=False)
    key_b: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.key_a, self.key_b = _key(self.a), _key(self.b)


class KernelForwarder:
    """The kernel back end for one bound UDP socket. It belongs to the network namespace of the thread that made it.

    Args:
        host, port: the socket's local address.
        clock: monotonic seconds.

    Raises:
        ForwardError: not possible here; the text says why and what would make it possible.
    """

    name = "kernel"

    def __init__(self, host: str, port: int, *, clock: Callable[[], float]) -> None:
        self._host = host
        self._clock = clock
        self._pairs: dict[bytes, _Pair] = {}
        self._past: dict[bytes, PairCounters] = {}
        self._passed = (0, 0)
        self._checked_at = self._renewed_at = clock()
        self._closed = False
        self.table = table_name(host, port)
        self._versions = tuple(int(family[-1]) for family in families_of(host))
        _demand_capability(host)
        try:
            off = clear_stale(self.table, keep_own=True)
            left = left_in(self.table, self._versions, clock())
        except OSError as exc:
            raise ForwardError(f"nftables tables cannot be changed: {exc.strerror}") from exc
        self._forwarding = Forwarding(off)
        families = families_of(host)
        off = tuple(family for family in families if self._forwarding.was_off(family))
        rules = Ruleset(host=host, port=port, comment=Owner.this(off).comment, guarded=off, elements=left)
        self._port = port.to_bytes(2, "big")
        _load(rules.text())
        self._orphans = Orphans.of(left)
        try:
            self._forwarding.turn_on(families)
            self._sets = SetElements(self.table)
        except BaseException:
            self._forwarding.put_back()
            delete_table(self.table)
            raise

    def __contains__(self, session: bytes) -> bool:
        return session in self._pairs

    # -- pairs --------------------------------------------------------------------------------------------------

    def install(self, session: bytes, a: Endpoint, b: Endpoint) -> None:
        """Forward between `a` and `b`; replaces the session's earlier pair, whose counters go on.

        Raises:
            ForwardError: of different families, of a family that the socket does not have, or without a route.
        """
        old = self._pairs.get(session)
        if old is not None and (old.a, old.b) == (a, b):
            return
        try:
            pair = self._judge(a, b)
        except ForwardError:
            self.remove(session)
            raise
        changes, past = list(self._orphans.claimed((pair.key_a, pair.key_b))), PairCounters()
        if old is not None:
            past = self._counted(session, old, None)
            changes += list(_changes(old, delete=True))
        changes += list(_changes(pair, delete=False))
        try:
            self._sets.apply(changes)
        except NftError as exc:
            self.remove(session)
            raise ForwardError(str(exc)) from exc
        self._pairs[session], self._past[session] = pair, past

    def _judge(self, a: Endpoint, b: Endpoint) -> _Pair:
        version = ipaddress.ip_address(a.host).version
        if version != ipaddress.ip_address(b.host).version:
            raise ForwardError("the two sides are of different families")
        if version not in self._versions:
            raise ForwardError(f"the relay's socket has no IPv{version}")
        if any(ipaddress.ip_address(end.host).is_loopback for end in (a, b)):
            raise ForwardError("a side on this host is not routed")
        return _Pair(a, b, self._own_towards(a), self._own_towards(b), version)

    def _own_towards(self, end: Endpoint) -> str:
        """The address that this host's answers to `end` leave with: the one it was reached by, or NATs drop them."""
        if self._host not in ("0.0.0.0", "::"):
            return self._host
        try:
            own = source_towards(end, int.from_bytes(self._port, "big"))
        except OSError as exc:
            raise ForwardError(f"no route to a side: {exc.strerror}") from exc
        if own == end.host:
            raise ForwardError("a side on this host is not routed")
        return own

    def remove(self, session: bytes) -> PairCounters | None:
        """Stop forwarding for the session; what it forwarded, None if there is no such session."""
        pair = self._pairs.pop(session, None)
        if pair is None:
            return None
        try:
            seen = self._counted(session, pair, None)
            self._sets.apply(_changes(pair, delete=True))
        except NftError as exc:
            # Gone with the whole table: then nothing is forwarded either, and `tick` will say so.
            if exc.errno != errno.ENOENT:
                raise
            seen = PairCounters()
        self._past.pop(session, None)
        return seen

    # -- what passed --------------------------------------------------------------------------------------------

    def counters(self) -> Mapping[bytes, PairCounters]:
        """What was forwarded of each installed session."""
        if not self._pairs:
            return {}
        try:
            seen = self._arrived()
        except NftError:
            return {}
        return {session: self._counted(session, pair, seen) for session, pair in self._pairs.items()}

    def drops(self) -> Mapping[str, int]:
        """None are known: what the kernel cannot forward it drops in its own counters."""
        return {}

    def tick(self) -> str | None:
        """Renew `alive`, and look whether what arrives also leaves.

        Returns:
            Why packets are not forwarded, if that is so: a firewall or a routing rule of the host drops them.
        """
        now = self._clock()
        if now - self._renewed_at >= ALIVE_S / 5:
            self._renewed_at = now
            if not self._renew():
                return f"somebody removed the nftables table {self.table}"
        with contextlib.suppress(NftError):  # gone with the whole table
            self._sets.apply(self._orphans.overdue(now))
        if now - self._checked_at < _CHECK_S or not self._pairs:
            return None
        self._checked_at = now
        try:
            arrived, left = (sum(packets for packets, _ in self._of_all(name).values()) for name in ("host", "own"))
        except NftError as exc:
            return f"the nftables table {self.table} cannot be read: {exc.strerror}"
        before, self._passed = self._passed, (arrived, left)
        if arrived - before[0] >= _STUCK_PACKETS and left == before[1]:
            return "packets arrive but do not leave: a firewall of this host drops what it forwards"
        return None

    def _renew(self, for_s: float = ALIVE_S) -> bool:
        element = [Element(self._port)]
        renewed = Change("alive", [Element(self._port, timeout_ms=round(for_s * 1000))])
        try:
            try:
                self._sets.apply([Change("alive", element, delete=True), renewed])
            except NftError:
                # It ran out while this process was stopped.
                self._sets.apply([renewed])
        except NftError:
            return False
        return True

    def _arrived(self) -> dict[bytes, tuple[int, int]]:
        return self._of_all("host")

    def _of_all(self, name: str) -> dict[bytes, tuple[int, int]]:
        found: dict[bytes, tuple[int, int]] = {}
        for version in self._versions:
            found |= self._sets.counters(f"{name}{version}")
        return found

    def _counted(self, session: bytes, pair: _Pair, seen: Mapping[bytes, tuple[int, int]] | None) -> PairCounters:
        if seen is None:
            seen = self._sets.counters(f"host{pair.version}", (pair.key_a, pair.key_b))
        past = self._past.get(session) or PairCounters()
        header = _HEADERS[pair.version]
        (a_packets, a_bytes), (b_packets, b_bytes) = (seen.get(key, (0, 0)) for key in (pair.key_a, pair.key_b))
        return PairCounters(
            past.a_packets + a_packets,
            past.a_bytes + a_bytes - header * a_packets,
            past.b_packets + b_packets,
            past.b_bytes + b_bytes - header * b_packets,
        )

    def close(self, *, leave: bool = False) -> None:
        """Remove the table and put forwarding back, unless another relay of this namespace needs it; idempotent.

        With `leave` pairs are forwarded for 30 s more, for the next process on this port to take over. If none comes
        the table stays without effect, until any relay starts on this host.
        """
        if self._closed:
            return
        self._closed = True
        if leave and (self._pairs or len(self._orphans)) and self._renew(ORPHANED_S):
            self._sets.close()
            return
        self._pairs.clear()
        self._sets.close()
        if not others_live(self.table):
            self._forwarding.put_back()
        delete_table(self.table)


def _changes(pair: _Pair, *, delete: bool) -> Iterator[Change]:
    ways = ((pair.key_a, pair.b, pair.own_a), (pair.key_b, pair.a, pair.own_b))
    hosts = [Element(key, b"" if delete else _packed(to.host)) for key, to, _ in ways]
    ports = [Element(key, b"" if delete else to.port.to_bytes(2, "big")) for key, to, _ in ways]
    own = [Element(key, b"" if delete else _packed(address)) for key, _, address in ways]
    for name, elements in zip(MAPS, (hosts, ports, own), strict=True):
        yield Change(f"{name}{pair.version}", elements, delete)


def _packed(host: str) -> bytes:
    return ipaddress.ip_address(host).packed


def _key(end: Endpoint) -> bytes:
    return _packed(end.host) + end.port.to_bytes(2, "big") + b"\0\0"


def _demand_capability(host: str) -> None:
    if ipaddress.ip_address(host).is_loopback:
        raise ForwardError("the relay is bound to loopback, which is not routed")
    if shutil.which("nft") is None:
        raise ForwardError("nft is not installed (package nftables)")
    try:
        list_tables()
    except OSError as exc:
        raise ForwardError(f"nftables cannot be used: {exc.strerror} (it needs CAP_NET_ADMIN)") from exc
    for chain in _chains():
        if chain.get("hook") == "forward" and chain.get("policy") == "drop":
            place = (chain["family"], chain["table"], chain["name"])
            # A chain that names our mark lets us through; whether it does is seen once packets come.
            if f"{MARK:#x}" not in _nft(["list", "chain", *place], ""):
                raise ForwardError(
                    f"the host's firewall drops what it forwards: chain {' '.join(place)} has the policy drop and no "
                    f"rule `meta mark & {MARK_MASK:#x} == {MARK:#x} accept`"
                )


def _chains() -> list[dict[str, str]]:
    listed = json.loads(_nft(["-j", "list", "chains"], "") or "{}")
    return [item["chain"] for item in listed.get("nftables", ()) if "chain" in item]


def _load(text: str) -> None:
    _nft(["-f", "-"], text)


def _nft(arguments: list[str], text: str) -> str:
    try:
        done = subprocess.run(
            ["nft", *arguments], input=text, capture_output=True, text=True, timeout=_NFT_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise ForwardError(f"nft cannot be run: {exc}") from exc
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it gave no reason"]
        raise ForwardError(f"nft refused the ruleset: {lines[0]}")
    return done.stdout
