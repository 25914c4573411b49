"""Keys that every cloud stack shares: what is read, and what a bad one makes the user see."""

import json
from dataclasses import dataclass, field
from ipaddress import ip_network

import pytest

from infra.config import ConfigError, PkiSettings, Reader
from infra.config_overlay import (
    OVERLAY_KEYS,
    OverlaySettings,
    ServiceSettings,
    overlay_settings,
    parse_labels,
    parse_networks,
    parse_strings,
    service_settings,
)
from infra.outputs import ServicePort
from infra.wiring_macos import MacosApp

DEFAULT = (service_settings("echo-service", "127.0.0.1:9999", "udp/9999", "tcp/9999", "icmp"),)


@dataclass
class Source:
    """A namespace of configuration, as `pulumi.Config` gives it."""

    values: dict[str, str] = field(default_factory=dict)
    name: str = "do-nyc1"

    def get(self, key: str) -> str | None:
        """Return the text of a key."""
        return self.values.get(key)


def read(**values: str) -> OverlaySettings:
    """Return the settings of a stack with these keys."""
    return overlay_settings(Reader(Source(values), OVERLAY_KEYS), DEFAULT)


def refused(**values: str) -> str:
    """Return the message of the error that these keys make."""
    with pytest.raises(ConfigError) as failure:
        read(**values)
    return str(failure.value)


def test_nothing_has_to_be_set() -> None:
    assert read() == OverlaySettings(services=DEFAULT, agents=("laptop",), run="do-nyc1")
    assert read().pki == PkiSettings(generation=1, leaf_days=90, overlap="none")


def test_services_are_read_in_their_order_with_every_field() -> None:
    text = """[
      {"id": "web", "backend": "10.0.2.7:8080", "ports": ["tcp/80", "tcp/443"],
       "portBackends": {"tcp/443": "10.0.2.7:8443"}},
      {"id": "game", "backend": "game.ztna.local:27960", "ports": ["udp/27960"], "virtualIp": "10.100.0.1"}
    ]"""
    web, game = read(services=text).services
    assert web == ServiceSettings(
        id="web",
        ports=(ServicePort(protocol="tcp", port=80), ServicePort(protocol="tcp", port=443)),
        backend="10.0.2.7:8080",
        port_backends={"tcp/443": "10.0.2.7:8443"},
    )
    assert (game.id, game.backend, str(game.virtual_ip)) == ("game", "game.ztna.local:27960", "10.100.0.1")
    assert service_settings("web", "10.0.2.7:8080", "tcp/80", "tcp/443", **{"tcp/443": "10.0.2.7:8443"}) == web


SERVICE = {"id": "a", "backend": "h:1", "ports": ["tcp/80"]}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "a stack needs at least one service"),
        ({"id": "a"}, "it is not a list"),
        (["a"], "'a' in it is not an object"),
        ([{**SERVICE, "prots": []}], "unknown field 'prots' of a service, did you mean 'ports'"),
        ([{"id": "a", "ports": ["tcp/80"]}], "a service lacks backend"),
        ([{**SERVICE, "ports": []}], "a service lacks ports"),
        ([{**SERVICE, "ports": "tcp/80"}], "ports of 'a' must be a list"),
        ([{**SERVICE, "ports": ["80"]}], "'80' is no port"),
        ([{**SERVICE, "ports": ["tpc/80"]}], "did you mean 'tcp'"),
        ([{**SERVICE, "ports": ["udp/0"]}], "it must be 1 to 65535"),
        ([{**SERVICE, "backend": "10.0.0.1"}], "'10.0.0.1' is no host:port"),
        ([{**SERVICE, "backend": "10.0.0.1:70000"}], "is no host:port"),
        ([{**SERVICE, "backend": "a b:1"}], "is no host:port"),
        ([{**SERVICE, "portBackends": {"tcp/81": "h:1"}}], "has 'tcp/81', which is none of its ports"),
        ([{**SERVICE, "id": "A"}], "service 'A' is not usable as a name"),
        ([SERVICE, SERVICE], "service 'a' occurs twice"),
        ([{**SERVICE, "virtualIp": "10.100.0"}], "virtualIp of 'a' is '10.100.0', which is no IPv4 address"),
        ([{**SERVICE, "virtualIp": "100.64.1.1"}], "which is in 100.64.1.0/24, the range of agents"),
        ([{**SERVICE, "id": f"s{index}"} for index in range(156)], "156 services do not fit"),
    ],
)
def test_a_bad_service_is_explained_with_the_remedy(value: object, words: str) -> None:
    text = refused(services=json.dumps(value))
    assert words in text
    assert "Add to Pulumi.do-nyc1.yaml:\n  config:\n    do-nyc1:services: [{" in text
    assert "ztna config set --stack do-nyc1 do-nyc1:services '[{" in text


@pytest.mark.parametrize("text", ["laptop,phone", "laptop, phone", '["laptop", "phone"]'])
def test_agents_are_a_list_or_words_with_commas(text: str) -> None:
    assert read(agents=text).agents == ("laptop", "phone")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("agents", "laptop,laptop", "name 'laptop' occurs twice"),
        ("agents", "[]", "it is empty"),
        ("agents", ",".join(f"a{index}" for index in range(255)), "255 agents do not fit"),
        ("agents", "[1]", "1 in it is not a text"),
        ("agents", "[", "it is not JSON"),
        ("agents", "Laptop", "name 'Laptop' is not usable as a name"),
        ("agents", "relay", "'relay' is the name of another member of the stack"),
        ("run", "My Run", "run 'My Run' is not usable as a name"),
        ("logLevel", "loud", "it may be debug, info, warning, error"),
        ("relay", "yes", "it may be auto, kernel, userspace, off"),
        ("pkiGeneration", "0", "it must be 1 to"),
        ("pkiOverlap", "agent", "did you mean 'agents'"),
        ("pkiOverlap", "all", "there is no generation before the first"),
        ("leafDays", "826", "it must be 1 to 825"),
        ("allowAnonymousV1", "yes", "it may be true, false"),
        ("macosApp", "ztna", "bundleId is 'ztna', write it like org.example.ztna"),
        ("macosApp", '{"tunnelId": "a.b"}', "bundleId is missing in it"),
        ("macosApp", '{"bundle": "a.b"}', "did you mean 'bundleId'"),
        ("macosApp", '{"bundleId": ', "it is not JSON"),
    ],
)
def test_other_keys_are_checked_too(key: str, value: str, words: str) -> None:
    text = refused(**{key: value})
    assert words in text
    assert f"do-nyc1:{key}" in text


def test_a_rotation_is_two_keys() -> None:
    assert read(pkiGeneration="2", pkiOverlap="agents").pki == PkiSettings(generation=2, overlap="agents")


def test_anonymous_peers_and_the_app_are_as_configured() -> None:
    settings = read(allowAnonymousV1="true", macosApp='{"bundleId": "org.example.a", "caCertPath": "/x/ca.pem"}')
    assert settings.allow_anonymous_v1 is True
    assert settings.macos == MacosApp(bundle_id="org.example.a", ca_cert_path="/x/ca.pem")
    assert read(macosApp="org.example.b").macos.bundle_id == "org.example.b"


def test_every_key_has_help_and_an_example_that_is_accepted() -> None:
    for key in OVERLAY_KEYS:
        assert len(key.help) > 20, key.name
        assert key.default is not None
        more = {"pkiGeneration": "2"} if key.name == "pkiOverlap" else {}
        read(**{key.name: key.example} | more)
        read(**{key.name: key.default})


def test_lists_of_texts_names_and_networks() -> None:
    assert parse_strings("a, b,") == ("a", "b")
    assert parse_strings('["a", "b,c"]') == ("a", "b,c")
    assert parse_labels("a") == ("a",)
    assert parse_networks("203.0.113.7/32, 2001:db8::/64") == (
        ip_network("203.0.113.7/32"),
        ip_network("2001:db8::/64"),
    )
    with pytest.raises(ValueError, match=r"'203\.0\.113\.7/24' in it is no network \(.*host bits set"):
        parse_networks("203.0.113.7/24")
