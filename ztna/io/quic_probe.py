"""How large UDP payloads may be: probe upwards once connected, fall back when the path swallows large packets.

A padded PING of the wanted size is sent when the handshake is confirmed; only its acknowledgement raises the size
(RFC 8899 s4.1). Large packets lost in a row look like a black hole (s4.3): the size falls to 1200, which always passes,
and is probed again, ever more rarely.
"""

import math
from collections.abc import Callable
from typing import Final

from ztna.io.quic_peer import Peer
from ztna.io.quic_types import PayloadLimit, PeerEvent, QuicCounters
from ztna.io.udp import Datagram

RETRY_S: Final = (0.5, 2.0, 10.0, 60.0)


class SizeProber:
    """Keeps `Peer.probe_at` and the sizes of all connections of an endpoint."""

    def __init__(
        self, counters: QuicCounters, clock: Callable[[], float], deliver: Callable[[Peer, PeerEvent], None]
    ) -> None:
        self._counters = counters
        self._clock = clock
        self._deliver = deliver

    def probe(self, peer: Peer, now: float) -> list[Datagram]:
        """The packets of a probe that is due."""
        peer.probe_at = math.inf
        connection = peer.connection
        if not connection.wants_size_probe():
            return []
        return connection.size_probe(now, lambda acknowledged: self._settled(peer, acknowledged))

    def suspect_black_hole(self, peer: Peer, now: float) -> None:
        """Shrink if for a while only small packets passed."""
        connection = peer.connection
        if not peer.established or peer.closed or now < connection.black_hole_at:
            return
        if connection.shrink_udp_payload():
            self._counters.payload_shrunk += 1
            peer.probe_at = now + RETRY_S[0]
            self._deliver(peer, PayloadLimit(connection.max_datagram_payload))

    def _settled(self, peer: Peer, acknowledged: bool) -> None:
        if acknowledged:
            self._counters.size_probes_acknowledged += 1
            peer.probes_failed = 0
            if not peer.closed:
                self._deliver(peer, PayloadLimit(peer.max_datagram_payload))
            return
        self._counters.size_probes_lost += 1
        delay = RETRY_S[min(peer.probes_failed, len(RETRY_S) - 1)]
        peer.probes_failed += 1
        peer.probe_at = self._clock() + delay
