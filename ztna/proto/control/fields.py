"""Parts of control messages: types of fields as bounds that msgspec checks when decoding, and what is nested."""

from ipaddress import ip_address
from math import isfinite
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

NONCE_BYTES: Final = 32
SESSION_BYTES: Final = 16
KEY_BYTES: Final = 32
MAX_CANDIDATES: Final = 64
MAX_SERVICES: Final = 256
MAX_NUMBER: Final = 0xFFFFFFFF
SILENCE: Final = "silence"
"""The capability of a server that takes reports of silence."""

Nonce = Annotated[bytes, Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]
SessionId = Annotated[bytes, Meta(min_length=SESSION_BYTES, max_length=SESSION_BYTES)]
SessionKey = Annotated[bytes, Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]
Certificate = Annotated[bytes, Meta(min_length=1, max_length=16384)]
Signature = Annotated[bytes, Meta(min_length=1, max_length=1024)]
Text = Annotated[str, Meta(max_length=256)]
Name = Annotated[str, Meta(max_length=64)]
Service = Annotated[str, Meta(max_length=255)]
Services = Annotated[tuple[Service, ...], Meta(max_length=MAX_SERVICES)]
Capabilities = Annotated[tuple[Name, ...], Meta(max_length=32)]
Port = Annotated[int, Meta(ge=0, le=65535)]
Number = Annotated[int, Meta(ge=0, le=MAX_NUMBER)]
Epoch = Annotated[int, Meta(ge=0, le=0x7FFFFFFFFFFFFFFF)]
Seconds = Annotated[float, Meta(ge=0, le=86400)]
Milliseconds = Annotated[float, Meta(ge=0, le=86_400_000)]
Share = Annotated[float, Meta(ge=0, le=1)]
Place = tuple[Name, Port]
"""Host and port; see the module for the empty host."""
Role = Literal["agent", "connector"]
PathName = Literal["direct", "relay", "none"]


def check_address(host: str, *, empty: bool) -> None:
    """Raise ValueError unless `host` is an IP address without a zone, or empty where that is allowed."""
    if host or not empty:
        if "%" in host:
            raise ValueError(f"{host!r} has a zone, which means nothing to another host")
        ip_address(host)


def check_finite(*numbers: float | None) -> None:
    if not all(number is None or isfinite(number) for number in numbers):
        raise ValueError("a number is not finite")


class Refusal(Struct, frozen=True):
    """One refused service of `Registered`.

    Codes: `denied` (certificate or policy), `standby` (another authorised connection serves it; this one takes over
    by itself when that leaves), `limit`, `malformed`.
    """

    service: Service
    code: Name
    text: Text = ""


class Candidate(Struct, frozen=True):
    """One candidate of `Candidates` (RFC 8445 s5.1): `related` is the base of a reflexive or relayed one."""

    type: Literal["host", "srflx", "prflx", "relay"]
    host: Name
    port: Annotated[int, Meta(ge=1, le=65535)]
    priority: Number
    foundation: Name = ""
    related: Place | None = None

    def __post_init__(self) -> None:
        check_address(self.host, empty=False)
        if self.related is not None:
            check_address(self.related[0], empty=False)
