"""A host's own stateful firewall: what it sends may be answered, nothing else comes in, over IPv4 and IPv6."""

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from infra.lab.runtime import Lab
from infra.lab.topology import Host, Link, Segment, Topology
from tests.lab.probe import Probe

pytestmark = pytest.mark.lab

OUTSIDE, WALLED = "172.20.0.2", "172.20.0.9"
SEGMENT = Segment("public", "172.20.0.0/24")


def walled(*, firewall: bool) -> Host:
    return Host("walled", (Link("public", f"{WALLED}/24"),), addresses=("fd00:20::9/64",), firewall=firewall)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(f"test-firewall-{os.getpid()}") as lab:
        outside = Host("outside", (Link("public", f"{OUTSIDE}/24"),), addresses=("fd00:20::2/64",))
        lab.realise(Topology(segments=(SEGMENT,), hosts=(outside, walled(firewall=True))))
        yield lab


def test_only_answers_come_in_until_the_firewall_goes(lab: Lab) -> None:
    with ExitStack() as stack:
        far, near = (stack.enter_context(Probe(lab.exec_prefix(host))) for host in ("outside", "walled"))
        there, here = far.open(OUTSIDE), near.open(WALLED)
        far.send(there, "unasked", (WALLED, here))
        assert near.receive(here, 0.2) is None
        near.send(here, "asking", (OUTSIDE, there))
        assert far.receive(there) == ("asking", (WALLED, here))
        far.send(there, "answer", (WALLED, here))
        assert near.receive(here) == ("answer", (OUTSIDE, there))
        other = far.open(OUTSIDE)
        far.send(other, "another port", (WALLED, here))
        assert near.receive(here, 0.2) is None
        # Processes stay when the firewall goes; it leaves no rule behind.
        lab.ensure_host(walled(firewall=False))
        far.send(other, "unasked", (WALLED, here))
        assert near.receive(here) == ("unasked", (OUTSIDE, other))


def test_ipv6_is_walled_alike(lab: Lab) -> None:
    assert lab.run("outside", ["ping", "-c1", "-W2", "fd00:20::9"]).returncode == 0
    connect = "import socket; socket.create_connection(('fd00:20::9', 9), 0.5)"
    refused = lab.run("outside", ["python3", "-c", connect], check=False)
    assert "timed out" in refused.stderr
    lab.ensure_host(walled(firewall=False))
    assert "refused" in lab.run("outside", ["python3", "-c", connect], check=False).stderr
