"""The stand-in's endpoints: method and path to what it does in the world."""

import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.support.fake_do.forms import (
    IMAGES,
    REGIONS,
    SIZES,
    ApiError,
    Json,
    not_found,
    region_of,
    size_of,
    unprocessable,
)
from tests.support.fake_do.world import CREATED_AT, World


@dataclass(frozen=True)
class Request:
    """A request as the handlers get it: the parts of its path that the route names, its query and its JSON."""

    parts: tuple[str, ...] = ()
    query: dict[str, str] = field(default_factory=dict)
    body: Json = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """An answer: status and JSON, or a list under a key, of which the server cuts the asked-for page."""

    status: int
    body: Json | None = None
    listed: tuple[str, Sequence[Any]] | None = None


Handler = Callable[[World, Request], Reply]
ROUTES: list[tuple[str, re.Pattern[str], Handler]] = []
NONE = Reply(204)


def route(method: str, path: str) -> Callable[[Handler], Handler]:
    """Register a handler; `*` in the path stands for one part of it."""

    def register(handler: Handler) -> Handler:
        pattern = re.escape(path).replace(r"\*", "([^/]+)")
        ROUTES.append((method, re.compile(f"/v2/{pattern}/?"), handler))
        return handler

    return register


def listing(key: str, items: Sequence[Any]) -> Reply:
    """A list, to be cut into pages."""
    return Reply(200, listed=(key, list(items)))


def find(items: dict[str, Json], identity: str) -> Json:
    """An item by its id, or 404."""
    if identity not in items:
        raise not_found()
    return items[identity]


@route("GET", "account")
def account(_world: World, _request: Request) -> Reply:
    """The account, in which there is room for some."""
    limits = {"droplet_limit": 25, "floating_ip_limit": 3, "reserved_ip_limit": 3, "volume_limit": 10}
    who = {"email": "fake@example.org", "name": "Fake", "uuid": "fake", "email_verified": True}
    team = {"name": "Fake", "uuid": "fake"}
    return Reply(200, {"account": {**limits, **who, "status": "active", "status_message": "", "team": team}})


route("GET", "regions")(lambda _world, _request: listing("regions", [region_of(slug) for slug in REGIONS]))
route("GET", "sizes")(lambda _world, _request: listing("sizes", [size_of(slug) for slug in SIZES]))
route("GET", "images")(
    lambda _world, _request: listing("images", [{"id": at, "slug": slug} for at, slug in enumerate(IMAGES, 1)])
)

route("GET", "account/keys")(lambda world, _: listing("ssh_keys", [*world.keys.values()]))
route("GET", "account/keys/*")(lambda world, asked: Reply(200, {"ssh_key": world.key(asked.parts[0])}))


@route("POST", "account/keys")
def make_key(world: World, asked: Request) -> Reply:
    """Register a key."""
    return Reply(201, {"ssh_key": world.make_key(str(asked.body.get("name")), str(asked.body.get("public_key")))})


@route("PUT", "account/keys/*")
def rename_key(world: World, asked: Request) -> Reply:
    """Rename a key."""
    key = world.key(asked.parts[0])
    key["name"] = asked.body["name"]
    return Reply(200, {"ssh_key": key})


@route("DELETE", "account/keys/*")
def delete_key(world: World, asked: Request) -> Reply:
    """Remove a key."""
    del world.keys[str(world.key(asked.parts[0])["id"])]
    return NONE


route("GET", "vpcs")(lambda world, _: listing("vpcs", [*world.vpcs.values()]))
route("GET", "vpcs/*")(lambda world, asked: Reply(200, {"vpc": find(world.vpcs, asked.parts[0])}))
route("GET", "vpcs/*/members")(lambda world, asked: listing("members", world.vpc_members(asked.parts[0])))


@route("POST", "vpcs")
def make_vpc(world: World, asked: Request) -> Reply:
    """Make a VPC."""
    body = asked.body
    words = (str(body.get(key) or "") for key in ("name", "region", "ip_range", "description"))
    return Reply(201, {"vpc": world.make_vpc(*words)})


@route("PUT", "vpcs/*")
@route("PATCH", "vpcs/*")
def change_vpc(world: World, asked: Request) -> Reply:
    """Rename or describe a VPC."""
    vpc = find(world.vpcs, asked.parts[0])
    vpc.update({key: asked.body[key] for key in ("name", "description", "default") if key in asked.body})
    return Reply(200, {"vpc": vpc})


@route("DELETE", "vpcs/*")
def delete_vpc(world: World, asked: Request) -> Reply:
    """Remove an empty VPC."""
    find(world.vpcs, asked.parts[0])
    world.delete_vpc(asked.parts[0])
    return NONE


@route("POST", "droplets")
def make_droplet(world: World, asked: Request) -> Reply:
    """Make a droplet; the answer links to the action that makes it."""
    droplet, action = world.make_droplet(asked.body)
    link = {"id": action["id"], "rel": "create", "href": f"/v2/actions/{action['id']}"}
    return Reply(202, {"droplet": droplet, "links": {"actions": [link]}})


@route("GET", "droplets")
def list_droplets(world: World, asked: Request) -> Reply:
    """Droplets, by tag or name where asked for."""
    wanted = {"tag_name": asked.query.get("tag_name"), "name": asked.query.get("name")}
    found = [
        droplet
        for droplet in world.droplets.values()
        if (not wanted["tag_name"] or wanted["tag_name"] in droplet["tags"])
        and (not wanted["name"] or wanted["name"] == droplet["name"])
    ]
    return listing("droplets", found)


route("GET", "droplets/*")(lambda world, asked: Reply(200, {"droplet": world.droplet(asked.parts[0])}))
route("GET", "droplets/*/actions/*")(lambda world, asked: Reply(200, {"action": world.action(asked.parts[1])}))
route("GET", "actions/*")(lambda world, asked: Reply(200, {"action": world.action(asked.parts[0])}))
route("GET", "actions")(lambda world, _: listing("actions", [*world.actions.values()]))


@route("GET", "droplets/*/actions")
def droplet_actions(world: World, asked: Request) -> Reply:
    """Actions of a droplet."""
    # Whoever polls the list instead of one action sees it move on, too.
    found = [world.action(name) for name, it in world.actions.items() if str(it["resource_id"]) == asked.parts[0]]
    return listing("actions", found)


@route("GET", "droplets/*/firewalls")
def droplet_firewalls(world: World, asked: Request) -> Reply:
    """Firewalls that hold for a droplet."""
    droplet = find(world.droplets, asked.parts[0])
    found = [
        firewall
        for firewall in world.firewalls.values()
        if droplet["id"] in firewall["droplet_ids"] or set(firewall["tags"]) & set(droplet["tags"])
    ]
    return listing("firewalls", found)


@route("POST", "droplets/*/actions")
def act_on_droplet(world: World, asked: Request) -> Reply:
    """Do something to a droplet."""
    return Reply(201, {"action": world.act_on_droplet(asked.parts[0], asked.body)})


@route("DELETE", "droplets/*")
def delete_droplet(world: World, asked: Request) -> Reply:
    """Remove a droplet."""
    world.delete_droplet(asked.parts[0])
    return NONE


@route("POST", "reserved_ips")
def reserve(world: World, asked: Request) -> Reply:
    """Reserve an address."""
    address = world.reserve(str(asked.body.get("region") or ""), asked.body.get("droplet_id"))
    return Reply(202, {"reserved_ip": world.reserved_json(address), "links": {}})


@route("GET", "reserved_ips")
def list_reserved(world: World, _request: Request) -> Reply:
    """Reserved addresses."""
    return listing("reserved_ips", [world.reserved_json(address) for address in world.reserved])


route("GET", "reserved_ips/*")(lambda world, asked: Reply(200, {"reserved_ip": world.reserved_json(asked.parts[0])}))
route("GET", "reserved_ips/*/actions/*")(lambda world, asked: Reply(200, {"action": world.action(asked.parts[1])}))


@route("POST", "reserved_ips/*/actions")
def act_on_reserved(world: World, asked: Request) -> Reply:
    """Assign or unassign an address."""
    return Reply(201, {"action": world.act_on_reserved(asked.parts[0], asked.body)})


@route("DELETE", "reserved_ips/*")
def release(world: World, asked: Request) -> Reply:
    """Give an address back."""
    world.reserved_json(asked.parts[0])
    del world.reserved[asked.parts[0]]
    return NONE


def firewall_of(world: World, body: Json, made: Json) -> Json:
    """A firewall as asked for, in the API's form: ports are text, `0` stands for all, lists are never null."""
    if not body.get("name"):
        raise unprocessable("name must not be blank")
    rules: dict[str, list[Json]] = {}
    for direction, ends in (("inbound_rules", "sources"), ("outbound_rules", "destinations")):
        rules[direction] = [_rule(world, rule, ends) for rule in body.get(direction) or []]
    if not rules["inbound_rules"] and not rules["outbound_rules"]:
        raise unprocessable("inbound_rules and outbound_rules must not both be empty")
    numbers = [int(number) for number in body.get("droplet_ids") or []]
    for number in numbers:
        find(world.droplets, str(number))
    for tag in body.get("tags") or []:
        world.tag(tag)
    return {
        **made,
        **rules,
        "name": body["name"],
        "droplet_ids": numbers,
        "tags": list(body.get("tags") or []),
        "status": "succeeded",
        "pending_changes": [],
    }


def _rule(world: World, rule: Json, ends: str) -> Json:
    protocol, ports = rule.get("protocol"), str(rule.get("ports") or "")
    if protocol not in ("tcp", "udp", "icmp"):
        raise unprocessable("protocol must be one of tcp, udp, icmp")
    if protocol != "icmp" and not re.fullmatch(r"all|0|\d{1,5}(-\d{1,5})?", ports):
        raise unprocessable("ports must be a port, a range or all")
    given = {key: value for key, value in (rule.get(ends) or {}).items() if value}
    if not given:
        raise unprocessable(f"{ends} must not be empty")
    for tag in given.get("tags", ()):
        world.tag(tag)
    shown = "0" if protocol == "icmp" or ports in ("all", "0") else ports
    return {"protocol": protocol, "ports": shown, ends: given}


@route("POST", "firewalls")
def make_firewall(world: World, asked: Request) -> Reply:
    """Make a firewall; names are unique."""
    if any(firewall["name"] == asked.body.get("name") for firewall in world.firewalls.values()):
        raise ApiError(409, "conflict", "duplicate name")
    identity = str(uuid.UUID(int=world.number()))
    world.firewalls[identity] = firewall_of(world, asked.body, {"id": identity, "created_at": CREATED_AT})
    return Reply(202, {"firewall": world.firewalls[identity]})


route("GET", "firewalls")(lambda world, _: listing("firewalls", [*world.firewalls.values()]))
route("GET", "firewalls/*")(lambda world, asked: Reply(200, {"firewall": find(world.firewalls, asked.parts[0])}))


@route("PUT", "firewalls/*")
def change_firewall(world: World, asked: Request) -> Reply:
    """Replace a firewall's rules and droplets."""
    kept = find(world.firewalls, asked.parts[0])
    world.firewalls[asked.parts[0]] = firewall_of(world, asked.body, kept)
    return Reply(200, {"firewall": world.firewalls[asked.parts[0]]})


@route("DELETE", "firewalls/*")
def delete_firewall(world: World, asked: Request) -> Reply:
    """Remove a firewall."""
    find(world.firewalls, asked.parts[0])
    del world.firewalls[asked.parts[0]]
    return NONE


def _change_firewall_list(world: World, asked: Request, key: str, given: list[Any], *, add: bool) -> Reply:
    firewall = find(world.firewalls, asked.parts[0])
    kept = [item for item in firewall[key] if item not in given]
    firewall[key] = [*kept, *(given if add else [])]
    return NONE


for _method, _add in (("POST", True), ("DELETE", False)):
    route(_method, "firewalls/*/droplets")(
        lambda world, asked, add=_add: _change_firewall_list(  # type: ignore[misc]  # a bound default
            world, asked, "droplet_ids", [int(number) for number in asked.body["droplet_ids"]], add=add
        )
    )
    route(_method, "firewalls/*/tags")(
        lambda world, asked, add=_add: _change_firewall_list(  # type: ignore[misc]  # a bound default
            world, asked, "tags", list(asked.body["tags"]), add=add
        )
    )
