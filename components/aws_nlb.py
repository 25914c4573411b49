"""The load balancer in front of the connector: UDP from anywhere to its one socket."""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
from pulumi_aws import ec2, lb

from infra import naming

HEALTH_INTERVAL_S = 5
HEALTH_TIMEOUT_S = 4
HEALTH_PASSES = 2
DEREGISTRATION_DELAY_S = 5
"""Nothing is drained: a path that ends is noticed by its peers within a second, and the default of 300 s is what a
deployment would wait for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AwsNlbArgs:
    """What the load balancer is given.

    Attributes:
        zones: names of the zones of `subnet_ids`, in the same order.
        port: UDP, of the listener and of the targets.
        health_port: TCP, of the targets.
    """

    stack: str
    run: str
    vpc_id: pulumi.Input[str]
    subnet_ids: pulumi.Output[Sequence[str]]
    zones: Sequence[str]
    port: int
    health_port: int


class AwsNlb(pulumi.ComponentResource):
    """A network load balancer with an elastic IP per zone, so that the connector can announce a fixed address.

    Children: Eip x 1 per zone, LoadBalancer x 1, TargetGroup x 1, Listener x 1. It has no security group: UDP comes
    in from anywhere, and the target's own group sees the client's address, which is preserved.

    Outputs: `dns_name`, `address` (of the first zone), `target_group_arn` (known once the listener is there, as ECS
    wants it). It registers no target: ECS does.
    Source: https://docs.aws.amazon.com/elasticloadbalancing/latest/network/load-balancer-target-groups.html
    """

    dns_name: pulumi.Output[str]
    address: pulumi.Output[str]
    target_group_arn: pulumi.Output[str]

    def __init__(self, name: str, args: AwsNlbArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(naming.component_token("AwsNlb"), name, {}, opts)
        tags = naming.tags(args.stack, args.run, name)
        child = pulumi.ResourceOptions(parent=self)
        addresses = [
            ec2.Eip(
                naming.child_name(name, f"address-{zone}"),
                domain="vpc",
                tags={**tags, "Name": naming.child_name(name, zone)},
                opts=child,
            )
            for zone in args.zones
        ]
        balancer = lb.LoadBalancer(
            naming.child_name(name, "balancer"),
            load_balancer_type="network",
            internal=False,
            subnet_mappings=[
                lb.LoadBalancerSubnetMappingArgs(
                    subnet_id=args.subnet_ids[number],
                    allocation_id=address.allocation_id,
                )
                for number, address in enumerate(addresses)
            ],
            enable_cross_zone_load_balancing=True,  # one task serves the addresses of all zones
            tags=tags,
            # An elastic IP is in one load balancer at a time, and the successor has the same ones.
            opts=pulumi.ResourceOptions(parent=self, delete_before_replace=True),
        )
        targets = lb.TargetGroup(
            naming.child_name(name, "targets"),
            vpc_id=args.vpc_id,
            target_type="ip",
            protocol="UDP",
            port=args.port,
            preserve_client_ip="true",
            deregistration_delay=DEREGISTRATION_DELAY_S,
            connection_termination=True,  # flows of a task that went start anew on the next one
            health_check=lb.TargetGroupHealthCheckArgs(
                protocol="TCP",
                port=str(args.health_port),
                interval=HEALTH_INTERVAL_S,
                timeout=HEALTH_TIMEOUT_S,
                healthy_threshold=HEALTH_PASSES,
                unhealthy_threshold=HEALTH_PASSES,
            ),
            tags=tags,
            opts=child,
        )
        listener = lb.Listener(
            naming.child_name(name, "listener"),
            load_balancer_arn=balancer.arn,
            protocol="UDP",
            port=args.port,
            default_actions=[lb.ListenerDefaultActionArgs(type="forward", target_group_arn=targets.arn)],
            tags=tags,
            opts=child,
        )
        self.dns_name = balancer.dns_name
        self.address = addresses[0].public_ip
        self.target_group_arn = pulumi.Output.all(targets.arn, listener.arn).apply(lambda found: str(found[0]))
        self.register_outputs(
            {"dns_name": self.dns_name, "address": self.address, "target_group_arn": self.target_group_arn}
        )
