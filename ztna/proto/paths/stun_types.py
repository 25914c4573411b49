"""STUN Binding messages as the path machinery sees them: decoded, with MESSAGE-INTEGRITY already verified.

The codec lives in the shell. It hands on a message only when its integrity holds under the session's key, or when it is
the answer to a plain request (`StunResponse.authenticated` is False then).
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

TRANSACTION_BYTES: Final = 12
COUNTER_BYTES: Final = 6


class Endpoint(NamedTuple):
    """A transport address. `host` is the canonical text of an IP address; equal to the plain tuple of both."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class StunRequest:
    """A Binding request.

    Args:
        transaction: 12 bytes: a counter of 6 bytes that rises with every request of one sender in one session, then 6
            random bytes.
        username: `<session id in hex>:<role of the sender>`, or "" for a plain request without MESSAGE-INTEGRITY,
            which carries none of the fields below.
        priority: PRIORITY, what a peer-reflexive candidate learned from this request would have (RFC 8445 s7.1.1).
        controlling: ICE-CONTROLLING rather than ICE-CONTROLLED.
        tie_breaker: 64 bits, value of that attribute.
        use_candidate: USE-CANDIDATE, the controlling side's nomination (RFC 8445 s7.1.2).
    """

    transaction: bytes
    username: str
    priority: int = 0
    controlling: bool = False
    tie_breaker: int = 0
    use_candidate: bool = False


@dataclass(frozen=True, slots=True)
class StunResponse:
    """A Binding success response.

    Args:
        transaction: that of the request.
        mapped: XOR-MAPPED-ADDRESS.
        authenticated: it carried MESSAGE-INTEGRITY under the session's key; False is taken for plain requests only.
    """

    transaction: bytes
    mapped: Endpoint
    authenticated: bool = True


@dataclass(frozen=True, slots=True)
class StunError:
    """A Binding error response with its code (RFC 8489 s14.8)."""

    transaction: bytes
    code: int


StunMessage = StunRequest | StunResponse | StunError
