"""Streams of a session above QUIC's own flow control: what the application has not consumed bounds what the peer sends.

qh3's native core opens its receive windows when data leaves it, not when the application has taken it, and offers no
other way; so back-pressure is said in-band, the same for both cores. Each side has one unidirectional stream, its
first, for records of 16 bytes: stream id and the offset up to which the peer may send on it, both u64, big-endian;
offsets only grow. A stream starts with INITIAL_CREDIT and needs no record before half of that was consumed. Who sends
beyond its credit is closed with FLOW_CONTROL_ERROR, as RFC 9000 s4.1 has it for MAX_STREAM_DATA.
"""

import struct
from collections import deque
from typing import Final, Protocol

from ztna.io.session.core import CoreStats, SessionLimits

INITIAL_CREDIT: Final = 65_536
RECORD: Final = struct.Struct("!QQ")
OVERRUN: Final = 4
UNIDIRECTIONAL: Final = 0x02


class Engine(Protocol):
    """What the streams need of the QUIC implementation beneath."""

    def push(self, stream_id: int, data: bytes, fin: bool) -> bool:
        """Give data to a stream's send buffer; False if the stream takes none any more."""
        ...

    def unsent(self, stream_id: int) -> int:
        """Bytes given that were not sent yet."""
        ...

    def open(self, unidirectional: bool) -> int:
        """Open a stream of ours; its id, or -1 if the peer allows no more."""
        ...


class CreditViolation(Exception):
    """The peer sent more on a stream than it was allowed, or what no credit record is."""


class _Stream:
    """Both directions of one stream."""

    __slots__ = (
        "blocked",
        "consumed",
        "credit",
        "dead",
        "fin",
        "given",
        "granted",
        "granted_at",
        "held",
        "held_bytes",
        "received",
        "receiving",
        "sending",
        "window",
    )

    def __init__(self) -> None:
        self.sending = True
        self.receiving = True
        self.dead = False
        self.held: deque[bytes] = deque()
        self.held_bytes = 0
        self.fin = False
        self.given = 0
        self.credit = INITIAL_CREDIT
        self.blocked = False
        self.received = 0
        self.consumed = 0
        self.granted = INITIAL_CREDIT
        self.granted_at = 0.0
        self.window = INITIAL_CREDIT


class SessionStreams:
    """Send buffers, credit and back-pressure of one connection's streams."""

    def __init__(self, engine: Engine, limits: SessionLimits, stats: CoreStats, *, is_client: bool) -> None:
        self._engine = engine
        self._limits = limits
        self._stats = stats
        self._streams: dict[int, _Stream] = {}
        self._waiting: set[int] = set()
        self._blocked: set[int] = set()
        self._grants: dict[int, int] = {}
        self._peer_records = (0 if not is_client else 1) | UNIDIRECTIONAL
        self._own_records = -1
        self._tail = b""

    def __len__(self) -> int:
        return len(self._streams)

    # sending

    def open(self) -> int:
        """Open a bidirectional stream; -1 if the peer allows no more now."""
        stream_id = self._engine.open(False)
        if stream_id >= 0:
            self._streams[stream_id] = _Stream()
        return stream_id

    def write(self, stream_id: int, data: bytes, fin: bool) -> None:
        """See `SessionCore.write`."""
        stream = self._streams.get(stream_id)
        if stream is None or not stream.sending or stream.fin:
            self._stats.stream_bytes_refused += len(data)
            return
        size = len(data)
        if not stream.held and stream.given + size <= stream.credit:
            stream.fin = fin
            self._give(stream_id, stream, data, fin)
            return
        if stream.held_bytes + size > OVERRUN * self._limits.stream_send_bytes:
            raise BufferError(f"stream {stream_id}: written beyond {OVERRUN} times what writable() allows")
        if size:
            stream.held.append(data)
            stream.held_bytes += size
        stream.fin = fin
        self._waiting.add(stream_id)
        self._pump(stream_id, stream)

    def writable(self, stream_id: int) -> int:
        """See `SessionCore.writable`."""
        stream = self._streams.get(stream_id)
        if stream is None or not stream.sending or stream.fin:
            return 0
        room = self._room(stream_id, stream)
        if room <= 0:
            stream.blocked = True
            self._blocked.add(stream_id)
            return 0
        return room

    def _room(self, stream_id: int, stream: _Stream) -> int:
        return self._limits.stream_send_bytes - stream.held_bytes - self._engine.unsent(stream_id)

    def _give(self, stream_id: int, stream: _Stream, data: bytes, fin: bool) -> None:
        if not self._engine.push(stream_id, data, fin):
            self._stats.stream_bytes_refused += len(data)
            self._stop_sending(stream_id, stream)
            return
        stream.given += len(data)
        self._stats.stream_bytes_sent += len(data)
        if fin:
            self._stop_sending(stream_id, stream)

    def _pump(self, stream_id: int, stream: _Stream) -> None:
        held = stream.held
        while held and stream.sending:
            allowed = stream.credit - stream.given
            if allowed <= 0:
                return
            data = held.popleft()
            if len(data) > allowed:
                held.appendleft(data[allowed:])
                data = data[:allowed]
            stream.held_bytes -= len(data)
            self._give(stream_id, stream, data, stream.fin and not held)
        if stream.sending and stream.fin:
            self._give(stream_id, stream, b"", True)
        self._waiting.discard(stream_id)

    def _stop_sending(self, stream_id: int, stream: _Stream) -> None:
        stream.sending = False
        stream.held.clear()
        stream.held_bytes = 0
        self._waiting.discard(stream_id)
        self._blocked.discard(stream_id)
        self._drop_if_over(stream_id, stream)

    def _drop_if_over(self, stream_id: int, stream: _Stream) -> None:
        if not stream.sending and not stream.receiving:
            self._streams.pop(stream_id, None)
            self._grants.pop(stream_id, None)

    def became_writable(self) -> list[int]:
        """Streams that had no room and have half of it again, each once."""
        if not self._blocked:
            return []
        enough = self._limits.stream_send_bytes // 2
        found = [each for each in self._blocked if self._room(each, self._streams[each]) >= enough]
        for stream_id in found:
            self._blocked.discard(stream_id)
            self._streams[stream_id].blocked = False
        return found

    # receiving

    def received(self, stream_id: int, data: bytes, fin: bool) -> bool:
        """Account for in-order data; False if it is not for the application: credit records, or of a stream it left.

        Raises:
            CreditViolation: the peer must be closed.
        """
        if stream_id & UNIDIRECTIONAL:
            self._records(stream_id, data, fin)
            return False
        stream = self._streams.get(stream_id)
        if stream is None:
            stream = self._streams[stream_id] = _Stream()
        stream.received += len(data)
        self._stats.stream_bytes_received += len(data)
        if stream.received > stream.granted:
            self._stats.credit_violations += 1
            raise CreditViolation(f"stream {stream_id}: beyond its credit")
        if fin:
            stream.receiving = False
            self._drop_if_over(stream_id, stream)
        return not stream.dead

    def consumed(self, stream_id: int, count: int, now: float, rtt_s: float) -> None:
        """The application took bytes: let the peer send as many more, and more still if the window limited it."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        stream.consumed = min(stream.received, stream.consumed + count)
        if not stream.receiving or stream.dead:
            return
        if stream.consumed + stream.window - stream.granted < stream.window // 2:
            return
        if now - stream.granted_at < 2 * rtt_s:
            stream.window = min(2 * stream.window, self._limits.stream_window_bytes)
        stream.granted_at = now
        stream.granted = stream.consumed + stream.window
        self._grants[stream_id] = stream.granted

    def granted(self, stream_id: int) -> int:
        """Offset up to which the peer may send on a stream."""
        stream = self._streams.get(stream_id)
        return stream.granted if stream is not None else INITIAL_CREDIT

    def was_reset(self, stream_id: int) -> bool:
        """The peer abandoned its direction; False if that is no news to the application."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return False
        stream.receiving = False
        self._drop_if_over(stream_id, stream)
        return not stream.dead

    def was_stopped(self, stream_id: int) -> bool:
        """The peer reads no more of what we send; False if the stream is not known any more."""
        stream = self._streams.get(stream_id)
        if stream is None or not stream.sending:
            return False
        self._stop_sending(stream_id, stream)
        return True

    def forget(self, stream_id: int) -> bool:
        """We abandon the stream. It is remembered until the peer ends its direction: what is under way counts."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return False
        stream.dead = True
        if stream.sending:
            self._stop_sending(stream_id, stream)
        return True

    # credit records

    @property
    def has_grants(self) -> bool:
        """Whether the peer is to be told of more credit."""
        return bool(self._grants)

    def flush_grants(self) -> None:
        """Write the credit that was opened since the last call; call before packets are built."""
        if not self._grants:
            return
        if self._own_records < 0:
            self._own_records = self._engine.open(True)
            if self._own_records < 0:
                return
        records = b"".join(RECORD.pack(*grant) for grant in self._grants.items())
        if self._engine.push(self._own_records, records, False):
            self._grants.clear()

    def _records(self, stream_id: int, data: bytes, fin: bool) -> None:
        if stream_id != self._peer_records or fin:
            raise CreditViolation(f"stream {stream_id} is none of credit records")
        data = self._tail + data
        whole = len(data) - len(data) % RECORD.size
        self._tail = data[whole:]
        for stream_id, credit in RECORD.iter_unpack(data[:whole]):
            stream = self._streams.get(stream_id)
            if stream is not None and credit > stream.credit:
                stream.credit = credit
                if stream_id in self._waiting:
                    self._pump(stream_id, stream)
