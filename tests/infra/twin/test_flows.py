"""Connections of an address are forgotten, and those of others stay."""

import socket
import subprocess

import pytest
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTSocket

from infra.twin.flows import forget_flows
from tests.support.netns import in_new_namespace

RULES = """\
table ip t {
  chain c {
    type filter hook output priority 0;
    ct state new accept
  }
}
"""


def known() -> set[str]:
    """Where the tracked connections of this namespace go."""
    with NFCTSocket() as netlink:
        ends = [entry.get_attr("CTA_TUPLE_ORIG").get_attr("CTA_TUPLE_IP") for entry in netlink.dump()]
    return {str(end.get_attr("CTA_IP_V4_DST")) for end in ends}


@pytest.mark.root
def test_flows_of_an_address_are_forgotten_and_those_of_others_stay() -> None:
    def body() -> None:
        subprocess.run(["nft", "-f", "-"], input=RULES, text=True, check=True)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for address in ("127.0.0.2", "127.0.0.3"):
                sender.sendto(b"x", (address, 9))
        assert known() == {"127.0.0.2", "127.0.0.3"}
        assert forget_flows("127.0.0.2") == 1
        assert known() == {"127.0.0.3"}
        assert forget_flows("127.0.0.2") == 0

    in_new_namespace(body)
