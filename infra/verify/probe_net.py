"""ICMP echo, the roles' HTTP pages, and the kernel's UDP counters of the place."""

import argparse
import json
import os
import socket
import struct
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

Json = dict[str, Any]

_ECHO_REQUEST, _ECHO_REPLY, _UNREACHABLE = 8, 0, 3


def checksum(data: bytes) -> int:
    """The Internet checksum. Source: RFC 1071."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def echo_request(identifier: int, sequence: int, size: int) -> bytes:
    """An ICMP echo request with `size` bytes of data. Source: RFC 792."""
    data = bytes(index & 0xFF for index in range(size))
    header = struct.pack("!BBHHH", _ECHO_REQUEST, 0, 0, identifier, sequence)
    return struct.pack("!BBHHH", _ECHO_REQUEST, 0, checksum(header + data), identifier, sequence) + data


def run_ping(arguments: argparse.Namespace) -> Json:
    """COUNT echo requests; `rtt_us` of the answers, `altered` those with other data, `unreachable` ICMP errors."""
    identifier = os.getpid() & 0xFFFF
    samples: list[float] = []
    tally = {"altered": 0, "unreachable": 0}
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        for sequence in range(arguments.count):
            request = echo_request(identifier, sequence, arguments.size)
            started = time.perf_counter()
            sock.sendto(request, (arguments.address, 0))
            if _await_reply(sock, arguments.address, request, started + arguments.timeout_s, tally):
                samples.append(round((time.perf_counter() - started) * 1e6, 1))
            time.sleep(arguments.interval_ms / 1000)
    return {"sent": arguments.count, "received": len(samples), "rtt_us": samples, **tally}


def _await_reply(sock: socket.socket, address: str, request: bytes, deadline: float, tally: Json) -> bool:
    """True at the matching reply from `address`; False at an unreachable for this request or at the deadline."""
    while (remaining := deadline - time.perf_counter()) > 0:
        sock.settimeout(remaining)
        try:
            packet, (source, _) = sock.recvfrom(65535)
        except TimeoutError:
            return False
        message = packet[(packet[0] & 15) * 4 :]
        if message[0] == _UNREACHABLE and request[4:8] in message[28:]:
            tally["unreachable"] += 1
            return False
        if source == address and message[0] == _ECHO_REPLY and message[4:8] == request[4:8]:
            tally["altered"] += message[8:] != request[8:]
            return True
    return False


def run_get_json(arguments: argparse.Namespace) -> Json:
    """GET a role's page; `json` parsed, else `text` (at most 200 kB). A refused connection is status 0."""
    try:
        with urllib.request.urlopen(arguments.url, timeout=arguments.timeout_s) as response:  # noqa: S310
            status, data = response.status, response.read(1_000_000)
    except urllib.error.HTTPError as error:
        status, data = error.code, error.read(1_000_000)
    except (OSError, urllib.error.URLError) as error:
        return {"status": 0, "json": None, "text": "", "failure": str(error)}
    try:
        return {"status": status, "json": json.loads(data), "text": ""}
    except ValueError:
        return {"status": status, "json": None, "text": data[:200_000].decode(errors="replace")}


def run_udp_counters(arguments: argparse.Namespace) -> Json:
    """The Udp line of /proc/net/snmp: what the kernel of this network namespace delivered and dropped."""
    return parse_udp_counters(Path("/proc/self/net/snmp").read_text())


def parse_udp_counters(text: str) -> Json:
    """{"InDatagrams": ..., "RcvbufErrors": ...} of the text of /proc/net/snmp; {} without a Udp line."""
    lines = [line.split()[1:] for line in text.splitlines() if line.startswith("Udp:")]
    return dict(zip(lines[0], map(int, lines[1]), strict=True)) if len(lines) == 2 else {}
