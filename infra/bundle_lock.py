"""Which wheels a host needs, told by uv.lock alone: exact versions, the wheel for the target, its hash."""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from packaging.markers import Marker
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename

LOCK: Final = Path(__file__).resolve().parent.parent / "uv.lock"
PROJECT: Final = "ztna"
OLDEST_GLIBC_MINOR: Final = 17
"""Of manylinux2014 (PEP 599)."""
PYTHONS: Final = ("3.11", "3.12", "3.13")
PLATFORMS: Final = ("manylinux_2_28_x86_64", "manylinux_2_28_aarch64")


class BundleError(Exception):
    """A bundle cannot be made; the text says why and what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """The interpreter and the platform of a host.

    Attributes:
        python: version of its /usr/bin/python3, like 3.12 (Ubuntu 24.04) or 3.11 (Debian 12).
        platform: the newest wheel platform tag that it takes (PEP 600); both images above have a newer glibc than 2.28.
    """

    python: str = "3.12"
    platform: str = PLATFORMS[0]

    def __post_init__(self) -> None:
        """Refuse what no host of ours has."""
        if self.python not in PYTHONS:
            raise ValueError(f"target python {self.python!r} is not supported: use one of {', '.join(PYTHONS)}")
        if self.platform not in PLATFORMS:
            raise ValueError(f"target platform {self.platform!r} is not supported: use one of {', '.join(PLATFORMS)}")

    @property
    def machine(self) -> str:
        """The host's `uname -m`: x86_64 or aarch64."""
        return self.platform.removeprefix("manylinux_2_28_")


@dataclass(frozen=True, kw_only=True, slots=True)
class Wheel:
    """A wheel as the lock pins it."""

    name: str
    version: str
    filename: str
    sha256: str


def product_wheels(target: Target, lock: Path = LOCK) -> tuple[Wheel, ...]:
    """Return the wheels that the roles need, by name. Raises BundleError when the lock has none for the target."""
    packages = _packages(lock)
    return _closure(packages, packages[PROJECT][0]["dependencies"], target)


def backend_wheels(target: Target, lock: Path = LOCK) -> tuple[Wheel, ...]:
    """Return the wheels that the test backend needs, by name. Raises BundleError like `product_wheels`."""
    return _closure(_packages(lock), [{"name": "httpbin"}, {"name": "waitress"}], target)


@cache
def _packages(lock: Path) -> Mapping[str, list[dict[str, Any]]]:
    try:
        parsed = tomllib.loads(lock.read_text())
    except OSError as error:
        raise BundleError(f"no lock file: {error}; run from a checkout of the project") from error
    found: dict[str, list[dict[str, Any]]] = {}
    for package in parsed["package"]:
        found.setdefault(package["name"], []).append(package)
    return found


def _closure(
    packages: Mapping[str, list[dict[str, Any]]], roots: Iterable[dict[str, Any]], target: Target
) -> tuple[Wheel, ...]:
    """Follow dependencies whose markers hold on the target; every package once."""
    environment = marker_environment(target)
    tags = frozenset(wheel_tags(target))
    wheels: dict[str, Wheel] = {}
    waiting: list[dict[str, Any]] = list(roots)
    while waiting:
        wanted = waiting.pop()
        if "marker" in wanted and not Marker(wanted["marker"]).evaluate(environment):
            continue
        if wanted["name"] in wheels:
            continue
        package = _one(packages, wanted)
        wheels[package["name"]] = _wheel(package, tags, target)
        waiting += package.get("dependencies", [])
        for extra in wanted.get("extra", ()):
            waiting += package.get("optional-dependencies", {}).get(extra, [])
    return tuple(wheels[name] for name in sorted(wheels))


def _one(packages: Mapping[str, list[dict[str, Any]]], wanted: Mapping[str, Any]) -> dict[str, Any]:
    versions = [item for item in packages[wanted["name"]] if wanted.get("version") in (None, item["version"])]
    if len(versions) != 1:
        raise BundleError(f"uv.lock has {len(versions)} packages for {wanted['name']}: run `uv lock`")
    return versions[0]


def _wheel(package: Mapping[str, Any], tags: frozenset[Tag], target: Target) -> Wheel:
    """Return the most specific wheel of a package for the target: the order of tags is that of preference."""
    fitting: list[tuple[int, str, str]] = []
    order = {tag: rank for rank, tag in enumerate(wheel_tags(target))}
    for wheel in package.get("wheels", ()):
        filename = wheel["url"].rpartition("/")[2]
        common = parse_wheel_filename(filename)[3] & tags
        if common:
            fitting.append((min(order[tag] for tag in common), filename, wheel["hash"]))
    if not fitting:
        raise BundleError(
            f"{package['name']} {package['version']} has no wheel for Python {target.python} on {target.platform}: "
            "choose another image, or raise the version in pyproject.toml and run `uv lock`"
        )
    _, filename, digest = min(fitting)
    return Wheel(
        name=package["name"], version=package["version"], filename=filename, sha256=digest.removeprefix("sha256:")
    )


@cache
def wheel_tags(target: Target) -> tuple[Tag, ...]:
    """Return the wheel tags that the target takes, best first (PEP 425, PEP 600)."""
    version = tuple(int(part) for part in target.python.split("."))
    newest = int(target.platform.split("_")[2])
    platforms = [f"manylinux_2_{minor}_{target.machine}" for minor in range(newest, OLDEST_GLIBC_MINOR - 1, -1)]
    platforms.append(f"manylinux2014_{target.machine}")
    interpreter = f"cp{target.python.replace('.', '')}"
    return (
        *cpython_tags(version, platforms=platforms),
        *compatible_tags(version, interpreter=interpreter, platforms=platforms),
    )


def marker_environment(target: Target) -> dict[str, str]:
    """Return the environment markers of the target (PEP 508); nothing in it is of this machine."""
    return {
        "implementation_name": "cpython",
        "implementation_version": f"{target.python}.0",
        "os_name": "posix",
        "platform_machine": target.machine,
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": f"{target.python}.0",
        "python_version": target.python,
        "sys_platform": "linux",
        "extra": "",
    }


def requirements(wheels: Sequence[Wheel]) -> str:
    """Return the requirements file that admits exactly these wheels (pip's hash-checking mode)."""
    return "".join(f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n" for wheel in wheels)
