"""What the program asks for: one registration as plain data, checked for what the engine does not model."""

import re
from dataclasses import dataclass, field

from pulumi.runtime.proto import resource_pb2

from infra.engine.aliases import Alias, from_wire
from infra.engine.errors import EngineError, UnsupportedError
from infra.engine.props import Props, from_struct

_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_HOOKS = {
    "before_create": "beforeCreate",
    "after_create": "afterCreate",
    "before_update": "beforeUpdate",
    "after_update": "afterUpdate",
    "before_delete": "beforeDelete",
    "after_delete": "afterDelete",
}


@dataclass(slots=True, kw_only=True)
class Goal:
    """A resource as the program wants it. URNs are the SDK's; `provider` is a reference or empty.

    Attributes:
        aliases: what the resource may have been before.
        delete_before_replace: None leaves the choice to the provider.
        timeouts_s: create, update, delete, read in seconds, where given.
    """

    type: str
    name: str
    custom: bool
    parent: str = ""
    inputs: Props = field(default_factory=dict)
    provider: str = ""
    providers: dict[str, str] = field(default_factory=dict)
    version: str = ""
    plugin_url: str = ""
    protect: bool = False
    dependencies: list[str] = field(default_factory=list)
    property_dependencies: dict[str, list[str]] = field(default_factory=dict)
    delete_before_replace: bool | None = None
    ignore_changes: list[str] = field(default_factory=list)
    replace_on_changes: list[str] = field(default_factory=list)
    additional_secret_outputs: list[str] = field(default_factory=list)
    aliases: list[Alias] = field(default_factory=list)
    timeouts_s: dict[str, float] = field(default_factory=dict)
    retain_on_delete: bool = False
    deleted_with: str = ""
    source_position: str = ""
    hooks: dict[str, list[str]] = field(default_factory=dict)


def from_request(request: resource_pb2.RegisterResourceRequest) -> Goal:
    """Reads a registration.

    Raises:
        UnsupportedError: it uses a feature the engine does not model; the message names feature and resource.
    """
    _refuse(request)
    dependencies = sorted(request.dependencies)
    return Goal(
        type=request.type,
        name=request.name,
        custom=request.custom,
        parent=request.parent,
        inputs=from_struct(request.object),
        provider=request.provider,
        providers=dict(request.providers),
        version=request.version,
        plugin_url=request.pluginDownloadURL,
        protect=request.protect,
        dependencies=dependencies,
        property_dependencies={key: sorted(item.urns) for key, item in sorted(request.propertyDependencies.items())},
        delete_before_replace=request.deleteBeforeReplace if request.deleteBeforeReplaceDefined else None,
        ignore_changes=list(request.ignoreChanges),
        replace_on_changes=list(request.replaceOnChanges),
        additional_secret_outputs=list(request.additionalSecretOutputs),
        aliases=[*(Alias(urn=urn) for urn in request.aliasURNs), *map(from_wire, request.aliases)],
        timeouts_s=_timeouts(request.customTimeouts),
        retain_on_delete=request.retainOnDelete,
        deleted_with=request.deletedWith,
        source_position=_position(request),
        hooks={
            ours: list(getattr(request.hooks, theirs))
            for theirs, ours in _HOOKS.items()
            if getattr(request.hooks, theirs)
        },
    )


def _refuse(request: resource_pb2.RegisterResourceRequest) -> None:
    used = {
        "remote components (packages that construct resources themselves)": request.remote,
        "the resource option `import_`": bool(request.importId),
        "parameterized packages": bool(getattr(request, "packageRef", "")),
        "the resource option `replace_with`": bool(getattr(request, "replace_with", ())),
        "the resource option `replacement_trigger`": _has(request, "replacement_trigger"),
        "the resource option `env_var_mappings`": bool(getattr(request, "envVarMappings", {})),
        "state migrations": bool(getattr(request, "state_migrations", ())),
        "error hooks": bool(request.HasField("hooks") and getattr(request.hooks, "on_error", ())),
    }
    for feature, is_used in used.items():
        if is_used:
            raise UnsupportedError(
                f"the embedded engine does not model {feature}, which {request.type} {request.name!r} uses",
                "Use the official pulumi CLI for this program (--engine pulumi).",
            )


def _has(request: resource_pb2.RegisterResourceRequest, name: str) -> bool:
    known = name in resource_pb2.RegisterResourceRequest.DESCRIPTOR.fields_by_name
    return known and request.HasField(name)  # type: ignore[arg-type]


def _position(request: resource_pb2.RegisterResourceRequest) -> str:
    position = request.sourcePosition
    return f"{position.uri}#{position.line}" if position.uri else ""


def _timeouts(timeouts: resource_pb2.RegisterResourceRequest.CustomTimeouts) -> dict[str, float]:
    given = {name: str(getattr(timeouts, name, "")) for name in ("create", "update", "delete", "read")}
    return {name: parse_duration(text) for name, text in given.items() if text}


def parse_duration(text: str) -> float:
    """Seconds of a duration such as `1h5m`, `90s` or `1.5s`.

    Raises:
        EngineError: the text is no duration.
    """
    total, end = 0.0, 0
    for part in _DURATION.finditer(text):
        if part.start() != end:
            break
        total += float(part[1]) * _SECONDS[part[2]]
        end = part.end()
    if not text or end != len(text):
        raise EngineError(f"{text!r} is not a duration", "Write it as 30s, 5m or 1h30m.")
    return total
