"""Arguments of real SDKs checked without their plugins: what is refused, what is not, and what messages say."""

import sys
from typing import Any

import pytest

from infra.engine.argcheck import Report, check
from infra.engine.props import ARCHIVE_SIG, ASSET_SIG, RESOURCE_SIG, SIG, UNKNOWN, secret
from infra.engine.sdkschema import Enumeration, Fields, Sdk, find_sdk

INSTANCE = "aws:ec2/instance:Instance"
DROPLET = "digitalocean:index/droplet:Droplet"
DEPLOYMENT = "kubernetes:apps/v1:Deployment"
IMAGE = "docker-build:index:Image"
KEY = "tls:index/privateKey:PrivateKey"
# Of the SDK's tokens those that are no resources of the provider.
COMPONENTS = {f"kubernetes:{name}" for name in ("helm.sh/v4:Chart", "kustomize/v2:Directory", "yaml/v2:ConfigFile")} | {
    "kubernetes:yaml/v2:ConfigGroup"
}
GOOD_DROPLET = {"image": "ubuntu-24-04-x64", "region": "nyc1", "size": "s-1vcpu-1gb"}


def sdk(package: str) -> Sdk:
    """The SDK beside the interpreter of the tests."""
    found = find_sdk(package, sys.executable)
    assert found is not None, f"install pulumi-{package}"
    return found


def checked(token: str, **inputs: Any) -> Report:
    """The report on a resource's inputs."""
    package = token.removeprefix("pulumi:providers:").split(":")[0]
    return check(sdk(package), token, inputs)


def failures(token: str, **inputs: Any) -> dict[str, str]:
    """What is refused, by property."""
    return {item.property: item.reason for item in checked(token, **inputs).failures}


def test_an_unknown_argument_names_the_one_that_was_meant() -> None:
    assert failures(INSTANCE, instancType="t3.micro") == {
        "instancType": "Instance has no argument 'instancType' (did you mean 'instanceType'?)"
    }


def test_an_unknown_nested_argument_is_named_by_its_path() -> None:
    found = failures(DROPLET, **GOOD_DROPLET, backupPolicy={"hourr": 4})
    assert found == {"backupPolicy.hourr": "DropletBackupPolicy has no argument 'hourr' (did you mean 'hour'?)"}


@pytest.mark.parametrize(
    ("token", "inputs", "path", "reason"),
    [
        (DROPLET, {**GOOD_DROPLET, "image": 3}, "image", "must be a string, not the number 3"),
        (INSTANCE, {"rootBlockDevice": {"encrypted": "yes"}}, "rootBlockDevice.encrypted", 'not the string "yes"'),
        (INSTANCE, {"rootBlockDevice": "big"}, "rootBlockDevice", "must be an object InstanceRootBlockDevice"),
        (INSTANCE, {"vpcSecurityGroupIds": "sg-1"}, "vpcSecurityGroupIds", 'must be a list, not the string "sg-1"'),
        (INSTANCE, {"vpcSecurityGroupIds": [1]}, "vpcSecurityGroupIds[0]", "must be a string, not the number 1"),
        (INSTANCE, {"tags": {"run": 5}}, "tags.run", "must be a string, not the number 5"),
        (INSTANCE, {"cpuOptions": {"coreCount": 1.5}}, "cpuOptions.coreCount", "must be a whole number"),
        (DEPLOYMENT, {"spec": {"replicas": "two"}}, "spec.replicas", 'must be a whole number, not the string "two"'),
        (DEPLOYMENT, {"spec": {}, "kind": "Pod"}, "kind", "must be 'Deployment'"),
        (KEY, {"algorithm": "RSA", "rsaBits": True}, "rsaBits", "must be a whole number, not the boolean true"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(token: str, inputs: dict[str, Any], path: str, reason: str) -> None:
    assert reason in failures(token, **inputs)[path]


def test_what_is_required_is_missed_at_every_depth() -> None:
    assert "size" in failures(DROPLET, image="ubuntu-24-04-x64")
    assert failures(KEY) == {"algorithm": "PrivateKey needs it (a string), it is missing"}
    assert "PodTemplateSpec" in failures(DEPLOYMENT, spec={"selector": {}})["spec.template"]


def test_a_value_that_is_not_in_a_closed_enum_is_refused() -> None:
    found = failures(IMAGE, push=True, platforms=["linux/amd46"])
    assert "did you mean 'linux/amd64'?" in found["platforms[0]"]
    assert failures(IMAGE, push=True, platforms=["linux/amd64"], context={"location": "."}) == {}


def test_a_value_that_an_open_enum_does_not_know_is_a_warning() -> None:
    report = checked(DROPLET, **{**GOOD_DROPLET, "region": "nyc11"})
    assert report.failures == []
    assert "'nyc11' is none of the values of Region that are known (did you mean 'nyc1'?)" in report.warnings[0]
    assert checked(DROPLET, **GOOD_DROPLET).warnings == []


def test_unknown_values_and_values_left_out_are_not_judged() -> None:
    assert failures(DROPLET, **{**GOOD_DROPLET, "image": UNKNOWN, "sshKeys": [UNKNOWN], "backupPolicy": None}) == {}
    assert failures(DEPLOYMENT, spec=UNKNOWN) == {}
    assert "size" in failures(DROPLET, image="x", size=None)


def test_a_secret_is_judged_and_never_repeated() -> None:
    found = failures(INSTANCE, userData=secret(["hunter2"]), ami=secret("ami-1"))
    assert found == {"userData": "must be a string, not a secret list"}


def test_strings_may_be_resources_and_assets_are_told_from_text() -> None:
    assert failures(INSTANCE, subnetId={SIG: RESOURCE_SIG, "urn": "u", "id": "subnet-1"}) == {}
    function = {"role": "arn:aws:iam::1:role/r"}
    assert failures("aws:lambda/function:Function", **function, code={SIG: ARCHIVE_SIG, "path": "x"}) == {}
    assert "code" in failures("aws:lambda/function:Function", **function, code={SIG: ASSET_SIG, "path": "x"})
    assert "code" in failures("aws:lambda/function:Function", **function, code="x.zip")


def test_a_union_takes_each_of_its_types() -> None:
    port = {"port": 80, "targetPort": "http"}
    for target in ("http", 8080):
        port["targetPort"] = target
        assert failures("kubernetes:core/v1:Service", spec={"ports": [port]}) == {}
    assert "spec.ports[0].targetPort" in failures(
        "kubernetes:core/v1:Service", spec={"ports": [{**port, "targetPort": True}]}
    )


def test_a_type_that_the_sdk_lacks_is_refused_except_custom_resources_of_a_cluster() -> None:
    (failure,) = checked("aws:ec2/vpc:Vcp").failures
    assert "did you mean 'aws:ec2/vpc:Vpc'?" in failure.reason
    report = checked("kubernetes:cilium.io/v2:CiliumLoadBalancerIPPool", spec={})
    assert (report.failures, report.known) == ([], False)


def test_provider_configuration_travels_as_text() -> None:
    token = "pulumi:providers:kubernetes"
    assert failures(token, enableServerSideApply="true", version="4.0.0", kubeconfig=secret("x")) == {}
    assert "enableServerSideApply" in failures(token, enableServerSideApply="perhaps")
    assert "regoin" in failures("pulumi:providers:aws", regoin="us-east-2")
    assert failures("pulumi:providers:aws", defaultTags='{"tags": {"a": "b"}}') == {}
    assert "defaultTags.tags.a" in failures("pulumi:providers:aws", defaultTags='{"tags": {"a": 1}}')


@pytest.mark.parametrize("package", ["aws", "digitalocean", "kubernetes", "tls", "docker-build"])
def test_every_resource_of_every_sdk_is_understood(package: str) -> None:
    # All of four SDKs; of the largest, the services that the stacks use.
    services = ("ec2/", "ecs/", "ecr/", "lb/", "iam/", "cloudwatch/", "secretsmanager/", "servicediscovery/", "ssm/")
    found = sdk(package)
    tokens = [
        token for token in found.tokens if package != "aws" or token.startswith(tuple(f"aws:{s}" for s in services))
    ]
    assert tokens
    seen: set[tuple[str, str]] = set()

    def walk(type_: Any) -> None:
        if not isinstance(type_, list) or type_[0] == "literal":
            return
        if type_[0] != "ref":
            for inner in type_[1:]:
                walk(inner)
        elif (type_[1], type_[2]) not in seen:
            seen.add((type_[1], type_[2]))
            target = found.resolve(type_)
            if type_[2].endswith("Args"):
                assert isinstance(target, Fields), type_
            if isinstance(target, Fields):
                for inner in target.fields.values():
                    walk(inner.type)
            elif isinstance(target, Enumeration):
                assert target.values, type_

    for token in tokens:
        arguments = found.arguments(token)
        if token in COMPONENTS:
            continue
        assert arguments is not None, token
        for item in arguments.fields.values():
            walk(item.type)


def test_outputs_are_known_by_name() -> None:
    assert {"privateKeyPem", "publicKeyOpenssh"} <= set(sdk("tls").outputs(KEY))
    assert sdk("aws").results("aws:ec2/getAmi:getAmi")["id"] == "str"
    assert sdk("aws").outputs("aws:ec2/vpc:Vcp") == ()


def test_an_sdk_that_is_not_installed_is_none() -> None:
    assert find_sdk("gcp", sys.executable) is None
