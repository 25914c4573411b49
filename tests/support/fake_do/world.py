"""What the stand-in knows: its resources, in the API's own words, and the rules between them."""

import base64
import hashlib
import ipaddress
import itertools
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from tests.support.fake_do.forms import (
    IMAGES,
    REGIONS,
    ApiError,
    Json,
    networks,
    not_found,
    region_of,
    require_region,
    size_of,
    unprocessable,
    v6,
)

CREATED_AT = "2030-01-01T00:00:00Z"
TAG = re.compile(r"[a-zA-Z0-9:\-_]{1,255}")
MAX_USER_DATA_BYTES = 64 * 1024


@dataclass
class World:
    """Everything there is. Not thread-safe: the server holds a lock.

    Attributes:
        ssh_hosts: public IPv4 addresses of droplets, taken in turn.
        boot_polls: how often a new droplet is asked for before it is active, likewise an action before it is completed.
        on_boot: called with each new droplet and its user data.
    """

    ssh_hosts: Sequence[str] = ("127.0.0.1",)
    boot_polls: int = 1
    on_boot: Callable[[Json, str], None] = lambda _droplet, _user_data: None
    keys: dict[str, Json] = field(default_factory=dict)
    vpcs: dict[str, Json] = field(default_factory=dict)
    droplets: dict[str, Json] = field(default_factory=dict)
    user_data: dict[str, str] = field(default_factory=dict)
    reserved: dict[str, str | None] = field(default_factory=dict)
    reserved_regions: dict[str, str] = field(default_factory=dict)
    firewalls: dict[str, Json] = field(default_factory=dict)
    domains: dict[str, dict[str, Json]] = field(default_factory=dict)
    tags: set[str] = field(default_factory=set)
    actions: dict[str, Json] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1001))
    _pending: dict[str, int] = field(default_factory=dict)

    def number(self) -> int:
        """The next number; all numbered things share them."""
        return next(self._numbers)

    # -- keys ------------------------------------------------------------------------------------------------------

    def make_key(self, name: str, public_key: str) -> Json:
        """Register an SSH key; the account takes each only once."""
        words = public_key.split()
        try:
            blob = base64.b64decode(words[1], validate=True)
        except (IndexError, ValueError):
            raise unprocessable("Key invalid, key should be of the format `ssh-rsa AAAA...`") from None
        digest = hashlib.md5(blob, usedforsecurity=False).hexdigest()
        fingerprint = ":".join(digest[at : at + 2] for at in range(0, len(digest), 2))
        if any(key["fingerprint"] == fingerprint for key in self.keys.values()):
            raise unprocessable("SSH Key is already in use on your account")
        key = {"id": self.number(), "name": name, "public_key": public_key, "fingerprint": fingerprint}
        self.keys[str(key["id"])] = key
        return key

    def key(self, id_or_fingerprint: str) -> Json:
        """A key by its number or its fingerprint."""
        for key in self.keys.values():
            if id_or_fingerprint in (str(key["id"]), key["fingerprint"]):
                return key
        raise not_found()

    # -- VPCs ------------------------------------------------------------------------------------------------------

    def make_vpc(self, name: str, region: str, ip_range: str, description: str) -> Json:
        """Make a VPC; ranges of one account may not overlap, names are unique."""
        require_region(region)
        if not re.fullmatch(r"[A-Za-z0-9.-]+", name):
            raise unprocessable("name may only contain alphanumeric characters, dashes, and periods")
        if any(vpc["name"] == name for vpc in self.vpcs.values()):
            raise ApiError(409, "conflict", "a VPC with this name already exists")
        text = ip_range or f"10.{100 + len(self.vpcs)}.0.0/20"
        try:
            network = ipaddress.IPv4Network(text)
        except ValueError:
            raise unprocessable("ip_range is not a valid CIDR") from None
        if not network.is_private or not 16 <= network.prefixlen <= 28:
            raise unprocessable("ip_range must be private, from /16 to /28")
        for vpc in self.vpcs.values():
            if network.overlaps(ipaddress.IPv4Network(vpc["ip_range"])):
                raise unprocessable("This range/size overlaps with another VPC network in your account")
        identity = str(uuid.UUID(int=self.number()))
        vpc = {
            "id": identity,
            "urn": f"do:vpc:{identity}",
            "name": name,
            "description": description,
            "ip_range": text,
            "region": region,
            "created_at": CREATED_AT,
            "default": False,
        }
        self.vpcs[identity] = vpc
        return vpc

    def vpc_members(self, identity: str) -> list[Json]:
        """The droplets of a VPC."""
        found = [droplet for droplet in self.droplets.values() if droplet["vpc_uuid"] == identity]
        return [{"urn": f"do:droplet:{item['id']}", "name": item["name"], "created_at": CREATED_AT} for item in found]

    def delete_vpc(self, identity: str) -> None:
        """Remove an empty VPC."""
        if self.vpc_members(identity):
            raise ApiError(403, "forbidden", "Can not delete VPC with members")
        del self.vpcs[identity]

    # -- droplets --------------------------------------------------------------------------------------------------

    def make_droplet(self, asked: Json) -> tuple[Json, Json]:
        """Make a droplet and the action of its creation."""
        require_region(asked.get("region", ""))
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", asked.get("name", "")):
            raise unprocessable("Only valid hostname characters are allowed. (a-z, A-Z, 0-9, . and -)")
        size, image = size_of(asked.get("size", "")), asked.get("image")
        if image not in IMAGES and not isinstance(image, int):
            raise unprocessable("You specified an invalid image for Droplet creation.")
        keys = [self.key(str(key)) for key in asked.get("ssh_keys") or []]
        vpc = self.vpcs.get(asked.get("vpc_uuid") or "")
        if asked.get("vpc_uuid") and (vpc is None or vpc["region"] != asked["region"]):
            raise unprocessable("vpc_uuid is not a VPC of this region")
        user_data = asked.get("user_data") or ""
        if len(user_data.encode()) > MAX_USER_DATA_BYTES:
            raise unprocessable("user_data is too long")
        tags = [self.make_tag(tag)["name"] for tag in asked.get("tags") or []]
        number = self.number()
        names = ("ipv6", "monitoring", "private_networking", "backups")
        features = [name for name in names if asked.get(name) or name == "private_networking"]
        droplet = {
            "id": number,
            "name": asked["name"],
            "memory": size["memory"],
            "vcpus": size["vcpus"],
            "disk": size["disk"],
            "locked": False,
            "status": "new",
            "created_at": CREATED_AT,
            "features": [*features, *(["droplet_agent"] if asked.get("with_droplet_agent") else [])],
            "region": region_of(asked["region"]),
            "image": {"id": 1, "slug": image, "name": str(image), "distribution": "Ubuntu", "regions": list(REGIONS)},
            "size": size,
            "size_slug": size["slug"],
            "networks": {"v4": [], "v6": []},
            "tags": tags,
            "volume_ids": [],
            "vpc_uuid": vpc["id"] if vpc else "",
            "backup_ids": [],
            "snapshot_ids": [],
            "kernel": None,
            "next_backup_window": None,
        }
        at = len(self.user_data)
        self.droplets[str(number)], self.user_data[str(number)] = droplet, user_data
        self._pending[str(number)] = self.boot_polls
        droplet["networks"] = networks(
            self.ssh_hosts[at % len(self.ssh_hosts)],
            vpc["ip_range"] if vpc else "10.116.0.0/20",
            at,
            "ipv6" in features,
        )
        self.on_boot({**droplet, "ssh_keys": [key["public_key"] for key in keys]}, user_data)
        return droplet, self.make_action("create", "droplet", number, asked["region"])

    def droplet(self, identity: str) -> Json:
        """A droplet by its number, a step further in its boot each time it is asked for."""
        if identity not in self.droplets:
            raise not_found()
        droplet = self.droplets[identity]
        if droplet["status"] == "new":
            self._pending[identity] -= 1
            if self._pending[identity] < 0:
                droplet["status"] = "active"
        return droplet

    def delete_droplet(self, identity: str) -> None:
        """Remove a droplet; its reserved address stays, unassigned."""
        if identity not in self.droplets:
            raise not_found()
        del self.droplets[identity]
        for address, owner in self.reserved.items():
            if owner == identity:
                self.reserved[address] = None
        for firewall in self.firewalls.values():
            firewall["droplet_ids"] = [number for number in firewall["droplet_ids"] if str(number) != identity]

    def act_on_droplet(self, identity: str, asked: Json) -> Json:
        """Carry out an action of a droplet."""
        droplet = self.droplets.get(identity)
        if droplet is None:
            raise not_found()
        kind = asked.get("type", "")
        if kind in ("power_off", "shutdown"):
            droplet["status"] = "off"
        elif kind in ("power_on", "reboot", "power_cycle"):
            droplet["status"] = "active"
        elif kind == "rename":
            droplet["name"] = asked["name"]
        elif kind == "enable_ipv6":
            droplet["features"] = sorted({*droplet["features"], "ipv6"})
            droplet["networks"]["v6"] = [v6(int(identity))]
        elif kind == "resize":
            if droplet["status"] != "off":
                raise unprocessable("Droplet must be powered off to resize.")
            size = size_of(asked.get("size", ""))
            droplet.update(size=size, size_slug=size["slug"], memory=size["memory"], vcpus=size["vcpus"])
            if asked.get("disk"):
                droplet["disk"] = size["disk"]
        else:
            raise unprocessable(f"The action {kind!r} is not one that this stand-in knows")
        return self.make_action(kind, "droplet", int(identity), droplet["region"]["slug"])

    # -- reserved addresses ----------------------------------------------------------------------------------------

    def reserve(self, region: str, droplet: int | None) -> str:
        """Reserve an address of the documentation range (RFC 5737), for a region or at once for a droplet."""
        if droplet is not None:
            region = self.droplet(str(droplet))["region"]["slug"]
        require_region(region)
        if len(self.reserved) >= 3:
            raise unprocessable("Reserved IP limit reached; please contact support to raise it")
        address = next(
            str(found) for found in ipaddress.IPv4Network("198.51.100.0/24").hosts() if str(found) not in self.reserved
        )
        self.reserved[address], self.reserved_regions[address] = None, region
        if droplet is not None:
            self.reserved[address] = str(droplet)
        return address

    def reserved_json(self, address: str) -> Json:
        """A reserved address as the API shows it, its droplet within."""
        if address not in self.reserved:
            raise not_found()
        owner = self.reserved[address]
        return {
            "ip": address,
            "region": region_of(self.reserved_regions[address]),
            "droplet": self.droplets[owner] if owner else None,
            "locked": False,
            "project_id": str(uuid.UUID(int=1)),
        }

    def act_on_reserved(self, address: str, asked: Json) -> Json:
        """Assign an address, moving it when another droplet has it, or take it off."""
        if address not in self.reserved:
            raise not_found()
        region = self.reserved_regions[address]
        if asked.get("type") == "assign":
            droplet = self.droplets.get(str(asked.get("droplet_id")))
            if droplet is None:
                raise not_found()
            if droplet["region"]["slug"] != region:
                raise unprocessable("Reserved IP and Droplet must be in the same region.")
            if droplet["status"] == "new":
                raise unprocessable("Droplet already has a pending event.")
            if any(owner == str(droplet["id"]) for other, owner in self.reserved.items() if other != address):
                raise unprocessable("The Droplet already has a Reserved IP assigned.")
            self.reserved[address] = str(droplet["id"])
            kind = "assign_ip"
        elif asked.get("type") == "unassign":
            if self.reserved[address] is None:
                raise unprocessable("The Reserved IP is not assigned.")
            self.reserved[address], kind = None, "unassign_ip"
        else:
            raise unprocessable("type must be assign or unassign")
        number = int(ipaddress.IPv4Address(address))
        return self.make_action(kind, "reserved_ip", number, region, address)

    # -- tags, actions ---------------------------------------------------------------------------------------------

    def make_tag(self, name: str) -> Json:
        """Make a tag, or find it."""
        if not TAG.fullmatch(name):
            raise unprocessable("Name can only contain letters, numbers, colons, dashes, and underscores")
        self.tags.add(name)
        return self.tag(name)

    def tag(self, name: str) -> Json:
        """A tag and how many droplets have it."""
        if name not in self.tags:
            raise not_found()
        count = sum(name in droplet["tags"] for droplet in self.droplets.values())
        empty = {"count": 0}
        kinds = ("images", "volumes", "volume_snapshots", "databases")
        return {
            "name": name,
            "resources": {"count": count, "droplets": {"count": count}, **dict.fromkeys(kinds, empty)},
        }

    def tag_resources(self, name: str, resources: Sequence[Json], *, add: bool) -> None:
        """Put a tag on droplets, or take it off."""
        self.tag(name)
        for resource in resources:
            droplet = self.droplets.get(str(resource.get("resource_id")))
            if resource.get("resource_type") != "droplet" or droplet is None:
                raise not_found()
            kept = [tag for tag in droplet["tags"] if tag != name]
            droplet["tags"] = [*kept, *([name] if add else [])]

    def make_action(self, kind: str, of: str, resource: int, region: str, address: str = "") -> Json:
        """Note an action; it is completed after as many looks as a boot takes."""
        number = self.number()
        action = {
            "id": number,
            "status": "in-progress" if self.boot_polls else "completed",
            "type": kind,
            "started_at": CREATED_AT,
            "completed_at": None if self.boot_polls else CREATED_AT,
            "resource_id": resource,
            "resource_type": of,
            "region": region_of(region),
            "region_slug": region,
        }
        self.actions[str(number)] = action
        self._pending[f"action {number}"] = self.boot_polls
        return action

    def action(self, identity: str) -> Json:
        """An action by its number, a step further each time it is asked for."""
        if identity not in self.actions:
            raise not_found()
        action = self.actions[identity]
        self._pending[f"action {identity}"] -= 1
        if self._pending[f"action {identity}"] < 0:
            action.update(status="completed", completed_at=CREATED_AT)
        return action
