"""The state of a stack: resources, their order and their JSON form (Pulumi's deployment version 3)."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any

from infra.engine.errors import StateError
from infra.engine.props import Props
from infra.engine.secrets import Crypter
from infra.engine.urn import is_provider, is_valid, parse_reference, provider_reference

VERSION = 3
# Who wrote the state; readers check that `magic` is the SHA-256 of it.
ENGINE_VERSION = "ztna-embedded-1"


@dataclass(slots=True, eq=False)
class ResourceState:
    """One resource as recorded. Identity matters (a replaced resource and its replacement share the URN).

    Attributes:
        custom: managed by a provider (else a component).
        delete: replaced already, waits to be deleted.
        external: read (`.get()`), not owned.
        inputs, outputs: property values, secrets open.
        pending_replacement: deleted for a replacement that has not been created yet.
        created, modified: RFC 3339 times.
        extra: fields of other engines that are kept as they are.
    """

    urn: str
    type: str
    custom: bool
    id: str = ""
    delete: bool = False
    inputs: Props = field(default_factory=dict)
    outputs: Props = field(default_factory=dict)
    parent: str = ""
    protect: bool = False
    external: bool = False
    dependencies: list[str] = field(default_factory=list)
    init_errors: list[str] = field(default_factory=list)
    provider: str = ""
    property_dependencies: dict[str, list[str]] = field(default_factory=dict)
    pending_replacement: bool = False
    additional_secret_outputs: list[str] = field(default_factory=list)
    aliases: list[str] = field(default_factory=list)
    custom_timeouts: dict[str, float] = field(default_factory=dict)
    retain_on_delete: bool = False
    deleted_with: str = ""
    created: str = ""
    modified: str = ""
    source_position: str = ""
    ignore_changes: list[str] = field(default_factory=list)
    replace_on_changes: list[str] = field(default_factory=list)
    resource_hooks: dict[str, list[str]] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    def copy(self) -> "ResourceState":
        """A shallow copy; values are never changed in place, so sharing them is safe."""
        return replace(self)

    def references(self) -> Iterator[str]:
        """URNs that must stand before this resource: parent, provider, dependencies, deletedWith."""
        if self.parent:
            yield self.parent
        if self.provider:
            yield parse_reference(self.provider)[0]
        yield from self.dependencies
        for urns in self.property_dependencies.values():
            yield from urns
        if self.deleted_with:
            yield self.deleted_with

    def renamed(self, names: dict[str, str]) -> "ResourceState":
        """The same with URNs replaced by `names` (old to new) wherever it refers to another resource."""
        if not any(urn in names for urn in self.references()):
            return self
        provider = self.provider
        if provider:
            urn, id_ = parse_reference(provider)
            provider = provider_reference(names.get(urn, urn), id_)
        return replace(
            self,
            parent=names.get(self.parent, self.parent),
            provider=provider,
            dependencies=[names.get(urn, urn) for urn in self.dependencies],
            property_dependencies={
                key: [names.get(urn, urn) for urn in urns] for key, urns in self.property_dependencies.items()
            },
            deleted_with=names.get(self.deleted_with, self.deleted_with),
        )


@dataclass(slots=True)
class PendingOperation:
    """An operation that had begun when the state was written.

    Attributes:
        kind: creating, updating, deleting, reading or importing.
    """

    resource: ResourceState
    kind: str


@dataclass(slots=True)
class Deployment:
    """Everything in a state file: resources in dependency order and operations that were under way."""

    resources: list[ResourceState] = field(default_factory=list)
    pending: list[PendingOperation] = field(default_factory=list)


_NAMES = {
    "urn": "urn",
    "custom": "custom",
    "delete": "delete",
    "id": "id",
    "type": "type",
    "inputs": "inputs",
    "outputs": "outputs",
    "parent": "parent",
    "protect": "protect",
    "external": "external",
    "dependencies": "dependencies",
    "init_errors": "initErrors",
    "provider": "provider",
    "property_dependencies": "propertyDependencies",
    "pending_replacement": "pendingReplacement",
    "additional_secret_outputs": "additionalSecretOutputs",
    "aliases": "aliases",
    "custom_timeouts": "customTimeouts",
    "retain_on_delete": "retainOnDelete",
    "deleted_with": "deletedWith",
    "created": "created",
    "modified": "modified",
    "source_position": "sourcePosition",
    "ignore_changes": "ignoreChanges",
    "replace_on_changes": "replaceOnChanges",
    "resource_hooks": "resourceHooks",
}
assert {item.name for item in fields(ResourceState)} == {*_NAMES, "extra"}
_ALWAYS = ("urn", "custom", "type")
_FIELD_OF = {name: attribute for attribute, name in _NAMES.items()}


def resource_to_json(state: ResourceState, crypter: Crypter) -> dict[str, Any]:
    """A resource as it stands in the file; empty fields are left out."""
    result: dict[str, Any] = {}
    for attribute, name in _NAMES.items():
        value = getattr(state, attribute)
        if attribute in ("inputs", "outputs"):
            value = crypter.encrypt_props(value, state.urn)
        if value or attribute in _ALWAYS:
            result[name] = value
    return {**result, **state.extra}


def resource_from_json(data: dict[str, Any], crypter: Crypter) -> ResourceState:
    """Reads one resource; fields this engine does not know are kept in `extra`.

    Raises:
        StateError: it lacks urn or type, or its secrets cannot be decrypted.
    """
    known: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for name, value in data.items():
        if name in _FIELD_OF:
            known[_FIELD_OF[name]] = value
        else:
            extra[name] = value
    if not known.get("urn") or not known.get("type"):
        raise StateError(f"the state holds a resource without urn or type: {sorted(data)}")
    for name in ("inputs", "outputs"):
        known[name] = crypter.decrypt_props(known.get(name) or {}, known["urn"])
    return ResourceState(custom=bool(known.pop("custom", False)), extra=extra, **known)


def manifest() -> dict[str, Any]:
    """Who wrote the state and when."""
    return {"time": now(), "magic": _magic(ENGINE_VERSION), "version": ENGINE_VERSION}


def _magic(version: str) -> str:
    return hashlib.sha256(version.encode()).hexdigest()


def now() -> str:
    """The current time in UTC as Pulumi writes it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def salt_of(deployment: dict[str, Any]) -> str:
    """The salt text of the deployment's secrets; empty when it has none.

    Raises:
        StateError: its secrets are under a provider other than passphrase.
    """
    provider = deployment.get("secrets_providers") or {}
    if provider and provider.get("type") != "passphrase":
        raise StateError(
            f"the state's secrets are kept by {provider.get('type')!r}; the embedded engine knows passphrase only"
        )
    return str((provider.get("state") or {}).get("salt", ""))


def deployment_to_json(deployment: Deployment, crypter: Crypter) -> dict[str, Any]:
    """The deployment as `stack export` prints it (the value of the key `deployment`)."""
    result: dict[str, Any] = {
        "manifest": manifest(),
        "secrets_providers": {"type": "passphrase", "state": {"salt": crypter.salt_text}},
        "resources": [resource_to_json(state, crypter) for state in deployment.resources],
        "metadata": {},
    }
    if deployment.pending:
        result["pending_operations"] = [
            {"resource": resource_to_json(item.resource, crypter), "type": item.kind} for item in deployment.pending
        ]
    return result


def deployment_from_json(data: dict[str, Any], crypter: Crypter) -> Deployment:
    """Reads a deployment and checks it.

    Raises:
        StateError: the manifest's magic is wrong, or `verify` finds a fault.
    """
    about = data.get("manifest") or {}
    if about.get("magic") and about["magic"] != _magic(str(about.get("version", ""))):
        raise StateError("the state's manifest does not fit its magic: the file was damaged or edited by hand")
    deployment = Deployment(
        resources=[resource_from_json(item, crypter) for item in data.get("resources") or []],
        pending=[
            PendingOperation(resource_from_json(item["resource"], crypter), str(item["type"]))
            for item in data.get("pending_operations") or []
        ],
    )
    verify(deployment.resources)
    return deployment


def verify(resources: list[ResourceState]) -> None:
    """Checks what every reader relies on: each reference names a resource that stands earlier.

    Raises:
        StateError: names the resource and the fault.
    """
    seen: set[str] = set()
    providers: set[str] = set()
    live: set[str] = set()
    for state in resources:
        if not is_valid(state.urn):
            raise StateError(f"the state holds a resource with a malformed URN: {state.urn!r}")
        if not state.custom and state.id:
            raise StateError(f"{state.urn} is no custom resource and yet has an id")
        if is_provider(state.type):
            providers.add(provider_reference(state.urn, state.id))
        if state.provider and state.provider not in providers and not state.pending_replacement:
            raise StateError(f"{state.urn} refers to a provider that is not in the state: {state.provider}")
        for urn in state.references():
            if urn not in seen:
                raise StateError(f"{state.urn} refers to {urn}, which does not stand before it in the state")
        if not state.delete:
            if state.urn in live:
                raise StateError(f"{state.urn} is in the state twice")
            live.add(state.urn)
        seen.add(state.urn)
