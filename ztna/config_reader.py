"""Strict reading of JSON objects: every error names the key path, the value and the remedy.

A `Reader` hands out typed values of one object and remembers which keys were asked for; `done()` refuses the rest with
a suggestion. Keys that peers in the field already write are accepted as aliases.
"""

import ipaddress
import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, TypeVar

MISSING: Final = object()

T = TypeVar("T")


class ConfigError(Exception):
    """A config file that cannot be used; the text names the key, the value and what to write instead."""


def parse_json(text: str, where: str) -> Mapping[str, Any]:
    """Parse a JSON object, refusing duplicate keys.

    Raises:
        ConfigError: not JSON (with line and column), not an object, or a key given twice.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in items:
            if key in result:
                raise ConfigError(f"{where}: {key}: given twice in one object; keep one")
            result[key] = value
        return result

    try:
        value = json.loads(text, object_pairs_hook=pairs)
    except json.JSONDecodeError as exc:
        raise ConfigError(f"{where}: line {exc.lineno} column {exc.colno}: not valid JSON ({exc.msg})") from None
    except RecursionError:
        raise ConfigError(f"{where}: not valid JSON (nested too deep)") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: the file must hold one JSON object, not {_shown(value)}")
    return value


def read_text(path: Path, key: str) -> str:
    """Read a UTF-8 file named by a config key.

    Raises:
        ConfigError: missing, unreadable, or not text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{key}: there is no file {path}; check the path") from None
    except PermissionError:
        raise ConfigError(f"{key}: no permission to read {path}; run as its owner or change its mode") from None
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{key}: cannot read {path}: {exc}") from None


class Reader:
    """Typed access to one JSON object. `path` is the key path shown in errors, `where` the file."""

    def __init__(self, value: Any, path: str, where: str) -> None:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: {path}: must be an object {{...}}, not {_shown(value)}")
        self._value = value
        self._path = path
        self._where = where
        self._known: list[str] = []

    def key(self, name: str) -> str:
        """Full path of a key, for messages."""
        return f"{self._path}.{name}" if self._path else name

    def error(self, name: str, text: str) -> ConfigError:
        """A ConfigError about one key."""
        return ConfigError(f"{self._where}: {self.key(name)}: {text}")

    def raw(self, name: str, *aliases: str) -> Any:
        """The value of a key or of one of its aliases, MISSING if none is there; two of them are an error."""
        self._known += (name, *aliases)
        present = [key for key in (name, *aliases) if key in self._value]
        if len(present) > 1:
            raise self.error(present[1], f"says the same as {present[0]!r}; keep one of them")
        return self._value[present[0]] if present else MISSING

    def text(self, name: str, *aliases: str, default: Any = MISSING) -> Any:
        """A non-empty string."""
        value = self._get(name, aliases, default)
        if value is default:
            return value
        if not isinstance(value, str) or not value.strip():
            raise self.error(name, f"{_shown(value)} is not a non-empty string")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of non-empty strings, empty if it is not there."""
        value = self._get(name, (), [])
        if not isinstance(value, list) or not all(isinstance(item, str) and item.strip() for item in value):
            raise self.error(name, f"{_shown(value)} is not a list of non-empty strings")
        return tuple(value)

    def boolean(self, name: str, *aliases: str, default: bool) -> bool:
        """true or false."""
        value = self._get(name, aliases, default)
        if not isinstance(value, bool):
            raise self.error(name, f"{_shown(value)} is not true or false (without quotes)")
        return value

    def port(self, name: str, *aliases: str, default: Any = MISSING, zero: bool = False) -> Any:
        """A port number; `zero` allows 0."""
        value = self._get(name, aliases, default)
        if value is default:
            return value
        low = 0 if zero else 1
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= 65535:
            raise self.error(name, f"{_shown(value)} is not a port; write a number from {low} to 65535 without quotes")
        return value

    def integer(self, name: str, low: int, high: int, *, default: Any) -> Any:
        """An integer in a range."""
        value = self._get(name, (), default)
        if value is default:
            return value
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.error(name, f"{_shown(value)} is not an integer from {low} to {high}")
        return value

    def ip(self, name: str, *aliases: str, default: Any = MISSING, v4: bool = False) -> Any:
        """An IP address as text, normalised."""
        value = self._get(name, aliases, default)
        if value is default:
            return value
        try:
            address = ipaddress.ip_address(value) if isinstance(value, str) else None
        except ValueError:
            address = None
        if address is None or (v4 and address.version != 4):
            raise self.error(name, f"{_shown(value)} is not an {'IPv4' if v4 else 'IP'} address")
        return str(address)

    def choice(self, name: str, allowed: tuple[str, ...], *, default: str) -> str:
        """One of a few words."""
        value = self._get(name, (), default)
        if value not in allowed:
            raise self.error(name, f"{_shown(value)} is not one of {', '.join(allowed)}{_hint(value, allowed)}")
        return str(value)

    def host_port(self, name: str, *aliases: str, default: Any = MISSING) -> Any:
        """`host:port` or `[v6]:port` as (host, port)."""
        value = self._get(name, aliases, default)
        if value is default:
            return value
        host, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
        host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
        valid_host = bool(host) and (":" not in host or _is_ip(host)) and not any(char.isspace() for char in host)
        if not valid_host or not (port.isascii() and port.isdecimal()) or not 1 <= int(port) <= 65535:
            raise self.error(name, f"{_shown(value)} is not host:port; write one like 192.0.2.10:9999")
        return host, int(port)

    def items(self, name: str, *, default: Any = MISSING) -> list["Reader"]:
        """A list of objects."""
        value = self._get(name, (), default)
        if value is default and default is not MISSING:
            return []
        if not isinstance(value, list):
            raise self.error(name, f"{_shown(value)} is not a list [...]")
        return [Reader(item, f"{self.key(name)}[{index}]", self._where) for index, item in enumerate(value)]

    def section(self, name: str) -> "Reader | None":
        """A nested object, None if absent or null."""
        value = self.raw(name)
        return None if value is MISSING or value is None else Reader(value, self.key(name), self._where)

    def numbers(self, name: str) -> dict[str, float]:
        """A nested object of positive numbers."""
        value = self.raw(name)
        if value is MISSING or value is None:
            return {}
        if not isinstance(value, Mapping):
            raise self.error(name, f"{_shown(value)} is not an object of numbers")
        for key, number in value.items():
            valid = not isinstance(number, bool) and isinstance(number, (int, float))
            if not valid or number <= 0 or not math.isfinite(number):
                raise self.error(f"{name}.{key}", f"{_shown(number)} is not a positive number")
        return dict(value)

    def done(self) -> None:
        """Refuse keys nobody asked for."""
        for key in self._value:
            if key not in self._known:
                hint = _hint(key, self._known) or f"; known keys: {', '.join(sorted(self._known))}"
                raise self.error(key, f"unknown key{hint}")

    def _get(self, name: str, aliases: tuple[str, ...], default: Any) -> Any:
        value = self.raw(name, *aliases)
        if value is MISSING or (value is None and default is not MISSING):
            if default is MISSING:
                raise self.error(name, "missing; it is required")
            return default
        return value


def apply_limits(given: Mapping[str, float], *defaults: Any, where: str = "limits") -> tuple[Any, ...]:
    """Replace fields of frozen limit dataclasses by the numbers of a config's `limits` object.

    Returns:
        The dataclasses in the order given. A name that several have is set in all of them.

    Raises:
        ConfigError: a name that none has, or a fraction where an integer is wanted.
    """
    names: dict[str, type] = {}
    for default in defaults:
        assert is_dataclass(default)
        names |= {field.name: type(getattr(default, field.name)) for field in fields(default)}
    for name, number in given.items():
        if name not in names:
            hint = _hint(name, list(names)) or f"; known: {', '.join(sorted(names))}"
            raise ConfigError(f"{where}.{name}: unknown limit{hint}")
        if names[name] is int and number != int(number):
            raise ConfigError(f"{where}.{name}: {number} is not a whole number")
    return tuple(_with(default, given) for default in defaults)


def _with(default: Any, given: Mapping[str, float]) -> Any:
    own = {field.name: type(getattr(default, field.name)) for field in fields(default)}
    return replace(default, **{name: own[name](number) for name, number in given.items() if name in own})


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _hint(value: object, allowed: Any) -> str:
    close = get_close_matches(str(value), list(allowed), 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _shown(value: object) -> str:
    text = "null" if value is None else json.dumps(value, default=str)
    if "PRIVATE KEY" in text:
        return "(a private key, not shown)"
    return text if len(text) <= 60 else f"{text[:57]}..."
