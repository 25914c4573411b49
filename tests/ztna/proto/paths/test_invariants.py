"""What holds whatever happens: hypothesis throws events at one side, and at a whole network."""

import random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.netsim_session import SimSession
from tests.ztna.proto.paths.worlds import NATS, session
from ztna.proto.paths.session_paths import (
    Candidate,
    CandidateType,
    Endpoint,
    PathConfig,
    PathKind,
    SendStun,
    SessionPaths,
    StunError,
    StunRequest,
    StunResponse,
)

SESSION = bytes(range(16))
RELAY = Endpoint("198.51.100.1", 4433)
ENDPOINTS = [
    Endpoint("203.0.113.2", 62000),
    Endpoint("203.0.113.2", 62001),
    Endpoint("192.168.1.11", 40000),
    Endpoint("2001:db8::2", 40001),
    RELAY,
    Endpoint("198.51.100.1", 4434),
    Endpoint("127.0.0.1", 1),
    Endpoint("", 0),
    Endpoint("x", -5),
]
PACING_S = 0.005

endpoints = st.sampled_from(ENDPOINTS)
anything = st.one_of(st.none(), st.integers(-5, 2**70), st.text(max_size=5), st.binary(max_size=14), st.floats())
usernames = st.sampled_from([f"{SESSION.hex()}:agent", f"{SESSION.hex()}:connector", "", "x"])
transactions = st.one_of(st.binary(min_size=12, max_size=12), anything)
messages = st.one_of(
    st.builds(StunRequest, transactions, usernames, anything, st.booleans(), anything, st.booleans()),
    st.builds(StunResponse, transactions, st.one_of(endpoints, st.builds(Endpoint, anything, anything)), st.booleans()),
    st.builds(StunError, transactions, anything),
)
candidates = st.builds(Candidate, st.sampled_from(CandidateType), endpoints, anything, st.just("1"))
hosts = st.sampled_from(ENDPOINTS[:4])
events = st.one_of(
    st.tuples(st.just("stun"), messages, endpoints, st.integers(0, 3)),
    st.tuples(st.just("answer"), st.integers(0, 50), endpoints, st.booleans()),
    st.tuples(st.just("peer"), st.integers(0, 60), endpoints, st.booleans()),
    st.tuples(st.just("packet"), endpoints, st.integers(0, 2)),
    st.tuples(st.just("remote"), st.lists(candidates, max_size=5), st.floats(-1, 10)),
    st.tuples(st.just("local"), st.lists(st.tuples(st.integers(0, 4), hosts), min_size=1, max_size=3)),
    st.sampled_from([("sent",), ("ready",), ("lost",), ("network",), ("nat",), ("timer",)]),
)  # fmt: skip


class Watched:
    """One side under arbitrary input; `step` checks every invariant."""

    def __init__(self, role: str, config: PathConfig) -> None:
        self.paths = SessionPaths(
            SESSION,
            role,  # type: ignore[arg-type]
            relay=RELAY,
            random=random.Random(1).randbytes,
            config=config,
            stun_corners=(RELAY, ENDPOINTS[5]),
            now=0.0,
        )
        self.role, self.now = role, 0.0
        self.requests: list[tuple[float, SendStun]] = []
        self.proved: set[tuple[int, Endpoint]] = set()
        self.counter = 0

    def step(self, event: tuple[Any, ...], pause_s: float) -> None:
        self._pass(pause_s)
        getattr(self, "_" + event[0])(*event[1:])
        self._check()

    def _pass(self, seconds: float) -> None:
        end = self.now + seconds
        for _ in range(400):
            timer = self.paths.get_timer()
            if timer is None or timer > end:
                break
            self.now = max(self.now, timer)
            self.paths.handle_timer(self.now)
            self._check()
        self.now = max(end, self.now)

    def _check(self) -> None:
        while (command := self.paths.next_command()) is not None:
            if isinstance(command, SendStun) and isinstance(command.message, StunRequest):
                if self.requests:
                    assert self.now - self.requests[-1][0] >= PACING_S - 1e-9
                self.requests.append((self.now, command))
                assert len(command.message.transaction) == 12
        routes = self.paths.routes()
        assert len(routes) <= 2
        assert len({route.kind for route in routes}) == len(routes)
        for route in routes:
            if route.kind is PathKind.DIRECT:
                assert (route.local, route.remote) in self.proved
            else:
                assert route.remote == RELAY
        snapshot = self.paths.snapshot(self.now)
        assert len(snapshot.pairs) <= 100
        assert len({pair.remote for pair in snapshot.pairs}) <= 32
        assert len(snapshot.switch_log) <= 64
        timer = self.paths.get_timer()
        assert timer is None or timer == timer

    def _stun(self, message: Any, source: Endpoint, local: int) -> None:
        self.paths.stun_received(message, source, local, self.now)

    def _answer(self, back: int, elsewhere: Endpoint, honest: bool) -> None:
        """Answer one of the last requests, from where it was sent to or from elsewhere."""
        if not self.requests:
            return
        _, command = self.requests[-1 - back % len(self.requests)]
        source = command.remote if honest else elsewhere
        if source == command.remote:
            self.proved.add((command.local, command.remote))
        mapped = Endpoint("203.0.113.1", 61000 + back % 3)
        self.paths.stun_received(StunResponse(command.message.transaction, mapped), source, command.local, self.now)

    def _peer(self, jump: int, source: Endpoint, nominate: bool) -> None:
        """An authentic request of the peer, perhaps a replay."""
        self.counter = max(0, self.counter + jump - 10)
        peer = "connector" if self.role == "agent" else "agent"
        message = StunRequest(
            self.counter.to_bytes(6, "big") + b"abcdef", f"{SESSION.hex()}:{peer}", 5, peer == "agent", 1, nominate
        )
        self.paths.stun_received(message, source, int(":" in source.host), self.now)

    def _packet(self, source: Endpoint, local: int) -> None:
        self.paths.packet_received(source, local, self.now)

    def _remote(self, candidates: list[Candidate], start_in_s: float) -> None:
        self.paths.remote_candidates(candidates, start_in_s, self.now)

    def _local(self, hosts: list[tuple[int, Endpoint]]) -> None:
        self.paths.add_local([(i if i > 1 else int(":" in e.host), e) for i, e in hosts], self.now)

    def _sent(self) -> None:
        self.paths.packets_sent(self.now)

    def _ready(self) -> None:
        self.paths.relay_ready(self.now)

    def _lost(self) -> None:
        self.paths.relay_lost("quota", self.now)

    def _network(self) -> None:
        self.paths.network_changed(self.now)

    def _nat(self) -> None:
        self.paths.peer_nat("address-and-port-dependent", "unknown", "sequential")

    def _timer(self) -> None:
        self.paths.handle_timer(self.now)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(["agent", "connector"]),
    st.builds(PathConfig, hairpin=st.booleans(), birthday=st.booleans(), pacing_s=st.sampled_from([0.0, 0.005, 0.02])),
    st.lists(st.tuples(events, st.sampled_from([0.0, 0.001, 0.03, 0.2, 3.0])), max_size=40),
)
def test_one_side_under_any_input(role: str, config: PathConfig, steps: list[tuple[tuple[Any, ...], float]]) -> None:
    """Nothing raises; at most two routes; direct only where a check was answered; 5 ms pace; bounded tables."""
    watched = Watched(role, config)
    watched.step(("local", [(0, Endpoint("192.168.1.10", 40000))]), 0.0)
    for event, pause_s in steps:
        watched.step(event, pause_s)
    watched._pass(5.0)


def holds(made: SimSession) -> None:
    """Invariants of both ends of a network."""
    for end in made.ends:
        assert all(b - a >= PACING_S - 1e-9 for a, b in zip(end.checks_at, end.checks_at[1:], strict=False))
        routes = end.paths.routes()
        assert len(routes) <= 2
        proved = {(p.local, p.remote) for p in end.paths.snapshot(made.network.now).pairs if p.answered}
        assert all((r.local, r.remote) in proved for r in routes if r.kind is PathKind.DIRECT)


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(list(NATS)),
    st.sampled_from(list(NATS)),
    st.integers(0, 10**6),
    st.lists(
        st.tuples(
            st.sampled_from(["block", "heal", "relay down", "relay up", "loss", "up", "network"]), st.floats(0, 3)
        ),
        max_size=8,
    ),
)
def test_a_network_under_any_weather(left: str, right: str, seed: int, weather: list[tuple[str, float]]) -> None:
    """And when the weather is fine again, both ends have a path wherever the NATs allow one."""
    made = session(left, right, seed=seed)
    made.stream()
    for what, seconds in weather:
        if what == "block" and not made.network.drops:
            made.block_direct()
        elif what == "heal":
            made.network.drops.clear()
        elif what in ("relay down", "relay up"):
            made.relay.is_up = what == "relay up"
        elif what == "loss":
            made.agent.host.link.loss = 0.3
        elif what == "network":
            made.agent.later(0.0, lambda now: made.agent.paths.network_changed(now))
        made.run(seconds)
        holds(made)
    made.network.drops.clear()
    made.relay.is_up, made.agent.host.link.loss = True, 0.0
    made.run(8.0)
    holds(made)
    if "U" not in (left, right):
        assert all(kind is not PathKind.NONE for kind in made.kinds)
