"""What an intermediate can take anew while it runs: certificates, the judge of clients, the policy, limits."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from ztna.config import ConfigError, ConnectorConfig, IntermediateConfig, apply_limits
from ztna.config_reader import parse_json, read_text
from ztna.io import certs, proof
from ztna.io.quic_guard import AdmissionLimits
from ztna.io.quic_types import ALPN, ALPN_V2, ConnectionLimits, PeerRejected, ServerSettings
from ztna.proto.control.messages import Hello
from ztna.proto.control.proof import ProofError
from ztna.proto.control.server import Verify
from ztna.proto.errors import IdentityError, PolicyError
from ztna.proto.identity import Identity, parse_identity
from ztna.proto.limits import ControlLimits, IntermediateLimits
from ztna.proto.policy import Policy
from ztna.proto.relay_types import RelayLimits


@dataclass(frozen=True, slots=True)
class Material:
    """What a reload replaces: how to accept connections, and who may do what."""

    settings: ServerSettings
    policy: Policy
    warnings: tuple[str, ...]
    verify: Verify
    """Judges proofs of `ztna-v2`."""


def load_policy(config: IntermediateConfig | ConnectorConfig) -> Policy:
    """Read policy.json; without `policy_path` nothing is granted to anybody with a certificate.

    Raises:
        ConfigError: unreadable or not valid.
    """
    if config.policy_path is None:
        return Policy.empty()
    try:
        return Policy.from_json(parse_json(read_text(config.policy_path, "policy_path"), str(config.policy_path)))
    except PolicyError as exc:
        raise ConfigError(f"{config.policy_path}: {exc}") from None


def load_material(config: IntermediateConfig) -> Material:
    """Load certificates and policy, checked against each other.

    Raises:
        ConfigError: names the key and the remedy.
    """
    tls = config.tls
    assert tls.certificate is not None
    assert tls.key is not None
    anchors = certs.load_anchors(tls.ca) if tls.ca is not None else None
    credentials = certs.load_credentials(tls.certificate, tls.key, anchors if config.stack is not None else None)
    stack = config.stack or certs.stack_of(credentials.certificate)
    if tls.verify_peer and stack is None and not config.allow_anonymous_v1:
        raise ConfigError("stack: missing, and our certificate names none; set it to the stack's name")
    admission, limits = apply_limits(
        _limits_for(config, AdmissionLimits(), ConnectionLimits()), AdmissionLimits(), ConnectionLimits()
    )
    trusted = anchors if tls.verify_peer else None
    settings = ServerSettings(
        credentials=credentials,
        authenticate=authenticator(trusted, stack or "", config.allow_anonymous_v1),
        # Of a client that proves itself on the control stream, TLS need not carry a certificate.
        authenticate_alpn={ALPN_V2: authenticator(trusted, stack or "", True)},
        alpn=_protocols(config, can_prove=anchors is not None and stack is not None),
        request_client_certificate=tls.verify_peer,
        retry=not config.disable_retry,
        admission=admission,
        limits=limits,
    )
    warnings = certs.file_warnings(tls.key)
    days = certs.expires_in_days(credentials.certificate)
    if days < certs.EXPIRY_WARNING_DAYS:
        warnings.append(f"{tls.certificate.key}: expires in {days:.1f} days")
    return Material(settings, load_policy(config), tuple(warnings), proof_judge(anchors, stack))


def _protocols(config: IntermediateConfig, *, can_prove: bool) -> tuple[str, ...]:
    """The ALPNs to accept, the one to be preferred first; without CA or stack nobody can prove who it is."""
    if config.protocol == "v2" and not can_prove:
        raise ConfigError("protocol: v2 needs ca_cert_path and stack, to judge proofs by; set them, or auto")
    if config.protocol == "v2":
        return (ALPN_V2,)
    return (ALPN_V2, ALPN) if config.protocol == "auto" and can_prove else (ALPN,)


def proof_judge(anchors: certs.TrustAnchors | None, stack: str | None) -> Verify:
    """The judge of proofs on control streams."""

    def judge(hello: Hello, nonce: bytes, leaf_sha256: bytes) -> Identity:
        if anchors is None or stack is None:
            raise ProofError("there is no CA to judge it by")
        return proof.verify(
            "control",
            hello.chain,
            hello.signature,
            anchors=anchors,
            stack=stack,
            nonce=nonce,
            server_leaf_sha256=leaf_sha256,
        )

    return judge


def authenticator(
    anchors: certs.TrustAnchors | None, stack: str, allow_anonymous: bool
) -> Callable[[list[bytes]], Identity | None]:
    """The judge of client certificates: an Identity, or None for a client without certificate where that is allowed."""

    def authenticate(chain: list[bytes]) -> Identity | None:
        if not chain:
            if allow_anonymous:
                return None
            raise PeerRejected("client cert required")
        if anchors is None:
            raise PeerRejected(certs.INVALID_CLIENT_CERT, detail="unasked certificate")
        names = certs.verify_client(chain, anchors)
        try:
            return parse_identity(names.uris, names.dns_names, names.fingerprint, stack)
        except IdentityError as exc:
            raise PeerRejected(certs.INVALID_CLIENT_CERT, detail=str(exc)) from exc

    return authenticate


def relay_limits(config: IntermediateConfig) -> IntermediateLimits:
    """Bounds of the relay core from the config; raises ConfigError."""
    (limits,) = apply_limits(_limits_for(config, IntermediateLimits()), IntermediateLimits())
    assert isinstance(limits, IntermediateLimits)
    return limits


def control_limits(config: IntermediateConfig) -> ControlLimits:
    """Bounds of the control plane from the config; raises ConfigError."""
    (limits,) = apply_limits(_limits_for(config, ControlLimits()), ControlLimits())
    assert isinstance(limits, ControlLimits)
    return limits


def forward_limits(config: IntermediateConfig) -> RelayLimits:
    """Bounds of the relay of sessions from the config; raises ConfigError."""
    (limits,) = apply_limits(_limits_for(config, RelayLimits()), RelayLimits())
    assert isinstance(limits, RelayLimits)
    return limits


def _limits_for(config: IntermediateConfig, *defaults: Any) -> dict[str, float]:
    """The limits that belong to some of the dataclasses; a name that belongs to none at all is an error."""
    apply_limits(
        config.limits, AdmissionLimits(), ConnectionLimits(), IntermediateLimits(), ControlLimits(), RelayLimits()
    )
    wanted = {field.name for default in defaults for field in fields(default)}
    return {name: number for name, number in config.limits.items() if name in wanted}
