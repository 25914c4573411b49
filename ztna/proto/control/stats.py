"""Counters of the `ztna-v2` control connection, on either side; names that begin with `drop_` had no effect."""

from dataclasses import dataclass

from ztna.proto.stats import Stats

__all__ = ["ControlClientStats", "ControlServerStats"]


@dataclass(slots=True)
class ControlServerStats(Stats):
    """What the control plane of the intermediate did, and why it did not."""

    challenges_sent: int = 0
    proofs_accepted: int = 0
    proofs_refused: int = 0
    proofs_late: int = 0
    """Connections closed because their proof did not come in time, or to make room for newer ones."""
    messages_received: int = 0
    errors_sent: int = 0
    standbys: int = 0
    """Claims kept in waiting."""
    silences_reported: int = 0
    connectors_asked: int = 0
    """Connectors sent PINGs because an agent hears nothing of them."""
    connectors_doubted: int = 0
    connectors_absent: int = 0
    connectors_back: int = 0
    """Of those, how many answered after all."""
    sessions_invited: int = 0
    sessions_granted: int = 0
    sessions_resumed: int = 0
    sessions_attached: int = 0
    """Sessions taken up again by a new control connection of the same member."""
    sessions_ended: int = 0
    candidates_forwarded: int = 0
    paths_reported: int = 0

    drop_before_proof: int = 0
    """Closed for saying something else than Hello first."""
    drop_stream: int = 0
    """Bytes on the stream of the challenge."""
    drop_malformed: int = 0
    drop_unknown: int = 0
    """A message of an unknown type, or one that only a server sends."""
    drop_frame: int = 0
    """Closed for a frame that was too large, incomplete for too long, or too much to hold."""
    drop_rate: int = 0
    drop_session_unknown: int = 0
    drop_session_limit: int = 0
    drop_session_rate: int = 0
    drop_silence_rate: int = 0
    drop_peer_away: int = 0
    """For a side of a session that is reconnecting."""


@dataclass(slots=True)
class ControlClientStats(Stats):
    """What the control connection of an agent or a connector did, and why it did not."""

    proofs_sent: int = 0
    welcomed: int = 0
    registers_sent: int = 0
    messages_received: int = 0
    messages_sent: int = 0
    errors_received: int = 0

    drop_not_connected: int = 0
    drop_stream: int = 0
    drop_malformed: int = 0
    drop_unknown: int = 0
    drop_unexpected: int = 0
    """A message that makes no sense now, or from a server."""
    drop_event_queue: int = 0
