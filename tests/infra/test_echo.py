"""The echo backend over real sockets, run as the process that it is."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest


@pytest.fixture
def server() -> Iterator[tuple[int, "subprocess.Popen[str]"]]:
    """Run an echo on a free port and return the port and the process."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    argv = [sys.executable, "-m", "infra.echo", "--bind", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("echo on 127.0.0.1:")
        yield port, process
        process.terminate()


def test_datagrams_come_back_to_whoever_sent_them(server: tuple[int, "subprocess.Popen[str]"]) -> None:
    address = ("127.0.0.1", server[0])
    with socket.socket(type=socket.SOCK_DGRAM) as first, socket.socket(type=socket.SOCK_DGRAM) as second:
        for sock in (first, second):
            sock.settimeout(5)
        payloads = [bytes([index % 256]) * index for index in (0, 1, 1200, 9000)]
        for payload in payloads:
            first.sendto(payload, address)
            second.sendto(payload + b"!", address)
            assert first.recv(65_535) == payload
            assert second.recv(65_535) == payload + b"!"


def test_a_stream_comes_back_after_half_close(server: tuple[int, "subprocess.Popen[str]"]) -> None:
    with socket.create_connection(("127.0.0.1", server[0]), timeout=5) as sock:
        sock.sendall(b"x" * 100_000)
        sock.shutdown(socket.SHUT_WR)
        received = b""
        while chunk := sock.recv(65_536):
            received += chunk
    assert received == b"x" * 100_000


def test_sigterm_ends_it_with_success(server: tuple[int, "subprocess.Popen[str]"]) -> None:
    process = server[1]
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == 0


def test_a_port_in_use_is_named(server: tuple[int, "subprocess.Popen[str]"]) -> None:
    argv = [sys.executable, "-m", "infra.echo", "--bind", "127.0.0.1", "--port", str(server[0])]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{server[0]}: Address already in use" in done.stderr
