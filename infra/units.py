"""The systemd units of a host: hardened, under a user of their own, their files where the release puts them. Pure.

A release puts the code at CODE_DIR and the files of a role at `/etc/ztna/ROLE`; both are symbolic links that one rename
switches (docs/security.md). Ports are above 1024, so no unit has a capability but one that has the kernel relay packets
(`Unit.forwards`). Names of directives: systemd.exec(5).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from infra import ports

USER: Final = "ztna"
"""The system user (and group) that every unit runs as; the host's first boot makes it."""

CODE_DIR: Final = "/opt/ztna/current"
CONFIG_DIR: Final = "/etc/ztna"
LAUNCHER: Final = f"{CODE_DIR}/bin/ztna"
BACKEND_LAUNCHER: Final = f"{CODE_DIR}/bin/ztna-test-backend"
LOOPBACK: Final = "127.0.0.1"
WAITRESS_THREADS: Final = 8

UDP_BUFFER_BYTES: Final = 4 << 20
"""What each socket of ours asks for (`ztna.io.udp.DEFAULT_BUFFER_BYTES`); a smaller limit drops packets in bursts."""

SYSCTLS: Final[Mapping[str, int]] = {
    "net.core.rmem_max": UDP_BUFFER_BYTES,
    "net.core.wmem_max": UDP_BUFFER_BYTES,
}
"""Kernel settings that a host must have at least; the first boot sets them, every release verifies them."""

FORWARDING_SYSCTLS: Final[Mapping[str, int]] = {**SYSCTLS, "net.ipv4.ip_forward": 1}
"""Those of a host whose kernel relays packets of sessions. A release sets them once it has seen the host's firewall,
which drops whatever else would be forwarded (infra/cloudinit.py); the unit itself may write no kernel setting.
"""

RUNTIME_DIR: Final = "/run"
"""Where systemd makes each unit's own directory, named as the unit, of mode 0700; it goes when the unit stops."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """A service of a host.

    Attributes:
        name: of the unit without `.service`.
        exec: the command; its first word is an absolute path on the host.
        role: the directory of its files under CONFIG_DIR; empty when it has none.
        reload: names of files that it reads again on SIGHUP; a change of another one restarts it.
        local_only: it talks to this host alone, and the kernel holds it to that.
        after: units of the same release that start before it.
        runtime: it has a directory of its own below RUNTIME_DIR: the files of its role are read-only to it.
        forwards: it has the kernel relay packets, by nftables: it has CAP_NET_ADMIN and no other capability, and reads
            /proc/sys.
    """

    name: str
    description: str
    exec: tuple[str, ...]
    role: str = ""
    reload: tuple[str, ...] = ()
    local_only: bool = False
    after: tuple[str, ...] = ()
    runtime: bool = False
    forwards: bool = False


INTERMEDIATE: Final = Unit(
    name="ztna-intermediate",
    description="ztna intermediate (relay, QUIC and STUN)",
    exec=(LAUNCHER, "intermediate", "--config", f"{CONFIG_DIR}/intermediate/intermediate.json"),
    role="intermediate",
    reload=("cert.pem", "key.pem", "ca.pem", "policy.json"),
    runtime=True,
)
"""It relays packets of sessions in user space; FORWARDING_INTERMEDIATE has the kernel do it."""
FORWARDING_INTERMEDIATE: Final = replace(INTERMEDIATE, forwards=True)
ADMIN_SOCKET: Final = f"{RUNTIME_DIR}/{INTERMEDIATE.name}/admin.sock"
"""The socket of `ztna relay` on a host."""
CONNECTOR: Final = Unit(
    name="ztna-connector",
    description="ztna connector",
    exec=(LAUNCHER, "connector", "--config", f"{CONFIG_DIR}/connector/connector.json"),
    role="connector",
    after=("ztna-intermediate", "ztna-backend-httpbin", "ztna-backend-echo"),
)
BACKEND_HTTP: Final = Unit(
    name="ztna-backend-httpbin",
    description="ztna test backend: httpbin under waitress",
    exec=(
        *(BACKEND_LAUNCHER, "waitress"),
        *(f"--listen={LOOPBACK}:{ports.HTTPBIN}", f"--threads={WAITRESS_THREADS}", "httpbin:app"),
    ),
    local_only=True,
)
BACKEND_ECHO: Final = Unit(
    name="ztna-backend-echo",
    description="ztna test backend: echo on UDP and TCP",
    exec=(BACKEND_LAUNCHER, "infra.echo", "--bind", LOOPBACK, "--port", str(ports.ECHO)),
    local_only=True,
)

READY: Final[Mapping[str, str]] = {
    INTERMEDIATE.name: f"http://{LOOPBACK}:{ports.METRICS['intermediate']}/readyz",
    CONNECTOR.name: f"http://{LOOPBACK}:{ports.METRICS['connector']}/readyz",
    BACKEND_HTTP.name: f"http://{LOOPBACK}:{ports.HTTPBIN}/get",
    BACKEND_ECHO.name: f"tcp://{LOOPBACK}:{ports.ECHO}",
}
"""What answers well on the host once a unit is usable (infra/http_probe.py)."""

# AF_NETLINK is how the C library lists interfaces (host candidates) and sorts addresses.
_HARDENING: Final = """\
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectProc=invisible
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RemoveIPC=yes
KeyringMode=private
UMask=0077
DevicePolicy=closed
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
"""
_POWERLESS: Final = "CapabilityBoundingSet=\nAmbientCapabilities=\nPrivateUsers=yes\nProcSubset=pid\n"
# In a user namespace of its own the capability would not be one over the host's network, and without /proc/sys the
# unit could not see whether the host forwards.
_FORWARDING: Final = "CapabilityBoundingSet=CAP_NET_ADMIN\nAmbientCapabilities=CAP_NET_ADMIN\n"
# An intermediate that is interrupted leaves nothing in the kernel; one that is terminated leaves what its successor
# takes over, so that a restart costs relayed sessions nothing. The unit file that is loaded decides: a successor that
# does not forward takes nothing over.
_STOPS_FOR_GOOD: Final = "KillSignal=SIGINT\n"
_IS_SUCCEEDED: Final = "RestartKillSignal=SIGTERM\n"


def unit_text(unit: Unit) -> str:
    """Return the unit file: restarted for ever one second after it ends, and reloaded by SIGHUP."""
    after = " ".join(("network-online.target", *(f"{name}.service" for name in unit.after)))
    reload = "ExecReload=/bin/kill -HUP $MAINPID\n" if unit.reload else ""
    power = _FORWARDING if unit.forwards else _POWERLESS
    ends = (_STOPS_FOR_GOOD if unit.role == "intermediate" else "") + (_IS_SUCCEEDED if unit.forwards else "")
    runtime = f"RuntimeDirectory={unit.name}\nRuntimeDirectoryMode=0700\n" if unit.runtime else ""
    only_here = "IPAddressAllow=localhost\nIPAddressDeny=any\n" if unit.local_only else ""
    return (
        "# Written by the release; a change here is lost with the next one.\n"
        f"[Unit]\nDescription={unit.description}\n"
        f"Wants=network-online.target\nAfter={after}\nStartLimitIntervalSec=0\n\n"
        f"[Service]\nType=exec\nUser={USER}\nGroup={USER}\nExecStart={_command(unit.exec)}\n{reload}"
        f"Restart=always\nRestartSec=1\nTimeoutStartSec=30\nTimeoutStopSec=10\n{ends}LimitNOFILE=65536\n"
        f"Environment=PYTHONDONTWRITEBYTECODE=1\n{runtime}{_HARDENING}{power}{only_here}\n"
        "[Install]\nWantedBy=multi-user.target\n"
    )


def _command(words: tuple[str, ...]) -> str:
    """Return a command line of systemd.service(5): quoted where it must be, specifiers and variables escaped."""
    return " ".join(_quoted(word) for word in words)


def _quoted(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if any(char in escaped for char in " \t;'\"") or not escaped else escaped


def sysctl_text() -> str:
    """Return the sysctl.d file of a host."""
    return "# Buffers of UDP sockets: a release refuses a host that has less.\n" + "".join(
        f"{key} = {value}\n" for key, value in SYSCTLS.items()
    )
