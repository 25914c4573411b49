"""A program of every provider SDK of the project, for previews."""

import pulumi
import pulumi_aws as aws
import pulumi_digitalocean as digitalocean
import pulumi_docker_build as docker_build
import pulumi_kubernetes as kubernetes
import pulumi_tls as tls
from pulumi_aws import ec2, ssm


class Network(pulumi.ComponentResource):
    """A VPC with a host."""

    def __init__(self, name: str) -> None:
        super().__init__("test:index:Network", name, {}, None)
        mine = pulumi.ResourceOptions(parent=self)
        vpc = ec2.Vpc(f"{name}-vpc", cidr_block="10.0.0.0/16", opts=mine)
        zones = aws.get_availability_zones_output(state="available")
        self.subnet = ec2.Subnet(
            f"{name}-subnet", vpc_id=vpc.id, cidr_block="10.0.1.0/24", availability_zone=zones.names[0], opts=mine
        )
        image = ssm.get_parameter_output(name="/image")
        host = ec2.Instance(
            f"{name}-host", ami=image.value, instance_type="t3.micro", subnet_id=self.subnet.id,
            user_data=pulumi.Output.secret("hunter2"), opts=mine,
        )  # fmt: skip
        self.register_outputs({"host": host.id})


network = Network("net")
key = tls.PrivateKey("key", algorithm="ED25519")
ssh = digitalocean.SshKey("ssh", public_key=key.public_key_openssh)
droplet = digitalocean.Droplet(
    "relay", image="ubuntu-24-04-x64", region="nyc1", size="s-1vcpu-1gb", ssh_keys=[ssh.fingerprint]
)
cluster = kubernetes.Provider("cluster", kubeconfig=key.private_key_pem)
inside = pulumi.ResourceOptions(provider=cluster)
kubernetes.core.v1.Namespace("space", metadata={"name": "ztna"}, opts=inside)
kubernetes.apiextensions.CustomResource(
    "pool", api_version="cilium.io/v2", kind="CiliumLoadBalancerIPPool", spec={"blocks": []}, opts=inside
)
docker_build.Image(
    "image", push=True, tags=["r/app:1"], context={"location": "."}, platforms=[docker_build.Platform.LINUX_AMD64]
)
existing = ec2.Vpc.get("existing", "vpc-1")
pulumi.export("address", droplet.ipv4_address)
pulumi.export("key", key.private_key_pem)
pulumi.export("zone", network.subnet.availability_zone)
pulumi.export("existing", existing.cidr_block)
