"""Errors of the protocol core, told apart by who is to blame.

`LocalProtocolError` is a mistake of our own program and is allowed to surface. Everything a peer can cause is a
`RemoteProtocolError`; the state machines catch those, count them and go on.
"""

__all__ = [
    "IdentityError",
    "LocalProtocolError",
    "PolicyError",
    "ProtocolError",
    "RemoteProtocolError",
    "ServiceIdError",
    "WireError",
]


class ProtocolError(Exception):
    """Base of every error raised by `ztna.proto`."""


class LocalProtocolError(ProtocolError):
    """We were asked to say something that the protocol cannot express."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the rules."""


class WireError(RemoteProtocolError):
    """Bytes from the network are not a message."""


class ServiceIdError(WireError):
    """The service id inside an otherwise complete message is not UTF-8 (answered by a NACK with status 0x01)."""


class IdentityError(RemoteProtocolError):
    """A certificate does not name a peer of this stack."""


class PolicyError(ProtocolError):
    """The policy is not usable; the text names the key, the value and the remedy."""
