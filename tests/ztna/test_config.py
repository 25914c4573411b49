"""Config files: defaults, legacy keys, and errors that name the key, the value and the remedy."""

import json
from pathlib import Path
from typing import Any

import pytest

from ztna.config import (
    AgentConfig,
    ConfigError,
    ConnectorConfig,
    IntermediateConfig,
    PortConfig,
    load_agent,
    load_connector,
    load_intermediate,
)

PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
KEY = "-----BEGIN PRIVATE KEY-----\nSECRET\n-----END PRIVATE KEY-----\n"
SERVER: dict[str, Any] = {"cert_path": "c.pem", "key_path": "k.pem", "ca_cert_path": "ca.pem"}
CONNECTOR: dict[str, Any] = {
    "intermediate_server": {"host": "192.0.2.1", "port": 4433},
    "services": [{"id": "echo-service", "virtual_ip": "100.64.0.100", "backend": "172.22.0.20:9999"}],
    "ca_cert": "ca.pem",
}
AGENT: dict[str, Any] = {
    "intermediate_server": {"host": "192.0.2.1", "port": 4433},
    "services": [{"id": "http-app", "virtual_ip": "100.64.0.101"}],
    "ca_cert": "ca.pem",
}


def test_intermediate_defaults() -> None:
    config = IntermediateConfig.from_json(SERVER, base=Path("/etc/ztna"))
    assert (config.bind_addr, config.port, config.alternate_port) == ("0.0.0.0", 4433, 4434)
    assert (config.http.addr, config.http.port, config.http.is_loopback) == ("127.0.0.1", 9090, True)
    assert config.tls.verify_peer
    assert not config.allow_anonymous_v1
    assert not config.disable_retry
    assert config.tls.key is not None
    assert config.tls.key.path == Path("/etc/ztna/k.pem")
    assert config.stack is None


def test_relay_of_an_intermediate() -> None:
    config = IntermediateConfig.from_json(SERVER, base=Path("/etc/ztna"))
    found = (config.relay, config.relay_workers, config.relay_own_host, config.admin_socket)
    assert found == ("auto", 0, False, None)
    given = {"relay": "userspace", "relay_workers": 2, "relay_own_host": True, "admin_socket": "a.sock"}
    config = IntermediateConfig.from_json(SERVER | given, base=Path("/etc/ztna"))
    found = (config.relay, config.relay_workers, config.relay_own_host, config.admin_socket)
    assert found == ("userspace", 2, True, Path("/etc/ztna/a.sock"))
    for wrong in ({"relay": "yes"}, {"relay_workers": 65}, {"relay_workers": -1}, {"admin_socket": ""}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            IntermediateConfig.from_json(SERVER | wrong)


def test_intermediate_with_every_key() -> None:
    config = IntermediateConfig.from_json(
        {
            "name": "relay",
            "stack": "lab",
            "bind_addr": "172.20.0.2",
            "port": 4433,
            "external_ip": None,
            "alternate_port": 4434,
            "alternate_addr": "172.20.0.3",
            "cert_pem": PEM,
            "key_pem": KEY,
            "ca_cert_pem": PEM,
            "verify_peer": True,
            "require_client_cert": True,
            "allow_anonymous_v1": False,
            "disable_retry": False,
            "policy_path": "/run/policy.json",
            "metrics_addr": "127.0.0.1",
            "metrics_port": 0,
            "log_level": "debug",
            "log_format": "json",
            "limits": {"half_open": 64, "retry_rate": 2.5},
        },
        base=Path("/etc"),
    )
    assert config.tls.certificate is not None
    assert config.tls.certificate.read() == PEM
    assert config.policy_path == Path("/run/policy.json")
    assert config.limits == {"half_open": 64, "retry_rate": 2.5}
    assert "SECRET" not in repr(config)


def test_connector_with_ports_and_legacy_names() -> None:
    config = ConnectorConfig.from_json(
        {
            "intermediate_server": {"host": "relay.example", "port": 4433, "server_name": None},
            "services": [
                {
                    "id": "http-app",
                    "virtual_ip": "100.64.0.101",
                    "backend": "172.22.0.20:8080",
                    "protocol": "any",
                    "ports": [{"protocol": "tcp", "port": 80, "backend": "[2001:db8::1]:8080"}],
                }
            ],
            "p2p": {"cert": "p2p.pem", "key": "p2p-key.pem", "port": 4435},
            "ca_cert": "ca.pem",
            "verify_peer": True,
            "metrics_port": 9191,
        },
        base=Path("/etc/ztna"),
    )
    assert config.services[0].ports == (PortConfig(protocol="tcp", port=80, backend=("2001:db8::1", 8080)),)
    assert config.relay.server_name is None
    assert config.p2p.port == 4435
    assert config.p2p.certificate is not None
    assert config.p2p.certificate.path == Path("/etc/ztna/p2p.pem")
    assert config.http.port == 9191


def test_one_connector_service_needs_no_address_but_several_do() -> None:
    one = {**CONNECTOR, "services": [{"id": "a", "backend": "127.0.0.1:1"}]}
    assert ConnectorConfig.from_json(one).services[0].virtual_ip is None
    two = {**CONNECTOR, "services": [{"id": "a", "backend": "127.0.0.1:1"}, {"id": "b", "backend": "127.0.0.1:2"}]}
    with pytest.raises(ConfigError, match="services: several services need a virtual_ip each"):
        ConnectorConfig.from_json(two)


def test_agent_profile_of_a_provider() -> None:
    config = AgentConfig.from_json(
        {
            "serverHost": "192.0.2.1",
            "serverPort": 4433,
            "serviceId": "echo-service",
            "services": [{"id": "web-app", "virtualIp": "10.100.0.2"}],
            "verifyPeer": True,
            "caCertPath": "/etc/ca.pem",
        }
    )
    assert (config.relay.host, config.relay.port, config.relay.server_name) == ("192.0.2.1", 4433, "ztna-server")
    assert [service.id for service in config.services] == ["echo-service", "web-app"]
    assert config.tls.ca is not None
    assert config.tls.ca.path == Path("/etc/ca.pem")


def test_agent_with_every_key() -> None:
    config = AgentConfig.from_json(
        {
            **AGENT,
            "name": "laptop",
            "stack": "lab",
            "virtual_ip": "100.64.1.1",
            "mode": "user",
            "tun": {"name": "ztna1", "mtu": None},
            "forwards": [{"protocol": "tcp", "listen": "127.0.0.1:8080", "service": "http-app", "port": 80}],
            "dns": {"listen": "127.0.0.1:5353"},
            "cert_pem": PEM,
            "key_pem": KEY,
        }
    )
    assert config.forwards[0].listen == ("127.0.0.1", 8080)
    assert config.dns is not None
    assert config.dns.listen == ("127.0.0.1", 5353)
    assert config.tun.name == "ztna1"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"bind_adr": "0.0.0.0"}, "bind_adr: unknown key; did you mean 'bind_addr'?"),
        ({"zzz": 1}, "zzz: unknown key; known keys: admin_socket, allow_anonymous_v1, "),
        ({"port": "4433"}, 'port: "4433" is not a port; write a number from 0 to 65535 without quotes'),
        ({"port": 70000}, "port: 70000 is not a port"),
        ({"port": True}, "port: true is not a port"),
        ({"bind_addr": "localhost"}, 'bind_addr: "localhost" is not an IP address'),
        ({"verify_peer": "yes"}, 'verify_peer: "yes" is not true or false (without quotes)'),
        ({"verify_peer": False}, "verify_peer: false asks no client for a certificate"),
        ({"allow_anonymous_v1": True, "require_client_cert": True}, "require_client_cert: true contradicts"),
        ({"ca_cert": "x.pem"}, "ca_cert: says the same as 'ca_cert_path'; keep one of them"),
        ({"cert_pem": PEM}, "cert_pem: says the same as 'cert_path'; keep one of them"),
        ({"cert_path": None}, "cert_path: missing; key_path needs it"),
        ({"cert_path": None, "key_path": None}, "cert_path: missing; a server needs cert_path and key_path"),
        ({"ca_cert_path": None}, "ca_cert_path: missing; the stack's CA is the only one trusted"),
        ({"ca_cert_path": None, "ca_cert_pem": "x"}, "ca_cert_pem: is not PEM text"),
        ({"log_level": "inf"}, "log_level: \"inf\" is not one of debug, info, warning, error; did you mean 'info'?"),
        ({"limits": {"half_open": 0}}, "limits.half_open: 0 is not a positive number"),
        ({"limits": 3}, "limits: 3 is not an object of numbers"),
        ({"alternate_port": 4433}, "alternate_port: 4433 is the port itself"),
        ({"alternate_addr": "192.0.2.9", "alternate_port": None}, "alternate_addr: needs alternate_port too"),
        ({"name": ""}, 'name: "" is not a non-empty string'),
    ],
)
def test_intermediate_errors(change: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigError) as caught:
        IntermediateConfig.from_json({**SERVER, **change}, where="i.json")
    assert str(caught.value).startswith(f"i.json: {error}")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"intermediate_server": None}, "intermediate_server: missing; write"),
        ({"intermediate_server": {"port": 1}}, "intermediate_server.host: missing; it is required"),
        (
            {"intermediate_server": {"host": "a", "prt": 1}},
            "intermediate_server.prt: unknown key; did you mean 'port'?",
        ),
        ({"intermediate_server": {"host": "a", "server_name": 3}}, "intermediate_server.server_name: must be a name"),
        ({"intermediate_server": "a:1"}, 'intermediate_server: must be an object {...}, not "a:1"'),
        ({"services": []}, "services: is empty"),
        ({"services": {}}, "services: {} is not a list [...]"),
        ({"services": [{"id": "a"}]}, "services[0].backend: missing; write host:port"),
        ({"services": [{"id": "a", "backend": "b"}]}, 'services[0].backend: "b" is not host:port; write one like'),
        ({"services": [{"id": "a", "backend": "b:0"}]}, 'services[0].backend: "b:0" is not host:port'),
        ({"services": [{"id": "a", "backend": "1:2:3"}]}, 'services[0].backend: "1:2:3" is not host:port'),
        ({"services": [{"id": "a" * 256, "backend": "b:1"}]}, "services[0].id: is 256 bytes long"),
        ({"services": [CONNECTOR["services"][0]] * 2}, "services[1].id: 'echo-service' is listed twice"),
        (
            {"services": [{"id": "a", "ports": [{"protocol": "sctp", "port": 1, "backend": "b:1"}]}]},
            'services[0].ports[0].protocol: "sctp" is not one of tcp, udp',
        ),
        (
            {"services": [{"id": "a", "ports": [{"protocol": "tcp", "port": 1, "backend": "b:1"}] * 2}]},
            "services[0].ports[1].port: tcp 1 is listed twice",
        ),
        ({"p2p": {"cert": "x"}}, "p2p.key: missing; cert needs it"),
        ({"cert_path": "x"}, "key_path: missing; cert_path needs it"),
    ],
)
def test_connector_errors(change: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ConnectorConfig.from_json({**CONNECTOR, **change}, where="c.json")
    assert str(caught.value).startswith(f"c.json: {error}")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"mode": "tunn"}, "mode: \"tunn\" is not one of auto, tun, user; did you mean 'tun'?"),
        ({"tun": {"name": "much-too-long-name"}}, "tun.name: 'much-too-long-name' is not an interface name"),
        ({"tun": {"mtu": 100}}, "tun.mtu: 100 is not an integer from 576 to 9000"),
        ({"virtual_ip": "2001:db8::1"}, 'virtual_ip: "2001:db8::1" is not an IPv4 address'),
        ({"forwards": [{"listen": "a:1", "service": "http", "port": 80}]}, 'forwards[0].service: "http" is not one of'),
        ({"dns": {"listen": 53}}, "dns.listen: 53 is not host:port"),
        ({"serverHost": "x"}, "serverHost: says the same as 'intermediate_server'"),
        ({"services": None}, "services: missing or empty"),
    ],
)
def test_agent_errors(change: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigError) as caught:
        AgentConfig.from_json({**AGENT, **change}, where="a.json")
    assert str(caught.value).startswith(f"a.json: {error}")


def test_error_does_not_show_a_private_key() -> None:
    with pytest.raises(ConfigError) as caught:
        IntermediateConfig.from_json({**SERVER, "port": KEY})
    assert "SECRET" not in str(caught.value)


def test_files_are_read_relative_to_themselves(tmp_path: Path) -> None:
    for name, loader, value in (
        ("i.json", load_intermediate, SERVER),
        ("c.json", load_connector, CONNECTOR),
        ("a.json", load_agent, AGENT),
    ):
        path = tmp_path / name
        path.write_text(json.dumps(value))
        config = loader(path)
        assert config.tls.ca is not None
        assert config.tls.ca.path == tmp_path / "ca.pem"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{", "line 1 column 2: not valid JSON"),
        ("[]", "the file must hold one JSON object, not []"),
        ('{"port": 1, "port": 2}', "port: given twice in one object; keep one"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_files_that_are_no_json_object(tmp_path: Path, text: str, error: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_agent(path)
    assert str(caught.value).startswith(f"{path}: {error}")


def test_missing_file_names_the_option(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--config: there is no file .*/x\.json; check the path$"):
        load_agent(tmp_path / "x.json")
