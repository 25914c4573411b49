"""How the two roles get their sessions from their configuration, and what of them becomes metrics."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ztna.config import AgentConfig, ConfigError, ConnectorConfig
from ztna.config_reader import parse_json, read_text
from ztna.io import certs
from ztna.io.metrics import Sample, counters_of
from ztna.io.quic_types import Credentials
from ztna.io.session.agent_gateway import AgentGateway
from ztna.io.session.agent_side import AgentSessions
from ztna.io.session.connector_side import ConnectorSessions
from ztna.io.session.control_plane import UplinkControl
from ztna.io.session.listener import Listener
from ztna.io.session.session import Session
from ztna.io.session.session_types import AgentTraffic
from ztna.io.session.tun_gateway import TunGateway
from ztna.proto.errors import PolicyError
from ztna.proto.gateway_types import GatewayLimits, GatewayService
from ztna.proto.paths.path_types import PathConfig, PathKind
from ztna.proto.policy import Policy

if TYPE_CHECKING:
    from ztna.io.agent import Agent
    from ztna.io.connector import Connector


def _material(
    config: AgentConfig | ConnectorConfig,
) -> tuple[certs.TrustAnchors, Callable[[], Credentials], str] | None:
    """(what to trust, our certificate as it is on disk now, our stack); None without an identity: then no sessions.

    Raises:
        ConfigError: `protocol: v2`, which allows nothing but sessions, and a certificate that names no stack.
    """
    tls = config.tls
    if config.protocol == "v1" or tls.ca is None or tls.certificate is None or tls.key is None or not tls.verify_peer:
        return None
    anchors = certs.load_anchors(tls.ca)
    certificate, key = tls.certificate, tls.key

    def credentials() -> Credentials:
        return certs.load_credentials(certificate, key, anchors)

    stack = config.stack or certs.stack_of(credentials().certificate)
    if stack is None and config.protocol == "v2":
        raise ConfigError("protocol: v2 needs stack, which the certificate does not name; set it, or auto")
    return None if stack is None else (anchors, credentials, stack)


def _path_config(config: AgentConfig | ConnectorConfig) -> PathConfig:
    sessions = config.sessions
    return PathConfig(direct=sessions.direct, hairpin=sessions.hairpin_probe, birthday=sessions.birthday)


def agent_sessions(agent: "Agent") -> AgentSessions | None:
    """Make an agent's sessions; None if its configuration gives it no identity, or restricts it to `ztna-v1`."""
    config = agent.config
    material = _material(config)
    if material is None:
        return None
    anchors, credentials, stack = material
    connectors = {service.id: service.connectors for service in config.services}
    return AgentSessions(
        {name: (address, connectors[name]) for name, address in agent.virtual_ips.items()},
        agent.virtual_ip,
        stack=stack,
        anchors=anchors,
        credentials=credentials,
        control=UplinkControl(agent.uplink, agent.clock),
        local=agent,
        loop=agent.loop,
        clock=agent.clock,
        log=agent.log,
        paths=_path_config(config),
        core=config.sessions.quic_core,
        too_large=agent.answer_too_large,
        sealed=config.protocol == "v2",
    )


def connector_sessions(
    connector: "Connector", services: Sequence[GatewayService], limits: GatewayLimits
) -> ConnectorSessions | None:
    """Make a connector's sessions, as `agent_sessions` does.

    Raises:
        ConfigError: policy.json is named and cannot be used.
    """
    config = connector.config
    material = _material(config)
    if material is None:
        return None
    anchors, credentials, stack = material

    def traffic(agent_ip: bytes) -> AgentTraffic:
        if connector.tun is not None:
            return connector.tun.traffic(agent_ip)
        return AgentGateway(
            agent_ip, services, names=connector.names, limits=limits, loop=connector.loop, clock=connector.clock
        )

    uplink = connector.uplink
    listener = Listener(connector.udp, relay=lambda: uplink.relay_address, external=config.external_ip)
    uplink.endpoint.divert = listener.divert
    return ConnectorSessions(
        services,
        stack=stack,
        anchors=anchors,
        credentials=credentials,
        control=UplinkControl(uplink, connector.clock),
        names=connector.names,
        traffic=traffic,
        may_reach=_may_reach(config),
        loop=connector.loop,
        clock=connector.clock,
        log=connector.log,
        paths=_path_config(config),
        core=config.sessions.quic_core,
        bind_addr=config.bind_addr,
        listener=listener,
    )


def tun_gateway(connector: "Connector", services: Sequence[GatewayService]) -> TunGateway | None:
    """The device of a connector whose `gateway` is tun, still to be started; None otherwise.

    Raises:
        ConfigError: it has no identity, so that no session could use the device, or a service has no virtual address.
    """
    config = connector.config
    if config.gateway != "tun":
        return None
    if _material(config) is None:
        raise ConfigError("gateway: tun carries packets of sessions, which need ca_cert, cert_path, key_path and stack")
    return TunGateway(services, names=connector.names, loop=connector.loop, clock=connector.clock, log=connector.log)


def _may_reach(config: ConnectorConfig) -> Callable[[str, str], bool]:
    """Our own policy on (agent's name, service); where none is configured the certificate's grants decide alone."""
    path = config.policy_path
    if path is None:
        return lambda _name, _service: True
    try:
        policy = Policy.from_json(parse_json(read_text(path, "policy_path"), str(path)))
    except PolicyError as exc:
        raise ConfigError(f"{path}: {exc}") from None
    return lambda name, service: service in policy.reachable.get(name, frozenset())


def relayed_packets(sessions: Sequence[Session]) -> tuple[int, int]:
    """Packets (sent, received) by the relay's path of all sessions that are there now."""
    relayed = [session.by_path[PathKind.RELAY] for session in sessions]
    return sum(count.packets_sent for count in relayed), sum(count.packets_received for count in relayed)


def session_samples(prefix: str, sessions: AgentSessions | ConnectorSessions) -> list[Sample]:
    """Metrics of sessions: totals, and by service and path."""
    samples = [*counters_of(f"{prefix}_sessions", "Sessions", sessions.counters)]
    present = dict.fromkeys(PathKind, 0)
    for session in sessions.sessions:
        present[session.paths.kind] += 1
        for service in session.services:
            samples += _path_samples(f"{prefix}_path", session, service)
    samples += [
        Sample(f"{prefix}_sessions_by_path", "Sessions now", number, "gauge", {"path": kind.value})
        for kind, number in present.items()
    ]
    return samples


def _path_samples(prefix: str, session: Session, service: str) -> list[Sample]:
    """What one session did for a service, by path; a session's figures stand under each of its services."""
    seen = session.paths.snapshot(session.now)
    base = {"service": service, "peer": session.settings.peer}
    samples = []
    for kind, count in session.by_path.items():
        labels = {**base, "path": kind.value}
        spent = seen.time_in_path.get(kind, 0.0)
        samples += [
            Sample(f"{prefix}_bytes_sent", "QUIC bytes sent by the session that carries it", count.sent, labels=labels),
            Sample(f"{prefix}_bytes_received", "The same, received", count.received, labels=labels),
            Sample(f"{prefix}_seconds", "Time in path", spent, labels=labels),
        ]
    labels = {**base, "path": seen.kind.value}
    if seen.rtt_s is not None:
        samples.append(Sample(f"{prefix}_rtt_seconds", "RTT of checks", seen.rtt_s, "gauge", labels))
    samples.append(Sample(f"{prefix}_loss_ratio", "Loss of checks", seen.loss, "gauge", labels))
    return samples + [
        Sample(f"{prefix}_switches", "Changes of path, by reason", number, labels={**base, "reason": reason})
        for reason, number in session.switch_reasons.items()
    ]
