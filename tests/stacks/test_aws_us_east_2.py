"""The aws-us-east-2 stack: what it declares, told from a preview, and what it promises, told from a recorder."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from infra import ports, traversal
from infra.config_aws import QUAKEKUBE_IMAGE
from infra.graph import Graph
from infra.policy.resources import NOT_TAGGABLE
from tests.docs.pages import codes, tables
from tests.stacks.aws_inventory import COUNTS, KEY_PROPERTIES

ROOT = Path(__file__).parents[2]
STACK = "aws-us-east-2"
SECRET = "4dabf18193072939515e22adb298388d"
ADMINS = "203.0.113.0/24"
ANYWHERE = "0.0.0.0/0"
WORKLOADS = ("connector", "http-app", "quakekube")
TAGS = {"project": "ztna", "stack": STACK, "run": STACK}


def graph(**config: str) -> Graph:
    """The stack's graph with its committed configuration, and these keys on top."""
    from tests.support.preview import preview_graph

    return preview_graph(STACK, {f"{STACK}:{key}": value for key, value in config.items()})


OTHER = {
    "region": "eu-central-1",
    "zones": '["eu-central-1b", "eu-central-1c"]',
    "adminCidrs": '["198.51.100.7/32", "2001:db8::/64"]',
    "platforms": '["linux/amd64", "linux/arm64"]',
    "hostGeneration": "2",
    "quakekube": "false",
}
"""The configuration in which everything is otherwise."""


def inputs(name: str, **config: str) -> dict[str, Any]:
    """What the one resource of a name is given."""
    (only,) = [item for item in graph(**config).nodes if item.name == name and item.custom]
    return only.inputs


def depends(name: str, **config: str) -> set[str]:
    """Names of the resources that the one of a name waits for."""
    found = graph(**config)
    (only,) = [item for item in found.nodes if item.name == name and item.custom]
    return {urn.rpartition("::")[2] for urn in only.dependencies}


# -- the golden inventory ----------------------------------------------------------------------------------------------


@pytest.mark.engine
def test_inventory_types_and_counts() -> None:
    assert dict(Counter(item.type for item in graph().nodes)) == COUNTS


@pytest.mark.engine
@pytest.mark.parametrize("name", KEY_PROPERTIES)
def test_inventory_key_properties(name: str) -> None:
    given = inputs(name)
    assert {key: given.get(key) for key in KEY_PROPERTIES[name]} == KEY_PROPERTIES[name]


@pytest.mark.engine
def test_every_taggable_resource_is_tagged() -> None:
    ours = [item for item in graph().nodes if item.type.startswith("aws:") and item.type not in NOT_TAGGABLE]
    assert len(ours) == 55
    for item in ours:
        tags = item.inputs["tags"]
        assert {key: tags[key] for key in TAGS} == TAGS, item.name
        assert tags["component"], item.name


@pytest.mark.engine
def test_names_are_unique_and_every_child_has_a_component_as_parent() -> None:
    found = graph()
    names = Counter((item.type, item.name) for item in found.nodes)
    assert max(names.values()) == 1
    for item in found.nodes:
        if item.custom and not item.type.startswith("pulumi:providers:"):
            assert item.parent is not None
            assert "ztna:components:" in item.parent.rpartition("::")[0], item.name


@pytest.mark.engine
def test_everything_of_aws_is_made_by_the_configured_provider() -> None:
    for item in graph(**OTHER).nodes:
        if item.custom and item.type.startswith("aws:"):
            assert "::pulumi:providers:aws::aws" in item.provider, item.name


# -- network -----------------------------------------------------------------------------------------------------------


@pytest.mark.engine
@pytest.mark.parametrize(
    ("subnet", "cidr"), [("vpc-public-us-east-2a", "10.0.1.0/24"), ("vpc-private-us-east-2a", "10.0.2.0/24")]
)
def test_subnets_have_the_planned_ranges_and_give_no_public_address(subnet: str, cidr: str) -> None:
    given = inputs(subnet)
    assert (given["cidrBlock"], given["availabilityZone"]) == (cidr, "us-east-2a")
    assert given["mapPublicIpOnLaunch"] is False


@pytest.mark.engine
def test_a_second_zone_brings_two_subnets_an_address_and_no_second_nat_gateway() -> None:
    assert inputs("vpc-public-eu-central-1c", **OTHER)["cidrBlock"] == "10.0.11.0/24"
    assert inputs("vpc-private-eu-central-1c", **OTHER)["cidrBlock"] == "10.0.12.0/24"
    assert "vpc-private" in depends("vpc-private-eu-central-1c-route", **OTHER)
    counts = Counter(item.type for item in graph(**OTHER).nodes)
    assert counts["aws:ec2/natGateway:NatGateway"] == 1
    assert len(inputs("nlb-balancer", **OTHER)["subnetMappings"]) == 2
    assert inputs("groups-connector-health-2", **OTHER)["cidrIpv4"] == "10.0.11.0/24"


@pytest.mark.engine
def test_the_public_route_leads_to_the_internet_gateway() -> None:
    assert inputs("vpc-public-default")["destinationCidrBlock"] == ANYWHERE
    assert depends("vpc-public-default") == {"vpc-public", "vpc-internet"}
    assert depends("vpc-public-us-east-2a-route") == {"vpc-public", "vpc-public-us-east-2a"}


@pytest.mark.engine
def test_the_private_route_leads_to_the_nat_gateway_alone() -> None:
    assert inputs("vpc-private-default")["destinationCidrBlock"] == ANYWHERE
    assert depends("vpc-private-default") == {"vpc-private", "vpc-nat"}
    assert depends("vpc-private-us-east-2a-route") == {"vpc-private", "vpc-private-us-east-2a"}


@pytest.mark.engine
def test_the_nat_gateway_stands_in_the_public_subnet_with_its_own_address() -> None:
    assert depends("vpc-nat") == {"vpc-public-us-east-2a", "vpc-nat-address", "vpc-internet"}


@pytest.mark.engine
def test_layers_of_images_come_by_the_gateway_endpoint() -> None:
    assert "vpc-private" in depends("vpc-s3")


# -- security groups: one test for each rule ---------------------------------------------------------------------------


def rule(name: str, **config: str) -> tuple[str, int | None, int | None, str]:
    """Protocol, ports and source of a rule."""
    given = inputs(f"groups-{name}", **config)
    source = given.get("cidrIpv4") or given.get("cidrIpv6") or given.get("referencedSecurityGroupId") or ""
    return given["ipProtocol"], given.get("fromPort"), given.get("toPort"), source


@pytest.mark.engine
@pytest.mark.parametrize("group", ["intermediate", "connector", "backend"])
def test_security_groups_have_the_names_by_which_they_are_known(group: str) -> None:
    assert inputs(f"groups-{group}")["name"] == f"ztna-{group}-sg"
    assert "ingress" not in inputs(f"groups-{group}"), "rules are resources of their own"


@pytest.mark.engine
def test_relay_udp_4433_is_open_to_any_ipv4() -> None:
    assert rule("intermediate-quic-v4") == ("udp", 4433, 4433, ANYWHERE)


@pytest.mark.engine
def test_relay_udp_4433_is_open_to_any_ipv6() -> None:
    assert rule("intermediate-quic-v6") == ("udp", 4433, 4433, "::/0")


@pytest.mark.engine
def test_relay_tcp_22_is_open_to_the_administrators_only() -> None:
    assert rule("intermediate-ssh-1") == ("tcp", 22, 22, ADMINS)
    assert rule("intermediate-ssh-1", **OTHER) == ("tcp", 22, 22, "198.51.100.7/32")
    assert rule("intermediate-ssh-2", **OTHER) == ("tcp", 22, 22, "2001:db8::/64")


@pytest.mark.engine
def test_connector_udp_4434_is_open_to_any_ipv4() -> None:
    assert rule("connector-udp-v4") == ("udp", 4434, 4434, ANYWHERE)


@pytest.mark.engine
def test_connector_udp_4434_is_open_to_any_ipv6() -> None:
    assert rule("connector-udp-v6") == ("udp", 4434, 4434, "::/0")


@pytest.mark.engine
def test_connector_tcp_9091_is_open_to_the_load_balancers_subnet_only() -> None:
    assert rule("connector-health-1") == ("tcp", 9091, 9091, "10.0.1.0/24")


@pytest.mark.engine
def test_backend_tcp_8080_is_open_to_the_connectors_group_only() -> None:
    assert rule("backend-http-app")[:3] == ("tcp", 8080, 8080)
    assert depends("groups-backend-http-app") == {"groups-backend", "groups-connector"}
    assert not {"cidrIpv4", "cidrIpv6"} & set(inputs("groups-backend-http-app"))


@pytest.mark.engine
def test_backend_tcp_27960_is_open_to_the_connectors_group_only() -> None:
    assert rule("backend-quakekube")[:3] == ("tcp", 27960, 27960)
    assert depends("groups-backend-quakekube") == {"groups-backend", "groups-connector"}
    assert not {"cidrIpv4", "cidrIpv6"} & set(inputs("groups-backend-quakekube"))


@pytest.mark.engine
@pytest.mark.parametrize("group", ["intermediate", "connector"])
def test_relay_and_connector_may_reach_everything(group: str) -> None:
    assert rule(f"{group}-out-v4") == ("-1", None, None, ANYWHERE)
    assert rule(f"{group}-out-v6") == ("-1", None, None, "::/0")


@pytest.mark.engine
def test_backends_may_reach_https_only() -> None:
    assert rule("backend-out-443") == ("tcp", 443, 443, ANYWHERE)


@pytest.mark.engine
def test_no_other_rule_lets_anything_in() -> None:
    names = {item.name for item in graph().of_type("aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule")}
    assert names == {
        "groups-intermediate-quic-v4", "groups-intermediate-quic-v6", "groups-intermediate-ssh-1",
        "groups-connector-udp-v4", "groups-connector-udp-v6", "groups-connector-health-1",
        "groups-backend-http-app", "groups-backend-quakekube",
    }  # fmt: skip


# -- the relay's machine -----------------------------------------------------------------------------------------------


@pytest.mark.engine
def test_the_metadata_service_demands_version_2() -> None:
    assert inputs("relay-instance-1")["metadataOptions"] == {
        "httpEndpoint": "enabled",
        "httpTokens": "required",
        "httpPutResponseHopLimit": 1,
    }


@pytest.mark.engine
def test_the_root_volume_is_encrypted_gp3() -> None:
    disk = inputs("relay-instance-1")["rootBlockDevice"]
    assert (disk["encrypted"], disk["volumeType"], disk["volumeSize"]) == (True, "gp3", 8)


@pytest.mark.engine
def test_the_machine_is_in_the_relays_group_and_its_address_outlives_it() -> None:
    assert "groups-intermediate" in depends("relay-instance-1")
    assert "relay-instance-1" not in depends("relay-address")
    assert depends("relay-association") == {"relay-address", "relay-instance-1"}
    assert {"relay-instance-2", "relay-address"} == depends("relay-association", **OTHER)


@pytest.mark.engine
def test_certificates_carry_the_address_and_wait_for_no_machine() -> None:
    assert "relay-address" in depends("pki-relay-g1-request")
    assert "relay-instance-1" not in depends("pki-relay-g1-request")


# -- images ------------------------------------------------------------------------------------------------------------


@pytest.mark.engine
@pytest.mark.parametrize("repository", ["app-connector", "http-app", "quakekube"])
def test_tags_of_images_cannot_be_moved_and_pushes_are_scanned(repository: str) -> None:
    given = inputs(f"images-{repository}")
    assert given["imageTagMutability"] == "IMMUTABLE"
    assert given["imageScanningConfiguration"] == {"scanOnPush": True}
    policy = json.loads(inputs(f"images-{repository}-lifecycle")["policy"])
    assert [(item["selection"]["tagStatus"], item["selection"]["countNumber"]) for item in policy["rules"]] == [
        ("tagged", 10),
        ("untagged", 7),
    ]


@pytest.mark.engine
def test_images_are_built_at_up_for_the_configured_platforms() -> None:
    given = inputs("images-app-connector-image")
    assert given["platforms"] == ["linux/amd64"]
    assert given["buildOnPreview"] is False
    assert given["exports"][0]["registry"]["compression"] == "zstd"
    assert (given["context"], given["dockerfile"]) == ({"location": "."}, {"location": "Dockerfile"})
    assert (given["target"], inputs("images-http-app-image")["target"]) == ("connector", "http-app")
    assert inputs("images-app-connector-image", **OTHER)["platforms"] == ["linux/amd64", "linux/arm64"]


def test_the_dockerfiles_have_the_stages_that_are_built() -> None:
    text = (ROOT / "Dockerfile").read_text()
    for stage in ("connector", "http-app"):
        assert re.search(rf"^FROM \S+ AS {stage}$", text, re.MULTILINE), stage
    assert "ARG QUAKEKUBE_IMAGE" in (ROOT / "docker/quakekube/Dockerfile").read_text()


# -- the load balancer -------------------------------------------------------------------------------------------------


@pytest.mark.engine
def test_the_load_balancer_listens_on_udp_4434_of_a_fixed_address() -> None:
    listener, balancer = inputs("nlb-listener"), inputs("nlb-balancer")
    assert (listener["protocol"], listener["port"]) == ("UDP", ports.CONNECTOR_UDP)
    assert (balancer["loadBalancerType"], balancer["internal"]) == ("network", False)
    assert balancer["enableCrossZoneLoadBalancing"] is True
    assert {"nlb-address-us-east-2a", "vpc-public-us-east-2a"} <= depends("nlb-balancer")
    assert "securityGroups" not in balancer


@pytest.mark.engine
def test_targets_are_checked_fast_and_let_go_fast() -> None:
    given = inputs("nlb-targets")
    assert (given["targetType"], given["protocol"], given["port"]) == ("ip", "UDP", 4434)
    assert given["deregistrationDelay"] == 5
    check = given["healthCheck"]
    assert (check["protocol"], check["port"]) == ("TCP", "9091")
    assert 5 <= check["interval"] <= 10
    assert check["timeout"] <= check["interval"]
    assert (check["healthyThreshold"], check["unhealthyThreshold"]) == (2, 2)


@pytest.mark.engine
def test_the_clients_address_is_preserved() -> None:
    assert inputs("nlb-targets")["preserveClientIp"] == "true"


# -- services ----------------------------------------------------------------------------------------------------------


@pytest.mark.engine
@pytest.mark.parametrize("workload", WORKLOADS)
def test_a_failed_deployment_goes_back(workload: str) -> None:
    given = inputs(f"services-{workload}")
    assert given["deploymentCircuitBreaker"] == {"enable": True, "rollback": True}
    assert given["waitForSteadyState"] is False


@pytest.mark.engine
@pytest.mark.parametrize(("workload", "expected"), [("connector", (0, 100)), ("http-app", (100, 200))])
def test_two_connectors_never_run_at_once_and_backends_are_never_gone(workload: str, expected: tuple[int, int]) -> None:
    given = inputs(f"services-{workload}")
    assert (given["deploymentMinimumHealthyPercent"], given["deploymentMaximumPercent"]) == expected
    assert given["availabilityZoneRebalancing"] == "DISABLED"


@pytest.mark.engine
@pytest.mark.parametrize("workload", WORKLOADS)
def test_tasks_run_in_private_subnets_without_public_address(workload: str) -> None:
    found = depends(f"services-{workload}")
    assert "vpc-private-us-east-2a" in found
    assert "vpc-public-us-east-2a" not in found or workload == "connector"  # by way of the load balancer
    assert inputs(f"services-{workload}")["networkConfiguration"]["assignPublicIp"] is False
    group = "groups-connector" if workload == "connector" else "groups-backend"
    assert group in found


@pytest.mark.engine
def test_tasks_wait_for_the_way_out_and_the_listener() -> None:
    assert {"vpc-private-default", "vpc-private-us-east-2a-route"} <= depends("services-http-app")
    assert {"nlb-listener", "nlb-targets"} <= depends("services-connector")


@pytest.mark.engine
def test_what_takes_long_waits_for_nothing_that_takes_long() -> None:
    """The load balancer (157 s) and the NAT gateway (115 s) come up side by side, images beside both."""
    slow = {"vpc-nat", "nlb-balancer", "relay-instance-1", "images-app-connector-image"}
    found = graph()
    edges = {item.name: {urn.rpartition("::")[2] for urn in item.dependencies} for item in found.nodes if item.custom}

    def before(name: str) -> set[str]:
        direct = edges.get(name, set())
        return direct.union(*(before(item) for item in direct)) if direct else set()

    for name in slow:
        assert not before(name) & (slow - {name}), name


@pytest.mark.engine
def test_without_quakekube_nothing_of_it_is_made() -> None:
    found = graph(**OTHER)
    assert not [item.name for item in found.nodes if "quakekube" in item.name]
    assert inputs("services-http-app", **OTHER)


@pytest.mark.engine
def test_nothing_is_found_by_the_policy_rules() -> None:
    from infra.policy.rules import RULES

    assert [finding for item in RULES for finding in item.check(graph())] == []


@pytest.mark.engine
def test_the_predicted_paths_are_those_of_the_graph() -> None:
    assert traversal.site_of(graph()) == planned().traversal_site


def planned() -> Any:
    """The stack's design by its committed configuration."""
    from components.aws_design import design
    from infra.config_aws import aws_config

    class Source:
        name = STACK

        def get(self, key: str) -> str | None:
            return {"adminCidrs": ADMINS, "quakekube": "true", "quakekubeImage": QUAKEKUBE_IMAGE}.get(key)

    return design(STACK, aws_config(Source()))


# -- the page ----------------------------------------------------------------------------------------------------------


@pytest.mark.engine
def test_the_pages_firewall_table_is_what_is_declared() -> None:
    """Each row stands for the rules of one group, direction, protocol and port."""
    (rows,) = [rows for rows in tables((ROOT / "docs/deploy-aws.md").read_text()).values() if "direction" in rows[0]]
    shown = {(codes(row["group"])[0], row["direction"], row["protocol"], row["port"]) for row in rows}
    declared = set()
    for item in graph().nodes:
        kind = item.type.rpartition(":")[2]
        if kind in ("SecurityGroupIngressRule", "SecurityGroupEgressRule"):
            group = f"ztna-{item.name.split('-')[1]}-sg"
            direction = "in" if "Ingress" in kind else "out"
            protocol = {"-1": "all"}.get(item.inputs["ipProtocol"], item.inputs["ipProtocol"].upper())
            declared.add((group, direction, protocol, str(item.inputs.get("fromPort", "all"))))
    assert shown == declared
