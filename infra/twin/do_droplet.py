"""A droplet: a machine that boots the very user data, with the interfaces and addresses that a droplet has.

Source: https://github.com/digitalocean/terraform-provider-digitalocean/blob/main/digitalocean/droplet/resource_droplet.go
"""

import ipaddress
from collections.abc import Iterator
from typing import ClassVar, Final

from infra.engine.providers import Failure
from infra.lab.machine import MachineSpec
from infra.lab.topology import Host, Link
from infra.twin import do_edges
from infra.twin.do_account import check_tags
from infra.twin.do_forms import IMAGES, REGIONS, SIZES, droplet_host, number_id
from infra.twin.forms import lowest_free, now, one_of
from infra.twin.interface import Call, Json, LeftOut, Made, TwinError, TwinType, known
from infra.twin.site import Site
from infra.twin.store import Item

V6: Final = ipaddress.IPv6Network("2001:db8:10::/64")
LARGEST_USER_DATA_BYTES: Final = 64 * 1024
LAST_SLOT: Final = 150
_AUTHORIZED: Final = "/root/.ssh/authorized_keys"


class Droplet(TwinType):
    """A machine in a region."""

    type_name = do_edges.DROPLET
    model = "a machine (systemd-nspawn, systemd, sshd, cloud-init) behind an edge of its own; eth0 public, eth1 VPC"
    limits = (
        "the kernel is this machine's: no kernel or module of the image's own, no swap, no disk but memory",
        "user data comes to cloud-init as a NoCloud seed, and the network is there before it boots",
        "IPv6: the address is on eth0, and nothing of it leaves the droplet's own link",
        "memory and CPUs of a size are told and not enforced; a change of size is a power cycle",
    )
    force_new = frozenset({"image", "region", "sshKeys", "userData", "monitoring", "dropletAgent", "vpcUuid"})
    in_place = frozenset({"name", "size", "tags", "resizeDisk", "ipv6"})
    left_out: ClassVar = {
        "monitoring": LeftOut(why="there is no metrics agent and no graph"),
        "dropletAgent": LeftOut(why="there is no agent and no web console"),
        "backups": LeftOut(why="nothing is backed up"),
        "gracefulShutdown": LeftOut(why="a deleted droplet has its plug pulled"),
    }
    defaults: ClassVar = {"resizeDisk": True, "backups": False, "ipv6": False, "monitoring": False}
    autoname = "name"

    def validate(self, inputs: Json) -> Iterator[Failure]:
        remedy = ": choose such an image in the stack's configuration (docs/twin.md)"
        yield from one_of("region", inputs.get("region"), REGIONS, "region")
        yield from one_of("image", inputs.get("image"), IMAGES, "root for image", remedy)
        yield from one_of("size", inputs.get("size"), SIZES, "size")
        yield from check_tags("tags", list(inputs.get("tags") or ()))
        if inputs.get("region") is None:
            yield Failure("region", "the twin chooses no region: give one")
        if inputs.get("vpcUuid") is None:
            yield Failure("vpcUuid", "the twin has no default VPC: make one and name it")
        text = inputs.get("userData")
        if known(text) and len(str(text).encode()) > LARGEST_USER_DATA_BYTES:
            yield Failure("userData", f"has more than {LARGEST_USER_DATA_BYTES} bytes")

    def create(self, call: Call, inputs: Json) -> Made:
        site = call.site
        vpc = do_edges.required(site, do_edges.VPC, inputs["vpcUuid"])
        item = site.store.begin(call.urn, self.type_name, lambda number, items: _begin(inputs, vpc, number, items))
        host = droplet_host(item.number)
        do_edges.ensure(site, item)
        site.lab.ensure_host(_host(site, item, vpc))
        site.store.change(item.number, {"ready": True})
        machine = site.machine(host)
        machine.create(
            MachineSpec(
                root=str(site.root(IMAGES[inputs["image"]])),
                hostname=inputs["name"],
                instance_id=item.id,
                user_data=inputs.get("userData") or "#cloud-config\n{}\n",
                files=_authorized(site, inputs),
            )
        )
        machine.start()
        return Made(id=item.id, outputs=_outputs(item, inputs, "active"))

    def read(self, call: Call, outputs: Json) -> Json | None:
        item = call.site.store.get(self.type_name, call.id)
        if item is None:
            return None
        machine = call.site.machine(droplet_host(item.number))
        if not machine.exists:
            return None
        return _outputs(item, item.data["inputs"], "active" if machine.running else "off")

    def update(self, call: Call, outputs: Json, olds: Json, news: Json) -> Json:
        item = do_edges.required(call.site, self.type_name, call.id)
        if olds.get("ipv6") and not news.get("ipv6"):
            raise TwinError("IPv6 of a droplet cannot be turned off again: replace it")
        # What is ignored by the program stays as it was at creation: user data and image are those that booted.
        kept = {key: item.data["inputs"].get(key) for key in ("userData", "image")}
        item = call.site.store.change(item.number, {"inputs": {**news, **kept}}) or item
        if olds.get("size") != news.get("size"):
            call.site.machine(droplet_host(item.number)).reboot()
        do_edges.reapply(call.site)
        return _outputs(item, news, "active")

    def computed(self, olds: Json, news: Json) -> frozenset[str]:
        resized = olds.get("size") != news.get("size")
        return frozenset(do_edges.size_outputs("s-1vcpu-1gb")) if resized else frozenset()

    def delete(self, call: Call, outputs: Json, inputs: Json) -> None:
        site = call.site
        item = site.store.get(self.type_name, call.id)
        if item is None:
            return
        host = droplet_host(item.number)
        site.machine(host).remove()
        site.lab.remove_host(host)
        for reserved in site.store.items(do_edges.RESERVED):
            if reserved.data["droplet"] == item.id:
                site.store.change(reserved.number, {"droplet": ""})
        do_edges.remove(site, item)
        site.store.drop(item.number)


def _begin(inputs: Json, vpc: Item, number: int, items: list[Item]) -> tuple[str, Json]:
    """Give a new droplet its addresses."""
    droplets = [item for item in items if item.token == do_edges.DROPLET]
    slot = lowest_free((item.data["slot"] for item in droplets), 1, LAST_SLOT, "public address")
    network = ipaddress.IPv4Network(vpc.data["inputs"]["ipRange"])
    inside = [item.data["inside"] for item in droplets if item.data["vpc"] == vpc.id]
    at = lowest_free(inside, 2, network.num_addresses - 2, f"address of VPC {network}")
    public = REGIONS[inputs["region"]].public[do_edges.FIRST_PUBLIC + slot]
    return number_id(number), {
        "inputs": inputs,
        "created": now(),
        "slot": slot,
        "inside": at,
        "vpc": vpc.id,
        "public": str(public),
        "private": str(network[at]),
        "v6": str(V6[slot]) if inputs.get("ipv6") else "",
    }


def _host(site: Site, item: Item, vpc: Item) -> Host:
    data, edge = item.data, do_edges.edge_of(site, item)
    network = ipaddress.IPv4Network(vpc.data["inputs"]["ipRange"])
    more = [f"{do_edges.ANCHORS[data['slot'] + 4]}/{do_edges.ANCHORS.prefixlen}"]
    more += [f"{data['v6']}/{V6.prefixlen}"] if data["v6"] else []
    return Host(
        edge.host,
        (
            Link(edge.segment, f"{data['public']}/{edge.region.public.prefixlen}"),
            Link(do_edges.segment_of(vpc), f"{data['private']}/{network.prefixlen}"),
        ),
        gateway=edge.gateway,
        addresses=tuple(more),
    )


def _authorized(site: Site, inputs: Json) -> dict[str, str]:
    """The account's keys that the droplet names, as the image's own agent would put them."""
    wanted = {str(key) for key in inputs.get("sshKeys") or ()}
    keys = site.store.items("digitalocean:index/sshKey:SshKey")
    lines = [item.data["inputs"]["publicKey"].strip() for item in keys if item.id in wanted]
    return {_AUTHORIZED: "".join(f"{line}\n" for line in lines)} if lines else {}


def _outputs(item: Item, inputs: Json, status: str) -> Json:
    data = item.data
    return {
        "tags": [],
        "volumeIds": [],
        "gracefulShutdown": False,
        "dropletAgent": None,
        "backupPolicy": None,
        "gpuPartitionMode": None,
        **inputs,
        **do_edges.size_outputs(inputs["size"]),
        "createdAt": data["created"],
        "dropletUrn": f"do:droplet:{item.id}",
        "ipv4Address": data["public"],
        "ipv4AddressPrivate": data["private"],
        "ipv6Address": data["v6"],
        "locked": False,
        "status": status,
        "privateNetworking": True,
        "publicNetworking": True,
    }
