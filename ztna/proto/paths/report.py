"""The snapshot of a session's paths, for status output."""

from ztna.proto.paths.candidates import CandidateType, is_v6
from ztna.proto.paths.diagnosis import Facts, diagnose
from ztna.proto.paths.pairs import Pair
from ztna.proto.paths.parts import Parts
from ztna.proto.paths.path_types import PairSummary, PathKind, PathSnapshot
from ztna.proto.paths.stun_types import Endpoint


def snapshot(parts: Parts, now: float) -> PathSnapshot:
    """Return what is known now; costs as much as there are pairs."""
    selector = parts.selector
    found = diagnose(facts(parts, now))
    remote, local, rtt_s, loss = _path(parts)
    return PathSnapshot(
        kind=selector.kind,
        remote=remote,
        local=local,
        reason=selector.reason,
        since=selector.since,
        rtt_s=rtt_s,
        loss=loss,
        switches=selector.switches,
        switch_log=tuple(selector.log),
        time_in_path=selector.snapshot_times(now),
        nat=parts.nat.seen,
        peer_nat=parts.peer_nat,
        mapped=None if parts.relay is None else parts.relay.mapped,
        blocked_by=found.blocked_by,
        evidence=found.evidence,
        advice=found.advice,
        keepalive_s=parts.keepalive_middle_s,
        relay_ready=parts.relay is not None and parts.relay.is_ready,
        relay_lost_reason=parts.relay_lost_reason,
        pairs=tuple(_summary(pair) for pair in sorted(parts.pairs, key=lambda p: p.priority, reverse=True)),
        counters=parts.stats.as_dict(),
    )


def facts(parts: Parts, now: float) -> Facts:
    """Return what diagnosis is based on."""
    begin = parts.checks_begin_at
    mapped = None if parts.relay is None else parts.relay.mapped
    shared = _shared(parts)
    stats = parts.stats
    return Facts(
        direct_allowed=parts.config.direct,
        is_direct=parts.selector.kind is PathKind.DIRECT,
        age_s=now - parts.began_at,
        probing_s=None if begin is None or not parts.pairs.remotes else now - begin,
        stun_sent=stats.relay_bindings_sent + stats.corner_requests_sent,
        stun_answered=stats.relay_bindings_answered + sum(corner.mapped is not None for corner in parts.nat.corners),
        relay=parts.relay_endpoint,
        mapped=mapped,
        observed_host=parts.observed_host,
        nat=parts.nat.seen,
        peer_nat=parts.peer_nat,
        checks_sent=stats.checks_sent,
        peer_requests=stats.requests_answered,
        ever_direct=parts.has_direct_success(),
        peer_hosts_share_mapped=bool(shared),
        hairpin_tried=any(pair.sent for pair in shared),
        remote_candidates=len(parts.pairs.remotes),
        families=frozenset(6 if v6 else 4 for _, v6 in parts.usual_locals),
        peer_families=frozenset(6 if is_v6(remote.host) else 4 for remote in parts.pairs.remotes),
        unheard_address=_unheard(parts, mapped),
    )


def _unheard(parts: Parts, mapped: Endpoint | None) -> Endpoint | None:
    gathering = parts.gathering
    if mapped is None or gathering.listener_proven:
        return None
    if any(pair.requests for pair in parts.pairs if pair.local == gathering.listener):
        return None
    named = (each for each in gathering.listened if is_v6(each.host) == is_v6(mapped.host))
    return next((each for each in named if each.host != mapped.host), None)


def _shared(parts: Parts) -> list[Pair]:
    own = parts.checklist.own_public_host
    return [pair for pair in parts.pairs if pair.type is CandidateType.SRFLX and pair.remote.host == own]


def _path(parts: Parts) -> tuple[Endpoint | None, int, float | None, float]:
    selector, relay = parts.selector, parts.relay
    if selector.kind is PathKind.DIRECT and selector.direct is not None:
        pair = selector.direct
        return pair.remote, pair.local, pair.health.srtt_s, pair.health.loss
    if selector.kind is PathKind.RELAY and relay is not None:
        return relay.remote, relay.local, relay.health.srtt_s, relay.health.loss
    return None, 0, None, 0.0


def _summary(pair: Pair) -> PairSummary:
    return PairSummary(
        local=pair.local,
        remote=pair.remote,
        type=pair.type.value,
        state=pair.held_back or pair.state.value,
        nominated=pair.nominated,
        rtt_s=pair.health.srtt_s,
        sent=pair.sent,
        answered=pair.answered,
        requests=pair.requests,
    )
