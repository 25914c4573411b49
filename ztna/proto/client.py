"""What agent and connector have in common: one connection to the intermediate, kept up and registered.

Flow: `connected` -> services are registered, the observed address arrives -> `disconnected` -> ReconnectAt, later each
time until a connection has been stable. The shell feeds DATAGRAMs and stream bytes in, and takes commands out until
`next_command` returns None. On a `ztna-v2` connection `ztna.proto.control.client` speaks on stream 0 and reports here
what it learns: what is registered, and where we are seen, is kept in this one place for both protocols.

Commands are compared by value in tests; the two made once per packet are not frozen (see `ztna.proto.commands`).
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from ztna.proto.backoff import Backoff
from ztna.proto.commands import Level, Note
from ztna.proto.errors import WireError
from ztna.proto.packet import well_formed
from ztna.proto.registration import Registration, RegistrationState
from ztna.proto.signalling import FrameReader, SignallingMessage, SocketAddress
from ztna.proto.stats import AgentStats, ConnectorStats
from ztna.proto.wire import (
    NackStatus,
    ObservedAddress,
    RegisterAgent,
    RegisterConnector,
    RegistrationAck,
    RegistrationNack,
    decode,
)

__all__ = [
    "ClientCommand",
    "ClientControl",
    "DeliverPacket",
    "Denied",
    "Note",
    "Observed",
    "ReconnectAt",
    "Registered",
    "SendDatagram",
    "SendStream",
]

# Payload of a DATAGRAM frame in a UDP payload of 1200 bytes towards a connection ID of 20: the least that every
# path of QUIC carries (RFC 9000 s14). The shell raises it when the path carries more.
DEFAULT_BUDGET_BYTES: Final = 1158
MAX_STREAMS: Final = 8


@dataclass(slots=True)
class SendDatagram:
    """Send `data` in a DATAGRAM frame to the intermediate."""

    data: bytes


@dataclass(frozen=True, slots=True)
class SendStream:
    """Send `data` on a stream to the intermediate, without FIN; the shell opens the stream when it is first named."""

    stream_id: int
    data: bytes


@dataclass(slots=True)
class DeliverPacket:
    """An IPv4 packet for the local side: the gateway, the TUN device, the user-mode stack."""

    packet: bytes


@dataclass(frozen=True, slots=True)
class Registered:
    """The intermediate accepted a service."""

    service: str


@dataclass(frozen=True, slots=True)
class Denied:
    """The intermediate refused a service, or withdrew it."""

    service: str


@dataclass(frozen=True, slots=True)
class Observed:
    """The intermediate sees us at this address; given once per connection and when it changes."""

    address: SocketAddress


@dataclass(frozen=True, slots=True)
class ReconnectAt:
    """Connect again at this time (monotonic seconds); report a failed attempt by `disconnected`."""

    time: float


ClientCommand = SendDatagram | SendStream | DeliverPacket | Registered | Denied | Observed | ReconnectAt | Note


class ClientControl:
    """Connection state shared by both roles; a role decides what to deliver and what signalling means to it."""

    def __init__(
        self,
        register: type[RegisterAgent] | type[RegisterConnector],
        services: Sequence[str],
        stats: AgentStats | ConnectorStats,
        *,
        random: Callable[[], float],
        max_commands: int,
    ) -> None:
        self.role: Literal["agent", "connector"] = "agent" if register is RegisterAgent else "connector"
        """Which of the two this is."""
        self._registration = Registration(register, services)
        self._counters = stats
        self._backoff = Backoff(random)
        self._max_commands = max_commands
        self._commands: deque[ClientCommand] = deque()
        self._readers: dict[int, FrameReader] = {}
        self._connected = False
        self._register: Callable[[list[str], float], None] | None = None
        self._budget_bytes = DEFAULT_BUDGET_BYTES
        self._observed: SocketAddress | None = None

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection."""
        return self._connected

    @property
    def observed_address(self) -> SocketAddress | None:
        """Where the intermediate sees this connection, once it said so."""
        return self._observed

    @property
    def ready(self) -> bool:
        """Whether every service is registered, or waits as standby for the connector that serves it."""
        settled = (RegistrationState.REGISTERED, RegistrationState.STANDBY)
        return all(state in settled for state in self._registration.states().values())

    @property
    def registrations(self) -> dict[str, RegistrationState]:
        """State of every service."""
        return self._registration.states()

    @property
    def budget_bytes(self) -> int:
        """Largest DATAGRAM payload that the connection takes."""
        return self._budget_bytes

    def set_budget(self, payload_bytes: int) -> None:
        """Say how large a DATAGRAM payload the connection takes now."""
        self._budget_bytes = payload_bytes

    def connected(self, now: float, *, register: Callable[[list[str], float], None] | None = None) -> None:
        """A connection to the intermediate is established.

        Args:
            register: asks for services on a `ztna-v2` connection, whose answers come by `accepted` and its like.
        """
        self._connected = True
        self._register = register
        self._counters.connections += 1
        self._backoff.connected(now)
        self._registration.connected(now)
        self._send_registrations(now)

    def disconnected(self, now: float) -> None:
        """The connection was lost, or an attempt failed."""
        if self._connected:
            self._counters.disconnections += 1
        self._connected = False
        self._register = None
        self._observed = None
        self._readers.clear()
        self._registration.disconnected()
        delay_s = self._backoff.next_delay_s(now)
        self._commands.append(ReconnectAt(now + delay_s))
        self._note("info", "reconnecting", attempt=self._backoff.attempt, delay_s=round(delay_s, 3))

    def datagram_received(self, data: bytes, now: float) -> None:
        """One DATAGRAM payload arrived; whatever it holds, nothing is raised."""
        if not self._connected:
            self._counters.drop_not_connected += 1
        elif not data:
            self._counters.drop_empty += 1
        elif data[0] >> 4 != 4:
            self._control(data, now)
        elif not well_formed(data):
            self._counters.drop_malformed += 1
        elif self._wants(data):
            if len(self._commands) >= self._max_commands:
                self._counters.drop_command_queue += 1
                return
            self._counters.packets_delivered += 1
            self._counters.bytes_delivered += len(data)
            self._commands.append(DeliverPacket(data))

    def stream_received(self, stream_id: int, data: bytes, fin: bool, now: float) -> None:
        """Bytes of a stream arrived in order; each stream has its own buffer, and `fin` discards an incomplete one."""
        if not self._connected:
            self._counters.drop_not_connected += 1
            return
        reader = self._readers.get(stream_id)
        if reader is None:
            if len(self._readers) >= MAX_STREAMS:
                self._counters.drop_stream += 1
                return
            reader = self._readers[stream_id] = FrameReader()
        bad_frames = reader.bad_frames
        messages = reader.receive(data)
        self._counters.drop_frame += reader.bad_frames - bad_frames
        if fin or not reader.buffered_bytes:
            del self._readers[stream_id]
        for message in messages:
            self._signalling(message, now)

    def get_timer(self) -> float | None:
        """Return when `handle_timer` is due (monotonic seconds), None if nothing waits."""
        return self._registration.get_timer()

    def handle_timer(self, now: float) -> None:
        """Repeat unanswered registrations."""
        self._send_registrations(now)

    def next_command(self) -> ClientCommand | None:
        """Return the next thing to do, None if there is nothing more."""
        return self._commands.popleft() if self._commands else None

    def _wants(self, packet: bytes) -> bool:
        """Say whether a whole IPv4 packet is to be delivered, or count why not."""
        raise NotImplementedError

    def _signalling(self, message: SignallingMessage, now: float) -> None:
        """Act on a signalling message."""
        raise NotImplementedError

    def _on_registered(self, service: str) -> None:
        """Follow up a registration."""

    def accepted(self, service: str) -> bool:
        """The intermediate accepted a service; False if that was not expected."""
        if self._registration.accepted(service):
            self._counters.registrations_accepted += 1
            self._commands.append(Registered(service))
            self._on_registered(service)
            return True
        return self._registration.state(service) is RegistrationState.REGISTERED

    def refused(self, service: str, now: float) -> bool:
        """The intermediate refused or withdrew a service; False if that was not expected."""
        if self._registration.refused(service, now):
            self._counters.registrations_denied += 1
            self._commands.append(Denied(service))
            return True
        return self._registration.state(service) is RegistrationState.DENIED

    def standby(self, service: str, now: float) -> bool:
        """Another connector serves a service for now; False if that was not expected."""
        if self._registration.standby(service, now):
            self._note("info", "standing by", service=service)
            return True
        return self._registration.state(service) is RegistrationState.STANDBY

    def observe(self, address: SocketAddress) -> None:
        """The intermediate sees this connection at `address`."""
        if address != self._observed:
            self._observed = address
            self._commands.append(Observed(address))

    def _control(self, data: bytes, now: float) -> None:
        """Take observed addresses and answers to our registrations, in their exact form only."""
        try:
            message = decode(data)
            exact = message.encode() == data and self._register is None
        except WireError:
            exact = False
        if not exact or not self._act(message, now):
            self._counters.drop_control += 1

    def _act(self, message: object, now: float) -> bool:
        """Act on an exact control message of `ztna-v1`; False if it was not expected."""
        if isinstance(message, ObservedAddress):
            self.observe(SocketAddress(message.ip, message.port))
            return True
        if isinstance(message, RegistrationAck):
            return self.accepted(message.service_id)
        if isinstance(message, RegistrationNack) and message.status == NackStatus.NOT_AUTHORISED:
            return self.refused(message.service_id, now)
        return False

    def _send_registrations(self, now: float) -> None:
        if self._register is None:
            messages = self._registration.messages_due(now)
            self._counters.registrations_sent += len(messages)
            self._commands.extend(map(SendDatagram, messages))
        elif services := self._registration.services_due(now):
            self._counters.registrations_sent += len(services)
            self._register(services, now)

    def _note(self, level: Level, event: str, **fields: object) -> None:
        self._commands.append(Note(level, event, fields))
