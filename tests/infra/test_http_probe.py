"""The probe that waits for readiness, run as the script that it is."""

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra import http_probe


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers 503 until it has been asked `until` times, then 200."""

    asked = 0
    until = 0

    def do_GET(self) -> None:
        """Answer."""
        type(self).asked += 1
        ready = type(self).asked > type(self).until
        body = b'{"ready": true}' if ready else b"no connector yet"
        self.send_response(200 if ready else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    """Serve Handler and return its port."""
    Handler.asked = Handler.until = 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def probe(*argv: str) -> tuple[int, str]:
    """Run the script as it is run in a namespace: isolated, without site packages."""
    script = str(Path(http_probe.__file__).resolve())
    done = subprocess.run([sys.executable, "-I", "-S", script, *argv], capture_output=True, text=True, timeout=30)
    assert done.stderr == ""
    return done.returncode, done.stdout.strip()


def test_a_good_answer_is_printed(port: int) -> None:
    assert probe(f"http://127.0.0.1:{port}/readyz") == (0, '{"ready": true}')


def test_it_waits_until_the_answer_is_good(port: int) -> None:
    Handler.until = 3
    assert probe("--until-ready", "10", f"http://127.0.0.1:{port}/readyz")[0] == 0
    assert Handler.asked == 4


def test_the_reason_is_printed_when_it_never_is(port: int) -> None:
    Handler.until = 10**6
    code, text = probe("--until-ready", "0.2", f"http://127.0.0.1:{port}/readyz")
    assert code == 1
    assert text.endswith("503 no connector yet")
    assert Handler.asked > 1


def test_a_tcp_port_counts_when_it_accepts(port: int) -> None:
    assert probe(f"tcp://127.0.0.1:{port}") == (0, "accepts")


def test_nobody_there_is_a_reason() -> None:
    code, text = probe("tcp://127.0.0.1:1")
    assert code == 1
    assert "refused" in text


@pytest.mark.parametrize("argv", [(), ("nonsense",), ("a://b", "c")])
def test_wrong_usage_shows_the_usage(argv: tuple[str, ...]) -> None:
    code, text = probe(*argv)
    assert code == 2
    assert "Usage:" in text
