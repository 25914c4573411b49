"""The package aws of the twin."""

from typing import Final

from infra.twin.aws_account import GetParameter, LogGroup, Role, RolePolicy, Secret, SecretVersion
from infra.twin.aws_address import Eip, EipAssociation, NatGateway
from infra.twin.aws_discovery import PrivateDnsNamespace
from infra.twin.aws_discovery import Service as NamedService
from infra.twin.aws_ecr import GetAuthorizationToken, LifecyclePolicy, Repository
from infra.twin.aws_ecs import Cluster, ClusterCapacityProviders, Service, TaskDefinition
from infra.twin.aws_groups import SecurityGroup, SecurityGroupEgressRule, SecurityGroupIngressRule
from infra.twin.aws_instance import Instance, KeyPair
from infra.twin.aws_lb import Listener, LoadBalancer, TargetGroup
from infra.twin.aws_vpc import InternetGateway, Route, RouteTable, RouteTableAssociation, Subnet, Vpc, VpcEndpoint
from infra.twin.provider import Package

PACKAGE: Final = Package(
    name="aws",
    types=(
        *(Vpc(), Subnet(), InternetGateway(), RouteTable(), Route(), RouteTableAssociation(), VpcEndpoint()),
        *(
            Eip(),
            EipAssociation(),
            NatGateway(),
            SecurityGroup(),
            SecurityGroupIngressRule(),
            SecurityGroupEgressRule(),
        ),
        *(
            KeyPair(),
            Instance(),
            Repository(),
            LifecyclePolicy(),
            Role(),
            RolePolicy(),
            LogGroup(),
            Secret(),
            SecretVersion(),
        ),
        *(
            Cluster(),
            ClusterCapacityProviders(),
            TaskDefinition(),
            Service(),
            LoadBalancer(),
            TargetGroup(),
            Listener(),
        ),
        *(PrivateDnsNamespace(), NamedService()),
    ),
    functions=(GetParameter(), GetAuthorizationToken()),
    config=frozenset(
        {
            "region",
            "skipCredentialsValidation",
            "skipRegionValidation",
            "skipMetadataApiCheck",
            "skipRequestingAccountId",
        }
    ),
)
