"""Readers of the parts that the roles' config files share."""

from pathlib import Path
from typing import Final

from ztna.config_reader import MISSING, Reader
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

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
LOG_FORMATS: Final = ("json", "text")
PROTOCOLS: Final = ("auto", "v1", "v2")
GATEWAYS: Final = ("user", "tun")
QUIC_CORES: Final = ("auto", "aioquic", "qh3")
DEFAULT_SERVER_NAME: Final = "ztna-server"
MIN_TUN_MTU: Final = 576
MAX_TUN_MTU: Final = 9000


def _pem(read: Reader, base: Path, name: str, inline: str, *aliases: str) -> Pem | None:
    """`name` is a path or PEM text, `inline` PEM text; at most one of them."""
    text = read.text(inline, default=None)
    value = read.text(name, *aliases, default=None)
    if text is not None and value is not None:
        raise read.error(inline, f"says the same as {name!r}; keep one of them")
    key = inline if text is not None else name
    if text is None and value is not None and value.lstrip().startswith("-----BEGIN "):
        text = value
    if text is not None:
        if "-----BEGIN " not in text:
            raise read.error(key, f"is not PEM text (it has no -----BEGIN line); for a path use {name!r}")
        return Pem(key=read.key(key), text=text)
    return Pem(key=read.key(key), path=base / value) if value is not None else None


def read_tls(read: Reader, base: Path, *, certificate_required: bool, ca_alias: str) -> TlsFiles:
    """Certificates and what to trust."""
    names = ("ca_cert_path", "ca_cert") if ca_alias == "ca_cert" else ("ca_cert", "ca_cert_path")
    verify = read.boolean("verify_peer", "verifyPeer", default=True)
    ca = _pem(read, base, names[0], "ca_cert_pem", names[1], "caCertPath")
    certificate = _pem(read, base, "cert_path", "cert_pem")
    key = _pem(read, base, "key_path", "key_pem")
    if (certificate is None) != (key is None):
        missing, present = ("cert_path", "key_path") if certificate is None else ("key_path", "cert_path")
        raise read.error(missing, f"missing; {present} needs it")
    if certificate_required and certificate is None:
        raise read.error("cert_path", "missing; a server needs cert_path and key_path (or cert_pem and key_pem)")
    if verify and ca is None:
        raise read.error(names[0], "missing; the stack's CA is the only one trusted. Set it, or verify_peer to false")
    return TlsFiles(certificate=certificate, key=key, ca=ca, verify_peer=verify)


def read_http(read: Reader, port: int) -> HttpConfig:
    """Where the HTTP endpoints are."""
    return HttpConfig(
        addr=read.ip("metrics_addr", default="127.0.0.1"), port=read.port("metrics_port", default=port, zero=True)
    )


def read_log(read: Reader) -> LogConfig:
    """Log level and format."""
    return LogConfig(
        level=read.choice("log_level", LOG_LEVELS, default="info"),
        format=read.choice("log_format", LOG_FORMATS, default="text"),
    )


def read_sessions(read: Reader) -> SessionConfig:
    """How end-to-end sessions are made."""
    return SessionConfig(
        quic_core=read.choice("quic_core", QUIC_CORES, default="auto"),
        direct=read.choice("direct", ("auto", "off"), default="auto") == "auto",
        hairpin_probe=read.boolean("hairpin_probe", default=False),
        birthday=read.boolean("birthday", default=False),
    )


def read_protocol(read: Reader) -> str:
    """Versions of the protocol to speak: auto, v1 or v2."""
    protocol: str = read.choice("protocol", PROTOCOLS, default="auto")
    return protocol


def read_relay(read: Reader) -> RelayAddress:
    """The intermediate to dial, also in the form of agents in the field."""
    server = read.section("intermediate_server")
    legacy_host = read.text("serverHost", default=None)
    legacy_port = read.port("serverPort", default=None)
    if server is None:
        if legacy_host is None:
            raise read.error("intermediate_server", 'missing; write {"host": "192.0.2.1", "port": 4433}')
        return RelayAddress(host=legacy_host, port=legacy_port or 4433, server_name=DEFAULT_SERVER_NAME)
    if legacy_host is not None or legacy_port is not None:
        raise read.error("serverHost", "says the same as 'intermediate_server'; keep one of them")
    name = server.raw("server_name")
    if name is MISSING:
        name = DEFAULT_SERVER_NAME
    if name is not None and (not isinstance(name, str) or not name):
        raise server.error("server_name", "must be a name in the intermediate's certificate, or null")
    relay = RelayAddress(
        host=server.text("host"),
        port=server.port("port", default=4433),
        server_name=name,
    )
    server.done()
    return relay


def _service_id(read: Reader) -> str:
    name: str = read.text("id")
    if len(name.encode()) > 255:
        raise read.error("id", f"is {len(name.encode())} bytes long; the protocol carries at most 255")
    return name


def read_connector_services(read: Reader) -> tuple[ServiceConfig, ...]:
    """A connector's services with their backends."""
    services: list[ServiceConfig] = []
    for item in read.items("services"):
        protocol = item.choice("protocol", ("any", "tcp", "udp", "icmp"), default="any")
        ports = _ports(item)
        backend = item.host_port("backend", default=None)
        service_id = _service_id(item)
        if backend is None and not ports:
            raise item.error("backend", "missing; write host:port, or list admitted ports in 'ports'")
        virtual_ip = item.ip("virtual_ip", "virtualIp", default=None, v4=True)
        item.done()
        services.append(
            ServiceConfig(id=service_id, virtual_ip=virtual_ip, backend=backend, protocol=protocol, ports=ports)
        )
    if not services:
        raise read.error("services", "is empty; a connector needs at least one service")
    _distinct(read, services)
    if len(services) > 1 and any(service.virtual_ip is None for service in services):
        raise read.error("services", "several services need a virtual_ip each, or packets cannot be told apart")
    return tuple(services)


def _ports(item: Reader) -> tuple[PortConfig, ...] | None:
    if (value := item.raw("ports")) is MISSING or value is None:
        return None
    ports: list[PortConfig] = []
    for entry in item.items("ports"):
        protocol = entry.choice("protocol", ("tcp", "udp"), default="tcp")
        ports.append(PortConfig(protocol=protocol, port=entry.port("port"), backend=entry.host_port("backend")))
        entry.done()
        if sum(1 for port in ports if (port.protocol, port.port) == (protocol, ports[-1].port)) > 1:
            raise entry.error("port", f"{protocol} {ports[-1].port} is listed twice; keep one")
    return tuple(ports)


def read_agent_services(read: Reader) -> tuple[ServiceConfig, ...]:
    """The services an agent reaches."""
    services: list[ServiceConfig] = []
    for item in read.items("services", default=None):
        virtual_ip = item.ip("virtual_ip", "virtualIp", default=None, v4=True)
        connectors = item.texts("connectors")
        services.append(ServiceConfig(id=_service_id(item), virtual_ip=virtual_ip, connectors=connectors))
        item.done()
    legacy = read.text("serviceId", default=None)
    if legacy is not None and all(service.id != legacy for service in services):
        services.insert(0, ServiceConfig(id=legacy))
    if not services:
        raise read.error("services", 'missing or empty; write [{"id": "echo-service", "virtual_ip": "100.64.0.100"}]')
    _distinct(read, services)
    return tuple(services)


def _distinct(read: Reader, services: list[ServiceConfig]) -> None:
    ids = [service.id for service in services]
    addresses = [service.virtual_ip for service in services if service.virtual_ip is not None]
    for index, name in enumerate(ids):
        if name in ids[:index]:
            raise read.error(f"services[{index}].id", f"{name!r} is listed twice; keep one")
    for index, address in enumerate(addresses):
        if address in addresses[:index]:
            raise read.error("services", f"virtual_ip {address} is given to two services; each needs its own")


def read_p2p(read: Reader, base: Path) -> P2pConfig:
    """A connector's own port."""
    section = read.section("p2p")
    if section is None:
        return P2pConfig()
    certificate = _pem(section, base, "cert", "cert_pem", "cert_path")
    key = _pem(section, base, "key", "key_pem", "key_path")
    if (certificate is None) != (key is None):
        missing, present = ("cert", "key") if certificate is None else ("key", "cert")
        raise section.error(missing, f"missing; {present} needs it")
    anonymous = section.boolean("anonymous", default=False)
    if anonymous and certificate is None:
        raise section.error("anonymous", "needs cert and key: without them nobody connects to this port")
    port = section.port("port", default=4434, zero=True)
    p2p = P2pConfig(port=port, certificate=certificate, key=key, anonymous=anonymous)
    section.done()
    return p2p


def read_tun(read: Reader) -> TunConfig:
    """TUN device."""
    section = read.section("tun")
    if section is None:
        return TunConfig()
    name = section.text("name", default="ztna0")
    if len(name) > 15 or "/" in name or any(char.isspace() for char in name):
        raise section.error("name", f"{name!r} is not an interface name (at most 15 characters, no space, no slash)")
    tun = TunConfig(name=name, mtu=section.integer("mtu", MIN_TUN_MTU, MAX_TUN_MTU, default=None))
    section.done()
    return tun


def read_forwards(read: Reader, services: tuple[ServiceConfig, ...]) -> tuple[ForwardConfig, ...]:
    """Port forwards of user mode."""
    forwards: list[ForwardConfig] = []
    ids = {service.id: service for service in services}
    for item in read.items("forwards", default=None):
        service = item.choice("service", tuple(ids), default="")
        if ids[service].virtual_ip is None:
            raise item.error("service", f"{service!r} has no virtual_ip in 'services'; a forward needs one")
        forwards.append(
            ForwardConfig(
                protocol=item.choice("protocol", ("tcp", "udp"), default="tcp"),
                listen=item.host_port("listen"),
                service=service,
                port=item.port("port"),
            )
        )
        item.done()
    return tuple(forwards)


def read_dns(read: Reader) -> DnsConfig | None:
    """The resolver."""
    section = read.section("dns")
    if section is None:
        return None
    dns = DnsConfig(listen=section.host_port("listen"))
    section.done()
    return dns
