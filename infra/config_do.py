"""Configuration of the `do-nyc1` stack: one droplet at DigitalOcean that holds relay, connector and test backend."""

import re
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Final

from infra import ports
from infra.bundle_lock import PYTHONS
from infra.config import ConfigSource, Key, Reader, parse_choice, parse_int
from infra.config_overlay import (
    OVERLAY_KEYS,
    OverlaySettings,
    ServiceSettings,
    overlay_settings,
    parse_networks,
    service_settings,
)
from infra.config_ssh import Network, parse_admin_cidrs, parse_public_key

RESERVED_RANGES: Final = tuple(
    IPv4Network(text) for text in ("10.10.0.0/16", "10.229.0.0/16", "10.244.0.0/16", "10.245.0.0/16", "10.246.0.0/24")
)
"""Ranges that a VPC may not have: DigitalOcean's own, and 10.10.0.0/16, where NYC1 has its anchor addresses.

Source: https://docs.digitalocean.com/products/networking/vpc/details/limits/
"""
NO_KERNEL: Final = "every session ends at the connector on the relay's own host, where the kernel cannot relay to"
_SLUG = re.compile(r"[a-z0-9][a-z0-9.-]*")
_DOMAIN = re.compile(r"([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}")
_RECORD = re.compile(r"@|[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")


@dataclass(frozen=True, kw_only=True, slots=True)
class DnsSettings:
    """An A record in a domain that the account holds already: `name` within `domain`, `@` for the domain itself."""

    domain: str
    name: str

    @property
    def fqdn(self) -> str:
        """The whole name."""
        return self.domain if self.name == "@" else f"{self.name}.{self.domain}"


@dataclass(frozen=True, kw_only=True, slots=True)
class DoConfig:
    """Configuration of the `do-nyc1` stack.

    Attributes:
        admin_cidrs: networks that may open SSH; never the whole internet.
        ssh_public_key: the administrators' key, None to use the one that the stack makes.
        dns: the relay's record, at most one.
        host_python: version of the image's /usr/bin/python3, which the release is built for.
        host_generation: another number makes another droplet; the address stays.
    """

    region: str
    size: str
    image: str
    host_python: str
    admin_cidrs: tuple[Network, ...]
    ssh_public_key: str | None
    dns: tuple[DnsSettings, ...]
    vpc_range: IPv4Network
    host_generation: int
    overlay: OverlaySettings

    @property
    def admin_keys(self) -> tuple[str, ...]:
        """The administrators' keys beside the stack's own."""
        return (self.ssh_public_key,) if self.ssh_public_key else ()

    @property
    def backend_tcp_ports(self) -> tuple[int, ...]:
        """TCP ports of backends that are not on the droplet itself, which its firewall must let out to."""
        backends = [
            service.port_backends.get(f"tcp/{port.port}", service.backend)
            for service in self.overlay.services
            for port in service.ports
            if port.protocol == "tcp"
        ]
        elsewhere = [text for text in backends if text.rpartition(":")[0] not in ("127.0.0.1", "localhost", "[::1]")]
        return tuple(sorted({int(text.rpartition(":")[2]) for text in elsewhere}))

    @property
    def admin_networks(self) -> tuple[str, ...]:
        """The administrators' networks as texts."""
        return tuple(str(network) for network in self.admin_cidrs)


DO_KEYS: Final = (
    Key(name="region", help="region of droplet, VPC and reserved address (slug)", example="ams3", default="nyc1"),
    Key(name="size", help="size of the droplet (slug); resized in place", example="s-2vcpu-2gb", default="s-1vcpu-1gb"),
    Key(
        name="image",
        help="image of the droplet (slug or number); an existing droplet keeps its own, see hostGeneration",
        example="ubuntu-24-04-x64",
        default="ubuntu-24-04-x64",
    ),
    Key(
        name="hostPython",
        help="version of the image's /usr/bin/python3, which the release is built for: 3.12 of Ubuntu 24.04, 3.11 of "
        "Debian 12, 3.13 of Debian 13; change it together with image",
        example="'3.11'",
        default="3.12",
    ),
    Key(
        name="adminCidrs",
        help="networks that may open SSH, of either IP version; the machine that runs `up` must be in one of them",
        example='["203.0.113.0/24"]',
    ),
    Key(
        name="sshPublicKey",
        help="the administrators' SSH public key, let in beside the stack's own key; none unless given",
        example="'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHExampleExampleExampleExampleExampleExample admin'",
        default="",
    ),
    Key(
        name="dnsDomain",
        help="a domain that the account holds already (DigitalOcean DNS), in which the relay gets an A record; "
        "no record unless given",
        example="example.org",
        default="",
    ),
    Key(name="dnsName", help="name of that record within dnsDomain, @ for itself", example="vpn", default="relay"),
    Key(
        name="vpcRange",
        help="IPv4 range of the VPC, /16 to /28, private, apart from the ranges that DigitalOcean keeps",
        example="192.168.77.0/24",
        default="10.77.0.0/24",
    ),
    Key(
        name="hostGeneration",
        help="raise it to replace the droplet: a new one is made and released to, the reserved address moves, the old "
        "one goes; a changed image or first-boot configuration takes effect by it",
        example="2",
        default="1",
    ),
    *OVERLAY_KEYS,
)


def default_services() -> tuple[ServiceSettings, ...]:
    """Return the services of the droplet's own test backend."""
    echo, http = f"127.0.0.1:{ports.ECHO}", f"127.0.0.1:{ports.HTTPBIN}"
    return (
        service_settings("echo-service", echo, f"udp/{ports.ECHO}", f"tcp/{ports.ECHO}", "icmp"),
        service_settings("http-app", http, f"tcp/{ports.HTTP}"),
    )


def do_config(source: ConfigSource) -> DoConfig:
    """Read the `do-nyc1` stack's configuration.

    Args:
        source: `pulumi.Config("do-nyc1")`.

    Raises:
        ConfigError: a key is missing or bad.
    """
    reader = Reader(source, DO_KEYS)
    domain = reader.parse("dnsDomain", lambda text: _matching(text, _DOMAIN, "domain name, such as example.org"))
    record = reader.parse("dnsName", lambda text: _matching(text, _RECORD, "name within a domain, such as relay or @"))
    return DoConfig(
        region=reader.parse("region", lambda text: _matching(text, _SLUG, "slug, such as nyc1")),
        size=reader.parse("size", lambda text: _matching(text, _SLUG, "slug, such as s-1vcpu-1gb")),
        image=reader.parse("image", lambda text: _matching(text, _SLUG, "slug, such as ubuntu-24-04-x64")),
        host_python=reader.parse("hostPython", lambda text: parse_choice(text, PYTHONS)),
        admin_cidrs=reader.parse("adminCidrs", parse_admin_cidrs),
        ssh_public_key=reader.parse("sshPublicKey", parse_public_key),
        dns=(DnsSettings(domain=domain, name=record),) if domain else (),
        vpc_range=reader.parse("vpcRange", parse_vpc_range),
        host_generation=reader.parse("hostGeneration", lambda text: parse_int(text, 1, 2**31)),
        overlay=overlay_settings(reader, default_services(), no_kernel=NO_KERNEL),
    )


def parse_vpc_range(text: str) -> IPv4Network:
    """Read the VPC's range. Raises ValueError when DigitalOcean would refuse it."""
    networks = parse_networks(text)
    if len(networks) != 1 or not isinstance(networks[0], IPv4Network):
        raise ValueError("it must be one IPv4 network, such as 10.77.0.0/24")
    network = networks[0]
    if not network.is_private or not 16 <= network.prefixlen <= 28:
        raise ValueError("it must be a private network (RFC 1918) from /16 to /28")
    taken = next((other for other in RESERVED_RANGES if other.overlaps(network)), None)
    if taken is not None:
        raise ValueError(f"it overlaps {taken}, which DigitalOcean keeps; choose another one")
    return network


def _matching(text: str, pattern: re.Pattern[str], what: str) -> str:
    if text and not pattern.fullmatch(text):
        raise ValueError(f"it is no {what}")
    return text
