"""The stack's own certificate authority and the leaf certificates of its members (RFC 5280).

Names: URI `spiffe://STACK/ROLE/NAME`, DNS `ROLE.SERVICE.ztna` for each grant; the intermediate's leaf also carries
DNS `ztna-server`, its name and its IP addresses. Keys are ECDSA P-256: small certificates keep a handshake's first
flight inside the anti-amplification limit (RFC 9000 section 8.1).
"""

import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from infra.naming import grant_name, spiffe_id

CA_DAYS: Final = 3650
RENEW_FRACTION: Final = 3
"""A leaf is renewed once less than 1/RENEW_FRACTION of its validity is left."""
BACKDATE: Final = dt.timedelta(minutes=5)
"""Peers' clocks may be behind ours by this much."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyPair:
    """A certificate and its private key, both PEM."""

    cert_pem: str
    key_pem: str = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class LeafNames:
    """Who a leaf certificate is for, and what it grants.

    Attributes:
        grants: DNS names `ROLE.SERVICE.ztna`.
        dns_names: further DNS names (servers only).
        ip_addresses: IP addresses in text form (servers only).
    """

    stack: str
    role: str
    name: str
    grants: tuple[str, ...] = ()
    dns_names: tuple[str, ...] = ()
    ip_addresses: tuple[str, ...] = ()
    server: bool = False

    @property
    def uri(self) -> str:
        """The identity URI."""
        return spiffe_id(self.stack, self.role, self.name)


def client_names(stack: str, role: str, name: str, services: Sequence[str]) -> LeafNames:
    """Return the names of an agent's or connector's leaf, granted these services. A connector is also a P2P server."""
    grants = tuple(grant_name(role, service) for service in services)
    return LeafNames(stack=stack, role=role, name=name, grants=grants, server=role == "connector")


def server_names(stack: str, name: str, server_name: str, addresses: Sequence[str]) -> LeafNames:
    """Return the names of an intermediate's leaf."""
    dns_names = tuple(dict.fromkeys((server_name, name)))
    return LeafNames(
        stack=stack, role="intermediate", name=name, dns_names=dns_names, ip_addresses=tuple(addresses), server=True
    )


def make_ca(stack: str, *, now: dt.datetime, days: int = CA_DAYS) -> KeyPair:
    """Make a self-signed CA that may sign leaves only (path length 0), valid for `days`."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{stack} ztna CA")])
    cert = (
        _builder(subject, subject, key.public_key(), now, days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(sign_certs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _pair(cert, key)


def make_leaf(ca: KeyPair, names: LeafNames, *, now: dt.datetime, days: int) -> KeyPair:
    """Make a leaf certificate and its key, signed by the CA.

    Raises:
        ValueError: the CA's PEMs are unreadable, or a name is not usable.
    """
    ca_cert = x509.load_pem_x509_certificate(ca.cert_pem.encode())
    ca_key = serialization.load_pem_private_key(ca.key_pem.encode(), password=None)
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"the CA's key is a {type(ca_key).__name__}, not an EC key: make the CA again")
    key = ec.generate_private_key(ec.SECP256R1())
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH] * (names.role != "intermediate")
    usages += [ExtendedKeyUsageOID.SERVER_AUTH] * names.server
    sans: list[x509.GeneralName] = [x509.UniformResourceIdentifier(names.uri)]
    sans += [x509.DNSName(name) for name in (*names.grants, *names.dns_names)]
    sans += [x509.IPAddress(ipaddress.ip_address(address)) for address in names.ip_addresses]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names.name)])
    cert = (
        _builder(subject, ca_cert.subject, key.public_key(), now, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(sign_certs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName(sans), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    return _pair(cert, key)


def renewal_due(cert_pem: str, *, now: dt.datetime) -> bool:
    """Return whether so little of a certificate's validity is left that it should be made anew."""
    cert = x509.load_pem_x509_certificate(cert_pem.encode())
    validity = cert.not_valid_after_utc - cert.not_valid_before_utc
    return cert.not_valid_after_utc - now < validity / RENEW_FRACTION


def fingerprint(cert_pem: str) -> str:
    """Return the SHA-256 of the certificate's DER in hex, as policies name it."""
    return x509.load_pem_x509_certificate(cert_pem.encode()).fingerprint(hashes.SHA256()).hex()


def not_after(cert_pem: str) -> str:
    """Return the end of a certificate's validity, ISO 8601 in UTC."""
    return x509.load_pem_x509_certificate(cert_pem.encode()).not_valid_after_utc.isoformat()


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, now: dt.datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + dt.timedelta(days=days))
    )


def _key_usage(*, sign_certs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certs,
        crl_sign=sign_certs,
        encipher_only=False,
        decipher_only=False,
    )


def _pair(cert: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> KeyPair:
    return KeyPair(
        cert_pem=cert.public_bytes(serialization.Encoding.PEM).decode(),
        key_pem=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode(),
    )
