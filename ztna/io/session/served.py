"""What belongs to a session at the connector, besides the session."""

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
