"""The process around an agent or a connector: log, certificates, HTTP, signals, exit code."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from ztna.config import AgentConfig, ConfigError, ConnectorConfig
from ztna.io import logs, runtime
from ztna.io.certs import file_warnings, load_anchors, load_credentials
from ztna.io.http import HttpServer, Response, role_routes
from ztna.io.logs import Logger
from ztna.io.metrics import CONTENT_TYPE, Sample, counters_of, render
from ztna.io.quic_types import ALPN, ALPN_V2, ClientSettings, ConnectionLimits
from ztna.io.udp import UdpSocket
from ztna.io.uplink import Uplink
from ztna.proto.registration import RegistrationState

KEEPALIVE_S: Final = 10.0
EXIT_OK: Final = 0


class Role(Protocol):
    """What the process needs of a role."""

    async def start(self) -> None:
        """Open sockets and begin to dial; raises one of the start-up errors."""

    async def close(self) -> None:
        """Tell the relay and release everything."""

    def not_ready(self) -> str | None:
        """None when usable, else why not."""

    def status(self) -> Mapping[str, Any]:
        """The role's part of /status."""

    def samples(self) -> list[Sample]:
        """The role's metrics."""


def client_settings(config: AgentConfig | ConnectorConfig, limits: ConnectionLimits | None = None) -> ClientSettings:
    """QUIC settings from a config, certificates read now.

    `ztna-v2` is offered first; without a certificate there is nothing to prove who we are with, so only `ztna-v1` is.

    Raises:
        ConfigError: a certificate is unreadable, expired, or of another CA, or missing where `ztna-v2` is demanded.
    """
    tls = config.tls
    anchors = load_anchors(tls.ca) if tls.ca is not None else None
    credentials = None
    if tls.certificate is not None and tls.key is not None:
        credentials = load_credentials(tls.certificate, tls.key, anchors)
    elif config.protocol == "v2":
        raise ConfigError("protocol: v2 needs cert_path and key_path, to prove who we are; set them, or auto")
    if config.protocol == "v2" and (anchors is None or not tls.verify_peer):
        raise ConfigError("protocol: v2 needs ca_cert_path and verify_peer, to know the other end; set them, or auto")
    protocol = config.protocol if credentials is not None else "v1"
    return ClientSettings(
        ca_pem=anchors.pem if anchors is not None else b"",
        server_name=config.relay.server_name,
        verify_peer=tls.verify_peer,
        credentials=credentials,
        alpn={"v1": (ALPN,), "v2": (ALPN_V2,)}.get(protocol, (ALPN_V2, ALPN)),
        keepalive_s=KEEPALIVE_S,
        limits=limits or ConnectionLimits(),
    )


def run_role(
    name: str, config: AgentConfig | ConnectorConfig, make: Callable[[asyncio.AbstractEventLoop, Logger], Role]
) -> int:
    """Run a role until SIGTERM or SIGINT; returns 0.

    Raises:
        ConfigError, UdpBindError, HttpBindError, TunError: it could not start; the text has the remedy.
    """
    log = logs.setup(level=config.log.level, format=config.log.format, role=name, name=config.name)
    for sentence in file_warnings(config.tls.key):
        log.warning("configuration", detail=sentence)
    if not config.tls.verify_peer:
        log.warning("configuration", detail="verify_peer is false: anybody can pose as the relay")
    if not config.http.is_loopback:
        log.warning("configuration", detail="metrics_addr is not loopback: anybody who reaches it can read it")
    return runtime.run(_serve(name, config, make, log))


async def _serve(
    name: str,
    config: AgentConfig | ConnectorConfig,
    make: Callable[[asyncio.AbstractEventLoop, Logger], Role],
    log: Logger,
) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    runtime.on_signals(loop, {signal.SIGTERM: stop.set, signal.SIGINT: stop.set})
    started = time.monotonic()
    role = make(loop, log)
    http = HttpServer(
        role_routes(
            ready=role.not_ready,
            metrics=lambda: Response(render(role.samples()), content_type=CONTENT_TYPE),
            status=lambda: {**_process_status(name, config, started), **role.status()},
        )
    )
    try:
        await role.start()
        if config.http.port:
            await http.start(config.http.addr, config.http.port)
        log.info("started", pid=os.getpid(), version=runtime.version())
        runtime.settle_memory()
        await stop.wait()
        log.info("stopping")
    finally:
        await http.close()
        await role.close()
    log.info("stopped")
    return EXIT_OK


def _process_status(name: str, config: AgentConfig | ConnectorConfig, started: float) -> dict[str, Any]:
    return {
        "role": name,
        "name": config.name,
        "stack": config.stack,
        "pid": os.getpid(),
        "version": runtime.version(),
        "uptime_s": round(time.monotonic() - started, 3),
    }


def uplink_not_ready(uplink: Uplink) -> str | None:
    """Why a client is not usable, None if it is: connected, and every service registered or waited for as standby."""
    if not uplink.control.is_connected:
        return f"not connected to the relay: {uplink.last_problem}"
    states = uplink.control.registrations
    denied = [service for service, state in states.items() if state is RegistrationState.DENIED]
    if denied:
        return f"registration denied for {', '.join(denied)}: the certificate or the policy does not grant it"
    settled = (RegistrationState.REGISTERED, RegistrationState.STANDBY)
    waiting = [service for service, state in states.items() if state not in settled]
    return f"waiting for registration of {', '.join(waiting)}" if waiting else None


def uplink_status(uplink: Uplink, udp: UdpSocket, virtual_ips: Mapping[str, str | None]) -> dict[str, Any]:
    """The part of /status that both roles share."""
    control, peer = uplink.control, uplink.peer
    observed, relay = control.observed_address, uplink.relay_address
    reason = uplink_not_ready(uplink)
    state = "ready" if reason is None else "registering" if control.is_connected else "connecting"
    return {
        "state": state,
        "not_ready": reason,
        "protocol": None if peer is None else peer.alpn,
        "relay": None if relay is None else f"{relay[0]}:{relay[1]}",
        "local_address": f"{udp.local_address[0]}:{udp.local_address[1]}",
        "observed_address": None if observed is None else f"{observed.ip}:{observed.port}",
        "rtt_ms": None if peer is None or peer.rtt_s is None else round(peer.rtt_s * 1000, 3),
        "max_payload_bytes": None if peer is None else peer.max_datagram_payload,
        "services": [
            {"id": service, "virtual_ip": virtual_ips.get(service), "state": state.name.lower()}
            for service, state in control.registrations.items()
        ],
        "udp_buffers_bytes": {"receive": udp.receive_buffer_bytes, "send": udp.send_buffer_bytes},
        **uplink.silence.diagnosis(),
    }


def uplink_samples(prefix: str, uplink: Uplink, udp: UdpSocket, started: float) -> list[Sample]:
    """The metrics that both roles share."""
    peer = uplink.peer
    samples = [
        Sample(f"{prefix}_uptime_seconds", "Seconds since start", time.monotonic() - started, "gauge"),
        Sample(f"{prefix}_ready", "1 if connected and registered", uplink_not_ready(uplink) is None, "gauge"),
        Sample(f"{prefix}_reconnections", "Attempts after the first", max(0, uplink.counters.dials - 1)),
        *counters_of(f"{prefix}_uplink", "Connection to the relay", uplink.counters),
        *counters_of(f"{prefix}_control_stream", "Control stream of ztna-v2", uplink.sessions.stats),
        *counters_of(f"{prefix}_udp", "UDP socket", udp.counters),
        *counters_of(f"{prefix}_quic", "QUIC endpoint", uplink.endpoint.counters),
    ]
    if peer is not None:
        samples += counters_of(f"{prefix}_connection", "Present connection", peer.stats)
        if peer.rtt_s is not None:
            samples.append(Sample(f"{prefix}_rtt_seconds", "Smoothed RTT to the relay", peer.rtt_s, "gauge"))
    return samples
