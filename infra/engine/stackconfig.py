"""Pulumi.<stack>.yaml: the configuration of a stack, `secure` values included."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from infra.engine.backend import write_durably
from infra.engine.errors import ConfigError, StateError
from infra.engine.project import ConfigKey, Project, read_yaml, to_text
from infra.engine.secrets import Crypter

_KNOWN = {"config", "encryptionsalt", "secretsprovider", "encryptedkey", "environment"}


@dataclass(frozen=True, slots=True)
class StackConfig:
    """What a program gets: texts by full key (`namespace:name`), and which of them are secret."""

    values: dict[str, str] = field(default_factory=dict)
    secret_keys: frozenset[str] = frozenset()


class StackConfigFile:
    """Reads and writes the configuration file of one stack.

    Args:
        passphrase: gives the passphrase when a secret has to be opened or made.
    """

    def __init__(self, project: Project, stack: str, passphrase: Callable[[], str]) -> None:
        self._project, self._stack, self._passphrase = project, stack, passphrase
        self.path: Path = project.stack_file(stack)

    def load(self) -> StackConfig:
        """All values, the project's own and defaults included.

        Raises:
            ConfigError: a value is missing or of the wrong type, or a secret cannot be decrypted.
        """
        data = self._read()
        raw = {self._full(key): value for key, value in (data.get("config") or {}).items()}
        values: dict[str, str] = {}
        secret_keys: set[str] = set()
        for key, value in raw.items():
            opened, is_secret = self._open(key, value, data)
            self._check_type(key, opened)
            values[key] = to_text(opened)
            if is_secret:
                secret_keys.add(key)
        for name, declared in self._project.config.items():
            key = self._full(name)
            if key not in values:
                self._apply_default(key, declared, values)
            if declared.secret:
                secret_keys.add(key)
        return StackConfig(values, frozenset(secret_keys))

    def get(self, key: str) -> str:
        """One value.

        Raises:
            ConfigError: it is not set.
        """
        values = self.load().values
        if self._full(key) not in values:
            raise ConfigError(f"configuration key {self._full(key)!r} of stack {self._stack!r} is not set")
        return values[self._full(key)]

    def set(self, key: str, value: Any, *, secret: bool = False) -> None:
        """Sets one value in the file; a secret is encrypted (as text; other values as JSON)."""
        data = self._read()
        if secret:
            crypter = Crypter(self._passphrase(), str(data.get("encryptionsalt", "")))
            data["encryptionsalt"] = crypter.salt_text
            value = {"secure": crypter.encrypt(to_text(value))}
        data.setdefault("config", {})
        data["config"] = {**(data["config"] or {}), self._full(key): value}
        write_durably(self.path, yaml.safe_dump(data, sort_keys=False, allow_unicode=True))

    def remove(self, key: str) -> None:
        """Takes one value out of the file; it may be absent."""
        data = self._read()
        before, full = data.get("config") or {}, self._full(key)
        config = {name: value for name, value in before.items() if self._full(name) != full}
        write_durably(self.path, yaml.safe_dump({**data, "config": config}, sort_keys=False, allow_unicode=True))

    def _read(self) -> dict[str, Any]:
        data = read_yaml(self.path)
        for key in data:
            if key not in _KNOWN:
                raise ConfigError(f"{self.path.name}: unknown key {key!r}", f"Known are {', '.join(sorted(_KNOWN))}.")
        if data.get("environment"):
            raise ConfigError(f"{self.path.name}: the embedded engine does not model 'environment' (Pulumi ESC)")
        if data.get("secretsprovider", "passphrase") not in ("", "passphrase", "default"):
            raise ConfigError(
                f"{self.path.name}: the embedded engine does not model the secrets provider {data['secretsprovider']!r}"
            )
        return data

    def _full(self, key: str) -> str:
        if ":" not in key:
            return f"{self._project.name}:{key}"
        # `project:config:key` is the old long form.
        parts = key.split(":")
        return f"{parts[0]}:{parts[2]}" if len(parts) == 3 and parts[1] == "config" else key

    def _open(self, key: str, value: Any, data: dict[str, Any]) -> tuple[Any, bool]:
        """The value with every `secure` opened, at any depth, and whether there was one."""
        crypter: Crypter | None = None
        found = False

        def visit(item: Any) -> Any:
            nonlocal crypter, found
            if isinstance(item, dict) and set(item) == {"secure"}:
                found = True
                if crypter is None:
                    crypter = Crypter(self._passphrase(), str(data.get("encryptionsalt", "")))
                return crypter.decrypt(str(item["secure"]))
            if isinstance(item, dict):
                return {name: visit(inner) for name, inner in item.items()}
            return [visit(inner) for inner in item] if isinstance(item, list) else item

        try:
            return visit(value), found
        except StateError as error:
            raise ConfigError(f"{self.path.name}: {key}: {error.message}", error.remedy) from error

    def _declared(self, key: str) -> ConfigKey | None:
        namespace, _, name = key.partition(":")
        for declared_key, declared in self._project.config.items():
            if declared_key in (key, name if namespace == self._project.name else key):
                return declared
        return None

    def _check_type(self, key: str, value: Any) -> None:
        declared = self._declared(key)
        if declared is None or _fits(declared.type, value):
            return
        raise ConfigError(
            f"{self.path.name}: {key} must be of type {declared.type}, not {value!r}",
            f"Correct the line in {self.path} or run `ztna config set {key} VALUE`.",
        )

    def _apply_default(self, key: str, declared: ConfigKey, values: dict[str, str]) -> None:
        given = declared.value if declared.value is not None else declared.default
        if given is not None:
            values[key] = to_text(given)
        elif declared.required:
            raise ConfigError(
                f"stack {self._stack!r} lacks the configuration value {key!r} ({declared.type})",
                f"Add it to {self.path}:\n  config:\n    {key}: ...",
            )


def _fits(kind: str, value: Any) -> bool:
    """Whether a value has a declared type; text is read as the program's Config would read it."""
    if isinstance(value, str) and kind not in ("string", "array", "object"):
        try:
            value = json.loads(value)
        except ValueError:
            return False
    if kind == "string":
        return isinstance(value, (str, int, float, bool))
    if kind == "boolean":
        return isinstance(value, bool)
    if kind in ("integer", "number"):
        return isinstance(value, int if kind == "integer" else (int, float)) and not isinstance(value, bool)
    return isinstance(value, list if kind == "array" else dict)
