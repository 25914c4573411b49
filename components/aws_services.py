"""Services of ECS: they keep a task of each workload running, and go back by themselves when a new one fails."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi
from pulumi_aws import ecs

from infra import naming

GRACE_S = 30
"""For the checks of the load balancer, from the start of a task: pulling its image takes most of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AwsService:
    """One service.

    Attributes:
        registry_arn: of Cloud Map, where others find it by name.
        target_group_arn: of the load balancer that sends to `port` of it; without one, `port` says nothing.
        surge: a new task starts before the old one stops. Not for a connector: the newcomer takes the services over,
            and when it fails, the old one, still connected, would not take them back.
    """

    task_definition_arn: pulumi.Input[str]
    security_group_id: pulumi.Input[str]
    registry_arn: pulumi.Input[str] | None = None
    target_group_arn: pulumi.Input[str] | None = None
    port: int = 0
    surge: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class AwsServicesArgs:
    """The services by workload, and where their tasks run."""

    stack: str
    run: str
    cluster_arn: pulumi.Input[str]
    subnet_ids: pulumi.Output[Sequence[str]]
    services: Mapping[str, AwsService]


class AwsServices(pulumi.ComponentResource):
    """One ECS service per workload, on Fargate, in private subnets, without public addresses.

    Children: Service x 1 per workload. When a deployment's task does not become healthy, the circuit breaker ends it
    and goes back to the old task definition.

    `up` does not wait until the tasks are there: that took five minutes more with nothing gained, since the overlay
    itself says when a connector has registered. Output: `names` by workload. It makes no autoscaling: one connector per
    site is what the overlay routes to.
    """

    names: pulumi.Output[dict[str, str]]

    def __init__(self, name: str, args: AwsServicesArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(naming.component_token("AwsServices"), name, {}, opts)
        self.names = pulumi.Output.all(
            **{
                workload: self._service(naming.child_name(name, workload), workload, service, args).name
                for workload, service in args.services.items()
            }
        )
        self.register_outputs({"names": self.names})

    def _service(self, name: str, workload: str, service: AwsService, args: AwsServicesArgs) -> ecs.Service:
        balanced = service.target_group_arn is not None
        return ecs.Service(
            name,
            cluster=args.cluster_arn,
            task_definition=service.task_definition_arn,
            desired_count=1,
            launch_type="FARGATE",
            platform_version="LATEST",
            network_configuration=ecs.ServiceNetworkConfigurationArgs(
                subnets=args.subnet_ids, security_groups=[service.security_group_id], assign_public_ip=False
            ),
            deployment_circuit_breaker=ecs.ServiceDeploymentCircuitBreakerArgs(enable=True, rollback=True),
            deployment_minimum_healthy_percent=100 if service.surge else 0,
            deployment_maximum_percent=200 if service.surge else 100,
            availability_zone_rebalancing="DISABLED",  # there is one task; moving it would only interrupt it
            health_check_grace_period_seconds=GRACE_S if balanced else None,
            load_balancers=_targets(workload, service),
            service_registries=_registry(service),
            wait_for_steady_state=False,
            enable_ecs_managed_tags=True,
            propagate_tags="SERVICE",
            tags=naming.tags(args.stack, args.run, name),
            opts=pulumi.ResourceOptions(parent=self),
        )


def _targets(workload: str, service: AwsService) -> list[ecs.ServiceLoadBalancerArgs] | None:
    if service.target_group_arn is None:
        return None
    return [
        ecs.ServiceLoadBalancerArgs(
            target_group_arn=service.target_group_arn, container_name=workload, container_port=service.port
        )
    ]


def _registry(service: AwsService) -> ecs.ServiceServiceRegistriesArgs | None:
    if service.registry_arn is None:
        return None
    return ecs.ServiceServiceRegistriesArgs(registry_arn=service.registry_arn)
