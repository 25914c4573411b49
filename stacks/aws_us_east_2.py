"""The `aws-us-east-2` stack: the intermediate on EC2, the connector and its backends on Fargate."""

import pulumi
import pulumi_aws as aws

from components.aws_cluster import AwsCluster
from components.aws_design import design
from components.aws_images import AwsImages
from components.aws_nlb import AwsNlb
from components.aws_relay import AwsRelay
from components.aws_secrets import AwsSecrets
from components.aws_security_groups import AwsSecurityGroups
from components.aws_service_discovery import AwsServiceDiscovery
from components.aws_services import AwsServices
from components.aws_task import AwsTask
from components.aws_vpc import AwsVpc
from components.pki import Pki
from components.relay_host import RelayHost
from components.ssh_keys import SshKeys, SshKeysArgs
from infra.config_aws import aws_config
from infra.naming import child_name
from infra.outputs import StackOutputs


def program() -> pulumi.Output[StackOutputs]:
    """Declare the stack and return what it promises."""
    config = aws_config(pulumi.Config("aws-us-east-2"))
    plan = design(pulumi.get_stack(), config)
    there = pulumi.ResourceOptions(providers=[aws.Provider("aws", region=config.region)])

    vpc = AwsVpc("vpc", plan.vpc(), there)
    groups = AwsSecurityGroups("groups", plan.groups(vpc), there)
    keys = SshKeys("ssh", SshKeysArgs(admin_public_keys=config.ssh_public_keys))
    relay = AwsRelay("relay", plan.relay(vpc, groups, keys), there)
    pki = Pki("pki", plan.pki(relay))
    RelayHost("host", plan.host(relay, groups, keys, pki))

    balancer = AwsNlb("nlb", plan.balancer(vpc), there)
    images = AwsImages("images", plan.images(), there)
    cluster = AwsCluster("ecs", plan.cluster(), there)
    names = AwsServiceDiscovery("names", plan.discovery(vpc), there)
    secrets = AwsSecrets("secrets", plan.secrets(relay, balancer, pki), there)
    tasks = {
        workload.name: AwsTask(child_name(workload.name, "task"), plan.task(workload, images, cluster, secrets), there)
        for workload in plan.workloads
    }
    AwsServices("services", plan.services(vpc, cluster, tasks, groups, names, balancer), there)

    return pulumi.Output.all(
        host=relay.host,
        host_key=keys.permanent_public,
        ssh_private_key=keys.admin_private,
        ca_pem=pki.ca_pem,
        profiles=plan.for_agents(pki.profile, relay),
        agent_files=plan.for_agents(pki.agent_files, relay),
    ).apply(lambda made: plan.outputs(**made))
