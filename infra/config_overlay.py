"""Configuration that every cloud stack shares: its services, agents, certificates. Keys live in the stack's namespace.

A stack's own table ends with `*OVERLAY_KEYS`; its reader calls `overlay_settings` with the services that it has unless
told otherwise.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_network
from typing import Any, Final

from infra.addressing import OverlayPlan, overlay_plan
from infra.config import LOG_LEVELS, RELAY_MODES, Key, PkiSettings, Reader, parse_choice, parse_int, parse_verify
from infra.naming import check_label
from infra.outputs import ServicePort
from infra.wiring_macos import MacosApp

TAKEN_NAMES: Final = ("relay", "intermediate", "connector", "ca")
"""Names that no agent may have: certificates and resources are called by them."""
OVERLAPS: Final = ("none", "agents", "all")
PROTOCOLS: Final = ("udp", "tcp", "icmp")
_SERVICE_FIELDS: Final = ("id", "backend", "ports", "portBackends", "virtualIp")
_HOST_PORT = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?):(\d{1,5})")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceSettings:
    """A service: its ports at the virtual address, and the backend `host:port` behind them.

    `port_backends` maps `protocol/port` to another backend than `backend`. `virtual_ip` None: by its place in the list.
    """

    id: str
    ports: tuple[ServicePort, ...]
    backend: str
    port_backends: dict[str, str] = field(default_factory=dict)
    virtual_ip: IPv4Address | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class OverlaySettings:
    """What the overlay of a stack consists of. The order of services and agents gives them their addresses."""

    services: tuple[ServiceSettings, ...]
    agents: tuple[str, ...]
    run: str
    pki: PkiSettings = field(default_factory=PkiSettings)
    log_level: str = "info"
    relay: str = "auto"
    allow_anonymous_v1: bool = False
    verify: str = "quick"
    macos: MacosApp = field(default_factory=MacosApp)


OVERLAY_KEYS: Final = (
    Key(
        name="services",
        help="the services in the order of their addresses: objects of id, backend (host:port), ports (udp/9999, "
        "tcp/80, icmp), portBackends (by tcp/80, where another backend answers it), virtualIp (another address than by "
        "its place); the stack's own unless given",
        example='[{"id": "echo-service", "backend": "127.0.0.1:9999", "ports": ["udp/9999", "tcp/9999", "icmp"]}]',
        default="",
    ),
    Key(
        name="agents",
        help="names of the agents, each of which gets a certificate, an address and a ready profile",
        example='["laptop", "phone"]',
        default='["laptop"]',
    ),
    Key(
        name="run",
        help="name that the tags of this deployment carry; the stack's name unless given",
        example="blue",
        default="",
    ),
    Key(
        name="relay",
        help="who forwards packets of sessions without a direct path: auto, kernel (only where the relay has a host to "
        "itself: aws-us-east-2), userspace, off",
        example="userspace",
        default="auto",
    ),
    Key(name="logLevel", help="log level of the roles: " + ", ".join(LOG_LEVELS), example="debug", default="info"),
    Key(
        name="pkiGeneration",
        help="raise it by one to make a new CA and new certificates; pkiOverlap says how",
        example="2",
        default="1",
    ),
    Key(
        name="pkiOverlap",
        help="whether the CA of pkiGeneration - 1 stays trusted: none; agents (agents get new certificates, servers "
        "keep their old ones); all (everybody has new certificates). Rotate by agents, all, none to drop nobody",
        example="agents",
        default="none",
    ),
    Key(name="leafDays", help="validity of leaf certificates in days, 1 to 825", example="30", default="90"),
    Key(
        name="allowAnonymousV1",
        help="let in agents that cannot hold a certificate, such as the deployed macOS app: true or false",
        example="true",
        default="false",
    ),
    Key(
        name="macosApp",
        help="the macOS app as you built and signed it, for agent.mobileconfig: its bundle identifier, or an object of "
        "bundleId, tunnelId and designatedRequirement (of a system extension), caCertPath",
        example='{"bundleId": "org.example.ztna", "tunnelId": "org.example.ztna.tunnel"}',
        default="com.example.ztna",
    ),
    Key(
        name="verify",
        help="how much of `ztna verify` is the last step of `ztna up`, which fails with it: quick, full, off",
        example="full",
        default="quick",
    ),
)
"""Keys of every cloud stack; `run` of OverlaySettings is never empty."""


def overlay_settings(
    reader: Reader, default_services: Sequence[ServiceSettings], *, no_kernel: str = ""
) -> OverlaySettings:
    """Read the keys of OVERLAY_KEYS.

    Args:
        reader: over a table that holds OVERLAY_KEYS.
        default_services: the stack's services where `services` is not set.
        no_kernel: why the kernel cannot relay packets in this stack; empty where it can.

    Raises:
        ConfigError: a key is bad; the message gives the YAML and the command that set it right.
    """

    def services(text: str) -> tuple[ServiceSettings, ...]:
        return parse_services(text) if text else tuple(default_services)

    def agents(text: str) -> tuple[str, ...]:
        names = parse_labels(text)
        address_plan((), names)
        taken = next((name for name in names if name in TAKEN_NAMES), None)
        if taken is not None:
            raise ValueError(f"{taken!r} is the name of another member of the stack; choose another")
        return names

    def relay(text: str) -> str:
        if parse_choice(text, RELAY_MODES) == "kernel" and no_kernel:
            raise ValueError(f"{no_kernel}; use auto or userspace")
        return text

    generation = reader.parse("pkiGeneration", lambda text: parse_int(text, 1, 2**31))

    def overlap(text: str) -> str:
        if parse_choice(text, OVERLAPS) != "none" and generation == 1:
            raise ValueError("there is no generation before the first; raise pkiGeneration to 2 as well, or use none")
        return text

    return OverlaySettings(
        services=reader.parse("services", services),
        agents=reader.parse("agents", agents),
        run=reader.parse("run", lambda text: check_label(text or reader.namespace, "run")),
        pki=PkiSettings(
            generation=generation,
            leaf_days=reader.parse("leafDays", lambda text: parse_int(text, 1, 825)),
            overlap=reader.parse("pkiOverlap", overlap),
        ),
        log_level=reader.parse("logLevel", lambda text: parse_choice(text, LOG_LEVELS)),
        relay=reader.parse("relay", relay),
        allow_anonymous_v1=reader.parse("allowAnonymousV1", parse_bool),
        verify=reader.parse("verify", parse_verify),
        macos=reader.parse("macosApp", parse_macos_app),
    )


def service_settings(service_id: str, backend: str, *ports: str, **port_backends: str) -> ServiceSettings:
    """Return a service from short words: `service_settings("http-app", "127.0.0.1:8080", "tcp/80")`.

    Raises:
        ValueError: a port or backend is not one.
    """
    return _service({"id": service_id, "backend": backend, "ports": list(ports), "portBackends": port_backends})


def parse_services(text: str) -> tuple[ServiceSettings, ...]:
    """Read the JSON list of services. Raises ValueError."""
    items = parse_json_list(text)
    if not items:
        raise ValueError("it is empty; a stack needs at least one service")
    services = tuple(_service(item) for item in items)
    _refuse_twice([service.id for service in services], "service")
    address_plan(services, ())
    return services


def address_plan(services: Sequence[ServiceSettings], agents: Sequence[str]) -> OverlayPlan:
    """Return the virtual addresses of services and agents. Raises AddressingError, a ValueError."""
    fixed = {service.id: service.virtual_ip for service in services if service.virtual_ip is not None}
    return overlay_plan([service.id for service in services], agents, fixed=fixed)


def parse_labels(text: str) -> tuple[str, ...]:
    """Read names: a JSON list, or a text of names with commas between. Raises ValueError."""
    names = parse_strings(text)
    if not names:
        raise ValueError("it is empty; give at least one name")
    for name in names:
        check_label(name, "name")
    _refuse_twice(names, "name")
    return names


def parse_strings(text: str) -> tuple[str, ...]:
    """Read texts: a JSON list of them, or one text with commas between. Raises ValueError."""
    if not text.lstrip().startswith("["):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    items = parse_json_list(text)
    for item in items:
        if not isinstance(item, str):
            raise ValueError(f"{item!r} in it is not a text")
    return tuple(items)


def parse_networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """Read networks such as `203.0.113.7/32` or `2001:db8::/64`, in the forms of `parse_strings`. Raises ValueError."""
    networks = []
    for item in parse_strings(text):
        try:
            networks.append(ip_network(item))
        except ValueError as error:
            raise ValueError(f"{item!r} in it is no network ({error}); write ADDRESS/LENGTH") from None
    return tuple(networks)


def parse_digest(text: str) -> str:
    """Return `sha256:` and 64 hex digits (OCI image spec, descriptor digests), else raise ValueError."""
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", text):
        raise ValueError("it is not sha256: and 64 hex digits; a tag can be moved, a digest cannot")
    return text


def parse_image(text: str) -> str:
    """Return an image reference by digest, else raise ValueError."""
    name, _, digest = text.partition("@")
    if not name or re.search(r"\s", name):
        raise ValueError("it is not an image reference like ghcr.io/chrisrx/quake-kube@sha256:...")
    parse_digest(digest)
    return text


def parse_bool(text: str) -> bool:
    """Read `true` or `false`. Raises ValueError."""
    return parse_choice(text.lower(), ("true", "false")) == "true"


_MACOS_FIELDS: Final = {
    "bundleId": "bundle_id",
    "tunnelId": "tunnel_id",
    "designatedRequirement": "designated_requirement",
    "caCertPath": "ca_cert_path",
}
_BUNDLE_ID = re.compile(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+")


def parse_macos_app(text: str) -> MacosApp:
    """Read a bundle identifier, or a JSON object of the app's. Raises ValueError."""
    values: Any = {"bundleId": text}
    if text.lstrip().startswith("{"):
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"it is not JSON ({error.msg} at character {error.pos})") from error
    for name, value in values.items():
        try:
            parse_choice(name, tuple(_MACOS_FIELDS))
        except ValueError as error:
            raise ValueError(f"unknown field {name!r}, {error}") from None
        if not isinstance(value, str) or (name.endswith("Id") and not _BUNDLE_ID.fullmatch(value)):
            raise ValueError(f"{name} is {value!r}, write it like org.example.ztna")
    if "bundleId" not in values:
        raise ValueError("bundleId is missing in it")
    return MacosApp(**{_MACOS_FIELDS[name]: value for name, value in values.items()})


def parse_json_list(text: str) -> list[Any]:
    """Read a JSON list. Raises ValueError."""
    try:
        items = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON ({error.msg} at character {error.pos})") from error
    if not isinstance(items, list):
        raise ValueError("it is not a list")
    return items


def parse_port(text: str) -> ServicePort:
    """Read `udp/9999`, `tcp/80` or `icmp`. Raises ValueError."""
    if text == "icmp":
        return ServicePort(protocol="icmp", port=0)
    protocol, _, number = text.partition("/")
    try:
        parse_choice(protocol, PROTOCOLS)
        port = parse_int(number, 1, 65535)
    except ValueError as error:
        raise ValueError(f"{text!r} is no port ({error}); write udp/9999, tcp/80 or icmp") from None
    return ServicePort(protocol="udp" if protocol == "udp" else "tcp", port=port)


def parse_backend(text: str) -> str:
    """Return a `host:port` when it is one. Raises ValueError."""
    found = _HOST_PORT.fullmatch(text)
    if not found or not 1 <= int(found[3]) <= 65535:
        raise ValueError(f"backend {text!r} is no host:port, such as 127.0.0.1:9999")
    return text


def _service(item: Any) -> ServiceSettings:
    if not isinstance(item, Mapping):
        raise ValueError(f"{item!r} in it is not an object")
    for name in item:
        try:
            parse_choice(name, _SERVICE_FIELDS)
        except ValueError as error:
            raise ValueError(f"unknown field {name!r} of a service, {error}") from None
    for name in ("id", "backend", "ports"):
        if not item.get(name):
            raise ValueError(f"a service lacks {name}: {json.dumps(dict(item))}")
    if not isinstance(item["ports"], list):
        raise ValueError(f'ports of {item["id"]!r} must be a list, such as ["tcp/80"]')
    ports = tuple(parse_port(str(port)) for port in item["ports"])
    declared = {f"{port.protocol}/{port.port}" for port in ports}
    backends = {}
    for key, backend in (item.get("portBackends") or {}).items():
        if key not in declared:
            raise ValueError(f"portBackends of {item['id']!r} has {key!r}, which is none of its ports")
        backends[key] = parse_backend(str(backend))
    return ServiceSettings(
        id=check_label(str(item["id"]), "service"),
        ports=ports,
        backend=parse_backend(str(item["backend"])),
        port_backends=backends,
        virtual_ip=_virtual_ip(item),
    )


def _virtual_ip(item: Mapping[str, Any]) -> IPv4Address | None:
    if item.get("virtualIp") is None:
        return None
    try:
        return IPv4Address(item["virtualIp"])
    except ValueError:
        raise ValueError(f"virtualIp of {item['id']!r} is {item['virtualIp']!r}, which is no IPv4 address") from None


def _refuse_twice(names: Sequence[str], what: str) -> None:
    twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if twice is not None:
        raise ValueError(f"{what} {twice!r} occurs twice; each needs a name of its own")
