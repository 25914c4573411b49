"""The rootless rung, as an ordinary user: the same lab in user namespaces, and nothing left of it."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.lab.process import marked, start_time
from tests.lab import unprivileged

pytestmark = pytest.mark.lab

_PRELUDE = """
import json, os, signal, sys, time
from infra.lab import state
from infra.lab.errors import LabError
from infra.lab.nat import preset
from infra.lab.reap import reap_stale
from infra.lab.rungs import detect
from infra.lab.runtime import Lab
from infra.lab.topology import Impairment, two_nat_topology
topology = two_nat_topology(preset("cgnat"), preset("symmetric"))
slow = Impairment(delay_ms=20)
slow_topology = two_nat_topology(preset("cgnat"), preset("symmetric"), agent_link=(slow, slow))
forever = [sys.executable, "-ISsc", "import time; time.sleep(1000)"]
def ping(lab, host, *words):
    return lab.run(host, ["ping", "-c2", "-i0.1", "-W1", *words, "172.20.0.2"], check=False).stdout
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for the lab's state that an ordinary user can reach; nothing of a run may be left in it or of it."""
    path = Path(tempfile.mkdtemp(prefix="ztna-rootless-"))
    yield path
    try:
        runs = [entry for entry in path.iterdir() if entry.is_dir()]
        assert [left for entry in runs for left in marked(entry)] == []
        assert runs == []
    finally:
        shutil.rmtree(path)


def as_user(program: str, folder: Path) -> Any:
    """Run a program after the prelude and return the JSON it prints."""
    done = unprivileged.run(_PRELUDE + program, folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_rung_is_found_and_says_what_it_cannot_show(folder: Path) -> None:
    found = as_user(
        "found = detect()\nprint(json.dumps([os.geteuid(), found.rung, found.reasons, found.limits, found.tun]))",
        folder,
    )
    uid, rung, reasons, limits, tun = found
    assert uid != 0
    assert rung == "rootless"
    assert reasons == ["root: not running as root"]
    assert tun or any("/dev/net/tun" in limit for limit in limits)


def test_nats_and_impairments_work(folder: Path) -> None:
    seen = as_user(
        """
with Lab("rootless") as lab:
    begin = time.monotonic()
    lab.realise(topology)
    took_s = time.monotonic() - begin
    plain = ping(lab, "agent")
    lab.realise(slow_topology)
    slow_pings = ping(lab, "agent")
    print(json.dumps([took_s, plain, ping(lab, "connector"), slow_pings, lab.record().shaped]))
""",
        folder,
    )
    took_s, plain, connector, slow, shaped = seen
    assert took_s < 1.5
    assert " 0% packet loss" in plain
    assert " 0% packet loss" in connector
    times = [float(word.removeprefix("time=")) for word in slow.split() if word.startswith("time=")]
    assert len(times) == 2
    assert min(times) >= 40
    assert len(shaped) == 1


def test_commands_run_where_the_caller_stands_and_see_its_files(folder: Path) -> None:
    here = as_user(
        """
with Lab("rootless") as lab:
    lab.realise(topology)
    os.chdir(state.run_dir("rootless"))
    open("note", "w").write("seen")
    print(json.dumps([os.getcwd(), lab.run("agent", ["sh", "-c", "pwd; cat note; hostname -I"]).stdout]))
""",
        folder,
    )
    assert here[1].splitlines() == [here[0], f"seen{here[1].splitlines()[1].removeprefix('seen')}"]
    assert "172.21.0.10" in here[1]


def test_daemons_are_stopped_and_restarted_by_another_process(folder: Path) -> None:
    first = as_user(
        """
lab = Lab("rootless", persistent=True)
lab.realise(topology)
print(json.dumps(lab.spawn("agent", "sleeper", forever).pid))
""",
        folder,
    )
    assert start_time(first) is not None
    second, addresses = as_user(
        """
lab = Lab("rootless")
assert reap_stale() == []
pid = lab.restart("agent", "sleeper").pid
addresses = lab.run("agent", ["ip", "-4", "-o", "addr"]).stdout
lab.destroy()
print(json.dumps([pid, addresses]))
""",
        folder,
    )
    assert first != second
    assert "172.21.0.10/24" in addresses
    assert start_time(first) is None
    assert start_time(second) is None


@pytest.mark.parametrize("victim", ["the owner", "the holder"])
def test_a_killed_run_is_cleared_by_the_next(folder: Path, victim: str) -> None:
    argv = unprivileged.command(
        _PRELUDE
        + """
with Lab("rootless") as lab:
    lab.realise(slow_topology)
    lab.spawn("agent", "sleeper", forever)
    print(lab.record().holder[0], flush=True)
    time.sleep(60)
""",
        folder,
    )
    owner = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd="/")
    assert owner.stdout is not None
    with owner.stdout as output:
        holder = int(output.readline())
    if victim == "the holder":
        os.kill(holder, 9)
    owner.kill()
    owner.wait()
    gone = as_user("print(json.dumps([reap_stale(), reap_stale()]))", folder)
    assert gone == [["rootless"], []]
    assert start_time(holder) is None
