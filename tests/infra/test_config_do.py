"""The do-nyc1 stack's configuration: defaults, refusals that say what to do."""

from typing import Any

import pytest

from infra.config import ConfigError
from infra.config_do import DO_KEYS, DnsSettings, DoConfig, do_config

PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPDaSPD9Lr8ZqNw4XBHYhSsDzZqGYCqyvXpiYOHuCu3J me@example.org"


class Source:
    """A `pulumi.Config` of these values."""

    name = "do-nyc1"

    def __init__(self, values: dict[str, str]) -> None:
        self._values = values

    def get(self, key: str) -> str | None:
        """The text of a key."""
        return self._values.get(key)


def read(**values: str) -> DoConfig:
    """Read a configuration with administrators in it."""
    return do_config(Source({"adminCidrs": '["203.0.113.0/24"]'} | values))


def test_defaults_are_a_small_ubuntu_in_new_york() -> None:
    config = read()
    assert (config.region, config.size, config.image) == ("nyc1", "s-1vcpu-1gb", "ubuntu-24-04-x64")
    assert (config.admin_networks, config.dns, config.admin_keys) == (("203.0.113.0/24",), (), ())
    assert (str(config.vpc_range), config.host_generation, config.overlay.run) == ("10.77.0.0/24", 1, "do-nyc1")
    assert [(service.id, service.backend) for service in config.overlay.services] == [
        ("echo-service", "127.0.0.1:9999"),
        ("http-app", "127.0.0.1:8080"),
    ]
    assert config.backend_tcp_ports == ()


def test_missing_administrators_print_the_yaml_to_add() -> None:
    with pytest.raises(ConfigError) as refused:
        do_config(Source({}))
    text = str(refused.value)
    assert "do-nyc1:adminCidrs is missing" in text
    assert 'do-nyc1:adminCidrs: ["203.0.113.0/24"]' in text
    assert "ztna config set --stack do-nyc1 do-nyc1:adminCidrs '[\"203.0.113.0/24\"]'" in text


@pytest.mark.parametrize("world", ["0.0.0.0/0", "::/0", "0.0.0.0/1", "2000::/3", '["203.0.113.7/32", "0.0.0.0/0"]'])
def test_ssh_from_the_world_is_refused_with_an_explanation(world: str) -> None:
    with pytest.raises(ConfigError, match="lets the whole internet try SSH") as refused:
        read(adminCidrs=world)
    assert "do-nyc1:adminCidrs" in str(refused.value)
    assert "such as your own address as" in str(refused.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"adminCidrs": "[]"}, "without SSH nothing can be released"),
        ({"adminCidrs": "203.0.113.7/33"}, "is no network"),
        ({"vpcRange": "10.244.1.0/24"}, "overlaps 10.244.0.0/16, which DigitalOcean keeps"),
        ({"vpcRange": "10.10.5.0/24"}, "overlaps 10.10.0.0/16"),
        ({"vpcRange": "8.8.8.0/24"}, "must be a private network"),
        ({"vpcRange": "10.0.0.0/8"}, "from /16 to /28"),
        ({"vpcRange": "2001:db8::/64"}, "one IPv4 network"),
        ({"sshPublicKey": "ssh-dss AAAA"}, "it may be ssh-ed25519"),
        ({"sshPublicKey": "ssh-ed25519 short"}, "one line of base64"),
        ({"dnsDomain": "not a domain"}, "is no domain name"),
        ({"dnsName": "a b"}, "is no name within a domain"),
        ({"region": "New York"}, "is no slug"),
        ({"hostGeneration": "0"}, "it must be 1 to"),
        ({"relay": "kernel"}, "where the kernel cannot relay to; use auto or userspace"),
        ({"run": "No Good"}, "not usable as a name"),
    ],
)  # fmt: skip
def test_a_bad_value_is_refused_by_name(values: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        read(**values)
    (key,) = values
    assert f"do-nyc1:{key}" in str(refused.value)
    assert "ztna config set" in str(refused.value)


def test_a_private_key_by_mistake_is_not_repeated_in_the_error() -> None:
    with pytest.raises(ConfigError, match="holds a private key") as refused:
        read(sshPublicKey="-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0c2VjcmV0")
    assert "c2VjcmV0" not in str(refused.value)


def test_administrators_may_be_of_both_ip_versions() -> None:
    config = read(adminCidrs="198.51.100.7/32, 2001:db8:1::/48", sshPublicKey=PUBLIC)
    assert config.admin_networks == ("198.51.100.7/32", "2001:db8:1::/48")
    assert config.admin_keys == (PUBLIC,)


def test_a_record_is_made_of_domain_and_name() -> None:
    assert read(dnsDomain="example.org").dns == (DnsSettings(domain="example.org", name="relay"),)
    assert read(dnsDomain="example.org").dns[0].fqdn == "relay.example.org"
    assert read(dnsDomain="example.org", dnsName="@").dns[0].fqdn == "example.org"


def test_ports_of_backends_elsewhere_are_let_out() -> None:
    services = '[{"id": "db", "backend": "192.0.2.9:5432", "ports": ["tcp/5432", "udp/53"]}]'
    assert read(services=services).backend_tcp_ports == (5432,)


def test_every_example_is_taken_by_its_own_key() -> None:
    for key in DO_KEYS:
        values: dict[str, Any] = {key.name: key.example.strip("'")}
        if key.name == "pkiOverlap":
            values["pkiGeneration"] = "2"
        read(**values)
