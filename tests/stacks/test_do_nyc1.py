"""The do-nyc1 stack: what it declares, told from a preview, and what it promises, told from a recorder."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra import ports
from infra.config import ConfigError
from infra.config_do import DO_KEYS
from infra.graph import UNKNOWN, Graph, Node
from infra.outputs import SECRET_KEYS, StackOutputs, to_exports
from stacks import do_nyc1
from tests.docs.pages import tables
from tests.support.pulumi_mocks import Recorder, record

ROOT = Path(__file__).parents[2]
STACK = "do-nyc1"
SECRET = "4dabf18193072939515e22adb298388d"
ADMINS = "203.0.113.0/24"
ANYWHERE = ["0.0.0.0/0", "::/0"]

COUNTS = {
    "digitalocean:index/droplet:Droplet": 1,
    "digitalocean:index/firewall:Firewall": 1,
    "digitalocean:index/reservedIp:ReservedIp": 1,
    "digitalocean:index/reservedIpAssignment:ReservedIpAssignment": 1,
    "digitalocean:index/sshKey:SshKey": 1,
    "digitalocean:index/vpc:Vpc": 1,
    "pulumi-python:dynamic/host:Release": 1,
    "pulumi:pulumi:Stack": 1,
    "tls:index/certRequest:CertRequest": 3,
    "tls:index/locallySignedCert:LocallySignedCert": 3,
    "tls:index/privateKey:PrivateKey": 7,
    "tls:index/selfSignedCert:SelfSignedCert": 1,
    "ztna:components:DoAddress": 1,
    "ztna:components:DoCutover": 1,
    "ztna:components:DoFirewall": 1,
    "ztna:components:DoNetwork": 1,
    "ztna:components:DoRelay": 1,
    "ztna:components:Pki": 1,
    "ztna:components:RelayHost": 1,
    "ztna:components:SshKeys": 1,
}
"""Type x count: 7 keys are one of the CA, 3 of members, 3 of SSH."""

KEY_PROPERTIES: dict[str, dict[str, Any]] = {
    "relay-droplet-1": {
        "name": "ztna-relay",
        "region": "nyc1",
        "size": "s-1vcpu-1gb",
        "image": "ubuntu-24-04-x64",
        "ipv6": True,
        "monitoring": True,
        "dropletAgent": False,
        "resizeDisk": False,
        "tags": ["project:ztna", "stack:do-nyc1", "run:do-nyc1", "component:relay"],
    },
    "network-vpc": {"region": "nyc1", "ipRange": "10.77.0.0/24"},
    "address-reserved": {"region": "nyc1"},
    "keys-admin": {"algorithm": "ED25519"},
    "keys-bootstrap": {"algorithm": "ED25519"},
    "keys-permanent": {"algorithm": "ED25519"},
    "pki-ca-g1": {"isCaCertificate": True, "validityPeriodHours": 87600},
    "pki-relay-g1": {"validityPeriodHours": 2160, "allowedUses": ["digital_signature", "server_auth"]},
    "pki-connector-g1": {"allowedUses": ["digital_signature", "client_auth", "server_auth"]},
    "pki-laptop-g1": {"allowedUses": ["digital_signature", "client_auth"]},
    "pki-relay-g1-request": {"dnsNames": ["ztna-server", "relay"], "uris": ["spiffe://do-nyc1/intermediate/relay"]},
    "host-1-release": {"user": "root", "port": 22, "python": "3.12", "platform": "manylinux_2_28_x86_64"},
}
"""Name x properties that must not change unnoticed."""


def graph(**config: str) -> Graph:
    """The stack's graph with its committed configuration, and these keys on top."""
    from tests.support.preview import preview_graph

    return preview_graph(STACK, {f"{STACK}:{key}": value for key, value in config.items()})


def node(found: Graph, name: str) -> Node:
    """The one resource of a name."""
    (only,) = [item for item in found.nodes if item.name == name]
    return only


def inbound(found: Graph) -> list[tuple[str, str, list[str]]]:
    """Protocol, port and sources of each rule inwards."""
    rules = node(found, "firewall-rules").inputs["inboundRules"]
    return [(rule["protocol"], rule.get("portRange", ""), rule["sourceAddresses"]) for rule in rules]


# -- the golden inventory ----------------------------------------------------------------------------------------------


@pytest.mark.engine
def test_inventory_types_and_counts() -> None:
    assert dict(Counter(item.type for item in graph().nodes)) == COUNTS


@pytest.mark.engine
@pytest.mark.parametrize("name", KEY_PROPERTIES)
def test_inventory_key_properties(name: str) -> None:
    inputs = node(graph(), name).inputs
    assert {key: inputs.get(key) for key in KEY_PROPERTIES[name]} == KEY_PROPERTIES[name]


@pytest.mark.engine
def test_names_are_unique_and_every_child_has_a_component_as_parent() -> None:
    found = graph()
    names = [item.name for item in found.nodes]
    assert len(names) == len(set(names))
    kinds = {item.urn: item.type for item in found.nodes}
    for item in found.nodes:
        if item.type != "pulumi:pulumi:Stack":
            assert item.parent is not None, item.name
            wanted = "pulumi:pulumi:Stack" if not item.custom else "ztna:components:"
            assert kinds[item.parent].startswith(wanted), item.name


# -- the firewall, a test by name for each rule ------------------------------------------------------------------------


@pytest.mark.engine
def test_firewall_quic_4433_is_open_to_everybody_on_v4_and_v6() -> None:
    assert ("udp", "4433", ANYWHERE) in inbound(graph())
    assert ports.QUIC == 4433


@pytest.mark.engine
def test_firewall_connector_4434_is_open_to_everybody_on_v4_and_v6() -> None:
    assert ("udp", "4434", ANYWHERE) in inbound(graph())
    assert ports.CONNECTOR_UDP == 4434


@pytest.mark.engine
def test_firewall_ssh_22_is_open_to_administrators_only() -> None:
    assert [rule for rule in inbound(graph()) if rule[1] == "22"] == [("tcp", "22", [ADMINS])]
    networks = '["198.51.100.7/32", "2001:db8:1::/48"]'
    other = [rule for rule in inbound(graph(adminCidrs=networks)) if rule[1] == "22"]
    assert other == [("tcp", "22", ["198.51.100.7/32", "2001:db8:1::/48"])]


@pytest.mark.engine
def test_firewall_nothing_else_comes_in() -> None:
    assert sorted(rule[:2] for rule in inbound(graph())) == [("tcp", "22"), ("udp", "4433"), ("udp", "4434")]


@pytest.mark.engine
def test_firewall_lets_out_what_is_needed() -> None:
    rules = node(graph(), "firewall-rules").inputs["outboundRules"]
    found = [(rule["protocol"], rule.get("portRange"), rule["destinationAddresses"]) for rule in rules]
    assert found == [
        ("udp", "1-65535", ANYWHERE),
        ("icmp", None, ANYWHERE),
        ("tcp", "1-65535", ["10.77.0.0/24"]),
        ("tcp", "53", ANYWHERE),
        ("tcp", "80", ANYWHERE),
        ("tcp", "443", ANYWHERE),
    ]


@pytest.mark.engine
def test_firewall_holds_for_this_droplet_and_no_tag() -> None:
    inputs = node(graph(), "firewall-rules").inputs
    assert inputs["dropletIds"] == [UNKNOWN]
    assert "tags" not in inputs
    assert "relay-droplet-1" in _needed(graph(), "firewall-rules")


@pytest.mark.engine
def test_the_firewall_table_of_the_page_is_that_of_the_rules() -> None:
    page = (ROOT / "docs" / "deploy-digitalocean.md").read_text()
    (rows,) = (found for found in tables(page).values() if "direction" in found[0])
    shown = [(row["protocol"].lower(), row["port"]) for row in rows if row["direction"] == "in" and row["port"]]
    assert shown == [rule[:2] for rule in inbound(graph())]
    outbound = node(graph(), "firewall-rules").inputs["outboundRules"]
    named = {
        (row["protocol"].lower(), port) for row in rows if row["direction"] == "out" for port in row["port"].split(", ")
    }
    for rule in outbound:
        port = {"1-65535": "all"}.get(rule.get("portRange", ""), rule.get("portRange", ""))
        assert (rule["protocol"], port) in named


# -- order and replacement ---------------------------------------------------------------------------------------------


def _needed(found: Graph, name: str) -> set[str]:
    by_urn = {item.urn: item.name for item in found.nodes}
    return {by_urn[urn] for urn in node(found, name).dependencies}


@pytest.mark.engine
def test_the_address_comes_to_the_droplet_only_when_it_serves() -> None:
    found = graph()
    assert {"host-1-release", "relay-droplet-1", "address-reserved"} <= _needed(found, "cutover-assignment")
    assert {"firewall-rules", "relay-droplet-1"} <= _needed(found, "host-1-release")
    assert "cutover-assignment" not in _needed(found, "host-1-release")
    assert not _needed(found, "address-reserved"), "nothing that is replaced may take the address with it"


@pytest.mark.engine
def test_another_generation_is_another_droplet_beside_the_old_one_at_the_same_address() -> None:
    first, second = graph(), graph(hostGeneration="2")
    gone = {item.urn for item in first.nodes} - {item.urn for item in second.nodes}
    assert {urn.rpartition("::")[2] for urn in gone} == {"relay-droplet-1", "host-1", "host-1-release"}
    assert node(first, "address-reserved").urn == node(second, "address-reserved").urn
    assert node(second, "relay-droplet-2").inputs["name"] == "ztna-relay"


def test_first_boot_and_image_never_replace_a_droplet_by_themselves() -> None:
    import pulumi

    seen: dict[str, list[str] | None] = {}

    def watch(args: pulumi.ResourceTransformationArgs) -> None:
        seen[args.name] = args.opts.ignore_changes

    def program() -> Any:
        pulumi.runtime.register_stack_transformation(watch)
        return do_nyc1.program()

    record(program, stack=STACK, config={f"{STACK}:adminCidrs": ADMINS}, computed=computed())
    assert seen["relay-droplet-1"] == ["user_data", "image"]
    assert not [name for name, ignored in seen.items() if ignored and name != "relay-droplet-1"]


# -- secrets -----------------------------------------------------------------------------------------------------------


@pytest.mark.engine
def test_secrets_are_marked() -> None:
    found = graph()
    assert node(found, "relay-droplet-1").inputs["userData"] == {"<secret>": UNKNOWN}
    release = node(found, "host-1-release").inputs
    for key in ("private_key", "permanent_private", "files"):
        assert "<secret>" in json.dumps(release[key]), key
    for item in found.nodes:
        assert "PRIVATE KEY" not in json.dumps(item.inputs), item.name


# -- what it promises --------------------------------------------------------------------------------------------------


def computed() -> dict[str, Any]:
    """Outputs that a provider would compute."""

    def key(name: str, inputs: Any) -> dict[str, str]:
        return {
            "privateKeyOpenssh": f"PRIVATE OF {name}",
            "publicKeyOpenssh": f"ssh-ed25519 PUBLIC-OF-{name}\n",
            "privateKeyPem": f"PEM OF {name}",
            "privateKeyPemPkcs8": f"PEM OF {name}",
        }

    def certificate(name: str, inputs: Any) -> dict[str, str]:
        return {"certPem": f"CERT OF {name}\n", "certRequestPem": f"REQUEST OF {name}"}

    return {
        "digitalocean:index/droplet:Droplet": {"id": "4711", "ipv4Address": "192.0.2.10", "ipv6Address": "2001:db8::a"},
        "digitalocean:index/reservedIp:ReservedIp": {"ipAddress": "198.51.100.1"},
        "digitalocean:index/sshKey:SshKey": {"id": "17"},
        "tls:index/privateKey:PrivateKey": key,
        "tls:index/selfSignedCert:SelfSignedCert": certificate,
        "tls:index/certRequest:CertRequest": certificate,
        "tls:index/locallySignedCert:LocallySignedCert": certificate,
    }


def run(**config: str) -> tuple[Recorder, StackOutputs]:
    """Run the program with every output known."""
    settings = {f"{STACK}:{key}": value for key, value in ({"adminCidrs": ADMINS} | config).items()}
    return record(do_nyc1.program, stack=STACK, config=settings, computed=computed())


def test_it_promises_the_reserved_address_and_ready_profiles() -> None:
    _, outputs = run(agents="laptop, phone")
    assert (outputs.stack, outputs.run, outputs.rung) == (STACK, STACK, "cloud")
    assert [(relay.host, relay.port, relay.server_name) for relay in outputs.relays] == [
        ("198.51.100.1", 4433, "ztna-server")
    ]
    assert [agent.name for agent in outputs.agents] == ["laptop", "phone"]
    profile = json.loads(outputs.agents[0].profile)
    assert profile["intermediate_server"]["host"] == "198.51.100.1"
    assert profile["key_pem"].startswith("PEM OF pki-laptop")
    assert set(outputs.agent_files["phone"]) >= {"agent.json", "agent.env", "agent.plist", "agent.mobileconfig"}


def test_it_tells_how_to_log_in_with_the_host_key_that_must_be_there() -> None:
    _, outputs = run()
    (access,) = outputs.ssh
    assert (access.host, access.port, access.user) == ("198.51.100.1", 22, "root")
    assert access.host_key == "ssh-ed25519 PUBLIC-OF-keys-permanent"
    assert outputs.ssh_private_keys == {"198.51.100.1": "PRIVATE OF keys-admin"}
    exports = to_exports(outputs)
    shown = json.dumps({key: value for key, value in exports.items() if key not in SECRET_KEYS})
    assert "PRIVATE OF" not in shown
    assert "PEM OF" not in shown


def test_a_direct_path_is_expected_whatever_the_peers_nat_but_blocked_udp() -> None:
    _, outputs = run()
    paths = {(item.service, item.peer_nat): item.path for item in outputs.expected_path}
    assert {service for service, _ in paths} == {"echo-service", "http-app"}
    assert {path for (_, nat), path in paths.items() if nat != "udp-blocked"} == {"direct"}
    assert paths["echo-service", "udp-blocked"] == "none"


@pytest.mark.engine
def test_the_graph_tells_the_same_site_as_the_program() -> None:
    from components.do_design import design
    from infra.config_do import do_config
    from infra.traversal_graph import read_site
    from tests.infra.test_config_do import Source

    declared = design(STACK, do_config(Source({"adminCidrs": ADMINS}))).traversal_site
    assert read_site(graph()) == declared


def test_the_release_goes_to_the_droplets_own_address_with_every_file() -> None:
    recorder, _ = run()
    (release,) = recorder.of_type("Release").values()
    assert (release["host"], release["machine"]) == ("192.0.2.10", "4711")
    assert [unit["name"] for unit in release["units"]] == [
        "ztna-intermediate", "ztna-backend-httpbin", "ztna-backend-echo", "ztna-connector",
    ]  # fmt: skip
    assert len(release["ready"]) == 4
    files = release["files"]["value"]
    assert {role: set(found) for role, found in files.items()} == {
        "intermediate": {"intermediate.json", "policy.json", "cert.pem", "key.pem", "ca.pem"},
        "connector": {"connector.json", "cert.pem", "key.pem", "ca.pem"},
    }
    relay, connector = (json.loads(files[role][f"{role}.json"]) for role in ("intermediate", "connector"))
    assert (relay["bind_addr"], relay["port"], relay["external_ip"]) == ("0.0.0.0", 4433, "198.51.100.1")
    assert relay["alternate_port"] is None, "4434 is the connector's on this host"
    assert relay["relay_own_host"] is True, "the connector dials over loopback"
    assert relay["admin_socket"] == "/run/ztna-intermediate/admin.sock", "its other files are read-only to it"
    assert not [unit["name"] for unit in release["units"] if unit["forwards"]]
    assert connector["intermediate_server"]["host"] == "127.0.0.1", "ready before the public address is there"
    assert connector["intermediate_server"]["server_name"] == "ztna-server"


def test_the_relays_certificate_carries_the_reserved_address_and_the_name() -> None:
    recorder, outputs = run(dnsDomain="example.org", dnsName="vpn")
    request = recorder.of_type("CertRequest")["pki-relay-g1-request"]
    assert request["ipAddresses"] == ["198.51.100.1"]
    assert request["dnsNames"] == ["ztna-server", "relay", "vpn.example.org"]
    record_inputs = recorder.of_type("DnsRecord")["address-record-0"]
    assert record_inputs == {"domain": "example.org", "name": "vpn", "type": "A", "value": "198.51.100.1", "ttl": 300}
    assert outputs.relays[0].host == "vpn.example.org"
    assert json.loads(outputs.agents[0].profile)["intermediate_server"]["host"] == "vpn.example.org"


def test_user_data_holds_no_key_but_the_one_of_the_first_contact() -> None:
    recorder, _ = run(
        sshPublicKey="ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPDaSPD9Lr8ZqNw4XBHYhSsDzZqGYCqyvXpiYOHuCu3J me"
    )
    wire = recorder.of_type("Droplet")["relay-droplet-1"]["userData"]
    assert SECRET in wire
    config = yaml.safe_load(wire["value"])
    assert config["ssh_keys"]["ed25519_private"] == "PRIVATE OF keys-bootstrap\n"
    assert len(config["ssh_authorized_keys"]) == 2
    assert set(re.findall(r"(?:PRIVATE|PEM|CERT) OF \S+", wire["value"])) == {"PRIVATE OF keys-bootstrap"}


def test_the_account_gets_the_stacks_own_key_and_never_the_users() -> None:
    given = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPDaSPD9Lr8ZqNw4XBHYhSsDzZqGYCqyvXpiYOHuCu3J me"
    recorder, _ = run(sshPublicKey=given)
    assert recorder.of_type("SshKey") == {"relay-ssh-key": {"publicKey": "ssh-ed25519 PUBLIC-OF-keys-admin"}}
    assert recorder.of_type("Droplet")["relay-droplet-1"]["sshKeys"] == ["17"]


def test_the_world_as_administrator_stops_it_before_anything_is_registered() -> None:
    with pytest.raises(ConfigError, match="lets the whole internet try SSH"):
        run(adminCidrs="0.0.0.0/0")


def test_the_committed_configuration_is_of_known_keys_and_documentation_networks() -> None:
    committed = yaml.safe_load((ROOT / f"Pulumi.{STACK}.yaml").read_text())["config"]
    assert set(committed) <= {f"{STACK}:{key.name}" for key in DO_KEYS}
    assert committed[f"{STACK}:adminCidrs"] == [ADMINS]


def test_the_program_is_short_and_has_no_branches() -> None:
    text = Path(do_nyc1.__file__).read_text()
    assert len(text.splitlines()) <= 80
    assert not [word for word in (" if ", " for ", " while ", " try:", " match ") if word in text.split('"""')[-1]]
