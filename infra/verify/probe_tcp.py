"""TCP and HTTP probes: echo, refusal, one request, a large body checked by SHA-256 in both directions."""

import argparse
import hashlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]

_ALPHABET_BYTES = 64 * 1024


def text_body(size: int) -> bytes:
    """`size` bytes of reproducible hexadecimal text: an HTTP echo returns text unchanged, binary re-encoded."""
    blocks = [
        hashlib.shake_128(f"body/{index}".encode()).hexdigest(_ALPHABET_BYTES // 2)
        for index in range(0, size, _ALPHABET_BYTES)
    ]
    return "".join(blocks).encode()[:size]


def run_tcp_echo(arguments: argparse.Namespace) -> Json:
    """Send BYTES, then end of stream; the same bytes must come back, then end of stream (a half-close)."""
    payload = text_body(arguments.bytes)
    started = time.perf_counter()
    with socket.create_connection(arguments.target, timeout=arguments.timeout_s) as sock:
        connected = time.perf_counter()
        writer = threading.Thread(target=_send_all, args=(sock, payload), daemon=True)
        writer.start()
        received = bytearray()
        while len(received) <= len(payload):
            try:
                chunk = sock.recv(65536)
            except OSError as error:
                return {"equal": False, "received": len(received), "failure": f"{type(error).__name__}: {error}"}
            if not chunk:
                break
            received += chunk
    ended = time.perf_counter()
    return {"equal": bytes(received) == payload, "sent": len(payload), "received": len(received),
            "connect_ms": round((connected - started) * 1000, 2), "seconds": round(ended - started, 3)}  # fmt: skip


def _send_all(sock: socket.socket, payload: bytes) -> None:
    try:
        sock.sendall(payload)
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        return  # the reading side reports it


def run_tcp_refused(arguments: argparse.Namespace) -> Json:
    """`outcome` is "connected", "reset", "unreachable" or "timeout"."""
    started = time.perf_counter()
    try:
        socket.create_connection(arguments.target, timeout=arguments.timeout_s).close()
        outcome = "connected"
    except ConnectionError:
        outcome = "reset"
    except TimeoutError:
        outcome = "timeout"
    except OSError:
        outcome = "unreachable"
    return {"outcome": outcome, "seconds": round(time.perf_counter() - started, 3)}


def run_http(arguments: argparse.Namespace) -> Json:
    """One request; `json` is the parsed answer, or null where it is none."""
    headers = {"Connection": "close"}
    if arguments.host:
        headers["Host"] = arguments.host
    body = None
    if arguments.json_body is not None:
        body = arguments.json_body.encode()
        headers["Content-Type"] = "application/json"
    started = time.perf_counter()
    status, data, failure = _request(arguments, arguments.method, body, headers)
    return {"status": status, "bytes": len(data), "seconds": round(time.perf_counter() - started, 4),
            "json": _parsed(data), "failure": failure}  # fmt: skip


def _request(
    arguments: argparse.Namespace, method: str, body: bytes | Iterator[bytes] | None, headers: dict[str, str]
) -> tuple[int, bytes, str | None]:
    connection = http.client.HTTPConnection(arguments.target[0], arguments.target[1], timeout=arguments.timeout_s)
    try:
        connection.request(method, arguments.path, body=body, headers=headers)
        response = connection.getresponse()
        return response.status, response.read(), None
    except (OSError, http.client.HTTPException) as error:
        return 0, b"", f"{type(error).__name__}: {error}"
    finally:
        connection.close()


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None


def run_http_body(arguments: argparse.Namespace) -> Json:
    """POST BYTES to an echoing path (httpbin's /post answers with the body as `data`); compare SHA-256 both ways."""
    payload = text_body(arguments.bytes)
    sent_at: list[float] = []
    headers = {"Content-Type": "text/plain", "Content-Length": str(len(payload)), "Connection": "close"}
    started = time.perf_counter()
    status, data, failure = _request(arguments, "POST", _chunks(payload, sent_at), headers)
    ended = time.perf_counter()
    answer = _parsed(data)
    returned = answer.get("data", "") if isinstance(answer, dict) else ""
    uploaded = sent_at[-1] if sent_at else ended
    return {
        "status": status, "failure": failure, "bytes_up": len(payload), "bytes_down": len(data),
        "sha256_sent": hashlib.sha256(payload).hexdigest(),
        "sha256_returned": hashlib.sha256(str(returned).encode()).hexdigest(),
        "seconds": round(ended - started, 3), "upload_s": round(uploaded - started, 3),
        "mbit_per_s": round((len(payload) + len(data)) * 8 / (ended - started) / 1e6, 2),
    }  # fmt: skip


def _chunks(payload: bytes, sent_at: list[float]) -> Iterator[bytes]:
    for start in range(0, len(payload), 65536):
        yield payload[start : start + 65536]
        sent_at.append(time.perf_counter())
