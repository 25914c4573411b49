"""A stand-in for the tls provider in tests: makes the keys and certificates that it makes of its inputs.

It follows the provider where it decides about extensions: a path length of 0 is lost, every certificate says whether
it is a CA, a CA always has a subject key identifier, a leaf the authority's. It keeps what it made by resource name, as
a state does, so that a second program finds the same keys.
Source: https://github.com/hashicorp/terraform-provider-tls/blob/v4.2.1/internal/provider/common_cert.go
"""

import datetime as dt
import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SECRET: Final = "4dabf18193072939515e22adb298388d"
"""Key that marks a secret on the wire (Pulumi's resource.proto)."""
KEY_USES: Final = {
    "digital_signature": "digital_signature",
    "key_encipherment": "key_encipherment",
    "cert_signing": "key_cert_sign",
    "crl_signing": "crl_sign",
}
EXTENDED_USES: Final = {
    "client_auth": ExtendedKeyUsageOID.CLIENT_AUTH,
    "server_auth": ExtendedKeyUsageOID.SERVER_AUTH,
}


def plain(value: Any) -> Any:
    """Return inputs with secrets opened."""
    if isinstance(value, dict):
        return plain(value["value"]) if SECRET in value else {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


@dataclass
class FakeTls:
    """Outputs of the provider's four resources by their inputs, for `Recorder.computed`."""

    now: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC).replace(microsecond=0))
    made: dict[str, tuple[Any, dict[str, Any]]] = field(default_factory=dict)

    @property
    def computed(self) -> dict[str, Any]:
        """What computes outputs, by type token."""
        makers = {
            "tls:index/privateKey:PrivateKey": self._key,
            "tls:index/selfSignedCert:SelfSignedCert": self._self_signed,
            "tls:index/certRequest:CertRequest": self._request,
            "tls:index/locallySignedCert:LocallySignedCert": self._locally_signed,
        }
        return {token: self._kept(make) for token, make in makers.items()}

    def _kept(self, make: Any) -> Any:
        def outputs(name: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
            given = plain(dict(inputs))
            key = f"{make.__name__}:{name}"
            if key not in self.made or self.made[key][0] != given:
                self.made[key] = (given, make(given))
            return self.made[key][1]

        return outputs

    def _key(self, inputs: dict[str, Any]) -> dict[str, Any]:
        kinds: dict[tuple[str, str | None], Callable[[], ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey]] = {
            ("ECDSA", "P256"): lambda: ec.generate_private_key(ec.SECP256R1()),
            ("ED25519", None): ed25519.Ed25519PrivateKey.generate,
        }
        key = kinds[inputs["algorithm"], inputs.get("ecdsaCurve")]()
        encoding, form, none = serialization.Encoding, serialization.PrivateFormat, serialization.NoEncryption()
        public = key.public_key().public_bytes(encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        return {
            "privateKeyPem": key.private_bytes(encoding.PEM, form.PKCS8, none).decode(),
            "privateKeyPemPkcs8": key.private_bytes(encoding.PEM, form.PKCS8, none).decode(),
            "privateKeyOpenssh": key.private_bytes(encoding.PEM, form.OpenSSH, none).decode(),
            "publicKeyOpenssh": f"{public.decode()}\n",
        }

    def _request(self, inputs: dict[str, Any]) -> dict[str, Any]:
        names: list[x509.GeneralName] = [x509.DNSName(name) for name in inputs.get("dnsNames") or ()]
        names += [x509.IPAddress(ipaddress.ip_address(text)) for text in inputs.get("ipAddresses") or ()]
        names += [x509.UniformResourceIdentifier(uri) for uri in inputs.get("uris") or ()]
        request = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(_subject(inputs))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(_load(inputs["privateKeyPem"]), hashes.SHA256())
        )
        return {"certRequestPem": request.public_bytes(serialization.Encoding.PEM).decode()}

    def _self_signed(self, inputs: dict[str, Any]) -> dict[str, Any]:
        key = _load(inputs["privateKeyPem"])
        subject = _subject(inputs)
        return self._sign(inputs, subject, subject, key.public_key(), key, ())

    def _locally_signed(self, inputs: dict[str, Any]) -> dict[str, Any]:
        request = x509.load_pem_x509_csr(inputs["certRequestPem"].encode())
        ca = x509.load_pem_x509_certificate(inputs["caCertPem"].encode())
        public = request.public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)
        extensions: list[x509.ExtensionType] = [
            request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value,
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            ),
        ]
        return self._sign(inputs, request.subject, ca.subject, public, _load(inputs["caPrivateKeyPem"]), extensions)

    def _sign(
        self,
        inputs: dict[str, Any],
        subject: x509.Name,
        issuer: x509.Name,
        public: ec.EllipticCurvePublicKey,
        key: ec.EllipticCurvePrivateKey,
        extensions: Any,
    ) -> dict[str, Any]:
        is_ca = bool(inputs.get("isCaCertificate"))
        path_length = int(inputs.get("maxPathLength") or 0) or None
        uses = inputs["allowedUses"]
        assert set(uses) <= {*KEY_USES, *EXTENDED_USES}
        flags = dict.fromkeys(
            ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"), False,
        )  # fmt: skip
        flags |= {KEY_USES[use]: True for use in uses if use in KEY_USES}
        extended = [EXTENDED_USES[use] for use in uses if use in EXTENDED_USES]
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now)
            .not_valid_after(self.now + dt.timedelta(hours=int(inputs["validityPeriodHours"])))
            .add_extension(x509.KeyUsage(**flags), critical=True)
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=path_length if is_ca else None), critical=True)
        )
        if extended:
            builder = builder.add_extension(x509.ExtendedKeyUsage(extended), critical=False)
        if is_ca or inputs.get("setSubjectKeyId"):
            builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        cert = builder.sign(key, hashes.SHA256())
        return {"certPem": cert.public_bytes(serialization.Encoding.PEM).decode()}


def _subject(inputs: dict[str, Any]) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, inputs["subject"]["commonName"])])


def _load(pem: str) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem.encode(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key
