"""The tls provider: keys and certificates, made as it makes them. They are the one kind of resource that is no twin.

Source: https://github.com/hashicorp/terraform-provider-tls/tree/v4.2.1/internal/provider
"""

import base64
import datetime as dt
import hashlib
import ipaddress
from collections.abc import Iterator
from typing import Any, ClassVar, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from infra.engine.providers import Failure
from infra.twin.interface import Call, Json, Made, TwinType, known
from infra.twin.provider import Package

PrivateKeyObject = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
CURVES: Final[dict[str, type[ec.EllipticCurve]]] = {
    "P224": ec.SECP224R1,
    "P256": ec.SECP256R1,
    "P384": ec.SECP384R1,
    "P521": ec.SECP521R1,
}
ALGORITHMS: Final = ("RSA", "ECDSA", "ED25519")
KEY_USES: Final = {
    "digital_signature": "digital_signature",
    "content_commitment": "content_commitment",
    "key_encipherment": "key_encipherment",
    "data_encipherment": "data_encipherment",
    "key_agreement": "key_agreement",
    "cert_signing": "key_cert_sign",
    "crl_signing": "crl_sign",
}
EXTENDED_USES: Final = {
    "client_auth": ExtendedKeyUsageOID.CLIENT_AUTH,
    "server_auth": ExtendedKeyUsageOID.SERVER_AUTH,
    "code_signing": ExtendedKeyUsageOID.CODE_SIGNING,
    "email_protection": ExtendedKeyUsageOID.EMAIL_PROTECTION,
    "timestamping": ExtendedKeyUsageOID.TIME_STAMPING,
    "ocsp_signing": ExtendedKeyUsageOID.OCSP_SIGNING,
}
_PEM = serialization.Encoding.PEM
_NONE = serialization.NoEncryption()
_NAMES: Final = {
    "commonName": NameOID.COMMON_NAME,
    "organization": NameOID.ORGANIZATION_NAME,
    "organizationalUnit": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "country": NameOID.COUNTRY_NAME,
    "province": NameOID.STATE_OR_PROVINCE_NAME,
    "locality": NameOID.LOCALITY_NAME,
}


class _Kept(TwinType):
    """A resource that is in the state alone: read as recorded, nothing to remove."""

    def read(self, call: Call, outputs: Json) -> Json | None:
        return outputs

    def delete(self, call: Call, outputs: Json, inputs: Json) -> None:
        return None


class PrivateKey(_Kept):
    """A key pair."""

    type_name = "tls:index/privateKey:PrivateKey"
    model = "a key pair, made as the provider makes it"
    force_new = frozenset({"algorithm", "ecdsaCurve", "rsaBits"})
    defaults: ClassVar = {"ecdsaCurve": "P224", "rsaBits": 2048}
    secret_outputs = ("privateKeyOpenssh", "privateKeyPem", "privateKeyPemPkcs8")

    def validate(self, inputs: Json) -> Iterator[Failure]:
        for name, values in (("algorithm", ALGORITHMS), ("ecdsaCurve", tuple(CURVES))):
            if known(inputs.get(name)) and inputs[name] not in values:
                yield Failure(name, f"must be one of {', '.join(values)}, not {inputs[name]!r}")

    def create(self, call: Call, inputs: Json) -> Made:
        key: PrivateKeyObject
        if inputs["algorithm"] == "RSA":
            key = rsa.generate_private_key(65537, int(inputs["rsaBits"]))
        elif inputs["algorithm"] == "ECDSA":
            key = ec.generate_private_key(CURVES[inputs["ecdsaCurve"]]())
        else:
            key = ed25519.Ed25519PrivateKey.generate()
        outputs = {**inputs, **key_outputs(key)}
        return Made(id=hashlib.sha1(outputs["publicKeyPem"].encode()).hexdigest(), outputs=outputs)  # noqa: S324 - as the provider


def key_outputs(key: PrivateKeyObject) -> Json:
    """Return a key's forms by the provider's names; those of OpenSSH are empty for P224, which it does not have."""
    formats, public = serialization.PrivateFormat, key.public_key()
    own = formats.PKCS8 if isinstance(key, ed25519.Ed25519PrivateKey) else formats.TraditionalOpenSSL
    outputs = {
        "privateKeyPem": key.private_bytes(_PEM, own, _NONE).decode(),
        "privateKeyPemPkcs8": key.private_bytes(_PEM, formats.PKCS8, _NONE).decode(),
        "publicKeyPem": public.public_bytes(_PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode(),
    }
    ssh = dict.fromkeys(
        ("privateKeyOpenssh", "publicKeyOpenssh", "publicKeyFingerprintMd5", "publicKeyFingerprintSha256"), ""
    )
    if not (isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name == "secp224r1"):
        line = public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
        blob = base64.b64decode(line.split()[1])
        ssh = {
            "privateKeyOpenssh": key.private_bytes(_PEM, formats.OpenSSH, _NONE).decode(),
            "publicKeyOpenssh": f"{line}\n",
            "publicKeyFingerprintMd5": md5_fingerprint(blob),
            "publicKeyFingerprintSha256": "SHA256:"
            + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("="),
        }
    return {**outputs, **ssh}


def md5_fingerprint(blob: bytes) -> str:
    """Return the MD5 fingerprint of a public key's wire form, as `ssh-keygen -E md5` prints it."""
    digest = hashlib.md5(blob, usedforsecurity=False).hexdigest()
    return ":".join(digest[at : at + 2] for at in range(0, len(digest), 2))


class CertRequest(_Kept):
    """A certificate signing request."""

    type_name = "tls:index/certRequest:CertRequest"
    model = "a signing request, made as the provider makes it"
    force_new = frozenset({"dnsNames", "ipAddresses", "privateKeyPem", "subject", "uris"})

    def create(self, call: Call, inputs: Json) -> Made:
        key = _load(inputs["privateKeyPem"])
        builder = x509.CertificateSigningRequestBuilder().subject_name(_subject(inputs))
        names = _alternative_names(inputs)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        request = builder.sign(key, _hash_for(key))
        pem = request.public_bytes(_PEM).decode()
        outputs = {
            **dict.fromkeys(self.force_new), **inputs, "certRequestPem": pem, "keyAlgorithm": _algorithm(key),
            "privateKeyPemWo": None, "privateKeyPemWoVersion": None,
        }  # fmt: skip
        return Made(id=hashlib.sha1(pem.encode()).hexdigest(), outputs=outputs)  # noqa: S324 - as the provider


class _Cert(_Kept):
    """What the two kinds of certificates share. One whose time of renewal has come is replaced by the next `up`."""

    in_place = frozenset({"earlyRenewalHours"})
    defaults: ClassVar = {"earlyRenewalHours": 0, "isCaCertificate": False, "setSubjectKeyId": False}

    def validate(self, inputs: Json) -> Iterator[Failure]:
        uses = (*KEY_USES, *EXTENDED_USES)
        for index, use in enumerate(inputs.get("allowedUses") or ()):
            if known(use) and use not in uses:
                yield Failure(f"allowedUses[{index}]", f"must be one of {', '.join(uses)}, not {use!r}")

    def update(self, call: Call, outputs: Json, olds: Json, news: Json) -> Json:
        return {**outputs, **news}

    def read(self, call: Call, outputs: Json) -> Json | None:
        """A certificate that is due is taken for gone: a refresh shows it, and an `up` makes it anew."""
        return None if renewal_due(outputs) else outputs

    def _signed(
        self, inputs: Json, subject: x509.Name, public: Any, issuer: x509.Name, key: PrivateKeyObject,
        more: list[x509.ExtensionType],
    ) -> Made:  # fmt: skip
        now = dt.datetime.now(dt.UTC).replace(microsecond=0)
        until = now + dt.timedelta(hours=int(inputs["validityPeriodHours"]))
        is_ca = bool(inputs.get("isCaCertificate"))
        # The provider takes a path length of 0 for none.
        length = int(inputs["maxPathLength"]) if is_ca and inputs.get("maxPathLength") else None
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(until)
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=length), critical=True)
        )
        uses = inputs["allowedUses"]
        builder = builder.add_extension(_key_usage(uses), critical=True)
        extended = [EXTENDED_USES[use] for use in uses if use in EXTENDED_USES]
        if extended:
            builder = builder.add_extension(x509.ExtendedKeyUsage(extended), critical=False)
        if is_ca or inputs.get("setSubjectKeyId"):
            builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        for extension in more:
            builder = builder.add_extension(extension, critical=False)
        cert = builder.sign(key, _hash_for(key))
        outputs = {
            **dict.fromkeys(self.properties()), **inputs, "certPem": cert.public_bytes(_PEM).decode(),
            "readyForRenewal": False, "validityStartTime": _time(now), "validityEndTime": _time(until),
        }  # fmt: skip
        return Made(id=str(cert.serial_number), outputs=outputs)


class SelfSignedCert(_Cert):
    """A certificate signed by its own key."""

    type_name = "tls:index/selfSignedCert:SelfSignedCert"
    model = "a certificate, made as the provider makes it"
    force_new = frozenset(
        {
            *("allowedUses", "dnsNames", "ipAddresses", "isCaCertificate", "maxPathLength", "privateKeyPem"),
            *("setAuthorityKeyId", "setSubjectKeyId", "subject", "uris", "validityPeriodHours"),
        }
    )

    def create(self, call: Call, inputs: Json) -> Made:
        key, subject = _load(inputs["privateKeyPem"]), _subject(inputs)
        more: list[x509.ExtensionType] = []
        if inputs.get("setAuthorityKeyId"):
            more.append(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()))
        names = _alternative_names(inputs)
        if names:
            more.append(x509.SubjectAlternativeName(names))
        made = self._signed(inputs, subject, key.public_key(), subject, key, more)
        own = {"keyAlgorithm": _algorithm(key), "privateKeyPemWo": None, "privateKeyPemWoVersion": None}
        return Made(id=made.id, outputs={**made.outputs, **own})


class LocallySignedCert(_Cert):
    """A certificate signed by a CA that the program has."""

    type_name = "tls:index/locallySignedCert:LocallySignedCert"
    model = "a certificate, made as the provider makes it"
    force_new = frozenset(
        {
            *("allowedUses", "caCertPem", "caPrivateKeyPem", "certRequestPem", "isCaCertificate", "maxPathLength"),
            *("setSubjectKeyId", "validityPeriodHours"),
        }
    )

    def create(self, call: Call, inputs: Json) -> Made:
        request = x509.load_pem_x509_csr(inputs["certRequestPem"].encode())
        ca, key = x509.load_pem_x509_certificate(inputs["caCertPem"].encode()), _load(inputs["caPrivateKeyPem"])
        more: list[x509.ExtensionType] = [
            found.value for found in request.extensions if isinstance(found.value, x509.SubjectAlternativeName)
        ]
        try:
            signer = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            more.append(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(signer))
        except x509.ExtensionNotFound:
            pass
        made = self._signed(inputs, request.subject, request.public_key(), ca.subject, key, more)
        own = {"caKeyAlgorithm": _algorithm(key), "caPrivateKeyPemWo": None, "caPrivateKeyPemWoVersion": None}
        return Made(id=made.id, outputs={**made.outputs, **own})


def renewal_due(outputs: Json) -> bool:
    """Whether a certificate's time of renewal has come, as its outputs say."""
    until = dt.datetime.fromisoformat(outputs["validityEndTime"])
    early = dt.timedelta(hours=int(outputs.get("earlyRenewalHours") or 0))
    return dt.datetime.now(dt.UTC) >= until - early


def _load(pem: str) -> PrivateKeyObject:
    key = serialization.load_pem_private_key(pem.encode(), password=None)
    if not isinstance(key, PrivateKeyObject):
        raise ValueError(f"a key of type {type(key).__name__} cannot sign certificates")
    return key


def _hash_for(key: PrivateKeyObject) -> hashes.SHA256 | None:
    return None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()


def _algorithm(key: PrivateKeyObject) -> str:
    if isinstance(key, rsa.RSAPrivateKey):
        return "RSA"
    return "ECDSA" if isinstance(key, ec.EllipticCurvePrivateKey) else "ED25519"


def _subject(inputs: Json) -> x509.Name:
    given = inputs.get("subject") or {}
    return x509.Name([x509.NameAttribute(oid, given[name]) for name, oid in _NAMES.items() if given.get(name)])


def _alternative_names(inputs: Json) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in inputs.get("dnsNames") or ()]
    names += [x509.IPAddress(ipaddress.ip_address(text)) for text in inputs.get("ipAddresses") or ()]
    return names + [x509.UniformResourceIdentifier(uri) for uri in inputs.get("uris") or ()]


def _key_usage(uses: list[str]) -> x509.KeyUsage:
    wanted = {KEY_USES[use] for use in uses if use in KEY_USES}
    bits = {name: name in wanted for name in KEY_USES.values()}
    return x509.KeyUsage(**bits, encipher_only=False, decipher_only=False)


def _time(moment: dt.datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


PACKAGE: Final = Package(name="tls", types=(PrivateKey(), CertRequest(), SelfSignedCert(), LocallySignedCert()))
