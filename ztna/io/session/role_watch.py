"""What a role watches besides its sessions: changes of this host's network, and how long its NAT keeps mappings.

Both serve every session: a change makes them look for paths anew at once, and the measured lifetime of idle mappings
sets how often idle paths are kept alive. It is measured once, on a spare socket, after the first session is ready.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from ztna.io.network_watch import NetworkWatch
from ztna.io.session import stun_codec
from ztna.io.session.session import Session
from ztna.io.udp import Run, UdpSocket
from ztna.io.uplink import Uplink
from ztna.proto.paths.lifetime import MappingLifetime
from ztna.proto.paths.stun_types import Endpoint, StunRequest, StunResponse

LOOK_EVERY_S: Final = 5.0
SPARE_BUFFER_BYTES: Final = 1 << 16


class HasSessions(Protocol):
    """The sessions of a role."""

    @property
    def sessions(self) -> list[Session]:
        """Those that are there now."""


class RoleWatch:
    """See the module. `start`, then `close`.

    Args:
        sessions: None where the role has none: then only the connection to the intermediate is told of changes.
    """

    def __init__(
        self,
        uplink: Uplink,
        sessions: HasSessions | None,
        *,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        bind_addr: str = "0.0.0.0",
    ) -> None:
        self.network = NetworkWatch(loop, self._changed)
        self.lifetime: MappingLifetime | None = None
        self._uplink = uplink
        self._sessions = sessions
        self._loop = loop
        self._clock = clock
        self._bind_addr = bind_addr
        self._spare: UdpSocket | None = None
        self._transaction = b""
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Watch from now on."""
        self.network.start()
        if self._sessions is not None:
            self._timer = self._loop.call_later(LOOK_EVERY_S, self._look)

    def close(self) -> None:
        """Watch no more."""
        self.network.close()
        if self._timer is not None:
            self._timer.cancel()
        self._close_spare()

    def status(self) -> dict[str, Any]:
        """What was seen so far, for /status."""
        lifetime = self.lifetime
        return {
            "network_changes": self.network.changes,
            "mapping_lifetime": None
            if lifetime is None
            else {
                "survived_s": round(lifetime.survived_s, 1),
                "lost_s": None if lifetime.lost_s is None else round(lifetime.lost_s, 1),
                "keepalive_s": lifetime.suggested_keepalive_s,
                "measuring": not lifetime.done,
            },
        }

    def _changed(self) -> None:
        self._uplink.network_changed()
        for session in self._ready():
            session.network_changed()
        # Another network has another NAT.
        self.lifetime = None
        self._close_spare()

    def _ready(self) -> Sequence[Session]:
        return [] if self._sessions is None else [each for each in self._sessions.sessions if not each.closed]

    def _look(self) -> None:
        self._timer = self._loop.call_later(LOOK_EVERY_S, self._look)
        ready = [session for session in self._ready() if session.ready]
        if self.lifetime is None and ready and ready[0].settings.relay is not None:
            self.lifetime = MappingLifetime()
            self.lifetime.start(self._clock())
        lifetime = self.lifetime
        if lifetime is None:
            return
        for session in ready:
            session.paths.set_keepalive(lifetime.suggested_keepalive_s)
        if lifetime.done:
            self._close_spare()
        elif lifetime.next_at is not None and lifetime.next_at <= self._clock() and ready:
            self._ask(lifetime, ready[0].settings.relay)

    def _ask(self, lifetime: MappingLifetime, server: Endpoint | None) -> None:
        """Send the request that is due; the spare socket is never used for anything else, or it would not be idle."""
        if self._transaction and not lifetime.timed_out():
            return
        if server is None or not self._open_spare() or self._spare is None:
            lifetime.next_at = None
            return
        self._transaction = os.urandom(12)
        request = stun_codec.encode(StunRequest(self._transaction, ""), b"")
        lifetime.sent(self._clock())
        self._spare.send(request, server)

    def _open_spare(self) -> bool:
        if self._spare is None:
            try:
                self._spare = UdpSocket(self._bind_addr, 0, buffer_bytes=SPARE_BUFFER_BYTES, purpose="session")
            except OSError:
                return False
            self._spare.start_runs(self._loop, self._answered)
        return True

    def _answered(self, runs: list[Run]) -> None:
        for _, run in runs:
            for data in run:
                message = stun_codec.decode(data, b"")
                if isinstance(message, StunResponse) and message.transaction == self._transaction:
                    self._transaction = b""
                    if self.lifetime is not None:
                        self.lifetime.answered(message.mapped, self._clock())

    def _close_spare(self) -> None:
        self._transaction = b""
        if self._spare is not None:
            self._spare.close()
            self._spare = None
