"""Who is relayed to whom: sessions, proven addresses, quotas. No packet passes here.

Flow: `open` by the control plane -> each side proves its (address, port) by authenticated STUN (`prove`), and again as
keepalive -> with both proven, Install and Ready -> a proof from another address installs anew -> a side that is silent
for 30 s, a quota, or the relay switched off: Remove and Lost, and the same session may prove itself again.

A proof is a Binding request whose MESSAGE-INTEGRITY the shell has verified under the session's key. It carries a
counter that rises with every request of a sender: an address is changed only by a counter above all seen before, so a
recorded request sent again from elsewhere moves nothing.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

from ztna.proto.identity import Identity
from ztna.proto.paths.stun_types import Endpoint
from ztna.proto.relay_addresses import RelayAddresses
from ztna.proto.relay_types import (
    Install,
    Lost,
    Ready,
    RelayCommand,
    RelayLimits,
    RelaySessionView,
    RelayStats,
    Remove,
)

__all__ = ["RelayTable"]

Role = Literal["agent", "connector"]
ROLES: Final = ("agent", "connector")
_RATE_WINDOW_S: Final = 0.5


@dataclass(slots=True)
class _Side:
    identity: Identity
    counter: int = -1
    endpoint: Endpoint | None = None
    proven_at: float = 0.0


@dataclass(slots=True)
class _Session:
    id: bytes
    key: bytes
    agent: _Side
    connector: _Side
    touched: float
    installed: tuple[Endpoint, Endpoint] | None = None
    barred_until: float = 0.0
    packets: int = 0
    payload_bytes: int = 0
    recent: float = 0.0
    """Packets since the window began, for the choice of the busiest."""

    def side(self, role: str) -> _Side:
        return self.agent if role == "agent" else self.connector


@dataclass(slots=True)
class _Usage:
    """Of one identity: its sessions, and what they carried since the window began."""

    sessions: dict[bytes, _Session] = field(default_factory=dict)
    since: float = 0.0
    packets: int = 0
    payload_bytes: int = 0


class RelayTable:
    """The table; see the module for its flow. The shell takes commands after every input.

    Args:
        addresses: which endpoints are refused; may be replaced by `set_addresses`.
    """

    def __init__(
        self,
        limits: RelayLimits | None = None,
        stats: RelayStats | None = None,
        *,
        addresses: RelayAddresses | None = None,
        enabled: bool = True,
    ) -> None:
        self.stats = stats if stats is not None else RelayStats()
        self.enabled = enabled
        self._limits = limits or RelayLimits()
        self._addresses = addresses or RelayAddresses()
        self._sessions: dict[bytes, _Session] = {}
        self._usage: dict[str, _Usage] = {}
        self._claims: dict[Endpoint, tuple[bytes, str]] = {}
        # (session, role) in the order of their last proof, sessions without any proof in the order they lost it.
        self._proofs: dict[tuple[bytes, str], float] = {}
        self._unproved: dict[bytes, float] = {}
        self._commands: deque[RelayCommand] = deque()

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def ready_count(self) -> int:
        """Sessions that are relayed now."""
        return sum(1 for session in self._sessions.values() if session.installed)

    def set_addresses(self, addresses: RelayAddresses) -> None:
        """Judge proofs by these from now on: this host's addresses changed."""
        self._addresses = addresses

    # -- sessions -----------------------------------------------------------------------------------------------

    def open(self, session: bytes, key: bytes, agent: Identity, connector: Identity, now: float) -> str | None:
        """Let two sides prove themselves.

        Args:
            session, key: 16 and 32 bytes, known to the two sides and to us.

        Returns:
            None, or why not: "sessions-full" or "sessions-of-identity". Opening an open session again changes nothing.
        """
        if session in self._sessions:
            return None
        if len(self._sessions) >= self._limits.relay_sessions:
            self.stats.drop_sessions_full += 1
            return "sessions-full"
        for identity in (agent, connector):
            used = self._usage.get(identity.uri)
            if used is not None and len(used.sessions) >= self._limits.relay_sessions_per_identity:
                self.stats.drop_sessions_of_identity += 1
                return "sessions-of-identity"
        made = _Session(session, key, _Side(agent), _Side(connector), now)
        self._sessions[session] = made
        for identity in (agent, connector):
            self._usage.setdefault(identity.uri, _Usage(since=now)).sessions[session] = made
        self._unproved[session] = now
        self.stats.opened += 1
        return None

    def close(self, session: bytes, reason: str, now: float) -> None:
        """Forget a session on behalf of the control plane, which therefore gets no Lost."""
        found = self._sessions.get(session)
        if found is not None:
            self._forget(found)

    def key_of(self, session: bytes) -> bytes | None:
        """The session's key, None if there is no such session."""
        found = self._sessions.get(session)
        return None if found is None else found.key

    # -- proofs -------------------------------------------------------------------------------------------------

    def prove(self, session: bytes, role: str, counter: int, source: Endpoint, now: float) -> str | None:
        """One side proved that it is at `source`; MESSAGE-INTEGRITY was verified with `key_of(session)`.

        Args:
            role: of the sender, "agent" or "connector".
            counter: the first 6 bytes of the transaction id.

        Returns:
            None if it stands (or is a harmless repetition), else why not, with one counter of `stats` each.
        """
        found = self._sessions.get(session)
        if found is None or role not in ROLES:
            self.stats.drop_unknown_session += 1
            return "unknown-session"
        side = found.side(role)
        if counter <= side.counter:
            if source == side.endpoint:
                return None
            self.stats.drop_replay += 1
            return "replay"
        # Also what is refused was seen: nobody may send it again later from elsewhere.
        side.counter = counter
        refused = self._refusal(found, role, source, now)
        if refused is not None:
            return refused
        self._accept(found, role, side, source, now)
        return None

    def _refusal(self, session: _Session, role: str, source: Endpoint, now: float) -> str | None:
        stats = self.stats
        if not self.enabled:
            stats.drop_relay_off += 1
            return "relay-off"
        if now < session.barred_until:
            stats.drop_penalty += 1
            return "quota"
        reason = self._addresses.refusal(source)
        if reason is not None:
            name = f"drop_endpoint_{reason}"
            setattr(stats, name, getattr(stats, name) + 1)
            return reason.replace("_", "-")
        if self._claims.get(source, (session.id, role)) != (session.id, role):
            stats.drop_endpoint_taken += 1
            return "endpoint-taken"
        return None

    def _accept(self, session: _Session, role: str, side: _Side, source: Endpoint, now: float) -> None:
        self.stats.proofs += 1
        if side.endpoint != source:
            if side.endpoint is not None:
                self.stats.rebinds += 1
                del self._claims[side.endpoint]
            side.endpoint = source
            self._claims[source] = session.id, role
        side.proven_at = session.touched = now
        self._proofs.pop((session.id, role), None)
        self._proofs[session.id, role] = now
        self._unproved.pop(session.id, None)
        a, b = session.agent.endpoint, session.connector.endpoint
        if a is None or b is None or session.installed == (a, b):
            return
        is_new = session.installed is None
        session.installed = a, b
        self.stats.installed += 1
        self._commands.append(Install(session.id, a, b))
        if is_new:
            self._commands.append(Ready(session.id))

    # -- use ----------------------------------------------------------------------------------------------------

    def activity(self, session: bytes, packets: int, payload_bytes: int, now: float) -> None:
        """Take a session's totals of both directions since it was opened, as the forwarder counts them."""
        found = self._sessions.get(session)
        if found is None:
            return
        more_packets = packets - found.packets if packets >= found.packets else packets
        more_bytes = payload_bytes - found.payload_bytes if payload_bytes >= found.payload_bytes else payload_bytes
        found.packets, found.payload_bytes = packets, payload_bytes
        if not more_packets:
            return
        found.recent += more_packets
        for side in (found.agent, found.connector):
            used = self._usage[side.identity.uri]
            used.packets += more_packets
            used.payload_bytes += more_bytes

    def check_quotas(self, now: float) -> None:
        """Judge what all sessions carried since the last call, at least half a second ago; call it after `activity`."""
        for used in self._usage.values():
            elapsed = now - used.since
            if elapsed < _RATE_WINDOW_S:
                continue
            limits = self._limits
            if used.packets > limits.relay_packets_per_s * elapsed or (
                used.payload_bytes > limits.relay_bytes_per_s * elapsed
            ):
                # The busiest one alone: a connector's other agents are not to blame.
                busiest = max(used.sessions.values(), key=lambda session: session.recent)
                if busiest.installed:
                    self.stats.over_quota += 1
                    busiest.barred_until = now + limits.relay_penalty_s
                    self._lose(busiest, "quota", now)
            used.since, used.packets, used.payload_bytes = now, 0, 0
        for session in self._sessions.values():
            session.recent = 0.0

    def set_enabled(self, enabled: bool, now: float) -> None:
        """Switch the relay off (every session loses it) or on again (sessions return as they prove themselves)."""
        self.enabled = enabled
        if not enabled:
            for session in self._sessions.values():
                self._lose(session, "relay-off", now)

    def forwarding_failed(self, session: bytes, reason: str, now: float) -> None:
        """The forwarder could not install a session: both sides must hear that there is no relay path."""
        found = self._sessions.get(session)
        if found is not None:
            self._lose(found, reason, now)

    # -- time and output ----------------------------------------------------------------------------------------

    def get_timer(self) -> float | None:
        """When `handle_timer` is due (monotonic seconds), None if nothing waits."""
        due = [at + self._limits.relay_proof_s for at in _first(self._proofs)]
        due += [at + self._limits.relay_unproved_s for at in _first(self._unproved)]
        return min(due, default=None)

    def handle_timer(self, now: float) -> None:
        """Let proofs lapse, and forget sessions that nobody proved for an hour."""
        while self._proofs:
            (session_id, role), at = next(iter(self._proofs.items()))
            if at + self._limits.relay_proof_s > now:
                break
            session = self._sessions[session_id]
            self.stats.expired += 1
            if session.installed:
                self._uninstall(session)
                self._commands.append(Lost(session_id, "expired"))
            self._unprove(session, role, now)
        while self._unproved:
            session_id, at = next(iter(self._unproved.items()))
            if at + self._limits.relay_unproved_s > now:
                return
            self._forget(self._sessions[session_id])
            self._commands.append(Lost(session_id, "expired"))

    def next_command(self) -> RelayCommand | None:
        """The next thing to do, None if there is nothing more."""
        return self._commands.popleft() if self._commands else None

    def sessions(self, now: float) -> list[RelaySessionView]:
        """Every session as it stands."""
        return [
            RelaySessionView(
                session.id, session.agent.identity, session.connector.identity, session.installed is not None,
                session.agent.endpoint, session.connector.endpoint, now - session.touched,
            )
            for session in self._sessions.values()
        ]  # fmt: skip

    # -- inner --------------------------------------------------------------------------------------------------

    def _lose(self, session: _Session, reason: str, now: float) -> None:
        was_installed = session.installed is not None
        self._uninstall(session)
        for role in ROLES:
            self._unprove(session, role, now)
        if was_installed:
            self._commands.append(Lost(session.id, reason))

    def _uninstall(self, session: _Session) -> None:
        if session.installed is not None:
            self.stats.removed += 1
            self._commands.append(Remove(session.id, *session.installed))
            session.installed = None

    def _unprove(self, session: _Session, role: str, now: float) -> None:
        side = session.side(role)
        if side.endpoint is not None:
            del self._claims[side.endpoint]
            del self._proofs[session.id, role]
            side.endpoint = None
        if session.agent.endpoint is None and session.connector.endpoint is None:
            self._unproved.setdefault(session.id, now)

    def _forget(self, session: _Session) -> None:
        self._uninstall(session)
        for role in ROLES:
            self._unprove(session, role, session.touched)
        self._unproved.pop(session.id, None)
        del self._sessions[session.id]
        for side in (session.agent, session.connector):
            used = self._usage.get(side.identity.uri)
            if used is not None:
                used.sessions.pop(session.id, None)
                if not used.sessions:
                    del self._usage[side.identity.uri]
        self.stats.closed += 1


def _first(times: dict[tuple[bytes, str], float] | dict[bytes, float]) -> Iterator[float]:
    for at in times.values():
        yield at
        return
