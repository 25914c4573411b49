"""Twenty agents on one connector with three services: every echo comes back to its own agent."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from infra import ports
from tests.support.bed import AGENT, CONNECTOR, RELAY, ROOT, Bed, Service
from tests.support.many_agents import SOURCE_PORT, Tally
from tests.support.v1_clients import Profile
from ztna.io.quic_types import ClientSettings
from ztna.proto import packet

AGENTS = tuple(f"agent-{number}" for number in range(1, 21))
PACKETS = 20_000
SERVICES = tuple(
    Service(f"echo-{letter}", f"100.64.0.{100 + number}", {("udp", ports.ECHO): ports.ECHO})
    for number, letter in enumerate("abc")
)


@pytest.mark.lab
@pytest.mark.timeout(180)
def test_no_packet_of_20000_reaches_another_agent(tmp_path: Path) -> None:
    bed = Bed(f"many-agents-{os.getpid()}", tmp_path, services=SERVICES, agents=AGENTS, run_agent=False)
    with bed:
        spec = {
            "bind": bed.address(AGENT),
            "profiles": [bed.agent_profile(name) for name in AGENTS],
            "services": [[service.id, ports.ECHO] for service in SERVICES],
            "packets": PACKETS,
        }
        path = tmp_path / "spec.json"
        path.write_text(json.dumps(spec))
        argv = [*bed.lab.exec_prefix(AGENT), sys.executable, "-m", "tests.support.many_agents", str(path)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=150, check=False, cwd=ROOT)
        assert done.returncode == 0, done.stderr[-2000:]
        seen = json.loads(done.stdout)
        print(seen)
        assert bed.alive(RELAY)
        assert bed.alive(CONNECTOR)
    assert seen["registered"] == len(AGENTS) * len(SERVICES)
    assert seen["misrouted"] == 0
    assert seen["malformed"] == 0
    assert seen["given_up"] == 0
    assert seen["returned"] == PACKETS
    assert seen["problems"] == []


def answer(*, agent: int, service: int, number: int, source: int, destination: int, port: int = ports.ECHO) -> bytes:
    """The packet by which a service answers an agent."""
    return packet.build_udp(source, port, destination, SOURCE_PORT, struct.pack("!HHI", agent, service, number))


@pytest.mark.parametrize(
    ("changes", "misrouted"),
    [
        ({}, 0),
        ({"agent": 1}, 1),
        ({"source": 0x0A000002}, 1),
        ({"destination": 9}, 1),
        ({"port": 1}, 1),
        ({"service": 1}, 1),
    ],
)
def test_the_tally_knows_whose_packet_it_is(changes: dict[str, int], misrouted: int) -> None:
    services = {"a": 0x0A000001, "b": 0x0A000002}
    profiles = [
        Profile(name, ("relay", 1), number + 7, services, ClientSettings(b"")) for number, name in enumerate("xy")
    ]
    tally = Tally(profiles, [("a", ports.ECHO), ("b", ports.ECHO)])
    tally.waiting[0].add((0, 3))
    fields = {"agent": 0, "service": 0, "number": 3, "source": 0x0A000001, "destination": 7}
    tally.take(profiles[0], answer(**(fields | changes)))
    assert (tally.misrouted, tally.returned) == (misrouted, 1 - misrouted)
