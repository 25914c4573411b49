"""The list of checks, in the order in which they run; disruptive ones stand last."""

from infra.verify import checks_control, checks_recovery, checks_refusal, checks_traffic, measure
from infra.verify.model import Check

CHECKS: tuple[Check, ...] = (
    Check("connector-registered", "Connector registered", checks_control.connector_registered),
    Check("agent-registered", "Agent registered", checks_control.agent_registered),
    Check("agent-observed", "Observed address of the agent", checks_control.agent_observed),
    Check("connector-observed", "Observed address of the connector", checks_control.connector_observed),
    Check("agent-ports", "Port consistency of the agent", checks_control.agent_ports),
    Check("connector-ports", "Port consistency of the connector", checks_control.connector_ports),
    Check("agent-nat", "NAT in front of the agent", checks_control.agent_nat, needs_path=False),
    Check("connector-nat", "NAT in front of the connector", checks_control.connector_nat, needs_path=False),
    Check("path", "Path as expected", checks_traffic.path, needs_path=False),
    Check("udp-echo", "UDP echo, 1 to 1200 bytes", checks_traffic.udp_echo),
    Check("tcp-echo", "TCP echo, 1 MB with half-close", checks_traffic.tcp_echo),
    Check("ping", "ICMP echo", checks_traffic.ping),
    Check("http-get", "HTTP GET /get", checks_traffic.http_get),
    Check("http-delay", "HTTP GET /delay/1", checks_traffic.http_delay),
    Check("http-post", "HTTP POST /post", checks_traffic.http_post),
    Check("http-body", "HTTP body, SHA-256 both ways", checks_traffic.http_body),
    Check("latency", "Latency beside untunnelled", measure.latency),
    Check("throughput", "Throughput beside untunnelled", measure.throughput),
    Check("unknown-service", "Unknown service refused", checks_refusal.unknown_service),
    Check("unknown-address", "Unknown address unanswered", checks_refusal.unknown_address),
    Check("foreign-connector", "Second connector refused", checks_refusal.foreign_connector, disruptive=True),
    Check("relay-restart", "Relay killed and restarted", checks_recovery.relay_restart, disruptive=True),
)


def select(only: tuple[str, ...]) -> tuple[Check, ...]:
    """The checks with these ids in running order, all for none given. Raises ValueError naming unknown ids."""
    known = {check.id for check in CHECKS}
    unknown = [name for name in only if name not in known]
    if unknown:
        raise ValueError(f"no check {', '.join(unknown)}; there are: {', '.join(check.id for check in CHECKS)}")
    return tuple(check for check in CHECKS if not only or check.id in only)
