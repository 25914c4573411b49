"""`SessionPaths` by itself: what goes in, what comes out, and that hostile input does nothing but count."""

import random
from collections.abc import Iterator

import pytest

from ztna.proto.paths.session_paths import (
    Candidate,
    CandidateType,
    Endpoint,
    LocalCandidates,
    NatSeen,
    PathCommand,
    PathConfig,
    PathKind,
    PathSelected,
    SendStun,
    SessionPaths,
    StunError,
    StunMessage,
    StunRequest,
    StunResponse,
)

SESSION = bytes(range(16))
RELAY, CORNER = Endpoint("198.51.100.1", 4433), Endpoint("198.51.100.1", 4434)
HOST, HOST_V6 = Endpoint("192.168.1.10", 40000), Endpoint("2001:db8::10", 40001)
MAPPED = Endpoint("203.0.113.1", 61000)
PEER = Endpoint("203.0.113.2", 62000)
ELSEWHERE = Endpoint("203.0.113.3", 63000)


def paths(role: str = "agent", *, config: PathConfig | None = None, relay: Endpoint | None = RELAY) -> SessionPaths:
    """One side, without any address yet, at time 0."""
    return SessionPaths(
        SESSION,
        role,  # type: ignore[arg-type]
        relay=relay,
        random=random.Random(7).randbytes,
        config=config or PathConfig(),
        stun_corners=(RELAY, CORNER),
        now=0.0,
    )


def drain(side: SessionPaths) -> list[PathCommand]:
    """Every command waiting."""
    commands = []
    while (command := side.next_command()) is not None:
        commands.append(command)
    return commands


def sent(commands: list[PathCommand], remote: Endpoint) -> list[StunMessage]:
    """Messages to one endpoint."""
    return [c.message for c in commands if isinstance(c, SendStun) and c.remote == remote]


def advance(side: SessionPaths, until: float) -> Iterator[tuple[float, PathCommand]]:
    """Let time pass; yields (time, command)."""
    while (timer := side.get_timer()) is not None and timer <= until:
        side.handle_timer(timer)
        for command in drain(side):
            yield timer, command
    side.handle_timer(until)
    for command in drain(side):
        yield until, command


def candidate(endpoint: Endpoint = PEER, kind: CandidateType = CandidateType.SRFLX) -> Candidate:
    """A candidate of the peer."""
    return Candidate(kind, endpoint, 1694498815, "1")


def request(counter: int = 1, **changes: object) -> StunRequest:
    """A request of the connector."""
    fields: dict[str, object] = {
        "transaction": counter.to_bytes(6, "big") + b"abcdef",
        "username": f"{SESSION.hex()}:connector",
        "priority": 1862270975,
        "controlling": False,
        "tie_breaker": 5,
        "use_candidate": False,
    }
    return StunRequest(**(fields | changes))  # type: ignore[arg-type]


def checking(config: PathConfig | None = None) -> SessionPaths:
    """An agent that knows its mapped address and has just sent its first check to the peer."""
    side = paths(config=config)
    side.add_local([(0, HOST)], 0.0)
    (binding,) = sent(drain(side), RELAY)
    side.stun_received(StunResponse(binding.transaction, MAPPED), RELAY, 0, 0.05)
    list(advance(side, 0.09))
    side.remote_candidates([candidate()], 0.0, 0.1)
    return side


def direct() -> SessionPaths:
    """An agent whose check was answered."""
    side = checking()
    (check,) = sent(drain(side), PEER)
    side.stun_received(StunResponse(check.transaction, MAPPED), PEER, 0, 0.15)
    return side


def test_addresses_in_candidates_and_proof_out() -> None:
    """Host candidates at once, the relay's binding at once, the mapped address as soon as it is known."""
    side = paths()
    side.add_local([(0, HOST), (1, HOST_V6)], 0.0)
    commands = drain(side)
    (told,) = [c for c in commands if isinstance(c, LocalCandidates)]
    assert [(c.type, c.endpoint) for c in told.candidates] == [
        (CandidateType.HOST, HOST),
        (CandidateType.HOST, HOST_V6),
    ]
    assert not told.end
    (binding,) = sent(commands, RELAY)
    assert isinstance(binding, StunRequest)
    assert binding.username == f"{SESSION.hex()}:agent"
    assert binding.controlling
    side.stun_received(StunResponse(binding.transaction, MAPPED), RELAY, 0, 0.05)
    commands = drain(side)
    (told,) = [c for c in commands if isinstance(c, LocalCandidates)]
    assert [(c.type, c.endpoint, c.related) for c in told.candidates] == [(CandidateType.SRFLX, MAPPED, HOST)]
    assert told.end
    assert [m.username for m in sent(commands, CORNER) if isinstance(m, StunRequest)] == [""]


def test_binding_is_repeated_until_answered() -> None:
    """50, 100, 200, 400 ms after the first."""
    side = paths()
    side.add_local([(0, HOST)], 0.0)
    assert len(sent(drain(side), RELAY)) == 1
    times = [at for at, c in advance(side, 1.0) if isinstance(c, SendStun) and c.remote == RELAY]
    assert times == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8])


def test_gathering_ends_without_a_server() -> None:
    """Two seconds, then the peer is told that no more comes."""
    side = paths()
    side.add_local([(0, HOST)], 0.0)
    ends = [(at, c) for at, c in advance(side, 5.0) if isinstance(c, LocalCandidates) and c.end]
    assert [(at, c.candidates) for at, c in ends] == [(2.0, ())]


def test_public_host_has_no_reflexive_candidate() -> None:
    """RFC 8445 s5.1.3: redundant."""
    side = paths()
    side.add_local([(0, MAPPED)], 0.0)
    (binding,) = sent(drain(side), RELAY)
    side.stun_received(StunResponse(binding.transaction, MAPPED), RELAY, 0, 0.05)
    told = [c for _, c in advance(side, 3.0) if isinstance(c, LocalCandidates | NatSeen)]
    assert not [c for c in told if isinstance(c, LocalCandidates) and c.candidates]


def test_srflx_from_a_corner_where_there_is_no_relay() -> None:
    """A plain answer is enough for an address to be told, and for nothing else."""
    side = paths(relay=None)
    side.add_local([(0, HOST)], 0.0)
    commands = drain(side)
    asked = [c for c in commands if isinstance(c, SendStun)]
    side.stun_received(
        StunResponse(asked[0].message.transaction, MAPPED, authenticated=False), asked[0].remote, 0, 0.05
    )
    told = [c for c in drain(side) if isinstance(c, LocalCandidates)]
    assert [c.endpoint for c in told[0].candidates] == [MAPPED]


def test_checks_begin_at_the_common_start() -> None:
    """T0, then +50, +100, +200, +400 ms and backed off; five-millisecond pace."""
    side = paths(relay=None)
    side.add_local([(0, HOST)], 0.0)
    drain(side)
    side.remote_candidates([candidate()], 0.3, 1.0)
    assert sent(drain(side), PEER) == []
    times = [at for at, c in advance(side, 6.0) if isinstance(c, SendStun) and c.remote == PEER]
    assert times == pytest.approx([1.3, 1.35, 1.4, 1.5, 1.7, 2.1, 2.9, 4.5], abs=0.006)


@pytest.mark.parametrize("start_in_s", [-1.0, float("nan"), 1e9])
def test_start_is_bounded(start_in_s: float) -> None:
    """Neither the past nor the far future."""
    side = paths(relay=None)
    side.add_local([(0, HOST)], 0.0)
    side.remote_candidates([candidate()], start_in_s, 1.0)
    assert any(isinstance(c, SendStun) and c.remote == PEER for _, c in advance(side, 6.1))


def test_request_is_answered_and_triggers_a_check() -> None:
    """RFC 8445 s7.3.1.4, at once and before T0; the peer-reflexive candidate's priority is the request's."""
    side = checking()
    drain(side)
    side.stun_received(request(), ELSEWHERE, 0, 0.2)
    commands = drain(side)
    answer, check = sent(commands, ELSEWHERE)
    assert answer == StunResponse(request().transaction, ELSEWHERE)
    assert isinstance(check, StunRequest)
    assert side.stats.prflx_learned == 1
    pair = next(p for p in side.snapshot(0.2).pairs if p.remote == ELSEWHERE)
    assert (pair.type, pair.requests) == ("prflx", 1)


def test_request_on_a_pair_that_was_given_up_triggers_a_check() -> None:
    """The peer's network lets packets through now, so ours may too: no waiting for the next round of probes."""
    side = checking()
    side.stun_received(request(1), PEER, 0, 0.12)
    list(advance(side, 8.01))
    side.stun_received(request(2), PEER, 0, 8.02)
    assert [type(m) for m in sent(drain(side), PEER)] == [StunResponse, StunRequest]


def test_three_more_after_the_first_packet_received() -> None:
    """The peer's filter opens only for what is sent to it."""
    side = checking()
    drain(side)
    side.stun_received(request(), PEER, 0, 0.12)
    times = [0.12] * len([m for m in sent(drain(side), PEER) if isinstance(m, StunRequest)])
    times += [at for at, c in advance(side, 0.2) if isinstance(c, SendStun) and c.remote == PEER]
    assert len([at for at in times if at <= 0.19]) >= 3


def test_a_quic_packet_counts_as_the_first_packet_too() -> None:
    """From an endpoint that is being checked."""
    side = checking()
    drain(side)
    assert side.packet_received(PEER, 0, 0.12)
    assert len([at for at, c in advance(side, 0.19) if isinstance(c, SendStun) and c.remote == PEER]) >= 3


def test_packets_are_taken_from_relay_and_checked_endpoints_only() -> None:
    """Everything else is dropped and counted."""
    side = checking()
    assert side.packet_received(RELAY, 0, 0.2)
    assert side.packet_received(PEER, 0, 0.2)
    assert side.packet_received((PEER.host, PEER.port), 0, 0.2)  # type: ignore[arg-type]
    assert not side.packet_received(ELSEWHERE, 0, 0.2)
    assert not side.packet_received(PEER, 1, 0.2)
    assert not side.packet_received(CORNER, 0, 0.2)
    assert side.stats.drop_unknown_source == 3


def test_answered_check_makes_direct_and_nominates() -> None:
    """Two-way proof; the agent's next check there carries USE-CANDIDATE."""
    side = direct()
    commands = drain(side)
    (chosen,) = [c for c in commands if isinstance(c, PathSelected)]
    assert (chosen.kind, chosen.remote, chosen.reason) == (PathKind.DIRECT, PEER, "check-succeeded")
    assert [(r.remote, r.kind) for r in side.routes()] == [(PEER, PathKind.DIRECT)]
    checks = sent(commands + [c for _, c in advance(side, 0.3)], PEER)
    assert any(isinstance(m, StunRequest) and m.use_candidate for m in checks)


def test_a_request_of_the_peer_alone_makes_nothing_direct() -> None:
    """It proves one direction."""
    side = checking()
    for n in range(1, 20):
        side.stun_received(request(n), PEER, 0, 0.1 + n / 100)
    assert side.routes() == ()
    assert side.kind is PathKind.NONE


def test_connector_never_nominates() -> None:
    """It is controlled."""
    side = paths("connector")
    side.add_local([(0, HOST)], 0.0)
    side.remote_candidates([candidate()], 0.0, 0.1)
    for at, command in list(advance(side, 0.2)):
        if isinstance(command, SendStun) and command.remote == PEER:
            side.stun_received(StunResponse(command.message.transaction, MAPPED), PEER, 0, at + 0.05)
            break
    assert side.kind is PathKind.DIRECT
    later = [c.message for _, c in advance(side, 20.0) if isinstance(c, SendStun) and c.remote == PEER]
    assert later
    assert not any(m.use_candidate for m in later if isinstance(m, StunRequest))
    assert not any(m.controlling for m in later if isinstance(m, StunRequest))


def test_connector_follows_the_nomination() -> None:
    """Both sides then send on one pair, though the connector's own order is another."""
    side = paths("connector", relay=None)
    side.add_local([(0, HOST)], 0.0)
    near = Endpoint("192.168.1.11", 40000)
    side.remote_candidates([candidate(), Candidate(CandidateType.HOST, near, 2130706431, "2")], 0.0, 0.1)
    for at, command in list(advance(side, 0.13)):
        if isinstance(command, SendStun) and command.remote in (near, PEER):
            side.stun_received(StunResponse(command.message.transaction, MAPPED), command.remote, 0, at + 0.05)
    assert [route.remote for route in side.routes()] == [near]
    drain(side)
    nominated = request(username=f"{SESSION.hex()}:agent", controlling=True, use_candidate=True)
    side.stun_received(nominated, PEER, 0, 0.3)
    assert [route.remote for route in side.routes()] == [PEER]
    assert [c.reason for c in drain(side) if isinstance(c, PathSelected)] == ["nominated"]


def test_hairpin_reason_ends_with_the_shared_address() -> None:
    """A peer behind the same public address is checked again once this side has moved."""
    side = paths()
    side.add_local([(0, HOST)], 0.0)
    (binding,) = sent(drain(side), RELAY)
    side.stun_received(StunResponse(binding.transaction, MAPPED), RELAY, 0, 0.05)
    same = Endpoint(MAPPED.host, 7000)
    side.remote_candidates([candidate(same)], 0.0, 0.1)
    assert not [c for _, c in advance(side, 20.0) if isinstance(c, SendStun) and c.remote == same]
    assert [pair.state for pair in side.snapshot(20.0).pairs] == ["hairpin"]
    side.network_changed(20.1)
    commands = drain(side) + [c for _, c in advance(side, 20.11)]
    binding = sent(commands, RELAY)[0]
    side.stun_received(StunResponse(binding.transaction, ELSEWHERE), RELAY, 0, 20.15)
    assert [c for _, c in advance(side, 25.0) if isinstance(c, SendStun) and c.remote == same]


@pytest.mark.parametrize(
    ("message", "counter"),
    [
        (request(username=f"{SESSION.hex()}:agent"), "drop_reflected"),
        (request(username=f"{SESSION.hex()}:agent", controlling=True), "drop_reflected"),
        (request(username=f"{bytes(16).hex()}:connector"), "drop_wrong_session"),
        (request(username=""), "drop_wrong_session"),
        (request(username=f"{SESSION.hex()}:intermediate"), "drop_wrong_session"),
        (request(username=None), "drop_wrong_session"),
        (request(controlling=True), "drop_role_conflict"),
        (request(transaction=b""), "drop_malformed"),
        (request(transaction=b"x" * 13), "drop_malformed"),
        (request(transaction="x" * 12), "drop_malformed"),
        (StunResponse(b"x" * 12, MAPPED), "drop_unknown_transaction"),
        (StunResponse(b"", MAPPED), "drop_malformed"),
        (StunError(b"x" * 12, 487), "drop_unknown_transaction"),
    ],
)
def test_refused_messages_do_nothing_but_count(message: StunMessage, counter: str) -> None:
    """No answer, no pair, no path."""
    side = checking()
    drain(side)
    before = side.snapshot(0.2).pairs
    side.stun_received(message, ELSEWHERE, 0, 0.101)
    assert drain(side) == []
    assert side.snapshot(0.2).pairs == before
    assert getattr(side.stats, counter) == 1


@pytest.mark.parametrize(
    ("source", "local", "authenticated", "mapped", "counter"),
    [
        (ELSEWHERE, 0, True, MAPPED, "drop_wrong_source"),
        (PEER, 1, True, MAPPED, "drop_wrong_source"),
        (PEER, 0, False, MAPPED, "drop_unauthenticated"),
        (PEER, 0, True, Endpoint("nonsense", 1), "drop_malformed"),
        (PEER, 0, True, Endpoint("203.0.113.9", 0), "drop_malformed"),
        (PEER, 0, True, Endpoint("0.0.0.0", 5), "drop_malformed"),
    ],
)
def test_answers_are_taken_from_where_they_were_asked_only(
    source: Endpoint, local: int, authenticated: bool, mapped: Endpoint, counter: str
) -> None:
    """And authenticated, and with an address one can have."""
    side = checking()
    (check,) = sent(drain(side), PEER)
    side.stun_received(StunResponse(check.transaction, mapped, authenticated), source, local, 0.15)
    assert side.routes() == ()
    assert getattr(side.stats, counter) == 1
    side.stun_received(StunResponse(check.transaction, MAPPED), PEER, 0, 0.16)
    assert side.kind is PathKind.DIRECT


def test_an_answer_counts_once() -> None:
    """Its replay finds no transaction."""
    side = checking()
    (check,) = sent(drain(side), PEER)
    for _ in range(3):
        side.stun_received(StunResponse(check.transaction, MAPPED), PEER, 0, 0.15)
    assert side.stats.checks_answered == 1
    assert side.stats.drop_unknown_transaction == 2


def test_error_answers_leave_the_check_unanswered() -> None:
    """Counted; the series goes on."""
    side = checking()
    (check,) = sent(drain(side), PEER)
    side.stun_received(StunError(check.transaction, 487), PEER, 0, 0.15)
    assert side.stats.drop_error_response == 1
    assert side.routes() == ()
    assert any(isinstance(c, SendStun) and c.remote == PEER for _, c in advance(side, 0.3))


def test_replayed_request_from_elsewhere_is_not_followed() -> None:
    """A captured request opens no pair at another address."""
    side = checking()
    side.stun_received(request(5), PEER, 0, 0.12)
    drain(side)
    side.stun_received(request(5), ELSEWHERE, 0, 0.13)
    assert sent(drain(side), ELSEWHERE) == []
    assert side.stats.drop_replayed == 1


def test_flood_of_requests_is_answered_at_a_bounded_rate() -> None:
    """With a bounded number of candidates, pairs and commands."""
    side = checking()
    for n in range(1, 5000):
        source = Endpoint(f"203.0.{n % 200}.{n // 200 + 1}", 1024 + n)
        side.stun_received(request(n), source, 0, 0.2 + n / 5000)
    snapshot = side.snapshot(1.2)
    assert len(snapshot.pairs) <= 100
    assert len({pair.remote for pair in snapshot.pairs}) <= 33
    assert side.stats.requests_answered <= 300 + 200 + 1
    assert side.stats.drop_request_rate >= 4000
    assert len(drain(side)) <= 2048


def test_undrained_commands_are_bounded() -> None:
    """The oldest are dropped and counted."""
    side = checking()
    for n in range(1, 3000):
        side.stun_received(request(n), PEER, 0, 0.2 + n / 100)
    assert len(drain(side)) == 2048
    assert side.stats.drop_command_queue > 0


@pytest.mark.parametrize(
    "bad",
    [
        candidate(Endpoint("127.0.0.1", 22)),
        candidate(Endpoint("169.254.169.254", 80)),
        candidate(Endpoint("nonsense", 80)),
        candidate(HOST),
        candidate(Endpoint("203.0.113.2", 0)),
        Candidate(CandidateType.RELAY, ELSEWHERE, 1, "1"),
        Candidate(CandidateType.HOST, ELSEWHERE, 0, "1"),
        Candidate(CandidateType.HOST, ELSEWHERE, 2**31, "1"),
        Candidate(CandidateType.HOST, ELSEWHERE, "5", "1"),  # type: ignore[arg-type]
        Candidate("bogus", ELSEWHERE, 5, "1"),  # type: ignore[arg-type]
    ],
)
def test_bad_candidates_are_refused(bad: Candidate) -> None:
    """Nothing is sent there."""
    side = paths(relay=None)
    side.add_local([(0, HOST)], 0.0)
    side.remote_candidates([bad], 0.0, 0.1)
    assert side.stats.drop_candidate_refused == 1
    assert not [c for _, c in advance(side, 3.0) if isinstance(c, SendStun) and c.remote == bad.endpoint]


def test_the_relay_is_no_candidate() -> None:
    """A peer that names it would make us check a third party."""
    side = paths()
    side.add_local([(0, HOST)], 0.0)
    side.remote_candidates([candidate(RELAY)], 0.0, 0.1)
    assert side.stats.drop_candidate_refused == 1
    assert side.snapshot(0.2).pairs == ()


def test_remote_candidates_are_bounded() -> None:
    """32 in all, 64 looked at per message."""
    side = paths()
    side.add_local([(0, HOST)], 0.0)
    side.remote_candidates([candidate(Endpoint("203.0.113.2", n)) for n in range(1, 1000)], 0.0, 0.1)
    assert side.stats.remote_candidates == 64
    assert side.stats.drop_candidate_limit == 32
    assert len(side.snapshot(0.1).pairs) == 32


def test_direct_off_sends_and_answers_no_check() -> None:
    """Policy: the relay leg only."""
    side = paths(config=PathConfig(direct=False))
    side.add_local([(0, HOST)], 0.0)
    side.remote_candidates([candidate()], 0.0, 0.1)
    side.stun_received(request(), PEER, 0, 0.2)
    side.relay_ready(0.3)
    commands = [c for _, c in advance(side, 20.0)]
    assert not [c for c in commands if isinstance(c, LocalCandidates)]
    assert {c.remote for c in commands if isinstance(c, SendStun)} <= {RELAY, CORNER}
    assert side.kind is PathKind.RELAY
    assert side.stats.drop_policy == 2


def test_mapped_address_that_changes_is_told_and_probed() -> None:
    """The peer learns the new candidate; checks leave at once."""
    side = direct()
    list(advance(side, 1.0))
    side.network_changed(1.1)
    side.add_local([(0, Endpoint("10.0.0.5", 40000))], 1.1)
    commands = drain(side) + [c for _, c in advance(side, 1.12)]
    told = [c for c in commands if isinstance(c, LocalCandidates)]
    assert [c.endpoint.host for t in told for c in t.candidates] == ["10.0.0.5"]
    (binding, *_) = sent(commands, RELAY)
    assert sent(commands, PEER)
    moved = Endpoint("203.0.113.99", 5000)
    side.stun_received(StunResponse(binding.transaction, moved), RELAY, 0, 1.15)
    told = [c for c in drain(side) if isinstance(c, LocalCandidates)]
    assert [c.endpoint for t in told for c in t.candidates] == [moved]
    assert side.snapshot(1.2).mapped == moved
    assert side.stats.mapping_changes == 1


def test_close_ends_everything() -> None:
    """No command, no timer, no route, whatever comes after."""
    side = direct()
    side.close(1.0)
    side.stun_received(request(9), PEER, 0, 1.1)
    side.add_local([(0, ELSEWHERE)], 1.1)
    side.remote_candidates([candidate(ELSEWHERE)], 0.0, 1.2)
    side.relay_ready(1.3)
    side.handle_timer(9.0)
    assert drain(side) == []
    assert side.routes() == ()
    assert side.get_timer() is None
    assert not side.packet_received(PEER, 0, 1.4)


def test_peer_nat_of_any_text_is_taken() -> None:
    """What is no known name counts as unknown."""
    side = paths()
    side.peer_nat("endpoint-independent", "bogus", "")
    assert side.snapshot(0.0).peer_nat == NatSeen("endpoint-independent", "unknown", "unknown")  # type: ignore[arg-type]


def test_relay_ready_before_anything_else() -> None:
    """The control plane may be faster than the sockets."""
    side = paths()
    side.relay_ready(0.0)
    assert [route.kind for route in side.routes()] == [PathKind.RELAY]
    side.add_local([(0, HOST)], 0.1)
    assert sent(drain(side), RELAY)


def test_keepalive_follows_what_was_measured() -> None:
    """A NAT that forgets sooner is kept alive sooner; absurd values are bounded."""
    for asked, middle in ((9.0, 9.0), (0.1, 5.0), (1e9, 60.0)):
        side = paths()
        side.set_keepalive(asked)
        side.add_local([(0, HOST)], 0.0)
        side.relay_ready(0.0)
        (binding,) = sent(drain(side), RELAY)
        side.stun_received(StunResponse(binding.transaction, MAPPED), RELAY, 0, 0.05)
        times = [at for at, c in advance(side, 80.0) if isinstance(c, SendStun) and c.remote == RELAY]
        assert middle * 8 / 9 <= times[0] - 0.05 <= middle * 10 / 9
        assert side.snapshot(1.0).keepalive_s == middle


def test_relay_lost_and_back() -> None:
    """No route without it, and one again when it is back; the address is proved again in between."""
    side = paths()
    side.add_local([(0, HOST)], 0.0)
    side.relay_ready(0.1)
    drain(side)
    side.relay_lost("quota", 5.0)
    assert side.routes() == ()
    assert sent(drain(side), RELAY)
    assert (side.snapshot(5.0).relay_ready, side.snapshot(5.0).relay_lost_reason) == (False, "quota")
    side.relay_ready(6.0)
    assert (side.snapshot(6.0).relay_ready, side.snapshot(6.0).relay_lost_reason) == (True, "")
    assert [route.kind for route in side.routes()] == [PathKind.RELAY]


def test_v6_relay_uses_the_v6_socket() -> None:
    """One leg, on the socket of its family."""
    relay = Endpoint("2001:db8:ffff::1", 4433)
    side = paths(relay=relay)
    side.add_local([(0, HOST)], 0.0)
    assert not [c for c in drain(side) if isinstance(c, SendStun) and c.remote == relay]
    side.add_local([(1, HOST_V6)], 0.1)
    assert [c.local for c in drain(side) if isinstance(c, SendStun) and c.remote == relay] == [1]


def test_snapshot_shows_path_pairs_and_counters() -> None:
    """For status output."""
    side = direct()
    seen = side.snapshot(1.15)
    assert (seen.kind, seen.remote, seen.local, seen.reason) == (PathKind.DIRECT, PEER, 0, "check-succeeded")
    assert seen.rtt_s == pytest.approx(0.05)
    assert seen.loss == 0.0
    assert seen.time_in_path[PathKind.DIRECT] == pytest.approx(1.0)
    assert [(p.remote, p.state, p.nominated) for p in seen.pairs] == [(PEER, "succeeded", True)]
    assert seen.counters["checks_answered"] == 1
    assert seen.blocked_by is None
