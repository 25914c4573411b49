"""The controllers of VPCs from outside: started when wanted, asked by what they write into the store."""

import sys
import time
from pathlib import Path
from typing import Final

from infra.lab import state
from infra.lab.process import is_alive
from infra.twin import aws_view
from infra.twin.aws_base import required
from infra.twin.aws_fabric import exists, router_of
from infra.twin.interface import TwinError
from infra.twin.site import Site

PROCESS: Final = "controller"
STEADY_S: Final = 300.0
_ROOT: Final = Path(__file__).resolve().parents[2]


def ensure(site: Site, vpc_id: str) -> None:
    """Start the controller of a VPC, unless it runs."""
    host = router_of(required(site, aws_view.VPC, vpc_id))
    with site.exclusive("controller"):
        if not running(site.run, host):
            argv = (sys.executable, "-m", "infra.twin.aws_controller", site.run, vpc_id)
            site.lab.spawn(host, PROCESS, argv, cwd=str(_ROOT), env={"ZTNA_LAB_STATE": str(state.base_dir())})


def running(run: str, host: str) -> bool:
    """Whether the controller of a router runs."""
    record = state.load(run)
    process = record.processes.get(f"{host}/{PROCESS}") if record is not None else None
    return process is not None and is_alive(process.pid, process.start_time)


def possible(site: Site, vpc_id: str) -> bool:
    """Whether a VPC has its router, so that a controller can run."""
    vpc = site.store.get(aws_view.VPC, vpc_id)
    return vpc is not None and exists(site, router_of(vpc))


def wait_steady(site: Site, number: int) -> None:
    """Wait until a service's newest deployment is complete.

    Raises:
        TwinError: it failed, or the time is up.
    """
    deadline = time.monotonic() + STEADY_S
    while time.monotonic() < deadline:
        item = next((item for item in site.store.items() if item.number == number), None)
        if item is None:
            return
        made = item.data["deployments"]
        if item.data.get("seen") == item.data["wanted"] and made and made[-1]["state"] != "IN_PROGRESS":
            if made[-1]["state"] == "FAILED" or made[-1].get("rollback"):
                raise TwinError(f"deployment of {item.id} failed: {'; '.join(item.data['events'][-3:])}")
            return
        time.sleep(0.2)
    raise TwinError(f"{item.id if item else number} is not steady after {STEADY_S:g} s")
