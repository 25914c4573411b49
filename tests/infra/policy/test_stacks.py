"""The three stacks break no rule, and a mistake planted into any of them is found by the rule that is there for it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from infra.cli_lint import inspect
from infra.graph import Graph
from infra.policy.rules import RULES, check
from tests.support.plant import Inputs, added, changed, without
from tests.support.preview import preview_graph

STACKS = ("do-nyc1", "aws-us-east-2", "pi-home")
FIREWALL = "digitalocean:index/firewall:Firewall"
DROPLET = "digitalocean:index/droplet:Droplet"
INSTANCE = "aws:ec2/instance:Instance"
INGRESS = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"
TASK = "aws:ecs/taskDefinition:TaskDefinition"
REPOSITORY = "aws:ecr/repository:Repository"
ROLE_POLICY = "aws:iam/rolePolicy:RolePolicy"
DEPLOYMENT = "kubernetes:apps/v1:Deployment"
SERVICE = "kubernetes:core/v1:Service"
CONFIG_MAP = "kubernetes:core/v1:ConfigMap"
K8S_SECRET = "kubernetes:core/v1:Secret"
NETWORK_POLICY = "kubernetes:networking.k8s.io/v1:NetworkPolicy"
KEY = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIPlanted\n-----END EC PRIVATE KEY-----\n"
CLOUD_CONFIG = f"#cloud-config\nwrite_files:\n- path: /etc/ztna/key.pem\n  content: {json.dumps(KEY)}\n"


@dataclass(frozen=True, slots=True)
class Mistake:
    """What is planted into which stack, and the rule that must find it."""

    name: str
    rule: str
    stack: str
    plant: Callable[[Graph], Graph]


def change(token: str, by: Callable[[Inputs], object], name: str = "") -> Callable[[Graph], Graph]:
    return lambda graph: changed(graph, token, by, name)


def pod(by: Callable[[dict[str, Any]], object]) -> Callable[[Graph], Graph]:
    return change(DEPLOYMENT, lambda inputs: by(inputs["spec"]["template"]["spec"]))


def container(by: Callable[[dict[str, Any]], object]) -> Callable[[Graph], Graph]:
    return pod(lambda spec: by(spec["containers"][0]))


def tasks(**fields: Any) -> Callable[[Graph], Graph]:
    """A task definition as the component writes it, with some fields otherwise."""
    good = {
        "name": "connector",
        "image": f"registry/ztna/app-connector@sha256:{'0' * 64}",
        "user": "65532:65532",
        "readonlyRootFilesystem": True,
        "privileged": False,
        "linuxParameters": {"capabilities": {"drop": ["ALL"]}},
    }
    return change(TASK, lambda inputs: inputs.update(containerDefinitions=json.dumps([{**good, **fields}])))


MISTAKES = (
    Mistake(
        "ssh from the world on the droplet",
        "no-ssh-from-the-world",
        "do-nyc1",
        change(FIREWALL, lambda inputs: inputs["inboundRules"][2].update(sourceAddresses=["203.0.113.0/24", "::/0"])),
    ),
    Mistake(
        "ssh from the world in two halves",
        "no-ssh-from-the-world",
        "do-nyc1",
        change(FIREWALL, lambda inputs: inputs["inboundRules"][2].update(sourceAddresses=["0.0.0.0/1", "128.0.0.0/1"])),
    ),
    Mistake(
        "ssh within a range of ports",
        "no-ssh-from-the-world",
        "do-nyc1",
        change(
            FIREWALL,
            lambda inputs: inputs["inboundRules"][2].update(portRange="20-25", sourceAddresses=["0.0.0.0/0"]),
        ),
    ),
    Mistake(
        "ssh from the world on EC2",
        "no-ssh-from-the-world",
        "aws-us-east-2",
        change(INGRESS, lambda inputs: inputs.update(cidrIpv4="0.0.0.0/0"), "ssh"),
    ),
    Mistake(
        "ssh by a group that opens everything",
        "no-ssh-from-the-world",
        "aws-us-east-2",
        lambda graph: added(
            graph,
            "aws:ec2/securityGroup:SecurityGroup",
            {"ingress": [{"protocol": "-1", "fromPort": 0, "toPort": 0, "ipv6CidrBlocks": ["::/0"]}]},
        ),
    ),
    Mistake(
        "ssh as a Service of the cluster",
        "no-ssh-from-the-world",
        "pi-home",
        lambda graph: added(graph, SERVICE, {"spec": {"type": "LoadBalancer", "ports": [{"port": 22}]}}),
    ),
    Mistake(
        "metrics open to the world",
        "only-overlay-ports-public",
        "do-nyc1",
        change(
            FIREWALL,
            lambda inputs: inputs["inboundRules"].append(
                {"protocol": "tcp", "portRange": "9090", "sourceAddresses": ["0.0.0.0/0"]}
            ),
        ),
    ),
    Mistake(
        "a range around the relay's port",
        "only-overlay-ports-public",
        "do-nyc1",
        change(FIREWALL, lambda inputs: inputs["inboundRules"][0].update(portRange="4433-4440")),
    ),
    Mistake(
        "a backend open to the world",
        "only-overlay-ports-public",
        "aws-us-east-2",
        change(INGRESS, lambda inputs: inputs.update(cidrIpv4="0.0.0.0/0"), "backend-http-app"),
    ),
    Mistake("no firewall", "hosts-behind-firewall", "do-nyc1", lambda graph: without(graph, FIREWALL)),
    Mistake(
        "disk not encrypted",
        "volumes-encrypted",
        "aws-us-east-2",
        change(INSTANCE, lambda inputs: inputs["rootBlockDevice"].update(encrypted=False)),
    ),
    Mistake(
        "metadata without a token",
        "imdsv2-required",
        "aws-us-east-2",
        change(INSTANCE, lambda inputs: inputs["metadataOptions"].update(httpTokens="optional")),
    ),
    Mistake(
        "key in user data of the droplet",
        "no-plain-secrets",
        "do-nyc1",
        change(DROPLET, lambda inputs: inputs.update(userData={"<secret>": CLOUD_CONFIG})),
    ),
    Mistake(
        "key in user data of EC2",
        "no-plain-secrets",
        "aws-us-east-2",
        change(INSTANCE, lambda inputs: inputs.update(userData=CLOUD_CONFIG)),
    ),
    Mistake(
        "token in a pod's environment",
        "no-plain-secrets",
        "pi-home",
        container(lambda found: found.update(env=[{"name": "API_TOKEN", "value": "hunter2-hunter2"}])),
    ),
    Mistake(
        "profile in a task's environment",
        "no-plain-secrets",
        "aws-us-east-2",
        tasks(environment=[{"name": "ZTNA_PROFILE", "value": json.dumps({"key_pem": KEY})}]),
    ),
    Mistake(
        "key in a ConfigMap",
        "no-plain-secrets",
        "pi-home",
        change(CONFIG_MAP, lambda inputs: inputs["data"].update({"key.pem": KEY})),
    ),
    Mistake(
        "Secret that is not marked secret",
        "secrets-are-marked",
        "pi-home",
        change(K8S_SECRET, lambda inputs: inputs.update(stringData={"tls.key": KEY})),
    ),
    Mistake(
        "user data with the host key that is not marked secret",
        "secrets-are-marked",
        "do-nyc1",
        change(DROPLET, lambda inputs: inputs.update(userData=f"#cloud-config\nssh_keys:\n  rsa_private: {KEY!r}\n")),
    ),
    Mistake("no tags", "tags-present", "aws-us-east-2", change(INSTANCE, lambda inputs: inputs.pop("tags"))),
    Mistake(
        "droplet without its run",
        "tags-present",
        "do-nyc1",
        change(DROPLET, lambda inputs: inputs.update(tags=["project:ztna", "stack:do-nyc1", "component:relay"])),
    ),
    Mistake(
        "image by tag in the cluster",
        "images-by-digest",
        "pi-home",
        container(lambda found: found.update(image="registry.lan/ztna/app-connector:1.0")),
    ),
    Mistake(
        "image by tag in a task",
        "images-by-digest",
        "aws-us-east-2",
        tasks(image="registry/ztna/app-connector:latest"),
    ),
    Mistake("root in a task", "containers-not-root", "aws-us-east-2", tasks(user="0")),
    Mistake(
        "root in a pod",
        "containers-not-root",
        "pi-home",
        container(lambda found: found["securityContext"].update(runAsNonRoot=False)),
    ),
    Mistake(
        "writable root file system",
        "containers-read-only",
        "pi-home",
        container(lambda found: found["securityContext"].pop("readOnlyRootFilesystem")),
    ),
    Mistake(
        "privileged pod",
        "containers-not-privileged",
        "pi-home",
        container(lambda found: found["securityContext"].update(privileged=True)),
    ),
    Mistake(
        "pod in the host's processes", "containers-not-privileged", "pi-home", pod(lambda s: s.update(hostPID=True))
    ),
    Mistake(
        "capabilities kept",
        "containers-drop-capabilities",
        "pi-home",
        container(lambda found: found["securityContext"].update(capabilities={"drop": ["NET_RAW"]})),
    ),
    Mistake(
        "tags of images can be moved",
        "registries-immutable",
        "aws-us-east-2",
        change(REPOSITORY, lambda inputs: inputs.update(imageTagMutability="MUTABLE")),
    ),
    Mistake(
        "source address rewritten",
        "source-address-kept",
        "pi-home",
        change(SERVICE, lambda inputs: inputs["spec"].pop("externalTrafficPolicy"), "lan"),
    ),
    Mistake(
        "role that may do everything with secrets",
        "rights-are-narrow",
        "aws-us-east-2",
        change(
            ROLE_POLICY,
            lambda inputs: inputs.update(
                policy=json.dumps({"Statement": [{"Effect": "Allow", "Action": "secretsmanager:*", "Resource": "*"}]})
            ),
        ),
    ),
    Mistake(
        "namespace without default deny",
        "namespaces-default-deny",
        "pi-home",
        lambda graph: without(graph, NETWORK_POLICY, "deny"),
    ),
)


@pytest.mark.parametrize("stack", STACKS)
def test_nothing_is_found_in_a_stack(stack: str) -> None:
    report = inspect(preview_graph(stack))
    assert [row for row in report.rows if row.level != "note"] == []
    assert not report.failed


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_planted_mistake_is_found_by_its_rule(mistake: Mistake) -> None:
    graph = mistake.plant(preview_graph(mistake.stack))
    found = check(graph)
    assert mistake.rule in {finding.rule for finding in found}
    for finding in found:
        assert finding.urn in graph.by_urn
        assert finding.message
        assert finding.remedy
        assert "Planted" not in finding.message, "a finding repeats a secret"


def test_every_rule_but_that_of_outputs_has_a_mistake() -> None:
    assert {rule.name for rule in RULES} - {mistake.rule for mistake in MISTAKES} == {"outputs-are-marked"}
    assert len(MISTAKES) >= 12


def test_a_well_made_task_is_found_fault_with_by_no_rule() -> None:
    graph = tasks(environment=[{"name": "ZTNA_LOG_LEVEL", "value": "info"}])(preview_graph("aws-us-east-2"))
    assert check(graph) == []


def test_a_port_meant_to_be_public_is_admitted() -> None:
    open_8443 = change(
        FIREWALL,
        lambda inputs: inputs["inboundRules"].append(
            {"protocol": "tcp", "portRange": "8443", "sourceAddresses": ["0.0.0.0/0"]}
        ),
    )(preview_graph("do-nyc1"))
    assert {finding.rule for finding in check(open_8443)} == {"only-overlay-ports-public"}
    assert check(open_8443, public_ports=[8443]) == []
