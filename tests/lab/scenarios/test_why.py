"""`ztna why` with real roles: each reason in the networks made for it and in no other, and its advice is true.

The advice is followed at the end of each scenario, and must give the session a direct path.
"""

from pathlib import Path

import pytest

from infra.verify.why import ADVICE
from tests.lab.scenarios.networks import NETWORKS, REASONS, Network
from tests.lab.scenarios.stage import SERVICE, Said, Stage
from tests.support.session_bed import until
from ztna.proto.paths.path_types import BlockedBy

pytestmark = [pytest.mark.lab, pytest.mark.matrix]

CODES = {"direct": 0, "relayed": 10, "unreachable": 11}
NAMED_S = 40.0
"""A reason is given by then, however slow the machine."""

STAYS_S = 6.0
"""It must still be the reason after so long: twice what the ends look before they judge."""

DIRECT_S = 60.0
"""A remedy helps within this time: an end that was waiting tries again every 30 s at least."""


def test_every_reason_has_a_network() -> None:
    assert {network.reason for network in NETWORKS} == set(REASONS) == {reason.value for reason in BlockedBy}
    assert set(ADVICE) == set(REASONS)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
@pytest.mark.timeout(600)
def test_the_reason_is_named_and_its_advice_helps(network: Network, tmp_path: Path) -> None:
    with Stage(tmp_path, network.spec) as stage:
        network.begin(stage)
        check_reason(network, stage)
        network.remedy(stage)
        stage.wait_path("direct", DIRECT_S)
        check_direct(stage.why())


def check_reason(network: Network, stage: Stage) -> None:
    def named() -> bool:
        stage.hold(1.0)
        return bool(stage.why("--json").json["reason"] == network.reason)

    assert until(named, NAMED_S), stage.why("--json").json
    stage.hold(STAYS_S)
    told = stage.why("--json")
    found = told.json
    assert (found["outcome"], found["reason"], found["step"]) == (network.outcome, network.reason, network.step), found
    assert network.evidence in found["evidence"], found
    assert network.advice in found["advice"], found
    *before, last = found["steps"]
    assert all(step["holds"] for step in before), before
    assert (last["name"], last["holds"], last["evidence"]) == (network.step, False, found["evidence"])
    check_words(network, stage.why())
    assert told.code == CODES[network.outcome]


def check_words(network: Network, said: Said) -> None:
    """What is printed: the outcome first, then one reason, one remedy, and no word of any other reason."""
    assert said.code == CODES[network.outcome], said
    assert said.lines[0] == f"agent reaches {SERVICE}: {network.outcome}"
    assert f"Because: {network.reason}" in said.lines
    for label, words in (("Seen:", network.evidence), ("Change:", network.advice)):
        (line,) = (line for line in said.lines if line.startswith(label))
        assert words in line
    assert [reason for reason in REASONS if reason in said.out] == [network.reason], said.out


def check_direct(said: Said) -> None:
    assert said.code == 0, said
    assert said.lines[0] == f"agent reaches {SERVICE}: direct"
    assert not [reason for reason in REASONS if reason in said.out], said.out
