"""The private network of the droplet."""

from dataclasses import dataclass
from ipaddress import IPv4Network

import pulumi
import pulumi_digitalocean as digitalocean

from infra import naming


@dataclass(frozen=True, kw_only=True, slots=True)
class DoNetworkArgs:
    """Where the network is and which range it has.

    Attributes:
        region: slug of the region.
        ip_range: private network, apart from every other VPC of the account.
    """

    stack: str
    run: str
    region: str
    ip_range: IPv4Network


class DoNetwork(pulumi.ComponentResource):
    """A VPC of its own, so that the droplet shares no private network with the account's other machines.

    Children: Vpc x 1. Outputs: `vpc_id`. It makes no gateway: a droplet has its own public addresses.
    VPCs take no tags, so the description carries stack and run.

    Source: https://www.pulumi.com/registry/packages/digitalocean/api-docs/vpc/
    """

    vpc_id: pulumi.Output[str]

    def __init__(self, name: str, args: DoNetworkArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(naming.component_token("DoNetwork"), name, {}, opts)
        vpc = digitalocean.Vpc(
            naming.child_name(name, "vpc"),
            region=args.region,
            ip_range=str(args.ip_range),
            description=f"ztna stack {args.stack}, run {args.run}",
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.vpc_id = vpc.id
        self.register_outputs({"vpc_id": self.vpc_id})
