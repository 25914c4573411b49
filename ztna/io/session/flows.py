"""UDP flows of a session at the connector: one connected backend socket per flow that the agent opened.

A connected socket takes answers from its backend alone. A payload travels in a DATAGRAM frame if it fits one, and as a
frame of the session's stream 0 if it does not.
"""

import asyncio
import socket
from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from ztna.io.resolve import address_family
from ztna.io.session.core import SessionCore
from ztna.io.session.streams import Backends
from ztna.io.tcp_sockets import socket_error
from ztna.proto.end_to_end import (
    CloseUdp,
    OpenUdp,
    SessionMessage,
    UdpPayload,
    UdpResult,
    encode_message,
    flow_datagram,
)

MAX_FLOWS: Final = 1024
IDLE_S: Final = 60.0
EXPIRE_EVERY_S: Final = 5.0
READS_PER_WAKE: Final = 64
EARLY: Final = 64
MAX_UDP_BYTES: Final = 65507
CONTROL_STREAM: Final = 0


@dataclass(slots=True)
class FlowCounters:
    """Flows and their payloads; each that was lost is in one `dropped_*`."""

    opened: int = 0
    expired: int = 0
    refused: int = 0
    to_backend: int = 0
    from_backend: int = 0
    bytes: int = 0
    dropped_unknown: int = 0
    dropped_send: int = 0
    dropped_queue: int = 0
    dropped_tell: int = 0


class _Flow:
    __slots__ = ("active_at", "service", "sock")

    def __init__(self, sock: socket.socket, service: str, now: float) -> None:
        self.sock = sock
        self.service = service
        self.active_at = now


def send_flow_payload(core: SessionCore, flow: int, payload: bytes) -> bool:
    """Send one payload of a flow the way that it fits; False if it was dropped because the queue is full."""
    data = flow_datagram(flow, payload)
    if len(data) <= core.max_datagram_payload:
        return core.send_datagram(data)
    if core.writable(CONTROL_STREAM) <= 0:
        return False
    core.write(CONTROL_STREAM, encode_message(UdpPayload(flow, payload)))
    return True


class FlowSockets:
    """The flows of one session; `execute` takes what the agent says about them on stream 0."""

    def __init__(
        self,
        core: SessionCore,
        *,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        on_input: Callable[[], None],
        backends: Backends,
    ) -> None:
        self.counters = FlowCounters()
        self._core = core
        self._loop = loop
        self._clock = clock
        self._on_input = on_input
        self._backends = backends
        self._flows: OrderedDict[int, _Flow] = OrderedDict()
        self._early: deque[tuple[int, bytes]] = deque(maxlen=EARLY)
        self._expiry: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._flows)

    def close(self) -> None:
        """Close every socket."""
        if self._expiry is not None:
            self._expiry.cancel()
        for flow in list(self._flows):
            self._forget(flow)

    def keep(self, services: Collection[str]) -> None:
        """Close what is not of these services; the agent reaches no others any more."""
        for flow in [flow for flow, known in self._flows.items() if known.service not in services]:
            self._tell(UdpResult(flow, "denied"))
            self._forget(flow)

    def execute(self, message: SessionMessage) -> bool:
        """Act on a message about a flow; False if it is about something else."""
        if isinstance(message, OpenUdp):
            self._open(message)
        elif isinstance(message, CloseUdp):
            self._forget(message.flow)
        elif isinstance(message, UdpPayload):
            self.received(message.flow, message.payload)
        else:
            return False
        return True

    def received(self, flow: int, payload: bytes) -> None:
        """A payload of the agent."""
        known = self._flows.get(flow)
        if known is None:
            # DATAGRAM frames overtake streams: its opening may be on the way.
            self.counters.dropped_unknown += len(self._early) == EARLY
            self._early.append((flow, payload))
            return
        known.active_at = self._clock()
        self._flows.move_to_end(flow)
        try:
            known.sock.send(payload)
            self.counters.to_backend += 1
            self.counters.bytes += len(payload)
        except (BlockingIOError, InterruptedError):
            self.counters.dropped_send += 1
        except OSError as exc:
            # The ICMP answer to an earlier datagram, or a payload that no UDP datagram holds.
            self.counters.dropped_send += 1
            self._tell(UdpResult(flow, socket_error(exc).value))

    def _open(self, message: OpenUdp) -> None:
        if message.flow in self._flows:
            return
        found = self._backends(message.service, message.port)
        if not isinstance(found, str) and len(self._flows) >= MAX_FLOWS:
            found = "limit"
        if isinstance(found, str):
            self.counters.refused += 1
            self._tell(UdpResult(message.flow, found))
            return
        try:
            sock = socket.socket(
                address_family(found[0]), socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            )
        except OSError:
            self.counters.refused += 1
            return
        try:
            sock.connect(found)
        except OSError as exc:
            sock.close()
            self.counters.refused += 1
            self._tell(UdpResult(message.flow, socket_error(exc).value))
            return
        self.counters.opened += 1
        self._flows[message.flow] = _Flow(sock, message.service, self._clock())
        self._loop.add_reader(sock.fileno(), self._readable, message.flow, sock)
        if self._expiry is None:
            self._expiry = self._loop.call_later(EXPIRE_EVERY_S, self._expire)
        for _ in range(len(self._early)):
            flow, payload = self._early.popleft()
            if flow == message.flow:
                self.received(flow, payload)
            else:
                self._early.append((flow, payload))

    def _readable(self, flow: int, sock: socket.socket) -> None:
        known = self._flows.get(flow)
        if known is None:
            return
        known.active_at = self._clock()
        self._flows.move_to_end(flow)
        for _ in range(READS_PER_WAKE):
            try:
                payload = sock.recv(MAX_UDP_BYTES)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as exc:
                self._tell(UdpResult(flow, socket_error(exc).value))
                continue
            if send_flow_payload(self._core, flow, payload):
                self.counters.from_backend += 1
                self.counters.bytes += len(payload)
            else:
                self.counters.dropped_queue += 1
        self._on_input()

    def _expire(self) -> None:
        now = self._clock()
        self._expiry = None
        while self._flows:
            flow, known = next(iter(self._flows.items()))
            if now < known.active_at + IDLE_S:
                self._expiry = self._loop.call_later(EXPIRE_EVERY_S, self._expire)
                return
            self.counters.expired += 1
            self._tell(CloseUdp(flow))
            self._forget(flow)

    def _forget(self, flow: int) -> None:
        known = self._flows.pop(flow, None)
        if known is not None:
            self._loop.remove_reader(known.sock.fileno())
            known.sock.close()

    def _tell(self, message: SessionMessage) -> None:
        if self._core.writable(CONTROL_STREAM) <= 0:
            # An agent that reads nothing may ask for as much as it likes: it learns less, and we hold no more.
            self.counters.dropped_tell += 1
            return
        self._core.write(CONTROL_STREAM, encode_message(message))
        self._on_input()
