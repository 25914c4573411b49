"""The sessions in the roles' /status pages: which path each takes, as agent, connector and intermediate see it.

Pages of other versions lack fields; what is absent is read as unknown, so that a check can say what is missing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

DIRECT, RELAY, NONE = "direct", "relay", "none"
_PATHS: Final = (DIRECT, RELAY, NONE)


@dataclass(frozen=True, slots=True)
class Switch:
    """A change of path. `at` is in Unix seconds."""

    at: float
    old: str
    new: str
    reason: str


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A session as one of its ends records it.

    Attributes:
        session: its id, 32 hex digits.
        peer: identity URI of the other end; `peer_name` is its last part.
        path: direct, relay or none.
        peer_address, local_address: `ip:port` of the present path.
        reason: why this path.
        since_s: seconds on this path.
        rtt_ms, loss: of this path; None and 0.0 while unknown.
        blocked_by: why there is no direct path; None when there is one.
        evidence, advice: what was seen, and the change most likely to help.
        bytes_direct, bytes_relay: sent and received over each path.
        checks_sent, checks_heard: checks that went to the peer, and those of the peer that arrived.
    """

    session: str
    peer: str
    services: tuple[str, ...]
    path: str
    state: str
    peer_address: str | None
    local_address: str | None
    reason: str
    since_s: float
    rtt_ms: float | None
    loss: float
    switches: int
    switch_log: tuple[Switch, ...]
    nat: dict[str, str]
    peer_nat: dict[str, str]
    blocked_by: str | None
    evidence: str
    advice: str
    bytes_direct: int
    bytes_relay: int
    core: str
    checks_sent: int
    checks_heard: int

    @property
    def peer_name(self) -> str:
        """The name in the peer's identity."""
        return self.peer.rpartition("/")[2]

    @property
    def peer_host(self) -> str | None:
        """The peer's IP address on the present path."""
        return host_of(self.peer_address)


@dataclass(frozen=True, slots=True)
class RelaySession:
    """A session as the intermediate carries it. Bytes and packets are both directions together."""

    session: str
    agent: str
    connector: str
    ready: bool
    agent_address: str | None
    connector_address: str | None
    packets: int
    bytes: int
    idle_s: float


@dataclass(frozen=True, slots=True)
class RelayState:
    """The intermediate's relay: whether it is on, what carries packets, and for whom."""

    enabled: bool
    backend: str
    sessions: tuple[RelaySession, ...]

    def session(self, session: str) -> RelaySession | None:
        """The session of an id; None when the relay does not know it."""
        return next((entry for entry in self.sessions if entry.session == session), None)


def host_of(endpoint: str | None) -> str | None:
    """`192.0.2.1` of `192.0.2.1:5000`, `2001:db8::1` of `[2001:db8::1]:5000`; None of what is no endpoint."""
    if not endpoint or ":" not in endpoint:
        return None
    return endpoint.rpartition(":")[0].strip("[]") or None


def port_of(endpoint: str | None) -> int | None:
    """The port of `ip:port`; None of what is no endpoint."""
    text = (endpoint or "").rpartition(":")[2]
    return int(text) if text.isdigit() else None


def read_sessions(page: Mapping[str, Any]) -> tuple[SessionRecord, ...]:
    """The sessions of an agent's or connector's /status page."""
    return tuple(_session(entry) for entry in _objects(page.get("sessions")))


def read_relay(page: Mapping[str, Any]) -> RelayState | None:
    """The relay of an intermediate's /status page; None where the page has none."""
    relay = page.get("relay")
    if not isinstance(relay, dict):
        return None
    sessions = tuple(
        RelaySession(
            session=str(entry.get("session", "")),
            agent=str(entry.get("agent", "")),
            connector=str(entry.get("connector", "")),
            ready=bool(entry.get("ready")),
            agent_address=_text(entry.get("agent_address")),
            connector_address=_text(entry.get("connector_address")),
            packets=_sum(entry.get("packets")),
            bytes=_sum(entry.get("bytes")),
            idle_s=_number(entry.get("idle_s")) or 0.0,
        )
        for entry in _objects(relay.get("sessions"))
    )
    return RelayState(bool(relay.get("enabled")), str(relay.get("backend", "")), sessions)


def find_session(sessions: Iterable[SessionRecord], service: str, peer_name: str) -> SessionRecord | None:
    """The session with a peer that carries a service; failing that, the one with this peer."""
    found = [entry for entry in sessions if entry.peer_name == peer_name]
    return next((entry for entry in found if service in entry.services), found[0] if found else None)


def find_by_service(sessions: Iterable[SessionRecord], service: str) -> SessionRecord | None:
    """The session that carries a service, whoever serves it."""
    return next((entry for entry in sessions if service in entry.services), None)


def _session(entry: Mapping[str, Any]) -> SessionRecord:
    path = str(entry.get("path", NONE))
    carried, counters = (
        found if isinstance(found := entry.get(key), dict) else {} for key in ("bytes", "path_counters")
    )
    return SessionRecord(
        session=str(entry.get("session", "")),
        peer=str(entry.get("peer", "")),
        services=tuple(map(str, entry.get("services") or ())),
        path=path if path in _PATHS else NONE,
        state=str(entry.get("state", "")),
        peer_address=_text(entry.get("peer_address")),
        local_address=_text(entry.get("local_address")),
        reason=str(entry.get("reason") or ""),
        since_s=_number(entry.get("since_s")) or 0.0,
        rtt_ms=_number(entry.get("rtt_ms")),
        loss=_number(entry.get("loss")) or 0.0,
        switches=int(_number(entry.get("switches")) or 0),
        switch_log=tuple(_switch(item) for item in _objects(entry.get("switch_log"))),
        nat=_texts(entry.get("nat")),
        peer_nat=_texts(entry.get("peer_nat")),
        blocked_by=_text(entry.get("blocked_by")),
        evidence=str(entry.get("evidence") or ""),
        advice=str(entry.get("advice") or ""),
        bytes_direct=_sum(carried.get("direct")),
        bytes_relay=_sum(carried.get("relay")),
        core=str(entry.get("core") or ""),
        checks_sent=_sum(counters.get("checks_sent")),
        checks_heard=_sum(counters.get("requests_answered")),
    )


def _switch(entry: Mapping[str, Any]) -> Switch:
    return Switch(
        at=_number(entry.get("at")) or 0.0,
        old=str(entry.get("from") or NONE),
        new=str(entry.get("to") or NONE),
        reason=str(entry.get("reason") or ""),
    )


def _objects(value: Any) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list | tuple) else []


def _text(value: Any) -> str | None:
    return str(value) if value else None


def _texts(value: Any) -> dict[str, str]:
    return {str(key): str(text) for key, text in value.items()} if isinstance(value, dict) else {}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _sum(value: Any) -> int:
    """A count, or the sum of counts by direction."""
    if isinstance(value, dict):
        return sum(int(_number(item) or 0) for item in value.values())
    return int(_number(value) or 0)
