"""Short-header protection against aioquic's own, which takes any packet."""

import pytest
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicProtocolVersion
from aioquic.tls import CipherSuite

from ztna.io.quic_protection import TAG_BYTES, seal, unmask

CID = bytes(range(20))
SUITES = [CipherSuite.AES_128_GCM_SHA256, CipherSuite.AES_256_GCM_SHA384, CipherSuite.CHACHA20_POLY1305_SHA256]
PAYLOADS = [bytes([number]) * size for number, size in enumerate((1200, 4, 3, 700, 1200))]


@pytest.fixture(params=SUITES, ids=lambda suite: suite.name)
def keys(request: pytest.FixtureRequest) -> tuple[CryptoPair, CryptoPair]:
    """Keys of a sender and of a receiver."""
    pairs = CryptoPair(), CryptoPair()
    digest = 48 if request.param is CipherSuite.AES_256_GCM_SHA384 else 32
    for pair in pairs:
        for context, fill in ((pair.send, 1 if pair is pairs[0] else 2), (pair.recv, 2 if pair is pairs[0] else 1)):
            context.setup(
                cipher_suite=request.param, secret=bytes([fill]) * digest, version=QuicProtocolVersion.VERSION_1
            )
    return pairs


@pytest.mark.parametrize("first", [0, 65_534, 1 << 40])
@pytest.mark.parametrize("spin", [False, True])
def test_aioquic_opens_what_is_sealed_here(keys: tuple[CryptoPair, CryptoPair], first: int, spin: bool) -> None:
    sender, receiver = keys
    packets = seal(sender, CID, spin, first, PAYLOADS)
    assert [len(packet) for packet in packets] == [1 + len(CID) + 2 + len(each) + TAG_BYTES for each in PAYLOADS]
    for at, (packet, payload) in enumerate(zip(packets, PAYLOADS, strict=True), first):
        header, opened, number = receiver.decrypt_packet(packet, 1 + len(CID), at)
        assert (opened, number) == (payload, at)
        assert header[0] == 0x41 | spin << 5
        assert header[1:21] == CID


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_headers_of_aioquic_are_read(keys: tuple[CryptoPair, CryptoPair], size: int) -> None:
    sender, receiver = keys
    number = 0x1234_5678 & (1 << 8 * size) - 1
    head = bytes((0x40 | size - 1,)) + CID + number.to_bytes(size, "big")
    packet = sender.encrypt_packet(head, b"some payload", number)
    assert receiver.recv.hp is not None
    assert unmask(receiver.recv.hp, packet, 1 + len(CID)) == (head, number, size)


def test_a_key_update_that_was_asked_for_begins(keys: tuple[CryptoPair, CryptoPair]) -> None:
    sender, receiver = keys
    sender.update_key()
    (packet,) = seal(sender, CID, False, 7, [b"after the update"])
    header, opened, _ = receiver.decrypt_packet(packet, 1 + len(CID), 7)
    assert header[0] & 4
    assert opened == b"after the update"
    assert receiver.key_phase == sender.key_phase == 1
