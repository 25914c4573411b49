"""Signalling streams of `ztna-v1` at the intermediate: bytes of any stream become messages, within bounds.

A reader exists only while its stream holds an incomplete frame, and each frame has a deadline.

A connector of `ztna-v2` may be asked for its candidates by an agent of `ztna-v1`. Its first two streams are taken by
the control connection, so there the same frames travel on the next ones.
"""

from collections.abc import Callable
from itertools import islice
from typing import Final

from ztna.proto.commands import ConnId
from ztna.proto.limits import IntermediateLimits
from ztna.proto.registry import Peer
from ztna.proto.signalling import FrameReader, SignallingMessage
from ztna.proto.stats import IntermediateStats

__all__ = ["CLIENT_STREAM", "SERVER_STREAM", "V2_CLIENT_STREAM", "V2_SERVER_STREAM", "SignallingStreams"]

CLIENT_STREAM: Final = 0
SERVER_STREAM: Final = 1
V2_CLIENT_STREAM: Final = 4
V2_SERVER_STREAM: Final = 5
UNIDIRECTIONAL: Final = 0x02  # RFC 9000 s2.1


class SignallingStreams:
    """Incomplete frames of all connections; whole messages go to `deliver`."""

    __slots__ = ("_deadlines", "_deliver", "_limits", "_peers", "_stats")

    def __init__(
        self,
        peers: dict[ConnId, Peer],
        limits: IntermediateLimits,
        stats: IntermediateStats,
        deliver: Callable[[Peer, SignallingMessage, float], None],
    ) -> None:
        self._peers = peers
        self._limits = limits
        self._stats = stats
        self._deliver = deliver
        # (connection, stream) -> when its incomplete frame is given up, in that order.
        self._deadlines: dict[tuple[ConnId, int], float] = {}

    def receive(self, peer: Peer, stream_id: int, data: bytes, fin: bool, now: float) -> None:
        """Bytes of a stream arrived in order; `fin` ends the stream, and an incomplete frame with it."""
        if stream_id & UNIDIRECTIONAL:
            self._stats.drop_stream += 1
            return
        if stream_id == CLIENT_STREAM:
            peer.has_stream_zero = True
        reader = peer.readers.get(stream_id)
        if reader is None:
            if (
                len(peer.readers) >= self._limits.streams_per_connection
                or len(self._deadlines) >= self._limits.incomplete_frames
            ):
                self._stats.drop_stream += 1
                return
            reader = FrameReader()
        bad_frames = reader.bad_frames
        messages = reader.receive(data)
        self._stats.drop_frame += reader.bad_frames - bad_frames
        progressed = bool(messages) or reader.bad_frames > bad_frames
        self._keep(peer, stream_id, reader, fin, progressed=progressed, now=now)
        for message in messages:
            if peer.conn in self._peers:
                self._deliver(peer, message, now)

    def _keep(
        self, peer: Peer, stream_id: int, reader: FrameReader, fin: bool, *, progressed: bool, now: float
    ) -> None:
        """Hold a reader only while it has an incomplete frame, and give each frame a deadline."""
        key = (peer.conn, stream_id)
        if fin or not reader.buffered_bytes:
            peer.readers.pop(stream_id, None)
            self._deadlines.pop(key, None)
        elif stream_id not in peer.readers or progressed:
            peer.readers[stream_id] = reader
            self._deadlines.pop(key, None)
            self._deadlines[key] = now + self._limits.frame_s

    def connection_closed(self, peer: Peer) -> None:
        """Forget the deadlines of a connection."""
        for stream_id in peer.readers:
            self._deadlines.pop((peer.conn, stream_id), None)

    def get_timer(self) -> float | None:
        """Return when `handle_timer` is due."""
        return next(islice(self._deadlines.values(), 1), None)

    def handle_timer(self, now: float) -> None:
        """Give up frames that took too long."""
        deadlines = self._deadlines
        while deadlines:
            (conn, stream_id), deadline = next(iter(deadlines.items()))
            if deadline > now:
                return
            del deadlines[conn, stream_id]
            del self._peers[conn].readers[stream_id]
            self._stats.drop_frame_timeout += 1
