"""docs/configuration.md names every key that the code knows, no other one, and the right defaults.

What a file may hold is asked of the readers themselves: an unknown key makes them list the known ones.
"""

import ast
import importlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, cast

import pytest
import yaml

from infra.config import LAB_KEYS, Key, parse_link, parse_nat
from infra.config_overlay import OVERLAY_KEYS, parse_labels, parse_macos_app, parse_services
from infra.config_tables import CONFIG_KEYS
from infra.lab.nat import PRESETS
from tests.docs.pages import ROOT, Rows, codes, tables
from ztna.config import AgentConfig, ConfigError, ConnectorConfig, IntermediateConfig
from ztna.proto.errors import PolicyError
from ztna.proto.policy import Policy

PAGE = ROOT / "docs" / "configuration.md"
TABLES = tables(PAGE.read_text())
COMMON = "Keys that every role has"
UNKNOWN = "q-q-q-q-q"
PEM = {"cert_path": "cert.pem", "key_path": "key.pem"}
RELAY = {"intermediate_server": {"host": "192.0.2.1"}}
MINIMAL: dict[str, dict[str, Any]] = {
    "intermediate": {**PEM, "ca_cert_path": "ca.pem"},
    "connector": {**RELAY, "ca_cert": "ca.pem", "services": [{"id": "s", "backend": "192.0.2.9:1"}]},
    "agent": {**RELAY, "ca_cert": "ca.pem", "services": [{"id": "s", "virtual_ip": "192.0.2.8"}]},
}
READ: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "intermediate": IntermediateConfig.from_json,
    "connector": ConnectorConfig.from_json,
    "agent": AgentConfig.from_json,
}
PORT = {"port": 1, "backend": "192.0.2.9:1"}
FORWARD = {"listen": "127.0.0.1:1", "service": "s", "port": 1}
OBJECTS = [
    ("intermediate", {}, "intermediate.json"),
    ("connector", {}, "connector.json"),
    ("connector", {"intermediate_server": {"host": "h", UNKNOWN: 1}}, "`intermediate_server`, in `connector.json` and"),
    ("agent", {"intermediate_server": {"host": "h", UNKNOWN: 1}}, "`intermediate_server`, in `connector.json` and"),
    ("connector", {"services": [{"id": "s", "backend": "h:1", UNKNOWN: 1}]}, "`services[]` of a connector"),
    ("connector", {"services": [{"id": "s", "ports": [{**PORT, UNKNOWN: 1}]}]}, "`services[].ports[]`"),
    ("connector", {"p2p": {UNKNOWN: 1}}, "`p2p`"),
    ("agent", {}, "agent.json"),
    ("agent", {"services": [{"id": "s", UNKNOWN: 1}]}, "`services[]` of an agent"),
    ("agent", {"tun": {UNKNOWN: 1}}, "`tun`"),
    ("agent", {"forwards": [{**FORWARD, UNKNOWN: 1}]}, "`forwards[]`"),
    ("agent", {"dns": {"listen": "127.0.0.1:53", UNKNOWN: 1}}, "`dns`"),
]


def table(title: str) -> Rows:
    """The one table whose title begins so."""
    found = [rows for name, rows in TABLES.items() if name.startswith(title)]
    assert len(found) == 1, f"{PAGE.name}: {len(found)} tables under {title!r}"
    return found[0]


def named(rows: Rows) -> set[str]:
    """Keys and other accepted names of a table."""
    return {name for row in rows for name in codes(row["key"]) + codes(row.get("also accepted", ""))}


def listed(error: BaseException) -> set[str]:
    """The names that an error lists as known."""
    return set(re.split(r", ", re.split(r"known keys: |it may be ", str(error))[-1].splitlines()[0]))


@pytest.mark.parametrize(("role", "changed", "title"), OBJECTS, ids=[f"{role}:{t}" for role, _, t in OBJECTS])
def test_every_key_of_a_role_is_named_and_no_other(role: str, changed: dict[str, Any], title: str) -> None:
    document = {**MINIMAL[role], **(changed or {UNKNOWN: 1})}
    with pytest.raises(ConfigError, match="unknown key; known keys") as refused:
        READ[role](document)
    documented = named(table(title)) | (set() if changed else named(table(COMMON)))
    assert documented == listed(refused.value)


def flat(config: Any, key: str) -> Any:
    """The value that a key has in a config; where a part holds it, the part's."""
    http, log, tls = config.http, config.log, config.tls
    parts = {
        "metrics_addr": http.addr, "metrics_port": http.port, "log_level": log.level, "log_format": log.format,
        "limits": dict(config.limits), "verify_peer": tls.verify_peer, "cert_path": tls.certificate,
        "key_path": tls.key,
    }  # fmt: skip
    if hasattr(config, "sessions"):
        sessions = config.sessions
        parts |= {
            "quic_core": sessions.quic_core, "direct": "auto" if sessions.direct else "off",
            "hairpin_probe": sessions.hairpin_probe, "birthday": sessions.birthday,
        }  # fmt: skip
    return parts[key] if key in parts else getattr(config, key)


@pytest.mark.parametrize("role", READ)
def test_defaults_of_a_role(role: str) -> None:
    config = READ[role](MINIMAL[role])
    rows = {row["key"].strip("`"): row["default"] for row in (*table(COMMON), *table(f"{role}.json"))}
    spoken = {"p2p", "tun", "forwards"}  # objects of their own, and a tuple
    given = {key: json.loads(codes(cell)[0]) for key, cell in rows.items() if cell.startswith("`") and codes(cell)}
    given = {key: value for key, value in given.items() if key not in spoken}
    assert rows["metrics_port"] == "by role"
    assert f"{config.http.port} {role}" in PAGE.read_text()
    assert len(given) >= 8
    assert given == {key: flat(config, key) for key in given}


def test_defaults_of_the_parts() -> None:
    agent, connector = AgentConfig.from_json(MINIMAL["agent"]), ConnectorConfig.from_json(MINIMAL["connector"])
    found: dict[str, dict[str, Any]] = {
        "`intermediate_server`, in": {"port": agent.relay.port, "server_name": agent.relay.server_name},
        "`p2p`": {"port": connector.p2p.port},
        "`tun`": {"name": agent.tun.name, "mtu": agent.tun.mtu},
        "`services[]` of a connector": {"protocol": connector.services[0].protocol},
    }
    for title, values in found.items():
        rows = {row["key"].strip("`"): row["default"] for row in table(title)}
        assert {key: json.loads(codes(rows[key])[0]) for key in values} == values, title


def test_every_key_of_the_policy_is_named_and_no_other() -> None:
    documents: dict[str, Any] = {
        "top": {UNKNOWN: 1},
        "services": {"services": {"s": {UNKNOWN: 1}}},
        "agents": {"agents": {"a": {UNKNOWN: 1}}},
        "connectors": {"connectors": {"c": {UNKNOWN: 1}}},
    }
    rows = table("Default deny")
    assert {row["object"] for row in rows} == set(documents)
    for place, document in documents.items():
        with pytest.raises(PolicyError) as refused:
            Policy.from_json(document)
        assert named([row for row in rows if row["object"] == place]) == listed(refused.value), place


LIMIT_TABLES = {
    "IntermediateLimits": "Intermediate:",
    "ControlLimits": "Control connections of",
    "AdmissionLimits": "Handshakes at the intermediate",
    "RelayLimits": "Relay of sessions",
    "ConnectorLimits": "Connector:",
    "AgentLimits": "Agent:",
    "GatewayLimits": "Packet gateway of a connector",
    "ConnectionLimits": "Connections of all three",
}


def test_every_limit_is_named_with_its_default_and_no_other() -> None:
    """The classes are those that the roles hand to `apply_limits`."""
    classes: dict[str, Any] = {}
    for path in sorted((ROOT / "ztna" / "io").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "apply_limits":
                module = importlib.import_module(f"ztna.io.{path.stem}")
                names = [ast.unparse(argument).removesuffix("()") for argument in node.args[1:]]
                classes |= {name: getattr(module, name) for name in names}
    assert set(classes) == set(LIMIT_TABLES)
    for name, title in LIMIT_TABLES.items():
        documented = {row["limit"].strip("`"): float(row["default"].strip("`")) for row in table(title)}
        assert documented == {field.name: float(cast(float, field.default)) for field in fields(classes[name])}, name


def test_every_key_of_the_lab_stack_is_named_with_its_default_and_no_other() -> None:
    rows = {row["key"].strip("`"): row["default"] for row in table("certificate is reloaded by the relay")}
    assert set(rows) == {f"lab:{key.name}" for key in LAB_KEYS}
    for key in LAB_KEYS:
        expected = "required" if key.default is None else f"`{key.default}`"
        assert rows[f"lab:{key.name}"] == expected or key.default == "", key.name


def shown(key: Key) -> str:
    """How a table shows a default."""
    if key.default is None:
        return "required"
    return f"`{key.default}`" if key.default else "unset"


def test_every_key_that_cloud_stacks_share_is_named_with_its_default_and_no_other() -> None:
    rows = {row["key"].strip("`"): row["default"] for row in table("Every cloud stack has these")}
    assert rows == {key.name: shown(key) for key in OVERLAY_KEYS}


@pytest.mark.parametrize("stack", [name for name in CONFIG_KEYS if name != "lab"])
def test_every_key_of_a_cloud_stack_is_named_with_its_default_and_no_other(stack: str) -> None:
    rows = {row["key"].strip("`"): row["default"] for row in table(f"The `{stack}` stack alone")}
    own = [key for key in CONFIG_KEYS[stack] if key not in OVERLAY_KEYS]
    assert rows == {f"{stack}:{key.name}": shown(key) for key in own}


def test_every_field_of_a_service_and_of_the_app_is_named_and_no_other() -> None:
    refusals: list[tuple[str, Callable[[], Any]]] = [
        ("Fields of a service", lambda: parse_services(json.dumps([{UNKNOWN: 1}]))),
        ("Fields of the macOS app", lambda: parse_macos_app(json.dumps({UNKNOWN: 1}))),
    ]
    for title, parse in refusals:
        with pytest.raises(ValueError, match="unknown field") as refused:
            parse()
        assert {row["field"].strip("`") for row in table(title)} == listed(refused.value), title


def test_the_example_of_services_is_read() -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    values = yaml.safe_load(blocks[0])["config"]
    services = parse_services(json.dumps(values["do-nyc1:services"]))
    assert [service.id for service in services] == ["echo-service", "web"]
    assert services[1].port_backends == {"tcp/443": "127.0.0.1:8443"}
    assert parse_labels(json.dumps(values["do-nyc1:agents"])) == ("laptop", "phone")


def test_every_field_of_a_nat_and_of_a_link_is_named_and_no_other() -> None:
    for title, parse in (
        ("A NAT by behaviour", lambda text: parse_nat(text, PRESETS)),
        ("A link;", parse_link),
    ):
        with pytest.raises(ValueError, match="unknown field") as refused:
            parse(json.dumps({UNKNOWN: 1}))
        assert {row["field"].strip("`") for row in table(title)} == listed(refused.value), title
