"""Machines of the lab: a real first boot in a namespace of the topology, a life with reboots, and nothing left."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.lab import state
from infra.lab.errors import LabError
from infra.lab.machine import Machine, MachineSpec
from infra.lab.machine_root import BOOKWORM, ensure_root
from infra.lab.process import start_time
from infra.lab.reap import reap_stale
from infra.lab.runtime import Lab
from infra.lab.topology import Host, Link, Segment, Topology

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(900)]

ADDRESS = "198.18.5.2"
USER_DATA = """\
#cloud-config
hostname: chosen
write_files:
  - {path: /etc/from-user-data, content: hello, permissions: '0600'}
"""
NETWORK = Topology(
    segments=(Segment("net", "198.18.5.0/24"),),
    hosts=(Host("box", (Link("net", f"{ADDRESS}/24"),)), Host("peer", (Link("net", "198.18.5.3/24"),))),
)
CLONE_S, BOOT_S = 1.0, 15.0
SLACK = 4
"""Bars are for a machine that does nothing else; others run here, too."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(f"test-machine-{os.getpid()}") as lab:
        lab.realise(NETWORK)
        yield lab


@pytest.fixture(scope="module")
def spec() -> MachineSpec:
    return MachineSpec(root=str(ensure_root(BOOKWORM)), hostname="given", instance_id="i-1", user_data=USER_DATA)


@pytest.fixture(scope="module")
def machine(lab: Lab, spec: MachineSpec) -> Machine:
    machine = Machine(lab.run_name, "box")
    began = time.monotonic()
    machine.create(spec)
    cloned = time.monotonic() - began
    machine.start()
    booted = machine.wait_listening()
    assert (cloned < CLONE_S * SLACK, booted < BOOT_S * SLACK) == (True, True), f"{cloned:.2f} s, {booted:.1f} s"
    return machine


def test_the_first_boot_is_that_of_the_user_data(machine: Machine, lab: Lab) -> None:
    machine.run(["cloud-init", "status", "--wait"], timeout_s=120)
    assert machine.run(["cat", "/etc/from-user-data"]) == "hello"
    assert machine.run(["hostname"]).strip() == "chosen"
    assert machine.run(["systemctl", "is-system-running", "--wait"], check=False, timeout_s=120).strip() == "running"
    assert "Started" in machine.console(100_000)


def test_it_is_in_its_hosts_namespace(machine: Machine, lab: Lab) -> None:
    assert f"inet {ADDRESS}/24" in machine.run(["ip", "address", "show", "eth0"])
    seen = lab.run("peer", ["bash", "-c", f"exec 3<>/dev/tcp/{ADDRESS}/22; head -c 8 <&3"])
    assert seen.stdout == "SSH-2.0-"


def test_two_machines_of_one_root_have_host_keys_of_their_own(machine: Machine) -> None:
    root = Path(ensure_root(BOOKWORM))
    assert list((root / "etc/ssh").glob("ssh_host_*")) == []
    assert machine.run(["ls", "/etc/ssh"]).count("ssh_host_") > 0


def test_a_reboot_keeps_the_disk_and_is_no_first_boot(machine: Machine) -> None:
    machine.run(["sh", "-c", "echo kept > /var/kept; rm /etc/from-user-data"])
    before = machine.leader()
    machine.run(["systemctl", "reboot"], check=False)
    deadline = time.monotonic() + 60
    while machine.leader() in (0, before) and time.monotonic() < deadline:
        time.sleep(0.1)
    machine.wait_listening()
    assert machine.leader() != before
    machine.run(["cloud-init", "status", "--wait"], timeout_s=120)
    assert machine.run(["cat", "/var/kept"]) == "kept\n"
    assert machine.run(["sh", "-c", "ls /etc/from-user-data || true"]) == ""


def test_off_and_on(machine: Machine) -> None:
    machine.stop()
    assert (machine.running, machine.exists, machine.leader()) == (False, True, 0)
    with pytest.raises(LabError, match="is off"):
        machine.run(["true"])
    machine.start()
    machine.start()
    machine.wait_listening()
    assert machine.run(["cat", "/var/kept"]) == "kept\n"


def test_a_host_that_is_removed_takes_its_machine_along(lab: Lab, spec: MachineSpec) -> None:
    lab.ensure_host(Host("other", (Link("net", "198.18.5.9/24"),)))
    other = Machine(lab.run_name, "other")
    other.create(spec)
    other.start()
    leader = wait_for_init(other)
    other.remove()
    other.remove()
    lab.remove_host("other")
    assert not other.folder.exists()
    assert start_time(leader) is None


def test_what_a_killed_owner_left_is_reaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: MachineSpec) -> None:
    monkeypatch.setenv("ZTNA_LAB_STATE", str(tmp_path))
    run = f"test-killed-{os.getpid()}"
    (tmp_path / "spec.py").write_text(
        "import sys, time\n"
        "from infra.lab.machine import Machine, MachineSpec\n"
        "from infra.lab.runtime import Lab\n"
        "from tests.lab.test_machine import NETWORK\n"
        f"with Lab({run!r}) as lab:\n"
        "    lab.realise(NETWORK)\n"
        f"    machine = Machine({run!r}, 'box')\n"
        f"    machine.create(MachineSpec.from_spec({spec.to_spec()!r}))\n"
        "    machine.start()\n"
        "    print('up', flush=True)\n"
        "    time.sleep(600)\n"
    )
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    words = [sys.executable, str(tmp_path / "spec.py")]
    owner = subprocess.Popen(words, stdout=subprocess.PIPE, cwd=root, env=environment)
    assert owner.stdout is not None
    assert owner.stdout.readline() == b"up\n"
    machine = Machine(run, "box")
    leader = wait_for_init(machine)
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    assert machine.running, "a machine outlives who started it"
    assert run in reap_stale()
    assert start_time(leader) is None
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert not state.run_dir(run).exists()


def wait_for_init(machine: Machine) -> int:
    """The machine's init, once there is one."""
    deadline = time.monotonic() + 30
    while not (leader := machine.leader()):
        assert time.monotonic() < deadline, machine.console()
        time.sleep(0.05)
    return leader
