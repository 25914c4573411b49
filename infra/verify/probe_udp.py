"""UDP probes: echo, round-trip time, throughput, interruption. Packets are counted where they are received."""

import argparse
import hashlib
import itertools
import select
import socket
import struct
import time
from typing import Any

Json = dict[str, Any]

_HEADER = struct.Struct("!IIQ")  # stream, sequence number, send time in ns: 16 bytes
HEADER_BYTES = _HEADER.size
GAP_INTERVALS = 10
"""Silence of so many intervals is a gap; shorter ones are the hiccups of a busy machine."""

OUTAGE_S = 0.5
"""A gap that `--settle-s` takes for the awaited outage."""

_BUFFER_BYTES = 4 * 1024 * 1024
_MAX_PACKET_BYTES = 65535


def echo_payload(size: int, sequence: int) -> bytes:
    """`size` bytes that differ for each sequence number below 256, whatever the size.

    The first byte is the sequence number, so even 1-byte packets are told from a late answer to the one before.
    """
    body = hashlib.shake_128(f"{size}/{sequence}".encode()).digest(max(size - 1, 0))
    return bytes([sequence & 0xFF]) + body


def open_socket(target: tuple[str, int] | None = None, listen: tuple[str, int] | None = None) -> socket.socket:
    """A UDP socket with large buffers, connected to `target` or bound to `listen`."""
    host = (target or listen or ("0.0.0.0", 0))[0]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
        if listen is not None:
            sock.bind(listen)
        if target is not None:
            sock.connect(target)
    except OSError:
        sock.close()
        raise
    return sock


def run_echo(arguments: argparse.Namespace) -> Json:
    """COUNT packets of each size, WINDOW at a time; each must come back byte for byte."""
    with open_socket(arguments.target) as sock:
        sizes = [_echo_size(sock, size, arguments) for size in arguments.sizes]
    return {
        "sizes": sizes,
        "sent": sum(entry["sent"] for entry in sizes),
        "equal": sum(entry["equal"] for entry in sizes),
        "altered": sum(entry["altered"] for entry in sizes),
        "lost": sum(entry["lost"] for entry in sizes),
    }


def _echo_size(sock: socket.socket, size: int, arguments: argparse.Namespace) -> Json:
    known: set[bytes] = set()
    entry = {"size": size, "sent": 0, "equal": 0, "altered": 0, "lost": 0, "repeated": 0}
    for start in range(0, arguments.count, arguments.window):
        numbers = range(start, min(start + arguments.window, arguments.count))
        missing = {echo_payload(size, number) for number in numbers}
        known |= missing
        entry["sent"] += len(missing)
        for attempt in range(arguments.tries):
            entry["repeated"] += len(missing) if attempt else 0
            for payload in sorted(missing):
                _send_ignoring_icmp(sock, payload)
            entry["equal"] += _await_echoes(sock, missing, known, arguments.timeout_s, entry)
            if not missing:
                break
        entry["lost"] += len(missing)
    return entry


def _await_echoes(sock: socket.socket, missing: set[bytes], known: set[bytes], timeout_s: float, entry: Json) -> int:
    """Take what comes back out of `missing`, and count it; an unknown payload is altered, an earlier one just late."""
    deadline = time.monotonic() + timeout_s
    found = 0
    while missing and (remaining := deadline - time.monotonic()) > 0:
        sock.settimeout(remaining)
        try:
            received = sock.recv(_MAX_PACKET_BYTES)
        except TimeoutError:
            break
        except ConnectionError:  # an ICMP error of this or an earlier packet
            time.sleep(min(0.01, remaining))
            continue
        if received in missing:
            missing.discard(received)
            found += 1
        else:
            entry["altered"] += received not in known
    return found


def _send_ignoring_icmp(sock: socket.socket, payload: bytes) -> bool:
    """False where the kernel refused the packet: an ICMP error reported late, no route, or a full queue."""
    try:
        sock.send(payload)
    except OSError:
        return False
    return True


def run_rtt(arguments: argparse.Namespace) -> Json:
    """Paced single packets; `rtt_us` holds one entry per answer, `lost` counts the rest."""
    size = max(arguments.size, HEADER_BYTES)
    padding = bytes(size - HEADER_BYTES)
    samples: list[float] = []
    lost = 0
    with open_socket(arguments.target) as sock:
        for sequence in range(arguments.count):
            started = time.perf_counter_ns()
            _send_ignoring_icmp(sock, _HEADER.pack(0, sequence, started) + padding)
            if _await_sequence(sock, sequence, arguments.timeout_s):
                samples.append((time.perf_counter_ns() - started) / 1000)
            else:
                lost += 1
            pause_s = arguments.interval_ms / 1000 - (time.perf_counter_ns() - started) / 1e9
            if pause_s > 0:
                time.sleep(pause_s)
    return {"size": size, "sent": arguments.count, "lost": lost, "rtt_us": [round(sample, 1) for sample in samples]}


def _await_sequence(sock: socket.socket, sequence: int, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while (remaining := deadline - time.monotonic()) > 0:
        sock.settimeout(remaining)
        try:
            received = sock.recv(_MAX_PACKET_BYTES)
        except TimeoutError:
            return False
        except ConnectionError:
            time.sleep(min(0.01, remaining))
            continue
        if len(received) >= HEADER_BYTES and _HEADER.unpack_from(received)[1] == sequence:
            return True
    return False


class _Window:
    """Packets outstanding to an echo service: at most `limit`, forgotten as lost after `timeout_s`."""

    def __init__(self, limit: int, timeout_s: float) -> None:
        self.limit = limit
        self.timeout_s = timeout_s
        self.sent_at: dict[int, float] = {}
        self.next_sequence = 0
        self.lost = 0
        self.delivered = 0

    def room(self, now: float) -> bool:
        if len(self.sent_at) < self.limit:
            return True
        oldest = next(iter(self.sent_at))
        while self.sent_at and now - self.sent_at[oldest] > self.timeout_s:
            del self.sent_at[oldest]
            self.lost += 1
            oldest = next(iter(self.sent_at), -1)
        return len(self.sent_at) < self.limit

    def sent(self, now: float) -> int:
        sequence = self.next_sequence
        self.next_sequence += 1
        self.sent_at[sequence] = now
        return sequence

    def received(self, sequence: int) -> bool:
        if self.sent_at.pop(sequence, None) is None:
            return False
        self.delivered += 1
        return True


def run_window(arguments: argparse.Namespace) -> Json:
    """Echo throughput: WINDOW packets outstanding for SECONDS; `per_100_ms` counts answers as they arrive here."""
    size = max(arguments.size, HEADER_BYTES)
    padding = bytes(size - HEADER_BYTES)
    window = _Window(arguments.window, timeout_s=0.25)
    bins = [0] * (int(arguments.seconds * 10) + 1)
    with open_socket(arguments.target) as sock:
        sock.setblocking(False)
        started = now = time.perf_counter()
        while (elapsed := now - started) < arguments.seconds:
            for _ in range(16):
                if not window.room(now):
                    break
                _send_ignoring_icmp(sock, _HEADER.pack(0, window.sent(now), 0) + padding)
            select.select([sock], [], [], 0.05)
            bins[int(elapsed * 10)] += _drain(sock, window)
            now = time.perf_counter()
    seconds = now - started
    return {
        "size": size, "window": arguments.window, "seconds": round(seconds, 3), "sent": window.next_sequence,
        "delivered": window.delivered, "lost": window.lost,
        "packets_per_s": round(window.delivered / seconds, 1),
        "mbit_per_s": round(window.delivered * size * 8 / seconds / 1e6, 3),
        "per_100_ms": bins[:-1],
    }  # fmt: skip


def _drain(sock: socket.socket, window: _Window) -> int:
    count = 0
    while True:
        try:
            received = sock.recv(_MAX_PACKET_BYTES)
        except BlockingIOError:
            return count
        except ConnectionError:
            continue
        if len(received) >= HEADER_BYTES:
            count += window.received(_HEADER.unpack_from(received)[1])


def run_watch(arguments: argparse.Namespace) -> Json:
    """An echo each INTERVAL for SECONDS; `gaps` are the spells without an answer longer than GAP_INTERVALS intervals.

    With SETTLE it ends that long after the first gap above OUTAGE_S. Times are Unix seconds, so that the caller can
    set them beside what it did meanwhile.
    """
    interval_s = arguments.interval_ms / 1000
    settle_s: float | None = arguments.settle_s
    arrivals: list[float] = []
    sent = 0
    with open_socket(arguments.target) as sock:
        started = time.time()
        next_send = time.monotonic()
        end = next_send + arguments.seconds
        while (now := time.monotonic()) < end:
            if now >= next_send:
                _send_ignoring_icmp(sock, _HEADER.pack(0, sent, 0) + bytes(48))
                sent += 1
                next_send += interval_s
            sock.settimeout(max(0.0005, next_send - time.monotonic()))
            try:
                sock.recv(_MAX_PACKET_BYTES)
            except TimeoutError:
                continue
            except ConnectionError:
                continue
            arrivals.append(time.time())
            if settle_s is not None and len(arrivals) > 1 and arrivals[-1] - arrivals[-2] > OUTAGE_S:
                end, settle_s = time.monotonic() + settle_s, None
        ended = time.time()
    return {"started": started, "ended": ended, "sent": sent, "received": len(arrivals),
            "gaps": find_gaps([started, *arrivals, ended], GAP_INTERVALS * interval_s)}  # fmt: skip


def run_trace(arguments: argparse.Namespace) -> Json:
    """An echo each INTERVAL for SECONDS: `samples` are [Unix seconds of sending, RTT in ms or null], in order."""
    interval_s = arguments.interval_ms / 1000
    count = max(1, int(arguments.seconds / interval_s))
    sent_at: list[float] = []
    rtt_ms: list[float | None] = [None] * count
    with open_socket(arguments.target) as sock:
        begin, offset = time.monotonic(), time.time() - time.monotonic()
        end = begin + count * interval_s + arguments.timeout_s
        while (now := time.monotonic()) < end and (len(sent_at) < count or None in rtt_ms):
            due = begin + len(sent_at) * interval_s
            if len(sent_at) < count and now >= due:
                sent_at.append(now)
                _send_ignoring_icmp(sock, _HEADER.pack(0, len(sent_at) - 1, 0) + bytes(48))
                continue
            sock.settimeout(max(0.0005, min(due if len(sent_at) < count else end, end) - now))
            try:
                received = sock.recv(_MAX_PACKET_BYTES)
            except (TimeoutError, ConnectionError):
                continue
            sequence = _HEADER.unpack_from(received)[1] if len(received) >= HEADER_BYTES else count
            if sequence < len(sent_at) and rtt_ms[sequence] is None:
                rtt_ms[sequence] = round((time.monotonic() - sent_at[sequence]) * 1000, 3)
    return {"samples": [[round(offset + at, 4), rtt_ms[number]] for number, at in enumerate(sent_at)]}


def find_gaps(times: list[float], longer_than_s: float) -> list[Json]:
    """The spells between neighbouring times that exceed `longer_than_s`."""
    return [
        {"from": before, "to": after, "seconds": round(after - before, 4)}
        for before, after in itertools.pairwise(times)
        if after - before > longer_than_s
    ]


def run_send(arguments: argparse.Namespace) -> Json:
    """Packets at a fixed rate; what the kernel refused is counted apart. Only the sink knows what arrived."""
    size = max(arguments.size, HEADER_BYTES)
    padding = bytes(size - HEADER_BYTES)
    total = int(arguments.rate * arguments.seconds)
    sent = refused = 0
    with open_socket(arguments.target) as sock:
        started = time.perf_counter()
        while sent + refused < total:
            due = min(total, int((time.perf_counter() - started) * arguments.rate) + 1)
            while sent + refused < due:
                if _send_ignoring_icmp(sock, _HEADER.pack(arguments.stream, sent + refused, 0) + padding):
                    sent += 1
                else:
                    refused += 1
            time.sleep(0.0005)
        seconds = time.perf_counter() - started
    return {"size": size, "sent": sent, "refused": refused, "seconds": round(seconds, 3),
            "packets_per_s": round(sent / seconds, 1)}  # fmt: skip


def run_sink(arguments: argparse.Namespace) -> Json:
    """Count the distinct packets of one stream until nothing comes for IDLE seconds."""
    seen: set[int] = set()
    size = duplicates = foreign = 0
    first = last = 0.0
    with open_socket(listen=arguments.listen) as sock:
        sock.settimeout(arguments.wait_s)
        while True:
            try:
                received = sock.recv(_MAX_PACKET_BYTES)
            except TimeoutError:
                break
            now = time.perf_counter()
            if len(received) < HEADER_BYTES or _HEADER.unpack_from(received)[0] != arguments.stream:
                foreign += 1
                continue
            sequence = _HEADER.unpack_from(received)[1]
            if not seen:
                first = now
                sock.settimeout(arguments.idle_s)
            duplicates += sequence in seen
            seen.add(sequence)
            size, last = len(received), now
    seconds = max(last - first, 1e-9)
    return {
        "delivered": len(seen), "duplicates": duplicates, "foreign": foreign, "size": size,
        "seconds": round(last - first, 3),
        "packets_per_s": round((len(seen) - 1) / seconds, 1) if len(seen) > 1 else 0.0,
        "mbit_per_s": round((len(seen) - 1) * size * 8 / seconds / 1e6, 3) if len(seen) > 1 else 0.0,
    }  # fmt: skip
