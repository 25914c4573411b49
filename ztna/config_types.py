"""Parts of the roles' config, as frozen dataclasses; `ztna.config` re-exports them."""

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from ztna.config_reader import read_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Pem:
    """PEM text given in the file itself, or the path of a file that holds it. `key` names it in errors."""

    key: str
    path: Path | None = None
    text: str | None = field(default=None, repr=False)

    def read(self) -> str:
        """The PEM text.

        Raises:
            ConfigError: the file is missing or unreadable.
        """
        if self.text is not None:
            return self.text
        assert self.path is not None
        return read_text(self.path, self.key)


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """Certificates of a role. `certificate` and `key` come together or not at all."""

    certificate: Pem | None = None
    key: Pem | None = None
    ca: Pem | None = None
    verify_peer: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpConfig:
    """Where /healthz, /readyz, /metrics and /status are served; port 0 turns it off."""

    addr: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this host can read it."""
        return ipaddress.ip_address(self.addr).is_loopback


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """Level and format of the log on stderr."""

    level: str = "info"
    format: str = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayAddress:
    """The intermediate to dial. `server_name` is checked against its certificate; None checks the chain alone."""

    host: str
    port: int
    server_name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PortConfig:
    """One admitted port of a service. `protocol` is tcp or udp, `backend` is (host, port)."""

    protocol: str
    port: int
    backend: tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceConfig:
    """A service of a connector or as an agent knows it.

    With `ports`, only those are admitted; without, every port goes to `backend`. An agent's services have neither.
    """

    id: str
    virtual_ip: str | None = None
    backend: tuple[str, int] | None = None
    protocol: str = "any"
    ports: tuple[PortConfig, ...] | None = None
    connectors: tuple[str, ...] = ()
    """At an agent: names of the connectors that may serve it; empty: any whose certificate grants it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class P2pConfig:
    """A connector's own UDP port, and the certificate it shows to agents that reach it directly.

    `anonymous` lets an agent without a certificate do so from a host that an offer named.
    """

    port: int = 4434
    certificate: Pem | None = None
    key: Pem | None = None
    anonymous: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionConfig:
    """End-to-end sessions of an agent or a connector.

    `quic_core` is auto, aioquic or qh3. Without `direct` everything stays on the relay. `hairpin_probe` and `birthday`
    allow what strains some NATs.
    """

    quic_core: str = "auto"
    direct: bool = True
    hairpin_probe: bool = False
    birthday: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TunConfig:
    """TUN device of an agent; `mtu` None follows the DATAGRAM limit."""

    name: str = "ztna0"
    mtu: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardConfig:
    """A local port forwarded to a service's port in user mode. `listen` is (host, port)."""

    protocol: str
    listen: tuple[str, int]
    service: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsConfig:
    """Address of the resolver for `SERVICE.ztna`."""

    listen: tuple[str, int]
