"""TCP through the gateway: each connection of an agent ends here and a backend connection continues it.

    SYN -> OpenTcp -> tcp_connected -> SYN-ACK -> data both ways, each direction ending by itself -> CloseTcp

The agent's handshake waits for the backend's, so that a refused backend is a refused connection. Data the backend has
not taken yet closes the agent's window; data the agent has not acknowledged pauses reading from the backend.
"""

from typing import Final

from ztna.proto.gateway_context import GatewayContext, refuse_segment, send_mss
from ztna.proto.gateway_types import LEGACY_AGENT_BUDGET_BYTES, Backend, GatewayService, OpenTcp
from ztna.proto.ratelimit import SourceLimiter
from ztna.proto.tcp import TcpEndpoint
from ztna.proto.tcp_segment import ACK, HEADERS_BYTES, Segment
from ztna.proto.tcp_table import SessionKey, TcpTable
from ztna.proto.tcp_types import TcpSettings

__all__ = ["TcpAdmission"]

# The TUN of agents in the field has this MTU although their DATAGRAMs carry less; a SYN with this MSS may be theirs.
_LEGACY_TUN_MSS: Final = 1240


class TcpAdmission:
    """Opens sessions for agents' SYNs, within the limits."""

    __slots__ = ("_context", "_syn_limiter", "_table")

    def __init__(self, context: GatewayContext, table: TcpTable) -> None:
        limits = context.limits
        self._context = context
        self._table = table
        self._syn_limiter = SourceLimiter(
            limits.syn_rate_per_source, limits.syn_burst_per_source, max_sources=limits.sources
        )

    def open(self, key: SessionKey, syn: Segment, service: GatewayService, backend: Backend, now: float) -> None:
        """Start a session for a SYN: the backend first, the agent's handshake when it accepted."""
        context, table = self._context, self._table
        limits, stats = context.limits, context.stats
        if syn.flags & ACK:
            stats.dropped_no_session += 1
            refuse_segment(context, key, syn, now)
            return
        if not self._syn_limiter.allow(str(key[0]), now):
            stats.dropped_syn_rate += 1
            return
        share_full = table.of_peer(key[0]) >= limits.tcp_sessions_per_source
        if share_full or (len(table) >= limits.tcp_sessions and not self._evict(now)):
            stats.dropped_session_limit += 1
            refuse_segment(context, key, syn, now)
            return
        settings = self._settings(service, syn)
        initial_sequence = int.from_bytes(context.random(4), "big")
        endpoint = TcpEndpoint.listen(settings, initial_sequence, syn, now, hold_s=limits.tcp_connect_s)
        session = table.add(key, endpoint, backend)
        context.commands.append(OpenTcp(session.id, backend))

    def _settings(self, service: GatewayService, syn: Segment) -> TcpSettings:
        limits = self._context.limits
        announced = self._context.budget_bytes - HEADERS_BYTES
        if syn.options.mss in (None, _LEGACY_TUN_MSS):
            legacy = LEGACY_AGENT_BUDGET_BYTES - 2 - len(service.id.encode()) - HEADERS_BYTES
            announced = min(announced, legacy)
        buffer_bytes = self._context.tcp_buffer_share(len(self._table))
        return TcpSettings(
            send_mss=send_mss(self._context.budget_bytes),
            announced_mss=announced,
            receive_buffer_bytes=buffer_bytes,
            send_buffer_bytes=buffer_bytes,
            idle_s=limits.tcp_idle_s,
        )

    def _evict(self, now: float) -> bool:
        """Drop the session that matters least: one closed by both sides, or the one silent the longest."""
        table = self._table
        waiting = next((s for s in table.sessions if s.endpoint.in_time_wait), None)
        if waiting is not None:
            table.drop(waiting)
        else:
            session = min(table.sessions, key=lambda s: s.endpoint.last_activity)
            if now - session.endpoint.last_activity < self._context.limits.evict_after_s:
                return False
            session.endpoint.abort()
            table.flush(session, now)
        self._context.stats.tcp_sessions_evicted += 1
        return True
