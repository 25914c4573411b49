"""Membership: what is told to whom when registrations change, for both protocols alike."""

from tests.ztna.proto.intermediate_bed import agent, connector, document
from ztna.proto.flows import FlowTable
from ztna.proto.limits import IntermediateLimits
from ztna.proto.membership import DENIED, LIMIT, STANDBY, Membership, peer_name
from ztna.proto.policy import Policy
from ztna.proto.registry import Peer, Registry, Service
from ztna.proto.stats import IntermediateStats

ADDRESS = ("203.0.113.5", 1)


class Rig:
    """A membership that tells the test."""

    def __init__(self) -> None:
        limits, self.stats = IntermediateLimits(services_per_connection=2), IntermediateStats()
        self.told: list[tuple[str, str, str | None]] = []
        self.changed: list[tuple[str, str | None]] = []
        self.registry = Registry()
        self.members = Membership(
            self.registry,
            FlowTable(limits, self.stats),
            Policy.from_json(document()),
            allow_anonymous=False,
            limits=limits,
            stats=self.stats,
            tell=self,
            note=lambda *_, **__: None,
            switch_s=10.0,
        )

    def registration(self, peer: Peer, role: str, service_id: str, refusal: str | None) -> None:
        self.told.append((peer_name(peer), service_id, refusal))

    def service_changed(self, service: Service) -> None:
        self.changed.append((service.id, None if service.connector is None else peer_name(service.connector)))

    def connector(self, conn: int, name: str, claimed: int, protocol: int = 2) -> Peer:
        peer = self.registry.add(conn, connector(name), ADDRESS, protocol)
        peer.claimed = claimed
        return peer


def test_a_claim_is_answered_and_only_changes_are_told() -> None:
    rig = Rig()
    peer = rig.connector(1, "connector", 1)
    assert rig.members.register(peer, "connector", "echo", 0.0) is None
    assert rig.members.register(peer, "connector", "echo", 1.0) is None
    assert (rig.told, rig.changed, rig.stats.registrations) == ([], [("echo", "connector")], 2)
    rig.members.left(peer, 2.0)
    assert rig.changed[1:] == [("echo", None)]


def test_refusals_have_reasons() -> None:
    rig = Rig()
    holder, other = rig.connector(1, "connector", 1), rig.connector(2, "other", 1)
    narrow, legacy = rig.connector(3, "narrow", 1), rig.connector(4, "other", 0, protocol=1)
    member = rig.registry.add(5, agent(), ADDRESS, 2)
    for service in ("echo", "http"):
        assert rig.members.register(holder, "connector", service, 0.0) is None
    claims = {
        STANDBY: [(other, "connector", "echo"), (other, "connector", "echo")],
        DENIED: [(narrow, "connector", "http"), (legacy, "connector", "echo"), (member, "connector", "echo")],
        LIMIT: [(holder, "connector", "game")],
    }
    for code, asked in claims.items():
        assert [rig.members.register(*claim, 0.0) for claim in asked] == [code] * len(asked)
    assert rig.stats.registrations_refused == 4


def test_a_standby_counts_against_the_bound_of_its_connection() -> None:
    rig = Rig()
    holder, other = rig.connector(1, "connector", 1), rig.connector(2, "other", 1)
    for service in ("echo", "http"):
        rig.members.register(holder, "connector", service, 0.0)
    claims = [rig.members.register(other, "connector", service, 0.0) for service in ("echo", "http", "game", "echo")]
    assert claims == [STANDBY, STANDBY, LIMIT, STANDBY]


def test_the_first_standby_that_may_serve_follows() -> None:
    rig = Rig()
    holder, narrow, other = (rig.connector(n, name, 1) for n, name in enumerate(("connector", "narrow", "other"), 1))
    for peer in (holder, narrow, other):
        rig.members.register(peer, "connector", "echo", 0.0)
    barred = document()
    barred["connectors"]["narrow"]["services"] = []
    rig.members.apply_policy(Policy.from_json(barred), 1.0)
    assert rig.told == [("narrow", "echo", DENIED)]
    rig.members.left(holder, 2.0)
    assert rig.told[1:] == [("other", "echo", None)]
    assert rig.changed == [("echo", "connector"), ("echo", "other")]


def test_a_takeover_that_had_to_wait_happens_by_itself() -> None:
    rig = Rig()
    processes = [rig.connector(number, "connector", number) for number in (1, 2, 3)]
    assert [rig.members.register(each, "connector", "echo", 100.0) for each in processes] == [None, None, STANDBY]
    assert rig.told == [("connector", "echo", STANDBY)]
    assert rig.members.get_timer() == 110.0
    rig.members.handle_timer(110.0)
    assert rig.told[1:] == [("connector", "echo", STANDBY), ("connector", "echo", None)]
    assert (rig.registry.services[b"echo"].connector, rig.members.get_timer()) == (processes[2], None)


def test_a_takeover_whose_claimant_left_does_not_happen() -> None:
    rig = Rig()
    processes = [rig.connector(number, "connector", number) for number in (1, 2, 3)]
    for each in processes:
        rig.members.register(each, "connector", "echo", 100.0)
    rig.members.left(processes[2], 101.0)
    rig.members.handle_timer(110.0)
    assert rig.registry.services[b"echo"].connector is processes[1]
    assert rig.members.get_timer() is None
