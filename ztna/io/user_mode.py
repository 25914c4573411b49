"""User mode of the agent, without any privilege: a local TCP or UDP port stands for a port of a service.

Flow: local client -> listener -> stream or UDP flow of a session (`ztna.io.session.forwards`). Where the connector
speaks only `ztna-v1`: listener -> `UserStack` (IP packets) -> agent -> relay, and back; TCP is then terminated twice,
by the kernel for the client and by the stack for the service, with back-pressure from one to the other.
"""

import contextlib
import os
import socket
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any, Final

from ztna.config import ConfigError, ForwardConfig
from ztna.config_types import ServiceConfig
from ztna.io.lazy_timer import LazyTimer
from ztna.io.metrics import Sample, counters_of
from ztna.io.resolve import address_family
from ztna.io.session.forwards import SessionForwards
from ztna.io.session.session import Session
from ztna.io.tcp_sockets import TcpSockets
from ztna.io.udp import Address, UdpBindError, bind_error
from ztna.proto.forward import UserStack
from ztna.proto.gateway_types import CloseUdp, EmitPacket, SendUdp, UdpFailed

if TYPE_CHECKING:
    from ztna.io.agent import Agent

READS_PER_WAKE: Final = 64
ACCEPTS_PER_WAKE: Final = 16
BACKLOG: Final = 128
DRAIN_ROUNDS: Final = 8


@dataclass(slots=True)
class UserModeCounters:
    """Local clients; each datagram lost at this edge is in one `dropped_*`."""

    tcp_accepted: int = 0
    tcp_refused: int = 0
    udp_received: int = 0
    udp_sent: int = 0
    udp_unreachable: int = 0
    dropped_flow_limit: int = 0
    dropped_send_error: int = 0


class UserMode:
    """The listeners of all forwards and the stack behind them."""

    def __init__(self, agent: "Agent", forwards: Sequence[ForwardConfig]) -> None:
        self.counters = UserModeCounters()
        self._agent = agent
        self.stack = UserStack(
            int(IPv4Address(agent.virtual_ip)),
            budget_bytes=agent.control.max_packet_bytes,
            random=os.urandom,
            limits=agent.stack_limits,
        )
        self._tcp = TcpSockets(self.stack, loop=agent.loop, clock=agent.clock, on_input=self._drain_soon)
        self._timer = LazyTimer(agent.loop, agent.clock, self._due)
        self._drain_scheduled = False
        self._flows: dict[int, tuple[socket.socket, Address]] = {}
        self._flow_of: OrderedDict[tuple[int, Address], int] = OrderedDict()
        self._listeners: list[tuple[ForwardConfig, socket.socket]] = []
        self.forwards: SessionForwards | None = None
        if agent.sessions is not None:
            self.forwards = SessionForwards(
                agent.sessions, loop=agent.loop, clock=agent.clock, on_unreachable=self._unreachable,
                limits=agent.stack_limits,
            )  # fmt: skip
        try:
            for forward in forwards:
                self._listeners.append((forward, listen(forward)))
        except OSError:
            self._close_listeners()
            raise

    @property
    def addresses(self) -> list[Address]:
        """Where the forwards listen, in their order."""
        return [sock.getsockname()[:2] for _, sock in self._listeners]

    def start(self) -> None:
        """Accept local clients from now on."""
        for forward, sock in self._listeners:
            ready: Callable[..., None] = self._accept if forward.protocol == "tcp" else self._datagrams
            self._agent.loop.add_reader(sock.fileno(), ready, sock, forward.service, forward.port)
            host, port = sock.getsockname()[:2]
            self._agent.log.info(
                "forward", protocol=forward.protocol, listen=f"{host}:{port}", to=f"{forward.service}:{forward.port}"
            )

    async def close(self) -> None:
        """Close the listeners and reset what is open."""
        self._timer.close()
        if self.forwards is not None:
            self.forwards.close()
        self._tcp.close()
        self._close_listeners()

    def _close_listeners(self) -> None:
        for _, sock in self._listeners:
            self._agent.loop.remove_reader(sock.fileno())
            sock.close()
        self._listeners.clear()

    # the agent's local side

    def packet_received(self, packet: bytes) -> None:
        """A packet of a service."""
        self.stack.packet_received(packet, self._agent.clock())

    def packets_received(self, packets: Sequence[bytes]) -> None:
        """Packets of one session's batch."""
        now, receive = self._agent.clock(), self.stack.packet_received
        for packet in packets:
            receive(packet, now)

    @property
    def capabilities(self) -> tuple[str, ...]:
        """Nothing that a peer would have to know."""
        return ()

    def mtu_changed(self, mtu_bytes: int) -> None:
        """Follow the DATAGRAM limit."""
        self.stack.set_budget(mtu_bytes)

    def batch_ended(self) -> None:
        """Answer the packets of this batch within it."""
        self._drain()

    def flow_received(self, session: Session, flow: int, payload: bytes) -> None:
        """A UDP payload of a session's flow."""
        if self.forwards is not None:
            self.forwards.flow_received(session, flow, payload)

    def flow_failed(self, session: Session, flow: int, error: str) -> None:
        """A session's UDP flow has no backend."""
        if self.forwards is not None:
            self.forwards.flow_failed(session, flow, error)

    def flow_closed(self, session: Session, flow: int) -> None:
        """The connector forgot a session's UDP flow."""
        if self.forwards is not None:
            self.forwards.flow_closed(session, flow)

    def sessions_changed(self) -> None:
        """Let clients that wait for a session use it."""
        if self.forwards is not None:
            self.forwards.sessions_changed()

    def _unreachable(self) -> None:
        self.counters.udp_unreachable += 1

    def status(self) -> dict[str, Any]:
        """The forwards and what is open."""
        return {
            "mode": "user",
            "forwards": [
                {
                    "protocol": forward.protocol,
                    "listen": "{}:{}".format(*sock.getsockname()[:2]),
                    "service": forward.service,
                    "port": forward.port,
                }
                for forward, sock in self._listeners
            ],
            "flows": self._open_flows(),
        }

    def _open_flows(self) -> dict[str, int]:
        sessions, forwards = self._agent.sessions, self.forwards
        tcp, udp = self.stack.tcp_sessions, self.stack.udp_flows
        if sessions is not None and forwards is not None:
            tcp += forwards.tcp_waiting + sum(len(sessions.streams_of(session)) for session in sessions.sessions)
            udp += forwards.udp_flows
        return {"udp": udp, "tcp": tcp}

    def samples(self, prefix: str) -> list[Sample]:
        """Local clients and the stack."""
        return [
            *counters_of(f"{prefix}_forward", "Local clients", self.counters),
            *counters_of(f"{prefix}_stack", "User-mode stack", self.stack.stats),
            *(
                []
                if self.forwards is None
                else counters_of(f"{prefix}_session_forward", "Forwards over sessions", self.forwards.counters)
            ),
        ]

    # local clients

    def _by_session(self, service: str) -> SessionForwards | None:
        """What carries a service's clients, None if the stack does."""
        sessions = self._agent.sessions
        return None if sessions is None or sessions.legacy(service) else self.forwards

    def _address_of(self, service: str) -> int:
        return int(IPv4Address(self._agent.virtual_ips[service]))

    def _accept(self, listener: socket.socket, service: str, port: int) -> None:
        forwards = self._by_session(service)
        for _ in range(ACCEPTS_PER_WAKE):
            try:
                sock, _ = listener.accept()
            except OSError:
                # EAGAIN: nobody waits. EMFILE and the like: the kernel keeps the client waiting.
                break
            sock.setblocking(False)
            if forwards is not None:
                self._forward(forwards, sock, service, port)
                continue
            session = self.stack.open_tcp(self._address_of(service), port, self._agent.clock())
            if session is None:
                self.counters.tcp_refused += 1
                sock.close()
                continue
            self.counters.tcp_accepted += 1
            self._tcp.adopt(session, sock)
        self._drain_soon()

    def _forward(self, forwards: SessionForwards, sock: socket.socket, service: str, port: int) -> None:
        if forwards.adopt(sock, service, port):
            self.counters.tcp_accepted += 1
        else:
            self.counters.tcp_refused += 1
            sock.close()

    def _datagrams(self, sock: socket.socket, service: str, port: int) -> None:
        now, stack, forwards = self._agent.clock(), self.stack, self._by_session(service)
        destination = self._address_of(service)
        for _ in range(READS_PER_WAKE):
            try:
                data, source = sock.recvfrom(65535)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                # The ICMP error of an answer to a client that is gone.
                continue
            self.counters.udp_received += 1
            if forwards is not None:
                forwards.datagram(sock, source[:2], service, port, data)
                continue
            key = (sock.fileno(), source[:2])
            flow = self._flow_of.get(key)
            if flow is None:
                flow = stack.open_udp(destination, port, now)
                if flow is None:
                    self.counters.dropped_flow_limit += 1
                    continue
                self._flow_of[key] = flow
                self._flows[flow] = (sock, source[:2])
            stack.udp_received(flow, data, now)
        self._drain_soon()

    def _send(self, flow: int, data: bytes) -> None:
        known = self._flows.get(flow)
        if known is None:
            return
        try:
            known[0].sendto(data, known[1])
            self.counters.udp_sent += 1
        except OSError:
            self.counters.dropped_send_error += 1

    def _forget_flow(self, flow: int) -> None:
        known = self._flows.pop(flow, None)
        if known is not None:
            self._flow_of.pop((known[0].fileno(), known[1]), None)

    # the stack's commands

    def _drain(self) -> None:
        """Take the stack's commands until it has none, or only TCP data that the DATAGRAM queue has no room for."""
        stack, agent = self.stack, self._agent
        for _ in range(DRAIN_ROUNDS):
            stack.room = agent.uplink.room
            packets: list[bytes] = []
            while (command := stack.next_command()) is not None:
                match command:
                    case EmitPacket(packet):
                        packets.append(packet)
                    case SendUdp(flow, data):
                        self._send(flow, data)
                    case CloseUdp(flow):
                        self._forget_flow(flow)
                    case UdpFailed():
                        self.counters.udp_unreachable += 1
                    case _:
                        self._tcp.execute(command)
            agent.send_packets(packets)
            if stack.room or not agent.uplink.room:
                break
        else:
            self._drain_soon()
        self._timer.arm(stack.get_timer())

    def _drain_soon(self) -> None:
        """A local client spoke: drain once all sockets that are ready in this turn of the loop have."""
        if not self._drain_scheduled:
            self._drain_scheduled = True
            self._agent.loop.call_soon(self._drain_now)

    def _drain_now(self) -> None:
        self._drain_scheduled = False
        self._drain()
        self._agent.flush()

    def _due(self) -> None:
        self.stack.handle_timer(self._agent.clock())
        self._drain_now()


def listen(forward: ForwardConfig) -> socket.socket:
    """The non-blocking listening socket of a forward; raises UdpBindError naming the forward."""
    host, port = forward.listen
    kind = socket.SOCK_STREAM if forward.protocol == "tcp" else socket.SOCK_DGRAM
    sock = socket.socket(address_family(host), kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        if forward.protocol == "tcp":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        if forward.protocol == "tcp":
            sock.listen(BACKLOG)
    except OSError as exc:
        sock.close()
        error = bind_error(exc, host, port, "forwards.listen")
        text = str(error).replace("bind UDP", f"bind {forward.protocol.upper()}").replace("-lunp", "-ltunp")
        raise UdpBindError(error.errno or 0, text) from exc
    return sock


def parse_forward(text: str, protocol: str, services: Sequence[ServiceConfig]) -> ForwardConfig:
    """Read `[ADDR:]PORT=SERVICE:PORT`; raises ConfigError naming the option and the form."""
    option = "--forward" if protocol == "tcp" else "--forward-udp"
    local, equals, remote = text.partition("=")
    host, colon, port = local.rpartition(":")
    service, remote_colon, remote_port = remote.rpartition(":")
    numbers: list[int] = []
    for number in (port, remote_port):
        with contextlib.suppress(ValueError):
            numbers.append(int(number))
    if not (equals and remote_colon and service) or len(numbers) != 2 or not all(0 <= n < 65536 for n in numbers):
        raise ConfigError(f"{option}: {text!r} is not [ADDR:]PORT=SERVICE:PORT, like 8080=http-app:80")
    known = [entry.id for entry in services]
    if service not in known:
        raise ConfigError(f"{option}: {text!r} names service {service!r}; the agent has {', '.join(known)}")
    return ForwardConfig(
        protocol=protocol,
        listen=(host.strip("[]") if colon else "127.0.0.1", numbers[0]),
        service=service,
        port=numbers[1],
    )
