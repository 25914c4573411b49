"""The first boot of a droplet, and answers that leave by the reserved address."""

import http.server
import os
import shutil
import socket
import subprocess
import threading
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from infra import cloudinit_do
from infra.cloudinit import HostKeys
from tests.support.netns import in_new_namespace

UDP = (4433, 4434)
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPDaSPD9Lr8ZqNw4XBHYhSsDzZqGYCqyvXpiYOHuCu3J me"
OWN, GATEWAY, ANCHOR, PEER = "198.51.100.10", "198.51.100.1", "10.10.0.5", "203.0.113.77"
ANCHOR_PATH = "/metadata/v1/interfaces/public/0/anchor_ipv4/address"
ETH_P_IP = 0x0800


def document() -> dict[str, object]:
    """The configuration of the first boot, read back."""
    text = cloudinit_do.user_data(
        hostname="ztna-relay",
        admin_public_keys=[KEY],
        host_keys=HostKeys(private="PRIVATE", public="PUBLIC"),
        udp_ports=UDP,
    )
    assert text.startswith("#cloud-config\n")
    found: dict[str, object] = yaml.safe_load(text)
    return found


def files() -> dict[str, str]:
    """What it writes, by path."""
    return {str(file["path"]): str(file["content"]) for file in document()["write_files"]}  # type: ignore[attr-defined]


def test_the_host_lets_in_the_udp_ports_and_ssh_and_leaves_who_to_the_cloud_firewall() -> None:
    rules = files()["/etc/nftables.conf"]
    assert "udp dport { 4433, 4434 } accept" in rules
    assert "tcp dport { 22 } accept" in rules
    assert "policy drop" in rules


def test_the_anchor_route_is_made_at_every_boot_before_the_roles() -> None:
    unit = files()[f"/etc/systemd/system/{cloudinit_do.ANCHOR_UNIT}"]
    assert f"ExecStart={cloudinit_do.ANCHOR_SCRIPT}\n" in unit
    assert "Before=ztna-intermediate.service ztna-connector.service" in unit
    assert ["systemctl", "enable", "--now", cloudinit_do.ANCHOR_UNIT] in document()["runcmd"]  # type: ignore[operator]


def test_the_anchor_script_is_shell() -> None:
    done = subprocess.run(["sh", "-n"], input=files()[cloudinit_do.ANCHOR_SCRIPT], text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_anchor_unit_is_valid(tmp_path: Path) -> None:
    assert shutil.which("systemd-analyze"), "systemd-analyze is missing: apt-get install systemd"
    path = tmp_path / cloudinit_do.ANCHOR_UNIT
    path.write_text(cloudinit_do.anchor_unit().replace(cloudinit_do.ANCHOR_SCRIPT, "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", "--recursive-errors=no", path], text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")


class Metadata(http.server.BaseHTTPRequestHandler):
    """Answers as the metadata service does."""

    def do_GET(self) -> None:
        """The anchor address."""
        self.send_response(200 if self.path == ANCHOR_PATH else 404)
        self.end_headers()
        self.wfile.write(ANCHOR.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def sources(ports: tuple[int, ...]) -> list[str]:
    """Send a datagram from each port of a socket bound to all addresses; return the sources seen on the wire."""
    seen = []
    with closing(socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))) as wire:
        wire.bind(("eth0", 3))
        wire.settimeout(5)
        for port in ports:
            with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
                sender.bind(("0.0.0.0", port))
                sender.sendto(b"answer", (PEER, 40000))
            while True:
                packet, address = wire.recvfrom(2048)
                if address[1] == ETH_P_IP and packet[16:20] == socket.inet_aton(PEER):
                    break
            seen.append(socket.inet_ntoa(packet[12:16]))
    return seen


@pytest.mark.lab
@pytest.mark.root
def test_answers_of_the_relay_leave_by_the_anchor_address_and_everything_else_as_before() -> None:
    script = files()[cloudinit_do.ANCHOR_SCRIPT]

    def body() -> tuple[list[str], list[str]]:
        for command in (
            "link add eth0 type veth peer name eth0-far",
            "link set eth0-far up",
            f"address add {OWN}/24 dev eth0",
            f"address add {ANCHOR}/16 dev eth0",
            "link set eth0 up",
            f"neighbor add {GATEWAY} lladdr 02:00:00:00:00:01 dev eth0",
            f"route add default via {GATEWAY} dev eth0",
        ):
            subprocess.run(["ip", *command.split()], check=True)
        before = sources((4433, 5000))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as server:
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            url = f"http://127.0.0.1:{server.server_address[1]}"
            for _again in range(2):
                subprocess.run(["sh", "-c", script], check=True, env={**os.environ, "ZTNA_METADATA": url})
            server.shutdown()
        rules = subprocess.run(["ip", "-4", "rule"], capture_output=True, text=True, check=True).stdout
        assert rules.count("lookup 4433") == 1, "once, however often it runs"
        return before, sources((4433, 4434, 5000))

    before, after = in_new_namespace(body)
    assert before == [OWN, OWN], "otherwise there would be nothing to do"
    assert after == [ANCHOR, OWN, OWN], "4434 is the connector's, which announces the droplet's own address"
