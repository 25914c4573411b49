"""do-nyc1 on this machine through its life, by the commands that a person gives: up to nothing left."""

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.lab import state
from infra.twin.site import run_name
from tests.support.project import ROOT, link_project

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(1200)]

STACK = "do-nyc1"
COMMAND_S = 600


class Life:
    """A project of its own, and what its twin is."""

    def __init__(self, directory: Path) -> None:
        self.directory = link_project(directory)
        bundles = self.directory / ".ztna" / "bundles"
        bundles.mkdir(parents=True)
        (ROOT / ".ztna" / "bundles" / "wheels").mkdir(parents=True, exist_ok=True)
        (bundles / "wheels").symlink_to(ROOT / ".ztna" / "bundles" / "wheels")
        self.run_name = run_name(STACK, self.directory)
        self.environment = {**os.environ, "PULUMI_CONFIG_PASSPHRASE": "test"}

    def config(self, **values: Any) -> None:
        """Give the stack this configuration."""
        settings = {"adminCidrs": ["203.0.113.0/24"]} | values
        document = {"config": {f"{STACK}:{key}": value for key, value in settings.items()}}
        (self.directory / f"Pulumi.{STACK}.yaml").write_text(yaml.safe_dump(document))

    def argv(self, *words: str) -> list[str]:
        """A command on the twin."""
        verb, *rest = words
        return [str(ROOT / ".venv/bin/ztna"), verb, "--stack", STACK, "--twin", *rest]

    def ztna(self, *words: str) -> str:
        """Run it; what it printed."""
        done = subprocess.run(
            self.argv(*words), cwd=self.directory, env=self.environment, capture_output=True, text=True,
            timeout=COMMAND_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{' '.join(words)} ended {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def up(self, **config: Any) -> dict[str, int]:
        """Bring it up with a configuration; the number of resources by operation."""
        self.config(**config)
        answer = self.ztna("up", "--yes", "--json")
        changes: dict[str, int] = json.loads(answer[answer.index("{") : answer.rindex("}") + 1])["changes"]
        return changes

    def relay(self) -> str:
        """The public address of the relay."""
        return str(json.loads(self.ztna("output", "relays", "--json"))[0]["host"])

    def ssh_from(self, place: str) -> bool:
        """Whether an sshd answers at the relay's address, asked from a network of the world."""
        asked = f"exec 3<>/dev/tcp/{self.relay()}/22 && head -c 4 <&3"
        words = ["ip", "netns", "exec", f"ztna.{self.run_name}.{place}", "timeout", "5", "bash", "-c", asked]
        return subprocess.run(words, capture_output=True, text=True, check=False).stdout == "SSH-"

    def left(self) -> list[str]:
        """What of its run is on this machine."""
        found = (
            [name for name in os.listdir("/run/netns") if self.run_name in name] if Path("/run/netns").is_dir() else []
        )
        found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if self.run_name in line]
        found += [str(path) for path in (state.run_dir(self.run_name),) if path.exists()]
        for entry in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if self.run_name in Path(f"/proc/{entry}/cmdline").read_text():
                    found.append(f"process {entry}")
        return found


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    life = Life(tmp_path_factory.mktemp("twin") / "project")
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
    assert re.search(r": 10 passed in ", life.ztna("verify", "--quick"))


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
