"""The two roles of an ECS task: what may start it, and what it may do itself (nothing)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi_aws import iam

from infra import naming


@dataclass(frozen=True, kw_only=True, slots=True)
class AwsRolesArgs:
    """What a task needs to be started: its image, its log group and its secrets, by ARN."""

    stack: str
    run: str
    account_id: pulumi.Input[str]
    repository_arn: pulumi.Input[str]
    log_group_arn: pulumi.Input[str]
    secret_arns: Sequence[pulumi.Input[str]] = ()


def trust_policy(account_id: str) -> str:
    """Return who may take the roles: ECS, on behalf of this account's tasks only (the confused deputy problem).

    Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task_execution_IAM_role.html
    """
    return _document(
        [
            {
                "Effect": "Allow",
                "Principal": {"Service": "ecs-tasks.amazonaws.com"},
                "Action": "sts:AssumeRole",
                "Condition": {"StringEquals": {"aws:SourceAccount": account_id}},
            }
        ]
    )


def execution_policy(given: Mapping[str, Any]) -> str:
    """Return what starting the task may do: pull this image, write to this log group, read these secrets.

    `ecr:GetAuthorizationToken` knows no resource, so it must have `*`; it lets nothing be pulled by itself.
    Source: https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonelasticcontainerregistry.html
    """
    statements: list[dict[str, Any]] = [
        {"Sid": "Login", "Effect": "Allow", "Action": ["ecr:GetAuthorizationToken"], "Resource": "*"},
        {
            "Sid": "Pull",
            "Effect": "Allow",
            "Action": ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
            "Resource": given["repository"],
        },
        {
            "Sid": "Log",
            "Effect": "Allow",
            "Action": ["logs:CreateLogStream", "logs:PutLogEvents"],
            "Resource": f"{given['log_group']}:log-stream:*",
        },
    ]
    secrets = sorted(given["secrets"])
    read = {"Sid": "Secrets", "Effect": "Allow", "Action": ["secretsmanager:GetSecretValue"], "Resource": secrets}
    return _document([*statements, *([read] if secrets else [])])


class AwsRoles(pulumi.ComponentResource):
    """Execution role and task role of one workload.

    Children: Role x 2, RolePolicy x 1 (of the execution role). The task role has no policy: our processes call no API
    of AWS. Outputs: `execution_arn` (known once its policy is there), `task_arn`.
    """

    execution_arn: pulumi.Output[str]
    task_arn: pulumi.Output[str]

    def __init__(self, name: str, args: AwsRolesArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(naming.component_token("AwsRoles"), name, {}, opts)
        tags = naming.tags(args.stack, args.run, name)
        child = pulumi.ResourceOptions(parent=self)
        trust = pulumi.Output.from_input(args.account_id).apply(trust_policy)
        execution = iam.Role(naming.child_name(name, "execution"), assume_role_policy=trust, tags=tags, opts=child)
        task = iam.Role(naming.child_name(name, "task"), assume_role_policy=trust, tags=tags, opts=child)
        policy = iam.RolePolicy(
            naming.child_name(name, "execution-policy"),
            role=execution.id,
            policy=pulumi.Output.all(
                repository=args.repository_arn,
                log_group=args.log_group_arn,
                secrets=pulumi.Output.all(*args.secret_arns),
            ).apply(execution_policy),
            opts=child,
        )
        self.execution_arn = pulumi.Output.all(execution.arn, policy.id).apply(lambda found: str(found[0]))
        self.task_arn = task.arn
        self.register_outputs({"execution_arn": self.execution_arn, "task_arn": self.task_arn})


def _document(statements: list[dict[str, Any]]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, sort_keys=True)
