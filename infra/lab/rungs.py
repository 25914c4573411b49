"""How much of a lab this machine allows, best first: root, rootless user namespaces, plain loopback addresses."""

import functools
import os
import subprocess
from dataclasses import dataclass
from enum import StrEnum

from infra.lab.errors import LabError, require_tool, tool_environment


class Rung(StrEnum):
    """A step of the privilege ladder."""

    ROOT = "root"
    ROOTLESS = "rootless"
    LOOPBACK = "loopback"


@dataclass(frozen=True, slots=True)
class Detection:
    """The rung found.

    Args:
        rung: the best rung that works here.
        reasons: why each better rung does not, one sentence each.
        limits: what a lab on this rung cannot show, one sentence each.
        tun: whether a host of the lab can open a TUN device.
    """

    rung: Rung
    reasons: tuple[str, ...]
    limits: tuple[str, ...]
    tun: bool


# Everything a lab asks of the kernel, in a namespace of its own that vanishes with the shell.
_PROBE = """
set -e
ip link add v0 type veth peer name v1
ip link add b0 type bridge
nft -f - <<'RULES'
table ip probe {
  map m { type ipv4_addr . inet_service : inet_service; flags dynamic,timeout; timeout 1s; size 16; }
  chain c {
    type nat hook postrouting priority srcnat;
    meta l4proto udp snat ip to 192.0.2.1 : ct original ip saddr . ct original proto-src map @m
  }
}
RULES
"""
_TOOLS = ("ip", "nft", "unshare", "nsenter")
_NO_TUN = "/dev/net/tun cannot be opened here: agents run in user mode (port forwards), and TUN mode is not shown."


@functools.cache
def detect() -> Detection:
    """Find the best rung by trying (some 20 ms; the answer is kept for the life of the process)."""
    reasons: list[str] = []
    for rung in (Rung.ROOT, Rung.ROOTLESS):
        trouble = _trouble(rung)
        if trouble is None:
            return _detection(rung, tuple(reasons))
        reasons.append(f"{rung.value}: {trouble}")
    return _detection(Rung.LOOPBACK, tuple(reasons))


def demand(rung: Rung) -> Detection:
    """Return the detection for a rung asked for by name.

    Raises:
        LabError: it does not work here; says why, and names the package where a tool is missing.
    """
    trouble = None if rung is Rung.LOOPBACK else _trouble(rung)
    if trouble is not None:
        raise LabError(f"the {rung.value} rung of the lab does not work here: {trouble}")
    return _detection(rung, ())


def _trouble(rung: Rung) -> str | None:
    if rung is Rung.ROOT and os.geteuid() != 0:
        return "not running as root"
    try:
        for tool in _TOOLS:
            require_tool(tool)
    except LabError as error:
        return str(error)
    flags = ["-nm"] if rung is Rung.ROOT else ["-Urnm"]
    # Rootless `ip netns` needs a place of its own to keep names in.
    script = _PROBE if rung is Rung.ROOT else f"mount -t tmpfs tmpfs /run && mkdir /run/netns\n{_PROBE}"
    probe = subprocess.run(
        ["unshare", *flags, "sh", "-c", script],
        stdin=subprocess.DEVNULL,
        env=tool_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    return None if probe.returncode == 0 else (probe.stderr.strip().splitlines() or ["refused by the kernel"])[-1]


def _detection(rung: Rung, reasons: tuple[str, ...]) -> Detection:
    if rung is Rung.LOOPBACK:
        limits: tuple[str, ...] = (
            "No NATs: every host is an address of 127.0.0.0/8, so mapping, filtering and time-outs are not shown.",
            "No link impairments: delay, loss, reordering, rates and MTUs are those of loopback.",
            "No TUN device: agents run in user mode (port forwards).",
            "Hosts share ports, routes and the machine's firewall; isolation between them is not shown.",
        )
        return Detection(rung, reasons, limits, tun=False)
    tun = _opens_tun()
    limits = () if tun else (_NO_TUN,)
    if rung is Rung.ROOTLESS:
        limits += ("Socket buffers are capped by net.core.rmem_max and wmem_max: only root may exceed them.",)
    return Detection(rung, reasons, limits, tun=tun)


def _opens_tun() -> bool:
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError:
        return False
    return True
