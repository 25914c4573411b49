"""Hosts reached by SSH, as places of a stack: the command that runs there, and what controls a unit of theirs."""

from collections.abc import Sequence

from infra import units
from infra.outputs import Place, PlaceKind
from infra.units import Unit

VERBS = ("start", "stop", "kill", "restart")


def ssh_command(user: str, host: str, host_key: str) -> tuple[str, ...]:
    """Return the argv that runs commands on a host; it believes this host key, and no file of known hosts.

    Commands of another user than root run through sudo.
    """
    options = {
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": "none",
        "GlobalKnownHostsFile": "none",
        "KnownHostsCommand": f"/bin/echo %H {host_key}",  # ssh_config(5): OpenSSH 8.5
        "BatchMode": "yes",
    }
    words = (word for key, value in options.items() for word in ("-o", f"{key}={value}"))
    return ("ssh", *words, f"{user}@{host}", *(() if user == "root" else ("sudo", "--")))


def unit_place(kind: PlaceKind, unit: Unit, ssh: Sequence[str], host: str) -> Place:
    """Return the place of a unit on a host: its controls and its configuration are there, not here."""
    return Place(
        kind=kind,
        address=host,
        exec=tuple(ssh),
        controls={verb: (*ssh, "systemctl", verb, unit.name) for verb in VERBS},
        config_path=f"{units.CONFIG_DIR}/{unit.role}/{unit.role}.json" if unit.role else None,
    )
