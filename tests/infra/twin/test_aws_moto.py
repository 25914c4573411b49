"""The AWS twin held against moto, which has AWS's codes and ids from AWS: the same wrong call has the same code.

moto is too slow to stand behind the twin itself (ten seconds and more for its first call), and keeps nothing over a
process.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from infra.twin.interface import TwinError
from tests.infra.twin.aws_account import Account
from tests.infra.twin.sites import noted_site

pytestmark = pytest.mark.e2e

ANYWHERE = "0.0.0.0/0"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPDaSPD9Lr8ZqNw4XBHYhSsDzZqGYCqyvXpiYOHuCu3J me"
TRUST = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Principal": {"Service": "ecs-tasks.amazonaws.com"}, "Action": "sts:AssumeRole"}
        ],
    }
)


class Theirs:
    """The same account at moto."""

    def __init__(self) -> None:
        self.ids: dict[str, str] = {}
        for name in ("ec2", "ecr", "ecs", "elbv2", "iam", "logs", "secretsmanager", "servicediscovery"):
            setattr(self, name, boto3.client(name, region_name="us-east-2"))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    def network(self) -> None:
        """As `Account.network`, as far as cases need it, with a group, a role and what tasks need."""
        ec2, ids = self.ec2, self.ids
        ids["vpc"] = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        ids["public"] = ec2.create_subnet(VpcId=ids["vpc"], CidrBlock="10.0.1.0/24")["Subnet"]["SubnetId"]
        ids["igw"] = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        ec2.attach_internet_gateway(VpcId=ids["vpc"], InternetGatewayId=ids["igw"])
        ids["public-table"] = ec2.create_route_table(VpcId=ids["vpc"])["RouteTable"]["RouteTableId"]
        ids["public-way"] = ec2.associate_route_table(RouteTableId=ids["public-table"], SubnetId=ids["public"])[
            "AssociationId"
        ]
        ec2.create_route(RouteTableId=ids["public-table"], DestinationCidrBlock=ANYWHERE, GatewayId=ids["igw"])
        ids["g"] = ec2.create_security_group(GroupName="g", Description="d", VpcId=ids["vpc"])["GroupId"]
        ec2.authorize_security_group_ingress(GroupId=ids["g"], IpPermissions=[ssh()])
        ids["address"] = ec2.allocate_address(Domain="vpc")["AllocationId"]
        ec2.import_key_pair(KeyName="k", PublicKeyMaterial=KEY)
        self.ecr.create_repository(repositoryName="app")
        self.iam.create_role(RoleName="role", AssumeRolePolicyDocument=TRUST)
        self.iam.put_role_policy(RoleName="role", PolicyName="p", PolicyDocument=POLICY)
        self.logs.create_log_group(logGroupName="/app")
        ids["secret"] = self.secretsmanager.create_secret(Name="s", SecretString="x")["ARN"]
        ids["cluster"] = self.ecs.create_cluster(clusterName="c")["cluster"]["clusterArn"]
        subnets = {"Type": "network", "SubnetMappings": [{"SubnetId": ids["public"]}]}
        ids["lb"] = self.elbv2.create_load_balancer(Name="lb", **subnets)["LoadBalancers"][0]["LoadBalancerArn"]
        ids["targets"] = self.elbv2.create_target_group(
            Name="targets", VpcId=ids["vpc"], TargetType="ip", Protocol="UDP", Port=4434, HealthCheckProtocol="TCP",
            HealthCheckPort="9091",
        )["TargetGroups"][0]["TargetGroupArn"]  # fmt: skip
        ids["listener"] = self.listen(4434)["Listeners"][0]["ListenerArn"]
        ids["names"] = ""

    def listen(self, port: int, balancer: str = "") -> Any:
        """A listener."""
        action = {"Type": "forward", "TargetGroupArn": self.ids["targets"]}
        return self.elbv2.create_listener(
            LoadBalancerArn=balancer or self.ids["lb"], Protocol="UDP", Port=port, DefaultActions=[action]
        )


POLICY = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]})


def ssh(port: int = 22) -> dict[str, Any]:
    """A rule, as the API takes it."""
    return {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, "IpRanges": [{"CidrIp": "203.0.113.0/24"}]}


@pytest.fixture(scope="module")
def theirs() -> Iterator[Theirs]:
    patch = pytest.MonkeyPatch()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        patch.setenv(name, "x")
    with mock_aws():
        found = Theirs()
        found.network()
        yield found
    patch.undo()


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    patch = pytest.MonkeyPatch()
    folder: Path = tmp_path_factory.mktemp("twin")
    account = Account(noted_site(folder, patch))
    account.network()
    account.group("g")
    account.allow("Ingress", "ssh", "g", "tcp", 22, cidrIpv4="203.0.113.0/24")
    account.make("Eip", "address")
    account.make("KeyPair", "k", keyName="k", publicKey=KEY)
    account.make("Repository", "app", name="app")
    account.make("Role", "role", name="role", assumeRolePolicy=TRUST)
    account.make("RolePolicy", "p", name="p", role="role", policy=POLICY)
    account.make("LogGroup", "logs", name="/app")
    account.make("Secret", "secret", name="s")
    account.make("Cluster", "cluster", name="c")
    account.make("LoadBalancer", "lb", loadBalancerType="network", subnetMappings=[{"subnetId": account.ids["public"]}])
    account.make(
        "TargetGroup", "targets", vpcId=account.ids["vpc"], targetType="ip", protocol="UDP", port=4434,
        healthCheck={"protocol": "TCP", "port": "9091"},
    )  # fmt: skip
    account.make("Listener", "listener", **listener(account, 4434))
    yield account
    patch.undo()


def listener(account: Account, port: int, balancer: str = "") -> dict[str, Any]:
    """A listener, as the provider takes it."""
    action = {"type": "forward", "targetGroupArn": account.ids["targets"]}
    return {
        "loadBalancerArn": balancer or account.ids["lb"], "protocol": "UDP", "port": port, "defaultActions": [action]
    }  # fmt: skip


NO_BALANCER = "arn:aws:elasticloadbalancing:us-east-2:123456789012:loadbalancer/net/x/0123456789abcdef"
Case = tuple[str, Callable[[Account], Any], Callable[[Theirs], Any]]
CASES: list[Case] = [
    (
        "a subnet over another",
        lambda a: a.make("Subnet", "x", vpcId=a.ids["vpc"], cidrBlock="10.0.1.128/25"),
        lambda t: t.ec2.create_subnet(VpcId=t.ids["vpc"], CidrBlock="10.0.1.128/25"),
    ),
    (
        "a subnet outside its VPC",
        lambda a: a.make("Subnet", "x", vpcId=a.ids["vpc"], cidrBlock="10.9.1.0/24"),
        lambda t: t.ec2.create_subnet(VpcId=t.ids["vpc"], CidrBlock="10.9.1.0/24"),
    ),
    (
        "a subnet of no VPC",
        lambda a: a.make("Subnet", "x", vpcId="vpc-0", cidrBlock="10.0.7.0/24"),
        lambda t: t.ec2.create_subnet(VpcId="vpc-0", CidrBlock="10.0.7.0/24"),
    ),
    ("a VPC in use", lambda a: a.remove("Vpc", "vpc"), lambda t: t.ec2.delete_vpc(VpcId=t.ids["vpc"])),
    (
        "a route table in use",
        lambda a: a.remove("RouteTable", "public-table"),
        lambda t: t.ec2.delete_route_table(RouteTableId=t.ids["public-table"]),
    ),
    (
        "a second gateway",
        lambda a: a.make("InternetGateway", "x", vpcId=a.ids["vpc"]),
        lambda t: t.ec2.attach_internet_gateway(VpcId=t.ids["vpc"], InternetGatewayId=t.ids["igw"]),
    ),
    (
        "a route twice",
        lambda a: a.make(
            "Route", "x", routeTableId=a.ids["public-table"], destinationCidrBlock=ANYWHERE, gatewayId=a.ids["igw"]
        ),
        lambda t: t.ec2.create_route(
            RouteTableId=t.ids["public-table"], DestinationCidrBlock=ANYWHERE, GatewayId=t.ids["igw"]
        ),
    ),
    (
        "a group twice",
        lambda a: a.group("g"),
        lambda t: t.ec2.create_security_group(GroupName="g", Description="d", VpcId=t.ids["vpc"]),
    ),
    (
        "a rule twice",
        lambda a: a.allow("Ingress", "x", "g", "tcp", 22, cidrIpv4="203.0.113.0/24"),
        lambda t: t.ec2.authorize_security_group_ingress(GroupId=t.ids["g"], IpPermissions=[ssh()]),
    ),
    (
        "a rule of no group",
        lambda a: a.make(
            "SecurityGroupIngressRule",
            "x",
            securityGroupId="sg-0",
            ipProtocol="tcp",
            fromPort=1,
            toPort=1,
            cidrIpv4=ANYWHERE,
        ),
        lambda t: t.ec2.authorize_security_group_ingress(GroupId="sg-0", IpPermissions=[ssh(1)]),
    ),
    (
        "a key pair twice",
        lambda a: a.make("KeyPair", "x", keyName="k", publicKey=KEY),
        lambda t: t.ec2.import_key_pair(KeyName="k", PublicKeyMaterial=KEY),
    ),
    (
        "a repository twice",
        lambda a: a.make("Repository", "x", name="app"),
        lambda t: t.ecr.create_repository(repositoryName="app"),
    ),
    (
        "a role twice",
        lambda a: a.make("Role", "x", name="role", assumeRolePolicy=TRUST),
        lambda t: t.iam.create_role(RoleName="role", AssumeRolePolicyDocument=TRUST),
    ),
    ("a role with policies", lambda a: a.remove("Role", "role"), lambda t: t.iam.delete_role(RoleName="role")),
    (
        "a policy of no role",
        lambda a: a.make("RolePolicy", "x", role="nobody", policy=POLICY),
        lambda t: t.iam.put_role_policy(RoleName="nobody", PolicyName="x", PolicyDocument=POLICY),
    ),
    (
        "a log group twice",
        lambda a: a.make("LogGroup", "x", name="/app"),
        lambda t: t.logs.create_log_group(logGroupName="/app"),
    ),
    (
        "a secret twice",
        lambda a: a.make("Secret", "x", name="s"),
        lambda t: t.secretsmanager.create_secret(Name="s", SecretString="x"),
    ),
    (
        "a value of no secret",
        lambda a: a.make("SecretVersion", "x", secretId="nobody", secretString="x"),
        lambda t: t.secretsmanager.put_secret_value(SecretId="nobody", SecretString="x"),
    ),
    (
        "a listener of no balancer",
        lambda a: a.make("Listener", "x", **listener(a, 1, NO_BALANCER)),
        lambda t: t.listen(1, NO_BALANCER),
    ),
    (
        "targets in use",
        lambda a: a.remove("TargetGroup", "targets"),
        lambda t: t.elbv2.delete_target_group(TargetGroupArn=t.ids["targets"]),
    ),
]


@pytest.mark.parametrize(("name", "mine", "other"), CASES, ids=[case[0] for case in CASES])
def test_the_same_wrong_call_has_the_same_code(
    ours: Account, theirs: Theirs, name: str, mine: Callable[[Account], Any], other: Callable[[Theirs], Any]
) -> None:
    with pytest.raises(ClientError) as refused:
        other(theirs)
    with pytest.raises(TwinError) as said:
        mine(ours)
    code = refused.value.response["Error"]["Code"].removesuffix("Exception").removesuffix("Fault")
    assert str(said.value).partition(":")[0].removesuffix("Exception") == code


SHAPED = ("vpc", "public", "igw", "public-table", "public-way", "g", "address", "secret", "cluster", "targets")
"""Not of balancers: moto calls each one an application load balancer."""


@pytest.mark.parametrize("name", SHAPED)
def test_ids_have_the_same_form(ours: Account, theirs: Theirs, name: str) -> None:
    assert form(ours.ids[name]) == form(theirs.ids[name])


def form(id_: str) -> str:
    """An id without what is its own: hex digits, random ends, names."""
    text = re.sub(r"(?<=/)(lb|targets)[-0-9a-f]*(?=/)", "NAME", id_)
    text = re.sub(r"(?<=secret:s-)\w{6}", "END", text)
    return re.sub(r"(?<=[-/])[0-9a-f]{16,17}(?![0-9a-f])", lambda found: "x" * len(found[0]), text)
