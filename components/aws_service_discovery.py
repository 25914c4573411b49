"""Names of the backends inside the VPC, kept by ECS: the connector finds a task by its service's name."""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
from pulumi_aws import servicediscovery

from infra import naming

TTL_S = 10
"""Under the 30 s after which the connector looks its backends up again (ztna/io/resolve.py)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AwsServiceDiscoveryArgs:
    """The private domain and the names in it."""

    stack: str
    run: str
    vpc_id: pulumi.Input[str]
    domain: str
    names: Sequence[str]


class AwsServiceDiscovery(pulumi.ComponentResource):
    """A private DNS namespace of Cloud Map, with a service (A records of its tasks) for each name.

    Children: PrivateDnsNamespace x 1, Service x 1 per name. Outputs: `registry_arns` by name. It registers no task:
    ECS does.
    """

    registry_arns: pulumi.Output[dict[str, str]]

    def __init__(self, name: str, args: AwsServiceDiscoveryArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(naming.component_token("AwsServiceDiscovery"), name, {}, opts)
        tags = naming.tags(args.stack, args.run, name)
        child = pulumi.ResourceOptions(parent=self)
        namespace = servicediscovery.PrivateDnsNamespace(
            naming.child_name(name, "domain"), name=args.domain, vpc=args.vpc_id, tags=tags, opts=child
        )
        self.registry_arns = pulumi.Output.all(
            **{
                service: servicediscovery.Service(
                    naming.child_name(name, service),
                    name=service,
                    dns_config=servicediscovery.ServiceDnsConfigArgs(
                        namespace_id=namespace.id,
                        routing_policy="MULTIVALUE",
                        dns_records=[servicediscovery.ServiceDnsConfigDnsRecordArgs(type="A", ttl=TTL_S)],
                    ),
                    # Deprecated but needed: without it the block is not sent and ECS cannot report health.
                    # https://github.com/hashicorp/terraform-provider-aws/issues/44285
                    health_check_custom_config={"failure_threshold": 1},
                    force_destroy=True,  # tasks that are just stopping are still registered
                    tags=tags,
                    opts=child,
                ).arn
                for service in args.names
            }
        )
        self.register_outputs({"registry_arns": self.registry_arns})
