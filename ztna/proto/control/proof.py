"""What a client signs to prove who it is, on the control connection and in a session.

Neither QUIC core has a public server API for client certificates, so the client proves itself inside the connection,
with the certificate that TLS would have carried. The signature covers

    context, kind, the server's fresh nonce, SHA-256 of the server's leaf certificate, the session id

The nonce makes it useless on any other connection, the leaf keeps a server from passing it on to another server, the
kind and the session keep a proof for one purpose from serving another. Verified is the chain first, then the name,
then the signature with the leaf's key (`ztna.io.proof`).
"""

from typing import Final, Literal

from ztna.proto.control.messages import NONCE_BYTES
from ztna.proto.errors import IdentityError, LocalProtocolError

__all__ = ["CONTEXT", "ProofError", "ProofKind", "proof_message"]

CONTEXT: Final = b"ztna-v2 client proof\0"
LEAF_HASH_BYTES: Final = 32

ProofKind = Literal["control", "session"]


class ProofError(IdentityError):
    """A proof does not hold; `code` is that of the Error message, the text is for the log and the close reason."""

    def __init__(self, text: str, *, code: str = "bad-proof") -> None:
        super().__init__(text)
        self.code = code


def proof_message(kind: ProofKind, nonce: bytes, server_leaf_sha256: bytes, session: bytes = b"") -> bytes:
    """Return the bytes that the client signs.

    Args:
        kind: what the proof is for.
        nonce: 32 bytes chosen by the server: of `Challenge`, or of `Granted`.
        server_leaf_sha256: 32 bytes, SHA-256 of the DER of the server's leaf certificate on this connection.
        session: session id; empty for `control`.

    Raises:
        LocalProtocolError: a part has the wrong length, or a session's proof names no session.
    """
    if len(nonce) != NONCE_BYTES or len(server_leaf_sha256) != LEAF_HASH_BYTES or len(session) > 255:
        raise LocalProtocolError("a proof covers a nonce of 32 bytes, a SHA-256 and a session id of at most 255 bytes")
    if (kind == "session") != bool(session):
        raise LocalProtocolError("exactly the proof of a session names a session")
    name = kind.encode()
    return b"".join((CONTEXT, bytes((len(name),)), name, nonce, server_leaf_sha256, bytes((len(session),)), session))
