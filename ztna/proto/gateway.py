"""The connector's packet gateway: IP packets of agents on one side, backend sockets on the other, without root or TUN."""

from collections.abc import Callable, Sequence

from ztna.proto.gateway_types import (
    Backend,
    Command,
    GatewayLimits,
    GatewayService,
    GatewayStats,
    SocketError,
)

__all__ = ["Gateway"]


class Gateway:
    """Serves the services of one connector; see `gateway_types` for the commands it gives.

    Call an input method, then take `next_command()` until it is None, after each batch rather than after each packet:
    acknowledgments and data are merged when the commands are taken.

    Args:
        services: what is served; with a `virtual_ip` of None there may be only one.
        budget_bytes: the largest IP packet that fits one DATAGRAM towards the relay.
        limits: bounds of tables and times.
        random: `random(n)` returns n unpredictable bytes (initial sequence numbers: RFC 9293 s3.4.1).

    Raises:
        ValueError: two services share a virtual IP, or a service has neither backend nor ports.
    """

    def __init__(
        self,
        services: Sequence[GatewayService],
        *,
        budget_bytes: int,
        random: Callable[[int], bytes],
        limits: GatewayLimits | None = None,
    ) -> None:
        self.limits = limits or GatewayLimits()
        self.stats = GatewayStats()
        self._random = random
        self.set_budget(budget_bytes)

    def set_budget(self, budget_bytes: int) -> None:
        """Set the largest IP packet that fits one DATAGRAM; called again when the path's limit changes."""
        self._budget_bytes = budget_bytes

    def packet_received(self, packet: bytes, now: float) -> None:
        """Take one packet from the relay; anything malformed or not admitted is counted and dropped or refused."""

    def udp_received(self, flow: int, data: bytes, now: float) -> None:
        """Take one datagram from the flow's backend socket."""

    def udp_error(self, flow: int, error: SocketError, now: float) -> None:
        """Take a socket error of a flow: the agent gets the matching ICMP error; the flow stays open."""

    def tcp_connected(self, session: int, now: float) -> None:
        """The backend accepted: the handshake with the agent goes on."""

    def tcp_failed(self, session: int, error: SocketError, now: float) -> None:
        """The backend did not accept: the agent is refused. The shell has already forgotten the session."""

    def tcp_data(self, session: int, data: bytes, now: float) -> None:
        """Take bytes read from the backend; all are kept, and `PauseTcp` says when to stop reading."""

    def tcp_eof(self, session: int, now: float) -> None:
        """The backend ended its direction; the other one stays open (half-close)."""

    def tcp_reset(self, session: int, now: float) -> None:
        """The backend connection broke; the shell has already forgotten the session."""

    def tcp_writable(self, session: int, count: int, now: float) -> None:
        """The backend took `count` more bytes of what `WriteTcp` gave; this opens the agent's window again."""

    def backend_answered(self, backend: Backend, alive: bool, now: float) -> None:
        """Take the result of `PingBackend`."""

    def get_timer(self) -> float | None:
        """Return when `handle_timer` is due, in monotonic seconds."""
        return None

    def handle_timer(self, now: float) -> None:
        """Do what is due: retransmissions, expiry of flows and sessions, unanswered echoes."""

    def next_command(self) -> Command | None:
        """Return the next thing the shell must do, or None."""
        return None
