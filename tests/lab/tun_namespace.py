"""A network namespace of its own with a TUN device and TCP sockets of the kernel in it, for tests against that kernel.

Run as a program it makes them and passes the descriptors to its parent over a Unix socket. It then exits: the namespace
lives as long as the descriptors, so closing them is all the clean-up there is, also after a crash.
"""

import array
import fcntl
import os
import socket
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

KERNEL_ADDRESS = "100.64.1.1"
TUN_MTU_BYTES = 1294
SOCKETS = 4
_TUNSETIFF = 0x400454CA
_IFF_TUN_NO_PI = 0x1001


@dataclass(frozen=True, slots=True)
class TunNamespace:
    """The TUN's descriptor and unconnected TCP sockets living in the namespace; all non-blocking."""

    tun: int
    sockets: list[socket.socket]

    def close(self) -> None:
        """Close everything, and with it the namespace."""
        os.close(self.tun)
        for sock in self.sockets:
            sock.close()


def make_namespace(*sysctls: str) -> TunNamespace:
    """Make a namespace with the TUN up; `sysctls` are like "tcp_sack=0", below net.ipv4."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    unshare = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--net"]
    command = [*unshare, sys.executable, str(Path(__file__)), str(theirs.fileno()), *sysctls]
    with ours, theirs:
        result = subprocess.run(command, pass_fds=[theirs.fileno()], capture_output=True, text=True, timeout=20)
        assert result.returncode == 0, f"no namespace with a TUN here: {result.stderr}"
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1 + SOCKETS)
    sockets = [socket.socket(fileno=number) for number in descriptors[1:]]
    for sock in sockets:
        sock.setblocking(False)
    os.set_blocking(descriptors[0], False)
    return TunNamespace(descriptors[0], sockets)


def _serve(channel: int, sysctls: list[str]) -> None:
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", b"tun0", _IFF_TUN_NO_PI))
    for setting in sysctls:
        name, value = setting.split("=")
        Path("/proc/sys/net/ipv4", name).write_text(value)
    for command in (
        ["ip", "link", "set", "lo", "up"],
        ["ip", "link", "set", "tun0", "mtu", str(TUN_MTU_BYTES), "up"],
        ["ip", "addr", "add", f"{KERNEL_ADDRESS}/10", "dev", "tun0"],
    ):
        subprocess.run(command, check=True)
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in range(SOCKETS)]
    descriptors = array.array("i", [tun, *(sock.fileno() for sock in sockets)])
    with socket.socket(fileno=channel) as parent:
        parent.sendmsg([b"!"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])


if __name__ == "__main__":
    _serve(int(sys.argv[1]), sys.argv[2:])
