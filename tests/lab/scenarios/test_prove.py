"""`ztna prove` with real roles and real packets: its four verdicts, each in scenarios made for it.

A verdict of `disagree` takes a liar, so some roles here are tampered with: they are the real ones but for what they say
of themselves. Each lie is told by one witness or two, and the others, who saw the packets, contradict it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.lab.matrix.classes import RELAY
from tests.lab.matrix.worlds import AGENT, CONNECTOR
from tests.lab.scenarios.networks import RANDOM, homes
from tests.lab.scenarios.stage import SERVICE, Said, Stage
from tests.support.session_bed import SessionBedSpec

pytestmark = [pytest.mark.lab, pytest.mark.matrix, pytest.mark.timeout(600)]

REQUESTS = ("--requests", "40")
PATH_S = 40.0
WITNESSES = ("records", "capture", "counters", "window")


@pytest.fixture(scope="module")
def near(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Two homes: packets go direct."""
    with Stage(tmp_path_factory.mktemp("near"), SessionBedSpec(homes(), (AGENT,), (CONNECTOR,))) as stage:
        yield stage


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Two NATs with random ports: packets go by the relay."""
    spec = SessionBedSpec(homes(RANDOM, RANDOM), (AGENT,), (CONNECTOR,))
    with Stage(tmp_path_factory.mktemp("far"), spec) as stage:
        yield stage


def play(stage: Stage, path: str, lies: Mapping[str, str]) -> None:
    """Start all roles afresh, those with a lie tampered with, and wait until the honest ones say the path."""
    for host in (AGENT, CONNECTOR):
        stage.stop(host)
    for host in (RELAY, CONNECTOR, AGENT):
        if host in lies:
            stage.start_tampered(host, lies[host])
        else:
            stage.restart(host)
    stage.wait_path(lies.get(AGENT, path).removeprefix("claims-"), PATH_S, only=AGENT)
    stage.hold(3.0)


def check(said: Said, code: int, sentence: str) -> None:
    """What is printed."""
    assert said.code == code, said
    assert f"agent reaches {SERVICE}: {sentence}" in said.lines, said
    assert said.lines[-1].startswith("report: ")


def check_witnesses(found: Mapping[str, Any], opinions: Mapping[str, str]) -> None:
    """Who says what, and that there is evidence of it."""
    said = {name: entry["says"] for name, entry in found["witnesses"].items()}
    assert said == opinions, found
    assert all(entry["seen"] for entry in found["witnesses"].values())
    names = {entry["name"] for entry in found["evidence"]}
    assert {"agent-before.json", "connector-after.json", "burst.json", "capture-agent.pcap"} <= names


def agreed(opinion: str) -> dict[str, str]:
    return dict.fromkeys(WITNESSES, opinion)


def test_direct_is_proved(near: Stage) -> None:
    play(near, "direct", {})
    check(near.prove(*REQUESTS), 0, "direct (records, capture, counters, window agree)")
    told = near.prove(*REQUESTS, "--json")
    assert (told.code, told.json["exit_code"], told.json["verdict"]) == (0, 0, "direct")
    check_witnesses(told.json, agreed("direct"))


def test_relayed_is_proved(far: Stage) -> None:
    play(far, "relay", {})
    check(far.prove(*REQUESTS), 10, "relayed (records, capture, counters, window agree)")
    told = far.prove(*REQUESTS, "--json")
    assert (told.code, told.json["exit_code"], told.json["verdict"]) == (10, 10, "relayed")
    check_witnesses(told.json, agreed("relayed"))


def test_a_backend_that_is_dead_is_unreachable_over_a_path_that_works(near: Stage) -> None:
    play(near, "direct", {})
    near.bed.lab.kill(CONNECTOR, "echo")
    try:
        check_unreachable(near)
        # The path is there, and `why` says so: it is what is behind the connector that does not answer.
        assert near.why().lines[0] == f"agent reaches {SERVICE}: direct"
    finally:
        near.bed.lab.start(CONNECTOR, "echo")


def test_a_connector_that_is_gone_is_unreachable(far: Stage) -> None:
    play(far, "relay", {})
    far.bed.lab.kill(CONNECTOR, "connector")
    check_unreachable(far)
    assert far.why("--json").json["step"] == "connector answers"


def check_unreachable(stage: Stage) -> None:
    """40 echoes and one TCP connection, none answered."""
    check(stage.prove(*REQUESTS, "--no-window"), 11, "unreachable (none of 41 requests was answered)")
    told = stage.prove(*REQUESTS, "--json")
    assert (told.code, told.json["exit_code"], told.json["verdict"]) == (11, 11, "unreachable")
    assert told.json["reason"] == "none of 41 requests was answered"
    assert "0 of 40" in told.json["witnesses"]["window"]["seen"]


@dataclass(frozen=True, slots=True)
class Lie:
    """Who is tampered with how on which network, and what the witnesses then say."""

    name: str
    path: str
    lies: Mapping[str, str]
    opinions: Mapping[str, str] = field(default_factory=dict)
    sentence: str = ""


BOTH_DIRECT = {AGENT: "claims-direct", CONNECTOR: "claims-direct"}
BOTH_RELAY = {AGENT: "claims-relay", CONNECTOR: "claims-relay"}
LIES = (
    Lie(
        "ends-claim-direct", "relay", BOTH_DIRECT, {**agreed("relayed"), "records": "direct"},
        "records: direct; capture, counters, window: relayed",
    ),
    Lie(
        "ends-claim-relay", "direct", BOTH_RELAY, {**agreed("direct"), "records": "relayed"},
        "records: relayed; capture, counters, window: direct",
    ),
    Lie(
        "agent-alone-claims-direct", "relay", {AGENT: "claims-direct"}, {**agreed("relayed"), "records": "mixed"},
        "records: mixed; capture, counters, window: relayed",
    ),
    Lie(
        "relay-counts-nothing", "relay", {RELAY: "counts-nothing"}, {**agreed("relayed"), "counters": "direct"},
        "records, capture, window: relayed; counters: direct",
    ),
    Lie(
        "all-three-roles-lie", "relay", {**BOTH_DIRECT, RELAY: "counts-nothing"},
        {**agreed("direct"), "capture": "relayed", "window": "relayed"},
        "records, counters: direct; capture, window: relayed",
    ),
)  # fmt: skip


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.name)
def test_a_lie_makes_the_witnesses_disagree(lie: Lie, near: Stage, far: Stage) -> None:
    stage = near if lie.path == "direct" else far
    play(stage, lie.path, lie.lies)
    check(stage.prove(*REQUESTS), 12, f"disagree ({lie.sentence})")
    told = stage.prove(*REQUESTS, "--json")
    assert (told.code, told.json["exit_code"], told.json["verdict"]) == (12, 12, "disagree")
    assert told.json["reason"] == lie.sentence
    check_witnesses(told.json, lie.opinions)


def test_the_forged_log_says_what_the_packets_contradict(far: Stage) -> None:
    play(far, "relay", BOTH_DIRECT)
    log = far.bed.log_tail(AGENT, 200)
    assert "Path selected: DIRECT" in log
    assert "Path selected: RELAY" not in log
    assert far.prove(*REQUESTS).code == 12
    seen = far.evidence("relay-after.json")["relay"]["sessions"][0]["bytes"]
    assert sum(seen.values()) > 40 * 1000
