"""Proofs with real keys: who made them, for which nonce, server and session; and every way in which they fail."""

import datetime as dt
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tests.support.certs import CLIENT, Issued, issue, issue_member, issue_server
from ztna.io import proof
from ztna.io.certs import TrustAnchors, load_anchors
from ztna.io.quic_types import Credentials
from ztna.proto.control.proof import ProofError, ProofKind, proof_message
from ztna.proto.errors import LocalProtocolError
from ztna.proto.identity import Identity

CA = issue("stack CA", ca=True)
ANCHORS: TrustAnchors = load_anchors(CA.pem())
SERVER = proof.leaf_sha256(issue_server(CA).der)
AGENT = issue_member(CA, "agent", "agent", "echo-service")
NONCE, SESSION = b"n" * 32, b"s" * 16
DAY = dt.timedelta(days=1)


def make(leaf: Issued | Credentials, kind: ProofKind = "control", **changes: Any) -> tuple[tuple[bytes, ...], bytes]:
    credentials = leaf.credentials if isinstance(leaf, Issued) else leaf
    claim: dict[str, Any] = {
        "nonce": NONCE,
        "server_leaf_sha256": SERVER,
        **({"session": SESSION} if kind == "session" else {}),
    }
    return proof.chain_der(credentials), proof.sign(credentials, kind, **(claim | changes))


def judge(made: tuple[tuple[bytes, ...], bytes], kind: ProofKind = "control", **changes: Any) -> Identity:
    claim: dict[str, Any] = {"nonce": NONCE, "server_leaf_sha256": SERVER, "anchors": ANCHORS, "stack": "lab"}
    claim |= {"session": SESSION} if kind == "session" else {}
    return proof.verify(kind, *made, **(claim | changes))


@cache
def member_with(kind: str) -> Credentials:
    """An agent's leaf of the stack with a key of another type."""
    makers: dict[str, Callable[[], Any]] = {
        "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "P-521": lambda: ec.generate_private_key(ec.SECP521R1()),
        "Ed25519": ed25519.Ed25519PrivateKey.generate,
        "Ed448": ed448.Ed448PrivateKey.generate,
        "RSA-2048": lambda: rsa.generate_private_key(65537, 2048),
        "RSA-1024": lambda: rsa.generate_private_key(65537, 1024),
    }
    key = makers[kind]()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "agent")])
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(CA.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + DAY)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://lab/agent/agent")]), False)
        .add_extension(x509.ExtendedKeyUsage([CLIENT]), False)
    )
    return Credentials(builder.sign(CA.key, hashes.SHA256()), (), key)


def test_a_proof_says_who_made_it() -> None:
    identity = judge(make(AGENT))
    assert (identity.uri, identity.grants) == ("spiffe://lab/agent/agent", frozenset({"agent:echo-service"}))
    assert judge(make(AGENT, "session"), "session") == identity


@pytest.mark.parametrize("kind", ["P-384", "Ed25519", "RSA-2048"])
def test_the_key_decides_the_algorithm(kind: str) -> None:
    made = make(member_with(kind))
    assert judge(made).name == "agent"
    with pytest.raises(ProofError, match="signature does not verify"):
        judge(made, nonce=b"m" * 32)


@pytest.mark.parametrize("kind", ["P-521", "Ed448"])
def test_keys_of_other_types_neither_make_nor_pass_a_proof(kind: str) -> None:
    credentials = member_with(kind)
    with pytest.raises(LocalProtocolError, match="cannot prove"):
        make(credentials)
    with pytest.raises(ProofError):
        judge((proof.chain_der(credentials), b"signature"))


def test_a_short_rsa_key_proves_nothing() -> None:
    with pytest.raises(ProofError):
        judge(make(member_with("RSA-1024")))


def test_another_padding_or_hash_of_the_right_key_proves_nothing() -> None:
    credentials = member_with("RSA-2048")
    message = proof_message("control", NONCE, SERVER)
    plain = credentials.private_key.sign(message, PKCS1v15(), hashes.SHA256())
    with pytest.raises(ProofError, match="signature does not verify"):
        judge((proof.chain_der(credentials), plain))
    weak = AGENT.key.sign(message, ec.ECDSA(hashes.SHA384()))
    with pytest.raises(ProofError, match="signature does not verify"):
        judge((proof.chain_der(AGENT.credentials), weak))


@pytest.mark.parametrize(
    "changed",
    [{"nonce": b"m" * 32}, {"server_leaf_sha256": b"x" * 32}, {"session": b"t" * 16}],
    ids=["nonce", "server", "session"],
)
def test_a_proof_serves_nothing_but_what_it_was_made_for(changed: dict[str, bytes]) -> None:
    made = make(AGENT, "session")
    with pytest.raises(ProofError, match="signature does not verify"):
        judge(made, "session", **changed)


def test_a_proof_of_one_kind_is_none_of_the_other() -> None:
    chain, signature = make(AGENT)
    with pytest.raises(ProofError, match="signature does not verify"):
        judge((chain, signature), "session")
    chain, signature = make(AGENT, "session")
    with pytest.raises(ProofError, match="signature does not verify"):
        judge((chain, signature))


def test_a_signature_of_another_member_or_with_a_bit_changed_is_refused() -> None:
    chain, signature = make(AGENT)
    _, foreign = make(issue_member(CA, "agent", "other", "echo-service"))
    for wrong in (foreign, signature[:-1] + bytes([signature[-1] ^ 1]), signature[:-1], b"\0" * 64, b"x"):
        with pytest.raises(ProofError, match="signature does not verify"):
            judge((chain, wrong))


def test_certificates_are_judged_as_in_tls() -> None:
    def leaf(**changes: Any) -> Issued:
        return issue("agent", changes.pop("ca", CA), uris=("spiffe://lab/agent/agent",), **changes)

    cases = {
        "outside its dates": leaf(usage=(CLIENT,), starts_in=-2 * DAY, lasts=DAY),
        "unknown CA": leaf(ca=issue("foreign", ca=True), usage=(CLIENT,)),
        "invalid client cert": leaf(),
        "another stack": issue("agent", CA, uris=("spiffe://other/agent/agent",), usage=(CLIENT,)),
        "0 spiffe:// names": issue("agent", CA, usage=(CLIENT,)),
    }
    for reason, certificate in cases.items():
        with pytest.raises(ProofError, match=reason):
            judge(make(certificate))


def test_a_servers_certificate_is_no_members() -> None:
    with pytest.raises(ProofError, match="invalid client cert"):
        judge(make(issue_server(CA)))


@pytest.mark.parametrize("chain", [(), (b"junk",), (b"",), (AGENT.der,) * 5])
def test_chains_that_are_none(chain: tuple[bytes, ...]) -> None:
    _, signature = make(AGENT)
    with pytest.raises(ProofError):
        judge((chain, signature))


def test_a_chain_by_an_intermediate_ca() -> None:
    middle = issue("middle", CA, ca=True)
    leaf = issue_member(middle, "agent", "agent", "echo-service")
    whole = replace(leaf.credentials, chain=(middle.certificate,))
    assert proof.chain_der(whole) == (leaf.der, middle.der)
    assert judge(make(whole)).name == "agent"
    with pytest.raises(ProofError, match="unknown CA"):
        judge(make(leaf))


def test_dates_are_those_of_the_moment() -> None:
    with pytest.raises(ProofError, match="outside its dates"):
        judge(make(AGENT), now=dt.datetime.now(dt.UTC) + 400 * DAY)


def test_the_signer_needs_a_certificate() -> None:
    chain, signature = proof.signer(AGENT.credentials)(NONCE, SERVER)
    assert judge((tuple(chain), signature)).name == "agent"
    with pytest.raises(LocalProtocolError):
        proof.signer(None)(NONCE, SERVER)


def test_the_hash_of_a_leaf_is_its_fingerprint() -> None:
    fingerprint = AGENT.certificate.fingerprint(hashes.SHA256())
    assert proof.leaf_sha256(AGENT.certificate.public_bytes(Encoding.DER)) == fingerprint
