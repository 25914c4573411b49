"""Candidate pairs: forming, priority, pruning, bounds."""

from ztna.proto.paths.candidates import Candidate, CandidateType, priority
from ztna.proto.paths.pairs import MAX_PAIRS, MAX_REMOTE_CANDIDATES, Pair, PairState, PairTable, pair_priority
from ztna.proto.paths.path_types import PathStats
from ztna.proto.paths.stun_types import Endpoint

HOST_PRIORITY = priority(CandidateType.HOST, 65535)


def remote(number: int, kind: CandidateType = CandidateType.HOST, host: str = "10.0.0.1") -> Candidate:
    """A remote candidate on port 1000 + number."""
    return Candidate(kind, Endpoint(host, 1000 + number), priority(kind, 65535), "1")


def table(*, v6: bool = False) -> PairTable:
    """A controlling side's table with its usual sockets."""
    made = PairTable(controlling=True)
    made.add_local(0, v6=False, priority=HOST_PRIORITY)
    if v6:
        made.add_local(1, v6=True, priority=HOST_PRIORITY)
    return made


def test_pair_priority_is_that_of_the_formula() -> None:
    """RFC 8445 s6.1.2.3: 2^32 min(G,D) + 2 max(G,D) + (G > D)."""
    assert pair_priority(7, 3) == (3 << 32) + 14 + 1
    assert pair_priority(3, 7) == (3 << 32) + 14
    assert pair_priority(5, 5) == (5 << 32) + 10


def test_both_sides_give_a_pair_the_same_priority() -> None:
    """The formula names roles, so both sides order their pairs alike."""
    agent, connector = PairTable(controlling=True), PairTable(controlling=False)
    mine, other = priority(CandidateType.HOST, 100), priority(CandidateType.SRFLX, 9)
    agent.add_local(0, v6=False, priority=mine)
    connector.add_local(0, v6=False, priority=other)
    (seen,) = agent.add_remote(Candidate(CandidateType.SRFLX, Endpoint("10.0.0.2", 1), other, "1"))
    (back,) = connector.add_remote(Candidate(CandidateType.HOST, Endpoint("10.0.0.1", 1), mine, "1"))
    assert seen.priority == back.priority


def test_pairs_join_one_family() -> None:
    """RFC 8445 s6.1.2.2: both candidates of one address family."""
    pairs = table(v6=True)
    assert [p.local for p in pairs.add_remote(remote(1))] == [0]
    assert [p.local for p in pairs.add_remote(remote(2, host="2001:db8::1"))] == [1]
    assert pairs.get(0, Endpoint("2001:db8::1", 1002)) is None


def test_candidates_of_one_socket_are_pruned_to_one_pair() -> None:
    """RFC 8445 s6.1.2.4: one base, one pair, with the best priority; a plain tuple finds it too."""
    pairs = table()
    pairs.add_remote(remote(1))
    before = pairs.get(0, Endpoint("10.0.0.1", 1001))
    assert before is not None
    low = before.priority
    assert pairs.add_local(0, v6=False, priority=HOST_PRIORITY - 1) == []
    assert pairs.add_local(0, v6=False, priority=HOST_PRIORITY + 5) == []
    assert len(pairs) == 1
    assert before.priority > low
    assert pairs.get(0, ("10.0.0.1", 1001)) is before  # type: ignore[arg-type]


def test_redundant_remote_candidate_forms_nothing() -> None:
    """The same endpoint again."""
    pairs = table()
    assert len(pairs.add_remote(remote(1))) == 1
    assert pairs.add_remote(remote(1, CandidateType.SRFLX)) == []
    assert len(pairs.remotes) == 1


def test_signalled_candidate_replaces_a_peer_reflexive_one() -> None:
    """RFC 8445 s7.3.1.3: its type and priority become what the peer says."""
    pairs = table()
    (pair,) = pairs.add_remote(remote(1, CandidateType.PRFLX), only_local=0)
    before = pair.priority
    assert pairs.add_remote(remote(1, CandidateType.SRFLX)) == []
    assert pair.type is CandidateType.SRFLX
    assert pair.priority < before


def test_at_most_32_remote_candidates() -> None:
    """A new one takes the place of one that failed, and is refused where all may still work."""
    pairs = table()
    made = [pairs.add_remote(remote(n))[0] for n in range(MAX_REMOTE_CANDIDATES)]
    assert pairs.add_remote(remote(99)) == []
    made[5].state = PairState.FAILED
    (new,) = pairs.add_remote(remote(99))
    assert len(pairs.remotes) == MAX_REMOTE_CANDIDATES
    assert new in list(pairs)
    assert made[5] not in list(pairs)


def test_unproven_prflx_makes_room_but_the_pair_in_use_never() -> None:
    """A peer that shows many addresses loses its own oldest ones."""
    pairs = table()
    made = [pairs.add_remote(remote(n, CandidateType.PRFLX), only_local=0)[0] for n in range(MAX_REMOTE_CANDIDATES)]
    made[0].state = PairState.SUCCEEDED
    assert pairs.add_remote(remote(98, CandidateType.PRFLX), only_local=0, spare=made[1])
    left = list(pairs)
    assert made[0] in left
    assert made[1] in left
    assert made[2] not in left


def test_at_most_100_pairs() -> None:
    """Extra sockets add pairs one by one; the 101st takes the place of a failed one or is not formed."""
    stats = PathStats()
    pairs = PairTable(controlling=True, stats=stats)
    pairs.add_local(0, v6=False, priority=HOST_PRIORITY)
    pairs.add_remote(remote(1))
    for local in range(2, 120):
        pairs.add_local(local, v6=False, priority=HOST_PRIORITY)
        pairs.add_remote(remote(1), only_local=local)
    assert len(pairs) == MAX_PAIRS
    assert len(list(pairs)) == MAX_PAIRS
    assert stats.drop_pair_limit == 19
    next(iter(pairs)).state = PairState.FAILED
    assert len(pairs.add_remote(remote(2))) == 1
    assert len(pairs) == MAX_PAIRS


def test_extra_sockets_form_no_pairs_by_themselves() -> None:
    """256 of them times every candidate would be a flood."""
    pairs = table()
    pairs.add_remote(remote(1))
    assert pairs.add_local(2, v6=False, priority=HOST_PRIORITY) == []
    assert len(pairs.add_remote(remote(2))) == 1
    assert [p.local for p in pairs.add_remote(remote(1), only_local=2)] == [2]
    pairs.remove_local(2)
    assert len(pairs) == len(list(pairs)) == 2


def test_pair_is_usable_while_it_answers() -> None:
    """A success, and no miss since."""
    pair = Pair(0, Endpoint("10.0.0.1", 1), CandidateType.HOST, 1)
    seen = [pair.is_usable]
    pair.state = PairState.SUCCEEDED
    pair.health.answered(1.0, 1.05)
    seen.append(pair.is_usable)
    pair.health.missed(2.0, 2.2)
    seen.append(pair.is_usable)
    assert seen == [False, True, False]
