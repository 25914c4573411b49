"""The rules follow from the behaviour, and the kernel's parser takes them all."""

import itertools
import subprocess
from pathlib import Path

import pytest

from infra.lab.build import rules_script
from infra.lab.errors import require_tool
from infra.lab.nat import Filtering, Mapping, NatBehavior, PortAllocation
from infra.lab.nft import firewall_ruleset, nat_ruleset
from infra.lab.plan import host_spaces
from infra.lab.topology import Host, Link

BEHAVIORS = [
    NatBehavior(mapping, filtering, 30, hairpin, allocation, blocked)
    for mapping, filtering, hairpin, allocation, blocked in itertools.product(
        Mapping, Filtering, (False, True), PortAllocation, (False, True)
    )
]


def ruleset(nat: NatBehavior) -> str:
    return nat_ruleset(nat, inside=["lan0", "lan1"], outside="wan", external="172.20.0.21")


def test_different_behaviours_have_different_rules() -> None:
    assert len({ruleset(nat) for nat in BEHAVIORS}) == len(BEHAVIORS)


def test_the_time_out_is_that_of_every_table() -> None:
    text = ruleset(NatBehavior(udp_timeout_s=77))
    assert text.count("timeout 77s;") == text.count("flags dynamic,timeout")


def test_the_external_address_is_checked_before_it_stands_in_a_rule() -> None:
    with pytest.raises(ValueError, match="lan0"):
        nat_ruleset(NatBehavior(), inside=["lan0"], outside="wan", external="lan0 } drop")


@pytest.mark.lab
def test_nft_takes_every_ruleset_and_so_does_an_ordinary_users_kernel(tmp_path: Path) -> None:
    for number, nat in enumerate(BEHAVIORS):
        (tmp_path / f"{number}.nft").write_text(ruleset(nat))
    (tmp_path / "firewall.nft").write_text(firewall_ruleset())
    check = f'for file in {tmp_path}/*.nft; do {require_tool("nft")} --file "$file" || exit 1; done'
    done = subprocess.run(["unshare", "-rn", "sh", "-c", check], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:1000]


def test_a_host_has_a_firewall_only_where_it_is_asked_for() -> None:
    link = Link("lan", "172.21.0.10/24")
    (plain,), (walled,) = host_spaces(Host("a", (link,))), host_spaces(Host("a", (link,), firewall=True))
    assert plain.ruleset is None
    assert walled.ruleset == firewall_ruleset()
    assert rules_script(plain) == []
    (script,) = rules_script(walled)
    assert "policy drop" in script
