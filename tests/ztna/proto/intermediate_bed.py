"""An intermediate with a policy of three services and four agents, and helpers to talk to it in a script."""

from dataclasses import dataclass, field
from typing import Any

from ztna.proto.commands import CloseConnection, IntermediateCommand, Note, SendDatagram, SendStream
from ztna.proto.identity import Identity
from ztna.proto.intermediate import Intermediate
from ztna.proto.limits import IntermediateLimits
from ztna.proto.packet import build_udp
from ztna.proto.policy import Policy
from ztna.proto.signalling import FrameReader, SignallingMessage, encode_frame
from ztna.proto.wire import RegisterAgent, RegisterConnector, ServiceRouted

SERVICES = {"echo": 0x64400064, "http": 0x64400065, "game": 0x64400066}
AGENTS = {f"agent-{number}": 0x64400100 + number for number in range(1, 5)}
ECHO, HTTP, GAME = SERVICES.values()
AGENT_1, AGENT_2, AGENT_3, AGENT_4 = AGENTS.values()


def dotted(address: int) -> str:
    return ".".join(str(byte) for byte in address.to_bytes(4, "big"))


def document(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "services": {name: {"virtual_ip": dotted(address)} for name, address in SERVICES.items()},
        "agents": {
            name: {"virtual_ip": dotted(address), "services": list(SERVICES)} for name, address in AGENTS.items()
        },
        "connectors": {
            "connector": {"services": list(SERVICES)},
            "other": {"services": list(SERVICES)},
            "narrow": {"services": ["echo"]},
        },
        "revoked": [],
    }
    return base | changes


def agent(name: str = "agent-1", fingerprint: str = "aa") -> Identity:
    return Identity("agent", "lab", name, frozenset({"agent:*"}), fingerprint)


def connector(name: str = "connector", fingerprint: str = "cc") -> Identity:
    return Identity("connector", "lab", name, frozenset({"connector:*"}), fingerprint)


@dataclass
class Bed:
    """The intermediate under test; `take` empties its commands, Notes left out unless asked for."""

    allow_anonymous: bool = False
    limits: IntermediateLimits = field(default_factory=IntermediateLimits)
    policy: Policy = field(default_factory=lambda: Policy.from_json(document()))
    now: float = 0.0

    def __post_init__(self) -> None:
        self.core = Intermediate(self.policy, allow_anonymous=self.allow_anonymous, limits=self.limits)
        self.stats = self.core.stats

    def take(self, *, notes: bool = False) -> list[IntermediateCommand]:
        commands = []
        while (command := self.core.next_command()) is not None:
            if notes or not isinstance(command, Note):
                commands.append(command)
        return commands

    def open(self, conn: int, identity: Identity | None) -> None:
        self.core.connection_opened(conn, identity, ("203.0.113.5", 1000 + conn), self.now)

    def close(self, conn: int) -> None:
        self.core.connection_closed(conn, self.now)

    def send(self, conn: int, data: bytes) -> list[IntermediateCommand]:
        """Feed one DATAGRAM and return what it caused."""
        self.take()
        self.core.datagram_received(conn, data, self.now)
        return self.take()

    def agent(self, conn: int, name: str | None = "agent-1", *services: str) -> None:
        """Open an agent connection (`name` None: anonymous) registered for services, by default echo."""
        self.open(conn, None if name is None else agent(name))
        for service in services or ("echo",):
            self.core.datagram_received(conn, RegisterAgent(service).encode(), self.now)
        self.take()

    def connector(self, conn: int, name: str | None = "connector", *services: str) -> None:
        """Open a connector connection serving services, by default echo."""
        self.open(conn, None if name is None else connector(name))
        for service in services or ("echo",):
            self.core.datagram_received(conn, RegisterConnector(service).encode(), self.now)
        self.take()

    def routed(self, conn: int, packet: bytes, service: str = "echo") -> list[IntermediateCommand]:
        return self.send(conn, ServiceRouted(service, packet).encode())

    def signal(
        self, conn: int, message: SignallingMessage, stream_id: int = 0, *, fin: bool = False
    ) -> list[tuple[int, int, SignallingMessage]]:
        """Feed one signalling message; return (connection, stream, message) for each that it caused."""
        self.take()
        self.core.stream_received(conn, stream_id, encode_frame(message), fin, self.now)
        return self.signalled()

    def signalled(self) -> list[tuple[int, int, SignallingMessage]]:
        sent = []
        for command in self.take():
            assert isinstance(command, SendStream)
            sent += [(command.conn, command.stream_id, message) for message in FrameReader().receive(command.data)]
        return sent

    def at(self, now: float) -> None:
        """Let time pass, firing the timer whenever it is due."""
        while (timer := self.core.get_timer()) is not None and timer <= now:
            self.core.handle_timer(timer)
        self.now = now


def to_echo(source: int = AGENT_1, port: int = 4000, payload: bytes = b"hello") -> bytes:
    return build_udp(source, port, ECHO, 9999, payload)


def from_echo(destination: int = AGENT_1, port: int = 4000, payload: bytes = b"hello") -> bytes:
    return build_udp(ECHO, 9999, destination, port, payload)


__all__ = ["CloseConnection", "SendDatagram", "SendStream"]
