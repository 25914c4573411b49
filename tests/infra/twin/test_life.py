"""do-nyc1 on this machine through its life, by the commands that a person gives: up to nothing left."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.infra.twin.life import Life
from tests.support.project import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(1200)]

STACK = "do-nyc1"


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    life = Life(tmp_path_factory.mktemp("twin") / "project", STACK)
    yield life
    subprocess.run(
        [str(ROOT / ".venv/bin/python"), "-m", "infra.lab", "reap", "--run", life.run_name], cwd=ROOT, check=False
    )


def test_from_a_killed_up_to_serving(life: Life) -> None:
    life.config()
    with subprocess.Popen(life.argv("up", "--yes"), cwd=life.directory, env=life.environment, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True) as killed:  # fmt: skip
        assert killed.stdout is not None
        for line in killed.stdout:
            if "Droplet relay-droplet-1" in line and "+" in line:
                break
        killed.send_signal(signal.SIGKILL)
    time.sleep(1)
    began = time.monotonic()
    changes = life.up()
    print(f"up after a kill: {time.monotonic() - began:.1f} s, {changes}")
    assert life.relay() == "192.0.2.200"
    droplets = [name for name in os.listdir("/run/netns") if re.fullmatch(rf"ztna\.{life.run_name}\.droplet-\d+", name)]
    assert len(droplets) == 1, "the killed run's droplet was gone on with, and no other made"


def test_nothing_to_do(life: Life) -> None:
    assert life.up().keys() == {"same"}


def test_what_was_promised_holds_from_a_network_behind_a_nat(life: Life) -> None:
    assert re.search(r": 14 passed in ", life.ztna("verify", "--quick"))


def test_the_relay_is_reached_by_ssh_from_the_administrators_alone(life: Life) -> None:
    assert (life.ssh_from("admin"), life.ssh_from("open")) == (True, False)
    assert life.ztna("exec", "relay", "--", "hostname").strip().endswith("ztna-relay")


def test_a_change_of_the_firewall_lets_another_network_in(life: Life) -> None:
    changes = life.up(adminCidrs=["203.0.113.0/24", "198.18.20.0/24"])
    assert changes == {"same": changes["same"], "update": 1}
    assert (life.ssh_from("admin"), life.ssh_from("open")) == (True, True)
    life.up()
    assert life.ssh_from("open") is False


def test_another_size_is_a_power_cycle_and_another_generation_another_droplet_with_the_same_address(life: Life) -> None:
    life.up(size="s-2vcpu-2gb")
    before = {name for name in os.listdir("/run/netns") if f"{life.run_name}.droplet" in name}
    life.up(size="s-2vcpu-2gb", hostGeneration=2)
    after = {name for name in os.listdir("/run/netns") if f"{life.run_name}.droplet" in name}
    assert len(before) == len(after) == 1
    assert before != after
    assert life.relay() == "192.0.2.200"
    life.ztna("verify", "--quick")


def test_destroy_leaves_nothing(life: Life) -> None:
    life.ztna("destroy", "--yes")
    assert life.left() == []
