"""What a session receives: checks of the peer, answers to its own requests. Nothing that arrives raises.

Each message that has no effect is counted by its reason in `PathStats`.
"""

from dataclasses import dataclass

from ztna.proto.paths.candidates import Candidate, CandidateType, foundation, is_priority, refusal
from ztna.proto.paths.checks import SERIES_END_S, Purpose, Transaction
from ztna.proto.paths.gathering import EXTRA
from ztna.proto.paths.pairs import Pair, PairState
from ztna.proto.paths.parts import Parts
from ztna.proto.paths.path_types import PathKind, SendStun
from ztna.proto.paths.stun_types import (
    TRANSACTION_BYTES,
    Endpoint,
    StunError,
    StunMessage,
    StunRequest,
    StunResponse,
)


@dataclass(slots=True)
class Inbound:
    """Takes STUN messages, signalled candidates and time-outs; acts through the parts it changes."""

    parts: Parts

    def received(self, message: StunMessage, source: Endpoint, local: int, now: float) -> None:
        """One STUN message arrived at socket `local` from `source`."""
        if not _is_transaction(message.transaction):
            self.parts.stats.drop_malformed += 1
        elif isinstance(message, StunRequest):
            self._request(message, source, local, now)
        else:
            self._answer(message, source, local, now)

    def learn(self, source: Endpoint, local: int, request: StunRequest | None, now: float) -> Pair | None:
        """Return the pair of a source that proved itself, making it and a peer-reflexive candidate where needed."""
        parts = self.parts
        pair = parts.pair_for(source, local)
        if pair is not None:
            return pair
        # Nobody else can send from a loopback address: who proved itself from there is on this host.
        if refusal(source, parts.gathering.own, parts.relay_endpoint) not in (None, "loopback"):
            parts.stats.drop_candidate_refused += 1
            return None
        known = parts.pairs.remotes.get(source)
        if known is None:
            told = request.priority if request is not None else 0
            if not is_priority(told):
                told = parts.priority_attribute[":" in source.host]
            known = Candidate(
                CandidateType.PRFLX, source, told, foundation(CandidateType.PRFLX, source.host, str(source.port))
            )
            parts.stats.prflx_learned += 1
        pairs = parts.pairs.add_remote(known, only_local=local, spare=parts.selector.direct)
        if not pairs:
            parts.stats.drop_candidate_limit += 1
            return None
        parts.checklist.begin(pairs, now)
        return pairs[0]

    def candidate(self, candidate: Candidate, start: float) -> None:
        """The peer signalled a candidate, whose checks begin at `start`."""
        parts = self.parts
        why = refusal(candidate.endpoint, parts.gathering.own, parts.relay_endpoint)
        signalled = candidate.type in (CandidateType.HOST, CandidateType.SRFLX, CandidateType.PRFLX)
        if not parts.config.direct:
            parts.stats.drop_policy += 1
            return
        if why is not None or not signalled or not is_priority(candidate.priority):
            parts.stats.drop_candidate_refused += 1
            return
        known = candidate.endpoint in parts.pairs.remotes
        formed = parts.pairs.add_remote(candidate, spare=parts.selector.direct)
        parts.stats.remote_candidates += 1
        if candidate.endpoint not in parts.pairs.remotes:
            parts.stats.drop_candidate_limit += 1
        parts.checklist.begin(formed, start)
        if formed and not known and parts.checks_begin_at is not None and start > parts.checks_begin_at:
            parts.checklist.probes.reset(start, SERIES_END_S if not parts.has_direct_success() else 1.0)

    def missed(self, transaction: Transaction, now: float) -> None:
        """A request's time ran out."""
        parts, pair = self.parts, transaction.pair
        if transaction.purpose is Purpose.RELAY and parts.relay is not None:
            parts.relay.health.missed(transaction.sent_at, now)
        if pair is None:
            return
        parts.stats.checks_missed += 1
        if pair.health.last_answer_at is not None:
            before = pair.health.misses
            pair.health.missed(transaction.sent_at, now)
            in_use = pair is parts.selector.direct and parts.selector.kind is PathKind.DIRECT
            if in_use and not before and pair.health.misses and parts.relay is not None:
                # The relay must know this socket's present address before packets arrive there.
                parts.relay.prove(now)
        parts.checklist.missed(pair, now)

    def _request(self, request: StunRequest, source: Endpoint, local: int, now: float) -> None:
        parts, stats = self.parts, self.parts.stats
        if request.username == parts.username:
            stats.drop_reflected += 1
        elif request.username != parts.peer_username:
            stats.drop_wrong_session += 1
        elif request.controlling == parts.controlling:
            stats.drop_role_conflict += 1
        elif not parts.config.direct:
            stats.drop_policy += 1
        elif not parts.answers.allow(now):
            stats.drop_request_rate += 1
        elif not parts.replay.accept(request.transaction):
            stats.drop_replayed += 1
        elif source == parts.relay_endpoint:
            # The relay never forwards STUN; a check that seems to come from it would make it a direct path.
            stats.drop_candidate_refused += 1
        else:
            self._check(request, source, local, now)

    def _check(self, request: StunRequest, source: Endpoint, local: int, now: float) -> None:
        parts = self.parts
        if local == parts.nat.local:
            parts.nat.heard_from(source)
        pair = self.learn(source, local, request, now)
        if pair is None:
            # An answer would let the peer send packets from there, which are taken from pairs alone.
            return
        parts.emit(SendStun(StunResponse(request.transaction, source), local, source))
        parts.stats.requests_answered += 1
        pair.requests += 1
        if request.use_candidate and not parts.controlling:
            for other in parts.pairs:
                other.nominated = other is pair
        parts.checklist.heard(pair, now)
        parts.checklist.trigger(pair, now)

    def _answer(self, answer: StunResponse | StunError, source: Endpoint, local: int, now: float) -> None:
        parts, stats = self.parts, self.parts.stats
        transaction = parts.transactions.find(answer.transaction)
        if transaction is None:
            stats.drop_unknown_transaction += 1
        elif transaction.remote != source or transaction.local != local:
            # RFC 8445 s7.2.5.2.1: an answer from elsewhere proves no path.
            stats.drop_wrong_source += 1
        elif isinstance(answer, StunError):
            stats.drop_error_response += 1
        elif not answer.authenticated and transaction.purpose is not Purpose.CORNER:
            stats.drop_unauthenticated += 1
        elif refusal(answer.mapped, (), None) not in (None, "loopback"):
            stats.drop_malformed += 1
        else:
            parts.transactions.close(transaction)
            self._accepted(transaction, answer.mapped, now)

    def _accepted(self, transaction: Transaction, mapped: Endpoint, now: float) -> None:
        if transaction.purpose is Purpose.RELAY:
            self._relay_answered(transaction, mapped, now)
        elif transaction.purpose is Purpose.CORNER:
            self._corner_answered(transaction, mapped)
        else:
            self._check_answered(transaction, now)

    def _check_answered(self, transaction: Transaction, now: float) -> None:
        parts = self.parts
        parts.stats.checks_answered += 1
        pair = transaction.pair
        if pair is None or parts.pair_for(pair.remote, pair.local) is not pair:
            pair = self.learn(transaction.remote, transaction.local, None, now)
            if pair is None:
                return
        pair.state = PairState.SUCCEEDED
        pair.held_back = None
        pair.health.answered(transaction.sent_at, now, was_missed=transaction.was_missed)
        parts.checklist.heard(pair, now)
        parts.evaluate(now)
        parts.checklist.answered(pair, now, busy=parts.is_busy(now))

    def _relay_answered(self, transaction: Transaction, mapped: Endpoint, now: float) -> None:
        parts = self.parts
        leg = parts.relay
        if leg is None or leg.remote != transaction.remote:
            return
        parts.stats.relay_bindings_answered += 1
        is_first = not leg.answers
        is_new = leg.answered(transaction.sent_at, mapped, now, parts.keepalive_s(), was_missed=transaction.was_missed)
        if is_new:
            self.mapped_changed(leg.local, mapped, leg.remote, now, is_first=is_first)

    def mapped_changed(self, local: int, mapped: Endpoint, server: Endpoint, now: float, *, is_first: bool) -> None:
        """The relay sees this socket under a new address: tell the peer, look at the NAT again, probe eagerly."""
        parts = self.parts
        parts.nat.base = mapped
        parts.nat.hosts = tuple(parts.gathering.hosts.get(local, ()))
        parts.checklist.own_public_host = None if mapped in parts.gathering.own else mapped.host
        parts.gathering.ended = True
        parts.nat.start([entry for entry in parts.usual_locals if entry[0] < EXTRA], now)
        candidates = parts.gathering.add_mapped(local, mapped, server)
        parts.tell(candidates)
        if is_first:
            return
        parts.stats.mapping_changes += 1
        parts.selector.forgive(now)
        parts.checklist.probes.reset(now, 0.0)

    def _corner_answered(self, transaction: Transaction, mapped: Endpoint) -> None:
        parts = self.parts
        for corner in parts.nat.corners:
            if corner.remote == transaction.remote and corner.local == transaction.local:
                corner.mapped, corner.next_at = mapped, None
        if parts.relay is None and parts.nat.base is None and transaction.local == parts.nat.local:
            parts.nat.base = mapped
            parts.nat.hosts = tuple(parts.gathering.hosts.get(transaction.local, ()))
            parts.checklist.own_public_host = None if mapped in parts.gathering.own else mapped.host
        served = parts.relay is not None and transaction.local == parts.relay.local
        if not served and transaction.local not in parts.gathering.mapped:
            parts.tell(parts.gathering.add_mapped(transaction.local, mapped, transaction.remote))


def _is_transaction(value: object) -> bool:
    return isinstance(value, bytes) and len(value) == TRANSACTION_BYTES
