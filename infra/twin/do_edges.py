"""Droplets as the network sees them: the edge of each follows from the store, and is brought to it after changes."""

import ipaddress
from collections.abc import Iterator
from typing import Final, Literal

from infra.twin import edge
from infra.twin.do_forms import HOURS_A_MONTH, REGIONS, SIZES, droplet_host
from infra.twin.edge import Edge, Rule
from infra.twin.interface import Json, TwinError
from infra.twin.site import Site
from infra.twin.store import Item

VPC: Final = "digitalocean:index/vpc:Vpc"
DROPLET: Final = "digitalocean:index/droplet:Droplet"
RESERVED: Final = "digitalocean:index/reservedIp:ReservedIp"
FIREWALL: Final = "digitalocean:index/firewall:Firewall"
ANCHORS: Final = ipaddress.IPv4Network("10.10.0.0/16")
"""Of NYC1. Source: https://docs.digitalocean.com/products/networking/vpc/details/limits/"""
FIRST_PUBLIC: Final = 10
_ALL_PORTS: Final = (1, 65535)


def required(site: Site, token: str, id_: str) -> Item:
    """Return an item. Raises TwinError, in the API's words, when it is not there."""
    item = site.store.get(token, id_)
    if item is None:
        raise TwinError(f"404 {token.rpartition(':')[2]} {id_} could not be found")
    return item


def segment_of(vpc: Item) -> str:
    """The segment of the lab that stands for a VPC."""
    return f"vpc-{vpc.number}"


def edge_of(site: Site, droplet: Item) -> Edge:
    """Return the edge of a droplet as the store has it now."""
    data = droplet.data
    region = REGIONS[data["inputs"]["region"]]
    reserved = [item for item in site.store.items(RESERVED) if item.data["droplet"] == droplet.id]
    anchor = str(ANCHORS[data["slot"] + 4])
    return Edge(
        host=droplet_host(droplet.number),
        region=region,
        transit=str(region.transit[data["slot"] + 1]),
        gateway=str(region.public[1]),
        inner=(data["public"], anchor),
        public=(data["public"], *(item.id for item in reserved)),
        nat=tuple((item.id, anchor) for item in reserved),
        firewall=_firewall(site, droplet),
        metadata=_metadata(droplet, anchor, [item.id for item in reserved]),
    )


def _firewall(site: Site, droplet: Item) -> tuple[Rule, ...] | None:
    """The rules of all firewalls of a droplet together; None where it has none, and all is open."""
    tags = set(droplet.data["inputs"].get("tags") or ())
    found = [
        item.data["inputs"]
        for item in site.store.items(FIREWALL)
        if droplet.id in [str(int(number)) for number in item.data["inputs"].get("dropletIds") or ()]
        or tags & set(item.data["inputs"].get("tags") or ())
    ]
    return tuple(rule for inputs in found for rule in rules_of(inputs)) if found else None


def rules_of(inputs: Json) -> Iterator[Rule]:
    """Yield what a firewall lets through, of IPv4."""
    directions: tuple[tuple[str, Literal["in", "out"], str], ...] = (
        ("inboundRules", "in", "sourceAddresses"), ("outboundRules", "out", "destinationAddresses")
    )  # fmt: skip
    for key, direction, peers in directions:
        for rule in inputs.get(key) or ():
            networks = [ipaddress.ip_network(address) for address in rule.get(peers) or ()]
            yield Rule(
                direction=direction,
                protocol=rule["protocol"],
                ports=port_range(str(rule["portRange"])) if rule.get("portRange") else None,
                peers=tuple(network for network in networks if isinstance(network, ipaddress.IPv4Network)),
            )


def port_range(text: str) -> tuple[int, int]:
    """Read a port, a range, or `all` (and 0, which the API takes for it). Raises ValueError."""
    if text in ("all", "0"):
        return _ALL_PORTS
    first, _, last = text.partition("-")
    if not (first.isdigit() and (last or first).isdigit() and 1 <= int(first) <= int(last or first) <= 65535):
        raise ValueError(f"{text!r} is no port range: a port, a range as 8000-9000, or all")
    return int(first), int(last or first)


def _metadata(droplet: Item, anchor: str, reserved: list[str]) -> dict[str, str]:
    """What the metadata service tells. Source: https://docs.digitalocean.com/reference/api/metadata/"""
    data, inputs = droplet.data, droplet.data["inputs"]
    v1, public = "/metadata/v1", "/metadata/v1/interfaces/public/0"
    return {
        f"{v1}/id": droplet.id,
        f"{v1}/hostname": inputs["name"],
        f"{v1}/region": inputs["region"],
        f"{v1}/user-data": inputs.get("userData") or "",
        f"{v1}/tags": "\n".join(inputs.get("tags") or ()),
        f"{v1}/reserved_ip/ipv4/active": "true" if reserved else "false",
        f"{v1}/reserved_ip/ipv4/ip_address": "".join(reserved[:1]),
        f"{public}/type": "public",
        f"{public}/ipv4/address": data["public"],
        f"{public}/ipv4/netmask": "255.255.255.0",
        f"{public}/ipv4/gateway": str(REGIONS[inputs["region"]].public[1]),
        f"{public}/anchor_ipv4/address": anchor,
        f"{public}/anchor_ipv4/netmask": str(ANCHORS.netmask),
        f"{public}/anchor_ipv4/gateway": str(ANCHORS[1]),
        f"{v1}/interfaces/private/0/type": "private",
        f"{v1}/interfaces/private/0/ipv4/address": data["private"],
    }


def ensure(site: Site, droplet: Item) -> None:
    """Make the edge of a droplet and the way to it."""
    with site.exclusive("edges"):
        edge.ensure(site, edge_of(site, droplet))
        _sync(site)


def remove(site: Site, droplet: Item) -> None:
    """Remove the edge of a droplet, whose host is gone, and the way to it."""
    with site.exclusive("edges"):
        edge.remove(site, droplet_host(droplet.number))
        _sync(site, without=droplet.id)


def reapply(site: Site) -> None:
    """Bring every edge that is there, and the ways to them, to what the store says."""
    with site.exclusive("edges"):
        for droplet in site.store.items(DROPLET):
            if droplet.data.get("ready"):
                edge.apply(site, edge_of(site, droplet))
        _sync(site)


def assign(site: Site, address: str, droplet: str) -> None:
    """Give a reserved address to a droplet; to none for an empty id.

    Raises:
        TwinError: address or droplet is not there, or they are of different regions.
    """
    item = required(site, RESERVED, address)
    if droplet:
        there, here = required(site, DROPLET, droplet).data["inputs"]["region"], item.data["inputs"]["region"]
        if there != here:
            raise TwinError(f"422 reserved address {address} is of {here}, droplet {droplet} of {there}")
    site.store.change(item.number, {"droplet": droplet})
    reapply(site)


def _sync(site: Site, without: str = "") -> None:
    for region in set(REGIONS.values()):
        ways = {
            address: there.transit
            for droplet in site.store.items(DROPLET)
            if droplet.id != without and (there := edge_of(site, droplet)).region == region
            for address in there.public
        }
        edge.sync_routes(site, region, ways)


def size_outputs(size: str) -> Json:
    """What a size means, by the provider's names."""
    memory, vcpus, disk, price = SIZES[size]
    return {
        "memory": memory,
        "vcpus": vcpus,
        "disk": disk,
        "priceMonthly": price,
        "priceHourly": round(price / HOURS_A_MONTH, 5),
    }
