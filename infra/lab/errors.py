"""The one error type of the lab, and the Debian package that holds each tool the lab runs."""

import shutil
from typing import Final

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
}


class LabError(Exception):
    """Something the lab cannot do; the text says what, why, and what to do about it."""


def require_tool(name: str) -> str:
    """Return the path of a command.

    Raises:
        LabError: the command is not installed; names the Debian package that holds it.
    """
    # Service users often lack the sbin folders, where ip and nft live on Debian.
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")
    if path is None:
        package = PACKAGE_OF_TOOL.get(name, name)
        raise LabError(f"the lab needs the command {name!r}, which is not installed: apt-get install {package}")
    return path
