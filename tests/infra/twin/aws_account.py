"""An account of the twin's AWS for tests: resources by short names, on a site whose lab notes what is asked of it."""

import sys
from dataclasses import dataclass, field
from typing import Any

from infra.engine.providers import Existing
from infra.engine.sdkschema import find_sdk
from infra.twin.packages import package
from infra.twin.provider import TwinProvider
from infra.twin.site import Site
from tests.infra.twin.sites import urn

TYPES = {kind.type_name: kind for name in ("aws", "docker-build") for kind in package(name).types}
SHORT = {name.rpartition(":")[2]: name for name in TYPES if "servicediscovery/service" not in name}
SHORT["NamedService"] = "aws:servicediscovery/service:Service"
DEFAULTS: dict[str, dict[str, Any]] = {
    "Vpc": {"cidrBlock": "10.0.0.0/16", "enableDnsHostnames": True},
    "Subnet": {"availabilityZone": "us-east-2a"},
}


@dataclass
class Account:
    """What has been made, by the names given."""

    site: Site
    ids: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def provider(self, token: str) -> TwinProvider:
        """The provider of a type."""
        name = token.split(":")[0]
        return TwinProvider(package(name), self.site, find_sdk(name, sys.executable), lambda sentence: None)

    def failures(self, kind: str, /, **inputs: Any) -> list[str]:
        """What Check says against inputs."""
        _, failures = self.provider(SHORT[kind]).check(
            urn(SHORT[kind], "tried"), {}, {**DEFAULTS.get(kind, {}), **inputs}
        )
        return [f"{failure.property}: {failure.reason}" for failure in failures]

    def make(self, kind: str, name: str, /, **inputs: Any) -> str:
        """Make a resource; its id. Raises TwinError and AssertionError."""
        token = SHORT[kind]
        provider = self.provider(token)
        filled, failures = provider.check(urn(token, name), {}, {**DEFAULTS.get(kind, {}), **inputs})
        assert not failures, failures
        made = provider.create(urn(token, name), filled, 60.0, False)
        self.site.store.acknowledge(urn(token, name), made.id)
        self.ids[name], self.outputs[name] = made.id, dict(made.outputs)
        return made.id

    def remove(self, kind: str, name: str) -> None:
        """Remove a resource."""
        token = SHORT[kind]
        existing = Existing(urn(token, name), self.ids[name], self.outputs[name], self.outputs[name])
        self.provider(token).delete(existing, 60.0)

    def network(self) -> None:
        """A VPC with a public and a private subnet, both with a way out."""
        self.make("Vpc", "vpc")
        vpc = self.ids["vpc"]
        self.make("InternetGateway", "igw", vpcId=vpc)
        for name, block in (("public", "10.0.1.0/24"), ("private", "10.0.2.0/24")):
            self.make("Subnet", name, vpcId=vpc, cidrBlock=block)
            self.make("RouteTable", f"{name}-table", vpcId=vpc)
            self.make(
                "RouteTableAssociation", f"{name}-way", subnetId=self.ids[name], routeTableId=self.ids[f"{name}-table"]
            )
        self.make("Eip", "nat-address")
        self.make("NatGateway", "nat", subnetId=self.ids["public"], allocationId=self.ids["nat-address"])
        anywhere = "0.0.0.0/0"
        self.make(
            "Route",
            "out",
            routeTableId=self.ids["public-table"],
            destinationCidrBlock=anywhere,
            gatewayId=self.ids["igw"],
        )
        self.make(
            "Route",
            "through",
            routeTableId=self.ids["private-table"],
            destinationCidrBlock=anywhere,
            natGatewayId=self.ids["nat"],
        )

    def group(self, name: str) -> str:
        """A security group."""
        return self.make("SecurityGroup", name, vpcId=self.ids["vpc"], name=name)

    def allow(self, kind: str, name: str, group: str, protocol: str, port: int | None = None, **peer: Any) -> str:
        """A rule of a group, `SecurityGroupIngressRule` or `SecurityGroupEgressRule`."""
        ports = {"fromPort": port, "toPort": port} if port is not None else {}
        return self.make(
            f"SecurityGroup{kind}Rule", name, securityGroupId=self.ids[group], ipProtocol=protocol, **ports, **peer
        )
