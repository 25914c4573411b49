"""The endpoint's connections by connection ID, and delivery of their events behind an exception barrier."""

import itertools
from collections.abc import Callable

from ztna.io.quic_parts import CID_BYTES
from ztna.io.quic_peer import Peer
from ztna.io.quic_types import DatagramReceived, PeerEvent, QuicCounters


def ignore(*_: object) -> None:
    """The handler of who has none."""


class PeerTable:
    """Connections by number and by the connection IDs their packets carry; no operation looks at all of them."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._peers: dict[int, Peer] = {}
        self._by_cid: dict[bytes, Peer] = {}

    def __len__(self) -> int:
        return len(self._peers)

    def __contains__(self, peer: Peer) -> bool:
        return peer.conn_id in self._peers

    def next_id(self) -> int:
        """A number no connection of this endpoint ever had."""
        return next(self._ids)

    def peers(self) -> list[Peer]:
        """All connections, also those in their closing period."""
        return list(self._peers.values())

    @property
    def established_count(self) -> int:
        """Connections past their handshake and not closing."""
        return sum(1 for peer in self._peers.values() if peer.established and not peer.closed)

    def find(self, data: bytes) -> Peer | None:
        """The connection a packet is for: all our connection IDs have one length (RFC 9000 s17)."""
        if data[0] & 0x80:
            return self._by_cid.get(data[6 : 6 + data[5]]) if len(data) > 6 else None
        return self._by_cid.get(data[1 : 1 + CID_BYTES])

    def add(self, peer: Peer, cids: list[bytes]) -> Peer:
        """Enter a new connection."""
        peer.cids = cids
        self._peers[peer.conn_id] = peer
        for cid in cids:
            self._by_cid[cid] = peer
        return peer

    def issue_cid(self, peer: Peer, cid: bytes) -> None:
        """The peer may use another connection ID from now on."""
        if peer.conn_id in self._peers and cid not in peer.cids:
            peer.cids.append(cid)
            self._by_cid[cid] = peer

    def retire_cid(self, peer: Peer, cid: bytes) -> None:
        """The peer will not use that connection ID any more."""
        if cid in peer.cids:
            peer.cids.remove(cid)
            self._by_cid.pop(cid, None)

    def forget(self, peer: Peer) -> None:
        """Remove a connection and its connection IDs."""
        self._peers.pop(peer.conn_id, None)
        for cid in peer.cids:
            self._by_cid.pop(cid, None)
        peer.cids = []


class Delivery:
    """Calls the role's handlers; what they raise is counted and told to `on_problem`, and stops nothing."""

    __slots__ = ("_counters", "_on_batch_end", "_on_datagram", "_on_event", "_on_problem")

    def __init__(
        self,
        counters: QuicCounters,
        on_event: Callable[[Peer, PeerEvent], None],
        on_datagram: Callable[[Peer, bytes], None] | None,
        on_batch_end: Callable[[], None],
        on_problem: Callable[[str, Exception], None],
    ) -> None:
        self._counters = counters
        self._on_event = on_event
        self._on_datagram = on_datagram
        self._on_batch_end = on_batch_end
        self._on_problem = on_problem

    def event(self, peer: Peer, event: PeerEvent) -> None:
        """Deliver one event."""
        try:
            self._on_event(peer, event)
        except Exception as exc:
            self._failed("event handler", exc)

    def datagram(self, peer: Peer, data: bytes) -> None:
        """Deliver one DATAGRAM, on the short way if the role has one."""
        try:
            if self._on_datagram is not None:
                self._on_datagram(peer, data)
            else:
                self._on_event(peer, DatagramReceived(data))
        except Exception as exc:
            self._failed("datagram handler", exc)

    def batch_end(self) -> None:
        """Tell that a batch is over."""
        try:
            self._on_batch_end()
        except Exception as exc:
            self._failed("batch end", exc)

    def problem(self, where: str, exc: Exception) -> None:
        """Report what went wrong, for the log."""
        try:
            self._on_problem(where, exc)
        except Exception:
            self._counters.handler_errors += 1

    def _failed(self, where: str, exc: Exception) -> None:
        self._counters.handler_errors += 1
        self.problem(where, exc)
