"""The stand-in for DigitalOcean's API answers as the official client expects, and refuses what the API refuses."""

import http.client
import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.fake_do import Failure, FakeDo

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPDaSPD9Lr8ZqNw4XBHYhSsDzZqGYCqyvXpiYOHuCu3J"
ANYWHERE = {"addresses": ["0.0.0.0/0", "::/0"]}


class Client:
    """What godo does, with less of it: bearer token, JSON, an error for what is no success."""

    def __init__(self, url: str, token: str = "secret") -> None:
        self.url, self.token = url, token

    def __call__(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        request = urllib.request.Request(
            f"{self.url}{path if path.startswith('/_') else f'/v2/{path}'}",
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {self.token}"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                text = answer.read()
                return answer.status, json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def droplet(self, **changes: Any) -> int:
        """A new droplet's number."""
        asked = {"name": "ztna-relay", "region": "nyc1", "size": "s-1vcpu-1gb", "image": "ubuntu-24-04-x64"}
        status, made = self("POST", "droplets", asked | changes)
        assert status == 202, made
        return int(made["droplet"]["id"])


@pytest.fixture
def fake() -> Iterator[FakeDo]:
    with FakeDo(ssh_hosts=("127.0.0.1", "127.0.0.2"), domains=("example.org",)) as made:
        yield made


@pytest.fixture
def api(fake: FakeDo) -> Client:
    return Client(fake.url)


def test_a_droplet_boots_in_steps_and_reports_the_configured_address(api: Client) -> None:
    vpc = api("POST", "vpcs", {"name": "v", "region": "nyc1", "ip_range": "10.77.0.0/24"})[1]["vpc"]
    key = api("POST", "account/keys", {"name": "k", "public_key": KEY})[1]["ssh_key"]
    asked = {
        "ssh_keys": [key["id"]],
        "vpc_uuid": vpc["id"],
        "ipv6": True,
        "monitoring": True,
        "user_data": "#cloud-config",
    }
    number = api.droplet(**asked, tags=["project:ztna"])
    states = [api("GET", f"droplets/{number}")[1]["droplet"] for _ in range(2)]
    assert [state["status"] for state in states] == ["new", "active"]
    addresses = {entry["type"]: entry["ip_address"] for entry in states[1]["networks"]["v4"]}
    assert addresses["public"] == "127.0.0.1"
    assert addresses["private"].startswith("10.77.0.")
    assert states[1]["networks"]["v6"][0]["type"] == "public"
    assert {"ipv6", "monitoring"} <= set(states[1]["features"])
    assert (states[1]["size"]["slug"], states[1]["region"]["slug"]) == ("s-1vcpu-1gb", "nyc1")
    assert states[1]["vpc_uuid"] == vpc["id"]
    assert api("GET", f"/_fake/droplets/{number}/user_data")[1] == {"user_data": "#cloud-config"}
    assert api("GET", "droplets?tag_name=project:ztna")[1]["meta"]["total"] == 1
    assert api("GET", "tags/project:ztna")[1]["tag"]["resources"]["droplets"]["count"] == 1


def test_actions_of_a_droplet_end_for_whoever_polls_their_list(api: Client) -> None:
    number = api.droplet()
    looks = [api("GET", f"droplets/{number}/actions?per_page=50")[1]["actions"] for _ in range(3)]
    assert [action["status"] for action in looks[0]] == ["in-progress"]
    assert [action["status"] for action in looks[-1]] == ["completed"]


def test_a_reserved_address_moves_to_another_droplet_and_outlives_both(api: Client) -> None:
    first, second = api.droplet(), api.droplet()
    status, made = api("POST", "reserved_ips", {"region": "nyc1"})
    assert (status, made["reserved_ip"]["droplet"]) == (202, None)
    address = made["reserved_ip"]["ip"]
    assert api("POST", f"reserved_ips/{address}/actions", {"type": "assign", "droplet_id": first})[0] == 422, "booting"
    for number in (first, first, second, second):
        api("GET", f"droplets/{number}")
    for number in (first, second):
        status, action = api("POST", f"reserved_ips/{address}/actions", {"type": "assign", "droplet_id": number})
        assert status == 201
        looks = [api("GET", f"reserved_ips/{address}/actions/{action['action']['id']}")[1]["action"] for _ in range(2)]
        assert [look["status"] for look in looks] == ["in-progress", "completed"]
        assert api("GET", f"reserved_ips/{address}")[1]["reserved_ip"]["droplet"]["id"] == number
    assert api("DELETE", f"droplets/{first}")[0] == 204
    assert api("GET", f"reserved_ips/{address}")[1]["reserved_ip"]["droplet"]["id"] == second
    assert api("DELETE", f"droplets/{second}")[0] == 204
    assert api("GET", f"reserved_ips/{address}")[1]["reserved_ip"]["droplet"] is None
    assert api("POST", f"reserved_ips/{address}/actions", {"type": "unassign"})[0] == 422
    assert api("DELETE", f"reserved_ips/{address}")[0] == 204
    assert api("GET", f"reserved_ips/{address}")[0] == 404


def test_a_firewall_keeps_its_rules_in_the_apis_form(api: Client) -> None:
    number = api.droplet()
    asked = {
        "name": "relay",
        "droplet_ids": [number],
        "inbound_rules": [{"protocol": "udp", "ports": "4433", "sources": ANYWHERE}],
        "outbound_rules": [
            {"protocol": "icmp", "destinations": ANYWHERE},
            {"protocol": "tcp", "ports": "all", "destinations": ANYWHERE},
        ],
    }
    status, made = api("POST", "firewalls", asked)
    assert status == 202
    firewall = made["firewall"]
    assert firewall["inbound_rules"] == asked["inbound_rules"]
    assert [rule["ports"] for rule in firewall["outbound_rules"]] == ["0", "0"]
    assert (firewall["tags"], firewall["pending_changes"], firewall["status"]) == ([], [], "succeeded")
    changed = asked | {"inbound_rules": [{"protocol": "udp", "ports": "4434", "sources": ANYWHERE}]}
    assert api("PUT", f"firewalls/{firewall['id']}", changed)[1]["firewall"]["inbound_rules"][0]["ports"] == "4434"
    assert api("GET", f"droplets/{number}/firewalls")[1]["meta"]["total"] == 1
    api("DELETE", f"droplets/{number}")
    assert api("GET", f"firewalls/{firewall['id']}")[1]["firewall"]["droplet_ids"] == []
    assert api("DELETE", f"firewalls/{firewall['id']}") == (204, None)


def test_keys_records_and_tags_are_made_changed_and_removed(api: Client) -> None:
    key = api("POST", "account/keys", {"name": "k", "public_key": KEY})[1]["ssh_key"]
    assert key["fingerprint"].count(":") == 15
    assert api("GET", f"account/keys/{key['fingerprint']}")[1]["ssh_key"]["id"] == key["id"]
    assert api("PUT", f"account/keys/{key['id']}", {"name": "other"})[1]["ssh_key"]["name"] == "other"
    assert api("DELETE", f"account/keys/{key['id']}")[0] == 204
    asked = {"type": "A", "name": "relay", "data": "198.51.100.1", "ttl": 300}
    record = api("POST", "domains/example.org/records", asked)[1]["domain_record"]
    path = f"domains/example.org/records/{record['id']}"
    assert asked.items() <= api("GET", path)[1]["domain_record"].items()
    assert api("PUT", path, {"data": "198.51.100.2"})[1]["domain_record"]["data"] == "198.51.100.2"
    assert api("DELETE", path)[0] == 204
    assert api("GET", "domains/example.net/records")[0] == 404
    number = api.droplet()
    assert api("POST", "tags", {"name": "run:blue"})[0] == 201
    resources = {"resources": [{"resource_id": str(number), "resource_type": "droplet"}]}
    assert api("POST", "tags/run:blue/resources", resources)[0] == 204
    assert api("GET", f"droplets/{number}")[1]["droplet"]["tags"] == ["run:blue"]
    assert api("DELETE", "tags/run:blue/resources", resources)[0] == 204
    assert api("GET", "account")[1]["account"]["status"] == "active"


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "droplets", {"name": "x", "region": "moon1", "size": "s-1vcpu-1gb", "image": "ubuntu-24-04-x64"}, 422),
        ("POST", "droplets", {"name": "x", "region": "nyc1", "size": "huge", "image": "ubuntu-24-04-x64"}, 422),
        ("POST", "droplets", {"name": "x", "region": "nyc1", "size": "s-1vcpu-1gb", "image": "minix"}, 422),
        ("POST", "account/keys", {"name": "k", "public_key": "no key"}, 422),
        ("POST", "vpcs", {"name": "v", "region": "nyc1", "ip_range": "8.8.8.0/24"}, 422),
        ("POST", "firewalls", {"name": "f", "inbound_rules": [], "outbound_rules": []}, 422),
        ("POST", "firewalls", {"name": "f", "inbound_rules": [{"protocol": "udp", "sources": ANYWHERE}]}, 422),
        ("POST", "tags", {"name": "no spaces"}, 422),
        ("GET", "droplets/77", None, 404),
        ("GET", "nothing", None, 404),
    ],
)  # fmt: skip
def test_what_the_api_refuses_is_refused(api: Client, method: str, path: str, body: Any, status: int) -> None:
    found, answer = api(method, path, body)
    assert (found, set(answer) >= {"id", "message"}) == (status, True)


def test_a_vpc_with_members_stays_and_ranges_do_not_overlap(api: Client) -> None:
    vpc = api("POST", "vpcs", {"name": "v", "region": "nyc1", "ip_range": "10.77.0.0/24"})[1]["vpc"]
    assert api("POST", "vpcs", {"name": "w", "region": "nyc1", "ip_range": "10.77.0.0/16"})[0] == 422
    number = api.droplet(vpc_uuid=vpc["id"])
    assert api("DELETE", f"vpcs/{vpc['id']}")[0] == 403
    api("DELETE", f"droplets/{number}")
    assert api("DELETE", f"vpcs/{vpc['id']}")[0] == 204


def test_a_droplet_is_resized_only_while_it_is_off(api: Client) -> None:
    number = api.droplet()
    asked = {"type": "resize", "size": "s-2vcpu-2gb", "disk": False}
    assert api("POST", f"droplets/{number}/actions", asked)[0] == 422
    assert api("POST", f"droplets/{number}/actions", {"type": "power_off"})[0] == 201
    assert api("POST", f"droplets/{number}/actions", asked)[0] == 201
    droplet = api("GET", f"droplets/{number}")[1]["droplet"]
    assert (droplet["size_slug"], droplet["vcpus"], droplet["disk"]) == ("s-2vcpu-2gb", 2, 25)


def test_lists_come_in_pages_with_links_and_a_total(api: Client) -> None:
    numbers = [api.droplet() for _ in range(5)]
    seen: list[int] = []
    path = "droplets?per_page=2"
    while path:
        answer = api("GET", path)[1]
        assert answer["meta"] == {"total": 5}
        seen += [droplet["id"] for droplet in answer["droplets"]]
        path = answer["links"].get("pages", {}).get("next", "").partition("/v2/")[2]
        assert ("last" in answer["links"]["pages"]) == bool(path)
    assert seen == numbers
    assert api("GET", "droplets")[1]["links"] == {}, "one page has no links"


def test_only_a_bearer_of_the_token_is_answered() -> None:
    with FakeDo(token="right") as fake:
        assert Client(fake.url, "wrong")("GET", "account")[0] == 401
        assert Client(fake.url, "right")("GET", "account")[0] == 200


def test_failures_are_injected_as_asked_for(fake: FakeDo, api: Client) -> None:
    fake.failures.append(Failure("GET", "/v2/account", status=500, times=2))
    assert [api("GET", "account")[0] for _ in range(3)] == [500, 500, 200]
    api("POST", "/_fake/failures", {"method": "POST", "path": "/v2/tags", "status": 503, "after": True})
    assert api("POST", "tags", {"name": "made"})[0] == 503
    assert api("GET", "tags/made")[0] == 200, "carried out, and only the answer was lost"
    fake.failures.append(Failure("GET", "/v2/account", status=0))
    with pytest.raises((http.client.RemoteDisconnected, urllib.error.URLError, ConnectionError)):
        api("GET", "account")
    assert fake.requests[-1] == ("GET", "/v2/account", 0)


def test_it_runs_as_a_program_and_ends_on_sigterm() -> None:
    command = [sys.executable, "-m", "tests.support.fake_do", "--port", "0", "--ssh-host", "127.0.0.9"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        api = Client(process.stdout.readline().strip())
        number = api.droplet()
        assert api("GET", f"droplets/{number}")[1]["droplet"]["networks"]["v4"][0]["ip_address"] == "127.0.0.9"
        process.terminate()
        assert process.wait(5) == 0
