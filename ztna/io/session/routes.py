"""Where an agent's packets go: by virtual address to a service, by the service to the session that carries it."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Address
from itertools import groupby
from operator import itemgetter
from typing import Final

from ztna.io.session.session import Session
from ztna.io.session.session_types import AgentSessionCounters

WAITING_PACKETS: Final = 64
WAITING_S: Final = 5.0
_ADDRESSES: Final = itemgetter(slice(12, 20))
"""Source and destination of an IPv4 packet."""


class Service:
    """One service of the profile, and the way to it."""

    __slots__ = (
        "address",
        "asked",
        "attempts",
        "connector",
        "connectors",
        "id",
        "protocol",
        "retry",
        "session",
        "waiting",
    )

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
        self.asked = False
        """Whether a session was asked for before it was known who serves it."""
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
        self._pending: set[Session] = set()

    @property
    def room(self) -> int | None:
        """DATAGRAMs that a session used last takes without loss, None if none was used.

        The most that any of them takes: one whose path is slow must not hold up the others.
        """
        room = None
        for session in self._used:
            if session.ready:
                more = session.core.room
                if room is None or more > room:
                    room = more
        return room

    def send(self, packets: Sequence[bytes]) -> list[bytes]:
        """Queue packets in their sessions; returns those that go by the intermediate. `flush` transmits."""
        rest: list[bytes] = []
        groups: dict[bytes, list[bytes]] = {}
        if len(packets) == 1:
            groups[packets[0][12:20]] = [*packets]
        else:
            for addresses, run in groupby(packets, _ADDRESSES):
                groups.setdefault(addresses, []).extend(run)
        for addresses, group in groups.items():
            service = self.by_address.get(addresses[4:])
            if service is None:
                rest += group
            elif service.session is not None:
                if addresses[:4] == self.virtual_ip:
                    self._send_by(service.session, group)
                else:
                    self._counters.dropped_source += len(group)
            elif service.protocol == 1:
                rest += group
            else:
                for packet in group:
                    self._wait(service, packet)
        return rest

    def _send_by(self, session: Session, packets: list[bytes]) -> None:
        counters, core = self._counters, session.core
        self._used.add(session)
        self._pending.add(session)
        if core.room < len(packets):
            # What is queued goes first, as far as the congestion window lets it.
            session.flush()
            over = len(packets) - core.room
            if over > 0:
                counters.dropped_queue += over
                del packets[-over:]
        limit = core.max_datagram_payload
        if packets and max(map(len, packets)) > limit:
            for packet in [packet for packet in packets if len(packet) > limit]:
                counters.dropped_oversize += 1
                self._too_large(packet, limit)
            packets = [packet for packet in packets if len(packet) <= limit]
        core.send_datagrams(packets)

    def used(self, session: Session) -> None:
        """Something was queued in a session: `flush` transmits it."""
        self._pending.add(session)

    def flush(self) -> None:
        """Transmit what `send` queued."""
        while self._pending:
            self._pending.pop().flush()

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
        self._pending.discard(session)
