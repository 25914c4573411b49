"""Making, changing and removing labs: object by object, again and again, by many at once, and after any accident."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.lab import state
from infra.lab.errors import LabError
from infra.lab.nat import preset
from infra.lab.netns import Place
from infra.lab.plan import PREFIX
from infra.lab.process import is_alive, start_time
from infra.lab.reap import reap_stale
from infra.lab.runtime import Lab
from infra.lab.topology import Host, Impairment, Link, Router, Segment, two_nat_topology

pytestmark = [pytest.mark.lab, pytest.mark.root]

RUN = f"test-life-{os.getpid()}"
TOPOLOGY = two_nat_topology(preset("port-restricted"), preset("symmetric"))
_FOREVER = [sys.executable, "-ISsc", "import time; time.sleep(1000)"]
_OWNER = """
import sys, time
from infra.lab.nat import preset
from infra.lab.runtime import Lab
from infra.lab.topology import two_nat_topology
with Lab({run!r}, persistent={persistent}) as lab:
    lab.realise(two_nat_topology(preset("cgnat"), preset("symmetric")))
    lab.spawn("agent", "sleeper", {forever!r})
    print("ready", flush=True)
    {then}
"""


def left_over(run: str = RUN) -> set[str]:
    """Names of namespaces that a run still has."""
    return {name for name in Place().namespaces() if name.startswith(f"{PREFIX}{run}.")}


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(RUN) as lab:
        yield lab
    assert not left_over()
    assert not state.run_dir(RUN).exists()


@pytest.fixture
def clean() -> Iterator[None]:
    """No run before, and none after, whatever the test does."""
    Lab(RUN).destroy()
    yield
    Lab(RUN).destroy()
    assert not left_over()


def start_owner(then: str, *, persistent: bool = False) -> subprocess.Popen[str]:
    """Start a process that owns the run, and wait until its lab stands."""
    program = _OWNER.format(run=RUN, persistent=persistent, forever=_FOREVER, then=then)
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def sleeper_pid() -> int:
    """Pid of the owner's daemon."""
    return Lab(RUN).record().processes["agent/sleeper"].pid


def pings(lab: Lab, host: str) -> bool:
    """Whether a host reaches the relay."""
    return lab.run(host, ["ping", "-c1", "-W1", "172.20.0.2"], check=False).returncode == 0


def test_the_lab_stands_and_goes_quickly(lab: Lab) -> None:
    begin = time.monotonic()
    lab.realise(TOPOLOGY)
    stands = time.monotonic()
    assert pings(lab, "agent")
    assert pings(lab, "connector")
    going = time.monotonic()
    lab.destroy()
    assert time.monotonic() - going < 10.0
    assert stands - begin < 15.0


def test_objects_are_made_one_by_one_and_again(lab: Lab) -> None:
    for _ in range(2):
        for segment in TOPOLOGY.segments:
            lab.ensure_segment(segment)
        for router in TOPOLOGY.routers:
            lab.ensure_router(router)
        for host in TOPOLOGY.hosts:
            lab.ensure_host(host)
        assert pings(lab, "agent")
    for host in TOPOLOGY.hosts:
        lab.remove_host(host.name)
        lab.remove_host(host.name)
    for router in TOPOLOGY.routers:
        lab.remove_router(router.name)
    for segment in TOPOLOGY.segments:
        lab.remove_segment(segment.name)
        lab.remove_segment(segment.name)
    assert left_over() == {f"{PREFIX}{RUN}._switch"}


def test_many_processes_make_objects_at_once(lab: Lab) -> None:
    for segment in TOPOLOGY.segments:
        lab.ensure_segment(segment)
    program = (
        "import json, sys\nfrom infra.lab.runtime import Lab\nfrom infra.lab.topology import Host, Router\n"
        "kind, spec = json.loads(sys.argv[1])\nlab = Lab(sys.argv[2])\n"
        "lab.ensure_router(Router.from_spec(spec)) if kind == 'router' else lab.ensure_host(Host.from_spec(spec))"
    )
    wanted = [("router", router.to_spec()) for router in TOPOLOGY.routers]
    wanted += [("host", host.to_spec()) for host in TOPOLOGY.hosts]
    workers = [subprocess.Popen([sys.executable, "-c", program, json.dumps(item), RUN]) for item in wanted]
    assert [worker.wait(60) for worker in workers] == [0] * len(wanted)
    assert pings(lab, "agent")
    assert pings(lab, "backend")


def test_a_host_needs_its_segment_and_keeps_it(lab: Lab) -> None:
    host = Host("lonely", (Link("lan", "172.21.0.5/24"),))
    with pytest.raises(LabError, match="segment 'lan' is not there yet"):
        lab.ensure_host(host)
    lab.ensure_segment(Segment("lan", "172.21.0.0/24"))
    lab.ensure_host(host)
    with pytest.raises(LabError, match="still in use by lonely"):
        lab.remove_segment("lan")


def test_daemons_stay_through_changes_of_their_host(lab: Lab) -> None:
    lab.realise(TOPOLOGY)
    started = lab.spawn("agent", "sleeper", _FOREVER)
    link = Link("agent-lan", "172.21.0.10/24")
    for changed in (
        Link("agent-lan", "172.21.0.10/24", up=Impairment(delay_ms=5)),
        Link("agent-lan", "172.21.0.44/24", up=Impairment(delay_ms=5), mtu=1400),
        link,
    ):
        lab.ensure_host(Host("agent", (changed,), gateway="172.21.0.1"))
        assert pings(lab, "agent")
        assert is_alive(started.pid, started.start_time)
        addresses = lab.run("agent", ["ip", "-4", "-o", "addr", "show", "dev", "eth0"]).stdout
        assert changed.address in addresses
        assert f"mtu {changed.mtu} " in lab.run("agent", ["ip", "link", "show", "dev", "eth0"]).stdout


def test_plain_routers_are_known_to_their_neighbours(lab: Lab) -> None:
    public = two_nat_topology(preset("public"), preset("public"))
    nat = two_nat_topology(preset("port-restricted"), preset("port-restricted"))
    lab.realise(public)
    routes = lab.run("relay", ["ip", "route"]).stdout
    assert "172.21.0.0/24 via 172.20.0.21" in routes
    assert "172.22.0.0/24 via 172.20.0.22" in routes
    lab.run("agent", ["ping", "-c1", "-W1", "172.22.0.10"])
    lab.ensure_router(nat.routers[0])
    routes = lab.run("relay", ["ip", "route"]).stdout
    assert "172.21.0.0/24" not in routes
    assert "172.22.0.0/24 via 172.20.0.22" in routes
    assert pings(lab, "agent")
    # A host that comes later learns them too.
    lab.ensure_host(Host("late", (Link("public", "172.20.0.9/24"),)))
    assert "172.22.0.0/24 via 172.20.0.22" in lab.run("late", ["ip", "route"]).stdout


def test_daemons_are_stopped_started_and_killed(lab: Lab) -> None:
    lab.realise(TOPOLOGY)
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(1000)"
    first = lab.spawn("agent", "stubborn", [sys.executable, "-ISsc", stubborn], env={"COLOUR": "blue"})
    log = state.run_dir(RUN) / "log" / "agent-stubborn.log"
    wait_for(lambda: log.exists() and log.read_text() == "up\n")
    environment = Path(f"/proc/{first.pid}/environ").read_text().split("\0")
    assert "COLOUR=blue" in environment
    assert not any(item.startswith("PYTEST_CURRENT_TEST") for item in environment)
    lab.stop("agent", "stubborn", grace_s=0.1)
    assert not is_alive(first.pid, first.start_time)
    second = lab.start("agent", "stubborn")
    assert second.pid != first.pid
    assert lab.start("agent", "stubborn") == second
    third = lab.restart("agent", "stubborn", grace_s=0.1)
    lab.kill("agent", "stubborn")
    assert lab.wait("agent", "stubborn", 1.0)
    assert [item.running for item in lab.processes()] == [False]
    with pytest.raises(LabError, match="does not run"):
        lab.signal("agent", "stubborn", signal.SIGHUP)
    assert not is_alive(third.pid, third.start_time)
    lab.remove_process("agent", "stubborn")
    with pytest.raises(LabError, match="no process 'stubborn'"):
        lab.start("agent", "stubborn")


def wait_for(condition: object, timeout_s: float = 5.0) -> None:
    """Wait until a callable is true."""
    assert callable(condition)
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)


def test_a_reused_pid_is_left_alone(lab: Lab) -> None:
    bystander = subprocess.Popen(_FOREVER)
    try:
        lab.realise(TOPOLOGY)  # takes more than the clock tick in which start times are counted
        lab.spawn("agent", "sleeper", _FOREVER)
        with state.locked(RUN):
            record = lab.record()
            mine = record.processes["agent/sleeper"]
            os.kill(mine.pid, signal.SIGKILL)
            mine.pid = bystander.pid
            state.save(record)
        lab.kill("agent", "sleeper")
        lab.destroy()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_other_namespaces_and_longer_names_are_left_alone(lab: Lab) -> None:
    foreign = "lifetest-foreign"
    subprocess.run(["ip", "netns", "add", foreign], check=True)
    try:
        with Lab(f"{RUN}-b") as other:
            other.realise(TOPOLOGY)
            lab.realise(TOPOLOGY)
            lab.destroy()
            assert pings(other, "agent")
            assert foreign in subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    finally:
        subprocess.run(["ip", "netns", "del", foreign], check=True)


@pytest.mark.parametrize(
    ("then", "number"),
    [
        ("time.sleep(1); raise RuntimeError", None),
        ("time.sleep(60)", signal.SIGINT),
        ("time.sleep(60)", signal.SIGKILL),
    ],
    ids=["an error", "Ctrl-C", "kill -9 and the next run"],
)
def test_nothing_is_left_after(clean: None, then: str, number: int | None) -> None:
    owner = start_owner(then)  # it lives for a second at least, so that what it started can be looked at
    pid = sleeper_pid()
    started = start_time(pid)
    assert started is not None
    if number is not None:
        owner.send_signal(number)
    owner.communicate(timeout=10)
    if number == signal.SIGKILL:
        assert left_over()
        assert is_alive(pid, started)
        assert RUN in reap_stale()
    assert not left_over()
    assert not is_alive(pid, started)
    assert not state.run_dir(RUN).exists()


def test_a_persistent_run_outlives_its_owner_and_its_reapers(clean: None) -> None:
    owner = start_owner("import os; os._exit(0)", persistent=True)
    owner.communicate(timeout=10)
    assert RUN not in reap_stale()
    lab = Lab(RUN)
    pid = sleeper_pid()
    assert start_time(pid) is not None
    assert pings(lab, "agent")
    lab.destroy()
    assert start_time(pid) is None


def test_a_run_killed_at_any_moment_is_made_whole_by_the_next_attempt(clean: None) -> None:
    program = _OWNER.format(run=RUN, persistent=True, forever=_FOREVER, then="import os; os._exit(0)")
    chance = random.Random(4787)
    for _ in range(12):
        owner = subprocess.Popen(
            [sys.executable, "-c", program.replace("with Lab", "lab = Lab").replace(" as lab:", "\nif True:")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(chance.uniform(0.08, 0.5))
        owner.kill()
        owner.wait()
    lab = Lab(RUN, persistent=True)
    lab.realise(two_nat_topology(preset("cgnat"), preset("symmetric")))
    lab.spawn("agent", "sleeper", _FOREVER)
    assert pings(lab, "agent")
    assert pings(lab, "connector")
    lab.destroy()
    assert not left_over()


def test_a_namespace_taken_away_is_made_again(lab: Lab) -> None:
    lab.realise(TOPOLOGY)
    for node in ("agent", "_switch"):
        subprocess.run(["ip", "netns", "del", f"{PREFIX}{RUN}.{node}"], check=True)
        lab.realise(TOPOLOGY)
        assert pings(lab, "agent")
        assert pings(lab, "connector")


def test_a_lost_record_does_not_stand_in_the_way(lab: Lab) -> None:
    lab.realise(TOPOLOGY)
    lab.spawn("agent", "sleeper", _FOREVER)
    pid = sleeper_pid()
    (state.run_dir(RUN) / "state.json").write_text("{")
    with pytest.raises(LabError, match=f"reap --run {RUN}"):
        lab.realise(TOPOLOGY)
    lab.destroy()
    assert not left_over()
    assert start_time(pid) is None
    lab.realise(TOPOLOGY)
    assert pings(lab, "agent")


def test_commands_for_the_shell(lab: Lab) -> None:
    def command(*words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "infra.lab", *words]
        return subprocess.run(argv, capture_output=True, text=True, check=False)

    lab.realise(TOPOLOGY)
    assert command("exec", "--run", RUN, "agent", "--", "sh", "-c", "exit 7").returncode == 7
    assert "172.21.0.10" in command("exec", "--run", RUN, "agent", "--", "ip", "addr").stdout
    assert "no host 'nobody'" in command("exec", "--run", RUN, "nobody", "--", "true").stderr
    lab.spawn("agent", "sleeper", _FOREVER)
    pid = sleeper_pid()
    assert command("restart", "--run", RUN, "agent", "sleeper").returncode == 0
    assert sleeper_pid() != pid
    assert command("stop", "--run", RUN, "agent", "sleeper").returncode == 0
    (run,) = json.loads(command("list", "--run", RUN).stdout)
    assert run["nodes"]["agent"] == {"kind": "host", "ready": True}
    assert [item["running"] for item in run["processes"]] == [False]
    assert command("start", "--run", RUN, "agent", "nothing").returncode == 1
    router = TOPOLOGY.routers[0]
    doubled = Router(router.name, router.inside, router.outside, nat=preset("cgnat"))
    assert command("router", "--run", RUN, json.dumps(doubled.to_spec())).returncode == 0
    assert command("exec", "--run", RUN, f"{router.name}_carrier", "--", "true").returncode == 0
    assert command("router", "--run", RUN, json.dumps(router.to_spec())).returncode == 0
    assert "no host" in command("exec", "--run", RUN, f"{router.name}_carrier", "--", "true").stderr
    assert command("router", "--run", "no-such-run", json.dumps(router.to_spec())).returncode == 1
    assert command("reap", "--run", RUN).returncode == 0
    assert not left_over()


def test_a_router_serves_several_lans_and_routes_between_them(lab: Lab) -> None:
    for name, cidr in (("one", "10.1.0.0/24"), ("two", "10.2.0.0/24"), ("public", "172.20.0.0/24")):
        lab.ensure_segment(Segment(name, cidr))
    inside = (Link("one", "10.1.0.1/24"), Link("two", "10.2.0.1/24"))
    lab.ensure_router(Router("gate", inside, Link("public", "172.20.0.21/24"), nat=preset("full-cone")))
    lab.ensure_host(Host("a", (Link("one", "10.1.0.2/24"),), gateway="10.1.0.1"))
    lab.ensure_host(Host("b", (Link("two", "10.2.0.2/24"),), gateway="10.2.0.1"))
    lab.ensure_host(Host("relay", (Link("public", "172.20.0.2/24"),)))
    lab.run("a", ["ping", "-c1", "-W1", "10.2.0.2"])
    assert pings(lab, "a")
    assert pings(lab, "b")
