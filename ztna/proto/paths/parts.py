"""The parts of one session's paths, shared by what receives, what sends and what reports."""

from collections import deque
from collections.abc import Callable, Collection
from typing import Final, Literal

from ztna.proto.paths.candidates import Candidate, CandidateType, is_v6, local_preference, priority
from ztna.proto.paths.checklist import Checklist
from ztna.proto.paths.checks import Pacer, ReplayWindow, TokenBucket, TransactionTable
from ztna.proto.paths.gathering import EXTRA, Gathering
from ztna.proto.paths.nat_watch import NatWatch
from ztna.proto.paths.pairs import Pair, PairState, PairTable
from ztna.proto.paths.path_types import (
    MIN_PACING_S,
    LocalCandidates,
    NatSeen,
    PathCommand,
    PathConfig,
    PathKind,
    PathStats,
)
from ztna.proto.paths.prediction import BirthdaySearch, PortPrediction
from ztna.proto.paths.relay_leg import RelayLeg
from ztna.proto.paths.selector import PathSelector
from ztna.proto.paths.stun_types import Endpoint

Role = Literal["agent", "connector"]

BUSY_S: Final = 1.0
"""Packets were sent within this time: traffic is flowing."""
MAX_COMMANDS: Final = 2048
ANSWERS_PER_S: Final = 200.0
ANSWERS_BURST: Final = 300.0


class Parts:
    """State shared by the sides of `SessionPaths`; see there for the arguments."""

    def __init__(
        self,
        session_id: bytes,
        role: Role,
        *,
        relay: Endpoint | None,
        stun_corners: Collection[Endpoint],
        random: Callable[[int], bytes],
        config: PathConfig,
        now: float,
    ) -> None:
        self.role: Role = role
        self.controlling = role == "agent"
        self.username = f"{session_id.hex()}:{role}"
        self.session = session_id.hex()
        self.peer_username = f"{self.session}:{'connector' if self.controlling else 'agent'}"
        self.tie_breaker = int.from_bytes(random(8), "big")
        self.random = random
        self.config = config
        self.relay_endpoint = relay
        self.relay: RelayLeg | None = None
        self.stats = PathStats()
        self.pairs = PairTable(controlling=self.controlling, stats=self.stats)
        self.selector = PathSelector(self.controlling, now)
        self.checklist = Checklist(self.pairs, self.selector, hairpin=config.hairpin, jitter=self.jitter)
        self.gathering = Gathering()
        self.nat = NatWatch(relay, tuple(stun_corners), local=1 if relay is not None and is_v6(relay.host) else 0)
        self.transactions = TransactionTable(random)
        self.pacer = Pacer(max(MIN_PACING_S, config.pacing_s))
        self.replay = ReplayWindow()
        self.answers = TokenBucket(ANSWERS_PER_S, ANSWERS_BURST)
        self.prediction = PortPrediction()
        self.birthday = BirthdaySearch(random)
        self.extra_sockets: set[int] = set()
        self.commands: deque[PathCommand] = deque()
        self.began_at = now
        self.now = now
        self.checks_begin_at: float | None = None
        self.last_sent_at = float("-inf")
        self.peer_nat: NatSeen | None = None
        self.nat_told: NatSeen | None = None
        self.observed_host: str | None = None
        self.closed = False
        self.search_at: float | None = None
        self.relay_lost_reason = ""
        self.keepalive_middle_s = config.keepalive_s
        self.priority_attribute = {
            False: priority(CandidateType.PRFLX, local_preference("0.0.0.0", 0)),
            True: priority(CandidateType.PRFLX, local_preference("::", 0)),
        }

    def jitter(self) -> float:
        """Uniform in [0, 1)."""
        return int.from_bytes(self.random(2), "big") / 65536

    def is_busy(self, now: float) -> bool:
        """Whether packets were sent within the last second."""
        return now - self.last_sent_at <= BUSY_S

    def keepalive_s(self) -> float:
        """Seconds until the next keepalive of an idle mapping."""
        return self.keepalive_middle_s * (1 + (2 * self.jitter() - 1) / 9)

    def emit(self, command: PathCommand) -> None:
        """Queue a command; the oldest is dropped from a queue that nobody empties."""
        if self.closed:
            return
        if len(self.commands) >= MAX_COMMANDS:
            self.stats.drop_command_queue += 1
            self.commands.popleft()
        self.commands.append(command)

    def tell(self, candidates: list[Candidate]) -> None:
        """Signal candidates to the peer."""
        if candidates and self.config.direct:
            self.emit(LocalCandidates(tuple(candidates), self.gathering.ended))

    def tell_nat(self) -> None:
        """Report the NAT once the corners have answered or been given up, and on each change."""
        nat = self.nat
        if nat.base is None or any(corner.next_at is not None for corner in nat.corners):
            return
        seen = nat.seen
        if seen != self.nat_told:
            self.nat_told = seen
            self.emit(seen)

    def evaluate(self, now: float) -> None:
        """Let the selector decide again, and act on what it decided."""
        selector = self.selector
        before, pair_before = selector.kind, selector.direct
        selector.evaluate(self.pairs, self.relay, now, busy=self.is_busy(now))
        while selector.events:
            self.emit(selector.events.popleft())
        if selector.kind is PathKind.DIRECT and (before is not PathKind.DIRECT or selector.direct is not pair_before):
            self._direct_chosen(now)
        elif before is PathKind.DIRECT and selector.kind is not PathKind.DIRECT:
            self.checklist.failed_over(now)

    def _direct_chosen(self, now: float) -> None:
        self.prediction.stop()
        if self.birthday.started:
            self.birthday.stop()
        pair = self.selector.direct
        if pair is not None and not pair.owed:
            pair.next_at = now if self.controlling and not pair.nominated else pair.next_at

    def peer_mapped(self) -> list[Endpoint]:
        """Mapped addresses that the peer named, newest first."""
        named = [c.endpoint for c in self.pairs.remotes.values() if c.type is CandidateType.SRFLX]
        return named[::-1]

    def has_direct_success(self) -> bool:
        """Whether any pair ever worked."""
        return any(pair.state is PairState.SUCCEEDED for pair in self.pairs)

    def local_for(self, remote: Endpoint) -> int:
        """The usual socket towards `remote`."""
        return 1 if is_v6(remote.host) else 0

    def pair_for(self, source: Endpoint, local: int) -> Pair | None:
        """The pair that a packet belongs to."""
        return self.pairs.get(local, source)

    @property
    def usual_locals(self) -> list[tuple[int, bool]]:
        """(index, is IPv6) of the usual sockets that are open."""
        return [(local, is_v6(e[0].host)) for local, e in self.gathering.hosts.items() if local < EXTRA and e]
