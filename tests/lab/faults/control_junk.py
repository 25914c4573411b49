"""Junk as control messages, over real connections: `python -m tests.lab.faults.control_junk RELAY CA.pem` prints JSON.

A plain aioquic client of the stack's CA, so that nothing of ours shapes what is sent.
"""

import asyncio
import json
import os
import random
import struct
import sys
from pathlib import Path
from typing import Any

import msgspec
from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, QuicEvent

PORT = 4433
WAIT_S = 8.0
ENCODE = msgspec.msgpack.encode


def frame(body: bytes) -> bytes:
    """A length and a body."""
    return struct.pack("!I", len(body)) + body


def hello(**changes: Any) -> dict[str, Any]:
    """A hello with nothing proven."""
    values = {
        "type": "hello",
        "protocol": 2,
        "chain": [os.urandom(300)],
        "signature": os.urandom(70),
        "capabilities": [],
    }
    return {**values, "software": "junk", **changes}


def nested(depth: int) -> bytes:
    """Arrays in arrays, as msgpack."""
    return b"\x91" * depth + b"\xc0"


ATTEMPTS: dict[str, bytes] = {
    "16 MiB length": struct.pack("!I", 16 << 20) + bytes(1000),
    "4 GiB length": b"\xff" * 4 + bytes(1000),
    "zero length": struct.pack("!I", 0) * 50,
    "noise": os.urandom(5000),
    "noise in a frame": frame(os.urandom(400)),
    "deep nesting": frame(nested(20_000)),
    "unknown type": frame(ENCODE({"type": "no-such-message", "x": 1})),
    "no type": frame(ENCODE({"protocol": 2})),
    "not a map": frame(ENCODE([1, 2, 3])),
    "registered before hello": frame(ENCODE({"type": "register", "role": "agent", "services": ["x"], "epoch": 1})),
    "unproven hello": frame(ENCODE(hello())),
    "hello without chain": frame(ENCODE(hello(chain=[]))),
    "hello with a long chain": frame(ENCODE(hello(chain=[os.urandom(800) for _ in range(60)]))),
    "wrong types": frame(ENCODE(hello(chain="text", signature=5, protocol="two"))),
    "huge protocol": frame(ENCODE(hello(protocol=1 << 62))),
    "a byte at a time": frame(ENCODE(hello()))[:3],
}


class Client(QuicConnectionProtocol):
    """Remembers how the connection ended."""

    ended: ConnectionTerminated | None = None

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ConnectionTerminated):
            self.ended = event
        super().quic_event_received(event)


async def attempt(host: str, ca: bytes, data: bytes) -> str:
    """Send to stream 0 and say how it ends."""
    settings = QuicConfiguration(alpn_protocols=["ztna-v2"], is_client=True, server_name="ztna-server")
    settings.load_verify_locations(cadata=ca)
    try:
        async with connect(host, PORT, configuration=settings, create_protocol=Client) as protocol:
            assert isinstance(protocol, Client)
            _, writer = await protocol.create_stream()
            writer.write(data)
            for _ in range(int(WAIT_S * 20)):
                if protocol.ended is not None:
                    return f"{protocol.ended.error_code}: {protocol.ended.reason_phrase}"
                await asyncio.sleep(0.05)
            return "left open"
    except (ConnectionError, OSError) as error:
        return f"{type(error).__name__}"


async def run(host: str, ca: bytes) -> dict[str, Any]:
    """Every attempt, and mutations of a whole hello."""
    found = {name: await attempt(host, ca, data) for name, data in ATTEMPTS.items()}
    chance = random.Random(1)
    whole = frame(ENCODE(hello()))
    mutated = []
    for _ in range(10):
        data = bytearray(whole)
        for _ in range(chance.randrange(1, 8)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        mutated.append(await attempt(host, ca, bytes(data)))
    return {"connections": len(found) + len(mutated), "ended": found, "mutated": mutated}


def main() -> None:
    """Run the command line."""
    print(json.dumps(asyncio.run(run(sys.argv[1], Path(sys.argv[2]).read_bytes()))))


if __name__ == "__main__":
    main()
