"""Certificates of any shape for tests, also wrong ones. Keys are made once per run: P-256 generation costs little."""

import datetime as dt
import ipaddress
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ztna.config import Pem
from ztna.io.quic_types import Credentials

CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER = ExtendedKeyUsageOID.SERVER_AUTH


@dataclass(frozen=True)
class Issued:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def cert_pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def key_pem(self) -> str:
        form = serialization.PrivateFormat.PKCS8
        return self.key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def credentials(self) -> Credentials:
        return Credentials(self.certificate, (), self.key)

    def pem(self, key: str = "ca_cert_path") -> Pem:
        return Pem(key=key, text=self.cert_pem)

    def key_source(self) -> Pem:
        return Pem(key="key_path", text=self.key_pem)


def issue(
    name: str,
    issuer: Issued | None = None,
    *,
    uris: tuple[str, ...] = (),
    dns: tuple[str, ...] = (),
    ips: tuple[str, ...] = (),
    usage: tuple[x509.ObjectIdentifier, ...] = (),
    ca: bool = False,
    starts_in: dt.timedelta = dt.timedelta(hours=-1),
    lasts: dt.timedelta = dt.timedelta(days=30),
) -> Issued:
    """Make a certificate, self-signed without an issuer."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    start = dt.datetime.now(dt.UTC) + starts_in
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer is not None else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + lasts)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
    names += [x509.DNSName(value) for value in dns]
    names += [x509.IPAddress(ipaddress.ip_address(value)) for value in ips]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if usage:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
    return Issued(builder.sign(issuer.key if issuer is not None else key, hashes.SHA256()), key)


def issue_member(ca: Issued, role: str, name: str, *services: str, stack: str = "lab") -> Issued:
    """A leaf as the stack makes it: connectors are the servers of their sessions, too."""
    grants = tuple(f"{role}.{service}.ztna" for service in services)
    usage = (CLIENT, SERVER) if role == "connector" else (CLIENT,)
    return issue(name, ca, uris=(f"spiffe://{stack}/{role}/{name}",), dns=grants, usage=usage)


def issue_server(ca: Issued, *, stack: str = "lab") -> Issued:
    """An intermediate's leaf, for `ztna-server` and 127.0.0.1."""
    uri = (f"spiffe://{stack}/intermediate/relay",)
    return issue("relay", ca, uris=uri, dns=("ztna-server",), ips=("127.0.0.1",), usage=(SERVER,))
