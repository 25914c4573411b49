"""The overlay of a cloud stack: every file read back by its role's own reader, and outputs that survive the export."""

import json
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from infra.config import PkiSettings
from infra.config_overlay import OverlaySettings, service_settings
from infra.outputs import PathPrediction, Place, SshAccess, from_exports, to_exports
from infra.overlay import Overlay, PkiMembers
from infra.wiring import STATE_DIR, with_identity
from infra.wiring_macos import MacosApp
from ztna.config import AgentConfig, ConnectorConfig, load_intermediate
from ztna.proto.policy import Policy

SETTINGS = OverlaySettings(
    services=(
        service_settings("echo-service", "127.0.0.1:9999", "udp/9999", "tcp/9999", "icmp"),
        service_settings("web", "10.0.2.7:8080", "tcp/80", "tcp/443", **{"tcp/443": "10.0.2.7:8443"}),
    ),
    agents=("laptop", "phone"),
    run="blue",
    pki=PkiSettings(),
    log_level="debug",
    macos=MacosApp(bundle_id="org.example.ztna"),
)
OVERLAY = Overlay(stack="do-nyc1", run="blue", settings=SETTINGS)
PEMS = {name: f"-----BEGIN {name}-----\n" for name in ("ca_pem", "cert_pem", "key_pem")}


def test_services_and_agents_have_addresses_in_their_order() -> None:
    assert {service.id: service.virtual_ip for service in OVERLAY.services} == {
        "echo-service": "100.64.0.100",
        "web": "100.64.0.101",
    }
    assert {agent.name: agent.virtual_ip for agent in OVERLAY.agents} == {"laptop": "100.64.1.1", "phone": "100.64.1.2"}
    assert OVERLAY.services[1].port_backends == {"tcp/443": "10.0.2.7:8443"}


def test_a_service_may_have_an_address_of_its_own() -> None:
    web = replace(SETTINGS.services[1], virtual_ip=IPv4Address("10.100.0.2"))
    overlay = replace(OVERLAY, settings=replace(SETTINGS, services=(SETTINGS.services[0], web)))
    assert [service.virtual_ip for service in overlay.services] == ["100.64.0.100", "10.100.0.2"]
    services = overlay.agent_config("laptop", "203.0.113.5")["services"]
    assert [service["virtual_ip"] for service in services] == ["100.64.0.100", "10.100.0.2"]


def test_members_are_the_connector_and_the_agents_with_their_grants() -> None:
    granted = ("echo-service", "web")
    assert OVERLAY.members() == PkiMembers(
        connectors={"connector": granted}, agents={"laptop": granted, "phone": granted}, macos=SETTINGS.macos
    )


def test_the_intermediate_reads_its_files(tmp_path: Path) -> None:
    files = OVERLAY.intermediate_files(external_ip="203.0.113.5")
    assert set(files) == {"intermediate.json", "policy.json"}
    path = tmp_path / "intermediate.json"
    path.write_text(files["intermediate.json"].replace(STATE_DIR, str(tmp_path)))
    read = load_intermediate(path)
    assert (read.name, read.stack, read.bind_addr, read.port) == ("relay", "do-nyc1", "0.0.0.0", 4433)
    assert read.external_ip == "203.0.113.5"
    assert (read.alternate_port, read.allow_anonymous_v1, read.log.level) == (None, False, "debug")
    assert (read.relay, read.relay_own_host, read.admin_socket) == ("auto", False, None)
    assert read.tls.certificate is not None
    assert read.tls.certificate.path == tmp_path / "cert.pem"
    policy = Policy.from_json(json.loads(files["policy.json"]))
    assert policy.agent_address("phone") == int(IPv4Address("100.64.1.2"))
    assert policy.agent_address("stranger") is None


def test_the_intermediate_is_told_who_relays_for_whom_and_where_its_socket_is(tmp_path: Path) -> None:
    settings = replace(SETTINGS, relay="userspace")
    overlay = replace(OVERLAY, settings=settings, own_host=True, admin_socket="/run/ztna-intermediate/admin.sock")
    path = tmp_path / "intermediate.json"
    path.write_text(overlay.intermediate_files()["intermediate.json"].replace(STATE_DIR, str(tmp_path)))
    read = load_intermediate(path)
    assert (read.relay, read.relay_own_host) == ("userspace", True)
    assert read.admin_socket == Path("/run/ztna-intermediate/admin.sock")


def test_anonymous_peers_are_let_in_only_when_asked_for(tmp_path: Path) -> None:
    open_settings = OverlaySettings(services=SETTINGS.services, agents=("laptop",), run="blue", allow_anonymous_v1=True)
    overlay = Overlay(stack="do-nyc1", run="blue", settings=open_settings, alternate_port=4434)
    path = tmp_path / "intermediate.json"
    path.write_text(overlay.intermediate_files()["intermediate.json"].replace(STATE_DIR, str(tmp_path)))
    read = load_intermediate(path)
    assert (read.allow_anonymous_v1, read.alternate_port, read.external_ip) == (True, 4434, None)


def test_the_connector_reads_its_file_and_admits_the_services_ports() -> None:
    files = OVERLAY.connector_files("127.0.0.1")
    assert set(files) == {"connector.json"}
    read = ConnectorConfig.from_json(json.loads(files["connector.json"]))
    assert (read.relay.host, read.relay.port, read.relay.server_name) == ("127.0.0.1", 4433, "ztna-server")
    backends = {port.port: port.backend for port in read.services[1].ports or ()}
    assert backends == {80: ("10.0.2.7", 8080), 443: ("10.0.2.7", 8443)}


def test_an_agent_reads_its_profile_and_may_run_without_a_tun_device() -> None:
    config = OVERLAY.agent_config("phone", "203.0.113.5")
    read = AgentConfig.from_json(with_identity(config, **PEMS))
    assert (read.name, read.relay.host, str(read.virtual_ip), read.mode) == (
        "phone",
        "203.0.113.5",
        "100.64.1.2",
        "auto",
    )
    assert {(forward.protocol, forward.service, forward.port) for forward in read.forwards} == {
        ("udp", "echo-service", 9999), ("tcp", "echo-service", 9999), ("tcp", "web", 80), ("tcp", "web", 443),
    }  # fmt: skip
    with pytest.raises(KeyError):
        OVERLAY.agent_config("stranger", "203.0.113.5")


def test_outputs_are_those_of_every_stack_and_survive_the_export() -> None:
    prediction = PathPrediction(
        service="web", connector="connector", peer_nat="none", path="direct", reason="the connector is public"
    )
    outputs = OVERLAY.outputs(
        "203.0.113.5",
        ca_pem="CA",
        profiles={"laptop": "PROFILE"},
        places={"relay": Place(kind="intermediate", address="203.0.113.5")},
        agent_files={"laptop": {"agent.json": "PROFILE", "agent.env": "A=1\n"}},
        ssh=[SshAccess(host="203.0.113.5", port=22, user="root", host_key="ssh-ed25519 AAAA")],
        ssh_private_keys={"203.0.113.5": "SSHKEY"},
        expected_path=[prediction],
        relay_port=4443,
        relay_place="relay",
    )
    assert (outputs.stack, outputs.run, outputs.rung) == ("do-nyc1", "blue", "cloud")
    assert (outputs.relays[0].host, outputs.relays[0].port, outputs.relays[0].place) == ("203.0.113.5", 4443, "relay")
    assert outputs.agent("laptop").profile == "PROFILE"
    assert outputs.agent("phone").profile == ""
    assert outputs.agent("laptop").mode == "tun"
    assert "ZTNA_RELAY_HOST=203.0.113.5\n" in outputs.environment["cloud.env"]
    assert from_exports(json.loads(json.dumps(to_exports(outputs)))) == outputs
