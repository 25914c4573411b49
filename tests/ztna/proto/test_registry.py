"""Registry: who holds a service, who succeeds whom, and nothing left behind."""

from tests.ztna.proto.intermediate_bed import agent, connector
from ztna.proto.registry import Claim, Peer, Registry, Service

ADDRESS = ("203.0.113.5", 1)


def registry() -> tuple[Registry, Service]:
    subject = Registry()
    return subject, subject.service(b"echo", "echo", None)


def test_a_service_is_made_once_and_forgotten_when_unused() -> None:
    subject, service = registry()
    assert subject.service(b"echo", "echo", 5) is service
    peer = subject.add(1, agent(), ADDRESS)
    subject.join(peer, service)
    subject.leave(peer, service)
    assert subject.services == {}
    assert peer.reach == {}


def test_a_service_stays_while_one_side_is_there() -> None:
    subject, service = registry()
    member, holder = subject.add(1, agent(), ADDRESS), subject.add(2, connector(), ADDRESS)
    subject.join(member, service)
    assert subject.take(holder, service) is None
    subject.remove(member)
    assert subject.services == {b"echo": service}
    assert service.agents == {}
    subject.remove(holder)
    assert (subject.services, subject.peers) == ({}, {})


def test_taking_over_leaves_the_previous_holder_its_other_services() -> None:
    subject, service = registry()
    other = subject.service(b"http", "http", None)
    older, newer = subject.add(1, connector(), ADDRESS), subject.add(2, connector(), ADDRESS)
    subject.take(older, service)
    subject.take(older, other)
    assert subject.take(newer, service) is older
    assert subject.take(newer, service) is None
    assert older.serving == {b"http": other}
    subject.remove(older)
    assert service.connector is newer
    subject.release(older, service)
    assert service.connector is newer


def test_who_may_take() -> None:
    subject, service = registry()
    older = subject.add(1, connector(), ADDRESS)
    newer = subject.add(2, connector(), ADDRESS)
    foreign = subject.add(3, connector("other"), ADDRESS)
    anonymous = subject.add(4, None, ADDRESS)
    everybody = [older, newer, foreign, anonymous]

    def allowed() -> list[bool]:
        return [subject.may_take(peer, b"echo") for peer in everybody]

    assert allowed() == [True] * 4
    subject.take(anonymous, service)
    assert allowed() == [True] * 4
    subject.take(older, service)
    assert allowed() == [True, True, False, False]
    subject.take(newer, service)
    assert allowed() == [False, True, False, False]


def test_succession_is_by_identity_and_age_and_ends_with_the_successor() -> None:
    subject, service = registry()
    old, other, new = (subject.add(n, agent(name), ADDRESS) for n, name in ((1, "a"), (2, "b"), (3, "a")))
    anonymous = [subject.add(n, None, ADDRESS) for n in (4, 5)]
    for peer in (new, old, other, *anonymous):
        subject.join(peer, service)

    def successors() -> list[Peer | None]:
        return [peer.successor for peer in (old, other, new, *anonymous)]

    assert successors() == [new, None, None, None, None]
    subject.remove(new)
    assert successors() == [None] * 5


def v2(subject: Registry, conn: int, claimed: int, name: str = "connector") -> Peer:
    peer = subject.add(conn, connector(name), ADDRESS, 2)
    peer.claimed = claimed
    return peer


def test_processes_are_ordered_by_their_start_and_connections_of_one_by_their_order() -> None:
    subject, service = registry()
    first, second, older = v2(subject, 1, 50), v2(subject, 2, 50), v2(subject, 3, 49)
    subject.take(first, service)
    claims = [subject.claim(peer, b"echo", 0.0, 10.0) for peer in (first, second, older)]
    assert claims == [Claim.TAKE, Claim.TAKE, Claim.STANDBY]
    foreign, legacy = v2(subject, 4, 99, "other"), subject.add(5, connector("other"), ADDRESS)
    assert [subject.claim(peer, b"echo", 0.0, 10.0) for peer in (foreign, legacy)] == [Claim.STANDBY, Claim.REFUSED]


def test_a_takeover_by_another_process_waits_after_the_last_one_and_a_reconnect_does_not() -> None:
    subject, service = registry()
    one, two, three = v2(subject, 1, 1), v2(subject, 2, 2), v2(subject, 3, 3)
    again = v2(subject, 4, 2)
    subject.take(one, service, 100.0)
    assert subject.claim(two, b"echo", 100.0, 10.0) is Claim.TAKE
    subject.take(two, service, 100.0)
    assert subject.takeover_due(three, b"echo", 10.0) == 110.0
    assert subject.claim(three, b"echo", 109.0, 10.0) is Claim.STANDBY
    assert subject.claim(three, b"echo", 110.0, 10.0) is Claim.TAKE
    assert subject.takeover_due(again, b"echo", 10.0) is None
    assert subject.claim(again, b"echo", 101.0, 10.0) is Claim.TAKE


def test_a_standby_keeps_a_service_and_leaves_nothing_behind() -> None:
    subject, service = registry()
    holder, waiting = v2(subject, 1, 1), v2(subject, 2, 1, "other")
    subject.take(holder, service)
    subject.stand_by(waiting, service)
    subject.remove(holder)
    assert subject.services == {b"echo": service}
    subject.take(waiting, service)
    assert (service.standbys, waiting.standing_by, service.connector) == ({}, {}, waiting)
    subject.stand_by(waiting, service)
    subject.stand_down(waiting, service)
    subject.remove(waiting)
    assert (subject.services, subject.peers) == ({}, {})
