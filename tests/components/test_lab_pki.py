"""The lab's certificates as resources: minted once, again when asked for or when their end is near."""

import datetime as dt
from dataclasses import asdict
from typing import Any

import pytest

from components import lab_pki
from components.lab_pki import CertificateAuthorityProvider, LabPki, LabPkiArgs, LeafProvider
from components.lab_runtime import LabSite
from infra import pki
from infra.config import PkiSettings
from infra.lab.rungs import Rung
from tests.support.pulumi_mocks import record

DAY = dt.timedelta(days=1)
CA_PROPS: dict[str, Any] = {"run": "r", "name": "ca", "stack": "lab", "generation": 1}


def leaf_props(ca: dict[str, Any]) -> dict[str, Any]:
    """Return the inputs of an agent's leaf, names as the wire has them."""
    names = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(AGENT).items()}
    return {
        "run": "r",
        "name": "leaf",
        "names": names,
        "days": 90,
        "ca_cert_pem": ca["cert_pem"],
        "ca_key_pem": ca["key_pem"],
    }


AGENT = pki.client_names("lab", "agent", "laptop", ["echo-service"])


def at(monkeypatch: pytest.MonkeyPatch, when: dt.datetime) -> None:
    """Make it another day."""
    monkeypatch.setattr(lab_pki, "_now", lambda: when)


def outs(result: Any) -> dict[str, Any]:
    """Return the outputs of a create or update."""
    assert result.outs is not None
    return dict(result.outs)


def test_a_ca_is_kept_until_its_generation_is_raised() -> None:
    provider = CertificateAuthorityProvider()
    first = outs(provider.create(CA_PROPS))
    assert not provider.diff("id", first, CA_PROPS).changes
    renamed = outs(provider.update("id", first, CA_PROPS | {"stack": "other"}))
    assert renamed["key_pem"] == first["key_pem"]
    rotated = CA_PROPS | {"generation": 2}
    assert provider.diff("id", first, rotated).changes
    assert outs(provider.update("id", first, rotated))["key_pem"] != first["key_pem"]


def test_a_leaf_is_kept_until_its_names_change_or_its_end_is_near(monkeypatch: pytest.MonkeyPatch) -> None:
    now = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
    at(monkeypatch, now)
    provider = LeafProvider()
    props = leaf_props(outs(CertificateAuthorityProvider().create(CA_PROPS)))
    first = outs(provider.create(props))
    assert first["not_after"] == "2030-04-01T00:00:00+00:00"
    assert first["fingerprint"] == pki.fingerprint(first["cert_pem"])
    at(monkeypatch, now + 59 * DAY)
    assert not provider.diff("id", first, props).changes
    more = props | {"names": {**props["names"], "grants": ["agent.http-app.ztna"]}}
    assert provider.diff("id", first, more).changes
    at(monkeypatch, now + 61 * DAY)
    assert provider.diff("id", first, props).changes
    renewed = outs(provider.update("id", first, props))
    assert renewed["not_after"] > first["not_after"]
    assert not provider.diff("id", renewed, props).changes


def test_the_component_makes_a_ca_and_a_leaf_for_each_member() -> None:
    args = LabPkiArgs(
        site=LabSite(run="r", rung=Rung.LOOPBACK),
        stack="lab",
        settings=PkiSettings(),
        members={"agent": AGENT, "relay": pki.server_names("lab", "relay", "ztna-server", ["192.0.2.1"])},
    )

    def program() -> Any:
        made = LabPki("pki", args)
        return made.profile("agent", {"name": "agent", "cert_path": "x", "key_path": "y", "ca_cert": "z"})

    computed = {
        "pulumi-python:dynamic/lab:CertificateAuthority": {"cert_pem": "CA", "key_pem": "CAKEY"},
        "pulumi-python:dynamic/lab:Leaf": {"cert_pem": "LEAF", "key_pem": "LEAFKEY"},
    }
    recorder, profile = record(program, computed=computed)
    assert recorder.of_type("CertificateAuthority").keys() == {"pki-ca"}
    leaves = recorder.of_type("Leaf")
    assert leaves.keys() == {"pki-agent", "pki-relay"}
    assert leaves["pki-agent"]["ca_key_pem"] == "CAKEY"
    assert leaves["pki-agent"]["names"]["grants"] == ["agent.echo-service.ztna"]
    assert profile == '{\n "name": "agent",\n "ca_cert_pem": "CA",\n "cert_pem": "LEAF",\n "key_pem": "LEAFKEY"\n}'
