"""The packages that the twin has, and the adapters by which the embedded engine is given them."""

from collections.abc import Mapping
from importlib import import_module
from typing import Final

from infra.engine.errors import UnsupportedError
from infra.engine.operation import Adapters
from infra.engine.plugins import DYNAMIC, PluginHost
from infra.engine.providers import Provider
from infra.engine.sdkschema import find_sdk
from infra.twin.provider import Package, TwinProvider
from infra.twin.site import Site

MODULES: Final[Mapping[str, str]] = {
    "aws": "infra.twin.aws",
    "digitalocean": "infra.twin.digitalocean",
    "docker-build": "infra.twin.docker_build",
    "kubernetes": "infra.twin.k8s",
    "tls": "infra.twin.tls",
}
"""Package -> the module whose PACKAGE it is; imported when a program wants it."""
IDEMPOTENT: Final = ("pulumi-python:dynamic", *(f"{name}:" for name in MODULES))
"""Types whose interrupted operations are simply done again."""


def package(name: str) -> Package:
    """Return a package.

    Raises:
        UnsupportedError: the twin does not have it; names those it has.
    """
    if name not in MODULES:
        raise UnsupportedError(
            f"the twin does not model the package {name!r}; it has {', '.join(MODULES)} (docs/twin.md)",
            "Leave --twin out to use real providers.",
        )
    found: Package = import_module(MODULES[name]).PACKAGE
    return found


def adapters(site: Site) -> Adapters:
    """Return the adapters of an operation on the twin: its own providers, and dynamic ones as they are."""

    def start(host: PluginHost, name: str) -> Provider:
        if name == DYNAMIC:
            return host.start(name)
        return TwinProvider(package(name), site, find_sdk(name, host.python), host.on_note)

    return Adapters(start_plugin=start)
