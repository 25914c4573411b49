"""What belongs to a session or an agent at the connector, besides the session; and sums over all of them."""

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address

from ztna.io.session.flows import FlowSockets
from ztna.io.session.session import Session
from ztna.io.session.session_types import AgentTraffic
from ztna.io.session.streams import StreamTable
from ztna.proto.control.events import SessionInvited
from ztna.proto.end_to_end import FrameBuffer
from ztna.proto.identity import Identity


class ServedSession:
    """What belongs to one session besides the session."""

    __slots__ = (
        "agent",
        "agent_ip",
        "buffer",
        "capabilities",
        "flows",
        "identity",
        "leaf",
        "nonce",
        "offered",
        "session",
        "streams",
        "traffic",
    )

    def __init__(self, session: Session, invited: SessionInvited, nonce: bytes, leaf: bytes) -> None:
        self.session = session
        self.identity: Identity | None = None
        self.leaf = leaf
        """The certificate that this session's handshake shows, DER."""
        self.agent = invited.agent
        self.agent_ip = invited.agent_ip
        self.offered = tuple(invited.services)
        self.nonce = nonce
        self.buffer = FrameBuffer()
        self.capabilities: tuple[str, ...] = ()
        self.streams: StreamTable | None = None
        self.flows: FlowSockets | None = None
        self.traffic: AgentTraffic | None = None


class TrafficByAgent(dict[str, AgentTraffic]):
    """Where packets of agents go, by their SPIFFE IDs. An agent's outlives its sessions while something is open.

    Args:
        make: makes the place where the packets of an agent go, given its inner address (4 bytes).
    """

    def __init__(self, make: Callable[[bytes], AgentTraffic]) -> None:
        super().__init__()
        self._make = make

    def place_of(self, state: ServedSession) -> AgentTraffic:
        """Where the packets of a session's agent go, made if it is not there."""
        self._reap()
        inner, traffic = IPv4Address(state.agent_ip).packed, self.get(state.agent)
        if traffic is not None and traffic.agent_ip != inner:
            traffic.close()  # the policy gives the agent another address now
            traffic = None
        if traffic is None:
            traffic = self[state.agent] = self._make(inner)
        return traffic

    def close(self) -> None:
        """Forget all."""
        for traffic in self.values():
            traffic.close()
        self.clear()

    def _reap(self) -> None:
        """Forget the places of agents that have neither a session nor anything open."""
        for agent in [agent for agent, traffic in self.items() if traffic.idle]:
            self.pop(agent).close()


def open_flows(served: Iterable[ServedSession], traffic: Iterable[AgentTraffic]) -> dict[str, int]:
    """UDP flows and TCP connections open now, over sessions' own sockets and agents' packets."""
    udp = tcp = 0
    for state in served:
        udp += 0 if state.flows is None else len(state.flows)
        tcp += 0 if state.streams is None else len(state.streams)
    for each in traffic:
        more_udp, more_tcp = each.open_flows
        udp, tcp = udp + more_udp, tcp + more_tcp
    return {"udp": udp, "tcp": tcp}


def forwarded(served: Iterable[ServedSession], traffic: Iterable[AgentTraffic]) -> tuple[int, int]:
    """Packets of agents to backends, and payload bytes both ways."""
    packets = size = 0
    for state in served:
        if state.streams is not None:
            tcp = state.streams.sockets.counters
            size += tcp.bytes_sent + tcp.bytes_received
        if state.flows is not None:
            packets += state.flows.counters.to_backend
            size += state.flows.counters.bytes
    for each in traffic:
        more_packets, more_bytes = each.forwarded
        packets, size = packets + more_packets, size + more_bytes
    return packets, size
