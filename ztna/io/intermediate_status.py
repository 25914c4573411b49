"""What an intermediate shows of itself on /status and /metrics."""

import os
from typing import TYPE_CHECKING, Any

from ztna.io.metrics import Sample, counters_of
from ztna.io.runtime import version

if TYPE_CHECKING:
    from ztna.io.intermediate import IntermediateServer

__all__ = ["samples_of", "status_of"]


def status_of(server: "IntermediateServer") -> dict[str, Any]:
    """What /status shows, but for the state."""
    services = server.core.services()
    return {
        "role": "intermediate",
        "name": server.config.name,
        "listen": list(server.udp.local_address),
        "connections": server.endpoint.established_count,
        "half_open": server.endpoint.half_open_count,
        "flows": server.core.flows,
        "sessions": server.core.sessions,
        "unproven": server.control.unproven,
        "brokered": server.control.sessions(server.now()),
        "relay": server.relay.status(),
        "services": {name: {"connector": who, "agents": count} for name, (who, count) in services.items()},
        "counters": server.core.stats.as_dict(),
        "control": {name: value for name, value in server.control.stats.as_dict().items() if value},
        "drops": {
            "relay": server.core.stats.drops(),
            "control": {name: value for name, value in server.control.stats.drops().items() if value},
            "quic": _nonzero_drops(server.endpoint.counters),
            "udp": _nonzero_drops(server.udp.counters),
            "stun": _nonzero_drops(server.stun.counters),
            "kernel": {"receive_buffer_full": server.udp.kernel_drops},
        },
        "receive_buffer_bytes": server.udp.receive_buffer_bytes,
        "reloads": server.reloads,
        "reload_failures": server.reload_failures,
        "uptime_s": round(server.uptime_s, 3),
        "version": version(),
        "pid": os.getpid(),
    }


def samples_of(server: "IntermediateServer") -> list[Sample]:
    """What /metrics shows."""
    core, quic = server.core.stats, server.endpoint.counters
    relayed = core.datagrams_to_agents + core.datagrams_to_connectors
    return [
        Sample("ztna_active_connections", "Established connections", server.endpoint.established_count, "gauge"),
        Sample("ztna_uptime_seconds", "Seconds since start", server.uptime_s, "gauge"),
        Sample("ztna_relay_bytes_total", "Bytes relayed", core.bytes_to_agents + core.bytes_to_connectors),
        Sample("ztna_registrations_total", "Registrations accepted", core.registrations),
        Sample("ztna_registration_rejections_total", "Registrations refused", core.registrations_refused),
        Sample("ztna_datagrams_relayed_total", "DATAGRAM frames relayed", relayed),
        Sample("ztna_signaling_sessions_total", "Signalling sessions opened", core.sessions_opened),
        Sample("ztna_retry_tokens_validated", "Retry tokens accepted", quic.retry_tokens_validated, "unknown"),
        Sample("ztna_retry_token_failures", "Retry tokens refused", quic.retry_token_failures, "unknown"),
        Sample("ztna_half_open_connections", "Handshakes under way", server.endpoint.half_open_count, "gauge"),
        Sample("ztna_flows", "Flows with a way back", server.core.flows, "gauge"),
        Sample("ztna_reload_failures_total", "Reloads that kept the old state", server.reload_failures),
        Sample(
            "ztna_unproven_connections",
            "Connections that have not proved who they are",
            server.control.unproven,
            "gauge",
        ),
        Sample("ztna_sessions", "End-to-end sessions brokered", server.control.session_count, "gauge"),
        *counters_of("ztna_core", "Relay core", core),
        *server.relay.samples(),
        *counters_of("ztna_control", "Control plane of ztna-v2", server.control.stats),
        *counters_of("ztna_quic", "QUIC endpoint", quic),
        *counters_of("ztna_udp", "UDP socket", server.udp.counters),
        *counters_of("ztna_http", "HTTP endpoint", server.http.counters),
        *counters_of("ztna_stun", "STUN responder", server.stun.counters),
        Sample("ztna_udp_kernel_drops", "Datagrams the kernel dropped: receive buffer full", server.udp.kernel_drops),
    ]


def _nonzero_drops(counters: Any) -> dict[str, int]:
    names = [name for name in counters.__dataclass_fields__ if name.startswith("dropped_")]
    return {name.removeprefix("dropped_"): value for name in names if (value := getattr(counters, name))}
