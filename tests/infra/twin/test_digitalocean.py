"""DigitalOcean's types: what its API refuses, ids and addresses, what a firewall means; no namespace is made here."""

from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from infra.engine.errors import ResourceError
from infra.engine.props import UNKNOWN
from infra.twin import do_edges
from infra.twin.digitalocean import PACKAGE
from infra.twin.interface import TwinType
from infra.twin.store import Item
from tests.infra.twin.sites import NotedSite, call, noted_site

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPDaSPD9Lr8ZqNw4XBHYhSsDzZqGYCqyvXpiYOHuCu3J me"
DROPLET = {"name": "relay", "region": "nyc1", "size": "s-1vcpu-1gb", "image": "debian-12-x64", "vpcUuid": "v"}


def of(name: str) -> TwinType:
    """A type by the end of its token."""
    return next(kind for kind in PACKAGE.types if kind.type_name.endswith(f":{name}"))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NotedSite:
    return noted_site(tmp_path, monkeypatch)


def make(site: NotedSite, kind: str, resource: str, /, **inputs: Any) -> Any:
    """Create a resource."""
    found = of(kind)
    return found.create(call(site, resource, kind=found.type_name), {**found.defaults, **inputs})


def droplet(site: NotedSite, number: int, **inputs: Any) -> Item:
    """Write a droplet down as if it had been made."""
    data = {"inputs": {**DROPLET, **inputs}, "slot": number, "inside": 1 + number, "vpc": "v", "ready": True}
    data |= {"public": f"192.0.2.{10 + number}", "private": f"10.77.0.{1 + number}", "v6": ""}
    return site.store.begin(f"urn:{number}", do_edges.DROPLET, lambda _, items: (str(500 + number), data))


@pytest.mark.parametrize(
    ("kind", "inputs", "place", "words"),
    [
        ("Droplet", {"image": "debian12-x64"}, "image", "did you mean 'debian-12-x64'?"),
        ("Droplet", {"image": "ubuntu-24-04-x64"}, "image", "it has debian-12-x64, debian-13-x64: choose such"),
        ("Droplet", {"size": "s-1vcpu-1g"}, "size", "did you mean 's-1vcpu-1gb'?"),
        ("Droplet", {"region": "nyc9"}, "region", "it has nyc1"),
        ("Droplet", {"vpcUuid": None}, "vpcUuid", "make one and name it"),
        ("Droplet", {"tags": ["a b"]}, "tags", "'a b' is no tag"),
        ("Droplet", {"userData": "x" * 70_000}, "userData", "more than 65536 bytes"),
        ("Vpc", {"region": "nyc1"}, "ipRange", "give one"),
        ("Vpc", {"region": "nyc1", "ipRange": "8.8.8.0/24"}, "ipRange", "no private network"),
        ("Vpc", {"region": "nyc1", "ipRange": "10.0.0.1/24"}, "ipRange", "host bits"),
        ("ReservedIp", {"region": "nyc1", "ipAddress": "192.0.2.7"}, "ipAddress", "takes over none"),
        ("SshKey", {"publicKey": "nonsense"}, "publicKey", "Key invalid"),
        ("Tag", {"name": "a b"}, "name", "is no tag"),
    ],
)
def test_what_is_refused_names_the_property_and_the_remedy(
    kind: str, inputs: dict[str, Any], place: str, words: str
) -> None:
    given = {**DROPLET, **inputs} if kind == "Droplet" else inputs
    assert [(item.property, words in item.reason) for item in of(kind).validate(given)] == [(place, True)]


@pytest.mark.parametrize(
    ("rule", "place", "words"),
    [
        ({"protocol": "gre"}, "protocol", "it has icmp, tcp, udp"),
        ({"protocol": "tcp"}, "portRange", "is required"),
        ({"protocol": "tcp", "portRange": "9-1"}, "portRange", "no port range"),
        ({"protocol": "tcp", "portRange": "1", "sourceTags": ["x"]}, "sourceTags", "sourceAddresses alone"),
        ({"protocol": "tcp", "portRange": "1", "sourceAddresses": ["10.0.0.1/8"]}, "sourceAddresses", "no network"),
    ],
)
def test_a_bad_rule_is_refused(rule: dict[str, Any], place: str, words: str) -> None:
    (failure,) = of("Firewall").validate({"inboundRules": [rule]})
    assert (failure.property, words in failure.reason) == (f"inboundRules[0].{place}", True)


def test_unknown_values_of_a_preview_are_passed_over() -> None:
    unknown = dict.fromkeys(("image", "size", "region", "vpcUuid", "userData"), UNKNOWN)
    assert list(of("Droplet").validate({**DROPLET, **unknown, "tags": [UNKNOWN]})) == []
    rule = {"protocol": UNKNOWN, "portRange": UNKNOWN, "sourceAddresses": [UNKNOWN]}
    assert list(of("Firewall").validate({"inboundRules": [rule]})) == []


def test_an_account_takes_a_key_only_once(site: NotedSite) -> None:
    made = make(site, "SshKey", "one", name="one", publicKey=KEY)
    assert made.outputs["fingerprint"] == "4b:3d:9b:01:ab:24:e7:b3:99:cd:52:c6:83:72:27:6a"
    with pytest.raises(ResourceError, match="already in use"):
        make(site, "SshKey", "two", name="two", publicKey=KEY.replace(" me", " you"))


def test_a_tag_is_known_by_its_name_and_its_successor_is_another(site: NotedSite) -> None:
    kind = of("Tag")
    first = make(site, "Tag", "tag", name="web")
    site.store.acknowledge(call(site, "tag", kind=kind.type_name).urn, first.id)
    second = make(site, "Tag", "tag", name="db")
    assert [item.id for item in site.store.items(kind.type_name)] == [first.id, second.id] == ["web", "db"]
    kind.delete(call(site, "tag", "web"), first.outputs, {"name": "web"})
    assert kind.read(call(site, "tag", "web"), first.outputs) is None
    assert kind.read(call(site, "tag", "db"), second.outputs) == second.outputs


def test_reserved_addresses_are_given_out_from_the_top_and_again_when_free(site: NotedSite) -> None:
    first, second = (make(site, "ReservedIp", name, region="nyc1") for name in ("a", "b"))
    assert (first.id, second.id) == ("192.0.2.200", "192.0.2.201")
    assert first.outputs["dropletId"] is None
    kind = of("ReservedIp")
    kind.delete(call(site, "a", first.id), first.outputs, {"region": "nyc1"})
    kind.delete(call(site, "a", first.id), first.outputs, {"region": "nyc1"})
    assert kind.read(call(site, "a", first.id), first.outputs) is None
    assert make(site, "ReservedIp", "c", region="nyc1").id == "192.0.2.200"


def test_an_assignment_moves_an_address_and_its_end_leaves_it_where_it_went(site: NotedSite) -> None:
    address = make(site, "ReservedIp", "a", region="nyc1").id
    one, two = droplet(site, 1), droplet(site, 2)
    kind = of("ReservedIpAssignment")
    before = make(site, "ReservedIpAssignment", "x", ipAddress=address, dropletId=int(one.id))
    assert do_edges.edge_of(site, one).nat == ((address, "10.10.0.5"),)
    make(site, "ReservedIpAssignment", "x", ipAddress=address, dropletId=float(two.id))
    assert do_edges.edge_of(site, one).public == ("192.0.2.11",)
    assert do_edges.edge_of(site, two).public == ("192.0.2.12", address)
    assert kind.read(call(site, "x", before.id), before.outputs) is None
    kind.delete(call(site, "x", before.id), before.outputs, before.outputs)
    assert do_edges.edge_of(site, two).public == ("192.0.2.12", address), "deleting the old one leaves it"
    moved = {"ipAddress": address, "dropletId": int(two.id)}
    kind.delete(call(site, "x", f"{two.id}-{address}"), moved, moved)
    assert do_edges.edge_of(site, two).public == ("192.0.2.12",)


def test_an_address_goes_to_no_droplet_that_is_not_there(site: NotedSite) -> None:
    address = make(site, "ReservedIp", "a", region="nyc1").id
    with pytest.raises(ResourceError, match="404 Droplet 77 could not be found"):
        make(site, "ReservedIpAssignment", "x", ipAddress=address, dropletId=77)


def test_rules_of_all_firewalls_of_a_droplet_count_by_number_and_by_tag(site: NotedSite) -> None:
    one, two = droplet(site, 1, tags=["web"]), droplet(site, 2)
    assert do_edges.edge_of(site, one).firewall is None, "without a firewall a droplet is open"
    rule = {"protocol": "tcp", "portRange": "22", "sourceAddresses": ["203.0.113.0/24", "::/0"]}
    make(site, "Firewall", "a", name="a", dropletIds=[int(one.id)], inboundRules=[rule])
    make(site, "Firewall", "b", name="b", tags=["web"], outboundRules=[{"protocol": "icmp"}])
    rules = do_edges.edge_of(site, one).firewall
    assert rules is not None
    assert [(item.direction, item.protocol, item.ports, item.peers) for item in rules] == [
        ("in", "tcp", (22, 22), (IPv4Network("203.0.113.0/24"),)),
        ("out", "icmp", None, ()),
    ]
    assert do_edges.edge_of(site, two).firewall is None


@pytest.mark.parametrize(("text", "ports"), [("22", (22, 22)), ("1-65535", (1, 65535)), ("all", (1, 65535))])
def test_port_ranges(text: str, ports: tuple[int, int]) -> None:
    assert do_edges.port_range(text) == ports


def test_a_vpc_with_members_is_not_deleted(site: NotedSite) -> None:
    made = make(site, "Vpc", "net", name="net", region="nyc1", ipRange="10.77.0.0/24")
    assert made.outputs["vpcUrn"] == f"do:vpc:{made.id}"
    droplet(site, 1)
    site.store.change(2, {"vpc": made.id})
    with pytest.raises(ResourceError, match="Can not delete VPC with members"):
        of("Vpc").delete(call(site, "net", made.id), made.outputs, {})
    site.store.drop(2)
    of("Vpc").delete(call(site, "net", made.id), made.outputs, {})
    assert site.store.items() == []


def test_metadata_tell_what_the_first_boot_asks_for(site: NotedSite) -> None:
    told = do_edges.edge_of(site, droplet(site, 1, userData="#cloud-config")).metadata
    assert told["/metadata/v1/interfaces/public/0/anchor_ipv4/address"] == "10.10.0.5"
    assert told["/metadata/v1/id"] == "501"
    assert told["/metadata/v1/user-data"] == "#cloud-config"
