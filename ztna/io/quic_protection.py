"""Protection of short-header packets (RFC 9001 s5.3, s5.4) in fewer steps than aioquic's, which takes any packet.

A batch shares the key phase and one call of the block cipher for its header masks; a header is put together from its
parts, where aioquic copies the packet twice to change three bytes of it. The keys are aioquic's own (checked against
1.7.2).
"""

from collections.abc import Sequence
from typing import Final

from aioquic._crypto import HeaderProtection
from aioquic.quic.crypto import CryptoPair

__all__ = ["PACKET_NUMBER_BYTES", "SAMPLE_BYTES", "TAG_BYTES", "seal", "unmask"]

PACKET_NUMBER_BYTES: Final = 2
"""Packet numbers of what is sealed here."""

TAG_BYTES: Final = 16
SAMPLE_BYTES: Final = 16
SAMPLE_AFTER: Final = 4
"""The sample begins this far behind the start of the packet number, however long that is (RFC 9001 s5.4.2)."""

NONCE_BYTES: Final = 12
_SAMPLE: Final = slice(SAMPLE_AFTER - PACKET_NUMBER_BYTES, SAMPLE_AFTER - PACKET_NUMBER_BYTES + SAMPLE_BYTES)


def seal(crypto: CryptoPair, cid: bytes, spin_bit: bool, number: int, payloads: Sequence[bytes]) -> list[bytes]:
    """Return 1-RTT packets with consecutive numbers.

    Args:
        crypto: 1-RTT keys; a key update that was asked for begins here.
        cid: the peer's connection ID.
        spin_bit: value of the latency spin bit.
        number: of the first packet.
        payloads: frames of each packet, 4 bytes or more.
    """
    if crypto._update_key_requested:
        crypto._update_key("local_update")
    aead, protection = crypto.send.aead, crypto.send.hp
    assert aead is not None
    assert protection is not None
    first = 0x40 | spin_bit << 5 | crypto.key_phase << 2 | PACKET_NUMBER_BYTES - 1
    head, encrypt, iv = bytes((first,)) + cid, aead._aead.encrypt, aead._iv
    sealed = [
        encrypt((iv ^ at).to_bytes(NONCE_BYTES, "big"), payload, head + (at & 0xFFFF).to_bytes(2, "big"))
        for at, payload in enumerate(payloads, number)
    ]
    masks = _masks(protection, [data[_SAMPLE] for data in sealed])
    return [
        b"%c%b%b%b" % (first ^ mask[0] & 0x1F, cid, (at & 0xFFFF ^ mask[1] << 8 ^ mask[2]).to_bytes(2, "big"), data)
        for at, (mask, data) in enumerate(zip(masks, sealed, strict=True), number)
    ]


def _masks(protection: HeaderProtection, samples: Sequence[bytes]) -> list[bytes]:
    if protection._is_chacha20:
        return [protection._mask(sample) for sample in samples]
    # ECB: each block by itself, whatever comes before it.
    blocks = protection._encryptor.update(b"".join(samples))
    return [blocks[at : at + SAMPLE_BYTES] for at in range(0, len(blocks), SAMPLE_BYTES)]


def unmask(protection: HeaderProtection, packet: bytes, end: int) -> tuple[bytes, int, int]:
    """Take the protection off a short header.

    Args:
        packet: with SAMPLE_AFTER + SAMPLE_BYTES or more behind `end`.
        end: where the packet number begins.

    Returns:
        The header with its packet number, that number as it was sent, and its length in bytes.
    """
    at = end + SAMPLE_AFTER
    mask = protection._mask(packet[at : at + SAMPLE_BYTES])
    first = packet[0] ^ mask[0] & 0x1F
    size = (first & 3) + 1
    number = int.from_bytes(packet[end : end + size], "big") ^ int.from_bytes(mask[1 : 1 + size], "big")
    return b"%c%b%b" % (first, packet[1:end], number.to_bytes(size, "big")), number, size
