"""DigitalOcean's VPC, reserved addresses and firewalls on the lab. Force-new by the provider's source.

Source: https://github.com/digitalocean/terraform-provider-digitalocean (digitalocean/{vpc,reservedip,firewall})
"""

import ipaddress
from collections.abc import Iterator
from typing import Final

from infra.engine.providers import Failure
from infra.lab.topology import Segment
from infra.twin import do_edges
from infra.twin.do_account import Record
from infra.twin.do_forms import REGIONS
from infra.twin.forms import lowest_free, one_of
from infra.twin.interface import Call, Json, Made, TwinError, TwinType, known
from infra.twin.store import Item

FIRST_RESERVED: Final = 200
"""Of the region's public network; those of droplets are below."""
_PROTOCOLS: Final = ("icmp", "tcp", "udp")


class Vpc(Record):
    """A private network."""

    type_name = do_edges.VPC
    model = "a LAN (bridge); each droplet in it has an interface eth1"
    limits = ("firewalls do not filter between droplets of one VPC",)
    force_new = frozenset({"region", "ipRange"})
    in_place = frozenset({"name", "description"})
    autoname = "name"

    def validate(self, inputs: Json) -> Iterator[Failure]:
        yield from one_of("region", inputs.get("region"), REGIONS, "region")
        if inputs.get("ipRange") is None:
            yield Failure("ipRange", "the twin chooses no range: give one, such as 10.77.0.0/24")
        elif known(inputs["ipRange"]):
            try:
                network = ipaddress.IPv4Network(inputs["ipRange"])
            except ValueError as error:
                yield Failure("ipRange", f"{error}: give a private network, such as 10.77.0.0/24")
            else:
                if not (network.is_private and 16 <= network.prefixlen <= 28):
                    yield Failure("ipRange", f"{network} is no private network (RFC 1918) of /16 to /28")

    def create(self, call: Call, inputs: Json) -> Made:
        made = super().create(call, inputs)
        item = do_edges.required(call.site, self.type_name, made.id)
        call.site.lab.ensure_segment(Segment(do_edges.segment_of(item), inputs["ipRange"]))
        return made

    def outputs(self, item: Item, inputs: Json) -> Json:
        own = {"createdAt": item.data["created"], "default": False, "vpcUrn": f"do:vpc:{item.id}"}
        return {"description": "", **inputs, **own}

    def delete(self, call: Call, outputs: Json, inputs: Json) -> None:
        item = call.site.store.get(self.type_name, call.id)
        if item is None:
            return
        members = [droplet for droplet in call.site.store.items(do_edges.DROPLET) if droplet.data["vpc"] == call.id]
        if members:
            raise TwinError(f"409 Can not delete VPC with members: droplet {members[0].id} is in it")
        call.site.lab.remove_segment(do_edges.segment_of(item))
        call.site.store.drop(item.number)


class ReservedIp(TwinType):
    """A public address that outlives droplets."""

    type_name = do_edges.RESERVED
    model = "an address of the region's public network, translated at the edge of the droplet that has it"
    force_new = frozenset({"region", "ipAddress"})
    in_place = frozenset({"dropletId"})

    def validate(self, inputs: Json) -> Iterator[Failure]:
        yield from one_of("region", inputs.get("region"), REGIONS, "region")
        if known(inputs.get("ipAddress")):
            yield Failure("ipAddress", "the twin gives addresses out; it takes over none")

    def create(self, call: Call, inputs: Json) -> Made:
        public = REGIONS[inputs["region"]].public

        def fill(number: int, items: list[Item]) -> tuple[str, Json]:
            taken = [item.data["index"] for item in items if item.token == self.type_name]
            index = lowest_free(taken, FIRST_RESERVED, public.num_addresses - 3, "reserved address")
            return str(public[index]), {"inputs": inputs, "index": index, "droplet": ""}

        item = call.site.store.begin(call.urn, self.type_name, fill)
        if known(inputs.get("dropletId")):
            do_edges.assign(call.site, item.id, str(inputs["dropletId"]))
        return Made(id=item.id, outputs=self._outputs(call, item.id))

    def _outputs(self, call: Call, address: str) -> Json:
        item = do_edges.required(call.site, self.type_name, address)
        droplet = item.data["droplet"]
        own = {"ipAddress": address, "reservedIpUrn": f"do:reservedip:{address}"}
        return {**item.data["inputs"], **own, "dropletId": int(droplet) if droplet else None}

    def read(self, call: Call, outputs: Json) -> Json | None:
        return None if call.site.store.get(self.type_name, call.id) is None else self._outputs(call, call.id)

    def update(self, call: Call, outputs: Json, olds: Json, news: Json) -> Json:
        item = do_edges.required(call.site, self.type_name, call.id)
        call.site.store.change(item.number, {"inputs": news})
        if olds.get("dropletId") != news.get("dropletId"):
            do_edges.assign(call.site, call.id, str(news.get("dropletId") or ""))
        return self._outputs(call, call.id)

    def delete(self, call: Call, outputs: Json, inputs: Json) -> None:
        item = call.site.store.get(self.type_name, call.id)
        if item is not None:
            do_edges.assign(call.site, call.id, "")
            call.site.store.drop(item.number)


class ReservedIpAssignment(TwinType):
    """The assignment of a reserved address to a droplet: moved at once, given back only while it is still its own."""

    type_name = "digitalocean:index/reservedIpAssignment:ReservedIpAssignment"
    model = "a route to the droplet's edge and its address translation, changed in one step"
    force_new = frozenset({"ipAddress", "dropletId"})

    def create(self, call: Call, inputs: Json) -> Made:
        address, droplet = inputs["ipAddress"], int(inputs["dropletId"])
        do_edges.assign(call.site, address, str(droplet))
        return Made(id=f"{droplet}-{address}", outputs=dict(inputs))

    def read(self, call: Call, outputs: Json) -> Json | None:
        item = call.site.store.get(do_edges.RESERVED, outputs["ipAddress"])
        return outputs if item is not None and item.data["droplet"] == str(int(outputs["dropletId"])) else None

    def delete(self, call: Call, outputs: Json, inputs: Json) -> None:
        item = call.site.store.get(do_edges.RESERVED, inputs["ipAddress"])
        if item is not None and item.data["droplet"] == str(int(inputs["dropletId"])):
            do_edges.assign(call.site, item.id, "")


class Firewall(Record):
    """A stateful firewall before droplets, named by number or by tag."""

    type_name = do_edges.FIREWALL
    model = "nftables rules with connection tracking in the edge before each droplet, which cannot see them"
    limits = ("rules of IPv6 networks: nothing of IPv6 leaves a droplet's own link",)
    in_place = frozenset({"name", "dropletIds", "tags", "inboundRules", "outboundRules"})
    autoname = "name"

    def validate(self, inputs: Json) -> Iterator[Failure]:
        for direction, peers in (("inboundRules", "source"), ("outboundRules", "destination")):
            for index, rule in enumerate(inputs.get(direction) or ()):
                yield from _check_rule(f"{direction}[{index}]", rule, peers)

    def create(self, call: Call, inputs: Json) -> Made:
        made = super().create(call, inputs)
        do_edges.reapply(call.site)
        return made

    def outputs(self, item: Item, inputs: Json) -> Json:
        return {**inputs, "createdAt": item.data["created"], "pendingChanges": [], "status": "succeeded"}

    def update(self, call: Call, outputs: Json, olds: Json, news: Json) -> Json:
        updated = super().update(call, outputs, olds, news)
        do_edges.reapply(call.site)
        return updated

    def delete(self, call: Call, outputs: Json, inputs: Json) -> None:
        super().delete(call, outputs, inputs)
        do_edges.reapply(call.site)


def _check_rule(path: str, rule: Json, peers: str) -> Iterator[Failure]:
    protocol, ports = rule.get("protocol"), rule.get("portRange")
    yield from one_of(f"{path}.protocol", protocol, _PROTOCOLS, "protocol")
    if protocol in ("tcp", "udp") and not ports:
        yield Failure(f"{path}.portRange", f"of protocol {protocol} is required: a port, a range as 8000-9000, or all")
    if known(ports):
        try:
            do_edges.port_range(str(ports))
        except ValueError as error:
            yield Failure(f"{path}.portRange", str(error))
    for key in rule:
        if key not in ("protocol", "portRange", f"{peers}Addresses") and rule[key]:
            yield Failure(f"{path}.{key}", f"the twin models {peers}Addresses alone")
    for address in rule.get(f"{peers}Addresses") or ():
        if known(address):
            try:
                ipaddress.ip_network(address)
            except ValueError as error:
                yield Failure(f"{path}.{peers}Addresses", f"{address!r} is no network: {error}")
