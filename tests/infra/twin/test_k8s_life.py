"""pi-home on this machine through its life, by the commands that a person gives: up to nothing left."""

import contextlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.lab import state
from infra.lab.runtime import Lab
from infra.twin import k8s_cluster
from infra.twin.site import Site, run_name
from tests.support.pi_home import CONFIG
from tests.support.project import ROOT, link_project

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(1200)]

STACK = "pi-home"
ADDRESS = "192.168.77.205"
COMMAND_S = 300
SERVICE = "kubernetes:core/v1:Service"


class Home:
    """A project of its own, and what its twin is."""

    def __init__(self, directory: Path) -> None:
        self.directory = link_project(directory)
        self.run_name = run_name(STACK, self.directory)
        self.environment = {**os.environ, "PULUMI_CONFIG_PASSPHRASE": "test", "PYTHONUNBUFFERED": "1"}

    def config(self, **values: Any) -> None:
        settings = {**CONFIG, f"{STACK}:loadBalancerIp": ADDRESS, f"{STACK}:pool": f"{ADDRESS}/32"}
        settings |= {f"{STACK}:{key}": value for key, value in values.items()}
        (self.directory / f"Pulumi.{STACK}.yaml").write_text(yaml.safe_dump({"config": settings}))

    def argv(self, *words: str) -> list[str]:
        verb, *rest = words
        return [str(ROOT / ".venv/bin/ztna"), verb, "--stack", STACK, "--twin", *rest]

    def ztna(self, *words: str, code: int = 0) -> str:
        """Run a command; what it printed."""
        done = subprocess.run(
            self.argv(*words), cwd=self.directory, env=self.environment, capture_output=True, text=True,
            timeout=COMMAND_S, check=False,
        )  # fmt: skip
        assert done.returncode == code, f"{' '.join(words)} ended {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def up(self, **config: Any) -> dict[str, int]:
        """Bring it up with a configuration; the number of resources by operation."""
        self.config(**config)
        answer = self.ztna("up", "--yes", "--json")
        changes: dict[str, int] = json.loads(answer[answer.index("{") : answer.rindex("}") + 1])["changes"]
        return changes

    def killed_at(self, line_with: str, *command: str) -> None:
        """Run a command, and KILL it at the first line that holds these words."""
        with subprocess.Popen(
            self.argv(*command), cwd=self.directory, env=self.environment, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            assert any(line_with in line for line in process.stdout), f"it ended before {line_with!r}"
            process.send_signal(signal.SIGKILL)

    def pods(self) -> dict[str, list[str]]:
        """Names of pods by their Deployment."""
        found: dict[str, list[str]] = {}
        for pod in k8s_cluster.status(self.run_name)["pods"]:
            found.setdefault(pod["owner"].rpartition("/")[2], []).append(pod["name"])
        return found

    def left(self) -> list[str]:
        """What of its run is on this machine."""
        found = [name for name in os.listdir("/run/netns") if self.run_name in name]
        found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if self.run_name in line]
        found += [str(path) for path in (state.run_dir(self.run_name),) if path.exists()]
        for entry in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if self.run_name in Path(f"/proc/{entry}/cmdline").read_text():
                    found.append(f"process {entry}")
        return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    made = Home(tmp_path_factory.mktemp("twin") / "pi-home")
    try:
        yield made
    finally:
        Lab(made.run_name).destroy()
        assert made.left() == []


def test_up_is_what_it_promises_on_the_lan_of_the_configuration(home: Home) -> None:
    assert home.up() == {"create": 51}
    assert str(k8s_cluster.home(home.run_name).lan) == "192.168.77.0/24"
    answer = home.ztna("verify", "--quick")
    assert re.search(r": 10 passed in ", answer), answer


def test_nothing_changed_is_nothing_done(home: Home) -> None:
    before = home.pods()
    assert home.up() == {"same": 51}
    assert home.pods() == before


def test_an_observed_address_that_lies_turns_verify_red(home: Home) -> None:
    """What a Service without externalTrafficPolicy Local would do: the relay tells agents an address of the node's."""
    store = Site(home.run_name).store
    (lan,) = [item for item in store.items(SERVICE) if item.data["key"].endswith("/intermediate-lan")]

    def set_policy(word: str, generation: int) -> None:
        manifest = lan.data["object"]
        changed = {**manifest, "spec": {**manifest["spec"], "externalTrafficPolicy": word}}
        store.change(lan.number, {"object": changed, "generation": generation})

    set_policy("Cluster", 2)
    try:
        laptop = re.escape(k8s_cluster.home(home.run_name).laptop)
        assert re.search(
            rf"saw us come from 10\.42\.0\.1:\d+, not from {laptop}", home.ztna("verify", "--quick", code=1)
        )
    finally:
        set_policy("Local", 3)


def test_a_changed_configuration_rolls_the_pods_that_have_it(home: Home) -> None:
    before = home.pods()
    assert home.up(logLevel="debug") == {"same": 47, "update": 4}
    after = home.pods()
    assert {name for name in after if after[name] != before[name]} == {"intermediate", "connector"}
    assert re.search(r": 10 passed in ", home.ztna("verify", "--quick"))


def test_a_killed_up_is_gone_on_from(home: Home) -> None:
    home.config(logLevel="warning")
    home.killed_at("ConfigMap", "up", "--yes")
    assert "create" not in home.up(logLevel="warning")
    assert all(len(names) == 1 for names in home.pods().values())
    assert re.search(r": 10 passed in ", home.ztna("verify", "--quick"))


def test_destroy_leaves_nothing(home: Home) -> None:
    home.ztna("destroy", "--yes")
    assert home.left() == []
