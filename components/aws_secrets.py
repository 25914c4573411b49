"""Secrets of containers, in Secrets Manager."""

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
from pulumi_aws import secretsmanager

from infra import naming


@dataclass(frozen=True, kw_only=True, slots=True)
class AwsSecretsArgs:
    """The secrets by name. A value has at most 64 KiB."""

    stack: str
    run: str
    values: Mapping[str, pulumi.Input[str]]


class AwsSecrets(pulumi.ComponentResource):
    """A secret for each value, encrypted by the account's own key of Secrets Manager.

    Children, per value: Secret x 1, SecretVersion x 1. An old version stays in AWS until the secret goes, since a task
    definition that a rollback returns to still names it.

    Outputs, by name: `arns`, and `references`, which name the very version (ARN:::VERSION), so that a new value is
    a new task definition and tasks are replaced.
    Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/secrets-envvar-secrets-manager.html
    """

    arns: pulumi.Output[dict[str, str]]
    references: pulumi.Output[dict[str, str]]

    def __init__(self, name: str, args: AwsSecretsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(naming.component_token("AwsSecrets"), name, {}, opts)
        arns: dict[str, pulumi.Output[str]] = {}
        references: dict[str, pulumi.Output[str]] = {}
        for key, value in args.values.items():
            secret = secretsmanager.Secret(
                naming.child_name(name, key),
                recovery_window_in_days=0,  # the stack can make it again: destroy leaves nothing
                tags=naming.tags(args.stack, args.run, name),
                opts=pulumi.ResourceOptions(parent=self),
            )
            version = secretsmanager.SecretVersion(
                naming.child_name(name, f"{key}-version"),
                secret_id=secret.id,
                secret_string=pulumi.Output.secret(value),
                opts=pulumi.ResourceOptions(
                    parent=self, additional_secret_outputs=["secret_string"], retain_on_delete=True
                ),
            )
            arns[key] = secret.arn
            references[key] = pulumi.Output.concat(secret.arn, ":::", version.version_id)
        self.arns = pulumi.Output.all(**arns)
        self.references = pulumi.Output.all(**references)
        self.register_outputs({"arns": self.arns, "references": self.references})
