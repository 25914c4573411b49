"""How people come to the droplet: the command of its places, against a real sshd."""

import getpass
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.do_design import places
from infra.ssh_place import ssh_command

SSHD = "/usr/sbin/sshd"


def keypair(path: Path) -> str:
    """Make a key pair; return the public half's two words."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", path], check=True)
    return " ".join(path.with_suffix(".pub").read_text().split()[:2])


def free_port() -> int:
    """A TCP port of loopback that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[int, str]]:
    """An sshd on loopback: its port and its host key."""
    assert shutil.which("ssh"), "ssh is missing: apt-get install openssh-client"
    assert Path(SSHD).exists(), "sshd is missing: apt-get install openssh-server"
    Path("/run/sshd").mkdir(exist_ok=True)
    host_key, _ = keypair(tmp_path / "host"), keypair(tmp_path / "admin")
    shutil.copy(tmp_path / "admin.pub", tmp_path / "authorized")
    port = free_port()
    config = {
        "HostKey": tmp_path / "host",
        "ListenAddress": f"127.0.0.1:{port}",
        "AuthorizedKeysFile": tmp_path / "authorized",
        "PidFile": "none",
        "UsePAM": "no",
        "StrictModes": "no",
        "PasswordAuthentication": "no",
    }
    (tmp_path / "sshd_config").write_text("".join(f"{key} {value}\n" for key, value in config.items()))
    command = [SSHD, "-D", "-e", "-f", str(tmp_path / "sshd_config")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "listening" in line, line
        yield port, host_key
        process.terminate()


def run(tmp_path: Path, port: int, host_key: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command by the place's own argv; port, user and key are this test's."""
    argv = list(ssh_command("root", "127.0.0.1", host_key))
    argv[-1] = f"{getpass.getuser()}@127.0.0.1"
    own = ["-F", "none", "-p", str(port), "-i", str(tmp_path / "admin"), "-o", "IdentitiesOnly=yes"]
    environment = {key: value for key, value in os.environ.items() if key != "SSH_AUTH_SOCK"}
    return subprocess.run(
        [argv[0], *own, *argv[1:], *words], capture_output=True, text=True, env=environment, timeout=20
    )


@pytest.mark.root
def test_the_command_believes_the_host_key_of_the_outputs_and_no_other(tmp_path: Path, server: tuple[int, str]) -> None:
    port, host_key = server
    done = run(tmp_path, port, host_key, "echo", "reached")
    assert (done.returncode, done.stdout) == (0, "reached\n"), done.stderr
    other = keypair(tmp_path / "other")
    refused = run(tmp_path, port, other, "echo", "reached")
    assert (refused.returncode, refused.stdout) == (255, "")
    assert "Host key verification failed" in refused.stderr


def test_every_role_has_a_place_on_the_droplet_and_controls_of_its_unit() -> None:
    found = places(("ssh", "root@198.51.100.1"), "198.51.100.1")
    assert {name: place.kind for name, place in found.items()} == {
        "relay": "intermediate", "connector": "connector", "httpbin": "backend", "echo": "backend",
    }  # fmt: skip
    assert found["relay"].controls["restart"] == (
        "ssh", "root@198.51.100.1", "systemctl", "restart", "ztna-intermediate",
    )  # fmt: skip
    assert found["connector"].config_path == "/etc/ztna/connector/connector.json"
