"""Instances of EC2 and their key pairs. Force-new by the provider's source.

Source: https://github.com/hashicorp/terraform-provider-aws/tree/main/internal/service/ec2 (ec2_instance.go)
"""

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

from infra.engine.providers import Failure
from infra.lab.machine import MachineSpec
from infra.lab.machine_root import BOOKWORM, TRIXIE, RootSpec
from infra.lab.topology import Host, Link
from infra.twin import aws_fabric, aws_view
from infra.twin.aws_base import AwsType, inputs_of
from infra.twin.aws_forms import REGION, digits, ec2_arn, hex_id, not_kept
from infra.twin.aws_view import Eni, View, enis_of, free_address
from infra.twin.forms import now, one_of
from infra.twin.interface import Call, Json, LeftOut, TwinError, known
from infra.twin.site import Site
from infra.twin.store import Item
from infra.twin.tls import md5_fingerprint

KEY_PAIR: Final = "aws:ec2/keyPair:KeyPair"
LARGEST_USER_DATA_BYTES: Final = 16 * 1024
TYPES: Final = tuple(
    f"{family}.{size}" for family in ("t2", "t3", "t3a") for size in ("nano", "micro", "small", "medium", "large")
)
_STATE: Final = {True: "running", False: "stopped"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Ami:
    """An image: the root that it boots, and its own user."""

    root: RootSpec
    user: str


AMIS: Final[Mapping[str, Ami]] = {
    "ami-0deb1200000000001": Ami(root=BOOKWORM, user="admin"),
    "ami-0deb1300000000001": Ami(root=TRIXIE, user="admin"),
}
"""The twin's own numbers. Source: https://wiki.debian.org/Cloud/AmazonEC2Image"""
PARAMETERS: Final[Mapping[str, str]] = {
    "/aws/service/debian/release/12/latest/amd64": "ami-0deb1200000000001",
    "/aws/service/debian/release/13/latest/amd64": "ami-0deb1300000000001",
}
"""Public parameters of SSM that hold the id of an image."""


def cloud_config(user: str) -> str:
    """What an image of EC2 says of its own user."""
    return (
        "system_info:\n  default_user:\n"
        f"    name: {user}\n    lock_passwd: true\n    gecos: Debian\n    shell: /bin/bash\n"
        '    groups: [adm, sudo]\n    sudo: ["ALL=(ALL) NOPASSWD:ALL"]\n'
    )


class KeyPair(AwsType):
    """A public key of the account."""

    type_name = KEY_PAIR
    model = "a record; who may log in is said by user data"
    limits = ("an instance that names a key pair does not let it in: user data does, and the stack's does",)
    force_new = frozenset({"keyName", "publicKey"})
    autoname = "keyName"
    wanted = ("publicKey",)

    def check_inputs(self, inputs: Json) -> Iterator[Failure]:
        if known(key := inputs.get("publicKey")) and _blob(str(key)) is None:
            yield Failure("publicKey", "InvalidKey.Format: Key is not in valid OpenSSH public key format")

    def identify(self, call: Call, number: int, inputs: Json) -> str:
        return str(inputs["keyName"])

    def begin(self, call: Call, number: int, inputs: Json, items: list[Item]) -> Json:
        if any(item.token == self.type_name and item.id == inputs["keyName"] for item in items):
            raise TwinError(f"InvalidKeyPair.Duplicate: The keypair already exists: {inputs['keyName']}")
        return {"id": hex_id("key", call.site.run, number)}

    def outputs(self, call: Call, item: Item) -> Json:
        blob = _blob(inputs_of(item)["publicKey"]) or b""
        kind = "ed25519" if b"ssh-ed25519" in blob[:20] else "rsa"
        return {
            "arn": ec2_arn("key-pair", item.id), "keyPairId": item.data["id"], "keyType": kind,
            "fingerprint": md5_fingerprint(blob), "keyNamePrefix": "",
        }  # fmt: skip


def _blob(key: str) -> bytes | None:
    words = key.split()
    try:
        return base64.b64decode(words[1], validate=True) if words[0] in ("ssh-rsa", "ssh-ed25519") else None
    except (IndexError, ValueError):
        return None


class Instance(AwsType):
    """A machine in a subnet."""

    type_name = aws_view.INSTANCE
    model = "a machine (systemd-nspawn, systemd, sshd, cloud-init) that boots the user data"
    limits = (
        "the kernel is this machine's: no kernel or module of the image's own, no disk but memory",
        "there is no metadata service at 169.254.169.254: user data comes to cloud-init as a NoCloud seed",
        "memory and CPUs of a type are told and not enforced; a change of type is a power cycle",
        "a changed user data of an instance that is there powers it off and on, and a boot that is not the first does "
        "not run it again, as in EC2",
    )
    force_new = frozenset({"ami", "availabilityZone", "subnetId", "keyName", "privateIp", "associatePublicIpAddress"})
    in_place = frozenset(
        {"instanceType", "vpcSecurityGroupIds", "userData", "userDataReplaceOnChange", "rootBlockDevice"}
    )
    left_out: ClassVar = {
        "metadataOptions": LeftOut(why="there is no metadata service"),
        "monitoring": not_kept("there are no metrics"),
        "ebsOptimized": not_kept("the disk is memory"),
        "disableApiTermination": not_kept("a destroy ends it"),
    }
    defaults: ClassVar = {"userDataReplaceOnChange": False}
    secret_outputs: ClassVar = ()
    wanted = ("ami", "instanceType", "subnetId", "vpcSecurityGroupIds")

    def check_inputs(self, inputs: Json) -> Iterator[Failure]:
        remedy = " (amiParameter of the stack's configuration, docs/twin.md)"
        yield from one_of("ami", inputs.get("ami"), AMIS, "root for image", remedy)
        yield from one_of("instanceType", inputs.get("instanceType"), TYPES, "instance type")
        if inputs.get("associatePublicIpAddress"):
            yield Failure("associatePublicIpAddress", "the twin gives public addresses as elastic IPs alone")
        text = inputs.get("userData")
        if known(text) and len(str(text).encode()) > LARGEST_USER_DATA_BYTES:
            yield Failure("userData", f"InvalidParameterValue: User data is limited to {LARGEST_USER_DATA_BYTES} bytes")
        for name in inputs.get("rootBlockDevice") or {}:
            known_names = ("volumeType", "volumeSize", "encrypted", "tags", "deleteOnTermination", "iops", "throughput")
            yield from one_of(f"rootBlockDevice.{name}", name, known_names, "property of a root volume")

    def replaces(self, changed: frozenset[str], olds: Json, news: Json) -> frozenset[str]:
        found = super().replaces(changed, olds, news)
        if "userData" in changed and news.get("userDataReplaceOnChange"):
            found |= {"userData"}
        encrypted = [bool((each.get("rootBlockDevice") or {}).get("encrypted")) for each in (olds, news)]
        return found | {"rootBlockDevice"} if encrypted[0] != encrypted[1] else found

    def identify(self, call: Call, number: int, inputs: Json) -> str:
        return hex_id("i", call.site.run, number)

    def begin(self, call: Call, number: int, inputs: Json, items: list[Item]) -> Json:
        subnet = next((item for item in items if item.id == inputs["subnetId"]), None)
        if subnet is None:
            raise TwinError(f"InvalidSubnetID.NotFound: The subnet ID {inputs['subnetId']!r} does not exist")
        groups = {item.id for item in items if item.token == aws_view.GROUP}
        for group in inputs["vpcSecurityGroupIds"]:
            if group not in groups:
                raise TwinError(f"InvalidGroup.NotFound: The security group {group!r} does not exist")
        if inputs.get("keyName") and not any(item.token == KEY_PAIR and item.id == inputs["keyName"] for item in items):
            raise TwinError(f"InvalidKeyPair.NotFound: The key pair {inputs['keyName']!r} does not exist")
        eni = Eni(
            id=f"eni-{digits(call.site.run, number)}", subnet=subnet.id, device=f"eni{number}", host=f"ec2-{number}",
            address=free_address(items, subnet, inputs.get("privateIp")), groups=tuple(inputs["vpcSecurityGroupIds"]),
        )  # fmt: skip
        began = now()
        return {"enis": [eni.to_json()], "vpc": inputs_of(subnet)["vpcId"], "launched": began}

    def apply(self, call: Call, item: Item) -> None:
        site, (eni,), inputs = call.site, enis_of(item), inputs_of(item)
        view = View(site.store.items(), item.data["vpc"])
        subnet = view.subnets[eni.subnet]
        aws_fabric.ensure_segment(site, eni.host)
        link = Link(eni.host, f"{eni.address}/{subnet.network.prefixlen}")
        site.lab.ensure_host(Host(eni.host, (link,), gateway=str(subnet.network[1])))
        aws_fabric.plug_eni(site, view, eni)
        aws_fabric.sync(site, view.id)
        machine = site.machine(eni.host)
        if not machine.exists:
            ami = AMIS[inputs["ami"]]
            machine.create(
                MachineSpec(
                    root=str(site.root(ami.root)),
                    hostname=f"ip-{eni.address.replace('.', '-')}",
                    instance_id=item.id,
                    user_data=inputs.get("userData") or "#cloud-config\n{}\n",
                    files={"/etc/cloud/cloud.cfg.d/98-image.cfg": cloud_config(ami.user)},
                )
            )
        machine.start()

    def kept(self, item: Item, news: Json) -> Json:
        # What the program ignores stays as it was at creation.
        return {**news, "ami": inputs_of(item)["ami"]}

    def update(self, call: Call, outputs: Json, olds: Json, news: Json) -> Json:
        item = call.site.store.get(self.type_name, call.id)
        if item is not None and olds["vpcSecurityGroupIds"] != news["vpcSecurityGroupIds"]:
            eni = {**enis_of(item)[0].to_json(), "groups": list(news["vpcSecurityGroupIds"])}
            call.site.store.change(item.number, {"enis": [eni]})
        made = super().update(call, outputs, olds, news)
        if item is not None and any(olds.get(name) != news.get(name) for name in ("instanceType", "userData")):
            call.site.machine(enis_of(item)[0].host).reboot()
        return made

    def there(self, call: Call, item: Item) -> bool:
        return call.site.machine(enis_of(item)[0].host).exists

    def outputs(self, call: Call, item: Item) -> Json:
        (eni,), inputs = enis_of(item), inputs_of(item)
        subnet = call.site.store.get(aws_view.SUBNET, eni.subnet)
        address = _public(call.site, item)
        public = f"ec2-{address.replace('.', '-')}.{REGION}.compute.amazonaws.com" if address else ""
        return {
            "arn": ec2_arn("instance", item.id), "instanceLifecycle": "", "outpostArn": "", "passwordData": "",
            "instanceState": _STATE[call.site.machine(eni.host).running], "primaryNetworkInterfaceId": eni.id,
            "privateIp": eni.address, "privateDns": f"ip-{eni.address.replace('.', '-')}.{REGION}.compute.internal",
            "publicDns": public, "publicIp": address, "spotInstanceRequestId": "",
            "availabilityZone": inputs_of(subnet)["availabilityZone"] if subnet is not None else "",
            "securityGroups": [], "sourceDestCheck": True, "tenancy": "default", "keyName": inputs.get("keyName") or "",
        }  # fmt: skip

    def clear(self, call: Call, item: Item) -> None:
        site, (eni,) = call.site, enis_of(item)
        site.machine(eni.host).remove()
        aws_fabric.forget_item(site, item)
        site.lab.remove_host(eni.host)
        site.lab.remove_segment(eni.host)
        for address in site.store.items(aws_view.EIP):
            if address.data.get("holder") == item.id:
                site.store.change(address.number, {"holder": ""})

    def applied(self, call: Call, item: Item) -> None:
        if call.site.store.get(aws_view.VPC, item.data["vpc"]) is not None:
            aws_fabric.sync(call.site, item.data["vpc"])


def _public(site: Site, item: Item) -> str:
    held = [address for address in site.store.items(aws_view.EIP) if address.data.get("holder") == item.id]
    return str(held[0].data["address"]) if held else ""
