"""The stack's certificates, read by a verifier that is not ours."""

import datetime as dt

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from infra import pki

NOW = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
CA = pki.make_ca("lab", now=NOW)


def load(pem: str) -> x509.Certificate:
    """Parse a certificate."""
    return x509.load_pem_x509_certificate(pem.encode())


def leaf(names: pki.LeafNames, days: int = 90) -> pki.KeyPair:
    """Make a leaf under CA."""
    return pki.make_leaf(CA, names, now=NOW, days=days)


def builder(ca: pki.KeyPair, when: dt.datetime) -> PolicyBuilder:
    """Return a verification policy that trusts one CA at a point in time."""
    return PolicyBuilder().store(Store([load(ca.cert_pem)])).time(when)


def test_a_client_is_verified_with_its_identity_and_grants() -> None:
    pair = leaf(pki.client_names("lab", "agent", "laptop", ["echo-service", "http-app"]))
    verified = builder(CA, NOW).build_client_verifier().verify(load(pair.cert_pem), [])
    assert verified.subjects == [
        x509.UniformResourceIdentifier("spiffe://lab/agent/laptop"),
        x509.DNSName("agent.echo-service.ztna"),
        x509.DNSName("agent.http-app.ztna"),
    ]


def test_a_server_is_verified_by_name_and_by_address() -> None:
    pair = leaf(pki.server_names("lab", "relay", "ztna-server", ["172.20.0.2"]))
    for name in (x509.DNSName("ztna-server"), x509.DNSName("relay")):
        builder(CA, NOW).build_server_verifier(name).verify(load(pair.cert_pem), [])
    names = load(pair.cert_pem).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["172.20.0.2"]
    with pytest.raises(VerificationError):
        builder(CA, NOW).build_server_verifier(x509.DNSName("elsewhere")).verify(load(pair.cert_pem), [])


def test_an_agent_is_no_server_and_an_intermediate_no_client() -> None:
    agent = leaf(pki.client_names("lab", "agent", "laptop", []))
    relay = leaf(pki.server_names("lab", "relay", "ztna-server", []))
    with pytest.raises(VerificationError):
        builder(CA, NOW).build_server_verifier(x509.DNSName("laptop")).verify(load(agent.cert_pem), [])
    with pytest.raises(VerificationError):
        builder(CA, NOW).build_client_verifier().verify(load(relay.cert_pem), [])
    connector = leaf(pki.client_names("lab", "connector", "home", []))
    usages = load(connector.cert_pem).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usages) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}


def test_another_ca_of_the_same_name_is_not_trusted() -> None:
    pair = leaf(pki.client_names("lab", "agent", "laptop", []))
    with pytest.raises(VerificationError):
        builder(pki.make_ca("lab", now=NOW), NOW).build_client_verifier().verify(load(pair.cert_pem), [])


def test_a_leaf_signs_nothing() -> None:
    pair = leaf(pki.client_names("lab", "agent", "laptop", []))
    below = pki.make_leaf(pair, pki.client_names("lab", "agent", "mallory", []), now=NOW, days=1)
    with pytest.raises(VerificationError):
        builder(CA, NOW).build_client_verifier().verify(load(below.cert_pem), [load(pair.cert_pem)])


def test_dates_are_those_asked_for_and_a_slow_clock_is_forgiven() -> None:
    cert = load(leaf(pki.client_names("lab", "agent", "laptop", []), days=90).cert_pem)
    verifier = pki.client_names("lab", "agent", "laptop", [])
    assert verifier.uri == "spiffe://lab/agent/laptop"
    assert cert.not_valid_before_utc == NOW - pki.BACKDATE
    assert cert.not_valid_after_utc == NOW + dt.timedelta(days=90)
    with pytest.raises(VerificationError):
        builder(CA, NOW + dt.timedelta(days=91)).build_client_verifier().verify(cert, [])


def test_renewal_is_due_in_the_last_third() -> None:
    pem = leaf(pki.client_names("lab", "agent", "laptop", []), days=90).cert_pem
    assert not pki.renewal_due(pem, now=NOW + dt.timedelta(days=59))
    assert pki.renewal_due(pem, now=NOW + dt.timedelta(days=61))
    assert pki.renewal_due(pem, now=NOW + dt.timedelta(days=400))
    assert pki.not_after(pem) == "2030-04-01T00:00:00+00:00"


def test_a_fingerprint_is_the_hash_of_the_der() -> None:
    pem = leaf(pki.client_names("lab", "agent", "laptop", [])).cert_pem
    assert len(bytes.fromhex(pki.fingerprint(pem))) == 32
    assert pki.fingerprint(pem) != pki.fingerprint(CA.cert_pem)


def test_keys_are_not_printed() -> None:
    assert "PRIVATE" not in repr(CA)
    assert "BEGIN PRIVATE KEY" in CA.key_pem


def test_an_unusable_ca_or_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^name "):
        leaf(pki.client_names("lab", "agent", "Laptop!", []))
    with pytest.raises(ValueError, match=r"PEM|key"):
        pki.make_leaf(
            pki.KeyPair(cert_pem=CA.cert_pem, key_pem="x"), pki.client_names("lab", "agent", "a", []), now=NOW, days=1
        )
