"""DigitalOcean's things that are records alone: keys, tags, DNS records, projects. Force-new by the provider's source.

Source: https://github.com/digitalocean/terraform-provider-digitalocean (digitalocean/{sshkey,tag,domain,project})
"""

import base64
import re
from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar

from infra.engine.providers import Failure
from infra.twin.do_edges import required
from infra.twin.do_forms import number_id, uuid_id
from infra.twin.forms import now
from infra.twin.interface import Call, Json, LeftOut, Made, TwinError, TwinType, known
from infra.twin.store import Item
from infra.twin.tls import md5_fingerprint

TAG = re.compile(r"[a-zA-Z0-9:\-_]{1,255}")


class Record(TwinType):
    """A thing that is an item of the store, and nothing else unless its type does more."""

    def identify(self, call: Call, number: int, inputs: Json) -> str:
        """Return the id of the item of a number."""
        return uuid_id(call.site.run, number)

    def refuse(self, call: Call, inputs: Json, others: list[Item]) -> None:
        """Raise TwinError where the API would refuse it beside what is there already."""

    @abstractmethod
    def outputs(self, item: Item, inputs: Json) -> Json:
        """Return the outputs of an item."""

    def create(self, call: Call, inputs: Json) -> Made:
        def fill(number: int, items: list[Item]) -> tuple[str, Json]:
            self.refuse(call, inputs, [item for item in items if item.token == self.type_name])
            return self.identify(call, number, inputs), {"inputs": inputs, "created": now()}

        item = call.site.store.begin(call.urn, self.type_name, fill)
        item = call.site.store.change(item.number, {"inputs": inputs}) or item
        return Made(id=item.id, outputs=self.outputs(item, inputs))

    def read(self, call: Call, outputs: Json) -> Json | None:
        item = call.site.store.get(self.type_name, call.id)
        return self.outputs(item, item.data["inputs"]) if item is not None else None

    def update(self, call: Call, outputs: Json, olds: Json, news: Json) -> Json:
        item = required(call.site, self.type_name, call.id)
        item = call.site.store.change(item.number, {"inputs": news}) or item
        return self.outputs(item, news)

    def delete(self, call: Call, outputs: Json, inputs: Json) -> None:
        item = call.site.store.get(self.type_name, call.id)
        if item is not None:
            call.site.store.drop(item.number)


class SshKey(Record):
    """A public key of the account; who may log in is said by user data, and by droplets that name it."""

    type_name = "digitalocean:index/sshKey:SshKey"
    model = "a record; a droplet that names it gets it into root's authorized_keys"
    force_new = frozenset({"publicKey"})
    in_place = frozenset({"name"})
    autoname = "name"

    def validate(self, inputs: Json) -> Iterator[Failure]:
        if known(key := inputs.get("publicKey")) and _blob(str(key)) is None:
            yield Failure("publicKey", "Key invalid, key should be of the format `ssh-rsa AAAA...`")

    def identify(self, call: Call, number: int, inputs: Json) -> str:
        return number_id(number)

    def refuse(self, call: Call, inputs: Json, others: list[Item]) -> None:
        wanted = _blob(inputs["publicKey"])
        if any(_blob(item.data["inputs"]["publicKey"]) == wanted for item in others):
            raise TwinError("422 SSH Key is already in use on your account: an account takes each key only once")

    def outputs(self, item: Item, inputs: Json) -> Json:
        return {**inputs, "fingerprint": md5_fingerprint(_blob(inputs["publicKey"]) or b"")}


def _blob(key: str) -> bytes | None:
    words = key.split()
    try:
        return base64.b64decode(words[1], validate=True) if words[0].startswith(("ssh-", "ecdsa-", "sk-")) else None
    except (IndexError, ValueError):
        return None


class Tag(Record):
    """A tag by itself; counts are those of the world's droplets."""

    type_name = "digitalocean:index/tag:Tag"
    model = "a record"
    force_new = frozenset({"name"})
    autoname = "name"

    def validate(self, inputs: Json) -> Iterator[Failure]:
        yield from check_tags("name", [inputs.get("name")])

    def identify(self, call: Call, number: int, inputs: Json) -> str:
        return str(inputs["name"])

    def outputs(self, item: Item, inputs: Json) -> Json:
        counts = ("databases", "droplets", "images", "totalResource", "volumeSnapshots", "volumes")
        return {**inputs, **{f"{name}Count": 0 for name in counts}}


def check_tags(name: str, tags: list[object]) -> Iterator[Failure]:
    """Yield what the API refuses of tags."""
    for tag in tags:
        if known(tag) and not TAG.fullmatch(str(tag)):
            yield Failure(name, f"{tag!r} is no tag: letters, digits, `:`, `-` and `_`, at most 255")


class DnsRecord(Record):
    """A record in a domain of the account."""

    type_name = "digitalocean:index/dnsRecord:DnsRecord"
    model = "a record"
    limits = ("names are kept and not yet resolved in the world: members reach the relay by its address",)
    force_new = frozenset({"domain", "type"})
    in_place = frozenset({"name", "value", "ttl", "port", "priority", "weight", "flags", "tag"})
    defaults: ClassVar = {"ttl": 1800}

    def identify(self, call: Call, number: int, inputs: Json) -> str:
        return number_id(number)

    def outputs(self, item: Item, inputs: Json) -> Json:
        name, domain = inputs.get("name") or "@", inputs["domain"]
        return {**inputs, "fqdn": domain if name == "@" else f"{name}.{domain}"}


class Project(Record):
    """A project, which groups things and changes none of them."""

    type_name = "digitalocean:index/project:Project"
    model = "a record"
    in_place = frozenset({"name", "description", "purpose", "environment", "resources"})
    left_out: ClassVar = {"isDefault": LeftOut(why="new things are put into no default project")}
    defaults: ClassVar = {"purpose": "Web Application"}
    autoname = "name"

    def outputs(self, item: Item, inputs: Json) -> Json:
        made = {"createdAt": item.data["created"], "updatedAt": item.data["created"]}
        return {"isDefault": False, "resources": [], **inputs, **made, "ownerId": 1, "ownerUuid": uuid_id("owner", 1)}
