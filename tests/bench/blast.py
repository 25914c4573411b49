"""Program: packets at the speed of C from one socket, for measuring relays. `python -m tests.bench.blast MODE ...`

`send`: equal datagrams from one prepared buffer at a rate, 16 per system call with UDP_SEGMENT (0.5 us of this process
each); prints {"sent", "refused", "seconds"}. `rtt`: one datagram at a time to an echo; prints {"rtt_us": [...]}.
`echo`: the echo; runs until it is killed. With `--turn`, what is sent goes as ChannelData through a TURN server
(RFC 8656) that this program has made an allocation at, to `--peer`; what arrives is the same.

The first byte of each datagram is 0x40, like that of a QUIC packet. (iperf3's is 0: a clock's high byte.)
"""

import argparse
import hashlib
import json
import socket
import struct
import sys
import time
from dataclasses import dataclass
from typing import Any

from aioice import stun

from ztna.io.udp import UDP_SEGMENT

_BATCH = 16
_CHANNEL = 0x4000
_REALM = "bench"
_CREDENTIALS = ("bench", "bench")

Address = tuple[str, int]


def address(text: str) -> Address:
    """`host:port`."""
    host, _, port = text.rpartition(":")
    return host, int(port)


@dataclass(slots=True)
class Line:
    """A connected socket, and what stands before each payload on it."""

    sock: socket.socket
    header: bytes = b""

    def message(self, size: int) -> bytes:
        """A datagram that arrives at the peer with `size` bytes of payload."""
        payload = b"\x40" + bytes(size - 1)
        return (self.header + struct.pack("!H", size) if self.header else b"") + payload


def open_line(arguments: argparse.Namespace) -> Line:
    """The socket towards the relay; through a TURN server where one is named."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(arguments.bind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    sock.connect(arguments.target)
    if arguments.turn:
        allocate(sock, arguments.peer)
        return Line(sock, struct.pack("!H", _CHANNEL))
    return Line(sock)


def allocate(sock: socket.socket, peer: Address) -> None:
    """Make an allocation at the TURN server, and bind a channel to the peer."""
    sock.settimeout(2.0)
    challenge = transact(sock, request(stun.Method.ALLOCATE, {"REQUESTED-TRANSPORT": 0x11000000}), None)
    nonce = challenge.attributes["NONCE"]
    user, password = _CREDENTIALS
    key = hashlib.md5(f"{user}:{_REALM}:{password}".encode()).digest()  # the long-term credential of RFC 8489
    signed = {"USERNAME": user, "REALM": _REALM, "NONCE": nonce}
    for method, attributes in (
        (stun.Method.ALLOCATE, {"LIFETIME": 600, "REQUESTED-TRANSPORT": 0x11000000}),
        (stun.Method.CHANNEL_BIND, {"CHANNEL-NUMBER": _CHANNEL, "XOR-PEER-ADDRESS": peer}),
    ):
        answer = transact(sock, request(method, attributes | signed), key)
        if answer.message_class != stun.Class.RESPONSE:
            raise RuntimeError(f"the TURN server refused {method.name}: {answer.attributes.get('ERROR-CODE')}")
    sock.settimeout(None)


def request(method: stun.Method, attributes: dict[str, Any]) -> stun.Message:
    """A request with attributes."""
    message = stun.Message(method, stun.Class.REQUEST)
    message.attributes.update(attributes)
    return message


def transact(sock: socket.socket, message: stun.Message, key: bytes | None) -> stun.Message:
    """Send a request and read its answer."""
    if key is not None:
        message.add_message_integrity(key)
    sock.send(bytes(message))
    while True:
        answer = stun.parse_message(sock.recv(2000))
        if answer.transaction_id == message.transaction_id:
            return answer


def send(line: Line, size: int, rate: float, seconds: float) -> dict[str, Any]:
    """Send at a rate; what the kernel refuses is counted, not repeated."""
    message = line.message(size)
    batch = [message * _BATCH]
    control = [(socket.IPPROTO_UDP, UDP_SEGMENT, len(message).to_bytes(2, sys.byteorder))]
    interval = _BATCH / rate
    sendmsg, now = line.sock.sendmsg, time.perf_counter
    sent = refused = 0
    started = due = now()
    end = started + seconds
    while (at := now()) < end:
        if at < due:
            if due - at > 0.0003:
                time.sleep(due - at - 0.0002)
            continue
        due += interval
        try:
            sendmsg(batch, control)
            sent += _BATCH
        except OSError:
            refused += _BATCH
    return {"sent": sent, "refused": refused, "seconds": now() - started}


def round_trips(line: Line, size: int, count: int) -> dict[str, Any]:
    """One datagram at a time, each waited for."""
    message = line.message(size)
    line.sock.settimeout(1.0)
    seen: list[float] = []
    lost = 0
    for _ in range(count):
        before = time.perf_counter()
        line.sock.send(message)
        try:
            line.sock.recv(2000)
        except TimeoutError:
            lost += 1
            continue
        seen.append(round((time.perf_counter() - before) * 1e6, 1))
    return {"rtt_us": seen, "lost": lost}


def echo(bind: Address) -> None:
    """Send everything back where it came from."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(bind)
    say({"bound": True})
    while True:
        data, source = sock.recvfrom(2000)
        sock.sendto(data, source)


def say(value: dict[str, Any]) -> None:
    """One JSON line on standard output, at once."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.blast", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("mode", choices=("send", "rtt", "echo"))
    parser.add_argument("--bind", type=address, required=True)
    parser.add_argument("--target", type=address)
    parser.add_argument("--turn", action="store_true", help="the target is a TURN server")
    parser.add_argument("--peer", type=address, help="where the TURN server sends to")
    parser.add_argument("--size", type=int, default=1200)
    parser.add_argument("--rate", type=float, default=40_000.0)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--count", type=int, default=1000)
    arguments = parser.parse_args()
    if arguments.mode == "echo":
        echo(arguments.bind)
        return
    line = open_line(arguments)
    if arguments.mode == "send":
        say(send(line, arguments.size, arguments.rate, arguments.seconds))
    else:
        say(round_trips(line, arguments.size, arguments.count))


if __name__ == "__main__":
    main()
