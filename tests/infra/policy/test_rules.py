"""Rules where a stack's graph says too little: what they let pass on purpose, and what they read in other forms."""

import base64
import gzip
import json
import warnings
from typing import Any

import pytest

from infra.cloudinit import HostKeys, HostSetup, user_data
from infra.graph import UNKNOWN, Graph
from infra.policy.rules import RULES, check
from infra.policy.unchecked import unchecked
from tests.support.plant import Inputs, added, lone

DROPLET = "digitalocean:index/droplet:Droplet"
TAGS = {"tags": ["project:ztna", "stack:s", "run:r", "component:c"]}
KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk=\n-----END OPENSSH PRIVATE KEY-----\n"
PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFkc9yM2nVtPqZ5bXw1uKJr8hQ0sD3aGfLoE7iT4RxYv admin"


def first_boot() -> str:
    """User data as the stacks make it."""
    return user_data(
        HostSetup(
            hostname="relay",
            admin_public_keys=(PUBLIC,),
            host_keys=HostKeys(private=KEY, public=PUBLIC),
            udp_ports=(4433, 4434),
            admin_cidrs=("203.0.113.0/24",),
        )
    )


def broken(token: str, inputs: Inputs, **more: Any) -> set[str]:
    """The rules that one resource breaks, but for the firewall that it has not got here."""
    return {finding.rule for finding in check(lone(token, inputs, **more))} - {"hosts-behind-firewall"}


def test_the_bootstrap_host_key_is_the_one_exception_where_user_data_is_marked_secret() -> None:
    assert broken(DROPLET, {**TAGS, "userData": {"<secret>": first_boot()}}) == set()
    assert broken(DROPLET, {**TAGS, "userData": first_boot()}) == {"secrets-are-marked"}


@pytest.mark.parametrize("wrap", [str, lambda text: base64.b64encode(gzip.compress(text.encode())).decode()])
@pytest.mark.parametrize(
    "text",
    [
        first_boot().replace("ed25519_private", "another_private"),
        first_boot() + "bootcmd:\n- [sh, -c, 'export DB_PASSWORD=correct-horse']\n",
        first_boot() + f"disk_setup:\n  note: {json.dumps(KEY)}\n",
        "#!/bin/sh\ncurl -H 'Authorization: token ghp_" + "aB3" * 12 + "' https://example.org\n",
    ],
)
def test_any_other_secret_in_user_data_is_found_however_it_is_wrapped(wrap: Any, text: str) -> None:
    assert "no-plain-secrets" in broken(DROPLET, {**TAGS, "userData": {"<secret>": wrap(text)}})
    assert "no-plain-secrets" in broken(
        DROPLET, {**TAGS, "userData": {"<secret>": base64.b64encode(text.encode()).decode()}}
    )


def test_files_of_cloud_config_are_read_through_their_encoding() -> None:
    hidden = base64.b64encode(KEY.encode()).decode()
    text = f"#cloud-config\nwrite_files:\n- path: /k\n  encoding: b64\n  content: {hidden}\n"
    assert "no-plain-secrets" in broken(DROPLET, {**TAGS, "userData": {"<secret>": text}})


def test_a_private_key_in_any_unmarked_input_is_found_and_a_marked_one_is_not() -> None:
    token = "pulumi-python:dynamic/host:Release"
    assert broken(token, {"files": {"relay": {"key.pem": KEY}}}) == {"secrets-are-marked"}
    assert broken(token, {"files": {"<secret>": {"relay": {"key.pem": KEY}}}}) == set()


def test_an_output_with_a_key_must_be_marked() -> None:
    graph = Graph(stack="s", nodes=(), outputs={"profiles": {"laptop": json.dumps({"key_pem": KEY})}})
    assert {finding.rule for finding in check(graph)} == {"outputs-are-marked"}
    assert check(Graph(stack="s", nodes=(), outputs={"profiles": {"<secret>": {"laptop": KEY}}})) == []


@pytest.mark.parametrize("port_range", ["all", "0", None, "1-65535"])
def test_every_way_to_open_all_ports_at_digitalocean_is_found(port_range: str | None) -> None:
    rule = {"protocol": "tcp", "portRange": port_range, "sourceAddresses": ["::/0"]}
    found = broken("digitalocean:index/firewall:Firewall", {"inboundRules": [rule]})
    assert found == {"no-ssh-from-the-world", "only-overlay-ports-public"}


@pytest.mark.parametrize("source", ["203.0.113.0/24", "10.0.0.0/8", "2001:db8::/32", "sg-1", UNKNOWN])
def test_named_networks_and_groups_are_not_the_world(source: str) -> None:
    rule = {"protocol": "tcp", "portRange": "22", "sourceAddresses": [source]}
    assert broken("digitalocean:index/firewall:Firewall", {"inboundRules": [rule]}) == set()


def test_what_is_unknown_is_said_to_be_unchecked_and_breaks_nothing() -> None:
    graph = lone(DROPLET, {**TAGS, "userData": {"<secret>": UNKNOWN}})
    assert {finding.rule for finding in check(graph)} == {"hosts-behind-firewall"}
    assert unchecked(graph) == ("Droplet planted: userData",)


def test_the_tasks_of_the_aws_stack_break_no_rule_once_their_definition_is_known() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of pulumi_aws about names of its own, at import
        from components.aws_task import AwsTaskArgs, container
        from components.aws_workloads import PROFILE, workloads
        from infra.config_aws import aws_config
    from tests.infra.test_traversal import Committed

    made = workloads(aws_config(Committed("aws-us-east-2")))
    assert {workload.name for workload in made} >= {"connector", "http-app"}
    for workload in made:
        args = AwsTaskArgs(
            stack="aws-us-east-2",
            run="run",
            region="us-east-2",
            workload=workload,
            platform="linux/amd64",
            image=f"123456789012.dkr.ecr.us-east-2.amazonaws.com/ztna/{workload.name}@sha256:{'0' * 64}",
            repository_arn="arn:aws:ecr:us-east-2:123456789012:repository/ztna/app",
            log_group="/ztna/run",
            log_group_arn="arn:aws:logs:us-east-2:123456789012:log-group:/ztna/run",
            account_id="123456789012",
            secrets={PROFILE: "arn:aws:secretsmanager:us-east-2:123456789012:secret:connector-AbCdEf"},
        )
        tags = {"project": "ztna", "stack": "s", "run": "r", "component": "c"}
        inputs = {"containerDefinitions": json.dumps([container(args)]), "tags": tags}
        assert broken("aws:ecs/taskDefinition:TaskDefinition", inputs) == set()


def test_default_tags_of_a_provider_count() -> None:
    provider = "urn:pulumi:s::ztna::pulumi:providers:aws::aws"
    tags = json.dumps({"tags": {"project": "ztna", "stack": "s", "run": "r", "component": "c"}})
    graph = lone("aws:ec2/vpc:Vpc", {}, provider=f"{provider}::id")
    assert {finding.rule for finding in check(graph)} == {"tags-present"}
    with_provider = added(graph, "pulumi:providers:aws", {"defaultTags": tags})
    named = with_provider.nodes[-1].urn
    assert (
        check(Graph(stack="s", nodes=lone("aws:ec2/vpc:Vpc", {}, provider=named).nodes + with_provider.nodes[1:])) == []
    )


def test_rules_have_names_and_sentences_of_their_own() -> None:
    assert len({rule.name for rule in RULES}) == len({rule.description for rule in RULES}) == len(RULES)
    assert {rule.enforcement for rule in RULES} == {"mandatory", "advisory"}
