"""What stacks with a host of their own read alike: who may open SSH, and with which keys."""

import re
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from infra.config import ConfigError, parse_choice
from infra.config_overlay import parse_networks, parse_strings

WIDEST_ADMIN: Final = {4: 8, 6: 16}
"""Shortest prefix by IP version that still names an administrator's network, and not half the internet."""
KEY_TYPES: Final = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa")
"""Types of public keys that sshd of Ubuntu 24.04 takes and the providers accept."""

Network = IPv4Network | IPv6Network


def parse_admin_cidrs(text: str) -> tuple[Network, ...]:
    """Read the networks that may open SSH. Raises ValueError for none, and for (nearly) the whole internet."""
    networks = parse_networks(text)
    if not networks:
        raise ValueError("it is empty; without SSH nothing can be released to the host")
    for network in networks:
        if network.prefixlen < WIDEST_ADMIN[network.version]:
            raise ValueError(
                f"{network} lets the whole internet try SSH: the host that holds the relay's keys would be scanned and "
                "attacked from everywhere, and a leaked key would be enough to take it; give the networks of the "
                f"administrators, no wider than /{WIDEST_ADMIN[network.version]}, such as your own address as "
                f"{'203.0.113.7/32' if network.version == 4 else '2001:db8::7/128'}"
            )
    return networks


def parse_public_keys(text: str) -> tuple[str, ...]:
    """Read OpenSSH public key lines. Raises ValueError; ConfigError, without the text, for a private key."""
    if "PRIVATE KEY" in text:
        # Not a ValueError, whose message would be shown together with the value.
        raise ConfigError("sshPublicKeys holds a private key: give the public ones, the lines of .pub files")
    return tuple(_public_key(key.strip()) for key in parse_strings(text))


def parse_public_key(text: str) -> str | None:
    """Return one OpenSSH public key line, None for no text. Raises ValueError, ConfigError for a private key."""
    if not text:
        return None
    if "PRIVATE KEY" in text:
        raise ConfigError("sshPublicKey holds a private key: give the public one, the line of the .pub file")
    return _public_key(text.strip())


def _public_key(key: str) -> str:
    kind, _, rest = key.partition(" ")
    parse_choice(kind, KEY_TYPES)
    if not re.fullmatch(r"[A-Za-z0-9+/]{32,}={0,2}( [^\n]*)?", rest):
        raise ValueError(f"after {kind} there must be one line of base64, as in the .pub file")
    return key
