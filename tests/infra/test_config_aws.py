"""The aws-us-east-2 stack's configuration: defaults, refusals that say what to do."""

from pathlib import Path

import pytest
import yaml

from infra.config import ConfigError
from infra.config_aws import AWS_KEYS, UBUNTU, AwsConfig, aws_config

PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPDaSPD9Lr8ZqNw4XBHYhSsDzZqGYCqyvXpiYOHuCu3J me@example.org"
DIGEST = "ghcr.io/example/quake@sha256:" + "0" * 64


class Source:
    """A `pulumi.Config` of these values."""

    name = "aws-us-east-2"

    def __init__(self, values: dict[str, str]) -> None:
        self._values = values

    def get(self, key: str) -> str | None:
        """The text of a key."""
        return self._values.get(key)


def read(**values: str) -> AwsConfig:
    """Read a configuration with administrators in it."""
    return aws_config(Source({"adminCidrs": '["203.0.113.0/24"]'} | values))


def test_defaults_are_one_zone_in_ohio_without_a_game() -> None:
    config = read()
    assert (config.region, config.zones) == ("us-east-2", ("us-east-2a",))
    assert (config.instance_type, config.ami_parameter, config.host_generation) == ("t3.micro", UBUNTU, 1)
    assert (config.platforms, config.log_retention_days) == (("linux/amd64",), 14)
    assert (config.ssh_public_keys, config.backends) == ((), {"http-app": 8080})
    assert [(service.id, service.backend) for service in config.overlay.services] == [
        ("http-app", "http-app.ztna.internal:8080")
    ]
    assert [(port.protocol, port.port) for port in config.overlay.services[0].ports] == [("tcp", 80)]


def test_quakekube_is_a_second_backend_and_a_second_service() -> None:
    config = read(quakekube="true", quakekubeImage=DIGEST)
    assert config.backends == {"http-app": 8080, "quakekube": 27960}
    game = config.overlay.services[1]
    assert (game.id, game.backend) == ("quakekube", "quakekube.ztna.internal:27960")
    assert config.quakekube_image == DIGEST
    for image in (None, "quake", "ghcr.io/chrisrx/quake-kube:latest"):
        with pytest.raises(ConfigError, match=r"quakekubeImage is .*: it is not (an image reference|sha256)"):
            read(quakekube="true", **({} if image is None else {"quakekubeImage": image}))


def test_the_ami_parameter_is_canonicals_of_ubuntu_24_04() -> None:
    assert UBUNTU == "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id"


def test_missing_administrators_print_the_yaml_to_add() -> None:
    with pytest.raises(ConfigError) as refused:
        aws_config(Source({}))
    text = str(refused.value)
    assert "aws-us-east-2:adminCidrs is missing" in text
    assert 'aws-us-east-2:adminCidrs: ["203.0.113.0/24"]' in text
    assert "ztna config set --stack aws-us-east-2 aws-us-east-2:adminCidrs" in text


@pytest.mark.parametrize("world", ["0.0.0.0/0", "::/0", "0.0.0.0/1", "2000::/3", '["203.0.113.7/32", "0.0.0.0/0"]'])
def test_ssh_from_the_world_is_refused_with_an_explanation(world: str) -> None:
    with pytest.raises(ConfigError, match="lets the whole internet try SSH") as refused:
        read(adminCidrs=world)
    assert "aws-us-east-2:adminCidrs" in str(refused.value)
    assert "such as your own address as" in str(refused.value)


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("adminCidrs", "[]", "it is empty"),
        ("adminCidrs", "203.0.113.7/8", "is no network"),
        ("region", "ohio", "it is no region, such as us-east-2"),
        ("zones", "us-east-1a", "is no availability zone of us-east-2, such as us-east-2a"),
        ("zones", "[]", "it must be one zone, or two different ones"),
        ("zones", "us-east-2a,us-east-2a", "it must be one zone, or two different ones"),
        ("zones", "us-east-2a,us-east-2b,us-east-2c", "it must be one zone, or two different ones"),
        ("instanceType", "micro", "it is no instance type, such as t3.micro"),
        ("instanceType", "t4g.micro", "it is of an Arm family"),
        ("amiParameter", "ami-0123456789", "differs by region; give the SSM parameter"),
        ("amiParameter", "/my/own", "those begin with /aws/service/"),
        ("hostGeneration", "0", "it must be 1 to"),
        ("platforms", "[]", "give at least linux/amd64"),
        ("platforms", "linux/amd46", "did you mean 'linux/amd64'"),
        ("platforms", "linux/arm64,linux/arm64", "a platform occurs twice"),
        ("logRetentionDays", "10", "it may be 1, 3, 5, 7, 14"),
        ("quakekube", "yes", "it may be true, false"),
        ("sshPublicKeys", "ssh-rsa", "there must be one line of base64"),
        ("sshPublicKeys", "ssh-dss AAAA", "it may be ssh-ed25519"),
        ("agents", "[]", "it is empty"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason_and_the_remedy(key: str, value: str, why: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(**{key: value})
    text = str(refused.value)
    assert text.startswith(f"aws-us-east-2:{key} is ")
    assert why in text
    assert f"ztna config set --stack aws-us-east-2 aws-us-east-2:{key}" in text


def test_zones_are_those_of_the_configured_region() -> None:
    assert read(region="eu-central-1", zones="eu-central-1a,eu-central-1c").zones == ("eu-central-1a", "eu-central-1c")
    with pytest.raises(ConfigError, match="is no availability zone of eu-central-1"):
        read(region="eu-central-1")


def test_keys_of_administrators_are_read_and_a_private_one_is_not_shown() -> None:
    assert read(sshPublicKeys=PUBLIC).ssh_public_keys == (PUBLIC,)
    with pytest.raises(ConfigError, match="holds a private key") as refused:
        read(sshPublicKeys="-----BEGIN OPENSSH PRIVATE KEY-----\nb3Blbn")
    assert "b3Blbn" not in str(refused.value)


def test_examples_of_all_keys_are_accepted() -> None:
    region = {"region": "us-east-2"}  # the example of `zones` is of this one
    aws_config(Source({key.name: key.example.strip("'") for key in AWS_KEYS if key.name != "pkiOverlap"} | region))


def test_the_committed_configuration_knows_only_keys_of_the_table() -> None:
    committed = yaml.safe_load((Path(__file__).parents[2] / "Pulumi.aws-us-east-2.yaml").read_text())["config"]
    assert {name.partition(":")[2] for name in committed} <= {key.name for key in AWS_KEYS}
