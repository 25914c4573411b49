"""What the two sides of a session are told of the relay's path between them.

A session whose connector does not answer is dark: its agent is told that the relay's path leads nowhere, though packets
are still forwarded, so that it neither claims that path nor gives the session up. Once the connector answers both hear
that the path is there.
"""

from collections.abc import Callable

from ztna.proto.control.messages import ControlMessage, RelayLost, RelayReady
from ztna.proto.control.sessions import Session, SessionTable
from ztna.proto.registry import Peer

__all__ = ["ABSENT", "RelayNews"]

ABSENT = "the connector does not answer"


class RelayNews:
    """See the module; `send` puts a message on a connection's control stream, `log` a line in the log."""

    def __init__(
        self, table: SessionTable, send: Callable[[Peer, ControlMessage], None], log: Callable[..., None]
    ) -> None:
        self._table = table
        self._send = send
        self._log = log

    def ready(self, session_id: bytes, backend: str) -> None:
        """Both sides proved their address: tell them that packets are forwarded."""
        session = self._table.get(session_id)
        if session is not None:
            session.relay = backend
            if not session.dark:
                self._tell_both(session, RelayReady(session.id, backend[:64]))
            self._log(session, "session relayed", backend=backend)

    def lost(self, session_id: bytes, reason: str) -> None:
        """Tell both sides that packets are not forwarded any more."""
        session = self._table.get(session_id)
        if session is not None:
            session.relay = None
            self._tell_both(session, RelayLost(session.id, reason[:256]))
            self._log(session, "session relay lost", reason=reason)

    def attached(self, session: Session, peer: Peer) -> None:
        """A member that was away is back on this connection."""
        if session.dark and session.connector.peer is peer:
            self._light(session)
        elif session.relay is not None and not session.dark:
            self._send(peer, RelayReady(session.id, session.relay[:64]))

    def absent(self, connector: Peer) -> None:
        """A connector does not answer: tell the agents of its sessions."""
        for session in self._table.of_connection(connector):
            if session.connector.peer is connector and not session.dark:
                session.dark = True
                if session.relay is not None and session.agent.peer is not None:
                    self._send(session.agent.peer, RelayLost(session.id, ABSENT))

    def back(self, connector: Peer) -> None:
        """It answered after all."""
        for session in self._table.of_connection(connector):
            if session.dark and session.connector.peer is connector:
                self._light(session)

    def _light(self, session: Session) -> None:
        session.dark = False
        if session.relay is not None:
            self._tell_both(session, RelayReady(session.id, session.relay[:64]))

    def _tell_both(self, session: Session, message: ControlMessage) -> None:
        for peer in (session.agent.peer, session.connector.peer):
            if peer is not None:
                self._send(peer, message)
