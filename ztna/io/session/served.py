"""What belongs to a session at the connector, besides the session; and sums over all of them."""

from collections.abc import Iterable

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
