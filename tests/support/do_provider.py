"""In-process providers for the embedded engine that bring do-nyc1 up against the stand-in of DigitalOcean's API.

They decide what the official provider decides: which changes need another resource, in which order an assignment is
read, moved and removed. Certificates, keys and releases are only noted.
Source: https://github.com/digitalocean/terraform-provider-digitalocean (resource_droplet.go, resource_reserved_ip*.go)
"""

import threading
from dataclasses import dataclass, field
from typing import Any, Final

from infra.engine.errors import ResourceError
from infra.engine.plugins import PluginHost
from infra.engine.props import Props, reveal
from infra.engine.providers import Diff, Existing, Failure, Outcome, Provider
from infra.engine.urn import name_of, type_of
from tests.support.fake_do import FakeDo
from tests.support.fake_do.forms import ApiError, Json

FORCE_NEW: Final[dict[str, tuple[str, ...]]] = {
    "Droplet": ("image", "region", "sshKeys", "userData", "monitoring", "dropletAgent", "vpcUuid"),
    "ReservedIp": ("region",),
    "ReservedIpAssignment": ("ipAddress", "dropletId"),
    "Vpc": ("region", "ipRange"),
    "SshKey": ("publicKey",),
    "DnsRecord": ("domain", "type"),
    "Release": ("machine", "stack", "run"),
}
"""Inputs by type whose change needs another resource."""


@dataclass
class Cloud:
    """The account, and what was done in which order.

    Attributes:
        calls: verb and resource name.
        owners: who had the reserved address after each call, repeats left out; None while nobody had it.
        failing: (verb, name) to the message of that call.
    """

    fake: FakeDo
    calls: list[tuple[str, str]] = field(default_factory=list)
    owners: list[str | None] = field(default_factory=list)
    failing: dict[tuple[str, str], str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, _host: PluginHost, package: str) -> Provider:
        """The provider of a package."""
        return StandIn(self, package)

    def api(self, method: str, path: str, body: Json | None = None) -> Json:
        """Ask the stand-in. Raises ResourceError for what it refuses."""
        try:
            return self.fake.answer(method, f"/v2/{path}", {}, body or {}).body or {}
        except ApiError as error:
            raise ResourceError(f"{method} {path}: {error.status} {error.message}") from None

    def done(self, verb: str, name: str) -> None:
        """Note a call and who has the address now."""
        with self._lock:
            self.calls.append((verb, name))
            for owner in self.fake.world.reserved.values():
                if not self.owners or self.owners[-1] != owner:
                    self.owners.append(owner)

    def order(self, *calls: tuple[str, str]) -> bool:
        """Whether these calls were made, in this order."""
        at = [self.calls.index(call) for call in calls]
        return at == sorted(at)


class StandIn:
    """One package's provider."""

    def __init__(self, cloud: Cloud, package: str) -> None:
        self._cloud, self._package = cloud, package

    def check_config(self, urn: str, olds: Props, news: Props) -> tuple[Props, list[Failure]]:
        return news, []

    def diff_config(self, urn: str, olds: Props, news: Props) -> Diff:
        return Diff(False)

    def configure(self, urn: str, id_: str, inputs: Props) -> None:
        return None

    def check(self, urn: str, olds: Props, news: Props) -> tuple[Props, list[Failure]]:
        return news, []

    def diff(self, urn: str, id_: str, old_inputs: Props, old_outputs: Props, news: Props, ignored: list[str]) -> Diff:
        olds, wanted = reveal(old_inputs), reveal(news)
        changed = tuple(key for key in sorted({*olds, *wanted}) if olds.get(key) != wanted.get(key))
        replaces = tuple(key for key in changed if key in FORCE_NEW.get(_kind(urn), ()))
        return Diff(bool(changed), replaces, changed, self._package == "pulumi-python")

    def create(self, urn: str, inputs: Props, timeout_s: float, preview: bool) -> Outcome:
        if preview:
            return Outcome("", inputs)
        name, kind = name_of(urn), _kind(urn)
        self._fail("create", name)
        id_, outputs = self._made(kind, name, reveal(inputs))
        self._cloud.done("create", name)
        return Outcome(id_, {**inputs, **outputs}, inputs)

    def read(self, urn: str, id_: str, inputs: Props, outputs: Props, timeout_s: float) -> Outcome:
        return Outcome(id_, outputs, inputs)

    def update(self, old: Existing, news: Props, timeout_s: float, ignored: list[str], preview: bool) -> Outcome:
        if preview:
            return Outcome(old.id, news)
        name, kind = name_of(old.urn), _kind(old.urn)
        self._fail("update", name)
        if kind == "Firewall":
            self._cloud.api("PUT", f"firewalls/{old.id}", _firewall(name, reveal(news)))
        elif kind not in ("Release", "CertRequest", "LocallySignedCert", "SelfSignedCert"):
            raise ResourceError(f"this test changes no {kind}")
        self._cloud.done("update", name)
        return Outcome(old.id, {**old.outputs, **news}, news)

    def delete(self, old: Existing, timeout_s: float) -> None:
        name, kind = name_of(old.urn), _kind(old.urn)
        self._fail("delete", name)
        paths = {
            "Droplet": "droplets", "Vpc": "vpcs", "Firewall": "firewalls", "SshKey": "account/keys",
            "ReservedIp": "reserved_ips",
        }  # fmt: skip
        if kind in paths:
            self._cloud.api("DELETE", f"{paths[kind]}/{old.id}")
        elif kind == "ReservedIpAssignment":
            given = reveal(old.inputs)
            path = f"reserved_ips/{given['ipAddress']}"
            found = self._cloud.api("GET", path)["reserved_ip"]["droplet"]
            # The provider looks into the droplet without asking whether there is one.
            if found["id"] == int(given["dropletId"]):
                self._cloud.api("POST", f"{path}/actions", {"type": "unassign"})
        self._cloud.done("delete", name)

    def invoke(self, function: str, args: Props, preview: bool) -> tuple[Props, list[Failure]]:
        raise ResourceError(f"unexpected call of {function}")

    def cancel(self) -> None:
        return None

    def close(self) -> None:
        return None

    def _fail(self, verb: str, name: str) -> None:
        if (verb, name) in self._cloud.failing:
            raise ResourceError(self._cloud.failing[verb, name])

    def _made(self, kind: str, name: str, given: Json) -> tuple[str, Json]:
        api = self._cloud.api
        if self._package == "tls":
            return name, {
                "privateKeyOpenssh": f"PRIVATE OF {name}",
                "publicKeyOpenssh": f"ssh-ed25519 {_base64(name)}",
                "privateKeyPem": f"PEM OF {name}",
                "privateKeyPemPkcs8": f"PEM OF {name}",
                "certPem": f"CERT OF {name}",
                "certRequestPem": f"REQUEST OF {name}",
            }
        if kind == "Release":
            return name, {"deployment": "0123", "status": "healthy"}
        if kind == "Vpc":
            made = api("POST", "vpcs", {"name": name, "region": given["region"], "ip_range": given["ipRange"]})["vpc"]
            return made["id"], {}
        if kind == "SshKey":
            made = api("POST", "account/keys", {"name": name, "public_key": given["publicKey"]})["ssh_key"]
            return str(made["id"]), {"fingerprint": made["fingerprint"]}
        if kind == "ReservedIp":
            made = api("POST", "reserved_ips", {"region": given["region"]})["reserved_ip"]
            return made["ip"], {"ipAddress": made["ip"]}
        if kind == "Firewall":
            return api("POST", "firewalls", _firewall(name, given))["firewall"]["id"], {}
        if kind == "Droplet":
            return self._droplet(given)
        if kind == "ReservedIpAssignment":
            asked = {"type": "assign", "droplet_id": int(given["dropletId"])}
            api("POST", f"reserved_ips/{given['ipAddress']}/actions", asked)
            return f"{given['dropletId']}-{given['ipAddress']}", {}
        raise ResourceError(f"this test makes no {kind}")

    def _droplet(self, given: Json) -> tuple[str, Json]:
        plain = {key: given[key] for key in ("name", "region", "size", "image", "monitoring", "ipv6", "tags")}
        more = {"user_data": given["userData"], "vpc_uuid": given["vpcUuid"], "ssh_keys": given["sshKeys"]}
        number = self._cloud.api("POST", "droplets", plain | more)["droplet"]["id"]
        while (made := self._cloud.api("GET", f"droplets/{number}")["droplet"])["status"] != "active":
            pass
        networks = made["networks"]
        addresses = {"ipv4Address": networks["v4"][0]["ip_address"], "ipv6Address": networks["v6"][0]["ip_address"]}
        return str(number), addresses


def _kind(urn: str) -> str:
    return type_of(urn).rpartition(":")[2]


def _base64(name: str) -> str:
    import base64

    return base64.b64encode(f"{name:-<40}".encode()).decode()


def _firewall(name: str, given: Json) -> Json:
    def rules(direction: str, ends: str) -> list[Any]:
        return [
            {"protocol": rule["protocol"], "ports": rule.get("portRange", ""), ends: {"addresses": rule[key]}}
            for rule in given[direction]
            for key in ("sourceAddresses" if ends == "sources" else "destinationAddresses",)
        ]

    return {
        "name": name,
        "droplet_ids": [int(number) for number in given["dropletIds"]],
        "inbound_rules": rules("inboundRules", "sources"),
        "outbound_rules": rules("outboundRules", "destinations"),
    }
