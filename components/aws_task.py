"""A workload of ECS on Fargate: one hardened container, and the roles that start it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pulumi
from pulumi_aws import ecs

from components.aws_roles import AwsRoles, AwsRolesArgs
from infra import naming

ARCHITECTURES = {"linux/amd64": "X86_64", "linux/arm64": "ARM64"}
STOP_TIMEOUT_S = 10
"""From SIGTERM to SIGKILL: a role says goodbye in under a second."""
HEALTH = {"interval": 10, "timeout": 5, "retries": 3, "startPeriod": 15}


@dataclass(frozen=True, kw_only=True, slots=True)
class ContainerPort:
    """A port that the container listens on."""

    protocol: Literal["tcp", "udp"]
    port: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """What runs in the container, as far as it is known before anything is deployed.

    Attributes:
        user: `uid:gid`, never 0.
        command: arguments to the image's entry point; the image's own unless given.
        entry_point: in place of the image's.
        health: a command in the image that ends 0 while the process answers; none where the image has no such command.
        writable: paths in an otherwise read-only file system, by volume name; empty at the start of every task.
        cpu, memory_mib: a pair that Fargate has, such as 256 and 512
            (https://docs.aws.amazon.com/AmazonECS/latest/developerguide/fargate-tasks-services.html).
    """

    name: str
    user: str
    ports: tuple[ContainerPort, ...]
    health: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    entry_point: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    writable: Mapping[str, str] = field(default_factory=dict)
    cpu: int = 256
    memory_mib: int = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class AwsTaskArgs:
    """Where the workload runs and what it is given there.

    Attributes:
        image: by digest.
        secrets: environment variable -> reference in Secrets Manager; `secret_arns` are theirs.
        platform: of the image to run, such as `linux/amd64`.
    """

    stack: str
    run: str
    region: str
    workload: Workload
    platform: str
    image: pulumi.Input[str]
    repository_arn: pulumi.Input[str]
    log_group: pulumi.Input[str]
    log_group_arn: pulumi.Input[str]
    account_id: pulumi.Input[str]
    secrets: Mapping[str, pulumi.Input[str]] = field(default_factory=dict)
    secret_arns: Sequence[pulumi.Input[str]] = ()


class AwsTask(pulumi.ComponentResource):
    """A task definition of one container.

    Children: AwsRoles x 1, TaskDefinition x 1. The container is not root, has no capability and a read-only root file
    system. Output: `task_definition_arn`. It makes no service.
    """

    task_definition_arn: pulumi.Output[str]

    def __init__(self, name: str, args: AwsTaskArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(naming.component_token("AwsTask"), name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        roles = AwsRoles(
            naming.child_name(name, "roles"),
            AwsRolesArgs(
                stack=args.stack,
                run=args.run,
                account_id=args.account_id,
                repository_arn=args.repository_arn,
                log_group_arn=args.log_group_arn,
                secret_arns=args.secret_arns,
            ),
            child,
        )
        definition = ecs.TaskDefinition(
            naming.child_name(name, "definition"),
            family=f"{naming.PROJECT}-{args.run}-{args.workload.name}",
            requires_compatibilities=["FARGATE"],
            network_mode="awsvpc",
            cpu=str(args.workload.cpu),
            memory=str(args.workload.memory_mib),
            runtime_platform=ecs.TaskDefinitionRuntimePlatformArgs(
                operating_system_family="LINUX", cpu_architecture=ARCHITECTURES[args.platform]
            ),
            execution_role_arn=roles.execution_arn,
            task_role_arn=roles.task_arn,
            volumes=[ecs.TaskDefinitionVolumeArgs(name=volume) for volume in args.workload.writable],
            container_definitions=pulumi.Output.json_dumps([container(args)], sort_keys=True),
            tags=naming.tags(args.stack, args.run, name),
            opts=child,
        )
        self.task_definition_arn = definition.arn
        self.register_outputs({"task_definition_arn": self.task_definition_arn})


def container(args: AwsTaskArgs) -> dict[str, Any]:
    """Return the container definition; its keys are those of the ECS API.

    Source: https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_ContainerDefinition.html
    """
    workload = args.workload
    return {
        "name": workload.name,
        "image": args.image,
        "essential": True,
        "user": workload.user,
        "readonlyRootFilesystem": True,
        "privileged": False,
        "linuxParameters": {"capabilities": {"drop": ["ALL"]}, "initProcessEnabled": True},
        **({"entryPoint": list(workload.entry_point)} if workload.entry_point else {}),
        **({"command": list(workload.command)} if workload.command else {}),
        "portMappings": [
            {"containerPort": port.port, "hostPort": port.port, "protocol": port.protocol} for port in workload.ports
        ],
        "environment": [{"name": key, "value": value} for key, value in sorted(workload.environment.items())],
        "secrets": [{"name": key, "valueFrom": reference} for key, reference in sorted(args.secrets.items())],
        "mountPoints": [
            {"sourceVolume": volume, "containerPath": path, "readOnly": False}
            for volume, path in workload.writable.items()
        ],
        **({"healthCheck": {"command": ["CMD", *workload.health], **HEALTH}} if workload.health else {}),
        "stopTimeout": STOP_TIMEOUT_S,
        "logConfiguration": {
            "logDriver": "awslogs",
            "options": {
                "awslogs-group": args.log_group,
                "awslogs-region": args.region,
                "awslogs-stream-prefix": workload.name,
                "mode": "non-blocking",  # a log that cannot be written does not stop packets
            },
        },
    }
