"""The first boot: a machine boots the very user data by the real cloud-init, and takes a release."""

import shutil
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from infra.cloudinit import HostKeys, HostSetup, firewall, user_data
from infra.ssh_release import deploy
from tests.release import rig
from tests.release.machine import Machine

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

SETUP = HostSetup(
    hostname="ztna-relay",
    admin_public_keys=[rig.ADMIN.public],
    host_keys=HostKeys(private=rig.BOOTSTRAP.private, public=rig.BOOTSTRAP.public),
    udp_ports=[4433, 4434],
    admin_cidrs=["198.18.0.0/15", "2001:db8::/48"],
)
UNITS = ("cloud-init-local.service", "cloud-init.service", "cloud-config.service", "cloud-final.service")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine on its first boot; nothing but user data tells it who may log in and which host key it has."""
    assert shutil.which("cloud-init"), "missing cloud-init: apt-get install --no-install-recommends cloud-init"
    seed = "/var/lib/cloud/seed/nocloud"
    files = {
        f"{seed}/user-data": user_data(SETUP),
        f"{seed}/meta-data": "instance-id: first\n",
        "/etc/cloud/cloud.cfg.d/99-test.cfg": "datasource_list: [NoCloud]\n"
        "network: {config: disabled}\nlocale: false\n",
    }
    with Machine(tmp_path_factory.mktemp("machine"), files=files, wants=UNITS) as booted:
        yield booted


def test_release_to_a_machine_on_its_first_boot(machine: Machine, tmp_path: Path) -> None:
    told: list[str] = []
    result = deploy(rig.job(machine, rig.small_bundle(tmp_path, "v1"), progress=told.append))
    assert result.status == "installed"
    assert rig.page_of(machine) == "v1 hello"
    assert machine.run("hostname") == "ztna-relay"
    assert machine.run("id", "-un", "ztna") == "ztna"
    assert machine.run("sshd", "-T").splitlines().count("hostkey /etc/ssh/ssh_host_ed25519_key") == 1
    assert "passwordauthentication no" in machine.run("sshd", "-T")
    assert machine.run("systemctl", "is-enabled", "nftables.service") == "enabled"


def test_firewall_opens_the_udp_ports_and_nothing_else(machine: Machine) -> None:
    assert answer_to_udp(machine.address, 4433) == "refused"
    assert answer_to_udp(machine.address, 4434) == "refused"
    assert answer_to_udp(machine.address, 9999) == "dropped"
    assert answer_to_tcp(machine.address, 22) == "accepted"
    assert answer_to_tcp(machine.address, 8080) == "dropped"


def test_firewall_that_is_gone_comes_back_with_the_next_release(machine: Machine, tmp_path: Path) -> None:
    machine.run("nft", "delete", "table", "inet", "ztna")
    assert answer_to_udp(machine.address, 9999) == "refused"
    deploy(rig.job(machine, rig.small_bundle(tmp_path, "v1"), first_contact=False))
    assert answer_to_udp(machine.address, 9999) == "dropped"


def test_ssh_is_closed_to_other_networks(machine: Machine) -> None:
    elsewhere = firewall(replace(SETUP, admin_cidrs=["203.0.113.0/24"]))
    machine.run("sh", "-c", 'printf %s "$0" | nft -f -', elsewhere)
    try:
        assert answer_to_tcp(machine.address, 22) == "dropped"
    finally:
        machine.run("nft", "-f", "/etc/nftables.conf")
    assert answer_to_tcp(machine.address, 22) == "accepted"


def answer_to_udp(address: str, port: int) -> str:
    """Return `refused` when the datagram came to a port that nobody serves, `dropped` when it came nowhere."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1.0)
        sock.connect((address, port))
        try:
            sock.send(b"x")
            sock.recv(10)
        except ConnectionRefusedError:
            return "refused"
        except TimeoutError:
            return "dropped"
    return "answered"


def answer_to_tcp(address: str, port: int) -> str:
    """Return accepted, refused or dropped."""
    try:
        socket.create_connection((address, port), timeout=1.0).close()
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return "dropped"
    return "accepted"
