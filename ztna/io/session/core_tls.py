"""Judging the server of a session by the stack's CA alone."""

from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ztna.io.certs import ALERT_BAD_CERTIFICATE, TrustAnchors, VerifiedNames
from ztna.io.quic_types import PeerRejected


@lru_cache(maxsize=8)
def anchors_of(ca_pem: bytes) -> TrustAnchors:
    """The CA certificates of a PEM text, which was checked when it was loaded; raises ValueError if it is none."""
    certificates = tuple(x509.load_pem_x509_certificates(ca_pem))
    return TrustAnchors(certificates, b"".join(each.public_bytes(Encoding.PEM) for each in certificates))


def check_name(names: VerifiedNames, server_name: str | None) -> None:
    """Raise PeerRejected unless the certificate carries the name (a DNS name or a URI); None asks for none."""
    if server_name is not None and server_name not in names.dns_names and server_name not in names.uris:
        raise PeerRejected("another server name", code=ALERT_BAD_CERTIFICATE, detail=f"not {server_name}")
