"""From what a stack knows to what its roles read: configuration files, the policy, environment templates. Pure.

Every function returns JSON-able values; keys are those of `ztna.config`, and a test reads each result back with it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from infra import ports
from infra.outputs import AgentOutput, ConnectorOutput, ExpectedPath, NatOutput, RelayEndpoint, ServiceOutput

JsonObject = dict[str, Any]

STATE_DIR: Final = "{dir}"
"""Stands for the directory of a role's files until it is known; replaced where the files are written."""


def policy(
    services: Sequence[ServiceOutput],
    agents: Sequence[AgentOutput],
    connectors: Sequence[ConnectorOutput],
    revoked: Sequence[str] = (),
) -> JsonObject:
    """Return policy.json: who may reach and who may serve which service. Everything else is denied."""
    return {
        "services": {service.id: {"virtual_ip": service.virtual_ip} for service in services},
        "agents": {agent.name: {"virtual_ip": agent.virtual_ip, "services": list(agent.services)} for agent in agents},
        "connectors": {connector.name: {"services": list(connector.services)} for connector in connectors},
        "revoked": sorted(revoked),
    }


def intermediate_config(
    stack: str,
    relay: RelayEndpoint,
    *,
    log_level: str,
    metrics_addr: str,
    external_ip: str | None = None,
    allow_anonymous_v1: bool = False,
    relay_mode: str = "auto",
    own_host: bool = False,
    admin_socket: str | None = None,
) -> JsonObject:
    """Return intermediate.json for a relay whose files lie side by side in STATE_DIR.

    Args:
        relay: its `host` is the address that it binds.
        external_ip: the address by which clients know it, where a 1:1 NAT hides it.
        allow_anonymous_v1: let in deployed peers that cannot hold a client certificate.
        relay_mode: who forwards packets of sessions without a direct path, a RelayMode.
        own_host: a connector or an agent runs on the relay's own host and dials it over loopback.
        admin_socket: where `ztna relay` finds it, None for beside the file, where that directory can be written.
    """
    return {
        "name": relay.name,
        "stack": stack,
        "bind_addr": relay.host,
        "port": relay.port,
        "external_ip": external_ip,
        "alternate_addr": relay.alternate_host,
        "alternate_port": relay.alternate_port,
        "cert_path": f"{STATE_DIR}/cert.pem",
        "key_path": f"{STATE_DIR}/key.pem",
        "ca_cert_path": f"{STATE_DIR}/ca.pem",
        "policy_path": f"{STATE_DIR}/policy.json",
        "verify_peer": True,
        "require_client_cert": not allow_anonymous_v1,
        "allow_anonymous_v1": allow_anonymous_v1,
        "relay": relay_mode,
        "relay_own_host": own_host,
        **({"admin_socket": admin_socket} if admin_socket else {}),
        "metrics_addr": metrics_addr,
        "metrics_port": ports.METRICS["intermediate"],
        "log_level": log_level,
        "log_format": "json",
    }


def connector_config(
    stack: str,
    name: str,
    relay: RelayEndpoint,
    services: Sequence[ServiceOutput],
    *,
    bind_addr: str,
    log_level: str,
    metrics_addr: str,
) -> JsonObject:
    """Return connector.json for the services of one connector."""
    return {
        "name": name,
        "stack": stack,
        "intermediate_server": _server(relay),
        "services": [_connector_service(service) for service in services],
        "ca_cert": f"{STATE_DIR}/ca.pem",
        "cert_path": f"{STATE_DIR}/cert.pem",
        "key_path": f"{STATE_DIR}/key.pem",
        "verify_peer": True,
        "bind_addr": bind_addr,
        "metrics_addr": metrics_addr,
        "metrics_port": ports.METRICS["connector"],
        "log_level": log_level,
        "log_format": "json",
    }


def _connector_service(service: ServiceOutput) -> JsonObject:
    """A service with one backend for all ports in the legacy form, one with several as a list of admitted ports."""
    entry: JsonObject = {"id": service.id, "virtual_ip": service.virtual_ip, "backend": service.backend}
    entry["protocol"] = "any"
    entry["ports"] = [
        {
            "protocol": port.protocol,
            "port": port.port,
            "backend": service.port_backends.get(f"{port.protocol}/{port.port}", service.backend),
        }
        for port in service.ports
        if port.protocol != "icmp"
    ]
    return entry


def agent_config(
    stack: str,
    agent: AgentOutput,
    relay: RelayEndpoint,
    services: Sequence[ServiceOutput],
    *,
    log_level: str,
    metrics_addr: str,
) -> JsonObject:
    """Return agent.json without its PEMs; `with_identity` adds them."""
    reachable = [service for service in services if service.id in agent.services]
    return {
        "name": agent.name,
        "stack": stack,
        "intermediate_server": _server(relay),
        "services": [
            {"id": service.id, "virtual_ip": service.virtual_ip, "connectors": [service.connector]}
            for service in reachable
        ],
        "virtual_ip": agent.virtual_ip,
        "mode": agent.mode,
        "forwards": [_forward(key, listen) for key, listen in agent.forwards.items()],
        "verify_peer": True,
        "metrics_addr": metrics_addr,
        "metrics_port": ports.METRICS["agent"],
        "log_level": log_level,
        "log_format": "json",
    }


def with_identity(config: Mapping[str, Any], *, ca_pem: str, cert_pem: str, key_pem: str) -> JsonObject:
    """Return a configuration as one self-contained profile: certificates and key inline, no paths. It is secret."""
    kept = {key: value for key, value in config.items() if key not in ("ca_cert", "cert_path", "key_path")}
    return {**kept, "ca_cert_pem": ca_pem, "cert_pem": cert_pem, "key_pem": key_pem}


def forward_key(service: str, protocol: str, port: int) -> str:
    """Return the key of a user-mode forward in AgentOutput.forwards."""
    return f"{service}/{protocol}/{port}"


def user_forwards(services: Sequence[ServiceOutput], listen_addr: str) -> dict[str, str]:
    """Return the forwards of a user-mode agent: each service port on its own number, or above 1024 when below it."""
    forwards: dict[str, str] = {}
    for service in services:
        for port in service.ports:
            if port.protocol != "icmp":
                local = port.port if port.port >= 1024 else port.port + 8000
                forwards[forward_key(service.id, port.protocol, port.port)] = f"{listen_addr}:{local}"
    return forwards


def _forward(key: str, listen: str) -> JsonObject:
    service, protocol, port = key.split("/")
    return {"protocol": protocol, "listen": listen, "service": service, "port": int(port)}


def _server(relay: RelayEndpoint) -> JsonObject:
    return {"host": relay.host, "port": relay.port, "server_name": relay.server_name}


ADDRESS_AND_PORT: Final = "address-and-port-dependent"
ENDPOINT_INDEPENDENT: Final = "endpoint-independent"


def expected_path(
    agent: str, connector: str, agent_nat: NatOutput | None, connector_nat: NatOutput | None
) -> ExpectedPath:
    """Return the path that a session ends up with between two NATs (RFC 4787 s4.1 and s5); None is no NAT at all.

    A direct path needs each side's packets to fit the hole that the other's made. A mapping that varies with the
    destination cannot be known beforehand, so it fits only where the other side lets in any port.
    """
    blocked = [nat.name for nat in (agent_nat, connector_nat) if nat is not None and nat.udp_blocked]
    if blocked:
        reason = f"{' and '.join(blocked)} {'lets' if len(blocked) == 1 else 'let'} no UDP out"
        return ExpectedPath(agent=agent, connector=connector, path="none", reason=reason)
    for varying, other in ((agent_nat, connector_nat), (connector_nat, agent_nat)):
        if varying is None or varying.mapping == ENDPOINT_INDEPENDENT or other is None:
            continue
        if other.mapping != ENDPOINT_INDEPENDENT:
            reason = f"{varying.name} and {other.name} both map by destination, so neither side can know where to send"
        elif other.filtering == ADDRESS_AND_PORT:
            reason = f"{varying.name} maps by destination, and {other.name} lets in only ports it has sent to"
        else:
            continue
        return ExpectedPath(agent=agent, connector=connector, path="relayed", reason=reason)
    reason = "both sides can know where to send, and sending at the same time opens the way"
    return ExpectedPath(agent=agent, connector=connector, path="direct", reason=reason)


def environment(
    stack: str, relay: RelayEndpoint, services: Sequence[ServiceOutput], connectors: Sequence[ConnectorOutput]
) -> dict[str, str]:
    """Return the environment templates by file name: cloud.env for the relay's host, home.env for the connector's."""
    head = _head(stack)
    cloud = {
        "ZTNA_STACK": stack,
        "ZTNA_RELAY_NAME": relay.name,
        "ZTNA_RELAY_HOST": relay.host,
        "ZTNA_RELAY_PORT": relay.port,
        "ZTNA_RELAY_SERVER_NAME": relay.server_name,
        "ZTNA_RELAY_ALTERNATE_HOST": relay.alternate_host or "",
        "ZTNA_RELAY_ALTERNATE_PORT": relay.alternate_port or "",
    }
    home: dict[str, Any] = {
        "ZTNA_STACK": stack,
        "ZTNA_SERVER_HOST": relay.host,
        "ZTNA_SERVER_PORT": relay.port,
        "ZTNA_SERVER_NAME": relay.server_name,
        "ZTNA_CONNECTORS": ",".join(connector.name for connector in connectors),
        "ZTNA_SERVICES": ",".join(service.id for service in services),
    }
    for service in services:
        key = _env_key(service.id)
        home[f"ZTNA_SERVICE_{key}_VIRTUAL_IP"] = service.virtual_ip
        home[f"ZTNA_SERVICE_{key}_BACKEND"] = service.backend
    return {"cloud.env": head + _lines(cloud), "home.env": head + _lines(home)}


def agent_environment(profile: Mapping[str, Any]) -> str:
    """Return agent.env, an agent's addresses for shells and unit files, from the content of agent.json. Not secret."""
    server = profile["intermediate_server"]
    values: dict[str, Any] = {
        "ZTNA_STACK": profile["stack"],
        "ZTNA_AGENT": profile["name"],
        "ZTNA_AGENT_VIRTUAL_IP": profile["virtual_ip"],
        "ZTNA_SERVER_HOST": server["host"],
        "ZTNA_SERVER_PORT": server["port"],
        "ZTNA_SERVER_NAME": server["server_name"],
        "ZTNA_SERVICES": ",".join(service["id"] for service in profile["services"]),
    }
    for service in profile["services"]:
        values[f"ZTNA_SERVICE_{_env_key(service['id'])}_VIRTUAL_IP"] = service["virtual_ip"]
    for forward in profile["forwards"]:
        key = f"ZTNA_FORWARD_{_env_key(forward['service'])}_{forward['protocol'].upper()}_{forward['port']}"
        values[key] = forward["listen"]
    return _head(profile["stack"]) + _lines(values)


def _head(stack: str) -> str:
    return f"# Generated from the outputs of stack {stack}; do not edit, deploy again instead.\n"


def _env_key(service_id: str) -> str:
    return service_id.upper().replace("-", "_")


def _lines(values: Mapping[str, Any]) -> str:
    return "".join(f"{key}={value}\n" for key, value in values.items())
