"""The ruleset of a connector in TUN mode as text, and as nft understands it."""

import shutil
import subprocess

import pytest

from ztna.io.session.tun_rules import TunRules, Way, ways
from ztna.proto.gateway_types import Backend, GatewayService, PortRule

WEB = GatewayService(
    id="web",
    virtual_ip=0x64400064,
    ports=(PortRule("tcp", 80, Backend("127.0.0.1", 8080)), PortRule("udp", 53, Backend("dns.lan", 5353))),
)
ANY = GatewayService(id="any", virtual_ip=0x64400065, backend=Backend("10.0.0.7", 9999))
UDP_ONLY = GatewayService(id="udp", virtual_ip=0x64400066, backend=Backend("10.0.0.8", 53), protocol="udp")


def rules(*services: GatewayService, **changes: object) -> TunRules:
    values: dict[str, object] = {
        "device": "ztnac0",
        "comment": "ztna pid=1",
        "ways": ways(services),
        "resolved": {"127.0.0.1": "127.0.0.1", "10.0.0.7": "10.0.0.7", "10.0.0.8": "10.0.0.8"},
        "services": ["100.64.0.100", "100.64.0.101"],
    }
    return TunRules(**{**values, **changes})  # type: ignore[arg-type]


def test_ways_are_the_ports_of_a_list_or_all_of_a_protocol() -> None:
    assert ways([WEB, ANY, UDP_ONLY]) == [
        Way("100.64.0.100", "tcp", 80, Backend("127.0.0.1", 8080)),
        Way("100.64.0.100", "udp", 53, Backend("dns.lan", 5353)),
        Way("100.64.0.101", "tcp", None, Backend("10.0.0.7", 9999)),
        Way("100.64.0.101", "udp", None, Backend("10.0.0.7", 9999)),
        Way("100.64.0.102", "udp", None, Backend("10.0.0.8", 53)),
    ]


def test_only_admitted_ports_are_translated() -> None:
    text = rules(WEB, ANY).text()
    assert [line.strip() for line in text.splitlines() if "dnat ip to" in line] == [
        'iifname "ztnac0" ip daddr 100.64.0.100 tcp dport 80 dnat ip to 127.0.0.1:8080',
        'iifname "ztnac0" ip daddr 100.64.0.101 meta l4proto tcp dnat ip to 10.0.0.7:9999',
        'iifname "ztnac0" ip daddr 100.64.0.101 meta l4proto udp dnat ip to 10.0.0.7:9999',
    ]


def test_a_backend_whose_name_is_not_known_is_not_admitted() -> None:
    assert "5353" not in rules(WEB).text()
    assert "dnat ip to 10.9.9.9:5353" in rules(WEB, resolved={"dns.lan": "10.9.9.9"}).text()


def test_the_host_becomes_a_router_for_nobody_else() -> None:
    assert "guard" not in rules(WEB).text()
    assert "meta mark & 0xff000000 != 0x5a000000 drop" in rules(WEB, guarded=True).text()


def test_a_second_local_address_answers_as_itself() -> None:
    assert "ip daddr 10.0.0.7 meta l4proto udp snat ip to 10.0.0.7" in rules(ANY, local=["10.0.0.7"]).text()


def test_the_table_is_named_by_the_device() -> None:
    assert rules(WEB, device="ztna-c.1").table == "ztna_connector_ztna_c_1"


@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize("local", [[], ["10.0.0.7"]])
def test_nft_takes_the_text(guarded: bool, local: list[str]) -> None:
    nft = shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin")
    assert nft is not None, "nft is missing: apt-get install nftables"
    text = rules(WEB, ANY, UDP_ONLY, guarded=guarded, local=local).text()
    done = subprocess.run(
        ["unshare", "-rn", nft, "-c", "-f", "-"], input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
