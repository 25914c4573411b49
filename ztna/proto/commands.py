"""Commands: what the intermediate asks its shell to do.

They are compared by value in tests. The one made once per packet is not frozen: freezing a dataclass makes its
construction three times as slow, and it is read once and thrown away.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ztna.proto.identity import Identity

__all__ = [
    "CloseConnection",
    "CloseRelay",
    "ConnId",
    "IntermediateCommand",
    "Level",
    "Note",
    "OpenRelay",
    "PingConnection",
    "SendDatagram",
    "SendStream",
]

ConnId = int
Level = Literal["debug", "info", "warning"]


@dataclass(frozen=True, slots=True)
class Note:
    """Something worth a log line: an event name and its fields as values."""

    level: Level
    event: str
    fields: Mapping[str, object] = field(default_factory=dict)


@dataclass(slots=True)
class SendDatagram:
    """Send `data` in a DATAGRAM frame on a connection."""

    conn: ConnId
    data: bytes


@dataclass(frozen=True, slots=True)
class SendStream:
    """Send `data` on a stream of a connection, without FIN.

    `stream_id` 0 is the client's first stream; 1 and 5 are those opened by the server, which the shell opens when they
    are first named.
    """

    conn: ConnId
    stream_id: int
    data: bytes


@dataclass(frozen=True, slots=True)
class CloseConnection:
    """Close a connection with a code and a reason; nothing of it acts any more."""

    conn: ConnId
    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class PingConnection:
    """Send a PING on a connection at once: whoever is there acknowledges it."""

    conn: ConnId


@dataclass(frozen=True, slots=True)
class OpenRelay:
    """Take proofs of address for a session, and forward its packets once both sides have proved theirs.

    `key` is the session's, for STUN alone.
    """

    session: bytes
    key: bytes
    agent: Identity
    connector: Identity


@dataclass(frozen=True, slots=True)
class CloseRelay:
    """Forward nothing of a session any more, and forget its key."""

    session: bytes
    reason: str


IntermediateCommand = SendDatagram | SendStream | CloseConnection | PingConnection | OpenRelay | CloseRelay | Note
