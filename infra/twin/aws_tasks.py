"""A task of ECS on the lab: an interface in a subnet, and a container in its namespace.

What its start needs is asked first, as Fargate does: its image, what its execution role may do, its secrets, and a way
to the registry. A task for which that is missing does not start, and says so in the words of ECS.

Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/stopped-task-error-codes.html
"""

import json
import time
from collections.abc import Iterator
from typing import Any, Final

from infra.lab.topology import Host, Link
from infra.twin import aws_ecr, aws_fabric, container
from infra.twin.aws_account import allows, secret_value
from infra.twin.aws_forms import arn, digits
from infra.twin.aws_places import log_folder
from infra.twin.aws_view import TASK, Eni, View, enis_of, free_address
from infra.twin.container import LIB, STANDIN, Container, image_of
from infra.twin.interface import Json, TwinError
from infra.twin.site import Site
from infra.twin.store import Item

PENDING: Final = "PENDING"
RUNNING: Final = "RUNNING"
DEACTIVATING: Final = "DEACTIVATING"
STOP_TIMEOUT_S: Final = 30


def begin(site: Site, service: Item, deployment: Json, count: int) -> Item:
    """Write a new task of a deployment down, with an address of one of the service's subnets."""
    network = deployment["inputs"]["networkConfiguration"]
    subnet_id = network["subnets"][count % len(network["subnets"])]

    def fill(number: int, items: list[Item]) -> tuple[str, Json]:
        subnet = next(item for item in items if item.id == subnet_id)
        eni = Eni(
            id=f"eni-{digits(site.run, number)}", subnet=subnet_id, device=f"eni{number}", host=f"task-{number}",
            address=free_address(items, subnet), groups=tuple(network.get("securityGroups") or ()),
        )  # fmt: skip
        cluster = service.id.split("/")[-2]
        data = {
            "service": service.number, "deployment": deployment["id"], "state": PENDING, "health": "UNKNOWN",
            "enis": [eni.to_json()], "inputs": {}, "registry": deployment["registry"], "started": time.time(),
            "ready": 0.0,
        }  # fmt: skip
        return arn("ecs", f"task/{cluster}/{digits(site.run, number, 32)}"), data

    return site.store.begin(f"{service.id}#{time.time_ns()}", TASK, fill)


def container_of(site: Site, items: list[Item], vpc: str, task: Item, definition: Json) -> Container:
    """Return what a task runs.

    Raises:
        TwinError: it cannot be started; says why, as ECS does.
    """
    (eni,) = enis_of(task)
    (given,) = json.loads(definition["containerDefinitions"])
    role, view = str(definition["executionRoleArn"]), View(items, vpc)
    if why := view.way_out(eni):
        raise TwinError(
            "ResourceInitializationError: unable to pull secrets or registry auth: there is a connection issue between "
            f"the task and the services it is started from ({why}). Check your task network configuration."
        )
    name, digest = aws_ecr.repository_of(str(given["image"]))
    group, stream = _log(given, task)
    wanted = [("ecr:GetAuthorizationToken", "*"), ("ecr:BatchGetImage", arn("ecr", f"repository/{name}"))]
    wanted += [("logs:CreateLogStream", f"{arn('logs', f'log-group:{group}')}:log-stream:{stream}")] if group else []
    secrets = {str(each["name"]): str(each["valueFrom"]) for each in given.get("secrets") or ()}
    wanted += [("secretsmanager:GetSecretValue", ":".join(value.split(":")[:7])) for value in secrets.values()]
    for action, resource in wanted:
        if not allows(items, role, action, resource):
            raise TwinError(
                f"AccessDeniedException: {role} is not authorized to perform: {action} on resource: {resource} because "
                "no identity-based policy allows the action"
            )
    image = image_of(site.run, digest.removeprefix("sha256:"))
    there = any(item.token == aws_ecr.IMAGE and item.data["digest"] == digest for item in items)
    if image is None or not there:
        raise TwinError(f"CannotPullContainerError: failed to resolve ref {given['image']}: not found")
    environment = {str(each["name"]): str(each["value"]) for each in given.get("environment") or ()}
    env = {**image["env"], **environment, **{key: secret_value(items, value) for key, value in secrets.items()}}
    argv = [*(given.get("entryPoint") or image["entry_point"])]
    argv += given.get("command") or ([] if given.get("entryPoint") else image["command"])
    ports = [
        str(port["containerPort"]) for port in given.get("portMappings") or () if port.get("protocol", "tcp") == "tcp"
    ]
    if image["standin"]:
        argv = ["python", "-I", STANDIN, f"in place of {image['standin']}: {' '.join(argv)}", *ports]
    return Container(
        host=eni.host,
        digest=digest.removeprefix("sha256:"),
        argv=tuple(map(str, argv)),
        env=_with_paths(env),
        user=str(given.get("user") or image["user"] or "0:0"),
        resolver=str(view.network[2]),
        volumes=tuple(str(mount["containerPath"]) for mount in given.get("mountPoints") or ()),
        read_only=bool(given.get("readonlyRootFilesystem")),
        log=log_folder(site.run, group or "none") / f"{stream.replace('/', '-')}.log",
    )


def _with_paths(env: Json) -> dict[str, str]:
    paths = {"PATH": "/usr/local/bin:/usr/bin:/bin", **env}
    known = [path for path in str(env.get("PYTHONPATH", "")).split(":") if path]
    return {**{key: str(value) for key, value in paths.items()}, "PYTHONPATH": ":".join(dict.fromkeys([*known, LIB]))}


def _log(given: Json, task: Item) -> tuple[str, str]:
    """Log group and stream of a task, as the driver names them."""
    options: Json = (given.get("logConfiguration") or {}).get("options") or {}
    stream = f"{options.get('awslogs-stream-prefix', 'ecs')}/{given['name']}/{task.id.rpartition('/')[2]}"
    return str(options.get("awslogs-group") or ""), stream


def start(site: Site, vpc: str, task: Item, what: Container) -> None:
    """Make the interface of a task and start its container; may be called again."""
    (eni,) = enis_of(task)
    view = View(site.store.items(), vpc)
    subnet = view.subnets[eni.subnet]
    aws_fabric.ensure_segment(site, eni.host)
    link = Link(eni.host, f"{eni.address}/{subnet.network.prefixlen}")
    site.lab.ensure_host(Host(eni.host, (link,), gateway=str(subnet.network[1])))
    aws_fabric.plug_eni(site, view, eni)
    aws_fabric.sync(site, vpc)
    container.start(site, what)


def remove(site: Site, vpc: str, task: Item, grace_s: float) -> None:
    """Stop a task's container and take its interface away, if they are there."""
    (eni,) = enis_of(task)
    container.stop(site, eni.host, grace_s)
    aws_fabric.forget_item(site, task)
    site.lab.remove_host(eni.host)
    site.lab.remove_segment(eni.host)
    site.store.drop(task.number)
    aws_fabric.sync(site, vpc)


def tasks_of(items: list[Item], service: Item) -> Iterator[Item]:
    """The tasks of a service."""
    return (item for item in items if item.token == TASK and item.data["service"] == service.number)


def definition_part(definition: Json, name: str, default: Any) -> Any:
    """A property of a definition's one container."""
    (given,) = json.loads(definition["containerDefinitions"])
    return given.get(name, default)
