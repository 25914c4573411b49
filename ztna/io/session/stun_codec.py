"""STUN Binding messages of a session, between the wire (RFC 8489, codec `aioice.stun`) and what the paths see.

Requests carry USERNAME, PRIORITY, ICE-CONTROLLING or ICE-CONTROLLED with the tie-breaker, USE-CANDIDATE where the
sender nominates (RFC 8445 s7.1), MESSAGE-INTEGRITY under the session's key, and FINGERPRINT. A plain request, which has
no user name, carries FINGERPRINT alone: any STUN server answers it.
"""

import ipaddress
from typing import Final

from aioice import stun

from ztna.io.stun import looks_like_stun
from ztna.proto.paths.stun_types import Endpoint, StunError, StunMessage, StunRequest, StunResponse

MAX_MESSAGE_BYTES: Final = 1500
MAX_USERNAME: Final = 64
FINGERPRINT: Final = b"\x80\x28\x00\x04"
"""Type and length of the attribute that ends a message (RFC 8489 s14.7)."""

ROLE_CONFLICT: Final = 487
REASONS: Final = {400: "Bad Request", 401: "Unauthenticated", ROLE_CONFLICT: "Role Conflict"}


def decode(data: bytes, key: bytes) -> StunMessage | None:
    """Read one datagram; never raises.

    Args:
        data: a UDP payload.
        key: the session's key.

    Returns:
        the message; None for what is no STUN, malformed, of another method, or not authentic. Only the answer to a
        plain request may lack MESSAGE-INTEGRITY; its `authenticated` is False.
    """
    if len(data) > MAX_MESSAGE_BYTES or not looks_like_stun(data):
        return None
    try:
        message = stun.parse_message(data)
        if message.message_method != stun.Method.BINDING:
            return None
        signed = "MESSAGE-INTEGRITY" in message.attributes
        if signed and not (data[-8:-4] == FINGERPRINT and message.check_message_integrity(key)):
            return None
        return _decoded(message, signed)
    except Exception:
        # Whatever the parser stumbles over is no message of ours.
        return None


def _decoded(message: stun.Message, signed: bool) -> StunMessage | None:
    attributes, transaction = message.attributes, message.transaction_id
    if message.message_class == stun.Class.RESPONSE:
        address = attributes.get("XOR-MAPPED-ADDRESS")
        if address is None or not address[1]:
            return None
        return StunResponse(transaction, Endpoint(canonical(address[0]), address[1]), authenticated=signed)
    if not signed:
        return None
    if message.message_class == stun.Class.ERROR:
        code = message.error_code
        return StunError(transaction, code) if code is not None else None
    username = attributes.get("USERNAME", "")
    controlling = "ICE-CONTROLLING" in attributes
    if message.message_class != stun.Class.REQUEST or not username or len(username) > MAX_USERNAME:
        return None
    if controlling == ("ICE-CONTROLLED" in attributes) or "PRIORITY" not in attributes:
        return None
    return StunRequest(
        transaction=transaction,
        username=username,
        priority=attributes["PRIORITY"],
        controlling=controlling,
        tie_breaker=attributes["ICE-CONTROLLING" if controlling else "ICE-CONTROLLED"],
        use_candidate="USE-CANDIDATE" in attributes,
    )


def session_of(data: bytes) -> bytes | None:
    """Return the session that a request names in its USERNAME, not yet authentic; None for anything else."""
    if len(data) > MAX_MESSAGE_BYTES or not looks_like_stun(data):
        return None
    try:
        name, colon, _ = stun.parse_message(data).attributes.get("USERNAME", "").partition(":")
        return bytes.fromhex(name) if colon else None
    except Exception:
        return None


def encode(message: StunMessage, key: bytes) -> bytes:
    """Write one message, signed with the session's key unless it is a plain request.

    Raises:
        ValueError: a field is out of its range.
    """
    binding, transaction = stun.Method.BINDING, message.transaction
    if len(transaction) != 12:
        raise ValueError("a transaction id has 12 bytes")
    if isinstance(message, StunResponse):
        answer = stun.Message(binding, stun.Class.RESPONSE, transaction)
        answer.attributes["XOR-MAPPED-ADDRESS"] = tuple(message.mapped)
        return _signed(answer, key)
    if isinstance(message, StunError):
        answer = stun.Message(binding, stun.Class.ERROR, transaction)
        answer.attributes["ERROR-CODE"] = (message.code, REASONS.get(message.code, ""))
        return _signed(answer, key)
    request = stun.Message(binding, stun.Class.REQUEST, transaction)
    if not message.username:
        request.add_fingerprint()
        return bytes(request)
    role = "ICE-CONTROLLING" if message.controlling else "ICE-CONTROLLED"
    attributes = {"USERNAME": message.username, "PRIORITY": message.priority, role: message.tie_breaker}
    if message.use_candidate:
        attributes["USE-CANDIDATE"] = None
    request.attributes = attributes
    try:
        return _signed(request, key)
    except Exception as exc:
        raise ValueError(f"not encodable: {message}") from exc


def _signed(message: stun.Message, key: bytes) -> bytes:
    message.add_message_integrity(key)
    return bytes(message)


def canonical(host: str) -> str:
    """The canonical text of an IP address; an IPv4-mapped IPv6 address is the IPv4 one. Raises ValueError for none."""
    address = ipaddress.ip_address(host)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(address)
