"""The controllers of VPCs from outside: started when wanted, asked by what they write into the store."""

import sys
import time
from typing import Final

from infra.twin import aws_view, daemons
from infra.twin.aws_base import required
from infra.twin.aws_fabric import exists, router_of
from infra.twin.interface import TwinError
from infra.twin.site import Site

PROCESS: Final = "controller"
STEADY_S: Final = 300.0


def ensure(site: Site, vpc_id: str) -> None:
    """Start the controller of a VPC, unless it runs."""
    host = router_of(required(site, aws_view.VPC, vpc_id))
    daemons.ensure(site, host, PROCESS, (sys.executable, "-m", "infra.twin.aws_controller", site.run, vpc_id))


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
