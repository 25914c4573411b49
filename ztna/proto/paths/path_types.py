"""What goes in and out of `SessionPaths`: configuration, commands, routes, the snapshot, the counters."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from ztna.proto.natclass import Behavior, PortAllocation
from ztna.proto.paths.candidates import Candidate
from ztna.proto.paths.stun_types import Endpoint, StunMessage
from ztna.proto.stats import Stats

MIN_PACING_S: Final = 0.005
"""RFC 8445 appendix B.1: never faster."""


class PathKind(StrEnum):
    """How packets of a session travel."""

    NONE = "none"
    RELAY = "relay"
    DIRECT = "direct"


@dataclass(frozen=True, slots=True, kw_only=True)
class PathConfig:
    """Tunables of a session's paths.

    Args:
        direct: False keeps the session on the relay: no candidates, no checks.
        hairpin: probe the peer's mapped address once where both sides share one public address.
        birthday: open up to 256 extra sockets, or probe random ports, where one side has an
            address-and-port-dependent mapping with random ports. Strains small NATs, hence off.
        pacing_s: seconds between requests, never under 0.005.
        keepalive_s: middle of the idle keepalive of a mapping, jittered by a ninth (22.5: 20 to 25).
    """

    direct: bool = True
    hairpin: bool = False
    birthday: bool = False
    pacing_s: float = MIN_PACING_S
    keepalive_s: float = 22.5


class Route(NamedTuple):
    """Where the next packets go: from socket `local` to `remote`."""

    local: int
    remote: Endpoint
    kind: PathKind


@dataclass(frozen=True, slots=True)
class SendStun:
    """Send a STUN message from socket `local`; requests without a username and their answers carry no integrity."""

    message: StunMessage
    local: int
    remote: Endpoint


@dataclass(frozen=True, slots=True)
class LocalCandidates:
    """Signal these candidates to the peer, in addition to earlier ones; `end` when no more are being gathered."""

    candidates: tuple[Candidate, ...]
    end: bool


@dataclass(frozen=True, slots=True)
class PathSelected:
    """The path changed: log it, count it. `remote` is None when there is no path."""

    kind: PathKind
    remote: Endpoint | None
    local: int
    reason: str


@dataclass(frozen=True, slots=True)
class NatSeen:
    """What is known of this side's NAT (names of `ztna.proto.natclass`); signal it to the peer."""

    mapping: Behavior
    filtering: Behavior
    allocation: PortAllocation


@dataclass(frozen=True, slots=True)
class OpenSockets:
    """Open `count` more IPv4 sockets on ports of their own and report them by `add_local` with indices from 2 on."""

    count: int


@dataclass(frozen=True, slots=True)
class CloseSockets:
    """Close these extra sockets: the search they served is over."""

    locals: tuple[int, ...]


PathCommand = SendStun | LocalCandidates | PathSelected | NatSeen | OpenSockets | CloseSockets


class BlockedBy(StrEnum):
    """Why a session has no direct path."""

    UDP_BLOCKED = "udp-blocked"
    MAPPING_VARIES = "mapping-varies"
    FILTERED = "filtered"
    PEER_NEVER_PROBED = "peer-never-probed"
    HAIRPIN_NEEDED = "hairpin-needed"
    POLICY = "policy"
    ADDRESS_LIED = "address-lied"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A typed reason, what was seen that says so, and what a person can do about it."""

    blocked_by: BlockedBy | None
    evidence: str
    advice: str


@dataclass(frozen=True, slots=True)
class SwitchRecord:
    """One change of path. `at` is monotonic seconds."""

    at: float
    from_kind: PathKind
    to_kind: PathKind
    reason: str


@dataclass(frozen=True, slots=True)
class PairSummary:
    """One candidate pair, for status output."""

    local: int
    remote: Endpoint
    type: str
    state: str
    nominated: bool
    rtt_s: float | None
    sent: int
    answered: int
    requests: int


@dataclass(slots=True)
class PathStats(Stats):
    """What the path machinery did, and why it did not."""

    checks_sent: int = 0
    checks_answered: int = 0
    checks_missed: int = 0
    requests_answered: int = 0
    relay_bindings_sent: int = 0
    relay_bindings_answered: int = 0
    corner_requests_sent: int = 0
    predicted_checks_sent: int = 0
    birthday_checks_sent: int = 0
    mapping_changes: int = 0
    prflx_learned: int = 0
    remote_candidates: int = 0
    drop_malformed: int = 0
    drop_wrong_session: int = 0
    drop_reflected: int = 0
    drop_role_conflict: int = 0
    drop_replayed: int = 0
    drop_request_rate: int = 0
    drop_unknown_transaction: int = 0
    drop_wrong_source: int = 0
    drop_unauthenticated: int = 0
    drop_error_response: int = 0
    drop_unknown_source: int = 0
    drop_candidate_refused: int = 0
    drop_candidate_limit: int = 0
    drop_pair_limit: int = 0
    drop_transaction_limit: int = 0
    drop_policy: int = 0
    drop_command_queue: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PathSnapshot:
    """State of a session's paths at one moment, for status output.

    `rtt_s` and `loss` (0 to 1) are those of the path in use, as its checks see them; `time_in_path` is in seconds.
    """

    kind: PathKind
    remote: Endpoint | None
    local: int
    reason: str
    since: float
    rtt_s: float | None
    loss: float
    switches: int
    switch_log: tuple[SwitchRecord, ...]
    time_in_path: dict[PathKind, float]
    nat: NatSeen
    peer_nat: NatSeen | None
    mapped: Endpoint | None
    blocked_by: BlockedBy | None
    evidence: str
    advice: str
    keepalive_s: float
    relay_ready: bool
    relay_lost_reason: str
    pairs: tuple[PairSummary, ...]
    counters: dict[str, int] = field(default_factory=dict)
