"""`ztna doctor` and pystun3 behind every NAT preset, against the relay's own STUN responder on two addresses."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.lab.nat import CLASSIC_TYPE, PRESETS, preset
from infra.lab.runtime import Lab
from infra.lab.topology import two_nat_topology
from tests.lab.conftest import EXTERNAL, RELAY, SECOND
from tests.support.overlay import CA, RELAY_LEAF, identity

pytestmark = pytest.mark.lab

PORT, ALTERNATE_PORT, HTTP_PORT = 4433, 4434, 9090
READY = """
import sys, time, urllib.request
for _ in range(200):
    try:
        urllib.request.urlopen("http://127.0.0.1:%d/readyz", timeout=1); sys.exit(0)
    except OSError:
        time.sleep(0.05)
sys.exit("the relay does not get ready")
"""
PYSTUN3 = """
import json, socket, stun
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(0.25)
sock.bind(("172.21.0.10", 0))
print(json.dumps(stun.get_nat_type(sock, "172.21.0.10", sock.getsockname()[1], stun_host="%s", stun_port=%d)[0]))
"""


@pytest.fixture(scope="module")
def relay_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder: Path = tmp_path_factory.mktemp("relay")
    config = {
        **identity(RELAY_LEAF), "ca_cert_pem": CA.cert_pem, "stack": "lab", "port": PORT,
        "alternate_port": ALTERNATE_PORT, "alternate_addr": SECOND, "metrics_port": HTTP_PORT,
    }  # fmt: skip
    path = folder / "intermediate.json"
    path.write_text(json.dumps(config))
    with Lab(f"test-doctor-{os.getpid()}") as lab:
        lab.realise(two_nat_topology(preset("port-restricted"), preset("port-restricted")))
        argv = [sys.executable, "-m", "ztna", "intermediate", "--config", str(path)]
        lab.spawn("relay", "intermediate", argv, log_path=folder / "relay.log")
        lab.run("relay", [sys.executable, "-c", READY % HTTP_PORT])
        yield lab


def doctor(lab: Lab) -> dict[str, Any]:
    argv = [sys.executable, "-m", "ztna", "doctor", "--json", "--server", f"{RELAY}:{PORT}"]
    found: dict[str, Any] = json.loads(lab.run("agent", argv, check=False).stdout)
    return found


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "udp-blocked"])
def test_preset_is_classified(relay_lab: Lab, name: str) -> None:
    levels = preset(name)
    relay_lab.ensure_router(two_nat_topology(levels, preset("port-restricted")).routers[0])
    found = doctor(relay_lab)
    nat = found["nat"]
    # Of several levels the strictest decides; the presets with two have the same behaviour twice or a laxer carrier.
    expected = (levels[0].mapping.value, levels[0].filtering.value) if levels else ("none", "endpoint-independent")
    assert (nat["mapping"], nat["filtering"]) == expected
    assert (nat["mapping_certain"], nat["filtering_certain"]) == (True, True)
    assert nat["behind_nat"] is bool(levels)
    if len(levels) == 1:
        assert nat["mapped"].startswith(f"{EXTERNAL}:")
    assert found["port_consistency"]["consistent"]
    assert found["path_mtu_bytes"] == 1500
    assert found["problems"] == []


def test_blocked_udp_is_named(relay_lab: Lab) -> None:
    relay_lab.ensure_router(two_nat_topology(preset("udp-blocked"), preset("port-restricted")).routers[0])
    found = doctor(relay_lab)
    assert found["udp_blocked"]
    assert "blocks UDP" in found["problems"][0]


@pytest.mark.parametrize("name", PRESETS)
def test_pystun3_finds_the_same_with_our_responder_as_with_coturn(relay_lab: Lab, name: str) -> None:
    relay_lab.ensure_router(two_nat_topology(preset(name), preset("port-restricted")).routers[0])
    argv = [sys.executable, "-c", PYSTUN3 % (RELAY, PORT)]
    assert json.loads(relay_lab.run("agent", argv).stdout) == CLASSIC_TYPE[name]
