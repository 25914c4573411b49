"""Where an intermediate and its relay of sessions meet: control plane, STUN, admin socket, status."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ztna.io.admin import AdminBindError, AdminServer, relay_verb
from ztna.io.forward.choose import Mode
from ztna.io.forward.types import ForwardError
from ztna.io.material import forward_limits
from ztna.io.metrics import Sample
from ztna.io.relay import Relay
from ztna.io.udp import Address, Datagram
from ztna.proto.commands import CloseRelay, OpenRelay
from ztna.proto.paths.stun_types import Endpoint
from ztna.proto.relay_addresses import canonical

if TYPE_CHECKING:
    from ztna.io.intermediate import IntermediateServer

__all__ = ["SessionRelay"]


class SessionRelay:
    """The relay of one intermediate. Make it once the main socket, STUN and the control plane are there.

    Args:
        admin_socket: where to make the admin socket unless the config says, None for nowhere.

    Raises:
        ConfigError: the limits cannot be used.
    """

    def __init__(self, server: "IntermediateServer", admin_socket: Path | None) -> None:
        config = server.config
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._drain_scheduled = False
        self._wants_admin = config.admin_socket is not None
        path = config.admin_socket or admin_socket
        self.admin = None if path is None else AdminServer(path, self._administer)
        self.relay = Relay(
            server.udp,
            mode=cast(Mode, config.relay),
            workers=config.relay_workers,
            limits=forward_limits(config),
            own_ports=tuple(port for _, port in server.stun.corners.values()),
            own_host=config.relay_own_host,
            log=server.log,
            clock=server.now,
            on_local=self._on_local,
            on_ready=self._on_ready,
            on_lost=self._on_lost,
        )

    async def start(self) -> None:
        """Choose the back end, take the control plane's commands, and open the admin socket.

        Raises:
            OSError: the config demands the kernel's back end and it is not possible, or names an admin socket that
                cannot be made.
        """
        try:
            self.relay.start(self._loop)
        except ForwardError as exc:
            raise OSError(f'relay: {exc}; set "relay" to "auto" to forward in user space instead') from exc
        self._server.on_relay_command = self._on_command
        self._server.on_session_proven = self._on_proven
        if self.admin is None:
            return
        try:
            await self.admin.start()
        except AdminBindError as exc:
            if self._wants_admin:
                raise
            self.admin = None
            self._server.log.warning("no admin socket", detail=str(exc))

    async def close(self, *, leave: bool = False) -> None:
        """Forward nothing more and leave nothing behind, or what a next process takes over; idempotent."""
        self.relay.close(leave=leave)
        if self.admin is not None:
            await self.admin.close()

    def status(self) -> Mapping[str, Any]:
        """Key "relay" of /status."""
        return self.relay.status()

    def samples(self) -> list[Sample]:
        """Metrics `ztna_relay_*` of sessions."""
        return self.relay.samples()

    def _on_command(self, command: OpenRelay | CloseRelay) -> None:
        if isinstance(command, OpenRelay):
            self.relay.open(command.session, command.key, command.agent, command.connector)
        else:
            self.relay.close_session(command.session, command.reason)

    def _on_proven(self, session: bytes, role: str, counter: int, source: Address) -> None:
        self.relay.prove(session, role, counter, canonical(*source))

    def _on_local(self, data: bytes, source: Endpoint) -> None:
        """A datagram that a socket of the relay got: STUN of its peer, or anything from somebody else."""
        # Opening a socket may yield strays while the endpoint is amid a batch.
        datagram: Datagram = (data, source)
        self._loop.call_soon(self._server.endpoint.receive, [datagram])

    def _on_ready(self, session: bytes, backend: str) -> None:
        self._server.control.relay_ready(session, backend, self._server.now())
        self._schedule_drain()

    def _on_lost(self, session: bytes, reason: str) -> None:
        self._server.control.relay_lost(session, reason, self._server.now())
        self._schedule_drain()

    def _schedule_drain(self) -> None:
        # Often told from within a batch, whose end drains anyway; but also by clocks and by the admin.
        if not self._drain_scheduled:
            self._drain_scheduled = True
            self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        self._drain_scheduled = False
        self._server.drain_commands()

    def _administer(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        verb = relay_verb(request)
        if verb != "status":
            refused = self.relay.set_enabled(verb == "on")
            if refused is not None:
                raise ValueError(refused)
        return self.status()
