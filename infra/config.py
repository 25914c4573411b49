"""Configuration of the stacks: the only reader of `pulumi.Config`, one frozen dataclass per stack.

Keys live in the namespace of the stack's name (`lab:agentNat`). Each has its help text here, in a table that
`ztna config` prints; a missing or bad key raises ConfigError with the YAML to add and the command that adds it.
"""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final, Protocol

MAPPINGS: Final = ("endpoint-independent", "address-dependent", "address-and-port-dependent")
RUNGS: Final = ("auto", "root", "rootless", "loopback")
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
RELAY_MODES: Final = ("auto", "kernel", "userspace", "off")
"""Who forwards packets of sessions without a direct path (`relay` of intermediate.json)."""
VERIFY_MODES: Final = ("quick", "full", "off")
"""How much of `ztna verify` is the last step of `ztna up`."""


class ConfigError(Exception):
    """A configuration key is missing or bad. The message names the key, the value and the remedy."""


class ConfigSource(Protocol):
    """What is read of `pulumi.Config`."""

    name: str

    def get(self, key: str) -> str | None:
        """Return the text of a key, JSON when it is structured, or None."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """A configuration key: its name without namespace, its help, an example, and its default (None: required)."""

    name: str
    help: str
    example: str
    default: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class NatSettings:
    """A NAT by preset name, or by behaviour where `preset` is None (fields of RFC 4787 sections 4 to 6)."""

    preset: str | None
    behavior: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ImpairmentSettings:
    """What one direction of a link does to packets; probabilities are 0 to 1."""

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0
    reorder: float = 0.0
    duplicate: float = 0.0
    rate_bps: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkSettings:
    """Both directions of a link, seen from the host: `up` is what it sends."""

    up: ImpairmentSettings = ImpairmentSettings()
    down: ImpairmentSettings = ImpairmentSettings()
    mtu: int = 1500


@dataclass(frozen=True, kw_only=True, slots=True)
class PkiSettings:
    """The stack's certificates: another generation makes all of them anew; validity of leaves in days.

    While `overlap` is not "none", the CA of generation - 1 stays trusted beside the one of `generation`: "agents" gives
    agents the new generation and leaves servers on the old one, "all" gives it to everybody (docs/security.md).
    """

    generation: int = 1
    leaf_days: int = 90
    overlap: str = "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class LabConfig:
    """Configuration of the `lab` stack."""

    agent_nat: NatSettings
    connector_nat: NatSettings
    agent_link: LinkSettings = LinkSettings()
    connector_link: LinkSettings = LinkSettings()
    relay_link: LinkSettings = LinkSettings()
    run: str = ""
    rung: str = "auto"
    log_level: str = "info"
    relay: str = "auto"
    verify: str = "off"
    pki: PkiSettings = PkiSettings()


_LINK_HELP = (
    "what the link of the {} does to packets: delayMs, jitterMs, loss, reorder, duplicate (0 to 1), rateBps, mtu; "
    "both directions alike, or one each under `up` and `down`"
)

LAB_KEYS: Final = (
    Key(
        name="agentNat",
        help="the NAT in front of the agent: a preset, or an object of mapping, filtering, udpTimeoutS, hairpin, "
        "portAllocation, udpBlocked (RFC 4787)",
        example="port-restricted",
    ),
    Key(name="connectorNat", help="the NAT in front of the connector, as agentNat", example="symmetric"),
    Key(name="agentLink", help=_LINK_HELP.format("agent"), example='{"delayMs": 20, "loss": 0.01}', default="{}"),
    Key(
        name="connectorLink",
        help=_LINK_HELP.format("connector"),
        example='{"up": {"rateBps": 20000000}, "down": {"delayMs": 5}}',
        default="{}",
    ),
    Key(name="relayLink", help=_LINK_HELP.format("intermediate"), example='{"mtu": 1400}', default="{}"),
    Key(
        name="run",
        help="name of the run on this machine, by which its namespaces are called; unless given, the stack's name and "
        "6 hex digits of the project's directory, so that every checkout has its own",
        example="lab-two",
        default="",
    ),
    Key(
        name="rung",
        help="how the lab is realised: auto takes the best this machine allows of root, rootless, loopback",
        example="rootless",
        default="auto",
    ),
    Key(
        name="relay",
        help="who forwards packets of sessions without a direct path: " + ", ".join(RELAY_MODES),
        example="userspace",
        default="auto",
    ),
    Key(name="logLevel", help="log level of the roles: " + ", ".join(LOG_LEVELS), example="debug", default="info"),
    Key(
        name="pkiGeneration",
        help="raise it to make a new CA and new certificates (all roles restart)",
        example="2",
        default="1",
    ),
    Key(name="leafDays", help="validity of leaf certificates in days, 1 to 825", example="30", default="90"),
    Key(
        name="verify",
        help="how much of `ztna verify` is the last step of `ztna up`, which fails with it: quick, full, off; off "
        "here, as `make up` verifies all of it anyway",
        example="quick",
        default="off",
    ),
)


class Reader:
    """Reads the keys of one table from one namespace and words the errors."""

    def __init__(self, source: ConfigSource, keys: Collection[Key]) -> None:
        self._source = source
        self._keys = {key.name: key for key in keys}

    @property
    def namespace(self) -> str:
        """The namespace of the keys: the stack's name."""
        return self._source.name

    def text(self, name: str) -> str:
        """Return the text of a key or its default. Raises ConfigError when it is required and missing."""
        key = self._keys[name]
        value = self._source.get(name)
        if value is None:
            value = key.default
        if value is None:
            raise ConfigError(f"{self._source.name}:{name} is missing: {key.help}.\n{self._remedy(key)}")
        return value

    def parse(self, name: str, parse: Callable[[str], Any]) -> Any:
        """Return a key's text parsed. Raises ConfigError with the remedy when `parse` raises ValueError."""
        text = self.text(name)
        try:
            return parse(text)
        except ValueError as error:
            raise ConfigError(
                f"{self._source.name}:{name} is {text!r}: {error}.\n{self._remedy(self._keys[name])}"
            ) from error

    def _remedy(self, key: Key) -> str:
        namespace = self._source.name
        quoted = f"'{key.example}'" if key.example.startswith(("{", "[")) else key.example
        path = f"{namespace}:{key.name}"
        return (
            f"Add to Pulumi.{namespace}.yaml:\n  config:\n    {path}: {key.example}\n"
            f"or run: ztna config set --stack {namespace} {path} {quoted}\n"
            f"    or: pulumi config set --stack {namespace} {path} {quoted}"
        )


def lab_config(source: ConfigSource, presets: Collection[str]) -> LabConfig:
    """Read the `lab` stack's configuration.

    Args:
        source: `pulumi.Config("lab")`.
        presets: names of the NATs that the lab knows.

    Raises:
        ConfigError: a key is missing or bad.
    """
    reader = Reader(source, LAB_KEYS)

    def nat(text: str) -> NatSettings:
        return parse_nat(text, presets)

    return LabConfig(
        agent_nat=reader.parse("agentNat", nat),
        connector_nat=reader.parse("connectorNat", nat),
        agent_link=reader.parse("agentLink", parse_link),
        connector_link=reader.parse("connectorLink", parse_link),
        relay_link=reader.parse("relayLink", parse_link),
        run=reader.text("run"),
        rung=reader.parse("rung", lambda text: parse_choice(text, RUNGS)),
        log_level=reader.parse("logLevel", lambda text: parse_choice(text, LOG_LEVELS)),
        relay=reader.parse("relay", lambda text: parse_choice(text, RELAY_MODES)),
        verify=reader.parse("verify", parse_verify),
        pki=PkiSettings(
            generation=reader.parse("pkiGeneration", lambda text: parse_int(text, 1, 2**31)),
            leaf_days=reader.parse("leafDays", lambda text: parse_int(text, 1, 825)),
        ),
    )


def parse_choice(text: str, choices: Collection[str]) -> str:
    """Return `text` when it is one of the choices, else raise ValueError with the nearest of them."""
    if text in choices:
        return text
    near = get_close_matches(text, choices, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"{hint}it may be {', '.join(choices)}")


def parse_verify(text: str) -> str:
    """Return one of VERIFY_MODES; YAML reads a bare `off` as false. Raises ValueError."""
    return "off" if text == "false" else parse_choice(text, VERIFY_MODES)


def parse_int(text: str, low: int, high: int) -> int:
    """Return a whole number within bounds, else raise ValueError."""
    try:
        value = int(text)
    except ValueError:
        raise ValueError("it is not a whole number") from None
    if not low <= value <= high:
        raise ValueError(f"it must be {low} to {high}")
    return value


_NAT_FIELDS: Final = {
    "mapping": "mapping",
    "filtering": "filtering",
    "udpTimeoutS": "udp_timeout_s",
    "hairpin": "hairpin",
    "portAllocation": "port_allocation",
    "udpBlocked": "udp_blocked",
}


def parse_nat(text: str, presets: Collection[str]) -> NatSettings:
    """Read a preset's name or a JSON object of behaviours. Raises ValueError."""
    if not text.lstrip().startswith("{"):
        return NatSettings(preset=parse_choice(text, presets))
    values = _object(text, _NAT_FIELDS)
    for field in ("mapping", "filtering"):
        if field not in values:
            raise ValueError(f"{field} is missing in it; it may be {', '.join(MAPPINGS)}")
        parse_choice(str(values[field]), MAPPINGS)
    return NatSettings(preset=None, behavior={_NAT_FIELDS[name]: value for name, value in values.items()})


_IMPAIRMENT_FIELDS: Final = {
    "delayMs": ("delay_ms", 10_000.0),
    "jitterMs": ("jitter_ms", 10_000.0),
    "loss": ("loss", 1.0),
    "reorder": ("reorder", 1.0),
    "duplicate": ("duplicate", 1.0),
    "rateBps": ("rate_bps", 100e9),
}


def parse_link(text: str) -> LinkSettings:
    """Read a link's JSON object. Raises ValueError."""
    values = _object(text, (*_IMPAIRMENT_FIELDS, "up", "down", "mtu"))
    mtu = parse_int(str(values.pop("mtu", 1500)), 576, 9000)
    up, down = values.pop("up", {}), values.pop("down", {})
    if not isinstance(up, dict) or not isinstance(down, dict):
        raise ValueError('`up` and `down` must be objects, such as {"delayMs": 20}')
    return LinkSettings(up=_impairment({**values, **up}), down=_impairment({**values, **down}), mtu=mtu)


def _impairment(values: Mapping[str, Any]) -> ImpairmentSettings:
    fields: dict[str, Any] = {}
    for name, value in values.items():
        parse_choice(name, tuple(_IMPAIRMENT_FIELDS))
        field, most = _IMPAIRMENT_FIELDS[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
            raise ValueError(f"{name} is {value!r}, it must be a number from 0 to {most:g}")
        fields[field] = int(value) if field == "rate_bps" else float(value)
    return ImpairmentSettings(**fields)


def _object(text: str, known: Collection[str]) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON ({error.msg} at character {error.pos})") from error
    if not isinstance(values, dict):
        raise ValueError("it is not an object")
    for name in values:
        try:
            parse_choice(name, known)
        except ValueError as error:
            raise ValueError(f"unknown field {name!r}, {error}") from None
    return values
