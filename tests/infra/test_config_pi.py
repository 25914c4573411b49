"""Configuration of the pi-home stack: what it reads, and how it refuses."""

from ipaddress import IPv4Address
from pathlib import Path

import pytest
import yaml

from infra.config import ConfigError
from infra.config_pi import EXAMPLE_DIGEST, PI_KEYS, PiConfig, pi_config, pi_overlay
from infra.config_tables import CONFIG_KEYS

ROOT = Path(__file__).parents[2]
DIGEST = "sha256:" + "5" * 64
GOOD = {
    "loadBalancerIp": "10.0.150.205",
    "pool": "10.0.150.200-10.0.150.210",
    "registry": "registry.home.arpa:5000",
    "imageDigest": DIGEST,
    "httpDigest": DIGEST,
}


class Source:
    """Values as `pulumi.Config` gives them."""

    def __init__(self, values: dict[str, str]) -> None:
        self.name = "pi-home"
        self._values = values

    def get(self, key: str) -> str | None:
        return self._values.get(key)


def read(**changes: str) -> PiConfig:
    return pi_config(Source(GOOD | changes))


def test_the_committed_example_is_complete_and_says_what_is_only_an_example() -> None:
    values = yaml.safe_load((ROOT / "Pulumi.pi-home.yaml").read_text())["config"]
    config = pi_config(Source({key.removeprefix("pi-home:"): str(value) for key, value in values.items()}))
    assert config.load_balancer_ip == IPv4Address("10.0.150.205")
    assert any("digest is still the example's" in limit for limit in config.limits)


def test_keys_are_registered_for_ztna_config() -> None:
    assert CONFIG_KEYS["pi-home"] == PI_KEYS
    assert len({key.name for key in PI_KEYS}) == len(PI_KEYS)


def test_defaults() -> None:
    config = read()
    assert (config.namespace, config.pool_version, config.quakekube_image) == ("ztna", "v2", None)
    assert (config.kubeconfig, config.context, config.render_dir) == (None, None, None)
    assert config.overlay_image == f"registry.home.arpa:5000/ztna/app-connector@{DIGEST}"
    assert [service.id for service in config.overlay.services] == ["echo-service", "http-app"]
    assert config.overlay.services[0].backend == "echo-server.ztna.svc:9999"


def test_quakekube_brings_its_service_and_wants_an_image() -> None:
    image = f"ghcr.io/chrisrx/quake-kube@{DIGEST}"
    config = read(quakekube="true", quakekubeImage=image)
    game = config.overlay.services[2]
    assert config.quakekube_image == image
    assert game.backend == "quakekube.ztna.svc:27960"
    assert game.port_backends == {"tcp/8080": "quakekube.ztna.svc:8080"}
    with pytest.raises(ConfigError, match="pi-home:quakekubeImage is ''"):
        read(quakekube="true")


@pytest.mark.parametrize(
    ("pool", "block"),
    [
        ("10.0.150.0/24", {"cidr": "10.0.150.0/24"}),
        ("10.0.150.205/32", {"cidr": "10.0.150.205/32"}),
        ("10.0.150.200 - 10.0.150.210", {"start": "10.0.150.200", "stop": "10.0.150.210"}),
    ],
)
def test_a_pool_is_a_cidr_or_a_range(pool: str, block: dict[str, str]) -> None:
    assert read(pool=pool).pool.block == block


def test_an_address_outside_the_pool_is_refused_with_the_command_that_mends_it() -> None:
    with pytest.raises(ConfigError, match=r"not in pi-home:pool.*\n.*pi-home:pool 10\.0\.150\.199/32"):
        read(loadBalancerIp="10.0.150.199")


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("loadBalancerIp", "fe80::1", "not an IPv4 address"),
        ("loadBalancerIp", "127.0.0.1", "no address that a LAN can reach"),
        ("pool", "10.0.0.0/8", "holds 16777216 addresses"),
        ("pool", "10.0.150.9-10.0.150.1", "must hold 1 to"),
        ("pool", "here", "neither a CIDR nor first-last"),
        ("imageDigest", "latest", "a tag can be moved"),
        ("imageDigest", "sha256:abc", "64 hex digits"),
        ("registry", "https://registry.home.arpa", "without https://"),
        ("registry", "registry.home.arpa/", "without a slash at the end"),
        ("interfaces", "eth0", "it is not JSON"),
        ("interfaces", "[]", "not a list of regular expressions"),
        ("interfaces", '["eth["]', "no regular expression"),
        ("nodeSelector", "pi-1", "it is not JSON"),
        ("nodeSelector", '{"kubernetes.io/hostname": 1}', "is not a label"),
        ("namespace", "kube-system", "makes its namespace and destroys it again"),
        ("namespace", "Home", "not beginning or ending"),
        ("ciliumPoolVersion", "v3", "it may be v2, v2alpha1"),
        ("quakekube", "yes", "it may be true, false"),
        ("relay", "kernel", "pods of the stack have no capability"),
    ],
)
def test_bad_values_are_refused_with_the_reason_and_the_remedy(key: str, value: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(**{key: value})
    text = str(caught.value)
    assert why in text
    assert f"pi-home:{key} is {value!r}" in text
    assert f"ztna config set --stack pi-home pi-home:{key}" in text


@pytest.mark.parametrize("key", sorted(GOOD))
def test_a_missing_key_prints_the_yaml_to_add(key: str) -> None:
    with pytest.raises(ConfigError, match=f"Add to Pulumi.pi-home.yaml:\n  config:\n    pi-home:{key}: "):
        pi_config(Source({name: value for name, value in GOOD.items() if name != key}))


def test_limits_name_what_is_left_to_do() -> None:
    assert read(nodeSelector='{"kubernetes.io/hostname": "pi-1"}').limits == ()
    (limit,) = read(imageDigest=EXAMPLE_DIGEST, nodeSelector='{"kubernetes.io/hostname": "pi-1"}').limits
    assert "pi-home:imageDigest" in limit


def test_no_key_changes_the_traffic_policy() -> None:
    assert not [key.name for key in PI_KEYS if "traffic" in key.name.lower()]


def test_the_overlay_has_the_relays_second_stun_port() -> None:
    overlay = pi_overlay("pi-home", read())
    assert (overlay.relay_port, overlay.alternate_port, overlay.relay_name) == (4433, 4434, "intermediate")
