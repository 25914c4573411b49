"""Certificates of rendered manifests: made once, used again, made anew when they must be, private."""

import datetime as dt
import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.verification import PolicyBuilder, Store

from infra.config import PkiSettings
from infra.config_overlay import OverlaySettings, service_settings
from infra.overlay import Overlay
from infra.render_pki import Material, material
from ztna.config import AgentConfig

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
HOST = "10.0.150.205"


def overlay(agents: tuple[str, ...] = ("laptop",), pki: PkiSettings | None = None) -> Overlay:
    services = (service_settings("echo-service", "127.0.0.1:9999", "udp/9999"),)
    settings = OverlaySettings(services=services, agents=agents, run="r", pki=pki or PkiSettings())
    return Overlay(stack="pi-home", run="r", settings=settings, relay_name="intermediate")


def make(directory: Path, wanted: Overlay | None = None, host: str = HOST, days: int = 0) -> Material:
    names = ["intermediate.ztna.svc"]
    return material(directory, wanted or overlay(), host, dns_names=names, now=NOW + dt.timedelta(days=days))


def test_everybody_gets_a_certificate_of_one_ca_and_the_relay_its_address(tmp_path: Path) -> None:
    made = make(tmp_path / "pki")
    assert set(made.pems) == {"intermediate", "connector", "laptop"}
    roots = x509.load_pem_x509_certificates(made.pems["connector"]["ca.pem"].encode())
    verifier = PolicyBuilder().store(Store(roots)).time(NOW.replace(tzinfo=None)).build_server_verifier(
        x509.DNSName("ztna-server")
    )  # fmt: skip
    leaf = x509.load_pem_x509_certificate(made.pems["intermediate"]["cert.pem"].encode())
    verifier.verify(leaf, [])
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == [HOST]
    assert {"intermediate", "intermediate.ztna.svc"} <= set(names.get_values_for_type(x509.DNSName))
    assert isinstance(leaf.public_key(), ec.EllipticCurvePublicKey)


def test_agents_get_a_profile_that_loads(tmp_path: Path) -> None:
    files = make(tmp_path / "pki").agents["laptop"]
    profile = AgentConfig.from_json(json.loads(files["agent.json"]))
    assert (profile.relay.host, profile.relay.port, profile.relay.server_name) == (HOST, 4433, "ztna-server")
    assert profile.tls.key is not None


def test_what_is_kept_is_used_again(tmp_path: Path) -> None:
    assert make(tmp_path / "pki") == make(tmp_path / "pki", days=59)


def test_a_leaf_is_renewed_in_the_last_third_of_its_life_and_the_ca_stays(tmp_path: Path) -> None:
    first, later = make(tmp_path / "pki"), make(tmp_path / "pki", days=61)
    assert first.pems["connector"]["cert.pem"] != later.pems["connector"]["cert.pem"]
    assert first.pems["connector"]["ca.pem"] == later.pems["connector"]["ca.pem"]


def test_a_new_address_changes_the_relays_certificate_alone(tmp_path: Path) -> None:
    first, moved = make(tmp_path / "pki"), make(tmp_path / "pki", host="10.0.150.206")
    assert first.pems["intermediate"] != moved.pems["intermediate"]
    assert first.pems["connector"] == moved.pems["connector"]


def test_another_agent_leaves_the_others_alone(tmp_path: Path) -> None:
    first, more = make(tmp_path / "pki"), make(tmp_path / "pki", overlay(("laptop", "phone")))
    assert set(more.pems) - set(first.pems) == {"phone"}
    assert first.pems["laptop"] == more.pems["laptop"]


def test_a_new_generation_is_another_ca_and_an_overlap_trusts_both(tmp_path: Path) -> None:
    first = make(tmp_path / "pki")
    settings = PkiSettings(generation=2, overlap="agents")
    both = make(tmp_path / "pki", overlay(pki=settings))
    assert both.pems["connector"]["cert.pem"] == first.pems["connector"]["cert.pem"]
    assert both.pems["laptop"]["cert.pem"] != first.pems["laptop"]["cert.pem"]
    assert both.pems["connector"]["ca.pem"].endswith(first.pems["connector"]["ca.pem"])
    alone = make(tmp_path / "pki", overlay(pki=replace(settings, overlap="none")))
    assert first.pems["connector"]["ca.pem"] not in alone.pems["connector"]["ca.pem"]


@pytest.mark.parametrize("umask", [0o022, 0o000])
def test_nobody_else_can_read_what_is_kept(tmp_path: Path, umask: int) -> None:
    import os

    before = os.umask(umask)
    try:
        make(tmp_path / "pki")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "pki").stat().st_mode) == 0o700
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "pki").iterdir()}
    assert modes == {0o600}
