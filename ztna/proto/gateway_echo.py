"""ICMP echo to a service: answered for the backend's host, and only while that host is known to answer.

Traffic from the backend proves it alive; without recent proof the echo waits for one `PingBackend`, and an answer that
does not come in time means host unreachable. A refused TCP connect is an answer of the host.
"""

from collections import deque
from typing import NamedTuple

from ztna.proto.gateway_context import GatewayContext
from ztna.proto.gateway_types import Backend, PingBackend
from ztna.proto.packet import EchoMessage, echo_reply_payload

__all__ = ["EchoResponder"]

_MAX_WAITING_PER_HOST = 32


class _Waiting(NamedTuple):
    source: int
    destination: int
    message: EchoMessage
    packet: bytes


class _Host:
    """What is known of one backend host."""

    __slots__ = ("alive_until", "ask_deadline", "dead_until", "waiting")

    def __init__(self) -> None:
        self.alive_until = 0.0
        self.dead_until = 0.0
        self.ask_deadline: float | None = None
        self.waiting: deque[_Waiting] = deque()


class EchoResponder:
    """Echo of all services; hosts are those of the configured backends, so the table cannot grow."""

    __slots__ = ("_context", "_hosts", "_waiting")

    def __init__(self, context: GatewayContext) -> None:
        self._context = context
        self._hosts: dict[str, _Host] = {}
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def _host(self, backend: Backend) -> _Host:
        host = self._hosts.get(backend.host)
        if host is None:
            host = self._hosts[backend.host] = _Host()
        return host

    def received(
        self, source: int, destination: int, message: EchoMessage, packet: bytes, backend: Backend, now: float
    ) -> None:
        """Take an echo for a service with this backend."""
        host = self._host(backend)
        if now < host.alive_until:
            self._reply(source, destination, message)
        elif now < host.dead_until:
            self._unreachable(destination, packet, now)
        elif len(host.waiting) >= _MAX_WAITING_PER_HOST or self._waiting >= self._context.limits.echoes_waiting:
            self._context.stats.dropped_echo_limit += 1
        else:
            host.waiting.append(_Waiting(source, destination, message, packet))
            self._waiting += 1
            if host.ask_deadline is None:
                host.ask_deadline = now + self._context.limits.echo_wait_s
                self._context.commands.append(PingBackend(backend))

    def alive(self, backend: Backend, now: float) -> None:
        """The backend's host sent something."""
        host = self._host(backend)
        host.alive_until = now + self._context.limits.alive_for_s
        if host.ask_deadline is not None:
            self._answer(host, True, now)

    def dead(self, backend: Backend, now: float) -> None:
        """The backend's host did not answer."""
        host = self._host(backend)
        host.alive_until = 0.0
        host.dead_until = now + self._context.limits.dead_for_s
        self._answer(host, False, now)

    def _answer(self, host: _Host, alive: bool, now: float) -> None:
        host.ask_deadline = None
        waiting, host.waiting = host.waiting, deque()
        self._waiting -= len(waiting)
        for source, destination, message, packet in waiting:
            if alive:
                self._reply(source, destination, message)
            else:
                self._unreachable(destination, packet, now)

    def _reply(self, source: int, destination: int, message: EchoMessage) -> None:
        self._context.stats.echo_replies += 1
        payload = echo_reply_payload(message.identifier, message.sequence, message.data)
        self._context.emit_icmp(destination, source, payload)

    def _unreachable(self, destination: int, packet: bytes, now: float) -> None:
        self._context.stats.echo_unreachable += 1
        self._context.refuse(destination, packet, now)

    def get_timer(self) -> float | None:
        """Return when the first unanswered question is given up."""
        if not self._waiting:
            return None
        return min((host.ask_deadline for host in self._hosts.values() if host.ask_deadline is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Give up on hosts that did not answer in time."""
        for host in self._hosts.values():
            if host.ask_deadline is not None and now >= host.ask_deadline:
                host.dead_until = now + self._context.limits.dead_for_s
                self._answer(host, False, now)
