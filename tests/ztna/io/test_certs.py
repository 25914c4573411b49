"""Loading certificates with clear errors, and judging clients by one CA."""

import datetime as dt
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.support.certs import CLIENT, SERVER, Issued, issue, issue_member, issue_server
from ztna.config import ConfigError, Pem
from ztna.io import certs
from ztna.io.quic_types import PeerRejected


@pytest.fixture(scope="module")
def ca() -> Issued:
    return issue("stack CA", ca=True)


def pem(text: str, key: str = "key_path") -> Pem:
    return Pem(key=key, text=text)


def test_good_credentials_load(ca: Issued) -> None:
    server = issue_server(ca)
    loaded = certs.load_credentials(server.pem("cert_path"), server.key_source(), certs.load_anchors(ca.pem()))
    assert loaded.certificate == server.certificate


def test_missing_file_names_key_and_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^ca_cert_path: there is no file .*/nowhere\.pem; check the path$"):
        certs.load_anchors(Pem(key="ca_cert_path", path=tmp_path / "nowhere.pem"))


@pytest.mark.parametrize("text", ["", "not PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_text_that_is_no_certificate(text: str) -> None:
    with pytest.raises(ConfigError, match="ca_cert_path: no readable PEM certificate in the inline text"):
        certs.load_anchors(pem(text, "ca_cert_path"))


def test_leaf_given_as_ca(ca: Issued) -> None:
    with pytest.raises(ConfigError, match=r"CN=relay is not a CA certificate; give the stack's CA, not a leaf"):
        certs.load_anchors(issue_server(ca).pem())


def test_expired_and_future_certificates_are_refused_at_load(ca: Issued) -> None:
    server, anchors = issue_server(ca), certs.load_anchors(ca.pem())
    later = certs.utc_now() + dt.timedelta(days=60)
    with pytest.raises(ConfigError, match=r"cert_path: CN=relay expired on .* UTC; renew it"):
        certs.load_credentials(server.pem("cert_path"), server.key_source(), anchors, now=later)
    earlier = certs.utc_now() - dt.timedelta(days=2)
    with pytest.raises(ConfigError, match=r"cert_path: CN=relay is valid only from .*; check this host's clock"):
        certs.load_credentials(server.pem("cert_path"), server.key_source(), anchors, now=earlier)
    with pytest.raises(ConfigError, match="ca_cert_path: CN=stack CA expired"):
        certs.load_anchors(ca.pem(), now=later)


def test_key_of_another_certificate(ca: Issued) -> None:
    one, other = issue_server(ca), issue_server(ca)
    with pytest.raises(ConfigError, match="key_path: the private key does not belong to the certificate of cert_path"):
        certs.load_credentials(one.pem("cert_path"), other.key_source())


def test_certificate_of_another_ca(ca: Issued) -> None:
    server, other = issue_server(ca), issue("other CA", ca=True)
    with pytest.raises(ConfigError, match="cert_path: issued by CN=stack CA, which is not the CA given"):
        certs.load_credentials(server.pem("cert_path"), server.key_source(), certs.load_anchors(other.pem()))


def test_keys_that_cannot_be_used(ca: Issued) -> None:
    server = issue_server(ca)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    encrypted = server.key.private_bytes(*form, serialization.BestAvailableEncryption(b"secret")).decode()
    plain = serialization.NoEncryption()
    weak = rsa.generate_private_key(65537, 1024).private_bytes(*form, plain).decode()
    curve = ec.generate_private_key(ec.SECP521R1()).private_bytes(*form, plain).decode()
    for text, error in (
        (encrypted, "key_path: the inline text is encrypted; give a plain key of mode 0600"),
        (weak, "key_path: RSA of 1024 bits; use at least 2048"),
        (curve, "key_path: curve secp521r1 is not usable here; use P-256 or P-384"),
        ("nothing", "key_path: no readable PEM private key"),
    ):
        with pytest.raises(ConfigError, match=error):
            certs.load_credentials(server.pem("cert_path"), pem(text))


def test_key_file_others_can_read_is_warned_about(ca: Issued, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_text(issue_server(ca).key_pem)
    source = Pem(key="key_path", path=path)
    for mode, warned in ((0o600, False), (0o400, False), (0o640, False), (0o644, True), (0o660, True), (0o602, True)):
        os.chmod(path, mode)
        assert bool(certs.file_warnings(source)) is warned
    assert certs.file_warnings(source) == [f"key_path: {path} has mode 0602; others can use it, `chmod 600` it"]
    assert certs.file_warnings(None, pem("inline")) == []


def test_days_left(ca: Issued) -> None:
    assert certs.expires_in_days(ca.certificate) == pytest.approx(30, abs=0.1)


def test_verified_client_has_its_names(ca: Issued) -> None:
    agent = issue_member(ca, "agent", "laptop", "echo-service", "*")
    names = certs.verify_client([agent.der], certs.load_anchors(ca.pem()))
    assert names.uris == ("spiffe://lab/agent/laptop",)
    assert names.dns_names == ("agent.echo-service.ztna", "agent.*.ztna")
    assert len(names.fingerprint) == 64


def test_intermediate_ca_may_stand_between(ca: Issued) -> None:
    below = issue("issuing CA", ca, ca=True)
    agent = issue_member(below, "agent", "laptop")
    anchors = certs.load_anchors(ca.pem())
    assert certs.verify_client([agent.der, below.der], anchors).uris == ("spiffe://lab/agent/laptop",)
    with pytest.raises(PeerRejected, match="unknown CA"):
        certs.verify_client([agent.der], anchors)


def refusal(chain: list[bytes], ca: Issued, now: dt.datetime | None = None) -> tuple[int, str]:
    with pytest.raises(PeerRejected) as caught:
        certs.verify_client(chain, certs.load_anchors(ca.pem()), now)
    return caught.value.code, caught.value.reason


def test_refusals_say_what_is_wrong_on_the_wire(ca: Issued) -> None:
    agent, other = issue_member(ca, "agent", "laptop"), issue("stack CA", ca=True)
    later = certs.utc_now() + dt.timedelta(days=31)
    assert refusal([agent.der], ca, later) == (0x12D, "client cert expired")
    assert refusal([agent.der], other) == (0x130, "unknown CA")
    assert refusal([issue("self-signed", usage=(CLIENT,)).der], ca) == (0x130, "unknown CA")
    assert refusal([b"\x30\x03junk"], ca) == (0x12A, "invalid client cert")
    assert refusal([], ca) == (0x12A, "invalid client cert")
    assert refusal([agent.der] * 5, ca) == (0x12A, "invalid client cert")
    assert refusal([issue("no usage", ca).der], ca) == (0x12B, "invalid client cert")
    assert refusal([issue("server only", ca, usage=(SERVER,)).der], ca) == (0x12B, "invalid client cert")
    assert refusal([ca.der], ca) == (0x12B, "invalid client cert")


def test_leaf_cannot_issue_even_if_it_is_sent_along(ca: Issued) -> None:
    agent = issue_member(ca, "agent", "laptop")
    forged = issue_member(agent, "connector", "forged")
    assert refusal([forged.der, agent.der], ca)[0] in (0x12B, 0x130)


def test_server_use_is_judged_apart(ca: Issued) -> None:
    anchors = certs.load_anchors(ca.pem())
    assert certs.verify_server([issue_server(ca).der], anchors).dns_names == ("ztna-server",)
    with pytest.raises(PeerRejected):
        certs.verify_server([issue_member(ca, "agent", "imposter").der], anchors)
