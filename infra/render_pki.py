"""Certificates for manifests that are rendered without Pulumi: made by `infra.pki`, kept in a directory, used again.

They are another CA than the one that `up` makes and keeps in the stack's state: a cluster is deployed in one of the two
ways. The directory is private to its owner (0700, files 0600); whoever reads it can be any member of the overlay.
"""

import datetime as dt
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from infra import wiring_macos
from infra.config import PkiSettings
from infra.overlay import Overlay
from infra.pki import KeyPair, LeafNames, client_names, fingerprint, make_ca, make_leaf, renewal_due, server_names
from infra.pki_rotation import signing_generation, trusted_generations
from infra.wiring import with_identity

DIR_MODE: Final = 0o700
FILE_MODE: Final = 0o600


@dataclass(frozen=True, kw_only=True, slots=True)
class Material:
    """PEM files by member, and the files of each agent. All of it is secret but ca.pem."""

    pems: dict[str, dict[str, str]]
    agents: dict[str, dict[str, str]]


def material(
    directory: Path, overlay: Overlay, relay_host: str, *, dns_names: Sequence[str] = (), now: dt.datetime
) -> Material:
    """Return the certificates of a stack's members; those that are kept and still good are used again.

    A leaf is made anew when its names, its CA or its validity changed, and in the last third of its life.

    Args:
        directory: where they are kept; made when it is not there.
        relay_host: the IP address that agents dial; it stands in the relay's certificate.
        dns_names: further names by which the relay is dialled.
    """
    store = _Store(directory, overlay.stack, now)
    settings = overlay.settings.pki
    cas = {generation: store.ca(generation) for generation in trusted_generations(settings)}
    bundle = "".join(ca.cert_pem for ca in cas.values())
    pems = {}
    for names in _members(overlay, relay_host, dns_names):
        leaf = store.leaf(names, cas, settings)
        pems[names.name] = {"cert.pem": leaf.cert_pem, "key.pem": leaf.key_pem, "ca.pem": bundle}
    agents = {}
    for agent in overlay.settings.agents:
        own = pems[agent]
        profile = with_identity(
            overlay.agent_config(agent, relay_host),
            ca_pem=bundle,
            cert_pem=own["cert.pem"],
            key_pem=own["key.pem"],
        )
        agents[agent] = wiring_macos.agent_files(profile, overlay.members().macos)
    return Material(pems=pems, agents=agents)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read (0600), as a whole or not at all; likewise its directory (0700)."""
    path.parent.mkdir(mode=DIR_MODE, parents=True, exist_ok=True)
    path.parent.chmod(DIR_MODE)
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    partial.replace(path)


def _members(overlay: Overlay, relay_host: str, dns_names: Sequence[str]) -> list[LeafNames]:
    members = overlay.members()
    relay = server_names(overlay.stack, overlay.relay_name, overlay.server_name, [relay_host])
    return [
        replace(relay, dns_names=(*relay.dns_names, *dns_names)),
        *(client_names(overlay.stack, "connector", *item) for item in members.connectors.items()),
        *(client_names(overlay.stack, "agent", *item) for item in members.agents.items()),
    ]


class _Store:
    """The directory: one JSON file for each CA and each leaf, with what it was made from."""

    def __init__(self, directory: Path, stack: str, now: dt.datetime) -> None:
        self._directory, self._stack, self._now = directory, stack, now

    def ca(self, generation: int) -> KeyPair:
        return self._kept(
            f"ca-{generation}", {"stack": self._stack}, lambda: make_ca(f"{self._stack} {generation}", now=self._now)
        )

    def leaf(self, names: LeafNames, cas: Mapping[int, KeyPair], settings: PkiSettings) -> KeyPair:
        ca = cas[signing_generation(settings, names.role)]
        made_from = {"names": asdict(names), "days": settings.leaf_days, "ca": fingerprint(ca.cert_pem)}
        return self._kept(
            f"leaf-{names.name}", made_from, lambda: make_leaf(ca, names, now=self._now, days=settings.leaf_days)
        )

    def _kept(self, name: str, made_from: dict[str, Any], make: Any) -> KeyPair:
        path = self._directory / f"{name}.json"
        wanted = json.loads(json.dumps(made_from))  # as it comes back: lists for tuples
        if path.exists():
            found = json.loads(path.read_text())
            if found["made_from"] == wanted and not renewal_due(found["cert_pem"], now=self._now):
                return KeyPair(cert_pem=found["cert_pem"], key_pem=found["key_pem"])
        pair: KeyPair = make()
        write_private(path, json.dumps({"made_from": wanted, **asdict(pair)}, indent=1))
        return pair
