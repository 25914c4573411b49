"""The part of `ztna doctor` that speaks QUIC: the real handshake, repeated, and what the relay says each time."""

import asyncio
import contextlib
import time
from dataclasses import dataclass, field, replace

from ztna.config import AgentConfig, ConfigError, ConnectorConfig
from ztna.io.client_role import client_settings
from ztna.io.quic import QuicEndpoint
from ztna.io.quic_peer import Peer
from ztna.io.quic_types import ALPN, Closed, Connected, PayloadLimit, PeerEvent
from ztna.io.udp import Address, UdpSocket
from ztna.proto.errors import WireError
from ztna.proto.wire import ObservedAddress, RegisterAgent, RegistrationAck, RegistrationNack, decode

HANDSHAKE_S = 5.0
ANSWER_S = 2.0
SIZE_PROBE_S = 1.0


@dataclass(slots=True)
class Handshakes:
    """Outcome of some connections made one after another from one socket."""

    attempted: int = 0
    completed: int = 0
    handshake_ms: list[float] = field(default_factory=list)
    observed: list[str] = field(default_factory=list)
    max_payload_bytes: int = 0
    registered: list[str] = field(default_factory=list)
    denied: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def problems(self) -> list[str]:
        """What stands in the way of using the relay."""
        found = [f"handshake with the relay failed: {error}" for error in dict.fromkeys(self.errors)]
        if self.denied:
            found.append(f"the relay denies {', '.join(self.denied)}: the certificate or the policy does not grant it")
        if len(set(self.observed)) > 1:
            found.append(f"connections from one socket were seen at different addresses: {', '.join(self.observed)}")
        return found

    def to_text(self) -> str:
        """One line for people."""
        if not self.completed:
            return f"Handshakes: none of {self.attempted} completed"
        middle = sorted(self.handshake_ms)[len(self.handshake_ms) // 2]
        seen = ", ".join(dict.fromkeys(self.observed)) or "no address"
        services = f"; registered {', '.join(self.registered)}" if self.registered else ""
        return (
            f"Handshakes: {self.completed} of {self.attempted}, {middle:.1f} ms, observed as {seen}, "
            f"DATAGRAM payload {self.max_payload_bytes} bytes{services}"
        )


class _Attempt:
    """One connection: what happened on it, as futures to wait for."""

    def __init__(self, services: set[str]) -> None:
        loop = asyncio.get_running_loop()
        self.settled: asyncio.Future[str | None] = loop.create_future()
        self.observed: asyncio.Future[str] = loop.create_future()
        self.answered: asyncio.Future[None] = loop.create_future()
        self.grown: asyncio.Future[None] = loop.create_future()
        self.waiting = set(services)
        self.registered: list[str] = []
        self.denied: list[str] = []
        if not services:
            self.answered.set_result(None)

    def event(self, event: PeerEvent) -> None:
        if isinstance(event, Connected) and not self.settled.done():
            self.settled.set_result(None)
        elif isinstance(event, PayloadLimit) and not self.grown.done():
            self.grown.set_result(None)
        elif isinstance(event, Closed):
            reason = event.reason or ("closed by the relay" if event.by_peer else "no answer")
            if not self.settled.done():
                self.settled.set_result(f"{reason} (code {event.code:#x})" if event.code else reason)

    def datagram(self, data: bytes) -> None:
        try:
            message = decode(data)
        except WireError:
            return
        if isinstance(message, ObservedAddress) and not self.observed.done():
            self.observed.set_result(f"{message.ip}:{message.port}")
        elif isinstance(message, RegistrationAck | RegistrationNack) and message.service_id in self.waiting:
            self.waiting.discard(message.service_id)
            (self.registered if isinstance(message, RegistrationAck) else self.denied).append(message.service_id)
            if not self.waiting and not self.answered.done():
                self.answered.set_result(None)


async def shake_hands(server: Address, config: AgentConfig | ConnectorConfig, count: int) -> Handshakes:
    """Connect `count` times from one socket.

    An agent registers for its services on the first connection. A connector does not: it would displace itself.
    """
    result = Handshakes()
    try:
        # What is examined is the path, for which the older protocol needs the fewest messages.
        settings = replace(client_settings(config), alpn=(ALPN,))
    except ConfigError as exc:
        result.errors.append(str(exc))
        return result
    attempts: dict[int, _Attempt] = {}
    udp = UdpSocket("::" if ":" in server[0] else "0.0.0.0", 0)
    endpoint = QuicEndpoint(
        udp,
        on_event=lambda peer, event: attempts[peer.conn_id].event(event),
        on_datagram=lambda peer, data: attempts[peer.conn_id].datagram(data),
    )
    endpoint.start()
    try:
        for number in range(count):
            wanted = {s.id for s in config.services} if number == 0 and isinstance(config, AgentConfig) else set()
            attempt = _Attempt(wanted)
            started = time.monotonic()
            peer = endpoint.connect(server, settings)
            attempts[peer.conn_id] = attempt
            await _converse(peer, attempt, result, started)
            if not result.completed:
                break
        await endpoint.drain(0, "examined", 0.5)
    finally:
        endpoint.close()
    return result


async def _converse(peer: Peer, attempt: _Attempt, result: Handshakes, started: float) -> None:
    result.attempted += 1
    await asyncio.wait([attempt.settled], timeout=HANDSHAKE_S)
    error = attempt.settled.result() if attempt.settled.done() else "no answer"
    if error is not None:
        result.errors.append(error)
        peer.close()
        return
    result.completed += 1
    result.handshake_ms.append(round((time.monotonic() - started) * 1000, 3))
    for service in sorted(attempt.waiting):
        peer.send_datagram(RegisterAgent(service).encode())
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ANSWER_S):
            await asyncio.shield(attempt.observed)
            await asyncio.shield(attempt.answered)
    if attempt.observed.done():
        result.observed.append(attempt.observed.result())
    if result.completed == 1:
        await asyncio.wait([attempt.grown], timeout=SIZE_PROBE_S)
    result.registered += attempt.registered
    result.denied += attempt.denied
    result.max_payload_bytes = max(result.max_payload_bytes, peer.max_datagram_payload)
    if peer.closed:
        result.errors.append("the relay closed the connection after the handshake")
    peer.close(0, "examined")
