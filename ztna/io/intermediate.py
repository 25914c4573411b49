"""The intermediate as a process: config and certificates around the sans-IO core `ztna.proto.intermediate`.

    socket -> STUN hook | QUIC endpoint -> core -> commands -> QUIC endpoint -> socket

ALPN tells the protocols apart: streams of `ztna-v2` go to `ztna.proto.control.server`, everything else to the core.

One thread, one loop. SIGHUP reads the config file's certificates and policy again for what comes from then on; a
failure keeps the old ones and says why. SIGTERM and SIGINT close every connection and exit with 0 within 3 seconds.
"""

import asyncio
import contextlib
import math
import os
import secrets
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from ztna.config import ConfigError, IntermediateConfig, load_intermediate
from ztna.io.admin import DEFAULT_NAME as ADMIN_SOCKET
from ztna.io.http import HttpServer, Response, role_routes
from ztna.io.intermediate_relay import SessionRelay
from ztna.io.intermediate_status import samples_of, status_of
from ztna.io.logs import Logger, setup
from ztna.io.material import control_limits, load_material, load_policy, relay_limits
from ztna.io.metrics import CONTENT_TYPE, render
from ztna.io.quic import QuicEndpoint
from ztna.io.quic_peer import Peer
from ztna.io.quic_types import (
    ALPN_V2,
    AddressChanged,
    Closed,
    Connected,
    PeerEvent,
    PeerRejected,
    StreamReceived,
)
from ztna.io.runtime import on_signals, settle_memory, version
from ztna.io.runtime import run as run_loop
from ztna.io.stun import StunResponder
from ztna.io.udp import Address, UdpSocket
from ztna.proto.commands import CloseConnection, CloseRelay, Note, OpenRelay, PingConnection, SendDatagram, SendStream
from ztna.proto.control.server import ControlServer
from ztna.proto.identity import Identity
from ztna.proto.intermediate import Intermediate
from ztna.proto.policy import Policy

DRAIN_REASON: Final = "server shutting down"
DRAIN_S: Final = 2.4
DRAIN_NOTICE_S: Final = 0.1
CONTROL_FULL: Final = "control stream is full"
POLICY_CHECK_S: Final = 2.0
FIXED: Final = (
    "bind_addr", "port", "alternate_port", "alternate_addr", "external_ip", "relay", "relay_workers", "relay_own_host",
    "admin_socket", "http", "limits",
)  # fmt: skip
"""Keys that a reload does not apply."""


class IntermediateServer:
    """One running intermediate. `start`, then `stop`; `reload` in between.

    `on_relay_command` takes OpenRelay and CloseRelay, `on_session_proven` each authentic STUN request of a session's
    member (session, role, counter, source); who forwards packets of sessions sets them before `start`.

    Args:
        reread: returns the config to use at a reload (SIGHUP), raising ConfigError.
        admin_socket: where the admin socket is made unless the config says, None for nowhere.
    """

    def __init__(
        self,
        config: IntermediateConfig,
        log: Logger,
        *,
        reread: Callable[[], IntermediateConfig] | None = None,
        clock: Callable[[], float] = time.monotonic,
        admin_socket: Path | None = None,
    ) -> None:
        self.config = config
        self.log = log
        self._reread = reread or (lambda: config)
        self._clock = clock
        self._admin_socket = admin_socket
        self._started_at = clock()
        self._draining = False
        self._peers: dict[int, Peer] = {}
        self._core_timer: asyncio.TimerHandle | None = None
        self._core_timer_at = math.inf
        self._policy_task: asyncio.Task[None] | None = None
        self.reloads = 0
        self.reload_failures = 0
        self.on_relay_command: Callable[[OpenRelay | CloseRelay], None] | None = None
        self.on_session_proven: Callable[[bytes, str, int, Address], object] = lambda *_: None

    async def start(self) -> None:
        """Bind the ports and serve.

        Raises:
            ConfigError: certificates, policy or limits cannot be used.
            UdpBindError, HttpBindError, AdminBindError: a port or the admin socket cannot be bound.
            OSError: the config demands a back end of the relay that is not possible.
        """
        config, loop = self.config, asyncio.get_running_loop()
        material = self._material = load_material(config)
        self._policy_stamp = _stamp(config.policy_path)
        limits = control_limits(config)
        self.core = Intermediate(
            material.policy,
            allow_anonymous=config.allow_anonymous_v1,
            limits=relay_limits(config),
            control_limits=limits,
        )
        self.control = ControlServer(
            self.core,
            verify=lambda *proof: self._material.verify(*proof),
            random=secrets.token_bytes,
            rtt_s=self._rtt_s,
            packets=self._packets,
            limits=limits,
            lease_s=material.settings.idle_timeout_s,
        )
        self.udp = UdpSocket(config.bind_addr, config.port)
        try:
            self.stun = self._start_stun(loop)
            self.endpoint = QuicEndpoint(
                self.udp,
                server=material.settings,
                on_event=self._on_event,
                on_datagram=self._on_datagram,
                on_batch_end=self._drain_commands,
                on_problem=self._on_problem,
                non_quic=self.stun.handle,
                clock=self._clock,
                loop=loop,
            )
            self.relay = SessionRelay(self, self._admin_socket)
            await self.relay.start()
            self.http = HttpServer(role_routes(ready=self.not_ready, metrics=self._metrics, status=self.status))
            self.http_address: tuple[str, int] | None = None
            if config.http.port or config.port == 0:
                self.http_address = await self.http.start(config.http.addr, config.http.port)
        except BaseException:
            if hasattr(self, "relay"):
                await self.relay.close()
            self.udp.close()
            raise
        self.endpoint.start()
        self._policy_task = loop.create_task(self._watch_policy())
        for warning in material.warnings:
            self.log.warning("configuration", detail=warning)
        if not config.http.is_loopback:
            self.log.warning("configuration", detail="metrics_addr is not loopback: anybody who reaches it can read it")
        self.log.info(
            "started",
            bind=f"{self.udp.local_address[0]}:{self.udp.local_address[1]}",
            http=self.http_address,
            retry=not config.disable_retry,
            receive_buffer_bytes=self.udp.receive_buffer_bytes,
            relay=self.relay.relay.chosen(),
            version=version(),
        )

    def _start_stun(self, loop: asyncio.AbstractEventLoop) -> StunResponder:
        config = self.config
        responder = StunResponder(
            self.udp,
            alternate_port=config.alternate_port or 0,
            alternate_addr=config.alternate_addr,
            external_ip=config.external_ip,
            clock=self._clock,
            session_binding=self.control.session_key,
            session_proven=lambda *proven: self.on_session_proven(*proven),
        )
        if config.alternate_port is not None:
            responder.start(loop)
        corners = sorted(responder.corners.items())
        # Clients know the primary address and port as what they dialled.
        self.control.stun = tuple(
            (host if corner[0] else "", port if any(corner) else 0) for corner, (host, port) in corners
        )
        return responder

    async def stop(self, *, leave: bool = False) -> None:
        """Tell members, close every connection with `server shutting down`, within 3 s; then free the ports.

        With `leave` the kernel goes on forwarding for 30 s, for the process that comes in this one's place.
        """
        self._draining = True
        if self._policy_task is not None:
            self._policy_task.cancel()
        self.log.info("draining", connections=self.endpoint.established_count)
        self.endpoint.set_server(None)
        if self.endpoint.peers and self.control.drain(DRAIN_S):
            self.drain_commands()
            # A close frame discards what is queued before it.
            await asyncio.sleep(DRAIN_NOTICE_S)
        await self.endpoint.drain(0, DRAIN_REASON, DRAIN_S)
        if self._core_timer is not None:
            self._core_timer.cancel()
        await self.relay.close(leave=leave)
        self.endpoint.close()
        self.stun.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.http.close(), 0.3)
        self.log.info("stopped")

    def reload(self) -> bool:
        """Take certificates, CA and policy anew; on any error keep the old ones, log why, and return False."""
        try:
            config = self._reread()
            material = load_material(config)
        except ConfigError as exc:
            self.reload_failures += 1
            self.log.error("reload failed, keeping the old certificates and policy", detail=str(exc))
            return False
        self._policy_stamp = _stamp(config.policy_path)
        changed = [name for name in FIXED if getattr(config, name) != getattr(self.config, name)]
        self.config, self._material = config, material
        self.endpoint.set_server(material.settings)
        self._set_policy(material.policy)
        self.reloads += 1
        for warning in material.warnings:
            self.log.warning("configuration", detail=warning)
        self.log.info("reloaded", restart_needed_for=changed or None)
        return True

    def _set_policy(self, policy: Policy) -> None:
        self.core.set_policy(policy, self._clock())
        self.drain_commands()

    async def _watch_policy(self) -> None:
        """Follow policy.json: a revocation must bite within 5 s without anybody sending a signal."""
        while True:
            await asyncio.sleep(POLICY_CHECK_S)
            stamp = _stamp(self.config.policy_path)
            if stamp == self._policy_stamp:
                continue
            self._policy_stamp = stamp
            try:
                policy = load_policy(self.config)
            except ConfigError as exc:
                self.reload_failures += 1
                self.log.error("policy not reloaded, keeping the old one", detail=str(exc))
                continue
            self._set_policy(policy)
            self.reloads += 1
            self.log.info("policy reloaded")

    def _on_event(self, peer: Peer, event: PeerEvent) -> None:
        now, conn = self._clock(), peer.conn_id
        core = self.control if peer.alpn == ALPN_V2 else self.core
        match event:
            case StreamReceived(stream_id, data, fin):
                core.stream_received(conn, stream_id, data, fin, now)
            case Connected():
                identity = peer.identity
                assert identity is None or isinstance(identity, Identity)
                self._peers[conn] = peer
                if core is self.control:
                    self.control.connection_opened(conn, peer.address, peer.leaf_sha256, now, identity)
                else:
                    self.core.connection_opened(conn, identity, peer.address, now)
            case AddressChanged(address):
                core.address_changed(conn, address, now)
            case Closed():
                self._peers.pop(conn, None)
                core.connection_closed(conn, now)

    def _on_datagram(self, peer: Peer, data: bytes) -> None:
        self.core.datagram_received(peer.conn_id, data, self._clock())

    def _drain_commands(self) -> None:
        """Do what the core asks, then follow its timer."""
        peers, next_command = self._peers, self.core.next_command
        while (command := next_command()) is not None:
            if isinstance(command, SendDatagram):
                if (peer := peers.get(command.conn)) is not None:
                    peer.send_datagram(command.data)
            else:
                self._do(command)
        due = min((at for at in (self.core.get_timer(), self.control.get_timer()) if at is not None), default=None)
        if due is not None and due < self._core_timer_at:
            if self._core_timer is not None:
                self._core_timer.cancel()
            self._core_timer_at = due
            delay = max(0.001, due - self._clock())
            self._core_timer = asyncio.get_running_loop().call_later(delay, self._core_timer_fired)

    def drain_commands(self) -> None:
        """Do what the core asks, and send; for whoever changed its state from outside a batch."""
        self._drain_commands()
        self.endpoint.flush()

    def _do(self, command: SendStream | CloseConnection | PingConnection | OpenRelay | CloseRelay | Note) -> None:
        if isinstance(command, Note):
            getattr(self.log, command.level)(command.event, **command.fields)
            return
        if isinstance(command, OpenRelay | CloseRelay):
            if self.on_relay_command is not None:
                self.on_relay_command(command)
            return
        peer = self._peers.get(command.conn)
        if peer is None:
            return
        if isinstance(command, PingConnection):
            peer.ping()
            return
        if isinstance(command, CloseConnection):
            peer.close(command.code, command.reason, transport=True)
            return
        # Streams of ours have odd numbers (RFC 9000 section 2.1) and are first named in their order.
        opens = bool(command.stream_id & 1) and not peer.has_stream(command.stream_id)
        sent = peer.send_stream(None if opens else command.stream_id, command.data)
        if sent < 0 and peer.alpn == ALPN_V2 and command.stream_id <= 1:
            # Its messages depend on each other: a member that does not take them must begin anew.
            peer.close(0, CONTROL_FULL)

    def _rtt_s(self, conn: int) -> float | None:
        peer = self._peers.get(conn)
        return None if peer is None else peer.rtt_s

    def _packets(self, conn: int) -> tuple[int, int] | None:
        peer = self._peers.get(conn)
        return None if peer is None else (peer.next_packet_number, peer.largest_acknowledged)

    def _core_timer_fired(self) -> None:
        self._core_timer = None
        self._core_timer_at = math.inf
        now = self._clock()
        self.core.handle_timer(now)
        self.control.handle_timer(now)
        self.drain_commands()

    def now(self) -> float:
        """The monotonic time of this intermediate."""
        return self._clock()

    @property
    def uptime_s(self) -> float:
        """Seconds since it was made."""
        return self._clock() - self._started_at

    def _on_problem(self, where: str, exc: Exception) -> None:
        if isinstance(exc, PeerRejected):
            self.log.info("client refused", reason=exc.reason, detail=str(exc))
        else:
            self.log.warning("packet or connection failed", where=where, error=repr(exc))

    def not_ready(self) -> str | None:
        """Why new clients should not come, or None."""
        return "draining" if self._draining else None

    def status(self) -> dict[str, Any]:
        """What /status shows."""
        return {**status_of(self), "state": "draining" if self._draining else "ready"}

    def _metrics(self) -> Response:
        return Response(render(samples_of(self)), content_type=CONTENT_TYPE)


async def serve(
    config: IntermediateConfig, log: Logger, reread: Callable[[], IntermediateConfig], admin_socket: Path | None = None
) -> None:
    """Serve until SIGTERM, which may be a restart, or SIGINT, which is the end. A second one ends at once."""
    server = IntermediateServer(config, log, reread=reread, admin_socket=admin_socket)
    stops: asyncio.Queue[bool] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    on_signals(loop, {signal.SIGTERM: lambda: stops.put_nowait(True), signal.SIGINT: lambda: stops.put_nowait(False)})
    await server.start()
    on_signals(loop, {signal.SIGHUP: server.reload})
    settle_memory()
    leave = await stops.get()
    on_signals(loop, {signal.SIGTERM: lambda: os._exit(0), signal.SIGINT: lambda: os._exit(0)})
    await server.stop(leave=leave)


def run(path: Path) -> None:
    """Run the intermediate of a config file to its end.

    Raises:
        ConfigError, UdpBindError, HttpBindError, AdminBindError: it could not start; the text says what to change.
    """
    config = load_intermediate(path)
    log = setup(level=config.log.level, format=config.log.format, node=config.name)
    run_loop(serve(config, log, lambda: load_intermediate(path), path.parent / ADMIN_SOCKET))


def _stamp(path: Path | None) -> tuple[int, int, int] | None:
    """What changes when a file is replaced or written; None if it is not there."""
    if path is None:
        return None
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
