"""Where the relay refuses to send, whoever proves to be there."""

import pytest

from ztna.proto.paths.stun_types import Endpoint
from ztna.proto.relay_addresses import RelayAddresses, canonical

OWN = RelayAddresses(own_hosts={"198.51.100.1", "2001:db8::1"}, own_ports={4433, 4434})


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("127.0.0.1", "loopback"),
        ("127.9.9.9", "loopback"),
        ("::1", "loopback"),
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "unspecified"),
        ("::", "unspecified"),
        ("169.254.169.254", "link_local"),
        ("fe80::1", "link_local"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("255.255.255.255", "broadcast"),
        ("240.0.0.1", "broadcast"),
        ("198.51.100.1", "own_host"),
        ("2001:db8::1", "own_host"),
        ("no address", "malformed"),
        ("", "malformed"),
        ("198.51.100.2", None),
        ("10.0.0.1", None),
        ("100.64.0.1", None),
        ("2001:db8::2", None),
    ],
)
def test_hosts(host: str, reason: str | None) -> None:
    assert OWN.refusal(Endpoint(host, 5000)) == reason


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_ports_that_are_none(port: int) -> None:
    assert OWN.refusal(Endpoint("198.51.100.2", port)) == "unspecified"


@pytest.mark.parametrize("host", ["127.0.0.1", "198.51.100.1", "2001:db8::1", "::1"])
def test_a_peer_on_this_host_may_be_allowed_but_never_our_own_ports(host: str) -> None:
    subject = RelayAddresses(own_hosts=OWN.own_hosts, own_ports=OWN.own_ports, allow_own_host=True)
    assert subject.refusal(Endpoint(host, 5000)) is None
    for allowed in (subject, OWN):
        assert allowed.refusal(Endpoint(host, 4433)) == "own_port"
        assert allowed.refusal(Endpoint(host, 4434)) == "own_port"


def test_another_host_may_use_the_same_port() -> None:
    assert OWN.refusal(Endpoint("198.51.100.2", 4433)) is None


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("nonsense", "nonsense"),
    ],
)
def test_each_address_has_one_text(host: str, text: str) -> None:
    assert canonical(host, 7) == Endpoint(text, 7)


def test_a_link_local_address_with_a_scope_is_refused() -> None:
    assert OWN.refusal(canonical("fe80::1%eth0", 5)) == "link_local"
