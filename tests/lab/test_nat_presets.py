"""Each preset as an independent classifier sees it: pystun3 behind the NAT, Debian's coturn in front of it."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.lab.errors import require_tool
from infra.lab.nat import CLASSIC_TYPE, PRESETS, preset
from infra.lab.runtime import Lab
from infra.lab.topology import Host, Link, two_nat_topology
from tests.lab.conftest import RELAY, SECOND
from tests.lab.probe import Probe

pytestmark = pytest.mark.lab

_CLASSIFY = """
import json
import os, socket, stun
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(0.25)
sock.bind(("%(address)s", 0))
kind, answer = stun.get_nat_type(sock, "%(address)s", sock.getsockname()[1], stun_host="%(server)s")
print(json.dumps([kind, answer["ExternalIP"]]))
"""
# A Binding request of RFC 3489: type, no attributes, 16 bytes of transaction id.
_BINDING = "\x00\x01\x00\x00" + "0123456789abcdef"


@pytest.fixture(scope="module")
def stun_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("coturn")
    with Lab(f"test-presets-{os.getpid()}") as lab:
        lab.realise(two_nat_topology(preset("port-restricted"), preset("port-restricted")))
        start_coturn(lab, folder)
        yield lab


def start_coturn(lab: Lab, folder: Path) -> None:
    """Serve STUN (RFC 3489 and 5780) on both addresses of the relay, ports 3478 and 3479."""
    listen = ["-L", RELAY, "-L", SECOND, "--listening-port", "3478", "--alt-listening-port", "3479"]
    quiet = ["--no-cli", "--no-tls", "--no-dtls", "--pidfile", str(folder / "pid"), "--userdb", str(folder / "db")]
    lab.spawn("relay", "stun", [require_tool("turnserver"), "-n", "-S", *listen, *quiet, "--log-file", "stdout"])
    with Probe(lab.exec_prefix("relay")) as probe:
        port = probe.open()
        for _ in range(100):
            probe.send(port, _BINDING, (RELAY, 3478))
            if probe.receive(port, 0.1) is not None:
                return
    raise AssertionError("coturn does not answer")


def classify(lab: Lab, host: str, address: str) -> tuple[str, str | None]:
    """Return the classic type and the external address that pystun3 finds for a host."""
    program = _CLASSIFY % {"address": address, "server": RELAY}
    kind, external = json.loads(lab.run(host, [sys.executable, "-c", program]).stdout)
    return kind, external


def test_every_preset_has_an_expected_type() -> None:
    assert set(CLASSIC_TYPE) == set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_preset_is_classified_as_expected(stun_lab: Lab, name: str) -> None:
    topology = two_nat_topology(preset(name), preset("port-restricted"))
    stun_lab.ensure_router(topology.routers[0])
    kind, _ = classify(stun_lab, "agent", "172.21.0.10")
    assert kind == CLASSIC_TYPE[name]


def test_a_host_beside_the_server_is_on_the_open_internet(stun_lab: Lab) -> None:
    stun_lab.ensure_host(Host("beside", (Link("public", "172.20.0.9/24"),)))
    assert classify(stun_lab, "beside", "172.20.0.9")[0] == "Open Internet"
