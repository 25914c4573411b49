"""The DigitalOcean components by themselves: what each makes of its arguments."""

from collections.abc import Callable
from ipaddress import IPv4Network
from typing import Any

import pulumi
import pytest

from components.do_address import DoAddress, DoAddressArgs
from components.do_cutover import DoCutover, DoCutoverArgs
from components.do_firewall import DoFirewall, DoFirewallArgs
from components.do_network import DoNetwork, DoNetworkArgs
from infra.config_do import DnsSettings
from tests.support.pulumi_mocks import Recorder, record

ADDRESS = {"digitalocean:index/reservedIp:ReservedIp": {"ipAddress": "198.51.100.1"}}
RELAY = DnsSettings(domain="example.org", name="relay")
APEX = DnsSettings(domain="example.net", name="@")


def run(program: Callable[[], Any]) -> tuple[Recorder, Any]:
    """Run a program of one component."""
    return record(program, stack="do-nyc1", computed=ADDRESS)


def address(*dns: DnsSettings) -> tuple[Recorder, Any]:
    """Run DoAddress with these names."""

    def program() -> Any:
        made = DoAddress("address", DoAddressArgs(region="nyc1", dns=dns))
        return pulumi.Output.all(made.address, made.host)

    return run(program)


def test_without_a_name_agents_dial_the_address() -> None:
    recorder, outputs = address()
    assert outputs == ["198.51.100.1", "198.51.100.1"]
    assert recorder.of_type("DnsRecord") == {}
    assert recorder.of_type("ReservedIp") == {"address-reserved": {"region": "nyc1"}}


def test_agents_dial_the_first_name_and_every_name_has_a_record() -> None:
    recorder, outputs = address(RELAY, APEX)
    assert outputs == ["198.51.100.1", "relay.example.org"]
    records = recorder.of_type("DnsRecord")
    # The SDK registers what does not depend on each other in no certain order.
    assert sorted((found["domain"], found["name"], found["value"]) for found in records.values()) == [
        ("example.net", "@", "198.51.100.1"),
        ("example.org", "relay", "198.51.100.1"),
    ]
    assert {recorder.parents[name].rpartition("::")[2] for name in records} == {"address"}


def test_the_firewall_lets_out_to_backends_elsewhere_once_each() -> None:
    def program() -> Any:
        args = DoFirewallArgs(
            droplet_id=7, admin_cidrs=["203.0.113.7/32"], vpc_range=IPv4Network("10.77.0.0/24"), tcp_out=(5432, 443)
        )
        return DoFirewall("firewall", args).firewall_id

    recorder, _ = run(program)
    (rules,) = recorder.of_type("Firewall").values()
    assert rules["dropletIds"] == [7]
    out = [rule["portRange"] for rule in rules["outboundRules"] if rule["protocol"] == "tcp"]
    assert out == ["1-65535", "53", "80", "443", "5432"]


@pytest.mark.parametrize("stack", ["do-nyc1", "other"])
def test_the_network_says_whose_it_is(stack: str) -> None:
    def program() -> Any:
        args = DoNetworkArgs(stack=stack, run="blue", region="ams3", ip_range=IPv4Network("10.77.0.0/24"))
        return DoNetwork("network", args).vpc_id

    recorder, identity = run(program)
    (vpc,) = recorder.of_type("Vpc").values()
    assert vpc == {"region": "ams3", "ipRange": "10.77.0.0/24", "description": f"ztna stack {stack}, run blue"}
    assert identity == "network-vpc-id"


def test_an_address_is_moved_and_never_taken_off_first() -> None:
    seen: list[bool | None] = []

    def watch(args: pulumi.ResourceTransformationArgs) -> None:
        if args.type_.endswith(":ReservedIpAssignment"):
            seen.append(args.opts.delete_before_replace)

    def program() -> Any:
        pulumi.runtime.register_stack_transformation(watch)
        return DoCutover("cutover", DoCutoverArgs(address="198.51.100.1", droplet_id=7)).assigned

    recorder, assigned = run(program)
    assert recorder.of_type("ReservedIpAssignment") == {
        "cutover-assignment": {"ipAddress": "198.51.100.1", "dropletId": 7}
    }
    assert (assigned, seen) == ("198.51.100.1", [False])
