"""The course of a fallback from echoes and switches, its picture, and the cut that is always mended."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from infra.outputs import Place
from infra.verify import fallback as module
from infra.verify.context import VerifyError
from infra.verify.fallback import Course, Cutter, Sample, analyse, run_fallback
from infra.verify.sessions import Switch
from infra.verify.timeline import write_timeline
from tests.infra.verify.pages import client_page, relay_page, session
from tests.infra.verify.synthetic import NAT, context, outputs, place

START, CUT, MENDED = 1000.0, 1003.0, 1009.0


def echoes(*, silent: tuple[float, float] = (3.0, 3.4), seconds: float = 19.0) -> list[Sample]:
    """One echo each 100 ms: 1 ms direct, 9 ms by the relay, none while `silent`."""
    found: list[Sample] = []
    for number in range(int(seconds * 10)):
        at = number / 10
        rtt = None if silent[0] <= at < silent[1] else 9.0 if silent[0] <= at < 11 else 1.0
        found.append((START + at, rtt))
    return found


SWITCHES = (
    Switch(900.0, "relay", "direct", "check-succeeded"),
    Switch(CUT + 0.3, "direct", "relay", "no-answer"),
    Switch(MENDED + 2.0, "relay", "direct", "check-succeeded"),
)


def course() -> Course:
    return analyse(echoes(), SWITCHES, CUT, MENDED)


def test_the_times_are_those_of_the_switches_and_the_silence() -> None:
    found = course()
    assert found.succeeded
    assert found.to_relay_s == pytest.approx(0.3)
    assert found.to_direct_s == pytest.approx(2.0)
    assert found.outage_s == pytest.approx(0.5)
    assert [(phase.name, phase.sent, phase.answered) for phase in found.phases] == [
        ("direct", 30, 30),
        ("cut", 60, 56),
        ("mended", 100, 100),
    ]
    assert [phase.rtt_ms for phase in found.phases] == [1.0, 9.0, 1.0]


def test_the_path_at_any_time_is_the_last_one_switched_to() -> None:
    found = course()
    assert [found.path_at(at) for at in (0.0, 3.2, 3.31, 10.9, 11.1)] == [
        "direct",
        "direct",
        "relay",
        "relay",
        "direct",
    ]


def test_without_a_switch_it_did_not_succeed() -> None:
    found = analyse(echoes(silent=(3.0, 9.0)), SWITCHES[:1], CUT, MENDED)
    assert not found.succeeded
    assert (found.to_relay_s, found.to_direct_s) == (None, None)
    assert found.outage_s == pytest.approx(6.1)


def test_a_return_without_a_fallback_is_none() -> None:
    late = (Switch(MENDED + 1, "direct", "relay", "late"), Switch(MENDED + 2, "relay", "direct", "back"))
    assert not analyse(echoes(), late, CUT, MENDED).succeeded


def test_silence_to_the_end_is_an_outage_of_the_whole_cut() -> None:
    found = analyse([(at, None) for at, _ in echoes()], (), CUT, MENDED)
    assert found.outage_s == MENDED - CUT
    assert json.loads(json.dumps(found.to_json()))["phases"][0] == {
        "name": "direct", "sent": 30, "answered": 0, "rtt_ms": None,
    }  # fmt: skip


@pytest.mark.parametrize("suffix", ["png", "svg"])
@pytest.mark.parametrize("silent", [(3.0, 3.4), (0.0, 99.0)])
def test_the_picture_is_drawn_also_of_nothing(tmp_path: Path, suffix: str, silent: tuple[float, float]) -> None:
    drawn = write_timeline(analyse(echoes(silent=silent), SWITCHES, CUT, MENDED), tmp_path / f"a.{suffix}", "title")
    assert drawn.stat().st_size > 1000


def with_nats(**answers: Any) -> Any:
    """A context whose places answer, with a NAT in front of the agent that commands can enter."""
    pages = {
        ":9090": relay_page(),
        ":9091": client_page("connector", session("connector")),
        ":9092": client_page("agent", session()),
    }
    stack = context({**answers, **{port: {"status": 200, "json": page} for port, page in pages.items()}})
    stack.outputs.places["nat-agent"] = Place(kind="nat", address=NAT.public_address, exec=("env",))
    return stack


def test_the_cut_is_made_where_a_nat_can_be_entered_against_the_other_end() -> None:
    stack = with_nats()
    cutter = Cutter(stack, stack.outputs.service("echo-service"))
    (cut,) = cutter.cuts()
    text = " ".join(cut._argv)
    # The connector has no NAT in this stack: its address is the one that the relay sees.
    assert "ip saddr 172.20.0.22" in text
    assert "ip daddr 172.20.0.22" in text
    assert "delete table inet ztna_cut" in text
    del stack.outputs.places["nat-agent"]
    with pytest.raises(VerifyError, match="access to no NAT"):
        cutter.cuts()


def test_ends_that_the_relay_does_not_know_have_no_address() -> None:
    stack = with_nats()
    stack.outputs.places["connector"] = place("connector", "172.22.0.10", 9091, replace(NAT, name="nat-connector"))
    stack.outputs.places["agent"] = place("agent", "172.21.0.10", 9092)
    with pytest.raises(VerifyError, match="access to no NAT"):
        Cutter(stack, stack.outputs.service("echo-service")).cuts()


def test_without_a_direct_path_there_is_nothing_to_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SETTLE_S", 0.3)
    relayed = client_page("agent", session(path="relay"))
    stack = context({"udp-echo": {"sent": 3}, ":9092": {"status": 200, "json": relayed}})
    with pytest.raises(VerifyError, match=r"agent says 'relay'.*ztna why agent echo-service"):
        run_fallback(stack, stack.outputs.service("echo-service"))
    with pytest.raises(VerifyError, match="http-app has no echo"):
        run_fallback(stack, outputs().service("http-app"))
