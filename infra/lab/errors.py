"""The one error type of the lab, where its tools are, and the Debian package that holds each."""

import os
import shutil
from typing import Final

SBIN: Final = "/usr/sbin:/sbin:/usr/local/sbin"
"""Ordinary users often lack these folders in PATH, and ip and nft live there on Debian."""

PACKAGE_OF_TOOL: Final[dict[str, str]] = {
    "ip": "iproute2",
    "tc": "iproute2",
    "nft": "nftables",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "ping": "iputils-ping",
    "turnserver": "coturn",
    "tcpdump": "tcpdump",
    "systemd-nspawn": "systemd-container",
    "mmdebstrap": "mmdebstrap",
    "ssh": "openssh-client",
}


class LabError(Exception):
    """Something the lab cannot do; the text says what, why, and what to do about it."""


def tool_path() -> str:
    """Return PATH with the folders of system tools at its end."""
    return f"{os.environ.get('PATH', os.defpath)}:{SBIN}"


def tool_environment() -> dict[str, str]:
    """Return the environment for commands that run system tools, among them shell scripts that do."""
    return {**os.environ, "PATH": tool_path()}


def require_tool(name: str) -> str:
    """Return the path of a command.

    Raises:
        LabError: the command is not installed; names the Debian package that holds it.
    """
    path = shutil.which(name, path=tool_path())
    if path is None:
        package = PACKAGE_OF_TOOL.get(name, name)
        raise LabError(f"the lab needs the command {name!r}, which is not installed: apt-get install {package}")
    return path
