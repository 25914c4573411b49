"""How large this connection's UDP payloads are: 1200 bytes, more once a padded probe was acknowledged (RFC 8899)."""

import math
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from aioquic import tls
from aioquic.quic.connection import END_STATES
from aioquic.quic.packet import QuicFrameType, QuicPacketType
from aioquic.quic.packet_builder import QuicDeliveryState, QuicPacketBuilder, QuicPacketBuilderStop

from ztna.io.quic_fast import FastConnection
from ztna.io.quic_parts import MIN_UDP_PAYLOAD, SizeAwareReno
from ztna.io.quic_types import ConnectionLimits, QuicCounters

BLACK_HOLE_LOSSES: Final = 4
BLACK_HOLE_S: Final = 0.25

_SHORT_HEADER_OVERHEAD: Final = 1 + 2 + 16 + 3
"""First byte, packet number, AEAD tag, DATAGRAM frame type and length; the peer's CID comes on top."""


class SizedConnection(FastConnection):
    """A connection whose UDP payloads follow what the path was seen to carry."""

    limits: ConnectionLimits
    datagrams_dropped_size: int
    _totals: QuicCounters
    _remote_max_udp_payload: int
    _probing_size: bool

    @property
    def is_ended(self) -> bool:
        """Closing, draining or terminated: nothing of this connection may act any more."""
        return self._close_pending or self._close_event is not None or self._state in END_STATES

    @property
    def max_datagram_payload(self) -> int:
        """Largest DATAGRAM payload in bytes that fits one packet to this peer now; 0 if the peer takes none."""
        frame_limit = self._remote_max_datagram_frame_size or 0
        packet = min(self._max_datagram_size, self._remote_max_udp_payload)
        fits = packet - _SHORT_HEADER_OVERHEAD - len(self._peer_cid.cid)
        return max(0, min(fits, frame_limit - 3))

    @property
    def _congestion(self) -> SizeAwareReno:
        assert isinstance(self._loss._cc, SizeAwareReno)
        return self._loss._cc

    @property
    def black_hole_at(self) -> float:
        """When to conclude that the path swallows large packets unless one passes before; mostly infinity."""
        congestion = self._congestion
        if congestion.large_lost < BLACK_HOLE_LOSSES or not congestion.small_passed:
            return math.inf
        return congestion.large_lost_since + BLACK_HOLE_S

    @property
    def udp_payload_bytes(self) -> int:
        """Largest UDP payload this connection sends now."""
        return self._max_datagram_size

    def wants_size_probe(self) -> bool:
        """Whether a larger UDP payload than the current one is allowed and not being tried already."""
        target = min(self.limits.max_udp_payload_bytes, self._remote_max_udp_payload)
        idle = self._handshake_confirmed and not self._probing_size and not self.is_ended
        return idle and self._max_datagram_size < target

    def size_probe(self, now: float, on_result: Callable[[bool], None]) -> list[tuple[bytes, Any]]:
        """Build a PING padded to the wanted size; `on_result(True)` when it is acknowledged (RFC 8899 s4.1)."""
        target = min(self.limits.max_udp_payload_bytes, self._remote_max_udp_payload)
        path = self._network_paths[0]
        if not path.is_validated:
            return []
        builder = QuicPacketBuilder(
            host_cid=self.host_cid,
            is_client=self._is_client,
            max_datagram_size=target,
            packet_number=self._packet_number,
            peer_cid=self._peer_cid.cid,
            spin_bit=self._spin_bit,
            version=self._version or 1,
        )
        try:
            builder.start_packet(QuicPacketType.ONE_RTT, self._cryptos[tls.Epoch.ONE_RTT])
            handler = partial(self._on_size_probe, target=target, on_result=on_result)
            buf = builder.start_frame(QuicFrameType.PING, capacity=1, handler=handler)
            buf.push_bytes(bytes(builder.remaining_buffer_space))
        except QuicPacketBuilderStop:
            return []
        self._probing_size = True
        return self._flush_builder(builder=builder, network_path=path, peer_cid=self._peer_cid.cid, now=now)

    def _on_size_probe(self, delivery: QuicDeliveryState, *, target: int, on_result: Callable[[bool], None]) -> None:
        self._probing_size = False
        acknowledged = delivery == QuicDeliveryState.ACKED
        if acknowledged:
            self._set_udp_payload(target)
        on_result(acknowledged)

    def shrink_udp_payload(self) -> bool:
        """Fall back to 1200 bytes after a suspected black hole, dropping queued DATAGRAMs too large for that."""
        if self._max_datagram_size <= MIN_UDP_PAYLOAD:
            return False
        self._set_udp_payload(MIN_UDP_PAYLOAD)
        limit = self.max_datagram_payload
        kept = deque(data for data in self._datagrams_pending if len(data) <= limit)
        dropped = len(self._datagrams_pending) - len(kept)
        self.datagrams_dropped_size += dropped
        self._totals.dropped_frame_size += dropped
        self._datagrams_pending = kept
        return True

    def _set_udp_payload(self, size: int) -> None:
        self._max_datagram_size = size
        self._loss._pacer._max_datagram_size = size
        self._congestion.set_payload(size)
