"""Looks into a few packets of a peer, drawn at random, for floods of frames that the native core would hold.

qh3 keeps every connection ID it was ever told and one tree node per byte of CRYPTO data with gaps, and answers each
PATH_CHALLENGE. Honest peers send such frames a handful of times in a connection; so what a sample shows is enough to
tell a flood before it has cost more than a few MiB.
"""

import random
from typing import Final

from aioquic._crypto import CryptoError
from aioquic.quic.crypto import CryptoContext, apply_key_phase, next_key_phase
from aioquic.tls import CipherSuite

from ztna.io.session.core_qh3_tls import VERSION

MEAN_STRIDE: Final = 64
BUDGET: Final = 32.0
REFILL: Final = 1 / 16
SHORT_HEADER_BITS: Final = 0xC0
TINY_STREAM_BYTES: Final = 16
TINY_STREAMS: Final = 8

_VARINTS: Final = {
    0x04: 3, 0x05: 2, 0x10: 1, 0x11: 2, 0x12: 1, 0x13: 1, 0x14: 1, 0x15: 2, 0x16: 1, 0x17: 1, 0x19: 1,
}  # fmt: skip
"""Frames that are so many variable-length integers (RFC 9000 s19)."""

_EMPTY: Final = frozenset({0x00, 0x01, 0x1E})
_CONTROL: Final = frozenset({0x06, 0x07, 0x18, 0x19, 0x1A})
_MASK: Final = (0x3F, 0x3FFF, 0x3FFF_FFFF, 0x3FFF_FFFF_FFFF_FFFF)


class FrameAudit:
    """One peer's account of control frames.

    Args:
        suite: number of the TLS cipher suite.
        secret: the peer's 1-RTT traffic secret.
        cid_bytes: length of our connection IDs.
    """

    def __init__(self, suite: int, secret: bytes, cid_bytes: int) -> None:
        self._crypto = CryptoContext()
        self._crypto.setup(cipher_suite=CipherSuite(suite), secret=secret, version=VERSION)
        self._header_end = 1 + cid_bytes
        self._expected = 0
        self._budget = BUDGET
        self._until = random.randrange(1, 2 * MEAN_STRIDE)  # noqa: S311 - unknown to the peer is enough

    def due(self, count: int) -> int | None:
        """Count packets in; the index of the one to look at, if one of these is drawn."""
        self._until -= count
        if self._until > 0:
            return None
        self._until = random.randrange(1, 2 * MEAN_STRIDE)  # noqa: S311
        return random.randrange(count)  # noqa: S311

    def overdrawn(self, packet: bytes) -> bool:
        """Look at one packet; whether the peer has sent more control frames than any honest one."""
        if len(packet) < self._header_end + 20 or packet[0] & SHORT_HEADER_BITS != 0x40:
            return False
        crypto = self._crypto
        try:
            _, payload, number, updated = crypto.decrypt_packet(packet, self._header_end, self._expected)
        except CryptoError:
            return False
        if updated:
            apply_key_phase(crypto, next_key_phase(crypto), trigger="remote_update")
        self._expected = max(self._expected, number + 1)
        self._budget = min(BUDGET, self._budget + REFILL) - cost_of(payload)
        return self._budget < 0


def cost_of(payload: bytes) -> int:
    """Control frames in a packet's payload, and STREAM frames so small that only an attack has a use for them."""
    at, end, cost, tiny = 0, len(payload), 0, 0
    try:
        while at < end:
            kind = payload[at]
            cost += kind in _CONTROL
            at, length = _frame_end(payload, at + 1, kind, end)
            tiny += 0x08 <= kind < 0x10 and length < TINY_STREAM_BYTES
    except IndexError:
        pass  # cut short: the native core closes the connection for it
    return cost + max(0, tiny - TINY_STREAMS)


def _frame_end(payload: bytes, at: int, kind: int, end: int) -> tuple[int, int]:
    """Where the frame of this type ends, and how much data it has; raises IndexError if that is unknown or too far."""
    length = 0
    if kind in _EMPTY:
        pass
    elif kind in _VARINTS:
        for _ in range(_VARINTS[kind]):
            at, _value = _varint(payload, at)
    elif 0x08 <= kind < 0x10:
        at, _value = _varint(payload, at)
        if kind & 0x04:
            at, _value = _varint(payload, at)
        at, length = _varint(payload, at) if kind & 0x02 else (at, end - at)
    elif kind in (0x02, 0x03):
        for _ in range(2):
            at, _value = _varint(payload, at)
        at, ranges = _varint(payload, at)
        for _ in range(min(1 + 2 * ranges + (3 if kind == 0x03 else 0), end)):
            at, _value = _varint(payload, at)
    elif kind == 0x06:
        at, _value = _varint(payload, at)
        at, length = _varint(payload, at)
    elif kind in (0x07, 0x31):
        at, length = _varint(payload, at)
    elif kind == 0x18:
        for _ in range(2):
            at, _value = _varint(payload, at)
        length = 1 + payload[at] + 16
    elif kind in (0x1A, 0x1B):
        length = 8
    else:
        length = end - at
    at += length
    if at > end:
        raise IndexError(at)
    return at, length


def _varint(payload: bytes, at: int) -> tuple[int, int]:
    size = payload[at] >> 6
    stop = at + (1 << size)
    return stop, int.from_bytes(payload[at:stop], "big") & _MASK[size]
