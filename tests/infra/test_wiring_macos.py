"""Files of an agent: what the macOS app reads, read back; nothing secret outside agent.json."""

import json
import plistlib
import shlex
from typing import Any

import pytest

from infra.wiring_macos import MacosApp, agent_files, agent_plist, mobileconfig, provider_configuration

PROFILE: dict[str, Any] = {
    "name": "laptop",
    "stack": "pi-home",
    "intermediate_server": {"host": "10.0.150.205", "port": 4433, "server_name": "ztna-server"},
    "services": [
        {"id": "echo-service", "virtual_ip": "100.64.0.100"},
        {"id": "http-app", "virtual_ip": "100.64.0.101"},
    ],
    "virtual_ip": "100.64.1.1",
    "mode": "auto",
    "forwards": [
        {"protocol": "tcp", "listen": "127.0.0.1:8080", "service": "http-app", "port": 80},
    ],
    "verify_peer": True,
    "ca_cert_pem": "CA\n",
    "cert_pem": "CERT\n",
    "key_pem": "KEY-OF-LAPTOP\n",
}
APP = MacosApp(
    bundle_id="org.example.ztna",
    tunnel_id="org.example.ztna.tunnel",
    designated_requirement='identifier "org.example.ztna.tunnel" and anchor apple generic',
)
READ_BY_THE_APP = {"serverHost", "serverPort", "serviceId", "services", "verifyPeer", "caCertPath"}


def test_the_plist_holds_the_six_keys_that_the_app_reads() -> None:
    read = plistlib.loads(agent_plist(PROFILE).encode())
    assert read == {
        "serverHost": "10.0.150.205",
        "serverPort": 4433,
        "serviceId": "echo-service",
        "services": [
            {"id": "echo-service", "virtualIp": "100.64.0.100"},
            {"id": "http-app", "virtualIp": "100.64.0.101"},
        ],
        "verifyPeer": True,
        "caCertPath": "/Library/Application Support/ztna/pi-home-ca.pem",
    }
    assert set(read) == READ_BY_THE_APP


def test_the_ca_lies_where_the_app_can_read_it() -> None:
    app = MacosApp(ca_cert_path="/Users/Shared/ca.pem")
    assert provider_configuration(PROFILE, app)["caCertPath"] == "/Users/Shared/ca.pem"


def test_the_profile_is_a_packet_tunnel_of_the_app() -> None:
    read = plistlib.loads(mobileconfig(PROFILE, APP).encode())
    assert (read["PayloadType"], read["PayloadVersion"]) == ("Configuration", 1)
    assert read["PayloadIdentifier"] == "ztna.pi-home.laptop"
    (vpn,) = read["PayloadContent"]
    assert (vpn["PayloadType"], vpn["VPNType"], vpn["VPNSubType"]) == ("com.apple.vpn.managed", "VPN", APP.bundle_id)
    assert vpn["VPN"] == {
        "RemoteAddress": "10.0.150.205",
        "ProviderType": "packet-tunnel",
        "ProviderBundleIdentifier": APP.tunnel_id,
        "ProviderDesignatedRequirement": APP.designated_requirement,
    }
    assert vpn["VendorConfig"] == provider_configuration(PROFILE, APP)
    assert vpn["UserDefinedName"] == "ztna pi-home (laptop)"


@pytest.mark.parametrize("payload", ["Configuration", "com.apple.vpn.managed"])
def test_every_payload_has_the_keys_that_apple_demands(payload: str) -> None:
    read = plistlib.loads(mobileconfig(PROFILE).encode())
    found = {item["PayloadType"]: item for item in (read, *read["PayloadContent"])}[payload]
    assert found.keys() >= {"PayloadType", "PayloadVersion", "PayloadIdentifier", "PayloadUUID", "PayloadDisplayName"}
    if payload != "Configuration":
        assert found.keys() >= {"UserDefinedName", "VPNType", "VPNSubType", "VPN"}
        assert "ProviderBundleIdentifier" not in found["VPN"], "an app with one tunnel needs none"


def test_installing_it_again_replaces_it_and_another_agents_does_not() -> None:
    def uuids(profile: dict[str, Any]) -> list[str]:
        read = plistlib.loads(mobileconfig(profile).encode())
        return [read["PayloadUUID"], read["PayloadContent"][0]["PayloadUUID"]]

    assert mobileconfig(PROFILE) == mobileconfig(PROFILE)
    moved = {**PROFILE, "intermediate_server": {**PROFILE["intermediate_server"], "host": "192.0.2.1"}}
    assert uuids(moved) == uuids(PROFILE)
    assert len({*uuids(PROFILE), *uuids({**PROFILE, "name": "phone"})}) == 4


def test_the_environment_names_every_address_and_is_readable_by_a_shell() -> None:
    text = agent_files(PROFILE)["agent.env"]
    values = dict(line.split("=", 1) for line in text.splitlines() if not line.startswith("#"))
    assert values == {
        "ZTNA_STACK": "pi-home",
        "ZTNA_AGENT": "laptop",
        "ZTNA_AGENT_VIRTUAL_IP": "100.64.1.1",
        "ZTNA_SERVER_HOST": "10.0.150.205",
        "ZTNA_SERVER_PORT": "4433",
        "ZTNA_SERVER_NAME": "ztna-server",
        "ZTNA_SERVICES": "echo-service,http-app",
        "ZTNA_SERVICE_ECHO_SERVICE_VIRTUAL_IP": "100.64.0.100",
        "ZTNA_SERVICE_HTTP_APP_VIRTUAL_IP": "100.64.0.101",
        "ZTNA_FORWARD_HTTP_APP_TCP_80": "127.0.0.1:8080",
    }
    assert all(shlex.split(value) == [value] for value in values.values())


def test_only_agent_json_holds_the_key() -> None:
    files = agent_files(PROFILE, APP)
    assert set(files) == {"agent.json", "agent.env", "agent.plist", "agent.mobileconfig", "ca.pem"}
    assert [name for name, text in files.items() if "KEY-OF-LAPTOP" in text] == ["agent.json"]
    assert json.loads(files["agent.json"]) == PROFILE
    assert files["ca.pem"] == "CA\n"
