"""The stand-in's endpoints of domains, their records, and tags."""

from tests.support.fake_do.forms import Json, not_found, unprocessable
from tests.support.fake_do.routes import NONE, Reply, Request, find, listing, route
from tests.support.fake_do.world import World


@route("POST", "domains")
def make_domain(world: World, asked: Request) -> Reply:
    """Take a domain into the account."""
    name = str(asked.body.get("name") or "")
    if name in world.domains or "." not in name:
        raise unprocessable("Name already exists" if name in world.domains else "Name is not valid")
    world.domains[name] = {}
    return Reply(201, {"domain": _domain(name)})


route("GET", "domains")(lambda world, _: listing("domains", [_domain(name) for name in world.domains]))


@route("GET", "domains/*")
def get_domain(world: World, asked: Request) -> Reply:
    """A domain."""
    _records(world, asked)
    return Reply(200, {"domain": _domain(asked.parts[0])})


@route("DELETE", "domains/*")
def delete_domain(world: World, asked: Request) -> Reply:
    """Give a domain away."""
    _records(world, asked)
    del world.domains[asked.parts[0]]
    return NONE


@route("POST", "domains/*/records")
def make_record(world: World, asked: Request) -> Reply:
    """Make a record."""
    records, body = _records(world, asked), asked.body
    if body.get("type") not in ("A", "AAAA", "CNAME", "TXT", "MX", "NS", "SRV", "CAA"):
        raise unprocessable("type is not a valid record type")
    if not body.get("data"):
        raise unprocessable("Data needs to be given")
    number = world.number()
    empty = {"priority": None, "port": None, "weight": None, "flags": None, "tag": None}
    known = {key: body[key] for key in (*empty, "type", "name", "data") if key in body}
    records[str(number)] = {"id": number, **empty, **known, "ttl": body.get("ttl") or 1800}
    return Reply(201, {"domain_record": records[str(number)]})


@route("GET", "domains/*/records")
def list_records(world: World, asked: Request) -> Reply:
    """Records of a domain."""
    return listing("domain_records", [*_records(world, asked).values()])


@route("GET", "domains/*/records/*")
def get_record(world: World, asked: Request) -> Reply:
    """A record."""
    return Reply(200, {"domain_record": find(_records(world, asked), asked.parts[1])})


@route("PUT", "domains/*/records/*")
@route("PATCH", "domains/*/records/*")
def change_record(world: World, asked: Request) -> Reply:
    """Change a record."""
    record = find(_records(world, asked), asked.parts[1])
    record.update({key: value for key, value in asked.body.items() if key in record})
    return Reply(200, {"domain_record": record})


@route("DELETE", "domains/*/records/*")
def delete_record(world: World, asked: Request) -> Reply:
    """Remove a record."""
    records = _records(world, asked)
    find(records, asked.parts[1])
    del records[asked.parts[1]]
    return NONE


def _records(world: World, asked: Request) -> dict[str, Json]:
    if asked.parts[0] not in world.domains:
        raise not_found()
    return world.domains[asked.parts[0]]


def _domain(name: str) -> Json:
    return {"name": name, "ttl": 1800, "zone_file": ""}


route("GET", "tags")(lambda world, _: listing("tags", [world.tag(name) for name in sorted(world.tags)]))
route("GET", "tags/*")(lambda world, asked: Reply(200, {"tag": world.tag(asked.parts[0])}))
route("POST", "tags")(lambda world, asked: Reply(201, {"tag": world.make_tag(str(asked.body.get("name")))}))


@route("DELETE", "tags/*")
def delete_tag(world: World, asked: Request) -> Reply:
    """Remove a tag everywhere."""
    world.tag(asked.parts[0])
    world.tags.discard(asked.parts[0])
    for droplet in world.droplets.values():
        droplet["tags"] = [tag for tag in droplet["tags"] if tag != asked.parts[0]]
    return NONE


@route("POST", "tags/*/resources")
def tag_resources(world: World, asked: Request) -> Reply:
    """Put a tag on droplets."""
    world.tag_resources(asked.parts[0], asked.body.get("resources") or [], add=True)
    return NONE


@route("DELETE", "tags/*/resources")
def untag_resources(world: World, asked: Request) -> Reply:
    """Take a tag off droplets."""
    world.tag_resources(asked.parts[0], asked.body.get("resources") or [], add=False)
    return NONE
