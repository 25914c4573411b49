"""Ports that nobody named: the next ones of a sequential NAT, and random ones for the birthday search.

A NAT with an address-and-port-dependent mapping answers from a port that no candidate names. Where it allocates in
sequence the next ports are tried; where at random, and only when asked for, the birthday paradox helps: 256 sockets
behind that NAT each make a mapping towards the other side, which then probes random ports. 1024 probes meet one of
the 256 with 98.2 %, 2048 with 99.97 %. Both searches have a budget in packets and in time, and end for good.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from ztna.proto.paths.stun_types import Endpoint

AHEAD: Final = 16
"""A NAT's other flows, and this peer's own other checks, take ports in between."""
ROUNDS_AT_S: Final = (0.0, 0.2, 0.6, 1.4)
MAX_RUNS: Final = 4
FIRST_PORT: Final = 1024
PORTS: Final = 65536 - FIRST_PORT

BIRTHDAY_SOCKETS: Final = 256
BIRTHDAY_PROBES: Final = 2048
BIRTHDAY_INTERVAL_S: Final = 0.01
BIRTHDAY_BUDGET_S: Final = 30.0


def predicted_ports(mapped: Endpoint, ahead: int = AHEAD) -> list[Endpoint]:
    """Return the `ahead` endpoints after `mapped`, wrapping from 65535 to 1024."""
    ports = (FIRST_PORT + (mapped.port - FIRST_PORT + step) % PORTS for step in range(1, ahead + 1))
    return [Endpoint(mapped.host, port) for port in ports]


@dataclass(slots=True)
class PortPrediction:
    """Checks to the next ports of a sequential peer: 4 rounds of 16, for at most 4 mapped addresses of the peer."""

    _runs: int = 0
    _mapped: Endpoint | None = None
    _queue: deque[Endpoint] = field(default_factory=deque)
    _rounds: deque[float] = field(default_factory=deque)

    @property
    def next_at(self) -> float | None:
        """When the next check is due."""
        if self._queue:
            return float("-inf")
        return self._rounds[0] if self._rounds else None

    def start(self, mapped: Endpoint, at: float) -> None:
        """Try the ports after `mapped` from time `at` on; the same address is not tried again."""
        if mapped == self._mapped or self._runs >= MAX_RUNS:
            return
        self._runs += 1
        self._mapped = mapped
        self._queue.clear()
        self._rounds = deque(at + offset for offset in ROUNDS_AT_S)

    def stop(self) -> None:
        """A direct path exists."""
        self._queue.clear()
        self._rounds.clear()

    def take(self, now: float) -> Endpoint | None:
        """Return where to send the next check, if one is due."""
        if not self._queue and self._rounds and self._rounds[0] <= now and self._mapped is not None:
            self._rounds.popleft()
            self._queue.extend(predicted_ports(self._mapped))
        return self._queue.popleft() if self._queue else None


@dataclass(slots=True)
class BirthdaySearch:
    """One side's part in the search, started once.

    On the side with the varying mapping `sockets` are asked for, and each sends to `target` twice; on the other side
    random ports of `target` are probed. `next_at` paces both at 100 per second at most; after 30 s, or the budget,
    the search is over for good.
    """

    random: Callable[[int], bytes]
    target: Endpoint | None = None
    opens_sockets: bool = False
    sent: int = 0
    next_at: float | None = None
    ends_at: float = float("inf")
    _locals: deque[int] = field(default_factory=deque)
    _tried: set[int] = field(default_factory=set)

    @property
    def started(self) -> bool:
        """Whether it runs or ran."""
        return self.target is not None

    def start(self, target: Endpoint, *, opens_sockets: bool, now: float) -> None:
        """Begin; a second start has no effect."""
        if self.started:
            return
        self.target, self.opens_sockets = target, opens_sockets
        self.next_at, self.ends_at = (None if opens_sockets else now), now + BIRTHDAY_BUDGET_S

    def add_sockets(self, locals_: list[int], now: float) -> None:
        """Extra sockets are open; each sends now and once more later, in case the first packet was lost."""
        if self.started and self.opens_sockets and now < self.ends_at:
            self._locals.extend(locals_[:BIRTHDAY_SOCKETS] * 2)
            self.next_at = now

    def stop(self) -> None:
        """Over: found, or out of budget."""
        self.next_at = None
        self.ends_at = float("-inf")
        self._locals.clear()

    def take(self, now: float) -> tuple[int | None, Endpoint] | None:
        """Return (local socket or None for the usual one, remote) of the next check, if one is due."""
        if self.next_at is None or now < self.next_at or self.target is None:
            return None
        if now >= self.ends_at or self.sent >= BIRTHDAY_PROBES:
            self.stop()
            return None
        self.next_at = now + BIRTHDAY_INTERVAL_S
        self.sent += 1
        if not self.opens_sockets:
            return None, Endpoint(self.target.host, self._random_port())
        local = self._locals.popleft()
        if not self._locals:
            self.next_at = None
        return local, self.target

    def _random_port(self) -> int:
        # 2048 of 64512 ports: a second draw is rare, so a few tries find a new one.
        port = 0
        for _ in range(8):
            port = FIRST_PORT + int.from_bytes(self.random(4), "big") % PORTS
            if port not in self._tried:
                break
        self._tried.add(port)
        return port
