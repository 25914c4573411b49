"""A VPC in namespaces: packets take the way that routes say, groups hold, gateways translate, the balancer balances."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from infra.lab.topology import Host, Link, Router, Segment, Topology
from infra.twin import aws_fabric, aws_tasks, aws_view
from infra.twin.aws_view import TASK, Eni, View
from infra.twin.interface import Json
from infra.twin.site import Site
from infra.twin.store import Item
from infra.twin.world import US_EAST_2
from tests.infra.twin.aws_account import Account

pytestmark = [pytest.mark.lab, pytest.mark.root]

ANYWHERE = "0.0.0.0/0"
CLIENT = "198.18.0.20"
PORT = 7000

SERVE = """
import socket, sys, threading
def udp(port):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("0.0.0.0", port))
    while True:
        data, source = sock.recvfrom(100)
        sock.sendto(f"{name} {{source[0]}} {{source[1]}}".encode(), source)
for port in ({port}, {port} + 1):
    threading.Thread(target=udp, args=(port,), daemon=True).start()
server = socket.create_server(("0.0.0.0", {port}))
print("ready", flush=True)
while True:
    conn, source = server.accept()
    conn.sendall(f"{name} {{source[0]}} {{source[1]}}".encode())
    conn.close()
"""
ASK = """
import json, socket, sys
kind, own, targets = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
found = []
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("0.0.0.0", own))
for target in targets:
    host, port = target.rsplit(":", 1)
    try:
        if kind == "tcp":
            with socket.create_connection((host, int(port)), 1.5) as conn:
                found.append(conn.recv(100).decode().split())
            continue
        for _ in range(3):
            sock.settimeout(0.5)
            sock.sendto(b"x", (host, int(port)))
            try:
                data, source = sock.recvfrom(100)
                assert source == (host, int(port)), f"{source} answers in place of {host}:{port}"
                found.append(data.decode().split())
                break
            except TimeoutError:
                pass
        else:
            found.append([])
    except OSError:
        found.append([])
print(json.dumps(found))
"""


class Cloud:
    """A VPC in a small world with one client, and things with interfaces that answer on one port."""

    def __init__(self, site: Site) -> None:
        core = US_EAST_2.core
        site.lab.realise(
            Topology(
                segments=(
                    Segment("core", "198.18.0.0/24"),
                    Segment(US_EAST_2.segment, str(US_EAST_2.transit)),
                    Segment("public", str(US_EAST_2.public)),
                ),
                routers=(
                    Router(
                        US_EAST_2.name,
                        (
                            Link(US_EAST_2.segment, f"{US_EAST_2.gateway}/24"),
                            Link("public", f"{US_EAST_2.public[-2]}/24"),
                        ),
                        Link("core", f"{core}/24"),
                    ),
                ),
                hosts=(Host("client", (Link("core", f"{CLIENT}/24"),), gateway=core),),
            )
        )
        self.site = site
        self.account = Account(site)
        self.account.network()
        self.enis: dict[str, Eni] = {}

    def plug(self, name: str, subnet: str, group: str) -> None:
        """Something with an interface, as a task has it."""
        account = self.account

        def fill(number: int, items: list[Item]) -> tuple[str, Json]:
            there = next(item for item in items if item.id == account.ids[subnet])
            eni = Eni(
                id=f"eni-{name}", subnet=there.id, address=aws_view.free_address(items, there), device=f"eni{number}",
                host=name, groups=(account.ids[group],),
            )  # fmt: skip
            return name, {"inputs": {}, "enis": [eni.to_json()]}

        item = self.site.store.begin(name, TASK, fill)
        (self.enis[name],) = aws_view.enis_of(item)
        aws_fabric.ensure_segment(self.site, name)
        eni = self.enis[name]
        view = View(self.site.store.items(), account.ids["vpc"])
        network = view.subnets[eni.subnet].network
        self.site.lab.ensure_host(
            Host(name, (Link(name, f"{eni.address}/{network.prefixlen}"),), gateway=str(network[1]))
        )
        aws_fabric.plug_eni(self.site, view, eni)
        aws_fabric.sync(self.site, account.ids["vpc"])
        self.serve(name)

    def serve(self, name: str) -> None:
        """Answer on the port, with who asked."""
        self.site.lab.spawn(name, "server", [sys.executable, "-ISc", SERVE.format(name=name, port=PORT)], cwd="/")

    def ask(self, place: str, kind: str, *targets: str, own: int = 0) -> list[list[str]]:
        """What answers: name of the server, and address and port that it was asked from; nothing where nothing does."""
        argv = [*self.site.inside(place), sys.executable, "-ISc", ASK, kind, str(own), *targets]
        done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30)
        found: list[list[str]] = json.loads(done.stdout)
        return found

    def at(self, name: str) -> str:
        """Where something answers inside the VPC."""
        return f"{self.enis[name].address}:{PORT}"


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    site = Site(f"test-aws-{os.getpid()}")
    try:
        cloud = Cloud(site)
        account = cloud.account
        for group in ("front", "back"):
            account.group(group)
            account.allow("Egress", f"{group}-out", group, "-1", cidrIpv4=ANYWHERE)
        account.allow("Ingress", "from-front", "back", "tcp", PORT, referencedSecurityGroupId=account.ids["front"])
        account.allow("Ingress", "peers", "front", "udp", PORT, cidrIpv4=ANYWHERE)
        cloud.plug("front", "private", "front")
        cloud.plug("back", "private", "back")
        cloud.plug("outer", "public", "front")
        cloud.serve("client")
        _wait(cloud)
        yield cloud
    finally:
        site.close()


def _wait(cloud: Cloud) -> None:
    """Wait until everything answers."""
    for _ in range(40):
        if all(cloud.ask(name, "tcp", f"127.0.0.1:{PORT}")[0] for name in ("front", "back", "outer", "client")):
            return
    raise AssertionError("the servers do not answer")


def test_a_group_lets_the_members_of_another_in_and_nobody_else(cloud: Cloud) -> None:
    assert cloud.ask("front", "tcp", cloud.at("back"))[0][:2] == ["back", cloud.enis["front"].address]
    assert cloud.ask("back", "tcp", cloud.at("front")) == [[]]
    assert cloud.ask("front", "udp", cloud.at("back")) == [[]], "another protocol"
    assert cloud.ask("client", "tcp", cloud.at("back")) == [[]], "a private address is not reached from outside"


def test_a_private_host_goes_out_by_the_nat_gateway_with_another_port_to_each_destination(cloud: Cloud) -> None:
    address = cloud.account.outputs["nat"]["publicIp"]
    first, second = cloud.ask("front", "udp", f"{CLIENT}:{PORT}", f"{CLIENT}:{PORT + 1}", own=5555)
    assert first[:2] == second[:2] == ["client", address]
    assert first[2] != second[2], "the mapping depends on the destination"
    assert cloud.ask("client", "udp", f"{address}:{first[2]}", own=7777) == [[]], "and so does what it lets in"


def test_a_host_without_public_address_does_not_go_out_by_the_internet_gateway(cloud: Cloud) -> None:
    assert cloud.ask("outer", "udp", f"{CLIENT}:{PORT}") == [[]]


def test_without_the_route_there_is_no_way_out(cloud: Cloud) -> None:
    account = cloud.account
    inputs = dict(account.outputs["through"])
    account.remove("Route", "through")
    try:
        assert cloud.ask("front", "tcp", f"{CLIENT}:{PORT}") == [[]]
        assert cloud.ask("front", "tcp", cloud.at("back"))[0], "inside it is as before"
    finally:
        kept = ("routeTableId", "destinationCidrBlock", "natGatewayId")
        account.make("Route", "through", **{key: inputs[key] for key in kept})
    assert cloud.ask("front", "tcp", f"{CLIENT}:{PORT}")[0]


def test_a_load_balancer_keeps_the_clients_address_and_spreads_by_it(cloud: Cloud) -> None:
    account = cloud.account
    account.make("Eip", "lb-address")
    mapping = {"subnetId": account.ids["public"], "allocationId": account.ids["lb-address"]}
    account.make("LoadBalancer", "lb", loadBalancerType="network", subnetMappings=[mapping])
    account.make(
        "TargetGroup", "targets", vpcId=account.ids["vpc"], targetType="ip", protocol="UDP", port=PORT,
        healthCheck={"protocol": "TCP", "port": str(PORT)},
    )  # fmt: skip
    forward: dict[str, Any] = {"type": "forward", "targetGroupArn": account.ids["targets"]}
    account.make(
        "Listener", "listener", loadBalancerArn=account.ids["lb"], protocol="UDP", port=PORT, defaultActions=[forward]
    )
    where = f"{account.outputs['lb-address']['publicIp']}:{PORT}"
    cloud.plug("front-two", "private", "front")
    group = cloud.site.store.get(aws_view.TARGETS, account.ids["targets"])
    assert group is not None

    def register(**states: str) -> None:
        targets = [
            {"task": name, "address": cloud.enis[name.replace("_", "-")].address, "port": PORT, "state": state}
            for name, state in states.items()
        ]
        cloud.site.store.change(group.number, {"targets": targets})
        aws_fabric.sync(cloud.site, account.ids["vpc"])

    assert cloud.ask("client", "udp", where) == [[]], "there is no target"
    register(front="healthy", front_two="healthy")
    seen = {cloud.ask("client", "udp", where, own=port)[0][0] for port in range(6000, 6012)}
    assert seen == {"front", "front-two"}
    name, source, port = cloud.ask("client", "udp", where, own=6000)[0]
    assert (source, port) == (CLIENT, "6000"), "the target sees the client itself, and answers past the NAT gateway"
    register(
        front="unhealthy" if name == "front" else "healthy", front_two="unhealthy" if name != "front" else "healthy"
    )
    others = {cloud.ask("client", "udp", where, own=port)[0][0] for port in range(6100, 6106)}
    assert others == {"front", "front-two"} - {name}, "new flows go to the healthy one"
    assert cloud.ask("client", "udp", where, own=6000)[0][0] == name, "a flow that is under way stays"


def test_what_is_removed_is_gone(cloud: Cloud) -> None:
    eni = cloud.enis["back"]
    item = cloud.site.store.get(TASK, "back")
    assert item is not None
    aws_tasks.remove(cloud.site, cloud.account.ids["vpc"], item, 0.0)
    assert cloud.ask("front", "tcp", f"{eni.address}:{PORT}") == [[]]
    assert not aws_fabric.exists(cloud.site, "back")
    router = aws_fabric.router_of(cloud.site.store.items(aws_view.VPC)[0])
    shown = subprocess.run(
        [*cloud.site.inside(router), "ip", "-br", "link"], capture_output=True, text=True, check=True
    )
    assert eni.device not in shown.stdout
    assert cloud.enis["front"].device in shown.stdout
