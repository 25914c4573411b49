"""What the stack allows: which agent may reach which service, which connector may serve which, who is revoked.

Default deny: a right needs the certificate's grant and the policy's, and what neither mentions is refused.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from ipaddress import AddressValueError, IPv4Address
from re import ASCII, compile
from typing import Final, Self

from ztna.proto.errors import LocalProtocolError, PolicyError
from ztna.proto.identity import ANY_SERVICE, Identity
from ztna.proto.wire import service_id_bytes

__all__ = ["Policy"]

_FINGERPRINT = compile(r"[0-9a-f]{64}", ASCII)
_TOP_KEYS: Final = ("services", "agents", "connectors", "revoked")


def _object(value: object, path: str, allowed: tuple[str, ...] | None) -> Mapping[str, object]:
    """Check that `value` is a JSON object whose keys are among `allowed` (None: any)."""
    if not isinstance(value, Mapping):
        raise PolicyError(f"{path}: {value!r} is not an object; write {{...}}")
    for key in value:
        if allowed is not None and key not in allowed:
            close = get_close_matches(str(key), allowed, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(allowed)}"
            raise PolicyError(f"{path}.{key}: unknown key; {hint}")
    return value


def _entries(value: object, path: str, allowed: tuple[str, ...]) -> Iterator[tuple[str, Mapping[str, object]]]:
    for name, entry in _object(value, path, None).items():
        yield name, _object(entry, f"{path}.{name}", allowed)


def _address(entry: Mapping[str, object], path: str) -> int:
    value = entry.get("virtual_ip")
    if not isinstance(value, str):
        raise PolicyError(f"{path}.virtual_ip: {value!r} is not an IPv4 address; write one like 100.64.0.100")
    try:
        address = IPv4Address(value)
    except AddressValueError:
        raise PolicyError(f"{path}.virtual_ip: {value!r} is not an IPv4 address") from None
    if not is_unicast(int(address)):
        raise PolicyError(f"{path}.virtual_ip: {value!r} is no unicast address; take one from the stack's own ranges")
    return int(address)


def _names(entry: Mapping[str, object], path: str) -> frozenset[str]:
    value = entry.get("services", [])
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise PolicyError(f"{path}.services: {value!r} is not a list of service ids")
    return frozenset(value)


def _revoked(value: object) -> frozenset[str]:
    if not isinstance(value, list):
        raise PolicyError(f"revoked: {value!r} is not a list")
    entries: set[str] = set()
    for index, entry in enumerate(value):
        if isinstance(entry, str):
            fingerprint = entry.lower().replace(":", "")
            if _FINGERPRINT.fullmatch(fingerprint):
                entries.add(fingerprint)
                continue
            if entry.startswith("spiffe://"):
                entries.add(entry)
                continue
        raise PolicyError(f"revoked[{index}]: {entry!r} is neither 64 hex digits of SHA-256 nor a spiffe:// name")
    return frozenset(entries)


def is_unicast(address: int) -> bool:
    """Say whether a 32-bit address can be one host's: not 0/8, 127/8, link-local, multicast, reserved or broadcast."""
    first = address >> 24
    return 0 < first < 224 and first != 127 and address >> 16 != 0xA9FE


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One state of the policy; a change makes a new one. Addresses are 32-bit integers, as in the packet codecs."""

    service_addresses: Mapping[str, int] = field(default_factory=dict)
    """Virtual address of each service."""
    agent_addresses: Mapping[str, int] = field(default_factory=dict)
    """Virtual address of each agent, by name."""
    reachable: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Services that each agent may reach."""
    servable: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Services that each connector may serve."""
    revocations: frozenset[str] = frozenset()
    """SHA-256 fingerprints in hex, and SPIFFE IDs."""
    services_by_address: Mapping[int, str] = field(default_factory=dict)
    """The inverse of `service_addresses`."""
    agents_by_address: Mapping[int, str] = field(default_factory=dict)
    """The inverse of `agent_addresses`."""

    @classmethod
    def empty(cls) -> Self:
        """Return the policy that grants nothing."""
        return cls()

    @classmethod
    def from_json(cls, document: object) -> Self:
        """Check a parsed policy file.

        Raises:
            PolicyError: names the key, the value and the remedy.
        """
        top = _object(document, "policy", _TOP_KEYS)
        used: dict[int, str] = {}

        def take(entry: Mapping[str, object], path: str) -> int:
            address = _address(entry, path)
            if address in used:
                raise PolicyError(f"{path}.virtual_ip: {entry['virtual_ip']} is taken by {used[address]}; take another")
            used[address] = path
            return address

        services: dict[str, int] = {}
        for name, entry in _entries(top.get("services", {}), "services", ("virtual_ip",)):
            try:
                service_id_bytes(name)
            except LocalProtocolError as error:
                raise PolicyError(f"services.{name}: {error}") from None
            services[name] = take(entry, f"services.{name}")
        agents: dict[str, int] = {}
        reachable: dict[str, frozenset[str]] = {}
        for name, entry in _entries(top.get("agents", {}), "agents", ("virtual_ip", "services")):
            agents[name] = take(entry, f"agents.{name}")
            reachable[name] = _names(entry, f"agents.{name}")
        servable = {
            name: _names(entry, f"connectors.{name}")
            for name, entry in _entries(top.get("connectors", {}), "connectors", ("services",))
        }
        for kind, rights in (("agents", reachable), ("connectors", servable)):
            for name, granted in rights.items():
                for service in sorted(granted - services.keys() - {ANY_SERVICE}):
                    close = get_close_matches(service, services, 1)
                    hint = f"did you mean {close[0]!r}?" if close else "add it to services with its virtual_ip"
                    raise PolicyError(f"{kind}.{name}.services: {service!r} is not a service; {hint}")
        return cls(
            service_addresses=services,
            agent_addresses=agents,
            reachable=reachable,
            servable=servable,
            revocations=_revoked(top.get("revoked", [])),
            services_by_address={address: name for name, address in services.items()},
            agents_by_address={address: name for name, address in agents.items()},
        )

    def may_reach(self, identity: Identity, service: str) -> bool:
        """Say whether an agent may reach a service: its certificate and the policy both grant it."""
        return self._granted("agent", self.reachable, identity, service)

    def may_serve(self, identity: Identity, service: str) -> bool:
        """Say whether a connector may serve a service: its certificate and the policy both grant it."""
        return self._granted("connector", self.servable, identity, service)

    def _granted(self, role: str, rights: Mapping[str, frozenset[str]], identity: Identity, service: str) -> bool:
        granted = rights.get(identity.name, frozenset())
        return (
            (service in granted or ANY_SERVICE in granted)
            and identity.grants_service(role, service)
            and not self.revoked(identity)
        )

    def agent_address(self, name: str) -> int | None:
        """Return the virtual address of an agent, None if the policy does not name it."""
        return self.agent_addresses.get(name)

    def service_address(self, service: str) -> int | None:
        """Return the virtual address of a service, None if the policy does not name it."""
        return self.service_addresses.get(service)

    def service_for_address(self, address: int) -> str | None:
        """Return the service at a virtual address, None if there is none."""
        return self.services_by_address.get(address)

    def revoked(self, identity: Identity) -> bool:
        """Say whether the peer's certificate, or the peer whatever its certificate, is revoked."""
        return identity.fingerprint in self.revocations or identity.uri in self.revocations
