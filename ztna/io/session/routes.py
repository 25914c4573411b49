"""Where an agent's packets go: by virtual address to a service, by the service to the session that carries it."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Address
from typing import Final

from ztna.io.session.session import Session
from ztna.io.session.session_types import AgentSessionCounters

WAITING_PACKETS: Final = 64
WAITING_S: Final = 5.0


class Service:
    """One service of the profile, and the way to it."""

    __slots__ = ("address", "attempts", "connector", "connectors", "id", "protocol", "retry", "session", "waiting")

    def __init__(self, service_id: str, virtual_ip: str, connectors: tuple[str, ...]) -> None:
        self.id = service_id
        self.address = IPv4Address(virtual_ip).packed
        self.connectors = connectors
        self.connector: str | None = None
        self.protocol = 0
        """1: by DATAGRAM frames through the intermediate; 2: by a session; 0: nobody serves it now."""
        self.session: Session | None = None
        """The session that carries it, once ready."""
        self.waiting: deque[tuple[float, bytes]] = deque(maxlen=WAITING_PACKETS)
        self.attempts = 0
        self.retry: asyncio.TimerHandle | None = None


class ServiceRoutes:
    """The services of an agent and the ways to them; the packet path of `AgentSessions`.

    Args:
        services: id -> (virtual IP, names of the connectors allowed to serve it).
        virtual_ip: the agent's own inner address.
        too_large: called with a packet and the limit in bytes, to answer it by ICMP.
    """

    def __init__(
        self,
        services: Mapping[str, tuple[str, tuple[str, ...]]],
        virtual_ip: str,
        *,
        counters: AgentSessionCounters,
        clock: Callable[[], float],
        too_large: Callable[[bytes, int], None],
    ) -> None:
        self.services = {name: Service(name, ip, connectors) for name, (ip, connectors) in services.items()}
        self.by_address = {service.address: service for service in self.services.values()}
        self.virtual_ip = IPv4Address(virtual_ip).packed
        self._counters = counters
        self._clock = clock
        self._too_large = too_large
        self._used: set[Session] = set()

    @property
    def room(self) -> int | None:
        """DATAGRAMs that the sessions used last take without loss, None if none was used."""
        return min((session.core.room for session in self._used if session.ready), default=None)

    def send(self, packets: Sequence[bytes]) -> list[bytes]:
        """Send packets by their sessions; returns those that go by the intermediate. Nothing is transmitted yet."""
        rest: list[bytes] = []
        by_address, own, counters = self.by_address, self.virtual_ip, self._counters
        for packet in packets:
            service = by_address.get(packet[16:20])
            if service is None or service.session is None:
                if service is None or service.protocol == 1:
                    rest.append(packet)
                else:
                    self._wait(service, packet)
                continue
            if packet[12:16] != own:
                counters.dropped_source += 1
                continue
            session = service.session
            if session not in self._used:
                self._used.add(session)
            if not session.core.send_datagram(packet):
                limit = session.core.max_datagram_payload
                if len(packet) > limit:
                    counters.dropped_oversize += 1
                    self._too_large(packet, limit)
                else:
                    counters.dropped_queue += 1
        return rest

    def used(self, session: Session) -> None:
        """Something was queued in a session: `flush` transmits it."""
        self._used.add(session)

    def flush(self) -> None:
        """Transmit what `send` queued."""
        if self._used:
            used, self._used = self._used, set()
            for session in used:
                session.flush()
            # Their room still decides whether the local side is read on.
            self._used = {session for session in used if session.ready}

    def _wait(self, service: Service, packet: bytes) -> None:
        if len(service.waiting) == WAITING_PACKETS:
            self._counters.dropped_waiting += 1
        service.waiting.append((self._clock() + WAITING_S, packet))

    def send_waiting(self, service: Service) -> None:
        now = self._clock()
        packets = [packet for expires, packet in service.waiting if expires > now]
        self._counters.dropped_waiting += len(service.waiting) - len(packets)
        service.waiting.clear()
        if packets:
            self.send(packets)

    def forget(self, session: Session) -> None:
        """A session is over."""
        self._used.discard(session)
