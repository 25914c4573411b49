"""aws-us-east-2 on this machine through its life, by the commands that a person gives: up to nothing left."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.lab import state
from infra.twin import aws_view, container
from infra.twin.aws_ecs import SERVICE
from infra.twin.store import Item, Store
from tests.infra.twin.life import Life
from tests.support.project import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(1800)]

STACK = "aws-us-east-2"
WORKLOADS = ("connector", "http-app", "quakekube")
QUAKE = {"quakekube": "true", "quakekubeImage": f"ghcr.io/chrisrx/quake-kube@sha256:{'0' * 64}"}
SETTLE_S = 120.0

UDP_FROM = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("0.0.0.0", 5555))
for port in sys.argv[2:]:
    sock.sendto(b"x", (sys.argv[1], int(port)))
"""
UDP_SEEN = """
import socket, sys
socks = []
for port in sys.argv[1:]:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("0.0.0.0", int(port)))
    sock.settimeout(20)
    socks.append(sock)
print("ready", flush=True)
print(*(":".join(map(str, sock.recvfrom(100)[1])) for sock in socks))
"""


class AwsLife(Life):
    """The stack, and what its cloud holds."""

    def items(self, token: str) -> list[Item]:
        """What the cloud holds of a type."""
        return Store(state.run_dir(self.run_name)).items(token)

    def task(self, workload: str) -> Item | None:
        """The newest task of a workload that runs."""
        services = {item.number for item in self.items(SERVICE) if f"services-{workload}-" in item.id}
        found = [
            item
            for item in self.items(aws_view.TASK)
            if item.data["service"] in services and item.data["state"] == "RUNNING"
        ]
        return found[-1] if found else None

    def host(self, workload: str) -> str:
        """The host of the lab that a workload's task is in."""
        task = self.wait(lambda: self.task(workload), f"a task of {workload}")
        return aws_view.enis_of(task)[0].host

    def address(self, workload: str) -> str:
        """Its address in the VPC."""
        task = self.wait(lambda: self.task(workload), f"a task of {workload}")
        return aws_view.enis_of(task)[0].address

    def wait(self, find: Callable[[], Any], what: str) -> Any:
        """Wait until something is there, and return it."""
        deadline = time.monotonic() + SETTLE_S
        while time.monotonic() < deadline:
            if found := find():
                return found
            time.sleep(0.5)
        raise AssertionError(f"{what} is not there after {SETTLE_S:g} s")

    def tcp(self, place: str, address: str, port: int) -> bool:
        """Whether a port answers from a place."""
        asked = f"exec 3<>/dev/tcp/{address}/{port} && echo open"
        argv = [*self.inside(place), "timeout", "3", "bash", "-c", asked]
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip() == "open"


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AwsLife]:
    life = AwsLife(tmp_path_factory.mktemp("twin") / "project", STACK)
    yield life
    subprocess.run(
        [str(ROOT / ".venv/bin/python"), "-m", "infra.lab", "reap", "--run", life.run_name], cwd=ROOT, check=False
    )


def test_from_killed_ups_to_serving(life: AwsLife) -> None:
    life.config(**QUAKE)
    for line in (" + NatGateway vpc-nat", "info: uploading"):
        life.killed_at(line, "up", "--yes")
    began = time.monotonic()
    changes = life.up(**QUAKE)
    print(f"up after two kills: {time.monotonic() - began:.1f} s, {changes}")
    assert (len(life.hosts("ec2")), len(life.hosts("nat")), len(life.hosts("vpc"))) == (1, 1, 1)


def test_nothing_to_do(life: AwsLife) -> None:
    assert life.up(**QUAKE).keys() == {"same"}


def test_what_was_promised_holds_from_a_network_behind_a_nat(life: AwsLife) -> None:
    assert "0 failed" not in life.ztna("verify", "--quick")


def test_groups_hold_between_tasks(life: AwsLife) -> None:
    connector, app, quake = (life.host(name) for name in WORKLOADS)
    (relay,) = life.hosts("ec2")
    web = life.address("http-app")
    assert life.wait(lambda: life.tcp(connector, web, 8080), "the backend's answer")
    assert life.tcp(connector, life.address("quakekube"), 27960)
    assert not life.tcp(quake, web, 8080)
    assert not life.tcp(app, life.address("connector"), 9091)
    assert not life.tcp(relay, web, 8080)
    assert not life.tcp("open", web, 8080)


def test_the_nat_gateway_maps_each_destination_to_another_port(life: AwsLife) -> None:
    gateway = next(item.data["address"] for item in life.items(aws_view.EIP) if item.urn.endswith("::vpc-nat-address"))
    with subprocess.Popen(
        [*life.inside("open"), sys.executable, "-ISc", UDP_SEEN, "7001", "7002"], stdout=subprocess.PIPE, text=True
    ) as seen:
        assert seen.stdout is not None
        assert seen.stdout.readline() == "ready\n"
        argv = [*life.inside(life.host("connector")), sys.executable, "-ISc", UDP_FROM, "198.18.20.10", "7001", "7002"]
        subprocess.run(argv, check=True)
        first, second = seen.stdout.read().split()
    assert first.split(":")[0] == second.split(":")[0] == gateway
    assert first != second


def test_a_task_has_no_rights_and_nothing_of_this_machine(life: AwsLife) -> None:
    pid = container.leader(life.run_name, life.host("http-app"))
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{child}/status").read_text().splitlines() if ":\t" in line
    )
    assert status["Uid"].split() == ["65532"] * 4
    assert {status[name] for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    assert not (set(os.listdir(f"/proc/{child}/root")) & {"run", "home", "work", "tmp", "var"})
    with pytest.raises(OSError, match="Read-only"):
        Path(f"/proc/{child}/root/written").touch()


def test_a_backend_that_dies_is_started_again_and_found_by_its_name(life: AwsLife) -> None:
    old = life.host("http-app")
    pid = container.leader(life.run_name, old)
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    os.kill(int(child), signal.SIGKILL)
    life.wait(lambda: life.task("http-app") is not None and life.host("http-app") != old, "another task")
    life.wait(lambda: f"task-{old}" not in life.hosts("task") and old not in life.hosts("task"), "the old one's end")
    assert "0 failed" not in life.ztna("verify", "--quick")


def test_new_certificates_are_a_rolling_update_of_the_connector(life: AwsLife) -> None:
    before, backend = life.host("connector"), life.host("http-app")
    life.up(**QUAKE, pkiGeneration=2)
    life.wait(lambda: life.task("connector") is not None and life.host("connector") != before, "another connector")
    assert life.host("http-app") == backend, "what has not changed stays"
    life.wait(lambda: before not in life.hosts("task"), "the old one's end")
    assert "0 failed" not in life.ztna("verify", "--quick")


def test_another_generation_is_another_instance_with_the_same_address(life: AwsLife) -> None:
    address, before = life.relay(), life.hosts("ec2")
    life.up(**QUAKE, pkiGeneration=2, hostGeneration=2)
    assert life.relay() == address
    assert len(life.hosts("ec2")) == 1
    assert life.hosts("ec2") != before
    assert "0 failed" not in life.ztna("verify", "--quick")


def test_ssh_is_open_to_the_administrators_alone(life: AwsLife) -> None:
    assert (life.ssh_from("admin"), life.ssh_from("open")) == (True, False)
    networks = ["203.0.113.0/24", "198.18.20.0/24"]
    life.up(**QUAKE, pkiGeneration=2, hostGeneration=2, adminCidrs=networks)
    assert (life.ssh_from("admin"), life.ssh_from("open")) == (True, True)


def test_a_controller_that_was_killed_comes_back_and_leaves_tasks_alone(life: AwsLife) -> None:
    tasks = life.hosts("task")
    record = state.load(life.run_name)
    assert record is not None
    process = next(item for key, item in record.processes.items() if key.endswith("/controller"))
    os.kill(process.pid, signal.SIGKILL)
    life.ztna("refresh")
    again = state.load(life.run_name)
    assert again is not None
    assert again.processes[f"{process.host}/controller"].pid != process.pid
    time.sleep(3)
    assert life.hosts("task") == tasks


def test_destroy_that_was_killed_is_gone_on_with_and_leaves_nothing(life: AwsLife) -> None:
    life.killed_at(" - NatGateway vpc-nat", "destroy", "--yes")
    life.ztna("destroy", "--yes")
    assert life.left() == []
