"""The stacks as the twin runs them: configuration for what it has another image of, and what is fetched beforehand."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from infra import bundle
from infra.bundle import Target
from infra.twin.interface import TwinError
from infra.twin.site import Site

BUNDLES: Final = Path(".ztna") / "bundles"


@dataclass(frozen=True, kw_only=True, slots=True)
class TwinStack:
    """What is the twin's own of a stack.

    Attributes:
        config: values by `namespace:name` for keys that the stack's file gives no value, each with the reason.
        host_python: key of the version of Python that releases are built for; empty where none is released.
        home: key of an address on the LAN of the home that has the stack's cluster; empty for a stack without one.
    """

    config: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    host_python: str = ""
    home: str = ""


STACKS: Final[Mapping[str, TwinStack]] = {
    "do-nyc1": TwinStack(
        config={
            "do-nyc1:image": ("debian-12-x64", "the twin has no root of Ubuntu"),
            "do-nyc1:hostPython": ("3.11", "that of Debian 12"),
        },
        host_python="do-nyc1:hostPython",
    ),
    "aws-us-east-2": TwinStack(
        config={
            "aws-us-east-2:amiParameter": (
                "/aws/service/debian/release/12/latest/amd64",
                "the twin has no root of Ubuntu",
            ),
            "aws-us-east-2:hostUser": ("admin", "that of Debian's images"),
            "aws-us-east-2:hostPython": ("3.11", "that of Debian 12"),
        },
        host_python="aws-us-east-2:hostPython",
    ),
    "pi-home": TwinStack(home="pi-home:loadBalancerIp"),
}


def config_of(stack: str) -> dict[str, str]:
    """The twin's own values of a stack."""
    return {key: value for key, (value, _) in STACKS.get(stack, TwinStack()).config.items()}


def fetch(stack: str, config: Mapping[str, str], project: Path, say: Callable[[str], None]) -> None:
    """Fetch what a release needs of the package registry, which the world does not reach.

    Args:
        stack: the stack's name.
        config: its configuration, the twin's own values among it.
        project: the project's folder.
        say: gets a line when something is built.

    Raises:
        BundleError: a wheel cannot be had.
    """
    python = config.get(STACKS.get(stack, TwinStack()).host_python)
    if python:
        target = Target(python=python)
        path = project / BUNDLES / f"ztna-{bundle.release_id(target)}.tar.gz"
        if not path.exists():
            say(f"building the release bundle for Python {python}: {path}")
        bundle.build(target, project / BUNDLES)


def furnish(stack: str, config: Mapping[str, str], site: Site) -> None:
    """Make what a stack finds in its world: a home with a cluster, for a stack that has one there.

    Raises:
        TwinError: the address is in a network that the twin needs for itself.
    """
    key = STACKS.get(stack, TwinStack()).home
    if key and config.get(key):
        from infra.twin import k8s_cluster

        try:
            k8s_cluster.furnish(site, config[key])
        except ValueError as error:
            raise TwinError(f"{key}: {error}") from error
