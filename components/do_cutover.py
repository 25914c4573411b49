"""The step that makes a droplet the relay: the reserved address comes to it."""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_digitalocean as digitalocean

from infra import naming


@dataclass(frozen=True, kw_only=True, slots=True)
class DoCutoverArgs:
    """Which address goes to which droplet, and what must be well before."""

    address: pulumi.Input[str]
    droplet_id: pulumi.Input[int]
    after: Sequence[pulumi.Resource] = ()


class DoCutover(pulumi.ComponentResource):
    """The assignment of the reserved address.

    Children: ReservedIpAssignment x 1. Outputs: `assigned` (the address, once it is the droplet's).

    A replaced droplet gets the address by a new assignment, made before the old one is deleted: the provider moves an
    assigned address at once, and deleting the old assignment then finds the address elsewhere and leaves it. The other
    order would unassign it first and leave the relay without an address meanwhile.

    Source: https://www.pulumi.com/registry/packages/digitalocean/api-docs/reservedipassignment/
    """

    assigned: pulumi.Output[str]

    def __init__(self, name: str, args: DoCutoverArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(naming.component_token("DoCutover"), name, {}, opts)
        assignment = digitalocean.ReservedIpAssignment(
            naming.child_name(name, "assignment"),
            ip_address=args.address,
            droplet_id=args.droplet_id,
            opts=pulumi.ResourceOptions(parent=self, depends_on=list(args.after), delete_before_replace=False),
        )
        self.assigned = assignment.ip_address
        self.register_outputs({"assigned": self.assigned})
