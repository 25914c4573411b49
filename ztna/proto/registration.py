"""Registration of a client's services: sent, repeated until answered, and remembered.

Flow: connected -> one message per service at once, again after 2 s and 4 s, then after 4, 8, 16, 30, 30 ... s more ->
ACK: registered; NACK: denied, and asked again once a minute, since the policy may change. DATAGRAM frames are not
retransmitted, so only an answer ends the repeating. A NACK for a registered service withdraws it.
"""

from collections.abc import Sequence
from enum import Enum, auto
from typing import Final

from ztna.proto.errors import LocalProtocolError
from ztna.proto.wire import RegisterAgent, RegisterConnector

__all__ = ["Registration", "RegistrationState"]

FIRST_INTERVALS_S: Final = (2.0, 2.0, 4.0, 8.0, 16.0)
LAST_INTERVAL_S: Final = 30.0
DENIED_INTERVAL_S: Final = 60.0


class RegistrationState(Enum):
    """What is known about one service."""

    IDLE = auto()
    PENDING = auto()
    REGISTERED = auto()
    STANDBY = auto()
    """Granted, but another connector serves it now (`ztna-v2`)."""
    DENIED = auto()


class _Entry:
    __slots__ = ("due", "message", "sends", "state")

    def __init__(self, message: bytes) -> None:
        self.message = message
        self.state = RegistrationState.IDLE
        self.sends = 0
        self.due: float | None = None


class Registration:
    """All registrations of one connection, in one role."""

    __slots__ = ("_entries", "denied")

    def __init__(self, message: type[RegisterAgent] | type[RegisterConnector], services: Sequence[str]) -> None:
        """Args: message: the role's registration message; services: ids, in the order in which they are sent."""
        if not services:
            raise LocalProtocolError("no service to register")
        self._entries = {service: _Entry(message(service).encode()) for service in services}
        self.denied: set[str] = set()
        """Services whose state is DENIED."""

    @property
    def services(self) -> tuple[str, ...]:
        """The ids, each once."""
        return tuple(self._entries)

    def state(self, service: str) -> RegistrationState | None:
        """Return what is known about a service, None if it is none of ours."""
        entry = self._entries.get(service)
        return None if entry is None else entry.state

    def states(self) -> dict[str, RegistrationState]:
        """Return the state of every service."""
        return {service: entry.state for service, entry in self._entries.items()}

    def connected(self, now: float) -> None:
        """Start over on a new connection: every service is due."""
        self.denied.clear()
        for entry in self._entries.values():
            entry.state = RegistrationState.PENDING
            entry.sends = 0
            entry.due = now

    def disconnected(self) -> None:
        """Forget what the lost connection knew."""
        self.denied.clear()
        for entry in self._entries.values():
            entry.state = RegistrationState.IDLE
            entry.due = None

    def accepted(self, service: str) -> bool:
        """Take an ACK; True if it changed the state, False if it is not for us or nothing new."""
        entry = self._entries.get(service)
        if entry is None or entry.state in (RegistrationState.IDLE, RegistrationState.REGISTERED):
            return False
        entry.state = RegistrationState.REGISTERED
        self.denied.discard(service)
        entry.due = None
        return True

    def refused(self, service: str, now: float) -> bool:
        """Take a NACK; True if it changed the state."""
        entry = self._entries.get(service)
        if entry is None or entry.state is RegistrationState.IDLE:
            return False
        changed = entry.state is not RegistrationState.DENIED
        entry.state = RegistrationState.DENIED
        self.denied.add(service)
        entry.due = now + DENIED_INTERVAL_S
        return changed

    def standby(self, service: str, now: float) -> bool:
        """Take the answer that another connector serves it; True if it changed the state."""
        entry = self._entries.get(service)
        if entry is None or entry.state is RegistrationState.IDLE:
            return False
        changed = entry.state is not RegistrationState.STANDBY
        entry.state = RegistrationState.STANDBY
        self.denied.discard(service)
        entry.due = now + DENIED_INTERVAL_S
        return changed

    def get_timer(self) -> float | None:
        """Return when something is due to be sent."""
        return min((entry.due for entry in self._entries.values() if entry.due is not None), default=None)

    def messages_due(self, now: float) -> list[bytes]:
        """Return the messages to send now, and schedule their repetition."""
        return [self._entries[service].message for service in self.services_due(now)]

    def services_due(self, now: float) -> list[str]:
        """Return the services to ask for now, and schedule their repetition."""
        due = []
        for service, entry in self._entries.items():
            if entry.due is None or entry.due > now:
                continue
            due.append(service)
            if entry.state in (RegistrationState.DENIED, RegistrationState.STANDBY):
                entry.due = now + DENIED_INTERVAL_S
            else:
                step = entry.sends
                entry.due = now + (FIRST_INTERVALS_S[step] if step < len(FIRST_INTERVALS_S) else LAST_INTERVAL_S)
            entry.sends += 1
        return due
