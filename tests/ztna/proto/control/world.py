"""An intermediate and clients of both protocols in one process and virtual time: what is sent arrives at once.

Clients of `ztna-v2` are the product's own; proofs are made and judged by a stand-in for the signature, so that every
byte of the rest is the real one.
"""

import hashlib
import itertools
from dataclasses import dataclass, field
from typing import Any

from tests.ztna.proto.intermediate_bed import document
from ztna.proto.agent import AgentControl
from ztna.proto.client import ClientControl, DeliverPacket, Note, ReconnectAt, SendDatagram, SendStream
from ztna.proto.commands import CloseConnection, CloseRelay, OpenRelay, PingConnection
from ztna.proto.commands import SendDatagram as ToClient
from ztna.proto.commands import SendStream as StreamToClient
from ztna.proto.connector import ConnectorControl
from ztna.proto.control.client import Abandon, ControlClient
from ztna.proto.control.events import ControlEvent
from ztna.proto.control.messages import ControlMessage, FrameReader, Hello, decode, encode_frame
from ztna.proto.control.proof import ProofError, proof_message
from ztna.proto.control.server import ControlServer
from ztna.proto.identity import Identity
from ztna.proto.intermediate import Intermediate
from ztna.proto.limits import ControlLimits, IntermediateLimits
from ztna.proto.policy import Policy

LEAF = hashlib.sha256(b"the relay's leaf").digest()
RELAY = ("198.51.100.1", 4433)
SERVICES = ["echo", "http"]


def signature(uri: bytes, nonce: bytes, leaf_sha256: bytes) -> bytes:
    """What only the holder of an identity can make, in this world."""
    return hashlib.sha256(b"secret of " + uri + proof_message("control", nonce, leaf_sha256)).digest()


def identity_of(uri: str, fingerprint: str = "aa") -> Identity:
    _, _, _, role, name = uri.split("/")
    return Identity(role, "lab", name, frozenset({f"{role}:*"}), fingerprint)


def judge(hello: Hello, nonce: bytes, leaf_sha256: bytes) -> Identity:
    """The stand-in of `ztna.io.proof`: the certificate is the URI itself."""
    (uri,) = hello.chain
    if hello.signature != signature(uri, nonce, leaf_sha256):
        raise ProofError("the signature does not verify")
    return identity_of(uri.decode())


@dataclass(eq=False)
class Member:
    """One client: its cores, what it was told, and the number of its present connection."""

    world: "World"
    role: str
    name: str
    core: ClientControl
    control: ControlClient
    conn: int = 0
    events: list[ControlEvent] = field(default_factory=list)
    packets: list[bytes] = field(default_factory=list)
    abandoned: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    signalled: list[tuple[int, bytes]] = field(default_factory=list)
    """What arrived beside the control stream."""
    address: tuple[str, int] = ("203.0.113.5", 40000)
    frozen: bool = False
    """Whether it does nothing, not even acknowledge; what is sent to it waits."""
    held: list[tuple[int, bytes]] = field(default_factory=list)

    @property
    def uri(self) -> str:
        return f"spiffe://lab/{self.role}/{self.name}"

    def dial(self) -> "Member":
        """Connect (anew), and run until nothing is left to say."""
        self.conn = next(self.world.conns)
        self.world.members[self.conn] = self
        self.world.packets[self.conn] = (1, 0)
        uri = self.uri.encode()
        self.control.connected(LEAF, RELAY, lambda nonce, leaf: ([uri], signature(uri, nonce, leaf)), self.world.now)
        self.world.control.connection_opened(self.conn, self.address, LEAF, self.world.now)
        self.world.run()
        return self

    def lose(self) -> "Member":
        """The connection breaks; both ends notice."""
        conn, self.conn = self.conn, 0
        self.frozen, self.held = False, []
        self.world.members.pop(conn, None)
        self.world.control.connection_closed(conn, self.world.now)
        self.control.disconnected()
        self.core.disconnected(self.world.now)
        self.world.run()
        return self

    def freeze(self) -> "Member":
        """Stop, without a word and without the connection noticing."""
        self.frozen = True
        return self

    def thaw(self) -> "Member":
        """Go on where it stopped: everything that waits arrives."""
        self.frozen = False
        sent, _ = self.world.packets[self.conn]
        self.world.packets[self.conn] = sent, sent - 1
        held, self.held = self.held, []
        for stream_id, data in held:
            self.control.stream_received(stream_id, data, False, self.world.now)
        self.world.run()
        return self

    def take(self, kind: type | None = None) -> list[Any]:
        """Return the events since the last call, of one kind if asked."""
        self.world.drain(self)
        found, self.events = self.events, []
        return [event for event in found if kind is None or isinstance(event, kind)]

    def say(self, *messages: ControlMessage) -> None:
        """Send messages past our own client."""
        self.say_bytes(b"".join(map(encode_frame, messages)))

    def say_bytes(self, data: bytes, stream_id: int = 0, *, fin: bool = False) -> None:
        self.world.control.stream_received(self.conn, stream_id, data, fin, self.world.now)
        self.world.run()


@dataclass
class World:
    """The intermediate, its members, and the commands for its shell."""

    limits: ControlLimits = field(default_factory=ControlLimits)
    relay_limits: IntermediateLimits = field(default_factory=IntermediateLimits)
    allow_anonymous: bool = False
    now: float = 1000.0

    def __post_init__(self) -> None:
        self.conns = itertools.count(1)
        self.members: dict[int, Member] = {}
        self.relayed: list[OpenRelay | CloseRelay] = []
        self.closed: list[CloseConnection] = []
        self.raw: list[ToClient | StreamToClient] = []
        self.notes: list[str] = []
        self.rtt: dict[int, float] = {}
        self.packets: dict[int, tuple[int, int]] = {}
        """By connection: number of the next packet sent, largest number acknowledged."""
        self.pings: list[tuple[float, int]] = []
        self.entropy = itertools.count(1)
        self.start_relay()

    def random(self, size: int) -> bytes:
        return hashlib.shake_256(b"%d" % next(self.entropy)).digest(size)

    def start_relay(self) -> None:
        """Start the intermediate, or a new one that knows nothing."""
        self.relay = Intermediate(
            Policy.from_json(document()),
            allow_anonymous=self.allow_anonymous,
            limits=self.relay_limits,
            control_limits=self.limits,
        )
        self.control = ControlServer(
            self.relay,
            verify=judge,
            random=self.random,
            rtt_s=self.rtt.get,
            packets=self.packets.get,
            limits=self.limits,
        )

    def restart_relay(self) -> None:
        """Every connection is lost and everything forgotten; members notice but do not dial yet."""
        members, self.members = list(self.members.values()), {}
        self.start_relay()
        for member in members:
            member.lose()

    def agent(self, name: str = "agent-1", services: list[str] | None = None, *, epoch: int = 1) -> Member:
        addresses = {name: f"100.64.0.{100 + n}" for n, name in enumerate(services or SERVICES)}
        core = AgentControl(addresses, "100.64.1.1", random=lambda: 0.0)
        return Member(self, "agent", name, core, ControlClient(core, role="agent", epoch=epoch, software="test"))

    def connector(self, name: str = "connector", services: list[str] | None = None, *, epoch: int = 1) -> Member:
        core = ConnectorControl(services or SERVICES, random=lambda: 0.0)
        return Member(self, "connector", name, core, ControlClient(core, role="connector", epoch=epoch))

    def run(self) -> None:
        """Deliver everything until nobody has anything to say."""
        busy = True
        while busy:
            busy = False
            while (command := self.relay.next_command()) is not None:
                busy = True
                self._from_relay(command)
            for member in list(self.members.values()):
                busy |= self.drain(member)

    def _from_relay(self, command: object) -> None:
        match command:
            case StreamToClient(conn, stream_id, data) if conn in self.members and stream_id > 1:
                self.members[conn].signalled.append((stream_id, data))
            case StreamToClient(conn, stream_id, data) if conn in self.members and self.members[conn].frozen:
                self.members[conn].held.append((stream_id, data))
            case StreamToClient(conn, stream_id, data) if conn in self.members:
                self.members[conn].control.stream_received(stream_id, data, False, self.now)
            case ToClient(conn, data) if conn in self.members:
                self.members[conn].core.datagram_received(data, self.now)
            case CloseConnection(conn, _, reason):
                assert isinstance(command, CloseConnection)
                self.closed.append(command)
                if conn in self.members:
                    self.members[conn].closed.append(reason)
                    self.members[conn].lose()
            case PingConnection(conn):
                self.pings.append((self.now, conn))
                number, acknowledged = self.packets[conn]
                lives = conn in self.members and not self.members[conn].frozen
                self.packets[conn] = number + 1, number if lives else acknowledged
            case OpenRelay() | CloseRelay():
                self.relayed.append(command)
            case ToClient() | StreamToClient():
                self.raw.append(command)
            case _:
                self.notes.append(getattr(command, "event", ""))

    def drain(self, member: Member) -> bool:
        """Do what a client asks for, and keep its events; whether there was anything."""
        busy = False
        if member.frozen:
            return busy
        while (command := member.control.next_command()) is not None:
            busy = True
            if isinstance(command, Abandon):
                member.abandoned.append(command.reason)
            elif member.conn:
                self.control.stream_received(member.conn, command.stream_id, command.data, False, self.now)
        while (event := member.control.next_event()) is not None:
            member.events.append(event)
        while (out := member.core.next_command()) is not None:
            busy = True
            match out:
                case SendDatagram(data):
                    self.relay.datagram_received(member.conn, data, self.now)
                case DeliverPacket(packet):
                    member.packets.append(packet)
                case SendStream() | ReconnectAt() | Note():
                    pass
                case _:
                    member.events.append(out)
        return busy

    def at(self, now: float) -> None:
        """Let time pass, firing every timer when it is due."""
        while True:
            timers: list[tuple[float, Any]] = [
                (at, part)
                for part in (
                    self.relay,
                    self.control,
                    *(
                        core
                        for member in self.members.values()
                        for core in (member.core, member.control)
                        if not member.frozen
                    ),
                )
                if (at := part.get_timer()) is not None and at <= now
            ]
            if not timers:
                break
            at, part = min(timers, key=lambda timer: timer[0])
            self.now = max(self.now, at)
            part.handle_timer(self.now)
            self.run()
        self.now = now

    def sent(self, conn: int) -> list[ControlMessage]:
        """Messages to a connection that has no member."""
        data = b"".join(
            command.data for command in self.raw if isinstance(command, StreamToClient) and command.conn == conn
        )
        self.raw = [command for command in self.raw if command.conn != conn]
        return [decode(body) for body in FrameReader().receive(data)]
