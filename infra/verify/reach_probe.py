"""What answers on ports of a host, seen from where this runs. By itself, standard library alone.

    python -I reach_probe.py < '[["tcp", "192.0.2.1", 22], ["quic", "192.0.2.1", 4433], ["stun", ...]]'

Prints one JSON list: for tcp `open`, `refused` or `filtered`; for quic (and large, with larger packets) `open` or
`filtered`, by a version that no server speaks (RFC 9000 section 6);
for stun the address that the server saw us come from (RFC 8489), or `filtered`.
"""

import json
import os
import socket
import struct
import sys
from concurrent.futures import ThreadPoolExecutor

TIMEOUT_S = 1.5
TRIES = 3
QUIC_LEAST_BYTES = 1200
LARGE_BYTES = 1372
RESERVED_VERSION = 0x1A2A3A4A
"""Of the pattern that is kept for forcing version negotiation (RFC 9000 section 15)."""
COOKIE = 0x2112A442
XOR_MAPPED_ADDRESS = 0x0020


def tcp(host: str, port: int) -> str:
    """Open a connection and close it."""
    try:
        socket.create_connection((host, port), timeout=TIMEOUT_S * 2).close()
    except ConnectionRefusedError:
        return "refused"
    except OSError:
        return "filtered"
    return "open"


def large(host: str, port: int) -> str:
    """The same with a packet that makes 1400 bytes with its headers: what a path of usual MTU carries."""
    return quic(host, port, LARGE_BYTES)


def quic(host: str, port: int, size: int = QUIC_LEAST_BYTES) -> str:
    """Ask for a version that is none; a QUIC server answers with those that it has."""
    head = struct.pack("!BI", 0xC0, RESERVED_VERSION) + bytes([8]) + os.urandom(8) + bytes([8]) + os.urandom(8)
    answer = exchange(host, port, head.ljust(size, b"\0"))
    return "open" if answer[1:5] == b"\0\0\0\0" else "filtered"


def stun(host: str, port: int) -> str:
    """Ask for our address as the server sees it."""
    answer = exchange(host, port, struct.pack("!HHI", 0x0001, 0, COOKIE) + os.urandom(12))
    at = 20
    while at + 4 <= len(answer):
        kind, length = struct.unpack_from("!HH", answer, at)
        if kind == XOR_MAPPED_ADDRESS and length >= 8:
            mapped, address = struct.unpack_from("!HI", answer, at + 6)
            return f"{socket.inet_ntoa(struct.pack('!I', address ^ COOKIE))}:{mapped ^ (COOKIE >> 16)}"
        at += 4 + length + -length % 4
    return "filtered"


def exchange(host: str, port: int, packet: bytes) -> bytes:
    """Send a datagram, again if need be, and return the first answer; nothing if none came."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(TIMEOUT_S)
        for _ in range(TRIES):
            try:
                sock.sendto(packet, (host, port))
                while True:
                    answer, source = sock.recvfrom(2048)
                    if source == (host, port):
                        return answer
            except OSError:
                continue
    return b""


def main() -> None:
    """Ask everything at once."""
    kinds = {"tcp": tcp, "quic": quic, "large": large, "stun": stun}
    asked = json.load(sys.stdin)
    with ThreadPoolExecutor(max(len(asked), 1)) as pool:
        print(json.dumps(list(pool.map(lambda target: kinds[target[0]](target[1], int(target[2])), asked))))


if __name__ == "__main__":
    main()
