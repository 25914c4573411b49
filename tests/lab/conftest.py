"""Labs for the tests: one run per module that wants it, made on the best rung there is."""

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from infra.lab.nat import NatBehavior
from infra.lab.runtime import Lab
from infra.lab.topology import Host, Link, Router, Segment, Topology
from tests.lab.probe import Probe

EXTERNAL = "172.20.0.21"
RELAY, SECOND = "172.20.0.2", "172.20.0.3"


class NatLab:
    """A NAT with two hosts behind it, and one in front with two addresses; the NAT can be changed."""

    def __init__(self, lab: Lab, stack: ExitStack) -> None:
        self.lab = lab
        self._stack = stack
        self._router = Router(
            "nat", (Link("lan", "172.21.0.1/24"),), Link("public", f"{EXTERNAL}/24"), nat=(NatBehavior(),)
        )
        inside = [
            Host(name, (Link("lan", f"172.21.0.{n}/24"),), gateway="172.21.0.1")
            for name, n in (("left", 10), ("right", 11))
        ]
        outside = Host("relay", (Link("public", f"{RELAY}/24"),), addresses=(f"{SECOND}/24",))
        lab.realise(
            Topology(
                segments=(Segment("public", "172.20.0.0/24"), Segment("lan", "172.21.0.0/24")),
                routers=(self._router,),
                hosts=(*inside, outside),
            )
        )
        self.relay, self.left, self.right = (self._probe(name) for name in ("relay", "left", "right"))

    def _probe(self, host: str) -> Probe:
        return self._stack.enter_context(Probe(self.lab.exec_prefix(host)))

    def set(self, *levels: NatBehavior) -> None:
        """Give the NAT another behaviour; all mappings are forgotten."""
        self.lab.ensure_router(Router("nat", self._router.inside, self._router.outside, nat=levels))


@pytest.fixture(scope="module")
def nat_lab() -> Iterator[NatLab]:
    with Lab(f"test-nat-{os.getpid()}") as lab, ExitStack() as stack:
        yield NatLab(lab, stack)
