"""Making and judging the proof of `ztna.proto.control.proof` with real keys and certificates.

The key decides the algorithm, so that no peer can choose a weaker one: ECDSA over P-256 with SHA-256 and over P-384
with SHA-384, Ed25519, RSA-PSS with SHA-256 and a salt of 32 bytes. Any other key is refused.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, Hash
from cryptography.hazmat.primitives.serialization import Encoding

from ztna.io.certs import MIN_RSA_BITS, TrustAnchors, verify_client
from ztna.io.quic_types import Credentials, PeerRejected
from ztna.proto.control.client import Sign
from ztna.proto.control.proof import ProofError, ProofKind, proof_message
from ztna.proto.errors import IdentityError, LocalProtocolError
from ztna.proto.identity import Identity, parse_identity

__all__ = ["chain_der", "leaf_sha256", "sign", "signer", "verify"]

_PSS: Final = padding.PSS(mgf=padding.MGF1(SHA256()), salt_length=32)


def leaf_sha256(leaf_der: bytes) -> bytes:
    """Return the SHA-256 of a leaf certificate's DER, as the proof covers it."""
    digest = Hash(SHA256())
    digest.update(leaf_der)
    return digest.finalize()


def chain_der(credentials: Credentials) -> tuple[bytes, ...]:
    """Return our certificates in DER, leaf first."""
    return tuple(
        certificate.public_bytes(Encoding.DER) for certificate in (credentials.certificate, *credentials.chain)
    )


def sign(
    credentials: Credentials, kind: ProofKind, *, nonce: bytes, server_leaf_sha256: bytes, session: bytes = b""
) -> bytes:
    """Prove who we are with the key of our leaf; see `proof_message` for the arguments.

    Raises:
        LocalProtocolError: the key is of a type that proofs do not know.
    """
    message = proof_message(kind, nonce, server_leaf_sha256, session)
    key: Any = credentials.private_key
    if isinstance(key, ec.EllipticCurvePrivateKey) and (digest := _ec_hash(key.curve)) is not None:
        signature: bytes = key.sign(message, ec.ECDSA(digest))
        return signature
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(message)
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(message, _PSS, SHA256())
    raise LocalProtocolError(f"a key of type {type(key).__name__} cannot prove an identity; use EC P-256")


def signer(credentials: Credentials | None) -> Sign:
    """Return what makes the proof of a control connection with these credentials; LocalProtocolError if it cannot."""

    def make(nonce: bytes, server_leaf_sha256: bytes) -> tuple[tuple[bytes, ...], bytes]:
        if credentials is None:
            raise LocalProtocolError("there is no certificate")
        signature = sign(credentials, "control", nonce=nonce, server_leaf_sha256=server_leaf_sha256)
        return chain_der(credentials), signature

    return make


def verify(
    kind: ProofKind,
    chain: Sequence[bytes],
    signature: bytes,
    *,
    anchors: TrustAnchors,
    stack: str,
    nonce: bytes,
    server_leaf_sha256: bytes,
    session: bytes = b"",
    now: datetime | None = None,
) -> Identity:
    """Judge a proof: the chain against the stack's CA, then the name, then the signature.

    Args:
        kind, nonce, server_leaf_sha256, session: what was to be signed, as we know it.
        chain: DER certificates, leaf first, as the client sent them.
        stack: the stack that the identity must belong to.
        now: wall clock for the certificates' dates.

    Returns:
        who the client is.

    Raises:
        ProofError: any of them does not hold; the text says which.
    """
    message = proof_message(kind, nonce, server_leaf_sha256, session)
    try:
        names = verify_client(chain, anchors, now)
        identity = parse_identity(names.uris, names.dns_names, names.fingerprint, stack)
    except (PeerRejected, IdentityError) as error:
        raise ProofError(str(error)) from error
    try:
        _check_signature(x509.load_der_x509_certificate(chain[0]).public_key(), signature, message)
    except InvalidSignature as error:
        raise ProofError("the signature does not verify") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ProofError(f"the key cannot be used: {error}") from error
    return identity


def _check_signature(key: Any, signature: bytes, message: bytes) -> None:
    """Raise InvalidSignature if it is wrong, ProofError if keys of this type are not accepted."""
    if isinstance(key, ec.EllipticCurvePublicKey) and (digest := _ec_hash(key.curve)) is not None:
        key.verify(signature, message, ec.ECDSA(digest))
    elif isinstance(key, ed25519.Ed25519PublicKey):
        key.verify(signature, message)
    elif isinstance(key, rsa.RSAPublicKey) and key.key_size >= MIN_RSA_BITS:
        key.verify(signature, message, _PSS, SHA256())
    else:
        raise ProofError(f"keys of type {type(key).__name__} prove nothing here")


def _ec_hash(curve: ec.EllipticCurve) -> SHA256 | SHA384 | None:
    if isinstance(curve, ec.SECP256R1):
        return SHA256()
    return SHA384() if isinstance(curve, ec.SECP384R1) else None
