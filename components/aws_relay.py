"""The machine of the intermediate on EC2: an instance that can be replaced behind an address that stays."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pulumi
from pulumi_aws import ec2, ssm

from components.ssh_keys import SshKeys
from infra import cloudinit, naming
from infra.cloudinit import HostKeys, HostSetup

HOSTNAME: Final = "ztna-relay"
SSH: Final = 22
ROOT_VOLUME_GIB: Final = 8
"""The size of the image of Ubuntu 24.04; what is released to it is under 100 MiB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AwsRelayArgs:
    """What the machine is given.

    Attributes:
        generation: another number makes another instance beside the old one, which goes once the address has moved.
        ami_parameter: name of the public SSM parameter that holds the id of the newest image
            (https://documentation.ubuntu.com/aws/aws-how-to/instances/find-ubuntu-images/).
        user: the image's own user, who logs in.
        keys: who may log in, and the host key of the first boot.
        udp_ports: open on the host to everybody.
    """

    stack: str
    run: str
    instance_type: str
    generation: int
    ami_parameter: str
    user: str
    subnet_id: pulumi.Input[str]
    security_group_id: pulumi.Input[str]
    keys: SshKeys
    udp_ports: Sequence[int]


class AwsRelay(pulumi.ComponentResource):
    """An EC2 instance in a public subnet, with an elastic IP.

    Children: KeyPair x 1, Instance x 1, Eip x 1, EipAssociation x 1. The metadata service answers to version 2 only
    and to the instance only; the root volume is encrypted.

    Image and first-boot configuration (`user_data`) of an instance that is there are left alone: for them it could
    only be replaced, and with it every session, although a release reaches all that changes between versions.
    `generation` replaces it on purpose; the number is part of the resource's name, so the successor is made first.
    The host's own firewall admits SSH from anywhere, with keys only: who may try is said by the security group,
    where a change takes effect without a new machine.

    Outputs: `instance_id`, `address` (known before the instance, so that certificates can carry it), `host` (the same
    address, once it leads to the instance). It installs nothing: that is RelayHost's.
    """

    instance_id: pulumi.Output[str]
    address: pulumi.Output[str]
    host: pulumi.Output[str]

    def __init__(self, name: str, args: AwsRelayArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(naming.component_token("AwsRelay"), name, {}, opts)
        tags = naming.tags(args.stack, args.run, name)
        named = {**tags, "Name": HOSTNAME}
        child = pulumi.ResourceOptions(parent=self)
        image = ssm.get_parameter_output(
            name=args.ami_parameter, with_decryption=False, opts=pulumi.InvokeOutputOptions(parent=self)
        )
        key = ec2.KeyPair(naming.child_name(name, "key"), public_key=args.keys.admin_public, tags=tags, opts=child)
        instance = ec2.Instance(
            naming.child_name(name, f"instance-{args.generation}"),
            ami=pulumi.Output.unsecret(image.value),  # the provider marks every parameter secret; this one is public
            instance_type=args.instance_type,
            key_name=key.key_name,
            subnet_id=args.subnet_id,
            vpc_security_group_ids=[args.security_group_id],
            associate_public_ip_address=False,
            user_data=_user_data(args),
            metadata_options=ec2.InstanceMetadataOptionsArgs(
                http_endpoint="enabled", http_tokens="required", http_put_response_hop_limit=1
            ),
            root_block_device=ec2.InstanceRootBlockDeviceArgs(
                volume_type="gp3", volume_size=ROOT_VOLUME_GIB, encrypted=True, tags=named
            ),
            tags=named,
            opts=pulumi.ResourceOptions(
                parent=self, ignore_changes=["ami", "user_data"], additional_secret_outputs=["user_data"]
            ),
        )
        address = ec2.Eip(naming.child_name(name, "address"), domain="vpc", tags=named, opts=child)
        association = ec2.EipAssociation(
            naming.child_name(name, "association"),
            allocation_id=address.allocation_id,
            instance_id=instance.id,
            allow_reassociation=True,  # the successor takes the address over before the old instance goes
            opts=child,
        )
        self.instance_id = instance.id
        self.address = address.public_ip
        self.host = pulumi.Output.all(address.public_ip, association.id).apply(lambda found: str(found[0]))
        self.register_outputs({"instance_id": self.instance_id, "address": self.address, "host": self.host})


def _user_data(args: AwsRelayArgs) -> pulumi.Output[str]:
    """The first boot, secret for the one-time host key in it."""

    def text(made: dict[str, object]) -> str:
        return cloudinit.user_data(
            HostSetup(
                hostname=HOSTNAME,
                admin_public_keys=[str(key) for key in made["authorized"]],  # type: ignore[attr-defined]  # a list
                host_keys=HostKeys(private=str(made["private"]), public=str(made["public"])),
                udp_ports=args.udp_ports,
                admin_cidrs=(),
                tcp_ports=(SSH,),
                admin_user=args.user,
            )
        )

    keys = args.keys
    made = pulumi.Output.all(authorized=keys.authorized, private=keys.bootstrap_private, public=keys.bootstrap_public)
    return pulumi.Output.secret(made.apply(text))
