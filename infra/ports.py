"""Port numbers that several modules must agree on, each with its source.

UDP 4433 is the port the peers already in the field dial by default; 4434 is the one next to it, which RFC 5780
section 7 asks a STUN server to answer from as its alternate port.
"""

from typing import Final

QUIC: Final = 4433
"""UDP: QUIC and STUN of the intermediate."""

STUN_ALTERNATE: Final = 4434
"""UDP: the intermediate's alternate STUN port (RFC 5780 section 6)."""

CONNECTOR_UDP: Final = 4434
"""UDP: the connector's one socket, as deployed peers have it."""

METRICS: Final[dict[str, int]] = {"intermediate": 9090, "connector": 9091, "agent": 9092}
"""TCP on loopback: /healthz, /readyz, /metrics and /status of each role."""

ECHO: Final = 9999
"""UDP and TCP: the echo service, on the backend and on its virtual address alike."""

HTTP: Final = 80
"""TCP: http-app on its virtual address (RFC 9110 section 4.2.1)."""

HTTPBIN: Final = 8080
"""TCP: httpbin on the backend; above 1024, so that it needs no privilege."""

DNS: Final = 5353
"""UDP: the agent's resolver for `SERVICE.ztna`, above 1024 for the agent without root."""
