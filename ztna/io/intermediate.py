"""The intermediate as a process: config and certificates around the sans-IO core `ztna.proto.intermediate`.

    socket -> STUN hook | QUIC endpoint -> core -> commands -> QUIC endpoint -> socket

One thread, one loop. SIGHUP reads the config file's certificates and policy again for what comes from then on; a
failure keeps the old ones and says why. SIGTERM and SIGINT close every connection and exit with 0 within 3 seconds.
"""

import asyncio
import contextlib
import math
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from ztna.config import ConfigError, IntermediateConfig, load_intermediate
from ztna.io.http import HttpServer, Response, role_routes
from ztna.io.logs import Logger, setup
from ztna.io.material import load_material, load_policy, relay_limits
from ztna.io.metrics import CONTENT_TYPE, Sample, counters_of, render
from ztna.io.quic import QuicEndpoint
from ztna.io.quic_peer import Peer
from ztna.io.quic_types import (
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
from ztna.io.udp import UdpSocket
from ztna.proto.commands import CloseConnection, Note, SendDatagram, SendStream
from ztna.proto.identity import Identity
from ztna.proto.intermediate import Intermediate
from ztna.proto.policy import Policy

DRAIN_REASON: Final = "server shutting down"
DRAIN_S: Final = 2.5
POLICY_CHECK_S: Final = 2.0


class IntermediateServer:
    """One running intermediate. `start`, then `stop`; `reload` in between.

    Args:
        reread: returns the config to use at a reload (SIGHUP), raising ConfigError.
    """

    def __init__(
        self,
        config: IntermediateConfig,
        log: Logger,
        *,
        reread: Callable[[], IntermediateConfig] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self.log = log
        self._reread = reread or (lambda: config)
        self._clock = clock
        self._started_at = clock()
        self._draining = False
        self._peers: dict[int, Peer] = {}
        self._core_timer: asyncio.TimerHandle | None = None
        self._core_timer_at = math.inf
        self._policy_task: asyncio.Task[None] | None = None
        self.reloads = 0
        self.reload_failures = 0

    async def start(self) -> None:
        """Bind the ports and serve.

        Raises:
            ConfigError: certificates, policy or limits cannot be used.
            UdpBindError, HttpBindError: a port cannot be bound.
        """
        config, loop = self.config, asyncio.get_running_loop()
        material = load_material(config)
        self._policy_stamp = _stamp(config.policy_path)
        self.core = Intermediate(
            material.policy, allow_anonymous=config.allow_anonymous_v1, limits=relay_limits(config)
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
            self.http = HttpServer(role_routes(ready=self.not_ready, metrics=self._metrics, status=self.status))
            self.http_address: tuple[str, int] | None = None
            if config.http.port or config.port == 0:
                self.http_address = await self.http.start(config.http.addr, config.http.port)
        except BaseException:
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
        )
        if config.alternate_port is not None:
            responder.start(loop)
        return responder

    async def stop(self) -> None:
        """Close every connection with `server shutting down`, within 3 s; then free the ports."""
        self._draining = True
        if self._policy_task is not None:
            self._policy_task.cancel()
        if self._core_timer is not None:
            self._core_timer.cancel()
        self.log.info("draining", connections=self.endpoint.established_count)
        await self.endpoint.drain(0, DRAIN_REASON, DRAIN_S)
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
        fixed = ("bind_addr", "port", "alternate_port", "alternate_addr", "external_ip", "http", "limits")
        changed = [name for name in fixed if getattr(config, name) != getattr(self.config, name)]
        self.config = config
        self.endpoint.set_server(material.settings)
        self._set_policy(material.policy)
        self.reloads += 1
        for warning in material.warnings:
            self.log.warning("configuration", detail=warning)
        self.log.info("reloaded", restart_needed_for=changed or None)
        return True

    def _set_policy(self, policy: Policy) -> None:
        self.core.set_policy(policy, self._clock())
        self._drain_commands()
        self.endpoint.flush()

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
        now = self._clock()
        match event:
            case StreamReceived(stream_id, data, fin):
                self.core.stream_received(peer.conn_id, stream_id, data, fin, now)
            case Connected():
                identity = peer.identity
                assert identity is None or isinstance(identity, Identity)
                self._peers[peer.conn_id] = peer
                self.core.connection_opened(peer.conn_id, identity, peer.address, now)
            case AddressChanged(address):
                self.core.address_changed(peer.conn_id, address, now)
            case Closed():
                self._peers.pop(peer.conn_id, None)
                self.core.connection_closed(peer.conn_id, now)

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
        due = self.core.get_timer()
        if due is not None and due < self._core_timer_at:
            if self._core_timer is not None:
                self._core_timer.cancel()
            self._core_timer_at = due
            delay = max(0.001, due - self._clock())
            self._core_timer = asyncio.get_running_loop().call_later(delay, self._core_timer_fired)

    def _do(self, command: SendStream | CloseConnection | Note) -> None:
        if isinstance(command, Note):
            getattr(self.log, command.level)(command.event, **command.fields)
            return
        peer = self._peers.get(command.conn)
        if peer is None:
            return
        if isinstance(command, SendStream):
            opens = command.stream_id == 1 and not peer.has_stream(1)
            peer.send_stream(None if opens else command.stream_id, command.data)
        else:
            peer.close(command.code, command.reason, transport=True)

    def _core_timer_fired(self) -> None:
        self._core_timer = None
        self._core_timer_at = math.inf
        self.core.handle_timer(self._clock())
        self._drain_commands()
        self.endpoint.flush()

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
        services = self.core.services()
        return {
            "role": "intermediate",
            "name": self.config.name,
            "state": "draining" if self._draining else "ready",
            "listen": list(self.udp.local_address),
            "connections": self.endpoint.established_count,
            "half_open": self.endpoint.half_open_count,
            "flows": self.core.flows,
            "sessions": self.core.sessions,
            "services": {name: {"connector": who, "agents": count} for name, (who, count) in services.items()},
            "counters": self.core.stats.as_dict(),
            "drops": {
                "relay": self.core.stats.drops(),
                "quic": _nonzero_drops(self.endpoint.counters),
                "udp": _nonzero_drops(self.udp.counters),
                "stun": _nonzero_drops(self.stun.counters),
                "kernel": {"receive_buffer_full": self.udp.kernel_drops},
            },
            "receive_buffer_bytes": self.udp.receive_buffer_bytes,
            "reloads": self.reloads,
            "reload_failures": self.reload_failures,
            "uptime_s": round(self._clock() - self._started_at, 3),
            "version": version(),
            "pid": os.getpid(),
        }

    def _metrics(self) -> Response:
        core, quic = self.core.stats, self.endpoint.counters
        relayed = core.datagrams_to_agents + core.datagrams_to_connectors
        samples = [
            Sample("ztna_active_connections", "Established connections", self.endpoint.established_count, "gauge"),
            Sample("ztna_uptime_seconds", "Seconds since start", self._clock() - self._started_at, "gauge"),
            Sample("ztna_relay_bytes_total", "Bytes relayed", core.bytes_to_agents + core.bytes_to_connectors),
            Sample("ztna_registrations_total", "Registrations accepted", core.registrations),
            Sample("ztna_registration_rejections_total", "Registrations refused", core.registrations_refused),
            Sample("ztna_datagrams_relayed_total", "DATAGRAM frames relayed", relayed),
            Sample("ztna_signaling_sessions_total", "Signalling sessions opened", core.sessions_opened),
            Sample("ztna_retry_tokens_validated", "Retry tokens accepted", quic.retry_tokens_validated, "unknown"),
            Sample("ztna_retry_token_failures", "Retry tokens refused", quic.retry_token_failures, "unknown"),
            Sample("ztna_half_open_connections", "Handshakes under way", self.endpoint.half_open_count, "gauge"),
            Sample("ztna_flows", "Flows with a way back", self.core.flows, "gauge"),
            Sample("ztna_reload_failures_total", "Reloads that kept the old state", self.reload_failures),
            *counters_of("ztna_core", "Relay core", core),
            *counters_of("ztna_quic", "QUIC endpoint", quic),
            *counters_of("ztna_udp", "UDP socket", self.udp.counters),
            *counters_of("ztna_http", "HTTP endpoint", self.http.counters),
            *counters_of("ztna_stun", "STUN responder", self.stun.counters),
            Sample("ztna_udp_kernel_drops", "Datagrams the kernel dropped: receive buffer full", self.udp.kernel_drops),
        ]
        return Response(render(samples), content_type=CONTENT_TYPE)


async def serve(config: IntermediateConfig, log: Logger, reread: Callable[[], IntermediateConfig]) -> None:
    """Serve until SIGTERM or SIGINT. A second one ends at once."""
    server = IntermediateServer(config, log, reread=reread)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    on_signals(loop, {signal.SIGTERM: stopped.set, signal.SIGINT: stopped.set})
    await server.start()
    on_signals(loop, {signal.SIGHUP: server.reload})
    settle_memory()
    await stopped.wait()
    on_signals(loop, {signal.SIGTERM: lambda: os._exit(0), signal.SIGINT: lambda: os._exit(0)})
    await server.stop()


def run(path: Path) -> None:
    """Run the intermediate of a config file to its end.

    Raises:
        ConfigError, UdpBindError, HttpBindError: it could not start; the text says what to change.
    """
    config = load_intermediate(path)
    log = setup(level=config.log.level, format=config.log.format, node=config.name)
    run_loop(serve(config, log, lambda: load_intermediate(path)))


def _stamp(path: Path | None) -> tuple[int, int, int] | None:
    """What changes when a file is replaced or written; None if it is not there."""
    if path is None:
        return None
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _nonzero_drops(counters: Any) -> dict[str, int]:
    names = [name for name in counters.__dataclass_fields__ if name.startswith("dropped_")]
    return {name.removeprefix("dropped_"): value for name in names if (value := getattr(counters, name))}
