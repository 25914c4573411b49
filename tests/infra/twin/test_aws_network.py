"""The twin's VPC from the store: routes, groups, addresses, refusals. That they hold is shown by test_aws_fabric."""

from pathlib import Path

import pytest

from infra.twin import aws_fabric, aws_view
from infra.twin.aws_view import TASK, Eni, View
from infra.twin.interface import Json, TwinError
from infra.twin.store import Item
from tests.infra.twin.aws_account import Account
from tests.infra.twin.sites import noted_site

ANYWHERE = "0.0.0.0/0"


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Account:
    account = Account(noted_site(tmp_path, monkeypatch))
    account.network()
    return account


def view(account: Account) -> View:
    """The VPC as the store has it."""
    return View(account.site.store.items(), account.ids["vpc"])


def plug(account: Account, name: str, subnet: str, *groups: str) -> Eni:
    """Something with an interface in a subnet."""

    def fill(number: int, items: list[Item]) -> tuple[str, Json]:
        there = next(item for item in items if item.id == account.ids[subnet])
        eni = Eni(
            id=f"eni-{name}", subnet=there.id, address=aws_view.free_address(items, there), device=f"eni{number}",
            host=name, groups=tuple(account.ids[group] for group in groups),
        )  # fmt: skip
        return name, {"inputs": {}, "enis": [eni.to_json()]}

    (eni,) = aws_view.enis_of(account.site.store.begin(name, TASK, fill))
    return eni


def chain(text: str, name: str) -> list[str]:
    """The rules of a chain."""
    body = text.split(f"  chain {name} {{\n")[1].split("\n  }")[0]
    return [line.strip() for line in body.splitlines()]


def test_the_first_four_addresses_of_a_subnet_are_not_given_out(account: Account) -> None:
    account.group("g")
    assert [plug(account, name, "private", "g").address for name in "ab"] == ["10.0.2.4", "10.0.2.5"]


def test_a_subnet_that_is_full_says_so(account: Account) -> None:
    account.make("Subnet", "small", vpcId=account.ids["vpc"], cidrBlock="10.0.9.0/28")
    account.group("g")
    for number in range(11):
        plug(account, f"t{number}", "small", "g")
    with pytest.raises(TwinError, match="InsufficientFreeAddressesInSubnet"):
        plug(account, "one-more", "small", "g")


def test_a_private_subnet_goes_out_by_the_nat_gateway(account: Account) -> None:
    account.group("g")
    account.allow("Egress", "https", "g", "tcp", 443, cidrIpv4=ANYWHERE)
    eni = plug(account, "task", "private", "g")
    assert view(account).way_out(eni) == ""
    script = aws_fabric.router_script(view(account))
    subnets = view(account).subnets
    table = aws_fabric.TABLES_FROM + subnets[account.ids["private"]].number
    assert f"route replace default via 169.254.200.2 dev nat{nat_number(account)} table {table} proto 202" in script
    table = aws_fabric.TABLES_FROM + subnets[account.ids["public"]].number
    assert f"route replace default via 198.18.11.1 dev eth0 table {table} proto 202" in script


def nat_number(account: Account) -> int:
    """The number of the NAT gateway."""
    return next(item.number for item in account.site.store.items(aws_view.NAT))


def test_without_its_route_a_private_subnet_has_no_way_out(account: Account) -> None:
    account.group("g")
    account.allow("Egress", "https", "g", "tcp", 443, cidrIpv4=ANYWHERE)
    eni = plug(account, "task", "private", "g")
    account.remove("Route", "through")
    assert "has no route to 0.0.0.0/0" in view(account).way_out(eni)
    table = aws_fabric.TABLES_FROM + view(account).subnets[account.ids["private"]].number
    assert f"route replace unreachable default table {table}" in aws_fabric.router_script(view(account))


def test_a_nat_gateway_in_a_subnet_without_way_out_is_none(account: Account) -> None:
    account.group("g")
    account.allow("Egress", "https", "g", "tcp", 443, cidrIpv4=ANYWHERE)
    eni = plug(account, "task", "private", "g")
    account.remove("Route", "out")
    assert f"{account.ids['nat']} has no way out" in view(account).way_out(eni)


def test_a_group_that_lets_nothing_out_is_no_way_out(account: Account) -> None:
    account.group("g")
    account.allow("Egress", "dns", "g", "udp", 53, cidrIpv4=ANYWHERE)
    assert "no egress rule" in view(account).way_out(plug(account, "task", "private", "g"))


def test_a_public_subnet_needs_an_address_of_its_own(account: Account) -> None:
    account.group("g")
    assert "has no public address" in view(account).way_out(plug(account, "task", "public", "g"))


def test_a_route_to_a_gateway_that_is_gone_is_a_black_hole(account: Account) -> None:
    account.remove("NatGateway", "nat")
    assert "route replace blackhole default table" in aws_fabric.router_script(view(account))


def test_a_rule_that_names_a_group_lets_its_members_in_and_nobody_else(account: Account) -> None:
    account.group("front")
    account.group("back")
    account.allow("Ingress", "from-front", "back", "tcp", 8080, referencedSecurityGroupId=account.ids["front"])
    back = plug(account, "b", "private", "back")
    assert chain(aws_fabric.ruleset(view(account)), f"in-{back.device}") == ["counter drop"], "the group is empty"
    front = plug(account, "f", "private", "front")
    assert chain(aws_fabric.ruleset(view(account)), f"in-{back.device}") == [
        f"ip saddr {{ {front.address} }} tcp dport 8080-8080 return",
        "counter drop",
    ]


def test_rules_as_nftables_says_them(account: Account) -> None:
    account.group("g")
    account.allow("Ingress", "all", "g", "-1", cidrIpv4=ANYWHERE)
    account.allow("Ingress", "v6", "g", "udp", 4433, cidrIpv6="::/0")
    account.make(
        "SecurityGroupIngressRule", "range", securityGroupId=account.ids["g"], ipProtocol="udp", fromPort=1000,
        toPort=2000, cidrIpv4="10.0.0.0/8",
    )  # fmt: skip
    account.allow("Egress", "ping", "g", "icmp", -1, cidrIpv4="10.0.0.0/16")
    eni = plug(account, "t", "private", "g")
    rules = aws_fabric.ruleset(view(account))
    assert chain(rules, f"in-{eni.device}") == [
        "meta nfproto ipv4 return",
        "ip saddr 10.0.0.0/8 udp dport 1000-2000 return",
        "counter drop",
    ]
    assert chain(rules, f"out-{eni.device}") == ["ip daddr 10.0.0.0/16 meta l4proto icmp return", "counter drop"]


def test_a_rule_that_is_gone_lets_nothing_through(account: Account) -> None:
    account.group("g")
    account.allow("Ingress", "ssh", "g", "tcp", 22, cidrIpv4="203.0.113.0/24")
    eni = plug(account, "t", "private", "g")
    assert len(chain(aws_fabric.ruleset(view(account)), f"in-{eni.device}")) == 2
    account.remove("SecurityGroupIngressRule", "ssh")
    assert chain(aws_fabric.ruleset(view(account)), f"in-{eni.device}") == ["counter drop"]


def test_a_load_balancer_spreads_flows_over_the_targets_that_are_healthy(account: Account) -> None:
    balanced(account)
    group = account.site.store.get(aws_view.TARGETS, account.ids["targets"])
    assert group is not None
    address = account.outputs["lb-address"]["publicIp"]

    def sent(*states: str) -> list[str]:
        targets = [
            {"task": index, "address": f"10.0.2.{index}", "port": 4434, "state": state}
            for index, state in enumerate(states, 4)
        ]
        account.site.store.change(group.number, {"targets": targets})
        rules = chain(aws_fabric.ruleset(view(account)), "prerouting")
        return [
            rule.partition(" dnat ip to ")[2]
            for rule in rules
            if rule.startswith(f"ip daddr {address} udp dport 4434 ")
        ]

    assert sent() == []
    assert sent("healthy", "unhealthy") == ["10.0.2.4:4434"]
    assert sent("unhealthy", "draining") == ["10.0.2.4:4434"], "where none is healthy, all take flows"
    assert sent("healthy", "healthy") == [
        "jhash ip saddr . udp sport mod 2 seed 0x5eed map { 0 : 10.0.2.4 . 4434, 1 : 10.0.2.5 . 4434 }"
    ]


def balanced(account: Account) -> None:
    """A load balancer with a listener and a target group."""
    account.make("Eip", "lb-address")
    account.make(
        "LoadBalancer", "lb", loadBalancerType="network",
        subnetMappings=[{"subnetId": account.ids["public"], "allocationId": account.ids["lb-address"]}],
    )  # fmt: skip
    account.make(
        "TargetGroup", "targets", vpcId=account.ids["vpc"], targetType="ip", protocol="UDP", port=4434,
        healthCheck={"protocol": "TCP", "port": "9091", "interval": 5, "timeout": 4},
    )  # fmt: skip
    account.make(
        "Listener", "listener", loadBalancerArn=account.ids["lb"], protocol="UDP", port=4434,
        defaultActions=[{"type": "forward", "targetGroupArn": account.ids["targets"]}],
    )  # fmt: skip


def test_what_is_in_use_does_not_go(account: Account) -> None:
    account.group("g")
    balanced(account)
    plug(account, "t", "private", "g")
    for kind, name, code in (
        ("Vpc", "vpc", "DependencyViolation"),
        ("Subnet", "private", "DependencyViolation"),
        ("SecurityGroup", "g", "DependencyViolation"),
        ("RouteTable", "public-table", "DependencyViolation"),
        ("InternetGateway", "igw", "DependencyViolation"),
        ("Eip", "nat-address", "InvalidIPAddress.InUse"),
        ("TargetGroup", "targets", "ResourceInUse"),
    ):
        with pytest.raises(TwinError, match=code):
            account.remove(kind, name)


def test_everything_goes_in_the_other_order_and_nothing_is_left(account: Account) -> None:
    order = [("Route", "through"), ("Route", "out"), ("NatGateway", "nat"), ("Eip", "nat-address")]
    for name in ("public", "private"):
        order += [("RouteTableAssociation", f"{name}-way"), ("RouteTable", f"{name}-table"), ("Subnet", name)]
    for kind, name in (*order, ("InternetGateway", "igw"), ("Vpc", "vpc")):
        account.remove(kind, name)
    assert account.site.store.items() == []


@pytest.mark.parametrize(
    ("kind", "inputs", "code"),
    [
        ("Subnet", {"cidrBlock": "10.0.1.128/25"}, "InvalidSubnet.Conflict"),
        ("Subnet", {"cidrBlock": "10.1.0.0/24"}, "InvalidSubnet.Range"),
        ("SecurityGroup", {"name": "g"}, "InvalidGroup.Duplicate"),
        ("InternetGateway", {}, "Resource.AlreadyAssociated"),
    ],
)
def test_what_the_api_refuses_beside_what_is_there(account: Account, kind: str, inputs: Json, code: str) -> None:
    account.group("g")
    with pytest.raises(TwinError, match=code):
        account.make(kind, "tried", vpcId=account.ids["vpc"], **inputs)


def test_the_same_rule_twice_and_one_to_nowhere(account: Account) -> None:
    account.group("g")
    account.allow("Ingress", "one", "g", "tcp", 22, cidrIpv4="203.0.113.0/24")
    with pytest.raises(TwinError, match=r"InvalidPermission.Duplicate"):
        account.allow("Ingress", "two", "g", "tcp", 22, cidrIpv4="203.0.113.0/24")
    with pytest.raises(TwinError, match=r"InvalidGroup.NotFound"):
        account.allow("Ingress", "three", "g", "tcp", 22, referencedSecurityGroupId="sg-0")
    with pytest.raises(TwinError, match="RouteAlreadyExists"):
        account.make(
            "Route",
            "again",
            routeTableId=account.ids["public-table"],
            destinationCidrBlock=ANYWHERE,
            gatewayId=account.ids["igw"],
        )


def test_a_subnet_is_associated_once(account: Account) -> None:
    with pytest.raises(TwinError, match=r"Resource.AlreadyAssociated"):
        account.make(
            "RouteTableAssociation", "again", subnetId=account.ids["public"], routeTableId=account.ids["private-table"]
        )


@pytest.mark.parametrize(
    ("kind", "inputs", "what"),
    [
        ("Vpc", {"cidrBlock": "10.0.0.0/8"}, "InvalidVpc.Range"),
        ("Vpc", {"ipv4IpamPoolId": "x"}, "ipv4IpamPoolId: the twin does not model it"),
        (
            "Subnet",
            {"vpcId": "v", "cidrBlock": "10.0.0.0/24", "availabilityZone": "us-east-2z"},
            "no availability zone",
        ),
        ("Subnet", {"vpcId": "v", "cidrBlock": "10.0.0.0/24", "mapPublicIpOnLaunch": True}, "elastic IPs alone"),
        ("Route", {"routeTableId": "r", "destinationCidrBlock": ANYWHERE}, "exactly one of gatewayId and natGatewayId"),
        ("SecurityGroup", {"vpcId": "v", "ingress": [{"protocol": "-1", "fromPort": 0, "toPort": 0}]}, "ingress"),
        (
            "SecurityGroupIngressRule",
            {"securityGroupId": "g", "ipProtocol": "tcp", "cidrIpv4": ANYWHERE},
            "are required",
        ),
        ("SecurityGroupIngressRule", {"securityGroupId": "g", "ipProtocol": "-1"}, "exactly one of"),
        ("NatGateway", {"subnetId": "s", "allocationId": "a", "connectivityType": "private"}, "no connectivity type"),
        (
            "Listener",
            {"loadBalancerArn": "l", "protocol": "TLS", "port": 443, "defaultActions": []},
            "no protocol of listeners",
        ),
        (
            "TargetGroup",
            {"vpcId": "v", "targetType": "ip", "protocol": "UDP", "port": 1, "healthCheck": {"protocol": "TCP"}},
            "give the port that answers",
        ),
        ("VpcEndpoint", {"vpcId": "v", "serviceName": "com.amazonaws.us-east-2.sqs"}, "no endpoint service"),
        ("Eip", {"region": "eu-west-1"}, "no region 'eu-west-1'"),
    ],
)
def test_what_check_refuses(account: Account, kind: str, inputs: Json, what: str) -> None:
    assert any(what in failure for failure in account.failures(kind, **inputs)), account.failures(kind, **inputs)


def test_an_elastic_ip_is_at_one_place(account: Account) -> None:
    account.make("Subnet", "other", vpcId=account.ids["vpc"], cidrBlock="10.0.3.0/24")
    with pytest.raises(TwinError, match=r"Resource.AlreadyAssociated"):
        account.make("NatGateway", "second", subnetId=account.ids["other"], allocationId=account.ids["nat-address"])
