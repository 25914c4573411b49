"""Configuration files from what a stack knows, each read back by the roles' own reader."""

import json
from pathlib import Path
from typing import Any

import pytest

from infra import wiring
from infra.outputs import AgentOutput, ConnectorOutput, NatOutput, RelayEndpoint, ServiceOutput, ServicePort
from ztna.config import AgentConfig, ConnectorConfig, IntermediateConfig, load_intermediate
from ztna.proto.policy import Policy

RELAY = RelayEndpoint(
    name="relay",
    host="172.20.0.2",
    port=4433,
    server_name="ztna-server",
    alternate_host="172.20.0.3",
    alternate_port=4434,
)
ECHO = ServiceOutput(
    id="echo-service",
    virtual_ip="100.64.0.100",
    ports=(
        ServicePort(protocol="udp", port=9999),
        ServicePort(protocol="tcp", port=9999),
        ServicePort(protocol="icmp", port=0),
    ),
    connector="connector",
    backend="172.22.0.20:9999",
)
HTTP = ServiceOutput(
    id="http-app",
    virtual_ip="100.64.0.101",
    ports=(ServicePort(protocol="tcp", port=80),),
    connector="connector",
    backend="172.22.0.20:8080",
    port_backends={"tcp/80": "172.22.0.20:8080"},
)
CONNECTOR = ConnectorOutput(name="connector", services=("echo-service", "http-app"))
AGENT = AgentOutput(name="agent", virtual_ip="100.64.1.1", services=("echo-service",), mode="tun")
PEMS = {name: f"-----BEGIN {name}-----\n" for name in ("ca_pem", "cert_pem", "key_pem")}


def test_the_intermediate_reads_its_file_beside_its_certificates(tmp_path: Path) -> None:
    config = wiring.intermediate_config("lab", RELAY, log_level="debug", metrics_addr="127.0.0.1")
    path = tmp_path / "intermediate.json"
    path.write_text(json.dumps(config).replace(wiring.STATE_DIR, str(tmp_path)))
    read = load_intermediate(path)
    assert isinstance(read, IntermediateConfig)
    assert (read.name, read.stack, read.bind_addr, read.port) == ("relay", "lab", "172.20.0.2", 4433)
    assert (read.alternate_addr, read.alternate_port) == ("172.20.0.3", 4434)
    assert read.policy_path == tmp_path / "policy.json"
    assert (read.http.port, read.log.level, read.allow_anonymous_v1) == (9090, "debug", False)


def test_the_connector_admits_the_services_ports_and_no_others() -> None:
    config = wiring.connector_config(
        "lab", "connector", RELAY, [ECHO, HTTP], bind_addr="0.0.0.0", log_level="info", metrics_addr="127.0.0.1"
    )
    read = ConnectorConfig.from_json(config)
    assert (read.relay.host, read.relay.port, read.relay.server_name) == ("172.20.0.2", 4433, "ztna-server")
    assert [service.id for service in read.services] == ["echo-service", "http-app"]
    admitted = {
        service.id: [(port.protocol, port.port, str(port.backend)) for port in service.ports or ()]
        for service in read.services
    }
    assert [entry[:2] for entry in admitted["echo-service"]] == [("udp", 9999), ("tcp", 9999)]
    assert [entry[:2] for entry in admitted["http-app"]] == [("tcp", 80)]
    assert "8080" in admitted["http-app"][0][2]


def test_a_profile_is_self_contained_and_names_only_what_the_agent_may_reach() -> None:
    config = wiring.agent_config("lab", AGENT, RELAY, [ECHO, HTTP], log_level="info", metrics_addr="127.0.0.1")
    profile = wiring.with_identity(config, **PEMS)
    assert not [value for value in _texts(profile) if wiring.STATE_DIR in value]
    read = AgentConfig.from_json(profile)
    assert [service.id for service in read.services] == ["echo-service"]
    assert (str(read.virtual_ip), read.mode) == ("100.64.1.1", "tun")


def test_a_connectors_profile_has_no_paths_left() -> None:
    config = wiring.connector_config(
        "lab", "foreign", RELAY, [ECHO], bind_addr="0.0.0.0", log_level="info", metrics_addr="127.0.0.1"
    )
    profile = wiring.with_identity(config, **PEMS)
    assert not {"ca_cert", "cert_path", "key_path"} & profile.keys()
    assert ConnectorConfig.from_json(profile).name == "foreign"


def test_user_mode_forwards_every_port_and_keeps_low_numbers_unprivileged() -> None:
    forwards = wiring.user_forwards([ECHO, HTTP], "127.21.0.10")
    assert forwards == {
        "echo-service/udp/9999": "127.21.0.10:9999",
        "echo-service/tcp/9999": "127.21.0.10:9999",
        "http-app/tcp/80": "127.21.0.10:8080",
    }
    agent = AgentOutput(
        name="agent", virtual_ip="100.64.1.1", services=("echo-service", "http-app"), mode="user", forwards=forwards
    )
    config = wiring.agent_config("lab", agent, RELAY, [ECHO, HTTP], log_level="info", metrics_addr="127.0.0.1")
    read = AgentConfig.from_json(wiring.with_identity(config, **PEMS))
    assert {(forward.protocol, forward.service, forward.port) for forward in read.forwards} == {
        ("udp", "echo-service", 9999),
        ("tcp", "echo-service", 9999),
        ("tcp", "http-app", 80),
    }


def test_the_policy_denies_what_it_does_not_name() -> None:
    text = wiring.policy([ECHO, HTTP], [AGENT], [CONNECTOR], revoked=["spiffe://lab/agent/lost"])
    assert text["agents"] == {"agent": {"virtual_ip": "100.64.1.1", "services": ["echo-service"]}}
    assert text["connectors"] == {"connector": {"services": ["echo-service", "http-app"]}}
    policy = Policy.from_json(text)
    assert policy.agent_address("agent") is not None
    assert policy.agent_address("stranger") is None


ANY, ADDRESS, PORT = "endpoint-independent", "address-dependent", "address-and-port-dependent"


def nat(name: str, mapping: str, filtering: str, *, blocked: bool = False) -> NatOutput:
    return NatOutput(name=name, mapping=mapping, filtering=filtering, public_address="192.0.2.1", udp_blocked=blocked)


@pytest.mark.parametrize(
    ("agent", "connector", "path", "reason"),
    [
        ((ANY, PORT), (ANY, PORT), "direct", "both sides can know"),
        ((ANY, ANY), (PORT, PORT), "direct", "both sides can know"),
        ((ANY, ADDRESS), (PORT, PORT), "direct", "both sides can know"),
        ((ANY, PORT), (PORT, PORT), "relayed", "nat-c maps by destination, and nat-a lets in only ports"),
        ((PORT, PORT), (ANY, PORT), "relayed", "nat-a maps by destination, and nat-c lets in only ports"),
        ((PORT, PORT), (ADDRESS, PORT), "relayed", "nat-a and nat-c both map by destination"),
        (None, (PORT, PORT), "direct", "both sides can know"),
        (None, None, "direct", "both sides can know"),
    ],
)
def test_the_expected_path_follows_from_the_nats(
    agent: tuple[str, str] | None, connector: tuple[str, str] | None, path: str, reason: str
) -> None:
    nats = (agent and nat("nat-a", *agent), connector and nat("nat-c", *connector))
    found = wiring.expected_path("agent", "connector", *nats)
    assert found.path == path
    assert reason in found.reason


@pytest.mark.parametrize(
    ("agent_blocked", "connector_blocked", "reason"),
    [(True, False, "nat-a lets no UDP out"), (True, True, "nat-a and nat-c let no UDP out")],
)
def test_a_network_that_lets_no_udp_out_has_no_path(agent_blocked: bool, connector_blocked: bool, reason: str) -> None:
    nats = (nat("nat-a", ANY, PORT, blocked=agent_blocked), nat("nat-c", ANY, PORT, blocked=connector_blocked))
    found = wiring.expected_path("agent", "connector", *nats)
    assert (found.path, reason in found.reason) == ("none", True)


def test_environment_templates_are_shell_readable_and_hold_no_secret() -> None:
    files = wiring.environment("lab", RELAY, [ECHO, HTTP], [CONNECTOR])
    assert files.keys() == {"cloud.env", "home.env"}
    values = dict(line.split("=", 1) for line in files["home.env"].splitlines() if not line.startswith("#"))
    assert values["ZTNA_SERVER_HOST"] == "172.20.0.2"
    assert values["ZTNA_SERVICES"] == "echo-service,http-app"
    assert values["ZTNA_SERVICE_HTTP_APP_BACKEND"] == "172.22.0.20:8080"
    assert "ZTNA_RELAY_PORT=4433\n" in files["cloud.env"]


def _texts(value: Any) -> list[str]:
    match value:
        case str():
            return [value]
        case dict():
            return [text for item in value.values() for text in _texts(item)]
        case list():
            return [text for item in value for text in _texts(item)]
        case _:
            return []
