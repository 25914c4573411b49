"""A site of the twin for tests: records and locks are real, in the test's folder; the lab notes what is asked."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from infra.lab import state
from infra.lab.runtime import Lab
from infra.twin.interface import Call
from infra.twin.site import Site

RUN = "twin-test"


class NotedLab:
    """A lab whose every operation is noted by name and arguments."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        def note(*arguments: Any, **options: Any) -> list[Any]:
            self.calls.append((name, arguments[0] if arguments else None))
            return []

        return note


@dataclass(frozen=True)
class NotedSite(Site):
    """Notes the scripts that namespaces would have run."""

    scripts: list[tuple[str, str]] = field(default_factory=list)

    @cached_property
    def lab(self) -> Lab:
        return cast(Lab, NotedLab())

    def script(self, host: str, text: str) -> None:
        self.scripts.append((host, text))


def noted_site(folder: Path, monkeypatch: Any) -> NotedSite:
    """A world whose records are in `folder`."""
    monkeypatch.setenv("ZTNA_LAB_STATE", str(folder))
    state.run_dir(RUN).mkdir(parents=True)
    return NotedSite(RUN)


def call(site: Site, name: str, id_: str = "", kind: str = "digitalocean:index/x:X") -> Call:
    """What an operation on a resource of this name is given."""
    return Call(site=site, urn=urn(kind, name), name=name, id=id_)


def urn(kind: str, name: str) -> str:
    """The URN of a resource."""
    return f"urn:pulumi:dev::p::{kind}::{name}"
