"""What belongs to a session at the agent, besides the session."""

from ztna.io.session.session import Session
from ztna.io.session.streams import StreamTable
from ztna.proto.end_to_end import FrameBuffer


class AskedSession:
    """What belongs to one session besides the session.

    A session carries a service if three agree: the intermediate (`granted`), the connector (`served`), and the
    connector's certificate with the agent's own profile.
    """

    __slots__ = ("granted", "hello", "nonce", "served", "session", "streams")

    def __init__(self, session: Session, nonce: bytes, granted: tuple[str, ...], streams: StreamTable) -> None:
        self.session = session
        self.nonce = nonce
        self.granted = granted
        self.served: tuple[str, ...] = ()
        self.hello = FrameBuffer()
        self.streams = streams
