"""Names of Cloud Map inside a VPC. Force-new by the provider's source.

Source: https://github.com/hashicorp/terraform-provider-aws/tree/main/internal/service/servicediscovery
"""

import re
from collections.abc import Iterator
from typing import Any, ClassVar, Final

from infra.engine.providers import Failure
from infra.twin import aws_view
from infra.twin.aws_base import AwsType, inputs_of
from infra.twin.aws_forms import arn, digits
from infra.twin.aws_view import enis_of
from infra.twin.forms import one_of
from infra.twin.interface import Call, Json, TwinError, known
from infra.twin.store import Item

NAMESPACE: Final = "aws:servicediscovery/privateDnsNamespace:PrivateDnsNamespace"
SERVICE: Final = "aws:servicediscovery/service:Service"
_NAME: Final = re.compile(
    r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*"
)


def _named(name: str, value: Any) -> Iterator[Failure]:
    if known(value) and not _NAME.fullmatch(str(value)):
        yield Failure(name, f"InvalidInput: {value!r} is no name of the DNS")


class PrivateDnsNamespace(AwsType):
    """A domain that is known inside a VPC alone."""

    type_name = NAMESPACE
    model = "names that the VPC's resolver answers"
    force_new = frozenset({"name", "vpc"})
    in_place = frozenset({"description"})
    wanted = ("name",)

    def check_inputs(self, inputs: Json) -> Iterator[Failure]:
        yield from _named("name", inputs.get("name"))

    def identify(self, call: Call, number: int, inputs: Json) -> str:
        return f"ns-{digits(call.site.run, number, 16)}"

    def begin(self, call: Call, number: int, inputs: Json, items: list[Item]) -> Json:
        view = aws_view.View(items, inputs["vpc"])
        if any(item.token == self.type_name and inputs_of(item)["name"] == inputs["name"] for item in items):
            raise TwinError(f"ConflictingDomainExists: {inputs['name']} is associated with VPC {inputs['vpc']} already")
        for name in ("enableDnsSupport", "enableDnsHostnames"):
            if not inputs_of(view.vpc).get(name):
                raise TwinError(
                    f"InvalidInput: VPC {view.id} has {name} off: names of a private namespace do not resolve in it"
                )
        return {}

    def outputs(self, call: Call, item: Item) -> Json:
        return {
            "arn": arn("servicediscovery", f"namespace/{item.id}"),
            "hostedZone": f"Z{digits(call.site.run, item.number, 13).upper()}",
        }

    def refuse_delete(self, call: Call, item: Item) -> None:
        for service in call.site.store.items(SERVICE):
            if _namespace(service) == item.id:
                raise TwinError(f"ResourceInUse: Namespace has associated services: {service.id}")


def _namespace(service: Item) -> str:
    return str(inputs_of(service)["dnsConfig"]["namespaceId"])


class Service(AwsType):
    """A name, which tasks register under."""

    type_name = SERVICE
    model = "a name that the VPC's resolver answers with the addresses of tasks that run"
    force_new = frozenset({"name", "namespaceId", "healthCheckCustomConfig"})
    in_place = frozenset({"description", "dnsConfig", "forceDestroy"})
    wanted = ("dnsConfig",)
    defaults: ClassVar = {"forceDestroy": False}

    def check_inputs(self, inputs: Json) -> Iterator[Failure]:
        yield from _named("name", inputs.get("name"))
        config = inputs.get("dnsConfig") or {}
        if not known(config):
            return
        yield from one_of("dnsConfig.routingPolicy", config.get("routingPolicy"), ("MULTIVALUE",), "routing policy")
        for record in config.get("dnsRecords") or ():
            yield from one_of("dnsConfig.dnsRecords.type", record.get("type"), ("A",), "type of record")

    def identify(self, call: Call, number: int, inputs: Json) -> str:
        return f"srv-{digits(call.site.run, number, 16)}"

    def begin(self, call: Call, number: int, inputs: Json, items: list[Item]) -> Json:
        namespace = inputs["dnsConfig"]["namespaceId"]
        if not any(item.token == NAMESPACE and item.id == namespace for item in items):
            raise TwinError(f"NamespaceNotFound: {namespace}")
        for item in items:
            if item.token == self.type_name and (inputs_of(item)["name"], _namespace(item)) == (
                inputs["name"],
                namespace,
            ):
                raise TwinError(f"ServiceAlreadyExists: Service already exists: {inputs['name']} in {namespace}")
        return {}

    def outputs(self, call: Call, item: Item) -> Json:
        return {
            "arn": arn("servicediscovery", f"service/{item.id}"),
            "namespaceId": _namespace(item),
            "type": "DNS_HTTP",
        }

    def refuse_delete(self, call: Call, item: Item) -> None:
        mine = arn("servicediscovery", f"service/{item.id}")
        for task in call.site.store.items(aws_view.TASK):
            if task.data.get("registry") == mine and not inputs_of(item).get("forceDestroy"):
                raise TwinError(f"ResourceInUse: Service contains registered instances: {task.id}")


def names(items: list[Item], vpc: str) -> dict[str, tuple[int, list[str]]]:
    """Return what the resolver of a VPC answers: name -> seconds to keep it, and addresses.

    Where no task of a name is healthy, all that run are told, as Route 53 does.
    """
    found: dict[str, tuple[int, list[str]]] = {}
    domains = {
        item.id: str(inputs_of(item)["name"])
        for item in items
        if item.token == NAMESPACE and inputs_of(item)["vpc"] == vpc
    }
    for service in (item for item in items if item.token == SERVICE):
        domain = domains.get(_namespace(service))
        if domain is None:
            continue
        mine = arn("servicediscovery", f"service/{service.id}")
        tasks = [
            item
            for item in items
            if item.token == aws_view.TASK and item.data.get("registry") == mine and item.data["state"] == "RUNNING"
        ]
        healthy = [task for task in tasks if task.data["health"] == "HEALTHY"] or tasks
        ttl = int((inputs_of(service)["dnsConfig"].get("dnsRecords") or [{"ttl": 60}])[0]["ttl"])
        found[f"{inputs_of(service)['name']}.{domain}"] = (ttl, [enis_of(task)[0].address for task in healthy])
    for balancer in (item for item in items if item.token == aws_view.BALANCER and item.data["vpc"] == vpc):
        name, suffix = balancer.id.split("/")[-2:]
        public = aws_view.View(items, vpc).public()
        addresses = [public[eni.address] for eni in enis_of(balancer) if eni.address in public]
        found[f"{name}-{suffix}.elb.us-east-2.amazonaws.com"] = (60, addresses)
    return found
