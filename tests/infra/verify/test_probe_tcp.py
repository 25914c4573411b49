"""The TCP, HTTP and ICMP probes against loopback servers."""

import contextlib
import http.server
import json
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from infra.verify import probe
from infra.verify.probe_net import checksum, echo_request, parse_udp_counters
from infra.verify.probe_tcp import text_body


class EchoingHandler(http.server.BaseHTTPRequestHandler):
    """GET answers the path as JSON; POST answers the body as httpbin's /post does."""

    damage = b""

    def do_GET(self) -> None:
        self._answer({"path": self.path, "host": self.headers["Host"]})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer({"data": (body + self.damage).decode(), "json": None})

    def _answer(self, value: dict[str, object]) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        return


@contextlib.contextmanager
def http_server(damage: bytes = b"") -> Iterator[str]:
    handler = type("Handler", (EchoingHandler,), {"damage": damage})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def tcp_server(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            connection, _ = listener.accept()
            with connection:
                serve(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            thread.join()


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, object]:
    assert probe.main(argv) == 0
    loaded: dict[str, object] = json.loads(capsys.readouterr().out)
    return loaded


def test_http_returns_status_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    with http_server() as target:
        result = run(capsys, "http", "--target", target, "--path", "/get", "--host", "example.org")
    assert (result["status"], result["json"]) == (200, {"path": "/get", "host": "example.org"})


def test_http_failure_is_measured_not_raised(capsys: pytest.CaptureFixture[str]) -> None:
    with tcp_server(lambda connection: None) as target:
        result = run(capsys, "http", "--target", target)
    assert result["status"] == 0
    assert result["failure"]


def test_a_body_is_equal_both_ways(capsys: pytest.CaptureFixture[str]) -> None:
    with http_server() as target:
        result = run(capsys, "http-body", "--target", target, "--bytes", "300000")
    assert result["sha256_sent"] == result["sha256_returned"]
    assert result["bytes_up"] == 300_000


def test_one_more_byte_changes_the_hash(capsys: pytest.CaptureFixture[str]) -> None:
    with http_server(damage=b"x") as target:
        result = run(capsys, "http-body", "--target", target, "--bytes", "1000")
    assert result["sha256_sent"] != result["sha256_returned"]


def test_tcp_echo_needs_the_same_bytes_and_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    def echo(connection: socket.socket) -> None:
        while data := connection.recv(65536):
            connection.sendall(data)

    with tcp_server(echo) as target:
        result = run(capsys, "tcp-echo", "--target", target, "--bytes", "200000")
    assert (result["equal"], result["received"]) == (True, 200_000)


def test_tcp_echo_sees_truncation(capsys: pytest.CaptureFixture[str]) -> None:
    with tcp_server(lambda connection: connection.sendall(connection.recv(10))) as target:
        result = run(capsys, "tcp-echo", "--target", target, "--bytes", "100")
    assert result["equal"] is False


def test_a_closed_port_is_a_reset(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        target = f"127.0.0.1:{listener.getsockname()[1]}"
    assert run(capsys, "tcp-refused", "--target", target)["outcome"] == "reset"


def test_get_json_of_a_silent_port_is_status_0(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert run(capsys, "get-json", "--url", f"http://127.0.0.1:{port}/status")["status"] == 0


def test_get_json_reads_a_role_page(capsys: pytest.CaptureFixture[str]) -> None:
    with http_server() as target:
        result = run(capsys, "get-json", "--url", f"http://{target}/status")
    assert result["json"] == {"path": "/status", "host": target}


def test_bodies_are_text_of_the_exact_size() -> None:
    assert [len(text_body(size)) for size in (1, 65536, 65537, 200_001)] == [1, 65536, 65537, 200_001]
    assert text_body(1000).isascii()


def test_echo_requests_carry_a_correct_checksum() -> None:
    assert checksum(echo_request(0x1234, 5, 31)) == 0
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0x220D  # RFC 1071 section 3


def test_udp_counters_are_read_by_name() -> None:
    text = "Tcp: a\nTcp: 1\nUdp: InDatagrams NoPorts RcvbufErrors\nUdp: 12 3 0\n"
    assert parse_udp_counters(text) == {"InDatagrams": 12, "NoPorts": 3, "RcvbufErrors": 0}
    assert parse_udp_counters("nothing") == {}


def test_ping_of_loopback(capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
        except PermissionError:
            assert probe.main(["ping", "--address", "127.0.0.1"]) == 2
            assert "PermissionError" in capsys.readouterr().out
            return
    result = run(capsys, "ping", "--address", "127.0.0.1", "--count", "3", "--interval-ms", "1")
    assert (result["received"], result["altered"]) == (3, 0)
