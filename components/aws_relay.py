"""The machine of the intermediate on EC2: an instance that can be replaced behind an address that stays."""

from dataclasses import dataclass

import pulumi
from pulumi_aws import ec2, ssm

from infra import naming

ROOT_VOLUME_GIB = 8
"""What the image of Ubuntu 24.04 needs at least; the release is under 100 MiB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AwsRelayArgs:
    """What the machine is given.

    Attributes:
        ami_parameter: name of the public SSM parameter that holds the id of the newest image
            (https://documentation.ubuntu.com/aws/aws-how-to/instances/find-ubuntu-images/).
        public_key: the administrator's SSH key, in the form of authorized_keys.
        user_data: the first boot, from `infra.cloudinit`; holds a bootstrap host key, so it is secret.
    """

    stack: str
    run: str
    instance_type: str
    ami_parameter: str
    subnet_id: pulumi.Input[str]
    security_group_id: pulumi.Input[str]
    public_key: pulumi.Input[str]
    user_data: pulumi.Input[str]


class AwsRelay(pulumi.ComponentResource):
    """An EC2 instance in a public subnet, with an elastic IP.

    Children: KeyPair x 1, Instance x 1, Eip x 1, EipAssociation x 1. The image is looked up when the instance is made
    and kept until it is replaced: a newer image of Ubuntu alone replaces nothing. The metadata service answers to
    version 2 only and to the instance only; the root volume is encrypted.

    Outputs: `instance_id`, `address` (known before the instance, so that certificates can carry it), `host` (the same
    address, once it leads to the instance). It installs nothing: that is RelayHost's.
    """

    instance_id: pulumi.Output[str]
    address: pulumi.Output[str]
    host: pulumi.Output[str]

    def __init__(self, name: str, args: AwsRelayArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(naming.component_token("AwsRelay"), name, {}, opts)
        tags = naming.tags(args.stack, args.run, name)
        child = pulumi.ResourceOptions(parent=self)
        image = ssm.get_parameter_output(
            name=args.ami_parameter, with_decryption=False, opts=pulumi.InvokeOutputOptions(parent=self)
        )
        key = ec2.KeyPair(naming.child_name(name, "key"), public_key=args.public_key, tags=tags, opts=child)
        instance = ec2.Instance(
            naming.child_name(name, "instance"),
            ami=pulumi.Output.unsecret(image.value),  # the provider marks all parameters secret; this one is public
            instance_type=args.instance_type,
            key_name=key.key_name,
            subnet_id=args.subnet_id,
            vpc_security_group_ids=[args.security_group_id],
            associate_public_ip_address=False,
            user_data=pulumi.Output.secret(args.user_data),
            user_data_replace_on_change=True,  # it is read at the first boot only
            metadata_options=ec2.InstanceMetadataOptionsArgs(
                http_endpoint="enabled", http_tokens="required", http_put_response_hop_limit=1
            ),
            root_block_device=ec2.InstanceRootBlockDeviceArgs(
                volume_type="gp3", volume_size=ROOT_VOLUME_GIB, encrypted=True, tags=tags
            ),
            tags={**tags, "Name": f"{naming.PROJECT}-{name}"},
            opts=pulumi.ResourceOptions(parent=self, ignore_changes=["ami"]),
        )
        address = ec2.Eip(
            naming.child_name(name, "address"),
            domain="vpc",
            tags={**tags, "Name": f"{naming.PROJECT}-{name}"},
            opts=child,
        )
        association = ec2.EipAssociation(
            naming.child_name(name, "association"),
            allocation_id=address.allocation_id,
            instance_id=instance.id,
            allow_reassociation=True,  # a new instance takes the address over before the old one goes
            opts=child,
        )
        self.instance_id = instance.id
        self.address = address.public_ip
        self.host = association.public_ip
        self.register_outputs({"instance_id": self.instance_id, "address": self.address, "host": self.host})
