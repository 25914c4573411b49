"""Sessions that a connector brought over the loss of its connection to the intermediate, until that names them again.

An honest agent takes its sessions up within seconds. One that was revoked meanwhile does not come back to be told, and
its direct path needs no intermediate: so the connector asks about what was not named in time, and ends what the
intermediate does not know. Before the question, "unknown" only means that the agent has not come back yet.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

CONFIRM_S: Final = 15.0
"""An agent finds an intermediate that was restarted within 10 s."""


class Unconfirmed:
    """See the module.

    Args:
        ask: says something about a session to the intermediate, which answers `unknown-session` if it does not know it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, ask: Callable[[bytes], None]) -> None:
        self._loop = loop
        self._ask = ask
        self._waiting: set[bytes] = set()
        self._asked: set[bytes] = set()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, sessions: Iterable[bytes]) -> None:
        """There is a connection to an intermediate, perhaps another one: it has named none of these yet."""
        self.close()
        self._waiting = set(sessions)
        if self._waiting:
            self._timer = self._loop.call_later(CONFIRM_S, self._due)

    def confirmed(self, session: bytes) -> None:
        """The intermediate spoke about a session, or the session is over."""
        self._waiting.discard(session)
        self._asked.discard(session)

    def denied(self, session: bytes) -> bool:
        """The intermediate does not know a session: whether that ends it."""
        return session in self._asked

    def close(self) -> None:
        """Ask nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._waiting.clear()
        self._asked.clear()

    def _due(self) -> None:
        self._timer = None
        self._asked, self._waiting = self._waiting, set()
        for session in list(self._asked):
            self._ask(session)
