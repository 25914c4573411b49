"""The lab's topology from its configuration."""

import dataclasses

import pytest

from components.lab_topology import find_rung, lab_topology, nat_levels, nat_output, plan_of
from infra.addressing import LAB, LOOPBACK
from infra.config import ConfigError, ImpairmentSettings, LabConfig, LinkSettings, NatSettings
from infra.lab.errors import LabError
from infra.lab.nat import PRESETS, Filtering, Mapping
from infra.lab.rungs import Rung
from infra.lab.topology import Impairment, two_nat_topology

CONFIG = LabConfig(agent_nat=NatSettings(preset="full-cone"), connector_nat=NatSettings(preset="symmetric"))


def test_it_is_the_two_nat_topology() -> None:
    assert lab_topology(CONFIG, LAB) == two_nat_topology(PRESETS["full-cone"], PRESETS["symmetric"])


def test_config_impairs_the_uplinks() -> None:
    link = LinkSettings(up=ImpairmentSettings(loss=0.03), down=ImpairmentSettings(delay_ms=5.0), mtu=1400)
    topology = lab_topology(dataclasses.replace(CONFIG, connector_link=link, relay_link=link), LAB)
    routers = {router.name: router for router in topology.routers}
    assert routers["nat-connector"].outside.up == Impairment(loss=0.03)
    assert routers["nat-connector"].outside.down == Impairment(delay_ms=5.0)
    assert routers["nat-connector"].outside.mtu == 1400
    assert not routers["nat-agent"].outside.impaired
    relay = next(host for host in topology.hosts if host.name == "relay")
    assert relay.links[0].up == Impairment(loss=0.03)


def test_a_nat_by_behaviour_is_one_level_of_it() -> None:
    (nat,) = nat_levels(
        NatSettings(preset=None, behavior={"mapping": "address-dependent", "filtering": "endpoint-independent"})
    )
    assert (nat.mapping, nat.filtering) == (Mapping.ADDRESS_DEPENDENT, Filtering.ENDPOINT_INDEPENDENT)
    with pytest.raises(ConfigError, match="udp_timeout_s"):
        nat_levels(NatSettings(preset=None, behavior={"udp_timeout_s": 0}))


@pytest.mark.parametrize(
    ("preset", "mapping", "filtering", "levels", "blocked"),
    [
        ("full-cone", "endpoint-independent", "endpoint-independent", 1, False),
        ("symmetric", "address-and-port-dependent", "address-and-port-dependent", 1, False),
        ("cgnat", "endpoint-independent", "address-and-port-dependent", 2, False),
        ("udp-blocked", "endpoint-independent", "address-and-port-dependent", 1, True),
    ],
)
def test_the_outputs_say_what_a_nat_does(preset: str, mapping: str, filtering: str, levels: int, blocked: bool) -> None:
    seen = nat_output("nat-agent", NatSettings(preset=preset), "192.0.2.1")
    assert seen is not None
    assert (seen.mapping, seen.filtering, seen.levels, seen.udp_blocked) == (mapping, filtering, levels, blocked)


def test_public_addresses_have_no_nat() -> None:
    assert nat_output("nat-agent", NatSettings(preset="public"), "192.0.2.1") is None


def test_the_rung_decides_the_addresses() -> None:
    assert plan_of(Rung.ROOT) is plan_of(Rung.ROOTLESS) is LAB
    assert plan_of(Rung.LOOPBACK) is LOOPBACK
    assert find_rung("loopback").rung is Rung.LOOPBACK


def test_a_rung_that_does_not_work_here_names_its_key_and_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(rung: Rung) -> None:
        raise LabError(f"the {rung.value} rung of the lab does not work here: not running as root")

    monkeypatch.setattr("components.lab_topology.demand", refuse)
    with pytest.raises(ConfigError, match=r"lab:rung is 'root': .* not running as root\nor run: ztna config set"):
        find_rung("root")
