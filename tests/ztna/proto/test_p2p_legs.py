"""Direct connections of agents to a connector: who may have one, and which packets pass."""

import pytest

from tests.ztna.proto.intermediate_bed import AGENT_1, AGENT_2, ECHO, HTTP, connector, document, to_echo
from ztna.proto.identity import Identity
from ztna.proto.limits import ConnectorLimits
from ztna.proto.p2p import P2pResponder
from ztna.proto.p2p_legs import Leg, LegRefused, LegTable
from ztna.proto.packet import build_udp
from ztna.proto.policy import Policy
from ztna.proto.stats import ConnectorStats

HOST, OTHER_HOST = "203.0.113.5", "203.0.113.6"
LEGACY = 0x64400001
SERVICES: dict[str, int | None] = {"echo": ECHO, "http": HTTP}
POLICY = Policy.from_json(document())


def agent(name: str = "agent-1", *grants: str) -> Identity:
    granted = frozenset(f"agent:{grant}" for grant in grants or ("echo",))
    return Identity("agent", "lab", name, granted, "aa")


class Bed:
    def __init__(
        self,
        *,
        services: dict[str, int | None] | None = None,
        policy: Policy | None = None,
        anonymous: bool = False,
        limits: ConnectorLimits | None = None,
    ) -> None:
        limits = limits or ConnectorLimits()
        self.responder = P2pResponder(limits, ConnectorStats())
        self.table = LegTable(
            services or SERVICES, responder=self.responder, policy=policy, anonymous=anonymous, limits=limits
        )
        self.stats = self.table.stats

    def open(self, identity: Identity | None = None, host: str = HOST, now: float = 0.0) -> Leg:
        return self.table.open(identity, host, now)

    def refusal(self, identity: Identity | None = None, host: str = HOST, now: float = 0.0) -> str:
        """Try to open; return which counter counted the refusal."""
        before = self.stats.as_dict()
        with pytest.raises(LegRefused):
            self.open(identity, host, now)
        (counter,) = [
            name for name, value in self.stats.as_dict().items() if name.startswith("refused") and value > before[name]
        ]
        return counter.removeprefix("refused_")

    def drop(self, leg: Leg, data: bytes) -> str | None:
        """Feed a DATAGRAM; return why it was dropped, None if it passed."""
        before = self.stats.drops()
        if self.table.admits(leg, data):
            assert self.stats.drops() == before
            return None
        (reason,) = [name for name, value in self.stats.drops().items() if value > before[name]]
        return reason


def test_an_agent_with_a_certificate_needs_no_offer() -> None:
    bed = Bed()
    leg = bed.open(agent())
    assert bed.drop(leg, to_echo()) is None
    assert (len(bed.table), bed.stats.packets, bed.stats.bytes) == (1, 1, len(to_echo()))


def test_only_services_that_the_certificate_grants() -> None:
    bed = Bed()
    leg = bed.open(agent("agent-1", "echo"))
    assert bed.drop(leg, build_udp(AGENT_1, 1, HTTP, 80, b"")) == "destination"
    assert bed.drop(bed.open(agent("agent-1", "*")), build_udp(AGENT_1, 1, HTTP, 80, b"")) is None
    assert bed.refusal(agent("agent-1", "game")) == "grant"


def test_the_policy_must_grant_it_too() -> None:
    narrow = document(agents={"agent-1": {"virtual_ip": "100.64.1.1", "services": ["http"]}})
    bed = Bed(policy=Policy.from_json(narrow))
    assert bed.refusal(agent("agent-1", "echo")) == "grant"
    assert bed.refusal(agent("agent-9", "*")) == "grant"
    leg = bed.open(agent("agent-1", "*"))
    assert bed.drop(leg, to_echo()) == "destination"
    revoked = Bed(policy=Policy.from_json(document(revoked=["spiffe://lab/agent/agent-1"])))
    assert revoked.refusal(agent()) == "grant"


def test_only_agents() -> None:
    assert Bed().refusal(connector()) == "role"


def test_without_a_certificate_nobody_unless_configured() -> None:
    bed = Bed()
    bed.responder.expect(HOST, 0.0, "echo")
    assert bed.refusal() == "certificate"


def test_without_a_certificate_only_from_a_host_that_an_offer_named_and_while_it_counts() -> None:
    bed = Bed(anonymous=True)
    assert bed.refusal() == "host"
    bed.responder.expect(HOST, 0.0, "echo")
    assert bed.refusal(host=OTHER_HOST) == "host"
    assert bed.refusal(now=31.0) == "host"
    leg = bed.open(now=29.0)
    assert bed.drop(leg, to_echo(LEGACY)) is None
    # The offer was for one service.
    assert bed.drop(leg, build_udp(LEGACY, 1, HTTP, 80, b"")) == "destination"


def test_a_host_that_no_offer_named_for_a_service_of_ours_is_none() -> None:
    bed = Bed(anonymous=True)
    bed.responder.expect(HOST, 0.0)
    assert bed.refusal() == "host"
    bed.responder.expect(HOST, 0.0, "game")
    assert bed.refusal() == "host"


def test_what_an_old_offer_named_does_not_come_back_with_a_new_one() -> None:
    bed = Bed(anonymous=True)
    bed.responder.expect(HOST, 0.0, "echo")
    bed.responder.expect(HOST, 40.0, "http")
    assert bed.responder.offered(HOST, 41.0) == {"http"}
    bed.responder.expect(HOST, 41.0, "echo")
    assert bed.responder.offered(HOST, 42.0) == {"http", "echo"}


def test_a_second_anonymous_connection_ends_both() -> None:
    bed = Bed(anonymous=True)
    for host in (HOST, OTHER_HOST):
        bed.responder.expect(host, 0.0, "echo")
    named = bed.open(agent())
    first = bed.open()
    assert bed.refusal(host=OTHER_HOST) == "ambiguous"
    assert (first.alive, bed.stats.ended_ambiguous, named.alive, len(bed.table)) == (False, 1, True, 1)
    assert bed.drop(first, to_echo(LEGACY)) == "control"
    assert bed.open(host=OTHER_HOST).alive


def test_an_anonymous_connection_that_moves_to_an_unknown_host_ends() -> None:
    bed = Bed(anonymous=True)
    bed.responder.expect(HOST, 0.0, "echo")
    leg, named = bed.open(), bed.open(agent())
    bed.table.moved(leg, HOST, 1.0)
    bed.table.moved(named, OTHER_HOST, 1.0)
    assert (leg.alive, named.alive) == (True, True)
    bed.table.moved(leg, OTHER_HOST, 1.0)
    assert (leg.alive, bed.stats.ended_moved) == (False, 1)


def test_the_first_packet_pins_the_inner_source() -> None:
    bed = Bed()
    leg = bed.open(agent())
    assert bed.drop(leg, to_echo(AGENT_1)) is None
    assert bed.drop(leg, to_echo(AGENT_2)) == "source"
    assert bed.drop(leg, to_echo(AGENT_1)) is None


def test_with_a_policy_it_is_the_agents_address_from_the_start() -> None:
    bed = Bed(policy=POLICY)
    leg = bed.open(agent("agent-1"))
    assert bed.drop(leg, to_echo(AGENT_2)) == "source"
    assert bed.drop(leg, to_echo(AGENT_1)) is None


@pytest.mark.parametrize("source", [ECHO, HTTP, 0, 0x7F000001, 0xE0000001, 0xFFFFFFFF])
def test_addresses_that_no_agent_has(source: int) -> None:
    bed = Bed()
    leg = bed.open(agent())
    assert bed.drop(leg, to_echo(source)) == "source"
    assert bed.drop(leg, to_echo(AGENT_1)) is None


def test_an_anonymous_agent_may_not_borrow_an_address_of_the_policy() -> None:
    bed = Bed(policy=POLICY, anonymous=True)
    bed.responder.expect(HOST, 0.0, "echo")
    leg = bed.open()
    assert bed.drop(leg, to_echo(AGENT_1)) == "source"
    assert bed.drop(leg, to_echo(LEGACY)) is None


def test_two_agents_cannot_have_one_address_but_an_agent_may_reconnect() -> None:
    bed = Bed()
    first, again, other = bed.open(agent()), bed.open(agent()), bed.open(agent("agent-2"))
    assert bed.drop(first, to_echo(AGENT_1)) is None
    assert bed.drop(again, to_echo(AGENT_1)) is None
    assert bed.drop(other, to_echo(AGENT_1)) == "source"
    bed.table.close(first)
    bed.table.close(again)
    assert bed.drop(other, to_echo(AGENT_1)) is None


@pytest.mark.parametrize(
    "data",
    [b"", b"\x2f\x04echo" + to_echo(), b"\x01\xcb\x00\x71\x05\xd4\x31", b"\x10\x04echo", b"\x12\x00\x04echo",
     b"\x5a\x10\x00\x00\x00\x2a", b"\x60" + bytes(39)],
    ids=["empty", "service-routed", "observed address", "register", "acknowledgment", "keepalive", "IPv6"],
)  # fmt: skip
def test_what_is_no_packet_is_dropped_and_pins_nothing(data: bytes) -> None:
    bed = Bed()
    leg = bed.open(agent())
    assert bed.drop(leg, data) == "control"
    assert leg.source is None


@pytest.mark.parametrize("data", [b"\x45", to_echo()[:-1], to_echo() + b"x", b"\x4f" + to_echo()[1:]])
def test_malformed_packets_are_dropped(data: bytes) -> None:
    bed = Bed()
    assert bed.drop(bed.open(agent()), data) == "malformed"


def test_a_packet_to_no_service_pins_nothing() -> None:
    bed = Bed()
    leg = bed.open(agent())
    assert bed.drop(leg, build_udp(AGENT_1, 1, 0x0A640001, 1, b"")) == "destination"
    assert leg.source is None


def test_a_single_service_without_an_address_gets_every_packet() -> None:
    bed = Bed(services={"echo": None})
    assert bed.drop(bed.open(agent()), build_udp(AGENT_1, 1, 0x0A640001, 1, b"")) is None


def test_connections_are_bounded_in_all_and_per_agent() -> None:
    bed = Bed(limits=ConnectorLimits(p2p_connections=5, p2p_connections_per_agent=2))
    first = bed.open(agent())
    bed.open(agent())
    assert bed.refusal(agent()) == "limit"
    for number in (2, 3, 4):
        bed.open(agent(f"agent-{number}"))
    assert bed.refusal(agent("agent-5")) == "limit"
    bed.table.close(first)
    bed.table.close(first)
    bed.open(agent("agent-5"))
    assert len(bed.table) == 5
