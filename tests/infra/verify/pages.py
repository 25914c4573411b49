"""Status pages of the three roles, as their contract has them."""

from typing import Any

SESSION = "00112233445566778899aabbccddeeff"
NAT = {"mapping": "endpoint-independent", "filtering": "address-and-port-dependent", "allocation": "preserving"}


def session(side: str = "agent", **changes: Any) -> dict[str, Any]:
    """One session as this side records it: direct, between two homes."""
    peer = "connector" if side == "agent" else "agent"
    address = {"agent": "172.20.0.21:40001", "connector": "172.20.0.22:40002"}
    return {
        "session": SESSION,
        "peer": f"spiffe://lab/{peer}/{peer}",
        "services": ["echo-service", "http-app"],
        "path": "direct",
        "peer_address": address[peer],
        "local_address": "0.0.0.0:50000",
        "reason": "check-succeeded",
        "since_s": 12.5,
        "rtt_ms": 1.25,
        "loss": 0.0,
        "switches": 1,
        "switch_log": [
            {"at": 1000.0, "from": "none", "to": "relay", "reason": "relay-ready"},
            {"at": 1000.25, "from": "relay", "to": "direct", "reason": "check-succeeded"},
        ],
        "nat": dict(NAT),
        "peer_nat": dict(NAT),
        "blocked_by": None,
        "evidence": "",
        "advice": "",
        "bytes": {"direct": {"sent": 1000, "received": 900}, "relay": {"sent": 100, "received": 90}},
        "path_counters": {"checks_sent": 12, "requests_answered": 3},
        "core": "aioquic",
        "state": "ready",
    } | changes


def client_page(side: str = "agent", *sessions: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The page of an agent or a connector that is well."""
    return {
        "role": side,
        "name": side,
        "state": "ready",
        "not_ready": None,
        "pid": 100,
        "uptime_s": 60.0,
        "observed_address": "172.20.0.21:40000",
        "services": [{"id": name, "state": "registered"} for name in ("echo-service", "http-app")],
        "sessions": list(sessions),
    } | changes


def relay_page(*, enabled: bool = True, **changes: Any) -> dict[str, Any]:
    """The page of an intermediate that carries SESSION."""
    entry = {
        "session": SESSION,
        "agent": "spiffe://lab/agent/agent",
        "connector": "spiffe://lab/connector/connector",
        "ready": True,
        "agent_address": "172.20.0.21:40001",
        "connector_address": "172.20.0.22:40002",
        "packets": {"agent_to_connector": 3, "connector_to_agent": 2},
        "bytes": {"agent_to_connector": 300, "connector_to_agent": 200},
        "idle_s": 0.5,
    } | changes
    relay = {"enabled": enabled, "backend": "kernel", "sessions": [entry]}
    return {"role": "intermediate", "name": "relay", "state": "ready", "uptime_s": 60.0, "relay": relay}
