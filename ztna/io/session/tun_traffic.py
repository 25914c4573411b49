"""One agent's side of a connector in TUN mode: its packets to and from the device that all agents share.

A packet of the agent passes only from its own address and to the services that it reaches (which ports of them is the
rules' matter). Packets for it wait here, up to a bound, while its session's congestion window is shut, so that an agent
with a slow path loses its own packets and nobody else's.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ztna.io import routes
from ztna.io.session.session import Session
from ztna.io.session.session_types import UNFINISHED_CHECKSUMS
from ztna.proto.packet import address_text, build_fragmentation_needed

if TYPE_CHECKING:
    from ztna.io.session.tun_gateway import TunGateway

BACKLOG_PACKETS: Final = 512


@dataclass(slots=True)
class TunTrafficCounters:
    """Packets that the device's side dropped, by reason."""

    dropped_source: int = 0
    dropped_not_allowed: int = 0
    dropped_no_agent: int = 0
    dropped_no_session: int = 0
    dropped_backlog: int = 0
    dropped_oversize: int = 0


class TunTraffic:
    """One agent's side of the device: `AgentTraffic` for `ConnectorSessions`."""

    def __init__(self, gateway: "TunGateway", agent_ip: bytes, *, clock: Callable[[], float]) -> None:
        self.agent_ip = agent_ip
        self.address = address_text(int.from_bytes(agent_ip, "big"))
        self.session: Session | None = None
        self.unfinished = False
        """Whether the agent finishes checksums as we do."""
        self.idle_since = clock()
        self._gateway = gateway
        self._clock = clock
        self._allowed: frozenset[bytes] = frozenset()
        self._ways: frozenset[bytes] = frozenset()
        self._waiting: deque[bytes] = deque()
        self._claimed = False
        self._packets = 0
        self._bytes = 0

    @property
    def idle(self) -> bool:
        """Whether no session is there; connections are the kernel's, and outlive this."""
        return self.session is None

    @property
    def open_flows(self) -> tuple[int, int]:
        """None that we know of: they are the kernel's."""
        return 0, 0

    @property
    def forwarded(self) -> tuple[int, int]:
        """Packets of the agent, and their bytes."""
        return self._packets, self._bytes

    @property
    def is_full(self) -> bool:
        """Whether packets wait for the session's congestion window."""
        return bool(self._waiting)

    @property
    def capabilities(self) -> tuple[str, ...]:
        """UNFINISHED_CHECKSUMS where the kernel has offloads."""
        device = self._gateway.device
        return (UNFINISHED_CHECKSUMS,) if device is not None and device.offload else ()

    def allow(self, services: Sequence[str]) -> None:
        """Say which services the agent reaches."""
        self._allowed = frozenset(
            (service.virtual_ip or 0).to_bytes(4, "big") for service in self._gateway.services if service.id in services
        )
        self._ways = frozenset(self.agent_ip + service for service in self._allowed)

    def attach(self, session: Session) -> None:
        """Send by this session from now on."""
        self.session = session
        self._claimed = self._gateway.claim(self)
        self.unfinished = session.unfinished_checksums
        self._gateway.finishing()
        self.budget_changed()

    def detach(self, session: Session) -> None:
        """The session is over; the agent's address stays routed to the device, where its packets end."""
        if self.session is session:
            self.session = None
            self.unfinished = False
            self.idle_since = self._clock()
            self._waiting.clear()
            self._gateway.finishing()
            self._gateway.read_on()

    def budget_changed(self) -> None:
        """Tell the kernel how large this agent's packets may be."""
        device = self._gateway.device
        if self.session is not None and self._claimed and device is not None:
            limit = self.session.core.max_datagram_payload
            if limit:
                with contextlib.suppress(OSError):
                    routes.set_route(self.address, device.index, mtu_bytes=limit, source=self._gateway.speaker)

    def packets_received(self, packets: Sequence[bytes]) -> None:
        """IP packets of the agent, from its session."""
        ways, counters = self._ways, self._gateway.counters
        device = self._gateway.device
        if device is None or not self._claimed:
            counters.dropped_source += len(packets)
            return
        admitted = [packet for packet in packets if packet[12:20] in ways]
        if len(admitted) < len(packets):
            foreign = sum(packet[12:16] != self.agent_ip for packet in packets)
            counters.dropped_source += foreign
            counters.dropped_not_allowed += len(packets) - len(admitted) - foreign
        if admitted:
            device.write_batch(admitted)
            self._packets += len(admitted)
            self._bytes += sum(map(len, admitted))

    def send(self, packets: Sequence[bytes]) -> None:
        """Packets of the kernel for the agent; what the session has no room for waits, up to a bound."""
        session = self.session
        if session is None or not session.ready:
            self._gateway.counters.dropped_no_session += len(packets)
            return
        waiting, allowed = self._waiting, self._allowed
        before = len(waiting)
        # A service that the agent reaches no more is silent to it at once, whatever connection there was.
        waiting.extend([packet for packet in packets if packet[12:16] in allowed])
        self._gateway.counters.dropped_not_allowed += before + len(packets) - len(waiting)
        over = len(waiting) - BACKLOG_PACKETS
        if over > 0:
            # The newest are dropped, as by a queue of the kernel's.
            self._gateway.counters.dropped_backlog += over
            for _ in range(over):
                waiting.pop()
        while waiting:
            before = len(waiting)
            self._fill(session)
            session.flush()
            if session.closed or len(waiting) == before:
                break

    def drain(self) -> None:
        """The session's batch is over: put what waits into it, and read the device again when nothing does."""
        session = self.session
        if session is not None and session.ready and self._waiting:
            self._fill(session)
        if session is not None and not self._waiting:
            self._gateway.read_more(session.core.room)

    def _fill(self, session: Session) -> None:
        core, waiting = session.core, self._waiting
        room = core.room
        if room >= len(waiting):
            packets = list(waiting)
            waiting.clear()
        else:
            packets = [waiting.popleft() for _ in range(room)]
        if not packets:
            return
        limit = core.max_datagram_payload
        if max(map(len, packets)) > limit:
            for packet in [packet for packet in packets if len(packet) > limit]:
                self._refused(packet, limit)
            packets = [packet for packet in packets if len(packet) <= limit]
        core.send_datagrams(packets)

    def _refused(self, packet: bytes, limit: int) -> None:
        device = self._gateway.device
        self._gateway.counters.dropped_oversize += 1
        answer = build_fragmentation_needed(int.from_bytes(self.agent_ip, "big"), packet, limit)
        if answer is not None and device is not None:
            device.write(answer)

    def close(self) -> None:
        """Take the agent's route away."""
        self.session = None
        self._waiting.clear()
        self._gateway.release(self)
