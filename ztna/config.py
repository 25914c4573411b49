"""Config files of the three roles as frozen dataclasses.

`load_intermediate(path)`, `load_connector(path)`, `load_agent(path)` read a file; `from_json` of each class checks an
object already parsed. Relative paths in a file are relative to that file. Keys that programs in the field write for the
same purpose are accepted. Every error is a `ConfigError` that names the key path, the value and the remedy.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from ztna.config_parts import (
    GATEWAYS,
    read_agent_services,
    read_connector_services,
    read_dns,
    read_forwards,
    read_http,
    read_log,
    read_p2p,
    read_protocol,
    read_relay,
    read_sessions,
    read_tls,
    read_tun,
)
from ztna.config_reader import MISSING, ConfigError, Reader, apply_limits, parse_json, read_text
from ztna.config_types import (
    DnsConfig,
    ForwardConfig,
    HttpConfig,
    LogConfig,
    P2pConfig,
    Pem,
    PortConfig,
    RelayAddress,
    ServiceConfig,
    SessionConfig,
    TlsFiles,
    TunConfig,
)

DEFAULT_ALTERNATE_PORT: Final = 4434
RELAY_MODES: Final = ("auto", "kernel", "userspace", "off")

__all__ = [
    "AgentConfig",
    "ConfigError",
    "ConnectorConfig",
    "DnsConfig",
    "ForwardConfig",
    "HttpConfig",
    "IntermediateConfig",
    "LogConfig",
    "P2pConfig",
    "Pem",
    "PortConfig",
    "RelayAddress",
    "ServiceConfig",
    "SessionConfig",
    "TlsFiles",
    "TunConfig",
    "apply_limits",
    "load_agent",
    "load_connector",
    "load_intermediate",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class IntermediateConfig:
    """intermediate.json. `stack` None: that of our own certificate."""

    name: str
    stack: str | None
    bind_addr: str
    port: int
    external_ip: str | None
    alternate_port: int | None
    alternate_addr: str | None
    tls: TlsFiles
    allow_anonymous_v1: bool
    protocol: str
    disable_retry: bool
    policy_path: Path | None
    relay: str
    relay_workers: int
    relay_own_host: bool
    admin_socket: Path | None
    http: HttpConfig
    log: LogConfig
    limits: Mapping[str, float]

    @classmethod
    def from_json(cls, value: Mapping[str, Any], *, base: Path = Path(), where: str = "intermediate.json") -> Self:
        """Check a parsed file; raises ConfigError."""
        read = Reader(value, "", where)
        tls = read_tls(read, base, certificate_required=True, ca_alias="ca_cert")
        anonymous = read.boolean("allow_anonymous_v1", default=False)
        if read.boolean("require_client_cert", default=not anonymous) and anonymous:
            raise read.error("require_client_cert", "true contradicts allow_anonymous_v1 true; set one to false")
        if not tls.verify_peer and not anonymous:
            raise read.error(
                "verify_peer", "false asks no client for a certificate; then allow_anonymous_v1 must be true"
            )
        policy = read.text("policy_path", default=None)
        admin = read.text("admin_socket", default=None)
        config = cls(
            name=read.text("name", default="intermediate"),
            stack=read.text("stack", default=None),
            bind_addr=read.ip("bind_addr", default="0.0.0.0"),
            port=read.port("port", default=4433, zero=True),
            external_ip=read.ip("external_ip", default=None),
            alternate_port=_alternate_port(read),
            alternate_addr=read.ip("alternate_addr", default=None),
            tls=tls,
            allow_anonymous_v1=anonymous,
            protocol=read_protocol(read),
            disable_retry=read.boolean("disable_retry", default=False),
            policy_path=base / policy if policy is not None else None,
            relay=read.choice("relay", RELAY_MODES, default="auto"),
            relay_workers=read.integer("relay_workers", 0, 64, default=0),
            relay_own_host=read.boolean("relay_own_host", default=False),
            admin_socket=base / admin if admin is not None else None,
            http=read_http(read, 9090),
            log=read_log(read),
            limits=read.numbers("limits"),
        )
        if config.alternate_port and config.alternate_port == config.port:
            raise read.error(
                "alternate_port", f"{config.port} is the port itself; choose another, like {config.port + 1}"
            )
        if config.alternate_addr is not None and config.alternate_port is None:
            raise read.error("alternate_addr", "needs alternate_port too; set it, like 4434")
        read.done()
        return config


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectorConfig:
    """connector.json."""

    name: str
    stack: str | None
    relay: RelayAddress
    protocol: str
    services: tuple[ServiceConfig, ...]
    p2p: P2pConfig
    tls: TlsFiles
    sessions: SessionConfig
    gateway: str
    policy_path: Path | None
    bind_addr: str
    external_ip: str | None
    http: HttpConfig
    log: LogConfig
    limits: Mapping[str, float]

    @classmethod
    def from_json(cls, value: Mapping[str, Any], *, base: Path = Path(), where: str = "connector.json") -> Self:
        """Check a parsed file; raises ConfigError."""
        read = Reader(value, "", where)
        policy = read.text("policy_path", default=None)
        config = cls(
            name=read.text("name", default="connector"),
            stack=read.text("stack", default=None),
            relay=read_relay(read),
            protocol=read_protocol(read),
            services=read_connector_services(read),
            p2p=read_p2p(read, base),
            sessions=read_sessions(read),
            gateway=read.choice("gateway", GATEWAYS, default="user"),
            policy_path=base / policy if policy is not None else None,
            tls=read_tls(read, base, certificate_required=False, ca_alias="ca_cert_path"),
            bind_addr=read.ip("bind_addr", default="0.0.0.0"),
            external_ip=read.ip("external_ip", default=None),
            http=read_http(read, 9091),
            log=read_log(read),
            limits=read.numbers("limits"),
        )
        read.done()
        return config


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """agent.json, the ready profile. `virtual_ip` None: outside TUN mode the forwards choose one."""

    name: str
    stack: str | None
    relay: RelayAddress
    protocol: str
    services: tuple[ServiceConfig, ...]
    virtual_ip: str | None
    mode: str
    tun: TunConfig
    forwards: tuple[ForwardConfig, ...]
    dns: DnsConfig | None
    tls: TlsFiles
    sessions: SessionConfig
    http: HttpConfig
    log: LogConfig
    limits: Mapping[str, float]

    @classmethod
    def from_json(cls, value: Mapping[str, Any], *, base: Path = Path(), where: str = "agent.json") -> Self:
        """Check a parsed file; raises ConfigError."""
        read = Reader(value, "", where)
        services = read_agent_services(read)
        config = cls(
            name=read.text("name", default="agent"),
            stack=read.text("stack", default=None),
            relay=read_relay(read),
            protocol=read_protocol(read),
            services=services,
            virtual_ip=read.ip("virtual_ip", default=None, v4=True),
            mode=read.choice("mode", ("auto", "tun", "user"), default="auto"),
            tun=read_tun(read),
            forwards=read_forwards(read, services),
            dns=read_dns(read),
            sessions=read_sessions(read),
            tls=read_tls(read, base, certificate_required=False, ca_alias="ca_cert_path"),
            http=read_http(read, 9092),
            log=read_log(read),
            limits=read.numbers("limits"),
        )
        read.done()
        return config


def load_intermediate(path: Path) -> IntermediateConfig:
    """Read intermediate.json; raises ConfigError."""
    return IntermediateConfig.from_json(_load(path), base=path.parent, where=str(path))


def load_connector(path: Path) -> ConnectorConfig:
    """Read connector.json; raises ConfigError."""
    return ConnectorConfig.from_json(_load(path), base=path.parent, where=str(path))


def load_agent(path: Path) -> AgentConfig:
    """Read agent.json; raises ConfigError."""
    return AgentConfig.from_json(_load(path), base=path.parent, where=str(path))


def _load(path: Path) -> Mapping[str, Any]:
    return parse_json(read_text(path, "--config"), str(path))


def _alternate_port(read: Reader) -> int | None:
    """4434 if not said, none if said to be null: then STUN is answered on the one port only."""
    if read.raw("alternate_port") is MISSING:
        return DEFAULT_ALTERNATE_PORT
    port: int | None = read.port("alternate_port", default=None, zero=True)
    return port
