"""The internet of the lab: addresses are of documentation or benchmarks alone, and every network has its own."""

import ipaddress
from pathlib import Path

import pytest

from infra.lab.nat import PRESETS
from infra.twin import world
from infra.twin.site import run_name

ALLOWED = [
    ipaddress.IPv4Network(text) for text in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "198.18.0.0/15")
]


def test_public_addresses_are_nobodys() -> None:
    behind = {f"{client.name}-lan" for client in world.CLIENTS if PRESETS[client.preset]}
    for segment in world.topology().segments:
        network = ipaddress.IPv4Network(segment.cidr)
        fits = network.is_private if segment.name in behind else any(network.subnet_of(one) for one in ALLOWED)
        assert fits, f"{segment.name} has {network}"


def test_networks_do_not_overlap() -> None:
    networks = [ipaddress.IPv4Network(segment.cidr) for segment in world.topology().segments]
    pairs = [(a, b) for at, a in enumerate(networks) for b in networks[at + 1 :] if a.overlaps(b)]
    assert pairs == []


def test_clients_stand_behind_six_kinds_of_networks() -> None:
    assert {client.preset for client in world.CLIENTS} >= {
        "public", "port-restricted", "full-cone", "symmetric", "cgnat", "udp-blocked",
    }  # fmt: skip


def test_a_region_by_name() -> None:
    assert world.region("nyc1") is world.NYC1
    with pytest.raises(ValueError, match="no region 'nyc2'; it has nyc1, us-east-2"):
        world.region("nyc2")


def test_another_checkout_has_another_world(tmp_path: Path) -> None:
    names = {run_name("do-nyc1", tmp_path / name) for name in ("a", "b")}
    assert len(names) == 2
    assert all(name.startswith("twin-do-nyc1-") and len(name) <= 32 for name in names)
    assert len(run_name("a" * 25 + "-north", tmp_path)) <= 32
