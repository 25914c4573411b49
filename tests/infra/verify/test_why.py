"""Each step on the way to a service, failing in turn; and what the ends say of the direct path."""

from dataclasses import replace
from typing import Any

import pytest

from infra.verify.why import ADVICE, Explanation, Outcome, Subject, explain
from tests.infra.verify.pages import NAT, client_page, relay_page, session

SYMMETRIC = {"mapping": "address-and-port-dependent", "filtering": "address-and-port-dependent", "allocation": "random"}
DEAD = {"state": "unreachable", "error": "connection refused"}


def subject(**pages: Any) -> Subject:
    """Two homes with a direct path, unless told otherwise."""
    return Subject(
        agent="agent",
        connector="connector",
        service="echo-service",
        agent_page=pages.get("agent", client_page("agent", session())),
        connector_page=pages.get("connector", client_page("connector", session("connector"))),
        relay_page=pages.get("relay", relay_page()),
    )


def relayed(side: str, **changes: Any) -> dict[str, Any]:
    values = {"path": "relay", "peer_address": "172.20.0.2:4433", "reason": "no-direct-path", "rtt_ms": 9.0}
    return session(side, **(values | changes))


def test_a_direct_path_needs_nothing() -> None:
    found = explain(subject())
    assert (found.outcome, found.exit_code, found.step) == (Outcome.DIRECT, 0, None)
    assert all(step.holds for step in found.steps)
    assert "172.20.0.22:40002" in found.evidence


@pytest.mark.parametrize(
    ("pages", "step", "words"),
    [
        ({"agent": DEAD}, "agent answers", "connection refused"),
        ({"connector": DEAD}, "connector answers", "connection refused"),
        (
            {"agent": client_page(state="connecting", not_ready="not connected to the relay: no answer")},
            "agent connected to the intermediate",
            "no answer",
        ),
        (
            {"connector": client_page("connector", state="connecting", not_ready="not connected to the relay: tls")},
            "connector connected to the intermediate",
            "tls",
        ),
        (
            {"agent": client_page(services=[{"id": "echo-service", "state": "denied"}])},
            "agent registered for the service",
            "echo-service: denied",
        ),
        (
            {"connector": client_page("connector", services=[{"id": "http-app", "state": "registered"}])},
            "connector serves the service",
            "not in its configuration",
        ),
        ({"agent": client_page()}, "session with the connector", "neither end has a session"),
    ],
)
def test_the_first_step_that_fails_is_named_with_its_evidence(pages: dict[str, Any], step: str, words: str) -> None:
    found = explain(subject(**pages))
    assert (found.outcome, found.exit_code, found.step) == (Outcome.UNREACHABLE, 11, step)
    assert words in found.evidence
    assert found.advice
    assert found.steps[-1].name == step
    assert all(earlier.holds for earlier in found.steps[:-1])


def test_blocked_udp_is_said_with_what_the_agent_saw() -> None:
    page = client_page(
        state="connecting", not_ready="not connected to the relay", blocked_by="udp-blocked",
        evidence="5 requests to 172.20.0.2:4433 and 4434 unanswered in 8.0 s", advice="",
    )  # fmt: skip
    found = explain(subject(agent=page))
    assert (found.reason, found.advice) == ("udp-blocked", ADVICE["udp-blocked"])
    assert "unanswered" in found.evidence


def test_a_relayed_pair_blames_the_end_whose_mapping_varies() -> None:
    here = relayed("agent", blocked_by="peer-never-probed", evidence="0 checks arrived", nat=NAT, peer_nat=SYMMETRIC)
    there = relayed(
        "connector", blocked_by="mapping-varies", evidence="5000 towards the relay, 61000 towards the agent",
        nat=SYMMETRIC, peer_nat=NAT,
    )  # fmt: skip
    found = explain(subject(agent=client_page("agent", here), connector=client_page("connector", there)))
    assert (found.outcome, found.exit_code) == (Outcome.RELAYED, 10)
    assert (found.step, found.reason) == ("direct path", "mapping-varies")
    assert found.evidence == "connector: 5000 towards the relay, 61000 towards the agent"
    assert found.advice == f"connector: {ADVICE['mapping-varies']}"


@pytest.mark.parametrize(
    ("here", "there", "reason", "side"),
    [
        ("peer-never-probed", "policy", "policy", "connector"),
        ("policy", "peer-never-probed", "policy", "agent"),
        ("mapping-varies", "address-lied", "address-lied", "connector"),
        ("peer-never-probed", "filtered", "peer-never-probed", "agent"),
        ("filtered", "mapping-varies", "mapping-varies", "connector"),
        ("hairpin-needed", "hairpin-needed", "hairpin-needed", "agent"),
        ("filtered", None, "filtered", "agent"),
        (None, "filtered", "filtered", "connector"),
        ("of-a-later-version", "filtered", "filtered", "connector"),
        ("of-a-later-version", None, "of-a-later-version", "agent"),
    ],
)
def test_of_two_reasons_the_more_certain_one_is_given(
    here: str | None, there: str | None, reason: str, side: str
) -> None:
    pages = {
        name: client_page(name, relayed(name, blocked_by=blocked, evidence=f"seen by the {name}"))
        for name, blocked in (("agent", here), ("connector", there))
    }
    found = explain(subject(**pages))
    assert (found.reason, found.evidence) == (reason, f"{side}: seen by the {side}")
    assert found.advice.startswith(f"{side}: ")


@pytest.mark.parametrize("deaf", ["agent", "connector"])
def test_two_records_tell_which_direction_is_closed(deaf: str) -> None:
    hearing = "connector" if deaf == "agent" else "agent"
    counts = {
        deaf: {"checks_sent": 36, "requests_answered": 0},
        hearing: {"checks_sent": 94, "requests_answered": 18},
    }
    pages = {
        name: client_page(name, relayed(name, blocked_by="filtered", evidence="checks", path_counters=counts[name]))
        for name in ("agent", "connector")
    }
    found = explain(subject(**pages))
    assert found.reason == "filtered"
    assert found.evidence == (
        f"{deaf}: of 94 checks of the {hearing} none has arrived, while 18 of the {deaf}'s 36 arrived at the "
        f"{hearing}: packets pass from the {deaf} to the {hearing} alone"
    )
    assert found.advice.startswith(f"{deaf}: let UDP in before the {deaf} ")
    assert f"out of the {hearing}'s network" in found.advice


def test_where_neither_end_hears_the_other_the_direction_is_not_known() -> None:
    nothing = {"checks_sent": 36, "requests_answered": 0}
    here = relayed("agent", blocked_by="filtered", evidence="36 checks were sent", path_counters=nothing)
    there = relayed("connector", blocked_by="filtered", path_counters=nothing)
    found = explain(subject(agent=client_page("agent", here), connector=client_page("connector", there)))
    assert found.evidence == "agent: 36 checks were sent"


def test_an_end_that_gives_advice_is_believed_before_the_table() -> None:
    here = relayed("agent", blocked_by="filtered", advice="open UDP 50000 in the host's firewall")
    found = explain(subject(agent=client_page("agent", here), connector=DEAD | {"role": "connector"} | client_page()))
    assert found.advice == "agent: open UDP 50000 in the host's firewall"


@pytest.mark.parametrize("reason", ADVICE)
def test_every_reason_has_an_advice(reason: str) -> None:
    here = relayed("agent", blocked_by=reason)
    found = explain(subject(agent=client_page("agent", here)))
    assert found.advice == f"agent: {ADVICE[reason]}"


def test_without_direct_and_relay_it_is_the_relay_that_must_come_back() -> None:
    here = relayed("agent", path="none", blocked_by="mapping-varies")
    off = explain(subject(agent=client_page("agent", here), relay=relay_page(enabled=False)))
    assert (off.outcome, off.step) == (Outcome.UNREACHABLE, "relay path")
    assert "ztna relay on" in off.advice
    unproven = explain(subject(agent=client_page("agent", here), relay=relay_page(ready=False)))
    assert unproven.step == "relay path"
    unseen = explain(subject(agent=client_page("agent", here), relay=DEAD))
    assert unseen.step == "direct path"


def test_an_older_peer_is_relayed_by_the_intermediate() -> None:
    legacy = client_page()
    del legacy["sessions"]
    found = explain(subject(agent=legacy))
    assert (found.outcome, found.reason) == (Outcome.RELAYED, "legacy-peer")


def test_the_plain_form_holds_every_step() -> None:
    found: Explanation = explain(replace(subject(), agent_page=DEAD))
    plain = found.to_json()
    assert plain["outcome"] == "unreachable"
    assert plain["steps"] == [{"name": "agent answers", "holds": False, "evidence": "connection refused"}]
