"""The droplet that the relay, the connector and the test backend run on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pulumi
import pulumi_digitalocean as digitalocean

from components.relay_host import SshTarget
from components.ssh_keys import SshKeys
from infra import cloudinit_do, naming
from infra.cloudinit import HostKeys

HOSTNAME: Final = "ztna-relay"


@dataclass(frozen=True, kw_only=True, slots=True)
class DoRelayArgs:
    """What the droplet is given.

    Attributes:
        region, size, image: slugs; the size changes in place, without growing the disk, so that it can go back.
        generation: another number makes another droplet beside the old one, which goes once its successor serves.
        keys: who may log in, and the host key of the first boot.
        udp_ports: open on the host to everybody.
    """

    stack: str
    run: str
    region: str
    size: str
    image: str
    generation: int
    vpc_id: pulumi.Input[str]
    keys: SshKeys
    udp_ports: Sequence[int]


class DoRelay(pulumi.ComponentResource):
    """A droplet with monitoring and IPv6, and the stack's SSH key in the account.

    Children: SshKey x 1, Droplet x 1. Outputs: `droplet_id` (number), `machine` (the same as text), `public_address`
    (its own IPv4 address), `public_address_v6`; `ssh` says how a release reaches it. It makes no
    firewall and no reserved address.

    First-boot configuration (`user_data`) and image of a droplet that is there are left alone: the provider could only
    replace the machine for them, and with it every session, although a release reaches all that changes between
    versions. `generation` replaces it on purpose; the number is part of the resource's name, so the successor is made
    first and with present values. A new region, VPC or SSH key replaces it too. Its firewall admits SSH from anywhere,
    with keys only: who may try is said by the cloud firewall, where a change takes effect without a new machine.

    Source: https://www.pulumi.com/registry/packages/digitalocean/api-docs/droplet/
    """

    droplet_id: pulumi.Output[int]
    machine: pulumi.Output[str]
    public_address: pulumi.Output[str]
    public_address_v6: pulumi.Output[str]

    def __init__(self, name: str, args: DoRelayArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(naming.component_token("DoRelay"), name, {}, opts)
        # The stack's own key, never the user's: the account takes each key only once and may hold that one already.
        key = digitalocean.SshKey(
            naming.child_name(name, "ssh-key"),
            public_key=args.keys.admin_public,
            opts=pulumi.ResourceOptions(parent=self),
        )
        droplet = digitalocean.Droplet(
            naming.child_name(name, f"droplet-{args.generation}"),
            name=HOSTNAME,
            region=args.region,
            size=args.size,
            image=args.image,
            vpc_uuid=args.vpc_id,
            ssh_keys=[key.id],
            user_data=_user_data(args),
            monitoring=True,
            ipv6=True,
            droplet_agent=False,  # it would write keys of its own into authorized_keys
            resize_disk=False,
            tags=naming.tag_list(args.stack, args.run, name),
            opts=pulumi.ResourceOptions(
                parent=self, ignore_changes=["user_data", "image"], additional_secret_outputs=["user_data"]
            ),
        )
        self.droplet_id = droplet.id.apply(int)
        self.machine = droplet.id
        self.public_address = droplet.ipv4_address
        self.public_address_v6 = droplet.ipv6_address
        # Over the droplet's own address: the reserved one comes to it only when it serves.
        self.ssh = SshTarget(
            host=self.public_address,
            private_key=args.keys.admin_private,
            bootstrap_public=args.keys.bootstrap_public,
            permanent_public=args.keys.permanent_public,
            permanent_private=args.keys.permanent_private,
        )
        self.register_outputs({key: getattr(self, key) for key in DoRelay.__annotations__})


def _user_data(args: DoRelayArgs) -> pulumi.Output[str]:
    """The first boot, secret for the one-time host key in it."""

    def text(made: dict[str, object]) -> str:
        return cloudinit_do.user_data(
            hostname=HOSTNAME,
            admin_public_keys=[str(key) for key in made["authorized"]],  # type: ignore[attr-defined]  # a list
            host_keys=HostKeys(private=str(made["private"]), public=str(made["public"])),
            udp_ports=args.udp_ports,
        )

    keys = args.keys
    made = pulumi.Output.all(authorized=keys.authorized, private=keys.bootstrap_private, public=keys.bootstrap_public)
    return pulumi.Output.secret(made.apply(text))
