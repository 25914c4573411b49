"""Keys and certificates of the twin: real ones, in the provider's forms."""

from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from infra.twin.interface import TwinType
from infra.twin.tls import PACKAGE, renewal_due
from tests.infra.twin.sites import NotedSite, call, noted_site


def of(name: str) -> TwinType:
    """A type by the end of its token."""
    return next(kind for kind in PACKAGE.types if kind.type_name.endswith(f":{name}"))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NotedSite:
    return noted_site(tmp_path, monkeypatch)


def make(site: NotedSite, kind: str, **inputs: Any) -> dict[str, Any]:
    """The outputs of a new resource."""
    found = of(kind)
    return found.create(call(site, "x"), {**found.defaults, **inputs}).outputs


@pytest.mark.parametrize(
    ("algorithm", "kind", "head"),
    [
        ("ECDSA", ec.EllipticCurvePrivateKey, "-----BEGIN EC PRIVATE KEY-----"),
        ("ED25519", ed25519.Ed25519PrivateKey, "-----BEGIN PRIVATE KEY-----"),
        ("RSA", rsa.RSAPrivateKey, "-----BEGIN RSA PRIVATE KEY-----"),
    ],
)
def test_a_key_in_all_its_forms(site: NotedSite, algorithm: str, kind: type, head: str) -> None:
    made = make(site, "PrivateKey", algorithm=algorithm, ecdsaCurve="P256")
    assert made["privateKeyPem"].startswith(head)
    keys = [
        serialization.load_pem_private_key(made["privateKeyPem"].encode(), None),
        serialization.load_pem_private_key(made["privateKeyPemPkcs8"].encode(), None),
        serialization.load_ssh_private_key(made["privateKeyOpenssh"].encode(), None),
    ]
    assert all(isinstance(key, kind) for key in keys)
    assert made["publicKeyOpenssh"].endswith("\n")
    assert made["publicKeyFingerprintSha256"].startswith("SHA256:")
    assert len(made["publicKeyFingerprintMd5"].split(":")) == 16


def test_a_curve_that_openssh_does_not_have_has_no_such_form(site: NotedSite) -> None:
    made = make(site, "PrivateKey", algorithm="ECDSA")
    assert made["ecdsaCurve"] == "P224"
    assert (made["publicKeyOpenssh"], made["privateKeyOpenssh"]) == ("", "")


def test_a_leaf_is_signed_by_its_ca_and_carries_its_names(site: NotedSite) -> None:
    ca_key, key = (make(site, "PrivateKey", algorithm="ECDSA", ecdsaCurve="P256")["privateKeyPem"] for _ in range(2))
    ca = make(
        site, "SelfSignedCert", privateKeyPem=ca_key, isCaCertificate=True, maxPathLength=0,
        allowedUses=["cert_signing", "crl_signing"], subject={"commonName": "CA"}, validityPeriodHours=24,
    )  # fmt: skip
    request = make(
        site, "CertRequest", privateKeyPem=key, subject={"commonName": "relay"}, uris=["spiffe://s/agent/a"],
        dnsNames=["agent.echo.ztna"], ipAddresses=["192.0.2.1"],
    )  # fmt: skip
    leaf = make(
        site, "LocallySignedCert", certRequestPem=request["certRequestPem"], caCertPem=ca["certPem"],
        caPrivateKeyPem=ca_key, allowedUses=["digital_signature", "server_auth"], validityPeriodHours=2,
    )  # fmt: skip
    signer, cert = (x509.load_pem_x509_certificate(pem.encode()) for pem in (ca["certPem"], leaf["certPem"]))
    cert.verify_directly_issued_by(signer)
    names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["agent.echo.ztna"]
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://s/agent/a"]
    assert signer.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert (leaf["caKeyAlgorithm"], leaf["readyForRenewal"]) == ("ECDSA", False)
    assert not renewal_due(leaf)
    assert renewal_due({**leaf, "earlyRenewalHours": 2})


def test_a_certificate_that_is_due_reads_as_gone(site: NotedSite) -> None:
    kind = of("LocallySignedCert")
    fresh = {"validityEndTime": "2999-01-01T00:00:00Z", "earlyRenewalHours": 0}
    assert kind.read(call(site, "x"), fresh) == fresh
    assert kind.read(call(site, "x"), {**fresh, "validityEndTime": "2001-01-01T00:00:00Z"}) is None


@pytest.mark.parametrize(
    ("kind", "inputs", "place"),
    [
        ("PrivateKey", {"algorithm": "ED25591"}, "algorithm"),
        ("PrivateKey", {"algorithm": "ECDSA", "ecdsaCurve": "P255"}, "ecdsaCurve"),
        ("SelfSignedCert", {"allowedUses": ["server"]}, "allowedUses[0]"),
    ],
)
def test_what_is_refused(kind: str, inputs: dict[str, Any], place: str) -> None:
    assert [item.property for item in of(kind).validate(inputs)] == [place]
