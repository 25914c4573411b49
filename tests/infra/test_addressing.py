"""The address plan: properties of assignment, and the document against the code."""

import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from components.lab_design import ECHO_SERVICE, HTTP_SERVICE
from components.lab_topology import AGENT
from infra.addressing import (
    AGENT_CIDR,
    AWS,
    DO,
    LAB,
    LOOPBACK,
    PI,
    SERVICE_CIDR,
    AddressingError,
    AwsPlan,
    DoPlan,
    LabPlan,
    PiPlan,
    cloud_table,
    gateway,
    interface,
    lab_table,
    overlay_plan,
    require_disjoint,
)
from infra.config_do import DO_KEYS

DOCUMENT = Path(__file__).parents[2] / "docs" / "addressing.md"
names = st.lists(st.from_regex(r"[a-z]{1,12}", fullmatch=True), unique=True, max_size=100)


def test_the_lab_has_the_addresses_that_the_stack_promises() -> None:
    plan = overlay_plan(["echo-service", "http-app"], ["agent"])
    assert plan.services == {
        "echo-service": IPv4Address("100.64.0.100"),
        "http-app": IPv4Address("100.64.0.101"),
    }
    assert plan.agents == {"agent": IPv4Address("100.64.1.1")}
    assert [str(address) for address in LAB.hosts().values()] == [
        "172.20.0.2", "172.20.0.3", "172.20.0.21", "172.20.0.22", "172.21.0.10", "172.22.0.10", "172.22.0.20",
    ]  # fmt: skip


@given(services=names, agents=names)
def test_every_name_gets_its_own_usable_address_of_its_range(services: list[str], agents: list[str]) -> None:
    plan = overlay_plan(services, agents)
    given_out = [*plan.services.values(), *plan.agents.values()]
    assert len(set(given_out)) == len(services) + len(agents)
    for address in plan.services.values():
        assert address in SERVICE_CIDR
    for address in plan.agents.values():
        assert address in AGENT_CIDR
    ends = [SERVICE_CIDR.network_address, SERVICE_CIDR.broadcast_address]
    assert not {*ends, AGENT_CIDR.network_address, AGENT_CIDR.broadcast_address} & set(given_out)


@given(services=names.filter(lambda items: len(items) < 100), more=st.from_regex(r"[A-Z]{3}", fullmatch=True))
def test_appending_a_name_moves_no_other(services: list[str], more: str) -> None:
    before = overlay_plan(services, []).services
    after = overlay_plan([*services, more], []).services
    assert {name: after[name] for name in services} == before


@given(count=st.integers(min_value=156, max_value=300))
def test_too_many_services_are_refused_with_the_room_there_is(count: int) -> None:
    with pytest.raises(AddressingError, match=f"{count} services do not fit .* room for 155"):
        overlay_plan([f"s{index}" for index in range(count)], [])


def test_the_last_service_that_fits_is_not_the_broadcast_address() -> None:
    plan = overlay_plan([f"s{index}" for index in range(155)], [])
    assert plan.services["s154"] == IPv4Address("100.64.0.254")


def test_a_fixed_address_moves_no_other_service() -> None:
    fixed = {"b": IPv4Address("10.100.0.1")}
    plan = overlay_plan(["a", "b", "c"], [], fixed=fixed)
    assert {name: str(address) for name, address in plan.services.items()} == {
        "a": "100.64.0.100", "b": "10.100.0.1", "c": "100.64.0.102",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("100.64.0.100", "services 'a' and 'b' both have"),
        ("100.64.1.7", "the range of agents"),
        ("224.0.0.1", "no unicast address"),
        ("127.0.0.1", "no unicast address"),
        ("169.254.169.254", "no unicast address"),
        ("0.0.0.0", "no unicast address"),
        ("255.255.255.255", "no unicast address"),
    ],
)
def test_a_fixed_address_that_cannot_be_a_services_is_refused(address: str, words: str) -> None:
    with pytest.raises(AddressingError, match=words):
        overlay_plan(["a", "b"], [], fixed={"b": IPv4Address(address)})


def test_a_name_given_twice_is_refused() -> None:
    with pytest.raises(AddressingError, match="'echo' is named twice"):
        overlay_plan(["echo", "http", "echo"], [])


def test_overlapping_ranges_are_refused_by_name() -> None:
    with pytest.raises(AddressingError, match=r"a 10\.0\.0\.0/8 overlaps c 10\.1\.0\.0/16"):
        require_disjoint(
            {"a": IPv4Network("10.0.0.0/8"), "b": IPv4Network("11.0.0.0/8"), "c": IPv4Network("10.1.0.0/16")}
        )


def test_a_lab_that_overlaps_the_overlay_is_refused() -> None:
    with pytest.raises(AddressingError, match="overlaps service_cidr"):
        LabPlan(public=IPv4Network("100.64.0.0/16"), agent_lan=LAB.agent_lan, connector_lan=LAB.connector_lan)


def test_a_segment_without_room_for_the_hosts_is_refused() -> None:
    with pytest.raises(AddressingError, match=r"public 172\.20\.0\.0/27 is too small"):
        LabPlan(public=IPv4Network("172.20.0.0/27"), agent_lan=LAB.agent_lan, connector_lan=LAB.connector_lan)


@pytest.mark.parametrize("plan", [LAB, LOOPBACK])
def test_every_host_lies_in_a_segment_and_none_has_the_routers_address(plan: LabPlan) -> None:
    networks = plan.networks().values()
    routers = {gateway(network) for network in networks}
    for address in plan.hosts().values():
        assert sum(address in network for network in networks) == 1
        assert address not in routers


def test_loopback_is_the_same_plan_inside_127() -> None:
    moved = {name: str(address).replace("172.", "127.", 1) for name, address in LAB.hosts().items()}
    assert {name: str(address) for name, address in LOOPBACK.hosts().items()} == moved
    assert all(address.is_loopback for address in LOOPBACK.hosts().values())


def test_an_interface_has_the_prefix_length_of_its_network() -> None:
    assert interface(LAB.agent, LAB.agent_lan) == "172.21.0.10/24"
    with pytest.raises(AddressingError, match="is not in"):
        interface(LAB.agent, LAB.connector_lan)


def test_the_clouds_have_the_addresses_that_their_stacks_promise() -> None:
    assert str(AWS.vpc) == "10.0.0.0/16"
    assert [(zone.letter, str(zone.public), str(zone.private)) for zone in AWS.zones(2)] == [
        ("a", "10.0.1.0/24", "10.0.2.0/24"),
        ("b", "10.0.11.0/24", "10.0.12.0/24"),
    ]
    assert str(PI.relay) == "10.0.150.205"
    assert DO.vpc.is_private


def test_the_plan_and_the_configuration_of_the_stacks_agree() -> None:
    defaults = {key.name: key.default for key in DO_KEYS}
    assert defaults["vpcRange"] == str(DO.vpc)
    committed = yaml.safe_load((DOCUMENT.parents[1] / "Pulumi.pi-home.yaml").read_text())["config"]
    assert committed["pi-home:loadBalancerIp"] == str(PI.relay)


@given(
    vpc=st.integers(16, 19).flatmap(
        lambda length: st.integers(0, 2 ** (length - 8) - 1).map(
            lambda index: IPv4Network((10 << 24 | index << (32 - length), length))
        )
    ),
    count=st.integers(1, 3),
)
def test_every_zone_of_any_vpc_has_two_subnets_of_its_own_inside_it(vpc: IPv4Network, count: int) -> None:
    subnets = [network for zone in AwsPlan(vpc=vpc).zones(count) for network in (zone.public, zone.private)]
    assert len(subnets) == 2 * count
    assert all(network.subnet_of(vpc) and network.prefixlen == 24 for network in subnets)
    require_disjoint({str(network): network for network in subnets})
    assert AwsPlan(vpc=vpc).zones(3)[:count] == AwsPlan(vpc=vpc).zones(count), "another zone moves no earlier one"


@pytest.mark.parametrize("count", [0, 4])
def test_zones_that_there_are_not_are_refused(count: int) -> None:
    with pytest.raises(AddressingError, match=f"{count} zones were asked for, there are 1 to 3"):
        AWS.zones(count)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: AwsPlan(vpc=IPv4Network("10.0.0.0/20")), "must be a /16 to /19"),
        (lambda: AwsPlan(vpc=IPv4Network("100.64.0.0/16")), "overlaps service_cidr"),
        (lambda: DoPlan(vpc=IPv4Network("10.0.0.0/29")), "must be a /16 to /28"),
        (lambda: DoPlan(vpc=IPv4Network("100.64.1.0/24")), "overlaps agent_cidr"),
        (lambda: PiPlan(relay=IPv4Address("100.64.0.100")), "overlaps service_cidr"),
    ],
)
def test_a_cloud_whose_addresses_cannot_work_is_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises(AddressingError, match=words):
        make()


def test_the_document_says_what_the_code_computes() -> None:
    text = DOCUMENT.read_text()
    rows = dict(re.findall(r"^\| ([a-z][\w, -]*) \| ([\d./]+) \|$", text, re.MULTILINE))
    overlay = overlay_plan([ECHO_SERVICE, HTTP_SERVICE], [AGENT])
    expected = dict(lab_table(LAB)) | dict(cloud_table())
    expected |= {name: str(address) for name, address in {**overlay.services, **overlay.agents}.items()}
    assert rows == expected
    for name, network, first in (
        ("service_cidr", SERVICE_CIDR, next(iter(overlay.services.values()))),
        ("agent_cidr", AGENT_CIDR, next(iter(overlay.agents.values()))),
    ):
        assert f"| `{name}` | {network} | {first} |" in text
