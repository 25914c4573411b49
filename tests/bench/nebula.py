"""Debian's nebula beside the overlay, in the same hosts: certificates, configuration, processes.

Nebula is a mesh overlay in Go that is widely deployed; what it reaches on a machine is what this overlay is held
against. Defaults are left alone but for what paths need: a lighthouse, and a relay where direct packets are blocked.
"""

import json
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from infra.lab.process import ProcessInfo
from infra.lab.runtime import Lab
from tests.support.bed import AGENT, CONNECTOR, RELAY, BedError, cpu_seconds

PORT: Final = 4242
ADDRESSES: Final = {RELAY: "192.168.77.1", AGENT: "192.168.77.2", CONNECTOR: "192.168.77.3"}
READY_S: Final = 20.0


def missing() -> str | None:
    """What to install where nebula is not there, None where it is."""
    if shutil.which("nebula") is None or shutil.which("nebula-cert") is None:
        return "nebula is not installed; to compare with it: apt-get install nebula (8 MB)"
    return None


def version() -> str:
    """What `nebula -version` says."""
    done = subprocess.run(["nebula", "-version"], capture_output=True, text=True, check=False)
    return done.stdout.strip().removeprefix("Version: ")


@dataclass(slots=True)
class Nebula:
    """Three nodes in the hosts of a lab.

    Args:
        underlay: address of each host by name.
        relayed: packets between agent and connector go by the lighthouse, since direct ones are blocked.
    """

    lab: Lab
    directory: Path
    underlay: dict[str, str]
    relayed: bool
    processes: dict[str, ProcessInfo] = field(default_factory=dict)

    def start(self) -> None:
        """Make certificates, start all three and wait until the agent reaches the connector."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._cert("ca", "-name", "bench")
        for host, address in ADDRESSES.items():
            self._cert("sign", "-name", host, "-ip", f"{address}/24")
            path = self.directory / f"{host}.yml"
            path.write_text(json.dumps(self._config(host), indent=1))  # YAML is a superset
            self.processes[host] = self.lab.spawn(
                host, "nebula", ["nebula", "-config", str(path)], log_path=self.directory / f"{host}.log"
            )
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            done = self.lab.run(AGENT, ["ping", "-n", "-c", "1", "-W", "1", ADDRESSES[CONNECTOR]], check=False)
            if done.returncode == 0:
                return
        tail = (self.directory / f"{AGENT}.log").read_text(errors="replace")[-600:]
        raise BedError(f"nebula reaches nothing within {READY_S:g} s; its log ends:\n{tail}")

    def cpu_s(self, host: str) -> float:
        """CPU seconds of one node so far."""
        return cpu_seconds(self.processes[host].pid)

    def _cert(self, *arguments: str) -> None:
        done = subprocess.run(
            ["nebula-cert", *arguments], cwd=self.directory, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise BedError(f"nebula-cert {arguments[0]}: {(done.stderr or done.stdout).strip()}")

    def _config(self, host: str) -> dict[str, Any]:
        lighthouse = host == RELAY
        anything = [{"port": "any", "proto": "any", "host": "any"}]
        relay: dict[str, Any] = {"am_relay": lighthouse, "use_relays": True}
        if self.relayed and not lighthouse:
            relay["relays"] = [ADDRESSES[RELAY]]
        return {
            "pki": {
                "ca": str(self.directory / "ca.crt"),
                "cert": str(self.directory / f"{host}.crt"),
                "key": str(self.directory / f"{host}.key"),
            },
            "static_host_map": {ADDRESSES[RELAY]: [f"{self.underlay[RELAY]}:{PORT}"]},
            "lighthouse": {"am_lighthouse": lighthouse, "hosts": [] if lighthouse else [ADDRESSES[RELAY]]},
            "listen": {"host": self.underlay[host], "port": PORT},
            "punchy": {"punch": True},
            "relay": relay,
            "tun": {"dev": "nebula"},
            "logging": {"level": "warning"},
            "firewall": {"outbound": anything, "inbound": anything},
        }
