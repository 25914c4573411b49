"""The first boot as text: valid, small, closed, and with one secret at most."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from infra.cloudinit import HEADER, RELAY_MARK, HostKeys, HostSetup, firewall, user_data
from ztna.io.forward import ruleset

PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPqM7FbdFRrCpsyk0jAL4IF5lBvBn9uDgK+nLHXsvAdr"
PRIVATE = "-----BEGIN OPENSSH PRIVATE KEY-----\nbootstrap\n-----END OPENSSH PRIVATE KEY-----\n"
SETUP = HostSetup(
    hostname="ztna-relay",
    admin_public_keys=[PUBLIC + " admin"],
    host_keys=HostKeys(private=PRIVATE, public=PUBLIC),
    udp_ports=[4434, 4433],
    admin_cidrs=["203.0.113.7/32", "2001:db8::/64"],
)


def test_is_what_cloud_init_accepts(tmp_path: Path) -> None:
    assert shutil.which("cloud-init"), "missing cloud-init: apt-get install --no-install-recommends cloud-init"
    path = tmp_path / "user-data"
    path.write_text(user_data(SETUP))
    done = subprocess.run(
        ["cloud-init", "schema", "--config-file", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Valid" in done.stdout


def test_firewall_is_what_nft_accepts(tmp_path: Path) -> None:
    path = tmp_path / "rules"
    path.write_text(firewall(SETUP))
    done = subprocess.run(["nft", "--check", "--file", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_firewall_opens_what_is_asked_for() -> None:
    rules = firewall(SETUP)
    assert "policy drop" in rules
    assert "ip saddr { 203.0.113.7/32 } tcp dport 22 accept" in rules
    assert "ip6 saddr { 2001:db8::/64 } tcp dport 22 accept" in rules
    assert "udp dport { 4433, 4434 } accept" in rules
    assert re.findall(r"tcp dport (\S+)", rules) == ["22", "22"]


def test_firewall_forwards_what_bears_the_relays_mark_and_nothing_else() -> None:
    chain = firewall(SETUP).split("chain forward {")[1].split("}")[0]
    hook, *rules = [line.strip() for line in chain.strip().splitlines()]
    assert hook.endswith("policy drop;")
    assert rules == [f"{RELAY_MARK} accept"]
    assert f"meta mark & {ruleset.MARK_MASK:#x} == {ruleset.MARK:#x}" == RELAY_MARK


def test_closed_ssh_has_no_rule() -> None:
    assert "tcp dport" not in firewall(replace(SETUP, admin_cidrs=[]))


def test_says_who_may_log_in_and_nothing_is_installed() -> None:
    text = user_data(SETUP)
    assert text.startswith(HEADER)
    config = yaml.safe_load(text)
    assert config["ssh_authorized_keys"] == [PUBLIC + " admin"]
    assert config["ssh_keys"] == {"ed25519_private": PRIVATE, "ed25519_public": PUBLIC + "\n"}
    assert (config["disable_root"], config["ssh_pwauth"], config["package_update"]) == (False, False, False)
    assert "packages" not in config
    assert len(text) < 6000


def test_bootstrap_key_is_the_only_secret_and_is_not_shown() -> None:
    assert user_data(SETUP).count("PRIVATE KEY-----") == 2  # its first and its last line
    assert "bootstrap" not in repr(SETUP)


def test_root_stays_locked_where_another_user_administers() -> None:
    assert yaml.safe_load(user_data(replace(SETUP, admin_user="ubuntu")))["disable_root"] is True


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"admin_cidrs": ["0.0.0.0/0"]}, "whole world"),
        ({"admin_cidrs": ["::/0"]}, "whole world"),
        ({"admin_cidrs": ["here"]}, "is no network"),
        ({"udp_ports": [0]}, "port 0 is out of range"),
        ({"hostname": "Relay_1"}, "hostname 'Relay_1'"),
        ({"admin_public_keys": []}, "nobody could log in"),
        ({"admin_public_keys": ["-----BEGIN"]}, "authorized_keys"),
        ({"admin_public_keys": [PUBLIC + " x" * 9000]}, "give fewer keys"),
    ],
)
def test_refuses(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        user_data(replace(SETUP, **change))  # type: ignore[arg-type]
