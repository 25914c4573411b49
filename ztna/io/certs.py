"""Certificates: loading our own with clear errors, and judging a client's by the stack's CA alone.

The system's trust store is never used. A client's chain must end at the stack's CA, be within its dates and be meant
for clients (extended key usage); who it names is read here and judged by `ztna.proto.identity` and the policy.
"""

import contextlib
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID

from ztna.config_reader import ConfigError
from ztna.config_types import Pem
from ztna.io.quic_types import Credentials, PeerRejected

MAX_CHAIN: Final = 4
MIN_RSA_BITS: Final = 2048
EXPIRY_WARNING_DAYS: Final = 14

# RFC 9001 s4.8: 0x0100 + TLS alert, as peers in the field see it.
ALERT_BAD_CERTIFICATE: Final = 0x012A
ALERT_UNSUPPORTED_CERTIFICATE: Final = 0x012B
ALERT_CERTIFICATE_EXPIRED: Final = 0x012D
ALERT_UNKNOWN_CA: Final = 0x0130
INVALID_CLIENT_CERT: Final = "invalid client cert"


@dataclass(frozen=True, slots=True)
class TrustAnchors:
    """The CA certificates that are trusted, and their PEM for the TLS engine."""

    certificates: tuple[x509.Certificate, ...]
    pem: bytes


@dataclass(frozen=True, slots=True)
class VerifiedNames:
    """Subject alternative names of a verified leaf and the SHA-256 of its DER in hex."""

    uris: tuple[str, ...]
    dns_names: tuple[str, ...]
    fingerprint: str


def utc_now() -> datetime:
    """The wall clock, the only one certificates know."""
    return datetime.now(UTC)


def load_anchors(source: Pem, now: datetime | None = None) -> TrustAnchors:
    """Load the CA certificates of a stack.

    Raises:
        ConfigError: unreadable, no certificate in it, expired, or not a CA.
    """
    certificates = _certificates(source)
    for certificate in certificates:
        _check_dates(certificate, source, now or utc_now())
        if not _is_ca(certificate):
            subject = certificate.subject.rfc4514_string()
            raise ConfigError(f"{source.key}: {subject} is not a CA certificate; give the stack's CA, not a leaf")
    pem = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)
    return TrustAnchors(tuple(certificates), pem)


def load_credentials(
    certificate: Pem, key: Pem, anchors: TrustAnchors | None = None, now: datetime | None = None
) -> Credentials:
    """Load our own certificate chain and private key.

    With `anchors`, the chain must end at one of them: peers of this stack would refuse us otherwise.

    Raises:
        ConfigError: unreadable, expired, the key belongs to another certificate, or another CA issued it.
    """
    now = now or utc_now()
    leaf, *chain = _certificates(certificate)
    _check_dates(leaf, certificate, now)
    private = _private_key(key)
    spki = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*spki) != leaf.public_key().public_bytes(*spki):
        raise ConfigError(f"{key.key}: the private key does not belong to the certificate of {certificate.key}")
    if anchors is not None and not _issued_by(leaf, chain, anchors):
        issuer = leaf.issuer.rfc4514_string()
        raise ConfigError(f"{certificate.key}: issued by {issuer}, which is not the CA given; use one CA for all")
    return Credentials(leaf, tuple(chain), private)


def file_warnings(*sources: Pem | None) -> list[str]:
    """Sentences about private key files that others can read or change."""
    found = []
    for source in sources:
        if source is None or source.path is None:
            continue
        try:
            mode = stat.S_IMODE(source.path.stat().st_mode)
        except OSError:
            continue
        if mode & 0o077 & ~0o040:
            found.append(f"{source.key}: {source.path} has mode {mode:04o}; others can use it, `chmod 600` it")
    return found


def expires_in_days(certificate: x509.Certificate, now: datetime | None = None) -> float:
    """Days left of a certificate, negative once it expired."""
    return (certificate.not_valid_after_utc - (now or utc_now())).total_seconds() / 86400


def verify_client(chain_der: Sequence[bytes], anchors: TrustAnchors, now: datetime | None = None) -> VerifiedNames:
    """Judge a client's certificate chain (DER, leaf first).

    Raises:
        PeerRejected: with the code and reason for the wire and the detail for the log.
    """
    return _verify(chain_der, anchors, ExtendedKeyUsageOID.CLIENT_AUTH, now or utc_now())


def verify_server(chain_der: Sequence[bytes], anchors: TrustAnchors, now: datetime | None = None) -> VerifiedNames:
    """Judge a server's chain as `verify_client` does, but for server use. The TLS engine checks the host name."""
    return _verify(chain_der, anchors, ExtendedKeyUsageOID.SERVER_AUTH, now or utc_now())


def names_of(certificate: x509.Certificate) -> VerifiedNames:
    """Read the names of a certificate; raises ValueError if its extensions cannot be parsed."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return VerifiedNames((), (), certificate.fingerprint(SHA256()).hex())
    return VerifiedNames(
        tuple(names.get_values_for_type(x509.UniformResourceIdentifier)),
        tuple(names.get_values_for_type(x509.DNSName)),
        certificate.fingerprint(SHA256()).hex(),
    )


def stack_of(certificate: x509.Certificate) -> str | None:
    """The stack that a certificate's SPIFFE ID names, None if it has none that can be read."""
    with contextlib.suppress(ValueError):
        for uri in names_of(certificate).uris:
            if uri.startswith("spiffe://"):
                return uri.removeprefix("spiffe://").split("/")[0]
    return None


def _verify(
    chain_der: Sequence[bytes], anchors: TrustAnchors, usage: x509.ObjectIdentifier, now: datetime
) -> VerifiedNames:
    if not chain_der or len(chain_der) > MAX_CHAIN:
        raise PeerRejected(
            INVALID_CLIENT_CERT, code=ALERT_BAD_CERTIFICATE, detail=f"a chain of {len(chain_der)} certificates"
        )
    try:
        leaf, *chain = [x509.load_der_x509_certificate(der) for der in chain_der]
        names = names_of(leaf)
        verifier = (
            verification.PolicyBuilder()
            .store(verification.Store(list(anchors.certificates)))
            .time(now)
            .max_chain_depth(MAX_CHAIN - 1)
            .extension_policies(ca_policy=_CA_POLICY, ee_policy=_leaf_policy(usage))
            .build_client_verifier()
        )
    except (ValueError, UnsupportedAlgorithm, InvalidSignature) as exc:
        raise PeerRejected(INVALID_CLIENT_CERT, code=ALERT_BAD_CERTIFICATE, detail=f"unreadable: {exc}") from exc
    # Dates first: the verifier's own message does not tell an expired leaf from a foreign one.
    if now > leaf.not_valid_after_utc or now < leaf.not_valid_before_utc:
        when = f"valid {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} to {leaf.not_valid_after_utc:%Y-%m-%d %H:%M}"
        raise PeerRejected("client cert expired", code=ALERT_CERTIFICATE_EXPIRED, detail=f"outside its dates: {when}")
    try:
        verifier.verify(leaf, chain)
    except verification.VerificationError as exc:
        foreign = not _issued_by(leaf, chain, anchors)
        code = ALERT_UNKNOWN_CA if foreign else ALERT_UNSUPPORTED_CERTIFICATE
        reason = "unknown CA" if foreign else INVALID_CLIENT_CERT
        raise PeerRejected(reason, code=code, detail=f"{reason}: {exc}") from exc
    return names


def _require_ca(_policy: verification.Policy, _certificate: x509.Certificate, value: x509.BasicConstraints) -> None:
    if not value.ca:
        raise ValueError("the issuer is not a CA")


_CA_POLICY: Final = verification.ExtensionPolicy.permit_all().require_present(
    x509.BasicConstraints, verification.Criticality.AGNOSTIC, _require_ca
)


def _leaf_policy(usage: x509.ObjectIdentifier) -> verification.ExtensionPolicy:
    def require_usage(
        _policy: verification.Policy, _certificate: x509.Certificate, value: x509.ExtendedKeyUsage
    ) -> None:
        if usage not in value:
            raise ValueError(f"extended key usage lacks {usage._name}")

    def require_leaf(
        _policy: verification.Policy, _certificate: x509.Certificate, value: x509.BasicConstraints | None
    ) -> None:
        if value is not None and value.ca:
            raise ValueError("a CA certificate is no leaf")

    agnostic = verification.Criticality.AGNOSTIC
    return (
        verification.ExtensionPolicy.permit_all()
        .require_present(x509.ExtendedKeyUsage, agnostic, require_usage)
        .may_be_present(x509.BasicConstraints, agnostic, require_leaf)
    )


def _certificates(source: Pem) -> list[x509.Certificate]:
    text = source.read()
    try:
        return x509.load_pem_x509_certificates(text.encode())
    except ValueError as exc:
        raise ConfigError(f"{source.key}: no readable PEM certificate in {_place(source)} ({exc})") from None


PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey


def _private_key(source: Pem) -> PrivateKey:
    text = source.read()
    try:
        key = load_pem_private_key(text.encode(), password=None)
    except TypeError:
        raise ConfigError(f"{source.key}: {_place(source)} is encrypted; give a plain key of mode 0600") from None
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise ConfigError(f"{source.key}: no readable PEM private key in {_place(source)} ({exc})") from None
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size < MIN_RSA_BITS:
        raise ConfigError(f"{source.key}: RSA of {key.key_size} bits; use at least {MIN_RSA_BITS}, or EC P-256")
    if isinstance(key, ec.EllipticCurvePrivateKey) and not isinstance(key.curve, (ec.SECP256R1, ec.SECP384R1)):
        raise ConfigError(f"{source.key}: curve {key.curve.name} is not usable here; use P-256 or P-384")
    if not isinstance(key, PrivateKey):
        raise ConfigError(f"{source.key}: keys of type {type(key).__name__} cannot sign TLS 1.3; use EC P-256")
    return key


def _check_dates(certificate: x509.Certificate, source: Pem, now: datetime) -> None:
    subject = certificate.subject.rfc4514_string() or "the certificate"
    if now > certificate.not_valid_after_utc:
        when = f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
        raise ConfigError(f"{source.key}: {subject} expired on {when}; renew it (for a stack: `ztna up`)")
    if now < certificate.not_valid_before_utc:
        when = f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        raise ConfigError(f"{source.key}: {subject} is valid only from {when}; check this host's clock")


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def _issued_by(leaf: x509.Certificate, chain: Sequence[x509.Certificate], anchors: TrustAnchors) -> bool:
    """Whether signatures lead from the leaf to an anchor; nothing else is judged."""
    current = leaf
    for _ in range(MAX_CHAIN):
        if any(current == anchor or _signed(current, anchor) for anchor in anchors.certificates):
            return True
        issuer = next((candidate for candidate in chain if _signed(current, candidate)), None)
        if issuer is None or issuer == current:
            return False
        current = issuer
    return False


def _signed(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _place(source: Pem) -> str:
    return str(source.path) if source.path is not None else "the inline text"
