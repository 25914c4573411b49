"""Pulumi.yaml: which program, which interpreter, which configuration keys."""

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from infra.engine.backend import check_name
from infra.engine.errors import ProjectError

_KNOWN = {"name", "runtime", "main", "description", "author", "license", "website", "config", "tags", "template"}
_REFUSED = {
    "packages": "packages to be generated",
    "plugins": "plugin paths",
    "backend": "a backend of the project (the embedded engine keeps state in .ztna)",
    "options": "project options such as refresh",
    "stackConfigDir": "a directory of stack configuration files",
}
_OPTIONS = {"virtualenv", "toolchain", "typechecker"}
_TYPES = {"string", "integer", "number", "boolean", "array", "object"}


@dataclass(frozen=True, slots=True)
class ConfigKey:
    """A configuration key that the project declares.

    Attributes:
        type: one of string, integer, number, boolean, array, object.
        default: None when a stack has to give a value.
        value: a value for all stacks, None when there is none.
        secret: the value is secret however it is given.
    """

    type: str = "string"
    default: Any = None
    value: Any = None
    secret: bool = False
    required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A project on disk.

    Attributes:
        root: the directory of Pulumi.yaml.
        program: directory with `__main__.py`, or a file.
        python: the interpreter the program runs in.
        runtime_options: `runtime.options` as given.
    """

    name: str
    root: Path
    program: Path
    python: str
    runtime_options: dict[str, Any] = field(default_factory=dict)
    config: dict[str, ConfigKey] = field(default_factory=dict)

    @property
    def program_directory(self) -> Path:
        """Where the program and its providers run."""
        return self.program if self.program.is_dir() else self.program.parent

    def stack_file(self, stack: str) -> Path:
        """The configuration file of a stack."""
        return self.root / f"Pulumi.{stack}.yaml"


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping; empty when the file does not exist.

    Raises:
        ProjectError: it cannot be read or is no mapping.
    """
    try:
        data = yaml.safe_load(path.read_text()) or {}
    except FileNotFoundError:
        return {}
    except (OSError, yaml.YAMLError) as error:
        raise ProjectError(f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise ProjectError(f"{path} must hold a mapping")
    return data


def load(root: Path) -> Project:
    """Reads the project in a directory.

    Raises:
        ProjectError: there is none, or it uses a key that the engine does not model; the message names it.
    """
    path = root / "Pulumi.yaml"
    if not path.exists():
        raise ProjectError(f"there is no Pulumi project in {root}: {path.name} does not exist")
    data = read_yaml(path)
    for key in data:
        if key in _REFUSED:
            raise ProjectError(f"{path.name}: the embedded engine does not model {key!r} ({_REFUSED[key]})")
        if key not in _KNOWN:
            raise ProjectError(f"{path.name}: unknown key {key!r}", f"Known are {', '.join(sorted(_KNOWN))}.")
    options = _runtime_options(data.get("runtime"))
    program = (root / str(data.get("main", "."))).resolve()
    if not (program.is_file() or (program / "__main__.py").is_file()):
        raise ProjectError(f"{path.name}: there is no program at {program}", "`main` names a folder with __main__.py.")
    return Project(
        name=check_name("project", str(data.get("name", ""))),
        root=root.resolve(),
        program=program,
        python=_interpreter(root, options),
        runtime_options=options,
        config=_config_keys(data.get("config")),
    )


def _runtime_options(runtime: Any) -> dict[str, Any]:
    name, options = (runtime.get("name"), runtime.get("options") or {}) if isinstance(runtime, dict) else (runtime, {})
    if name != "python":
        raise ProjectError(f"the embedded engine runs Python programs only, not {name!r}")
    for key in options:
        if key not in _OPTIONS:
            raise ProjectError(f"Pulumi.yaml: the embedded engine does not model the runtime option {key!r}")
    if options.get("toolchain", "pip") not in ("pip", "uv"):
        raise ProjectError(f"Pulumi.yaml: the embedded engine does not model the toolchain {options['toolchain']!r}")
    if options.get("typechecker") not in (None, "none"):
        raise ProjectError("Pulumi.yaml: the embedded engine does not run a type checker before the program")
    return dict(options)


def _interpreter(root: Path, options: dict[str, Any]) -> str:
    name = options.get("virtualenv") or (".venv" if options.get("toolchain") == "uv" else None)
    if not name:
        return sys.executable
    python = root / str(name) / "bin" / "python"
    if not python.exists():
        raise ProjectError(
            f"the virtual environment {name!r} of Pulumi.yaml does not exist (no {python})",
            "Make it with `make setup` or `uv sync`.",
        )
    # Not resolved: a virtual environment is recognised by the path its interpreter is called with.
    return os.path.abspath(python)


def _config_keys(data: Any) -> dict[str, ConfigKey]:
    keys: dict[str, ConfigKey] = {}
    for name, given in (data or {}).items():
        if not isinstance(given, dict):
            keys[name] = ConfigKey(value=given, type=_type_name(given))
            continue
        items = set(given) - {"type", "default", "value", "secret", "description", "items"}
        if items:
            raise ProjectError(f"Pulumi.yaml: config key {name!r} has unknown attributes {sorted(items)}")
        kind = given.get("type", _type_name(given.get("default", given.get("value", ""))))
        if kind not in _TYPES:
            raise ProjectError(f"Pulumi.yaml: config key {name!r} has unknown type {kind!r}")
        keys[name] = ConfigKey(
            kind, given.get("default"), given.get("value"), bool(given.get("secret")),
            required=given.get("default") is None and given.get("value") is None,
        )  # fmt: skip
    return keys


def _type_name(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    kinds = {int: "integer", float: "number", list: "array", dict: "object"}
    return kinds.get(type(value), "string")


def to_text(value: Any) -> str:
    """A configuration value as the program gets it: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
