"""Control connections of `ztna-v2` at the intermediate: frames, deadlines and bounds, before and after the proof.

A connection that has not proved who it is may say Hello and nothing else, and only for a few seconds. Whatever a
member sends later, one bad message costs one answer: a broken or unknown message is answered by Error, too many of
them, a frame that is too large, or one that stays incomplete close the connection.
"""

from collections import OrderedDict
from collections.abc import Callable
from itertools import islice
from typing import Final

from ztna.proto.commands import CloseConnection, ConnId, SendStream
from ztna.proto.control.fields import SILENCE
from ztna.proto.control.messages import (
    NONCE_BYTES,
    Challenge,
    ControlMessage,
    Error,
    FrameReader,
    Hello,
    UnknownMessageError,
    decode,
    encode_frame,
)
from ztna.proto.control.stats import ControlServerStats
from ztna.proto.errors import WireError
from ztna.proto.identity import Identity
from ztna.proto.intermediate import CLOSE_REFUSED, Address, Intermediate
from ztna.proto.limits import ControlLimits
from ztna.proto.ratelimit import TokenBucket
from ztna.proto.registry import Peer

__all__ = ["CAPABILITIES", "Connection", "ControlConnections"]

CONTROL_STREAM: Final = 0
CHALLENGE_STREAM: Final = 1
CAPABILITIES: Final = ("datagram-relay", "sessions", SILENCE)
# An incomplete frame up to this size is never closed for lack of memory: honest ones are in flight for moments.
SMALL_BUFFER_BYTES: Final = 4096


class Connection:
    """One control connection."""

    __slots__ = (
        "address",
        "bucket",
        "conn",
        "deadline",
        "leaf_sha256",
        "limited",
        "malformed",
        "nonce",
        "peer",
        "reader",
        "tls_identity",
    )

    def __init__(
        self,
        conn: ConnId,
        address: Address,
        nonce: bytes,
        leaf_sha256: bytes,
        tls_identity: Identity | None,
        limits: ControlLimits,
    ) -> None:
        self.conn = conn
        self.address = address
        self.nonce = nonce
        self.leaf_sha256 = leaf_sha256
        self.tls_identity = tls_identity
        self.reader = FrameReader(limits.proof_frame_bytes)
        self.bucket = TokenBucket(limits.control_rate_per_s, limits.control_burst)
        self.peer: Peer | None = None
        """The peer it is once it has proved who it is."""
        self.deadline = 0.0
        """When its proof is due."""
        self.malformed = 0
        self.limited = False
        """Whether it was told that it says too much, since it last did not."""


class ControlConnections:
    """All control connections of one intermediate; a subclass acts on what they say."""

    def __init__(self, relay: Intermediate, random: Callable[[int], bytes], limits: ControlLimits) -> None:
        """Args: random: `random(n)` gives n bytes that nobody can guess."""
        self.stats = ControlServerStats()
        self._relay = relay
        self._random = random
        self._limits = limits
        self._connections: dict[ConnId, Connection] = {}
        self._unproven: OrderedDict[ConnId, Connection] = OrderedDict()
        # Connection -> when its incomplete frame is given up, in that order; and how much all of them hold.
        self._frame_deadlines: dict[ConnId, float] = {}
        self._buffered_bytes = 0

    def __contains__(self, conn: ConnId) -> bool:
        return conn in self._connections

    @property
    def unproven(self) -> int:
        """Connections that have not proved who they are."""
        return len(self._unproven)

    def _hello(self, connection: Connection, hello: Hello, now: float) -> None:
        """Judge a Hello: the connection becomes a peer or is closed."""
        raise NotImplementedError

    def _act(self, connection: Connection, peer: Peer, message: ControlMessage, now: float) -> None:
        """Act on a message of a peer."""
        raise NotImplementedError

    # Opening and closing

    def connection_opened(
        self, conn: ConnId, addr: Address, leaf_sha256: bytes, now: float, tls_identity: Identity | None = None
    ) -> None:
        """A handshake with ALPN `ztna-v2` is complete.

        Args:
            leaf_sha256: of the certificate that we showed on this connection.
            tls_identity: of the client certificate, if one was sent: the proof must name the same.
        """
        if conn in self._connections:
            return
        if len(self._unproven) >= self._limits.unproven:
            # The oldest has had the longest chance; an honest proof needs one round trip.
            self.stats.proofs_late += 1
            self._close(next(iter(self._unproven.values())), "not-proven: too many connections", now)
        nonce = self._random(NONCE_BYTES)
        connection = Connection(conn, addr, nonce, leaf_sha256, tls_identity, self._limits)
        connection.deadline = now + self._limits.proof_s
        self._connections[conn] = self._unproven[conn] = connection
        self.stats.challenges_sent += 1
        self._relay.command(SendStream(conn, CHALLENGE_STREAM, encode_frame(Challenge(nonce, CAPABILITIES))))

    def address_changed(self, conn: ConnId, addr: Address, now: float) -> None:
        """The connection migrated to a validated new path (RFC 9000 s9)."""
        connection = self._connections.get(conn)
        if connection is not None:
            connection.address = addr
            if connection.peer is not None:
                self._relay.address_changed(conn, addr, now)

    def connection_closed(self, conn: ConnId, now: float) -> None:
        """The connection is gone or closing; nothing of it acts any more."""
        connection = self._connections.get(conn)
        if connection is not None:
            self._forget(connection, now)

    def early_datagram(self, conn: ConnId, now: float) -> bool:
        """A DATAGRAM came before the proof: close, as for every other first thing that is not Hello."""
        connection = self._connections.get(conn)
        if connection is None:
            return False
        self.stats.drop_before_proof += 1
        self._close(connection, "not-proven: a DATAGRAM before Hello", now)
        return True

    def _proved(self, connection: Connection, peer: Peer, max_frame_bytes: int) -> None:
        """From now on the connection is this peer."""
        del self._unproven[connection.conn]
        connection.peer = peer
        connection.nonce = b""
        connection.reader.max_frame_bytes = max_frame_bytes

    def _close(self, connection: Connection, reason: str, now: float) -> None:
        self._forget(connection, now)
        self._relay.command(CloseConnection(connection.conn, CLOSE_REFUSED, reason[:256]))
        self._relay.note("info", "control connection ended", conn=connection.conn, reason=reason)

    def _forget(self, connection: Connection, now: float) -> None:
        if self._connections.pop(connection.conn, None) is None:
            return
        self._unproven.pop(connection.conn, None)
        self._frame_deadlines.pop(connection.conn, None)
        self._buffered_bytes -= connection.reader.buffered_bytes
        peer, connection.peer = connection.peer, None
        if peer is not None:
            self._relay.connection_closed(connection.conn, now)

    # Frames

    def stream_received(self, conn: ConnId, stream_id: int, data: bytes, fin: bool, now: float) -> None:
        """Bytes of a stream arrived in order; whatever they hold, nothing is raised."""
        connection = self._connections.get(conn)
        if connection is None:
            return
        if stream_id != CONTROL_STREAM:
            if connection.peer is None:
                self.stats.drop_before_proof += 1
                self._close(connection, "not-proven: another stream first", now)
            elif stream_id == CHALLENGE_STREAM:
                self.stats.drop_stream += 1
            else:
                # Signalling of `ztna-v1`: agents of that protocol ask connectors of this one for candidates.
                self._relay.stream_received(conn, stream_id, data, fin, now)
            return
        reader = connection.reader
        held = reader.buffered_bytes
        bodies = reader.receive(data)
        self._buffered_bytes += reader.buffered_bytes - held
        for body in bodies:
            self._body(connection, body, now)
            if conn not in self._connections:
                return
        if reader.broken or fin:
            self.stats.drop_frame += reader.broken
            self._close(connection, "malformed: frame too large" if reader.broken else "control stream ended", now)
            return
        if bodies or not reader.buffered_bytes:
            self._frame_deadlines.pop(conn, None)
        if reader.buffered_bytes:
            self._hold(connection, now)

    def _hold(self, connection: Connection, now: float) -> None:
        """Keep an incomplete frame, within time and memory."""
        self._frame_deadlines.setdefault(connection.conn, now + self._limits.control_frame_s)
        too_much = self._buffered_bytes > self._limits.control_buffer_bytes
        if too_much and connection.reader.buffered_bytes > SMALL_BUFFER_BYTES:
            self.stats.drop_frame += 1
            self._close(connection, "limit: too many incomplete frames", now)

    def _body(self, connection: Connection, body: bytes, now: float) -> None:
        if connection.peer is None:
            self._first_body(connection, body, now)
            return
        if not connection.bucket.take(now):
            self.stats.drop_rate += 1
            if not connection.limited:
                connection.limited = True
                self._error(connection, Error("limit", "too many messages"))
            return
        connection.limited = False
        self.stats.messages_received += 1
        try:
            message = decode(body)
        except UnknownMessageError as error:
            self.stats.drop_unknown += 1
            self._error(connection, Error("unknown-message", str(error), about=error.kind))
        except WireError as error:
            self.stats.drop_malformed += 1
            connection.malformed += 1
            if connection.malformed > self._limits.control_malformed:
                self._close(connection, "malformed: too many broken messages", now)
            else:
                self._error(connection, Error("malformed", str(error)[:256]))
        else:
            self._act(connection, connection.peer, message, now)

    def _first_body(self, connection: Connection, body: bytes, now: float) -> None:
        """Take a Hello and nothing else."""
        try:
            hello = decode(body)
        except WireError:
            hello = None
        if isinstance(hello, Hello):
            self._hello(connection, hello, now)
            return
        self.stats.drop_before_proof += 1
        self._close(connection, "not-proven: the first message must be Hello", now)

    # Time and output

    def get_timer(self) -> float | None:
        """Return when `handle_timer` is due (monotonic seconds), None if nothing waits."""
        due = [connection.deadline for connection in islice(self._unproven.values(), 1)]
        due += islice(self._frame_deadlines.values(), 1)
        return min(due, default=None)

    def handle_timer(self, now: float) -> None:
        """Close what did not prove itself in time, or does not finish a frame."""
        while self._unproven and (first := next(iter(self._unproven.values()))).deadline <= now:
            self.stats.proofs_late += 1
            self._close(first, "not-proven: no Hello in time", now)
        while self._frame_deadlines:
            conn, deadline = next(iter(self._frame_deadlines.items()))
            if deadline > now:
                break
            self.stats.drop_frame += 1
            self._close(self._connections[conn], "malformed: a frame stayed incomplete", now)

    def _send(self, conn: ConnId, message: ControlMessage) -> None:
        self._relay.command(SendStream(conn, CONTROL_STREAM, encode_frame(message)))

    def _error(self, connection: Connection, error: Error) -> None:
        self.stats.errors_sent += 1
        self._send(connection.conn, error)
