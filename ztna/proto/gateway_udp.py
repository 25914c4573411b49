"""UDP through the gateway: one connected backend socket per flow.

A connected socket takes replies from its backend alone, so nobody else on the backend's host or network can inject one.
Replies leave from the address and port the agent wrote to. Both directions keep a flow alive (RFC 4787 s4.3).
"""

from collections import OrderedDict

from ztna.proto.gateway_context import GatewayContext
from ztna.proto.gateway_types import Backend, CloseUdp, OpenUdp, SendUdp, SocketError
from ztna.proto.packet import UNREACHABLE_HOST, UNREACHABLE_PORT, UdpDatagram

__all__ = ["UdpFlow", "UdpFlows"]

# Only a flow silent for this long gives way to a new one when the table is full.
_EVICT_AFTER_S = 2.0
_PROOF_INTERVAL_S = 1.0


class UdpFlow:
    """One UDP conversation: (source, source port, destination, destination port) and its backend."""

    __slots__ = ("active_at", "backend", "id", "key", "last_packet", "proved_at")

    def __init__(self, number: int, key: tuple[int, int, int, int], backend: Backend) -> None:
        self.id = number
        self.key = key
        self.backend = backend
        self.active_at = 0.0
        self.last_packet = b""
        self.proved_at = float("-inf")


class UdpFlows:
    """The table of flows, least recently active first."""

    __slots__ = ("_by_id", "_by_key", "_context", "_last_id", "_per_source")

    def __init__(self, context: GatewayContext) -> None:
        self._context = context
        self._by_key: OrderedDict[tuple[int, int, int, int], UdpFlow] = OrderedDict()
        self._by_id: dict[int, UdpFlow] = {}
        self._per_source: dict[int, int] = {}
        self._last_id = 0

    def __len__(self) -> int:
        return len(self._by_id)

    def find(self, key: tuple[int, int, int, int]) -> UdpFlow | None:
        """Return the flow of (source, source port, destination, destination port)."""
        return self._by_key.get(key)

    def backend_of(self, flow_id: int) -> Backend | None:
        """Return the backend of a flow."""
        flow = self._by_id.get(flow_id)
        return flow.backend if flow is not None else None

    def forward(self, flow: UdpFlow, data: bytes, packet: bytes, now: float) -> None:
        """Send what the agent wrote on the flow's socket; `packet` is kept for the error that may come back."""
        flow.active_at = now
        flow.last_packet = packet
        self._by_key.move_to_end(flow.key)
        self._context.commands.append(SendUdp(flow.id, data))

    def open(
        self, source: int, destination: int, datagram: UdpDatagram, backend: Backend, now: float
    ) -> UdpFlow | None:
        """Make a flow; None (and counted) if the table or the source's share of it is full."""
        limits, stats = self._context.limits, self._context.stats
        share = self._per_source.get(source, 0)
        share_full = share >= limits.udp_flows_per_source
        full = share_full or len(self._by_id) >= limits.udp_flows
        if full and not self._evict(source if share_full else None, now):
            stats.dropped_udp_flow_limit += 1
            return None
        self._last_id += 1
        key = (source, datagram.source_port, destination, datagram.destination_port)
        flow = UdpFlow(self._last_id, key, backend)
        self._by_key[key] = flow
        self._by_id[flow.id] = flow
        self._per_source[source] = self._per_source.get(source, 0) + 1
        stats.udp_flows_opened += 1
        self._context.commands.append(OpenUdp(flow.id, backend))
        return flow

    def _evict(self, source: int | None, now: float) -> bool:
        for flow in self._by_key.values():
            if now - flow.active_at < _EVICT_AFTER_S:
                return False
            if source is None or flow.key[0] == source:
                self._context.stats.udp_flows_evicted += 1
                self._close(flow)
                return True
        return False

    def _close(self, flow: UdpFlow) -> None:
        del self._by_key[flow.key]
        del self._by_id[flow.id]
        source = flow.key[0]
        left = self._per_source[source] - 1
        if left:
            self._per_source[source] = left
        else:
            del self._per_source[source]
        self._context.commands.append(CloseUdp(flow.id))

    def received(self, flow_id: int, data: bytes, now: float) -> Backend | None:
        """Carry a backend's datagram to the agent; now and then returns the backend, which it proves alive."""
        flow = self._by_id.get(flow_id)
        if flow is None:
            self._context.stats.dropped_udp_unknown_flow += 1
            return None
        flow.active_at = now
        self._by_key.move_to_end(flow.key)
        source, source_port, destination, destination_port = flow.key
        self._context.emit_udp(destination, destination_port, source, source_port, data)
        if now - flow.proved_at < _PROOF_INTERVAL_S:
            return None
        flow.proved_at = now
        return flow.backend

    def failed(self, flow_id: int, error: SocketError, now: float) -> None:
        """Tell the agent what the backend's host said, about the packet sent last."""
        flow = self._by_id.get(flow_id)
        if flow is None or not flow.last_packet:
            return
        code = UNREACHABLE_PORT if error is SocketError.REFUSED else UNREACHABLE_HOST
        self._context.refuse(flow.key[2], flow.last_packet, now, code)
        flow.last_packet = b""

    def get_timer(self) -> float | None:
        """Return when the oldest flow expires."""
        for flow in self._by_key.values():
            return flow.active_at + self._context.limits.udp_idle_s
        return None

    def handle_timer(self, now: float) -> None:
        """Close the flows that were silent too long."""
        while self._by_key:
            flow = next(iter(self._by_key.values()))
            if now < flow.active_at + self._context.limits.udp_idle_s:
                return
            self._context.stats.udp_flows_expired += 1
            self._close(flow)
