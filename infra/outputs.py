"""The contract of a stack: StackOutputs, what every stack exports and everything else reads.

`to_exports` and `from_exports` are inverse. Secrets stand under keys of their own (`SECRET_KEYS`), so that a program
can mark exactly them. Numbers come back as floats from some engines; reading makes integral ones int again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

import msgspec

SCHEMA_VERSION: Final = 1

T = TypeVar("T")

Protocol = Literal["udp", "tcp", "icmp"]
PathKind = Literal["direct", "relayed", "none"]
PlaceKind = Literal["intermediate", "connector", "agent", "backend", "baseline", "nat"]


class OutputsError(Exception):
    """The outputs are not those of a stack of this project, or of another version of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServicePort:
    """A port that a service answers on, at its virtual address. ICMP has port 0."""

    protocol: Protocol
    port: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RelayEndpoint:
    """An intermediate: where to dial it and which name its certificate carries."""

    name: str
    host: str
    port: int
    server_name: str
    alternate_host: str | None = None
    alternate_port: int | None = None
    metrics_url: str | None = None
    place: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceOutput:
    """A service: its virtual address, its ports there, and the backend `host:port` behind each of them.

    `untunnelled` lists `protocol:host:port` of the same service reachable without the overlay, for comparison.
    """

    id: str
    virtual_ip: str
    ports: tuple[ServicePort, ...]
    connector: str
    backend: str
    port_backends: dict[str, str] = field(default_factory=dict)
    untunnelled: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ConnectorOutput:
    """A connector and the services it dials out for."""

    name: str
    services: tuple[str, ...]
    place: str | None = None
    metrics_url: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentOutput:
    """An agent: its virtual address, what it may reach, and how (`tun`, or `user` with port forwards).

    `forwards` maps `service/protocol/port` to the local `host:port` which stands for it in user mode.
    `profile` is the ready agent.json, one self-contained text. It is secret.
    """

    name: str
    virtual_ip: str
    services: tuple[str, ...]
    mode: Literal["tun", "user"]
    forwards: dict[str, str] = field(default_factory=dict)
    place: str | None = None
    metrics_url: str | None = None
    profile: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class NatOutput:
    """The NAT in front of a place: behaviour by RFC 4787 section 4 and 5, and its public address."""

    name: str
    mapping: str
    filtering: str
    public_address: str
    levels: int = 1
    udp_blocked: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Somewhere commands run: a prefix that executes there, and the argv that control its process."""

    kind: PlaceKind
    address: str
    exec: tuple[str, ...] = ()
    controls: dict[str, tuple[str, ...]] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    status_url: str | None = None
    config_path: str | None = None
    nat: NatOutput | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpectedPath:
    """The path that agent and connector must end up with, given their NATs, and why."""

    agent: str
    connector: str
    path: PathKind
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PathPrediction:
    """The path that a service's traffic can take, by what is declared: for peers behind each class of NAT.

    `peer_nat` names the class, as `infra.traversal.PEER_NATS` has them by mapping and filtering (RFC 4787).
    """

    service: str
    connector: str
    peer_nat: str
    path: PathKind
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SshAccess:
    """A host that its administrators reach by SSH. `host_key` is the public key it must have, as in known_hosts."""

    host: str
    port: int
    user: str
    host_key: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StackOutputs:
    """Everything a stack promises; `rung` is `cloud` outside the lab. `probes` are secret profiles for refusals.

    `agent_files` holds the files of each agent by name (agent.json, agent.env, agent.plist, agent.mobileconfig), and
    `ssh_private_keys` the generated key of each host of `ssh`; both are secret.
    """

    stack: str
    run: str
    rung: str
    relays: tuple[RelayEndpoint, ...]
    connectors: tuple[ConnectorOutput, ...]
    services: tuple[ServiceOutput, ...]
    agents: tuple[AgentOutput, ...]
    places: dict[str, Place]
    ca_pem: str
    probes: dict[str, str] = field(default_factory=dict)
    expected_paths: tuple[ExpectedPath, ...] = ()
    limits: tuple[str, ...] = ()
    topology: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    expected_path: tuple[PathPrediction, ...] = ()
    ssh: tuple[SshAccess, ...] = ()
    agent_files: dict[str, dict[str, str]] = field(default_factory=dict)
    ssh_private_keys: dict[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def service(self, service_id: str) -> ServiceOutput:
        """Return a service by its id. Raises OutputsError when the stack has none of that name."""
        return _named(self.services, "id", service_id, "service")

    def agent(self, name: str) -> AgentOutput:
        """Return an agent by name. Raises OutputsError when the stack has none of that name."""
        return _named(self.agents, "name", name, "agent")

    def place(self, name: str) -> Place:
        """Return a place by name. Raises OutputsError naming those there are."""
        try:
            return self.places[name]
        except KeyError:
            known = ", ".join(sorted(self.places)) or "none"
            raise OutputsError(f"stack {self.stack!r} has no place {name!r}; its places: {known}") from None


SECRET_KEYS: Final = ("profiles", "probes", "agent_files", "ssh_private_keys")
"""Exports that hold private keys."""

EXPORT_KEYS: Final = (
    "schema_version",
    *(name for name in StackOutputs.__dataclass_fields__ if name not in {"schema_version", *SECRET_KEYS}),
    *SECRET_KEYS,
)


def to_exports(outputs: StackOutputs) -> dict[str, Any]:
    """Return the outputs as plain JSON values under EXPORT_KEYS, agent profiles apart from the agents."""
    exports: dict[str, Any] = msgspec.to_builtins(outputs)
    profiles = {agent["name"]: agent.pop("profile") for agent in exports["agents"]}
    return {key: profiles if key == "profiles" else exports[key] for key in EXPORT_KEYS}


def from_exports(exports: Mapping[str, Any]) -> StackOutputs:
    """Read what a stack exported. Secrets that were not shown (absent) are read as empty.

    Raises:
        OutputsError: a key is missing or has the wrong type; the message gives its path and what to do.
    """
    values = dict(exports)
    version = values.get("schema_version")
    if version is None:
        raise OutputsError("the stack has no outputs yet: deploy it with `ztna up --stack NAME`")
    if version != SCHEMA_VERSION:
        raise OutputsError(
            f"schema_version is {version!r}, this version reads {SCHEMA_VERSION}: deploy again with `ztna up`"
        )
    profiles = _shown(values.pop("profiles", None))
    values["probes"] = _shown(values.get("probes"))
    values["ssh_private_keys"] = _shown(values.get("ssh_private_keys"))
    files = values.get("agent_files")
    values["agent_files"] = {str(k): _shown(v) for k, v in files.items()} if isinstance(files, dict) else {}
    values["agents"] = [
        {**agent, "profile": profiles.get(agent.get("name"), "")} for agent in values.get("agents") or []
    ]
    try:
        return msgspec.convert(_integral(values), StackOutputs)
    except msgspec.ValidationError as error:
        raise OutputsError(f"a stack output is not as expected: {error}; deploy again with `ztna up`") from error


def _shown(value: object) -> dict[str, str]:
    """Return a secret mapping, or nothing where the engine printed a placeholder in its stead."""
    return {str(key): str(text) for key, text in value.items()} if isinstance(value, dict) else {}


def _integral(value: Any) -> Any:
    """Return JSON values with integral floats as int."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {key: _integral(item) for key, item in value.items()}
        case list() | tuple():
            return [_integral(item) for item in value]
        case _:
            return value


def _named(items: tuple[T, ...], key: str, value: str, what: str) -> T:
    found = next((item for item in items if getattr(item, key) == value), None)
    if found is None:
        known = ", ".join(str(getattr(item, key)) for item in items) or "none"
        raise OutputsError(f"the stack has no {what} {value!r}; it has: {known}")
    return found
