"""The first boot of a host: a small `#cloud-config` of user, directories, sshd, sysctl and firewall. Pure.

No package is installed and nothing is downloaded: what runs on the host comes with the release, over SSH. The one
secret in it is the bootstrap host key of sshd, which is good for one contact: the release then replaces it by the
permanent one and the deployer never accepts it again from this machine (docs/security.md). Certificates, configuration
and the permanent key never go through user data, which anything on the host may read from the metadata service.

Source: https://cloudinit.readthedocs.io/en/latest/reference/modules.html
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from infra import units
from infra.naming import check_label

HEADER: Final = "#cloud-config\n"
LARGEST_USER_DATA_BYTES: Final = 16 * 1024
"""Of EC2; DigitalOcean takes 64 KiB."""

NFT_PATH: Final = "/etc/nftables.conf"
SSHD_PATH: Final = "/etc/ssh/sshd_config.d/10-ztna.conf"
SYSCTL_PATH: Final = "/etc/sysctl.d/60-ztna.conf"
NFT_TABLE: Final = "ztna"
RELAY_MARK: Final = "meta mark & 0xff000000 == 0x5a000000"
"""Packets that the relay's own rules have taken (`ztna.io.forward.ruleset.MARK`)."""

# sshd takes the first value it reads of each keyword, so this file precedes those of the image.
SSHD_CONFIG: Final = """\
HostKey /etc/ssh/ssh_host_ed25519_key
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
AllowAgentForwarding no
AllowTcpForwarding no
X11Forwarding no
MaxAuthTries 3
LoginGraceTime 20
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class HostKeys:
    """A host key pair of sshd, ed25519 in OpenSSH's formats."""

    private: str = field(repr=False)
    public: str


@dataclass(frozen=True, kw_only=True, slots=True)
class HostSetup:
    """What a host is at its first boot.

    Attributes:
        hostname: a DNS label.
        admin_public_keys: who may log in, one line of authorized_keys each.
        host_keys: the one-time bootstrap key of sshd.
        udp_ports: open to everybody, v4 and v6.
        admin_cidrs: networks that may reach TCP 22; the whole world is refused.
        tcp_ports: open to everybody, usually none.
        admin_user: who the admin keys let in: `root`, or the image's own user.
    """

    hostname: str
    admin_public_keys: Sequence[str]
    host_keys: HostKeys
    udp_ports: Sequence[int]
    admin_cidrs: Sequence[str]
    tcp_ports: Sequence[int] = ()
    admin_user: str = "root"


def user_data(setup: HostSetup) -> str:
    """Return the `#cloud-config` of a host.

    Raises:
        ValueError: a name, key, port or network is unusable, SSH would be open to the world, or the text is too long.
    """
    check_label(setup.hostname, "hostname")
    if not setup.admin_public_keys:
        raise ValueError(
            "admin_public_keys is empty: nobody could log in to release; give at least the stack's own key"
        )
    text = HEADER + yaml.safe_dump(_config(setup), sort_keys=False, width=1000)
    if len(text.encode()) > LARGEST_USER_DATA_BYTES:
        raise ValueError(
            f"user_data has {len(text.encode())} bytes of at most {LARGEST_USER_DATA_BYTES}: give fewer keys"
        )
    return text


def _config(setup: HostSetup) -> dict[str, Any]:
    return {
        "hostname": setup.hostname,
        "package_update": False,
        "package_upgrade": False,
        "ssh_pwauth": False,
        "disable_root": setup.admin_user != "root",
        "ssh_deletekeys": True,
        "ssh_keys": {
            "ed25519_private": setup.host_keys.private.strip() + "\n",
            "ed25519_public": setup.host_keys.public.strip() + "\n",
        },
        "ssh_authorized_keys": [_one_line(key) for key in setup.admin_public_keys],
        "groups": [units.USER],
        "users": [
            "default",
            {
                "name": units.USER,
                "system": True,
                "primary_group": units.USER,
                "no_create_home": True,
                "shell": "/usr/sbin/nologin",
                "lock_passwd": True,
            },
        ],
        "write_files": [
            _file(SSHD_PATH, SSHD_CONFIG),
            _file(SYSCTL_PATH, units.sysctl_text()),
            _file(NFT_PATH, firewall(setup), "0600"),
        ],
        "runcmd": [
            ["install", "-d", "-m", "0755", "/opt/ztna", units.CONFIG_DIR],
            ["sysctl", "--quiet", "--load", SYSCTL_PATH],
            ["systemctl", "enable", "--now", "nftables.service"],
            ["nft", "-f", NFT_PATH],
            ["systemctl", "restart", "ssh.service"],
        ],
    }


def firewall(setup: HostSetup) -> str:
    """Return the nftables rules of a host: everything in is dropped but what HostSetup opens, in v4 and v6 alike.

    Nothing is forwarded but packets that bear the relay's mark, which it gives to those between proven endpoints.

    Raises:
        ValueError: a port is out of range, or a network is malformed or the whole world.
    """
    networks = [_admin_network(cidr) for cidr in setup.admin_cidrs]
    rules = [
        f"{family} saddr {{ {', '.join(found)} }} tcp dport 22 accept"
        for family, version in (("ip", 4), ("ip6", 6))
        if (found := [str(network) for network in networks if network.version == version])
    ]
    for protocol, numbers in (("udp", setup.udp_ports), ("tcp", setup.tcp_ports)):
        if numbers:
            rules.append(f"{protocol} dport {{ {', '.join(str(_port(number)) for number in sorted(numbers))} }} accept")
    body = "\n".join(f"        {rule}" for rule in rules)
    return f"""\
#!/usr/sbin/nft -f
table inet {NFT_TABLE} {{}}
delete table inet {NFT_TABLE}
table inet {NFT_TABLE} {{
    chain input {{
        type filter hook input priority filter; policy drop;
        iif lo accept
        ct state established,related accept
        ct state invalid drop
        icmp type {{ echo-request, destination-unreachable, time-exceeded, parameter-problem }} accept
        icmpv6 type {{ echo-request, destination-unreachable, packet-too-big, time-exceeded, parameter-problem }} accept
        icmpv6 type {{ nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert }} accept
        udp sport 547 udp dport 546 ip6 saddr fe80::/10 accept
{body}
    }}
    chain forward {{
        type filter hook forward priority filter; policy drop;
        {RELAY_MARK} accept
    }}
}}
"""


def _admin_network(cidr: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        network = ipaddress.ip_network(cidr)
    except ValueError as error:
        raise ValueError(f"adminCidrs: {cidr!r} is no network: {error}; write one like 203.0.113.7/32") from None
    if network.prefixlen == 0:
        raise ValueError(f"adminCidrs: {cidr!r} opens SSH to the whole world; name the networks you deploy from")
    return network


def _port(number: int) -> int:
    if not 1 <= number <= 65535:
        raise ValueError(f"port {number} is out of range: use 1 to 65535")
    return number


def _one_line(key: str) -> str:
    words = key.strip()
    if "\n" in words or not words.startswith(("ssh-", "ecdsa-", "sk-")):
        raise ValueError(
            f"admin public key {words[:20]!r}... is no line of authorized_keys: give the text of an id_*.pub"
        )
    return words


def _file(path: str, content: str, permissions: str = "0644") -> dict[str, str]:
    return {"path": path, "owner": "root:root", "permissions": permissions, "content": content}
