"""The ECS cluster of the AWS stack, and where its tasks log to."""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
from pulumi_aws import cloudwatch, ecs

from infra import naming


def log_group(run: str, workload: str) -> str:
    """Return the name of a workload's log group."""
    return f"/{naming.PROJECT}/{run}/{workload}"


@dataclass(frozen=True, kw_only=True, slots=True)
class AwsClusterArgs:
    """What the cluster is given: the workloads that log, and for how many days their lines are kept."""

    stack: str
    run: str
    workloads: Sequence[str]
    log_retention_days: int


class AwsCluster(pulumi.ComponentResource):
    """A Fargate cluster, without instances of its own.

    Children: Cluster x 1, ClusterCapacityProviders x 1, LogGroup x 1 per workload.
    Outputs: `arn`, and by workload `log_groups` (names) and `log_group_arns`. It makes no service.
    """

    arn: pulumi.Output[str]
    log_groups: pulumi.Output[dict[str, str]]
    log_group_arns: pulumi.Output[dict[str, str]]

    def __init__(self, name: str, args: AwsClusterArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(naming.component_token("AwsCluster"), name, {}, opts)
        tags = naming.tags(args.stack, args.run, name)
        child = pulumi.ResourceOptions(parent=self)
        cluster = ecs.Cluster(
            naming.child_name(name, "cluster"),
            settings=[ecs.ClusterSettingArgs(name="containerInsights", value="disabled")],  # charged per metric
            tags=tags,
            opts=child,
        )
        capacity = ecs.ClusterCapacityProviders(
            naming.child_name(name, "capacity"),
            cluster_name=cluster.name,
            capacity_providers=["FARGATE"],
            default_capacity_provider_strategies=[
                ecs.ClusterCapacityProvidersDefaultCapacityProviderStrategyArgs(capacity_provider="FARGATE", weight=1)
            ],
            opts=child,
        )
        groups = {
            workload: cloudwatch.LogGroup(
                naming.child_name(name, f"{workload}-log"),
                name=log_group(args.run, workload),
                retention_in_days=args.log_retention_days,
                tags=tags,
                opts=child,
            )
            for workload in args.workloads
        }
        # A service that outlived the capacity providers could not be deleted: it waits for them, and goes before them.
        self.arn = pulumi.Output.all(cluster.arn, capacity.id).apply(lambda found: str(found[0]))
        self.log_groups = pulumi.Output.all(**{workload: group.name for workload, group in groups.items()})
        self.log_group_arns = pulumi.Output.all(**{workload: group.arn for workload, group in groups.items()})
        self.register_outputs({"arn": self.arn, "log_groups": self.log_groups, "log_group_arns": self.log_group_arns})
