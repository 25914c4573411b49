"""Clusters, task definitions and services of ECS. Force-new by the provider's source.

What a service promises is kept by the controller (infra/twin/aws_controller.py), which outlives `up`.

Source: https://github.com/hashicorp/terraform-provider-aws/tree/main/internal/service/ecs
"""

import json
import time
from collections.abc import Iterator
from typing import ClassVar, Final

from infra.engine.providers import Failure
from infra.twin import aws_control, aws_view
from infra.twin.aws_account import LOG_GROUP, ROLE
from infra.twin.aws_base import AwsType, inputs_of, required
from infra.twin.aws_discovery import SERVICE as REGISTRY
from infra.twin.aws_forms import arn, not_kept
from infra.twin.aws_view import TASK
from infra.twin.forms import one_of
from infra.twin.interface import Call, Json, LeftOut, TwinError, known
from infra.twin.store import Item

CLUSTER: Final = "aws:ecs/cluster:Cluster"
PROVIDERS: Final = "aws:ecs/clusterCapacityProviders:ClusterCapacityProviders"
DEFINITION: Final = "aws:ecs/taskDefinition:TaskDefinition"
SERVICE: Final = "aws:ecs/service:Service"
FARGATE_MEMORY: Final = {
    "256": (512, 1024, 2048), "512": tuple(range(1024, 4097, 1024)), "1024": tuple(range(2048, 8193, 1024)),
    "2048": tuple(range(4096, 16385, 1024)), "4096": tuple(range(8192, 30721, 1024)),
}  # fmt: skip
"""CPU units -> MiB that go with them.

Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/fargate-tasks-services.html
"""
CONTAINER: Final = (
    *(
        "name",
        "image",
        "essential",
        "user",
        "readonlyRootFilesystem",
        "privileged",
        "linuxParameters",
        "entryPoint",
        "command",
    ),
    *("portMappings", "environment", "secrets", "mountPoints", "healthCheck", "stopTimeout", "logConfiguration"),
)
"""What of a container definition is modelled."""
DELETE_S: Final = 90.0
_POLL_S: Final = 0.1


class Cluster(AwsType):
    """Where services run."""

    type_name = CLUSTER
    model = "a record"
    force_new = frozenset({"name"})
    in_place = frozenset({"configuration"})
    left_out: ClassVar = {
        "settings": LeftOut(
            why="there are no metrics", harmless=(None, [], [{"name": "containerInsights", "value": "disabled"}])
        )
    }
    autoname = "name"

    def identify(self, call: Call, number: int, inputs: Json) -> str:
        return arn("ecs", f"cluster/{inputs['name']}")

    def outputs(self, call: Call, item: Item) -> Json:
        return {"arn": item.id, "settings": inputs_of(item).get("settings") or []}

    def refuse_delete(self, call: Call, item: Item) -> None:
        for service in call.site.store.items(SERVICE):
            if inputs_of(service)["cluster"] == item.id:
                raise TwinError(
                    "ClusterContainsServicesException: The Cluster cannot be deleted while Services are active: "
                    f"{service.id}"
                )


class ClusterCapacityProviders(AwsType):
    """What a cluster's tasks run on."""

    type_name = PROVIDERS
    model = "a record: every task is a namespace of this machine"
    has_tags = False
    force_new = frozenset({"clusterName"})
    in_place = frozenset({"capacityProviders", "defaultCapacityProviderStrategies"})

    def check_inputs(self, inputs: Json) -> Iterator[Failure]:
        for provider in inputs.get("capacityProviders") or ():
            yield from one_of("capacityProviders", provider, ("FARGATE", "FARGATE_SPOT"), "capacity provider")

    def identify(self, call: Call, number: int, inputs: Json) -> str:
        return str(inputs["clusterName"])

    def begin(self, call: Call, number: int, inputs: Json, items: list[Item]) -> Json:
        if not any(item.token == CLUSTER and inputs_of(item)["name"] == inputs["clusterName"] for item in items):
            raise TwinError(f"ClusterNotFoundException: Cluster not found: {inputs['clusterName']}")
        return {}

    def outputs(self, call: Call, item: Item) -> Json:
        return {}


class TaskDefinition(AwsType):
    """What a task is; a changed one is another revision."""

    type_name = DEFINITION
    model = "a record, of which the controller starts tasks"
    limits = (
        "a task has one container",
        "CPU and memory are told and not enforced",
        "what a role may do inside a task is asked of nobody: there are no credentials in it",
    )
    force_new = frozenset(
        {
            *("family", "containerDefinitions", "cpu", "memory", "networkMode", "requiresCompatibilities", "volumes"),
            *("executionRoleArn", "taskRoleArn", "runtimePlatform"),
        }
    )
    left_out: ClassVar = {"skipDestroy": not_kept("a revision goes with its resource")}
    wanted = ("cpu", "memory", "executionRoleArn")

    def check_inputs(self, inputs: Json) -> Iterator[Failure]:
        yield from one_of("networkMode", inputs.get("networkMode"), ("awsvpc",), "network mode")
        for kind in inputs.get("requiresCompatibilities") or ():
            yield from one_of("requiresCompatibilities", kind, ("FARGATE",), "launch type")
        cpu, memory = str(inputs.get("cpu")), inputs.get("memory")
        if known(inputs.get("cpu")) and known(memory) and int(str(memory)) not in FARGATE_MEMORY.get(cpu, ()):
            pairs = "; ".join(f"{key}: {value[0]} to {value[-1]}" for key, value in FARGATE_MEMORY.items())
            yield Failure(
                "memory",
                f"ClientException: No Fargate configuration exists for {cpu} CPU units and {memory} MiB ({pairs})",
            )
        if known(inputs.get("containerDefinitions")):
            yield from self._check_containers(str(inputs["containerDefinitions"]), inputs)

    def _check_containers(self, text: str, inputs: Json) -> Iterator[Failure]:
        try:
            containers = json.loads(text)
        except ValueError as error:
            yield Failure("containerDefinitions", f"is no JSON: {error}")
            return
        if not isinstance(containers, list) or len(containers) != 1:
            yield Failure("containerDefinitions", "the twin models one container to a task")
            return
        for key, value in containers[0].items():
            if value not in (None, False, [], {}):
                yield from one_of(f"containerDefinitions[0].{key}", key, CONTAINER, "property of a container")
        volumes = {volume["name"] for volume in inputs.get("volumes") or () if known(volume)}
        for mount in containers[0].get("mountPoints") or ():
            if known(inputs.get("volumes")) and mount["sourceVolume"] not in volumes:
                yield Failure("containerDefinitions", f"ClientException: Unknown volume {mount['sourceVolume']!r}.")
        if containers[0].get("privileged"):
            yield Failure("containerDefinitions", "ClientException: Fargate runs no privileged container")

    def identify(self, call: Call, number: int, inputs: Json) -> str:
        return str(inputs["family"])

    def begin(self, call: Call, number: int, inputs: Json, items: list[Item]) -> Json:
        before = [
            item.data["revision"] for item in items if item.token == self.type_name and item.id == inputs["family"]
        ]
        return {"revision": max(before, default=0) + 1}

    def apply(self, call: Call, item: Item) -> None:
        items = call.site.store.items()
        for name in ("executionRoleArn", "taskRoleArn"):
            role = inputs_of(item).get(name)
            if role and not any(each.token == ROLE and str(role).endswith(f"/{each.id}") for each in items):
                raise TwinError(f"ClientException: Role is not valid: {role}")
        (container,) = json.loads(inputs_of(item)["containerDefinitions"])
        group = ((container.get("logConfiguration") or {}).get("options") or {}).get("awslogs-group")
        if group and not any(each.token == LOG_GROUP and each.id == group for each in items):
            call.site.say(f"task definition {item.id}: log group {group} is not there")

    def outputs(self, call: Call, item: Item) -> Json:
        base = arn("ecs", f"task-definition/{item.id}")
        return {"arn": definition_arn(item), "arnWithoutRevision": base, "revision": item.data["revision"]}

    def read(self, call: Call, outputs: Json) -> Json | None:
        item = find_definition(call.site.store.items(), str(outputs["arn"]))
        return None if item is None else self._all(call, item)

    def update(self, call: Call, outputs: Json, olds: Json, news: Json) -> Json:
        item = find_definition(call.site.store.items(), str(outputs["arn"]))
        if item is None:
            raise TwinError(f"ClientException: Unable to describe task definition {outputs['arn']}")
        return self._all(call, call.site.store.change(item.number, {"inputs": news}) or item)

    def delete(self, call: Call, outputs: Json, inputs: Json) -> None:
        item = find_definition(call.site.store.items(), str(outputs["arn"]))
        if item is not None:
            # Tasks and rollbacks go on by what they were started with.
            call.site.store.drop(item.number)


def definition_arn(item: Item) -> str:
    """The ARN of a revision."""
    return arn("ecs", f"task-definition/{item.id}:{item.data['revision']}")


def find_definition(items: list[Item], arn_: str) -> Item | None:
    """The task definition of an ARN."""
    return next((item for item in items if item.token == DEFINITION and definition_arn(item) == arn_), None)


class Service(AwsType):
    """Tasks that are kept running."""

    type_name = SERVICE
    model = (
        "tasks in namespaces, kept running by the VPC's controller: health, restart, rolling update, circuit breaker"
    )
    limits = (
        "a task starts in under a second, as its image is there; one that fails is tried again after at most 10 s",
        "desired counts change by programs alone: there is no autoscaling",
    )
    force_new = frozenset({"name", "cluster", "launchType", "schedulingStrategy"})
    in_place = frozenset(
        {
            *("taskDefinition", "desiredCount", "networkConfiguration", "deploymentCircuitBreaker", "loadBalancers"),
            *("deploymentMinimumHealthyPercent", "deploymentMaximumPercent", "serviceRegistries", "forceNewDeployment"),
            *("healthCheckGracePeriodSeconds", "waitForSteadyState"),
        }
    )
    left_out: ClassVar = {
        "platformVersion": LeftOut(why="there is one platform", harmless=(None, "LATEST")),
        "availabilityZoneRebalancing": LeftOut(why="tasks are not moved between zones", harmless=(None, "DISABLED")),
        "enableEcsManagedTags": LeftOut(why="tasks have no tags"),
        "propagateTags": LeftOut(why="tasks have no tags"),
        "enableExecuteCommand": not_kept("a task is not entered by ECS Exec"),
    }
    defaults: ClassVar = {
        "launchType": "FARGATE",
        "deploymentMaximumPercent": 200,
        "deploymentMinimumHealthyPercent": 100,
    }
    autoname = "name"
    wanted = ("cluster", "taskDefinition", "networkConfiguration", "desiredCount")

    def check_inputs(self, inputs: Json) -> Iterator[Failure]:
        yield from one_of("launchType", inputs.get("launchType"), ("FARGATE",), "launch type")
        network = inputs.get("networkConfiguration")
        if known(network) and (network or {}).get("assignPublicIp"):
            yield Failure("networkConfiguration.assignPublicIp", "the twin gives public addresses as elastic IPs alone")
        least, most = inputs.get("deploymentMinimumHealthyPercent"), inputs.get("deploymentMaximumPercent")
        if known(least) and known(most) and int(str(most)) <= int(str(least)):
            yield Failure(
                "deploymentMaximumPercent",
                f"InvalidParameterException: {most} % must be above the minimum of {least} %",
            )

    def identify(self, call: Call, number: int, inputs: Json) -> str:
        cluster = str(inputs["cluster"]).rpartition("/")[2]
        return arn("ecs", f"service/{cluster}/{inputs['name']}")

    def begin(self, call: Call, number: int, inputs: Json, items: list[Item]) -> Json:
        self._require(inputs, items)
        vpc = next(
            inputs_of(item)["vpcId"] for item in items if item.id == inputs["networkConfiguration"]["subnets"][0]
        )
        return {"vpc": vpc, "wanted": 1, "deployments": [], "events": [], "closing": False}

    def _require(self, inputs: Json, items: list[Item]) -> None:
        there = {(item.token, item.id) for item in items}
        network = inputs["networkConfiguration"]
        wanted = [(CLUSTER, inputs["cluster"], "ClusterNotFoundException: Cluster not found")]
        wanted += [
            (aws_view.SUBNET, each, "InvalidParameterException: Error retrieving subnet") for each in network["subnets"]
        ]
        wanted += [
            (aws_view.GROUP, each, "InvalidParameterException: Error retrieving security group")
            for each in network.get("securityGroups") or ()
        ]
        for token, id_, text in wanted:
            if (token, id_) not in there:
                raise TwinError(f"{text}: {id_}")
        definition = find_definition(items, str(inputs["taskDefinition"]))
        if definition is None:
            raise TwinError(f"ClientException: Unable to find task definition {inputs['taskDefinition']}")
        (container,) = json.loads(inputs_of(definition)["containerDefinitions"])
        ports = {int(port["containerPort"]) for port in container.get("portMappings") or ()}
        for target in inputs.get("loadBalancers") or ():
            if target["containerName"] != container["name"] or int(target["containerPort"]) not in ports:
                raise TwinError(
                    f"InvalidParameterException: The container {target['containerName']} did not have a container port "
                    f"{int(target['containerPort'])} defined."
                )
            group = next((item for item in items if item.id == target["targetGroupArn"]), None)
            if group is None or not any(
                item.token == aws_view.LISTENER
                and inputs_of(item)["defaultActions"][0].get("targetGroupArn") == group.id
                for item in items
            ):
                raise TwinError(
                    f"InvalidParameterException: The target group with targetGroupArn {target['targetGroupArn']} does "
                    "not have an associated load balancer."
                )
        registries = {arn("servicediscovery", f"service/{item.id}") for item in items if item.token == REGISTRY}
        for registry in _registries(inputs):
            if registry not in registries:
                raise TwinError(f"InvalidParameterException: Unable to find the registry {registry}")

    def apply(self, call: Call, item: Item) -> None:
        aws_control.ensure(call.site, item.data["vpc"])
        if inputs_of(item).get("waitForSteadyState"):
            aws_control.wait_steady(call.site, item.number)

    def update(self, call: Call, outputs: Json, olds: Json, news: Json) -> Json:
        item = required(call.site, self.type_name, call.id, "ServiceNotFoundException")
        self._require(news, call.site.store.items())
        redeployed = any(
            olds.get(name) != news.get(name)
            for name in (
                "taskDefinition",
                "networkConfiguration",
                "loadBalancers",
                "serviceRegistries",
                "forceNewDeployment",
            )
        )
        call.site.store.change(item.number, {"inputs": news, "wanted": item.data["wanted"] + redeployed})
        return super().update(call, outputs, olds, news)

    def there(self, call: Call, item: Item) -> bool:
        if not aws_control.possible(call.site, item.data["vpc"]):
            return False
        aws_control.ensure(call.site, item.data["vpc"])
        return True

    def outputs(self, call: Call, item: Item) -> Json:
        return {"arn": item.id, "iamRole": "/aws-service-role/ecs.amazonaws.com/AWSServiceRoleForECS", "triggers": {}}

    def clear(self, call: Call, item: Item) -> None:
        call.site.store.change(item.number, {"closing": True})
        deadline = time.monotonic() + DELETE_S
        while any(task.data["service"] == item.number for task in call.site.store.items(TASK)):
            if time.monotonic() > deadline:
                raise TwinError(
                    f"tasks of {item.id} are still there after {DELETE_S:g} s; the controller's log says why"
                )
            aws_control.ensure(call.site, item.data["vpc"])
            time.sleep(_POLL_S)


def _registries(inputs: Json) -> list[str]:
    given = inputs.get("serviceRegistries") or {}
    listed = given if isinstance(given, list) else [given]
    return [str(each["registryArn"]) for each in listed if each.get("registryArn")]
