"""A stack like the clouds', with planted secrets in every place where those have secrets; nothing outside is touched.

What stands for the machine, the Secret of a cluster and the registry are dynamic resources; the release, the outputs
and their marking are the product's own.
"""

import json
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, ReadResult, Resource, ResourceProvider, UpdateResult

from components import host_release
from components.host_release import HostRelease, RelayHostArgs, SshTarget
from components.lab_provider import plain
from infra import units, wiring
from infra.bundle import Target
from infra.cloudinit import HostKeys, HostSetup, user_data
from infra.outputs import AgentOutput, ConnectorOutput, RelayEndpoint, ServiceOutput, ServicePort, StackOutputs

PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEeexampleexampleexampleexampleexampleexample planted"
RELAY = RelayEndpoint(name="relay", host="192.0.2.1", port=4433, server_name="ztna-server")
ECHO = ServiceOutput(
    id="echo-service",
    virtual_ip="100.64.0.100",
    ports=(ServicePort(protocol="udp", port=9999),),
    connector="connector",
    backend="127.0.0.1:9999",
)
AGENT = AgentOutput(name="laptop", virtual_ip="100.64.1.1", services=("echo-service",), mode="user")


class HostNobodyAsks(host_release.HostReleaseProvider):
    """The release's own provider, but for the host: nobody is contacted."""

    def create(self, props: dict[str, Any]) -> CreateResult:
        values = plain(props)
        host_release._say(f"released to {values['host']}")
        return CreateResult("planted/relay", {**values, "deployment": "planted", "status": "release is healthy"})

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        return ReadResult(id_, plain(props))

    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        host_release._say("removed")


host_release.HostReleaseProvider = HostNobodyAsks  # type: ignore[misc]  # the resource below is made with it


class Provider(ResourceProvider):
    """Makes nothing, and says what it is asked to make by type alone."""

    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult("made", props)

    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        return UpdateResult(_news)


class Stand(Resource):
    """Stands for a resource of a cloud."""

    def __init__(self, name: str, props: dict[str, Any], opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(Provider(), name, props, opts)


def _setup(given: dict[str, str]) -> str:
    return user_data(
        HostSetup(
            hostname="relay",
            admin_public_keys=(PUBLIC,),
            host_keys=HostKeys(private=given["ssh-bootstrap-host-key"], public=PUBLIC),
            udp_ports=(4433, 4434),
            admin_cidrs=("203.0.113.0/24",),
        )
    )


def _files(role: str, key: str) -> dict[str, str]:
    return {"key.pem": key, "cert.pem": "certificate", "ca.pem": "ca", f"{role}.json": "{}"}


def _outputs(given: dict[str, str]) -> StackOutputs:
    def profile(name: str) -> str:
        config = wiring.agent_config("planted", AGENT, RELAY, [ECHO], log_level="info", metrics_addr="127.0.0.1")
        pems = {"ca_pem": "ca", "cert_pem": "certificate", "key_pem": given[name]}
        return json.dumps(wiring.with_identity(config, **pems))

    agent = AgentOutput(
        name=AGENT.name, virtual_ip=AGENT.virtual_ip, services=AGENT.services, mode="user", profile=profile("agent-key")
    )
    return StackOutputs(
        stack="planted",
        run="planted",
        rung="cloud",
        relays=(RELAY,),
        connectors=(ConnectorOutput(name="connector", services=("echo-service",)),),
        services=(ECHO,),
        agents=(agent,),
        places={},
        ca_pem="ca",
        probes={"foreign": profile("foreign-agent-key")},
        agent_files={AGENT.name: {"agent.json": agent.profile, "agent.env": f"KEY={given['agent-key']!r}"}},
        ssh_private_keys={"192.0.2.1": given["ssh-admin-key"]},
    )


def program() -> pulumi.Output[StackOutputs]:
    """Declare the stack and return what it promises."""
    given: pulumi.Output[dict[str, str]] = pulumi.Config("planted").require_secret_object("secrets")

    def one(name: str) -> pulumi.Output[str]:
        return given.apply(lambda values: values[name])

    authority = Stand("authority", {"key": one("ca-key"), "note": pulumi.Config("planted").require_secret("note")})
    machine = Stand("machine", {"userData": pulumi.Output.secret(given.apply(_setup)), "image": "ubuntu-24-04-x64"})
    Stand("secret", {"stringData": {"tls.key": one("connector-key")}})
    Stand("registry", {"username": "AWS", "password": one("registry-password"), "token": one("cloud-token")})
    HostRelease(
        "release",
        RelayHostArgs(
            stack="planted",
            run="planted",
            machine="4711",
            ssh=SshTarget(
                host="192.0.2.1",
                private_key=one("ssh-admin-key"),
                bootstrap_public=PUBLIC,
                permanent_public=PUBLIC,
                permanent_private=one("ssh-permanent-host-key"),
            ),
            target=Target(),
            units=(units.INTERMEDIATE, units.CONNECTOR),
            files={
                "intermediate": one("relay-key").apply(lambda key: _files("intermediate", key)),
                "connector": one("connector-key").apply(lambda key: _files("connector", key)),
            },
            ready=(),
        ),
        pulumi.ResourceOptions(depends_on=[machine, authority]),
    )
    pulumi.log.info("all of it is declared")
    return given.apply(_outputs)
