"""The role commands: help without loading roles, exit codes, status."""

import json
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.support.certs import issue, issue_server
from ztna.cli import app
from ztna.config import load_intermediate
from ztna.io.udp import UdpSocket


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def test_help_loads_no_role() -> None:
    probe = (
        "import sys; from typer.testing import CliRunner; from ztna.cli import app;"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0;"
        "heavy = [m for m in sys.modules if m.split('.')[0] in ('aioquic', 'uvloop', 'structlog', 'cryptography')];"
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    found = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")


def test_every_command_documents_its_exit_codes() -> None:
    for command in ("intermediate", "connector", "agent", "status"):
        assert "Exit codes" in run(command, "--help").output


def relay_config(path: Path, **changes: Any) -> Path:
    ca = issue("CA", ca=True)
    server = issue_server(ca)
    values = {
        "stack": "lab",
        "bind_addr": "127.0.0.1",
        "port": 0,
        "metrics_port": 0,
        "alternate_port": None,
        "cert_pem": server.cert_pem,
        "key_pem": server.key_pem,
        "ca_cert_pem": ca.cert_pem,
    }
    file = path / "intermediate.json"
    file.write_text(json.dumps(values | changes))
    load_intermediate(file)
    return file


def test_wrong_usage_is_2() -> None:
    assert run("intermediate").exit_code == 2
    assert run("status").exit_code == 2


def test_bad_config_is_3_and_names_the_key(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text('{"prot": 1}')
    result = run("intermediate", "--config", str(file))
    assert result.exit_code == 3
    assert "x.json" in result.stderr
    missing = run("intermediate", "--config", str(tmp_path / "none.json"))
    assert (missing.exit_code, missing.stderr) == (
        3,
        f"ztna: --config: there is no file {tmp_path}/none.json; check the path\n",
    )


def test_bad_certificate_is_3(tmp_path: Path) -> None:
    foreign = issue("foreign", ca=True)
    file = relay_config(tmp_path, ca_cert_pem=foreign.cert_pem)
    result = run("intermediate", "--config", str(file))
    assert result.exit_code == 3
    assert "cert_pem: issued by CN=CA, which is not the CA given" in result.stderr


def test_port_in_use_is_4(tmp_path: Path) -> None:
    holder = UdpSocket("127.0.0.1", 0)
    result = run("intermediate", "--config", str(relay_config(tmp_path, port=holder.local_address[1])))
    holder.close()
    assert result.exit_code == 4
    assert "the port is in use" in result.stderr


class _Status(BaseHTTPRequestHandler):
    state = "ready"

    def do_GET(self) -> None:
        body = json.dumps({"role": "agent", "state": self.state, "services": {}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.mark.parametrize(("state", "code"), [("ready", 0), ("connecting", 5)])
def test_status_of_a_running_role(tmp_path: Path, state: str, code: int) -> None:
    handler = type("Handler", (_Status,), {"state": state})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        port = server.server_address[1]
        file = tmp_path / "agent.json"
        file.write_text(json.dumps({"metrics_port": port}))
        result = run("status", "--config", str(file), "--json")
        assert result.exit_code == code
        assert json.loads(result.stdout)["state"] == state
        plain = run("status", "--url", f"http://127.0.0.1:{port}/")
        assert plain.stdout.splitlines()[0].split() == ["role", "agent"]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_status_of_a_role_that_does_not_run_is_5() -> None:
    result = run("status", "--url", "http://127.0.0.1:9")
    assert result.exit_code == 5
    assert "is the role running?" in result.stderr


def test_relay_switches_a_running_intermediate(tmp_path: Path) -> None:
    """The socket is the one beside the config file, or that the file names."""
    asked: list[Any] = []
    view = {"session": "00", "agent": "spiffe://lab/agent/a", "ready": True, "bytes": {}}
    answer = {"enabled": False, "backend": "off", "sessions": [view]}
    for name, values in (("admin.sock", {}), ("x.sock", {"admin_socket": "x.sock"})):
        config = tmp_path / "intermediate.json"
        config.write_text(json.dumps(values))
        (tmp_path / name).unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / name))
            listener.listen()

            def serve(listener: socket.socket = listener) -> None:
                for _ in range(2):
                    client, _ = listener.accept()
                    with client:
                        asked.append(json.loads(client.recv(4096)))
                        client.sendall(json.dumps(answer).encode() + b"\n")

            thread = threading.Thread(target=serve)
            thread.start()
            shown = run("relay", "off", "--config", str(config))
            assert (shown.exit_code, shown.output.splitlines()[0]) == (
                0,
                "relay off, back end off, 1 of 1 sessions relayed",
            )
            assert json.loads(run("relay", "status", "--json", "--config", str(config)).output) == answer
            thread.join()
    assert asked == [{"relay": "off"}, {"relay": "status"}] * 2


def test_relay_without_an_intermediate_is_5(tmp_path: Path) -> None:
    config = tmp_path / "intermediate.json"
    config.write_text("{}")
    missing = run("relay", "on", "--config", str(config))
    assert missing.exit_code == 5
    assert "admin.sock" in missing.stderr
    assert run("relay", "up", "--config", str(config)).exit_code == 2
    assert run("relay", "on", "--config", str(tmp_path / "none")).exit_code == 3
