"""What /status says of a session."""

import time
from typing import TYPE_CHECKING, Any

from ztna.proto.paths.path_types import NatSeen, PathSnapshot

if TYPE_CHECKING:
    from ztna.io.session.session import Session


def session_status(session: "Session") -> dict[str, Any]:
    """The entry of one session in /status."""
    now = session.now
    seen = session.paths.snapshot(now)
    return {
        "session": session.id.hex(),
        "peer": session.settings.peer,
        "services": list(session.services),
        "state": session.state,
        "path": seen.kind.value,
        "peer_address": None if seen.remote is None else str(seen.remote),
        "local_address": session.sockets.local_address(),
        "reason": seen.reason,
        "since_s": round(now - seen.since, 3),
        "rtt_ms": None if seen.rtt_s is None else round(seen.rtt_s * 1000, 3),
        "loss": round(seen.loss, 4),
        "switches": seen.switches,
        "switch_log": _switch_log(seen, now),
        "time_in_path_s": {kind.value: round(spent, 3) for kind, spent in seen.time_in_path.items()},
        "nat": _nat(seen.nat),
        "peer_nat": _nat(seen.peer_nat),
        "mapped_address": None if seen.mapped is None else str(seen.mapped),
        "blocked_by": None if seen.blocked_by is None else seen.blocked_by.value,
        "evidence": seen.evidence,
        "advice": seen.advice,
        "pairs": [
            {
                "remote": str(pair.remote),
                "type": pair.type,
                "state": pair.state,
                "nominated": pair.nominated,
                "rtt_ms": None if pair.rtt_s is None else round(pair.rtt_s * 1000, 3),
                "sent": pair.sent,
                "answered": pair.answered,
                "requests": pair.requests,
            }
            for pair in seen.pairs
        ],
        "path_counters": {name: count for name, count in seen.counters.items() if count},
        "core": session.core.name,
        "bytes": {
            kind.value: {"sent": count.sent, "received": count.received} for kind, count in session.by_path.items()
        },
        "quic_rtt_ms": None if session.core.rtt_s is None else round(session.core.rtt_s * 1000, 3),
        "max_payload_bytes": session.core.max_datagram_payload,
        "age_s": round(now - session.started_at, 3),
        "drops": {name: count for name in session.counters.__slots__ if (count := getattr(session.counters, name))},
    }


def _switch_log(seen: PathSnapshot, now: float) -> list[dict[str, Any]]:
    """Changes of path with the time of day at which they happened."""
    offset = time.time() - now
    return [
        {
            "at": round(record.at + offset, 3),
            "from": record.from_kind.value,
            "to": record.to_kind.value,
            "reason": record.reason,
        }
        for record in seen.switch_log
    ]


def _nat(seen: NatSeen | None) -> dict[str, str] | None:
    if seen is None:
        return None
    return {"mapping": seen.mapping.value, "filtering": seen.filtering.value, "allocation": seen.allocation.value}
