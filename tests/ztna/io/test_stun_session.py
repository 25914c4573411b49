"""STUN of sessions at the intermediate: authentic requests are answered with integrity, all others with silence."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aioice import stun

from tests.ztna.io.test_stun import PRIMARY, ask
from ztna.io.stun import StunResponder, session_member
from ztna.io.udp import Address, Datagram, UdpSocket

SESSION, KEY = b"s" * 16, b"k" * 32


class Server:
    """A responder that knows one session."""

    def __init__(self) -> None:
        self.proven: list[tuple[bytes, str, int, Address]] = []
        self.now = 0.0
        self.udp = UdpSocket(PRIMARY, 0)
        self.responder = StunResponder(
            self.udp,
            alternate_port=0,
            clock=lambda: self.now,
            rate_per_s=1,
            burst=3,
            session_binding=lambda session, role: KEY if (session, role) == (SESSION, "agent") else None,
            session_proven=lambda *what: self.proven.append(what),
        )
        loop = asyncio.get_running_loop()
        self.udp.start(loop, self._batch)
        self.responder.start(loop)

    def _batch(self, batch: list[Datagram]) -> None:
        for data, source in batch:
            assert self.responder.handle(data, source)


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    server = Server()
    try:
        yield server
    finally:
        server.responder.close()
        server.udp.close()


def request(
    username: str | None = f"{SESSION.hex()}:agent", key: bytes | None = KEY, counter: int = 1, **more: Any
) -> bytes:
    message = stun.Message(stun.Method.BINDING, stun.Class.REQUEST, counter.to_bytes(6, "big") + b"random")
    if username is not None:
        message.attributes["USERNAME"] = username
    message.attributes |= {"PRIORITY": 1, "ICE-CONTROLLING": 5, **more}
    if key is not None:
        message.add_message_integrity(key)
    return bytes(message)


async def test_an_authentic_request_is_answered_with_integrity_and_proves_its_source() -> None:
    async with serving() as server:
        answered = await ask(request(counter=0x010203040506), server.udp.local_address)
        assert answered is not None
        answer = stun.parse_message(answered[0])
        assert answer.message_class == stun.Class.RESPONSE
        assert answer.check_message_integrity(KEY)
        ((session, role, counter, source),) = server.proven
        assert (session, role, counter) == (SESSION, "agent", 0x010203040506)
        assert answer.attributes["XOR-MAPPED-ADDRESS"] == source
        assert list(answer.attributes) == ["XOR-MAPPED-ADDRESS", "MESSAGE-INTEGRITY", "FINGERPRINT"]
        assert len(answered[0]) < len(request())
        assert server.responder.counters.session_answered == 1


@pytest.mark.parametrize(
    ("data", "counter"),
    [
        (request(f"{b'x'.hex() * 16}:agent"), "dropped_session_unknown"),
        (request(f"{SESSION.hex()}:connector"), "dropped_session_unknown"),
        (request(key=b"x" * 32), "dropped_session_integrity"),
        (request(key=None), "dropped_session_integrity"),
    ],
    ids=["unknown session", "other role", "wrong key", "no integrity"],
)
async def test_everything_else_in_the_name_of_a_session_is_met_with_silence(data: bytes, counter: str) -> None:
    async with serving() as server:
        assert await ask(data, server.udp.local_address, wait_s=0.1) is None
        assert getattr(server.responder.counters, counter) == 1
        assert server.proven == []


async def test_attributes_after_the_integrity_and_changed_ones_do_not_count() -> None:
    async with serving() as server:
        changed = bytearray(request())
        changed[8] ^= 1
        assert await ask(bytes(changed), server.udp.local_address, wait_s=0.1) is None
        assert server.proven == []


@pytest.mark.parametrize(
    "name", ["", "bob", f"{SESSION.hex()}:intermediate", f"{SESSION.hex()}agent", "zz" * 16 + ":agent"]
)
async def test_other_user_names_are_answered_as_ever(name: str) -> None:
    async with serving() as server:
        answered = await ask(request(name, None), server.udp.local_address)
        assert answered is not None
        assert "MESSAGE-INTEGRITY" not in stun.parse_message(answered[0]).attributes
        assert (server.proven, server.responder.counters.answered) == ([], 1)


async def test_only_the_port_that_relays_takes_proofs() -> None:
    async with serving() as server:
        answered = await ask(request(), server.responder.corners[0, 1])
        assert answered is not None
        assert stun.parse_message(answered[0]).check_message_integrity(KEY)
        assert server.proven == []


async def test_members_behind_one_address_do_not_share_the_bucket_of_plain_requests() -> None:
    async with serving() as server:
        for number in range(50):
            assert await ask(request(counter=number), server.udp.local_address) is not None
        assert [await ask(request(None, None), server.udp.local_address, wait_s=0.1) is None for _ in range(4)] == [
            False, False, False, True
        ]  # fmt: skip
        answered = [await ask(request(counter=number), server.udp.local_address, wait_s=0.1) for number in range(400)]
        assert answered[-1] is None
        assert server.responder.counters.dropped_rate >= 1


@pytest.mark.parametrize(
    "attributes",
    [b"", b"\x00\x06", b"\x00\x06\xff\xff", struct.pack("!HH", 6, 4) + b"\xff\xff\xff\xff", b"\x80\x22\x00\x00"],
)
def test_reading_a_user_name_never_fails(attributes: bytes) -> None:
    head = struct.pack("!HH", 1, len(attributes)) + b"\x21\x12\xa4\x42" + bytes(12)
    assert session_member(head + attributes) is None


def test_a_request_without_the_cookie_names_no_member() -> None:
    data = request()
    assert session_member(data) == (SESSION, "agent")
    assert session_member(data[:4] + b"\0\0\0\0" + data[8:]) is None
