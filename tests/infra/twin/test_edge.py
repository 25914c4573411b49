"""The edge of a machine as rules and routes; that they hold is shown by tests/infra/twin/test_life.py."""

from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from infra.twin import edge
from infra.twin.edge import ANYWHERE, Edge, Rule, edge_script, ruleset
from infra.twin.world import NYC1
from tests.infra.twin.sites import noted_site

EDGE = Edge(
    host="droplet-4",
    region=NYC1,
    transit="198.18.10.2",
    gateway="192.0.2.1",
    inner=("192.0.2.11", "10.10.0.5"),
    public=("192.0.2.11", "192.0.2.200"),
    nat=(("192.0.2.200", "10.10.0.5"),),
    firewall=(
        Rule(direction="in", protocol="udp", ports=(4433, 4433), peers=(ANYWHERE,)),
        Rule(direction="in", protocol="tcp", ports=(22, 22), peers=(IPv4Network("203.0.113.0/24"),)),
        Rule(direction="in", protocol="tcp", ports=(80, 80), peers=()),
        Rule(direction="out", protocol="icmp", ports=None, peers=(ANYWHERE,)),
    ),
)


def chain(text: str, name: str) -> list[str]:
    """The rules of a chain."""
    body = text.split(f"  chain {name} {{\n")[1].split("\n  }")[0]
    return [line.strip() for line in body.splitlines()[1:]]


def test_what_no_rule_names_is_dropped() -> None:
    text = ruleset(EDGE)
    assert "hook forward priority filter; policy drop;" in text
    assert chain(text, "forward") == [
        "ct state established,related accept",
        "ct state invalid counter drop",
        'iifname "eth0" oifname "eth1" udp dport 4433-4433 accept',
        'iifname "eth0" oifname "eth1" ip saddr { 203.0.113.0/24 } tcp dport 22-22 accept',
        'iifname "eth1" oifname "eth0" meta l4proto icmp accept',
        "counter",
    ]


def test_a_machine_without_firewall_is_open_and_one_with_an_empty_one_is_shut() -> None:
    assert 'iifname "eth0" oifname "eth1" accept' in chain(ruleset(replace(EDGE, firewall=None)), "forward")
    assert len(chain(ruleset(replace(EDGE, firewall=())), "forward")) == 3


def test_a_reserved_address_and_the_anchor_stand_for_each_other() -> None:
    text = ruleset(EDGE)
    assert chain(text, "prerouting") == ['iifname "eth0" ip daddr 192.0.2.200 dnat ip to 10.10.0.5']
    assert chain(text, "postrouting") == ['oifname "eth0" ip saddr 10.10.0.5 snat ip to 192.0.2.200']


def test_the_rules_are_replaced_in_one_transaction() -> None:
    assert ruleset(EDGE).splitlines()[:3] == ["table inet edge", "delete table inet edge", "table inet edge {"]


def test_the_edge_knows_the_machines_addresses_alone() -> None:
    script = edge_script(EDGE)
    routes = [line for line in script.splitlines() if line.startswith("route replace")]
    assert routes == ["route replace 192.0.2.11/32 dev eth1", "route replace 10.10.0.5/32 dev eth1"]


def test_ways_are_replaced_before_old_ones_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = noted_site(tmp_path, monkeypatch)
    edge.sync_routes(site, NYC1, {"192.0.2.200": "198.18.10.3"})
    ((host, script),) = site.scripts
    assert host == "nyc1"
    assert script.index("route replace 192.0.2.200/32 via 198.18.10.3 proto 202") < script.index("ip route del")
