"""Who is at the other end of a session: certificates of the stack's CA, names, and the agent's in-band proof."""

from collections.abc import Mapping, Sequence

from ztna.io import certs, proof
from ztna.io.quic_types import Credentials, PeerRejected
from ztna.proto.control.proof import ProofError
from ztna.proto.end_to_end import SessionHello
from ztna.proto.errors import IdentityError, LocalProtocolError
from ztna.proto.identity import Identity, parse_identity

__all__ = ["SessionRejected", "hello", "judge_agent", "judge_connector"]


class SessionRejected(Exception):
    """The other side is not who it must be, or we cannot prove ourselves; the text says why, for our log only."""


def hello(
    credentials: Credentials, *, nonce: bytes, server_leaf: bytes, session: bytes, capabilities: Sequence[str] = ()
) -> SessionHello:
    """Return the agent's proof for one session, bound to the connector's nonce and certificate and to the session.

    Raises:
        SessionRejected: our key is of a type that proofs do not know.
    """
    leaf = proof.leaf_sha256(server_leaf)
    try:
        signature = proof.sign(credentials, "session", nonce=nonce, server_leaf_sha256=leaf, session=session)
        return SessionHello(list(proof.chain_der(credentials)), signature, capabilities=list(capabilities))
    except LocalProtocolError as exc:
        raise SessionRejected(str(exc)) from exc


def judge_connector(
    chain: Sequence[bytes],
    anchors: certs.TrustAnchors,
    stack: str,
    *,
    expected: str,
    allowed: Mapping[str, tuple[str, ...]],
) -> tuple[str, ...]:
    """Judge the QUIC server of a session; returns the services that the agent may use it for.

    Args:
        chain: DER, leaf first, as the handshake showed it.
        expected: the SPIFFE ID that the intermediate named.
        allowed: for each service wanted, names or SPIFFE IDs of its connectors by the agent's own profile; empty
            takes any connector whose certificate grants the service.

    Raises:
        SessionRejected: not a certificate of this stack's connector, not the one named, or none of the services is its.
    """
    try:
        names = certs.verify_server(chain, anchors)
        identity = parse_identity(names.uris, names.dns_names, names.fingerprint, stack)
    except (PeerRejected, IdentityError) as exc:
        raise SessionRejected(f"the peer's certificate is refused: {exc}") from exc
    if identity.role != "connector" or identity.uri != expected:
        raise SessionRejected(f"the peer is {identity.uri}, not {expected}")
    services = tuple(
        service
        for service, connectors in allowed.items()
        if identity.grants_service("connector", service)
        and (not connectors or identity.name in connectors or identity.uri in connectors)
    )
    if not services:
        raise SessionRejected(f"{identity.uri} may serve none of {', '.join(sorted(allowed))}")
    return services


def judge_agent(
    message: SessionHello,
    anchors: certs.TrustAnchors,
    stack: str,
    *,
    expected: str,
    nonce: bytes,
    server_leaf: bytes,
    session: bytes,
) -> Identity:
    """Judge an agent's proof.

    Raises:
        SessionRejected: certificate, identity or signature are not those of the agent that was invited.
    """
    try:
        identity = proof.verify(
            "session",
            message.chain,
            message.signature,
            anchors=anchors,
            stack=stack,
            nonce=nonce,
            server_leaf_sha256=proof.leaf_sha256(server_leaf),
            session=session,
        )
    except ProofError as exc:
        raise SessionRejected(f"the agent's proof is refused: {exc}") from exc
    if identity.role != "agent" or identity.uri != expected:
        raise SessionRejected(f"the peer is {identity.uri}, not {expected}")
    return identity
