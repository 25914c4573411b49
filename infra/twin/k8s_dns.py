"""The DNS of the cluster, in a pod of its own: names of Services, and nothing of the world outside.

    python -I -S k8s_dns.py ADDRESS PORT RECORDS.json DOMAIN

RECORDS.json maps names to IPv4 addresses and is read again when it changes. A name of the cluster's domain that is not
there does not exist; any other is refused, as nothing is asked upstream. Standard library alone.

Source: RFC 1035 section 4; kubernetes.io/docs/concepts/services-networking/dns-pod-service.
"""

import ipaddress
import json
import os
import socketserver
import struct
import sys
import threading
from typing import Any

TTL_S = 5
_HEADER = struct.Struct("!HHHHHH")
A, ANY, IN = 1, 255, 1
NO_ERROR, FORMAT_ERROR, NO_NAME, REFUSED = 0, 1, 3, 5
LARGEST_UDP_BYTES = 512
TCP_IDLE_S = 10.0
_RESPONSE, _AUTHORITATIVE, _RECURSION = 0x8000, 0x0400, 0x0100


class Records:
    """Names and addresses of a file."""

    def __init__(self, path: str, domain: str) -> None:
        self._path, self.domain = path, domain
        self._lock = threading.Lock()
        self._stamp = 0
        self._names: dict[str, list[str]] = {}

    def find(self, name: str) -> list[str] | None:
        """Addresses of a name, None where it does not exist."""
        with self._lock:
            try:
                stamp = os.stat(self._path).st_mtime_ns
                if stamp != self._stamp:
                    with open(self._path) as file:
                        self._names, self._stamp = json.load(file), stamp
            except (OSError, ValueError):
                pass  # what was known stays known
            return self._names.get(name)


def question(packet: bytes) -> tuple[str, int, int, int]:
    """Return (name, type, class, where it ends) of a query's one question. Raises ValueError."""
    at, labels = _HEADER.size, []
    while True:
        if at >= len(packet):
            raise ValueError("it ends within a name")
        length = packet[at]
        at += 1
        if length == 0:
            break
        if length > 63 or at + length > len(packet):
            raise ValueError("a label is too long")
        labels.append(packet[at : at + length].decode("ascii", "replace").lower())
        at += length
    if at + 4 > len(packet):
        raise ValueError("it ends before the type")
    kind, family = struct.unpack_from("!HH", packet, at)
    return ".".join(labels), kind, family, at + 4


def answer(packet: bytes, records: Any) -> bytes:
    """Return the answer to a query; nothing for what is none."""
    if len(packet) < _HEADER.size:
        return b""
    number, flags, questions, *_ = _HEADER.unpack_from(packet)
    if flags & _RESPONSE:
        return b""
    head = _RESPONSE | (flags & _RECURSION)
    try:
        if questions != 1:
            raise ValueError("it asks for several names")
        name, kind, family, end = question(packet)
    except ValueError:
        return _HEADER.pack(number, head | FORMAT_ERROR, 0, 0, 0, 0)
    asked = packet[_HEADER.size : end]
    if family != IN or not (name == records.domain or name.endswith(f".{records.domain}")):
        return _HEADER.pack(number, head | REFUSED, 1, 0, 0, 0) + asked
    found = records.find(name)
    if found is None:
        return _HEADER.pack(number, head | _AUTHORITATIVE | NO_NAME, 1, 0, 0, 0) + asked
    addresses = found if kind in (A, ANY) else []
    body = b"".join(
        struct.pack("!HHHIH", 0xC00C, A, IN, TTL_S, 4) + ipaddress.IPv4Address(address).packed for address in addresses
    )
    return _HEADER.pack(number, head | _AUTHORITATIVE | NO_ERROR, 1, len(addresses), 0, 0) + asked + body


class _UdpServer(socketserver.UDPServer):
    records: Records


class _TcpServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    records: Records


class _Udp(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        packet, sock = self.request
        assert isinstance(self.server, _UdpServer)
        said = answer(packet, self.server.records)
        if said:
            sock.sendto(said[:LARGEST_UDP_BYTES], self.client_address)


class _Tcp(socketserver.StreamRequestHandler):
    timeout = TCP_IDLE_S

    def handle(self) -> None:
        assert isinstance(self.server, _TcpServer)
        while length := self.rfile.read(2):
            said = answer(self.rfile.read(int.from_bytes(length, "big")), self.server.records)
            self.wfile.write(len(said).to_bytes(2, "big") + said)


def serve(address: str, port: int, records: Records) -> None:
    """Answer for ever, over UDP and TCP."""
    udp, tcp = _UdpServer((address, port), _Udp), _TcpServer((address, port), _Tcp)
    udp.records = tcp.records = records
    threading.Thread(target=tcp.serve_forever, daemon=True).start()
    udp.serve_forever()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), Records(sys.argv[3], sys.argv[4]))
