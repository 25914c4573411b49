"""A stand-alone hole puncher: shows what each class of NAT allows, with nothing of the overlay in it.

`python punch.py stun ADDR:PORT...` answers STUN Binding requests; `python punch.py peer` obeys one JSON command per
line and answers with one JSON line each:

    {"do": "open", "name": S, "stun": [[host, port], ...]}   a socket; its address as each server sees it, or null
    {"do": "punch", "remotes": {S: [[host, port], ...]}, "seconds": s}   for each socket the remote that answered

Source: RFC 8489 sections 5 and 14.2 (Binding, XOR-MAPPED-ADDRESS), RFC 8445 section 7 (checks both ways, peer-reflexive
candidates). Standard library only.
"""

import json
import os
import secrets
import select
import socket
import struct
import sys
import time
from typing import Any

Endpoint = tuple[str, int]

_COOKIE = 0x2112A442
_HEADER = struct.Struct("!HHI12s")
_XOR_MAPPED = struct.Struct("!HHBBHI")
_BINDING, _SUCCESS = 0x0001, 0x0101
_XOR_MAPPED_ADDRESS = 0x0020
_PING, _PONG = b"PING", b"PONG"
_INTERVAL_S = 0.05
_STUN_TRIES, _STUN_WAIT_S = 4, 0.25


def binding_request() -> bytes:
    """A Binding request without attributes."""
    return _HEADER.pack(_BINDING, 0, _COOKIE, os.urandom(12))


def answer_to(request: bytes, source: Endpoint) -> bytes | None:
    """The Binding success response that tells a client its address; None for anything else."""
    if len(request) < _HEADER.size:
        return None
    kind, _, cookie, transaction = _HEADER.unpack_from(request)
    if (kind, cookie) != (_BINDING, _COOKIE):
        return None
    (address,) = struct.unpack("!I", socket.inet_aton(source[0]))
    port = source[1] ^ (_COOKIE >> 16)
    attribute = _XOR_MAPPED.pack(_XOR_MAPPED_ADDRESS, 8, 0, 1, port, address ^ _COOKIE)
    return _HEADER.pack(_SUCCESS, len(attribute), _COOKIE, transaction) + attribute


def mapped_address(answer: bytes, request: bytes) -> Endpoint | None:
    """The address that an answer tells; None if it does not answer this request."""
    if len(answer) < _HEADER.size + _XOR_MAPPED.size or answer[8:20] != request[8:20]:
        return None
    kind, _, _, _, port, address = _XOR_MAPPED.unpack_from(answer, _HEADER.size)
    if kind != _XOR_MAPPED_ADDRESS:
        return None
    return socket.inet_ntoa(struct.pack("!I", address ^ _COOKIE)), port ^ (_COOKIE >> 16)


def serve_stun(endpoints: list[Endpoint]) -> None:
    """Answer on all endpoints until the process ends."""
    sockets = []
    for endpoint in endpoints:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(endpoint)
        sockets.append(sock)
    print("ready", flush=True)
    while True:
        for sock in select.select(sockets, [], [])[0]:
            request, source = sock.recvfrom(2048)
            answer = answer_to(request, source)
            if answer is not None:
                sock.sendto(answer, source)


class Punched:
    """One socket towards one peer: where it may be, and which of these answered."""

    def __init__(self, sock: socket.socket, name: str, remotes: list[Endpoint]) -> None:
        self.sock, self.key, self.remotes = sock, name.encode(), list(remotes)
        self.answered: Endpoint | None = None
        self._nonces: set[bytes] = set()

    def send(self) -> None:
        """A ping to every address known; those after success keep the peer's filter open until it succeeds too."""
        for remote in self.remotes:
            nonce = secrets.token_bytes(8)
            self._nonces.add(nonce)
            self._send(_PING + nonce + self.key, remote)

    def receive(self) -> None:
        """Answer pings, learn where they came from, and take the first answer as the path."""
        while True:
            try:
                data, source = self.sock.recvfrom(2048)
            except BlockingIOError:
                return
            except OSError:  # an ICMP error of an earlier packet
                continue
            kind, nonce, key = data[:4], data[4:12], data[12:]
            if key != self.key:
                continue
            if kind == _PING:
                self._send(_PONG + nonce + key, source)
                if source not in self.remotes and len(self.remotes) < 32:
                    self.remotes.append(source)
            elif kind == _PONG and nonce in self._nonces and self.answered is None:
                self.answered = source

    def _send(self, data: bytes, remote: Endpoint) -> None:
        try:
            self.sock.sendto(data, remote)
        except OSError:  # no route from here to there, which is an answer too
            return


class Peer:
    """The sockets of one host."""

    def __init__(self) -> None:
        self._sockets: dict[str, socket.socket] = {}

    def open(self, name: str, stun: list[list[Any]]) -> dict[str, Any]:
        """Open a socket and ask each STUN server where it appears."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("0.0.0.0", 0))
        self._sockets[name] = sock
        mapped = [self._ask(sock, (str(host), int(port))) for host, port in stun]
        sock.setblocking(False)
        return {"port": sock.getsockname()[1], "mapped": mapped}

    @staticmethod
    def _ask(sock: socket.socket, server: Endpoint) -> Endpoint | None:
        request = binding_request()
        sock.settimeout(_STUN_WAIT_S)
        for _ in range(_STUN_TRIES):
            try:
                sock.sendto(request, server)
                found = mapped_address(sock.recv(2048), request)
            except OSError:
                continue
            if found is not None:
                return found
        return None

    def punch(self, remotes: dict[str, list[list[Any]]], seconds: float) -> dict[str, Endpoint | None]:
        """Try all peers at once."""
        tries = {
            self._sockets[name]: Punched(self._sockets[name], name, [(str(h), int(p)) for h, p in found])
            for name, found in remotes.items()
        }
        end, due = time.monotonic() + seconds, time.monotonic()
        while (now := time.monotonic()) < end:
            if now >= due:
                for punched in tries.values():
                    punched.send()
                due += _INTERVAL_S
            for sock in select.select(list(tries), [], [], max(0.0, due - time.monotonic()))[0]:
                tries[sock].receive()
        return {punched.key.decode(): punched.answered for punched in tries.values()}


def main(argv: list[str]) -> None:
    """Run the command line."""
    if argv[0] == "stun":
        serve_stun([(host, int(port)) for host, _, port in (text.rpartition(":") for text in argv[1:])])
    peer = Peer()
    for line in sys.stdin:
        command = json.loads(line)
        answer = peer.open(**command) if command.pop("do") == "open" else peer.punch(**command)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
