"""The lowest rung: the same calls, on addresses of 127.0.0.0/8; and how the rung is chosen."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.lab import rungs, state
from infra.lab.__main__ import main
from infra.lab.errors import LabError
from infra.lab.nat import preset
from infra.lab.process import start_time
from infra.lab.reap import reap_stale
from infra.lab.rungs import Rung, demand, detect
from infra.lab.runtime import Lab
from infra.lab.topology import Host, Impairment, Link, Router, Segment, two_nat_topology

_FOREVER = [sys.executable, "-ISsc", "import time; time.sleep(1000)"]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.setenv("ZTNA_LAB_STATE", str(tmp_path))
    with Lab("low", rung=Rung.LOOPBACK) as lab:
        yield lab
    assert not (tmp_path / "low").exists()


def test_the_same_topology_is_taken_and_addresses_are_translated(lab: Lab) -> None:
    link = (Impairment(delay_ms=10), Impairment())
    topology = two_nat_topology(preset("cgnat"), preset("symmetric"), agent_link=link)
    lab.realise(topology)
    for router in topology.routers:
        lab.ensure_router(router)
    assert lab.rung is Rung.LOOPBACK
    assert lab.address("172.20.0.2") == "127.20.0.2"
    assert lab.address("172.22.0.20/24") == "127.22.0.20"
    assert lab.exec_prefix("agent") == ()
    assert lab.run("agent", ["echo", "here"]).stdout == "here\n"
    assert lab.link_statistics() == {}
    lab.forget_mappings("nat-agent")
    lab.remove_router("nat-agent")
    lab.remove_router("nat-agent")


def test_addresses_that_would_meet_are_refused(lab: Lab) -> None:
    lab.ensure_segment(Segment("a", "10.1.1.0/24"))
    lab.ensure_segment(Segment("b", "172.1.1.0/24"))
    lab.ensure_host(Host("one", (Link("a", "10.1.1.1/24"),)))
    with pytest.raises(LabError, match=r"share the address 127\.1\.1\.1"):
        lab.ensure_host(Host("two", (Link("b", "172.1.1.1/24"),)))


def test_daemons_run_and_go_with_their_host(lab: Lab) -> None:
    lab.realise(two_nat_topology(preset("cgnat"), preset("symmetric")))
    info = lab.spawn("agent", "sleeper", _FOREVER)
    assert [(item.host, item.name, item.running) for item in lab.processes()] == [("agent", "sleeper", True)]
    assert lab.restart("agent", "sleeper").pid != info.pid
    pid = lab.processes()[0].pid
    lab.remove_host("agent")
    assert start_time(pid) is None
    assert lab.processes() == []
    with pytest.raises(LabError, match="no host 'agent'"):
        lab.exec_prefix("agent")


def test_a_daemon_that_no_record_knows_goes_too(lab: Lab) -> None:
    lab.realise(two_nat_topology(preset("cgnat"), preset("symmetric")))
    pid = lab.spawn("agent", "sleeper", _FOREVER).pid
    record = lab.record()
    record.processes.clear()
    state.save(record)
    lab.destroy()
    assert start_time(pid) is None


def test_a_run_at_work_does_not_hold_up_the_reaper(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "state.json").write_text("{")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "state.json.new").touch()
    (tmp_path / "foreign").mkdir()
    with state.locked("low"):
        assert reap_stale() == ["begun"]
    assert not (tmp_path / "begun").exists()
    assert (tmp_path / "foreign").exists()


def test_failures_of_commands_are_told(lab: Lab) -> None:
    lab.realise(two_nat_topology(preset("cgnat"), preset("symmetric")))
    with pytest.raises(LabError, match="in agent ended 3: oh no"):
        lab.run("agent", ["sh", "-c", "echo oh no >&2; exit 3"])
    assert lab.run("agent", ["false"], check=False).returncode == 1
    with pytest.raises(LabError, match=r"longer than 0\.05 s"):
        lab.run("agent", ["sleep", "5"], timeout_s=0.05)


def test_removing_from_a_run_that_is_gone_is_no_error(lab: Lab) -> None:
    lab.destroy()
    lab.remove_host("agent")
    lab.remove_router("nat-agent")
    lab.remove_segment("public")
    lab.remove_process("agent", "sleeper")
    with pytest.raises(LabError, match="no lab run 'low'"):
        lab.exec_prefix("agent")


def test_a_run_keeps_its_rung(lab: Lab) -> None:
    assert Lab("low").rung is Rung.LOOPBACK
    with pytest.raises(LabError, match="on the loopback rung: destroy it first"):
        Lab("low", rung=Rung.ROOT).ensure_segment(Segment("a", "10.0.0.0/8"))


def test_the_shell_commands_tell_what_they_cannot(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.realise(two_nat_topology(preset("cgnat"), preset("symmetric")))
    assert main(["stop", "--run", "low", "agent", "nothing"]) == 1
    assert "no process 'nothing' in agent" in capsys.readouterr().err
    assert main(["exec", "--run", "low", "agent"]) == 2
    assert main(["exec", "--run", "other", "agent", "--", "true"]) == 1
    assert "runs: low" in capsys.readouterr().err
    assert main(["list"]) == 0
    assert '"rung": "loopback"' in capsys.readouterr().out
    with pytest.raises(SystemExit) as usage:
        main(["exec"])
    assert usage.value.code == 2


def test_a_rung_without_its_tools_is_passed_over_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_nft(name: str) -> str:
        if name == "nft":
            raise LabError("'nft' is not installed: apt-get install nftables")
        return name

    monkeypatch.setattr(rungs, "require_tool", without_nft)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    found = detect.__wrapped__()
    assert found.rung is Rung.LOOPBACK
    assert all("apt-get install nftables" in reason for reason in found.reasons)
    assert len(found.limits) == 4
    assert not found.tun
    with pytest.raises(LabError, match="apt-get install nftables"):
        demand(Rung.ROOT)


def test_a_router_may_come_back_changed(lab: Lab) -> None:
    lab.ensure_segment(Segment("lan", "10.1.0.0/24"))
    lab.ensure_segment(Segment("public", "10.2.0.0/24"))
    for nat in (preset("full-cone"), preset("public")):
        router = Router("gate", (Link("lan", "10.1.0.1/24"),), Link("public", "10.2.0.1/24"), nat=nat)
        lab.ensure_router(router)
        assert Router.from_spec(lab.record().nodes["gate"].spec) == router
