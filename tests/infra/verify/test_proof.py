"""The verdict from every combination of witnesses, forged ones among them."""

import itertools
from dataclasses import replace

import pytest

from infra.verify.proof import Burst, Finding, Opinion, Records, Seen, Verdict, Witnesses, decide

BURST = Burst(sent=200, answered=200, bytes=400_000)
ALL = Witnesses(
    burst=BURST,
    records=Records(("direct", "direct"), ("direct", "direct")),
    captures=(Seen("nat-agent", 410_000, 900), Seen("nat-connector", 410_000, 900)),
    relay_bytes=0,
    window=Burst(50, 50, 100_000),
)
RELAYED = Witnesses(
    burst=BURST,
    records=Records(("relay", "relay"), ("relay", "relay")),
    captures=(Seen("nat-agent", 0, 410_000), Seen("nat-connector", 0, 410_000)),
    relay_bytes=420_000,
    window=Burst(50, 0, 100_000),
)


def saying(finding: Finding, name: str) -> Opinion:
    return finding.opinions[name][0]


def test_all_four_agree_on_a_direct_path() -> None:
    found = decide(ALL)
    assert (found.verdict, found.exit_code) == (Verdict.DIRECT, 0)
    assert found.reason == "records, capture, counters, window agree"


def test_all_four_agree_on_the_relay() -> None:
    found = decide(RELAYED)
    assert (found.verdict, found.exit_code) == (Verdict.RELAYED, 10)


def test_nothing_answered_is_unreachable_whatever_the_ends_say() -> None:
    silent = replace(ALL, burst=replace(BURST, answered=0), window=Burst(50, 0, 100_000))
    found = decide(silent)
    assert (found.verdict, found.exit_code) == (Verdict.UNREACHABLE, 11)
    assert "none of 200 requests" in found.reason


def test_a_forged_record_of_both_ends_is_caught_by_the_others() -> None:
    found = decide(replace(RELAYED, records=ALL.records))
    assert (found.verdict, found.exit_code) == (Verdict.DISAGREE, 12)
    assert "records: direct" in found.reason
    assert "capture, counters, window: relayed" in found.reason


def test_a_forged_record_of_the_agent_alone_is_caught() -> None:
    found = decide(replace(RELAYED, records=Records(("direct", "direct"), ("relay", "relay"))))
    assert found.verdict is Verdict.DISAGREE
    assert saying(found, "records") is Opinion.MIXED


@pytest.mark.parametrize("forged", ["captures", "relay_bytes", "window"])
def test_any_single_forged_witness_is_caught(forged: str) -> None:
    assert decide(replace(ALL, **{forged: getattr(RELAYED, forged)})).verdict is Verdict.DISAGREE
    assert decide(replace(RELAYED, **{forged: getattr(ALL, forged)})).verdict is Verdict.DISAGREE


def test_records_alone_prove_nothing() -> None:
    found = decide(Witnesses(burst=BURST, records=ALL.records))
    assert (found.verdict, found.exit_code) == (Verdict.UNPROVEN, 1)
    assert "only the ends themselves" in found.reason
    assert decide(Witnesses(burst=BURST)).verdict is Verdict.UNPROVEN


@pytest.mark.parametrize("kept", [("captures",), ("relay_bytes",), ("window",), ("captures", "window")])
@pytest.mark.parametrize("whole", [ALL, RELAYED], ids=["direct", "relayed"])
def test_one_independent_witness_is_enough_beside_the_records(whole: Witnesses, kept: tuple[str, ...]) -> None:
    few = Witnesses(burst=BURST, records=whole.records, **{name: getattr(whole, name) for name in kept})
    assert decide(few).verdict is decide(whole).verdict


def test_a_path_that_changed_during_the_burst_is_no_proof() -> None:
    found = decide(replace(ALL, records=Records(("relay", "direct"), ("direct", "direct"))))
    assert found.verdict is Verdict.DISAGREE


def test_both_paths_at_once_is_no_proof() -> None:
    doubled = replace(ALL, captures=(Seen("nat-agent", 410_000, 400_000),), relay_bytes=400_000)
    found = decide(doubled)
    assert found.verdict is Verdict.DISAGREE
    assert saying(found, "capture") is Opinion.MIXED


def test_the_two_captures_must_not_differ() -> None:
    found = decide(replace(ALL, captures=(ALL.captures[0], RELAYED.captures[1])))
    assert saying(found, "capture") is Opinion.MIXED


def test_ends_in_one_lan_pass_no_nat_and_the_capture_has_no_opinion() -> None:
    local = decide(replace(ALL, captures=(Seen("nat", 0, 700),)))
    assert saying(local, "capture") is Opinion.UNKNOWN
    assert local.verdict is Verdict.DIRECT


def test_keepalives_by_the_relay_do_not_make_a_path_relayed() -> None:
    assert decide(replace(ALL, relay_bytes=3_900)).verdict is Verdict.DIRECT
    some = decide(replace(ALL, relay_bytes=40_000))
    assert saying(some, "counters") is Opinion.MIXED
    assert some.verdict is Verdict.DISAGREE


def test_a_burst_that_found_nobody_says_nothing_of_the_counters() -> None:
    found = decide(replace(RELAYED, burst=replace(BURST, answered=0), relay_bytes=0, window=Burst(50, 50, 1)))
    assert saying(found, "counters") is Opinion.UNKNOWN


def test_every_verdict_has_its_own_exit_code_and_a_plain_form() -> None:
    assert len({found.exit_code for found in (decide(ALL), decide(RELAYED))}) == 2
    plain = decide(RELAYED).to_json()
    assert plain["verdict"] == "relayed"
    assert set(plain["witnesses"]) == {"records", "capture", "counters", "window"}
    assert plain["witnesses"]["window"] == {
        "says": "relayed",
        "seen": "0 of 50 requests answered while the relay was off",
    }


def test_a_verdict_never_stands_against_a_witness() -> None:
    parts = {
        "records": (Records(), ALL.records, RELAYED.records),
        "captures": ((), ALL.captures, RELAYED.captures),
        "relay_bytes": (None, ALL.relay_bytes, RELAYED.relay_bytes),
        "window": (None, ALL.window, RELAYED.window),
    }
    for values in itertools.product(*parts.values()):
        witnesses = Witnesses(burst=BURST, **dict(zip(parts, values, strict=True)))  # type: ignore[arg-type]
        found = decide(witnesses)
        spoken = {opinion for opinion, _ in found.opinions.values()} - {Opinion.UNKNOWN}
        if found.verdict in (Verdict.DIRECT, Verdict.RELAYED):
            assert spoken == {Opinion(found.verdict.value)}
        else:
            assert len(spoken) != 1 or saying(found, "records") in spoken
