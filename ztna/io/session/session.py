"""One session of an agent and a connector: its sockets, its paths, and the end-to-end QUIC connection over them.

    sockets -> STUN: ztna.proto.paths | QUIC: core -> streams, DATAGRAMs -> owner
    owner -> core -> packets -> the route or routes that the paths name now

The core sees one constant peer; which way its packets go is decided beneath it, per batch, so a change of path never
touches the connection. Every batch is processed whole, then transmitted once.
"""

import asyncio
import os
import random
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from ztna.io.lazy_timer import LazyTimer
from ztna.io.logs import Logger
from ztna.io.session import stun_codec
from ztna.io.session.control_plane import candidates_of
from ztna.io.session.core import Closed, HandshakeDone, SessionCore
from ztna.io.session.session_parts import (
    ACK_DELAY_S,
    ACK_EVERY,
    SPARSE,
    PathBytes,
    SessionCounters,
    SessionOwner,
    SessionSettings,
)
from ztna.io.session.session_status import session_status
from ztna.io.session.sockets import SessionSockets
from ztna.io.udp import Run, UdpSocket
from ztna.proto.control.events import PeerCandidates, PeerNat, RelayIsLost, RelayIsReady, SessionEnded
from ztna.proto.paths.path_types import (
    CloseSockets,
    LocalCandidates,
    NatSeen,
    OpenSockets,
    PathKind,
    PathSelected,
    SendStun,
)
from ztna.proto.paths.session_paths import SessionPaths
from ztna.proto.paths.silence import PeerSilence
from ztna.proto.paths.stun_types import Endpoint

ESTABLISH_S: Final = 20.0
PING_S: Final = (18.0, 22.0)
QUIC_BITS: Final = 0xC0  # RFC 9443 s3: STUN has neither of them in its first byte, QUIC has one at least
ROUNDS: Final = 4


class Session:
    """See the module. `start` begins; `close` ends it from our side, `session_closed` tells of any end once."""

    def __init__(
        self,
        settings: SessionSettings,
        *,
        core: Callable[[float], SessionCore],
        owner: SessionOwner,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        log: Logger,
    ) -> None:
        now = clock()
        self.settings = settings
        self.counters = SessionCounters()
        self.by_path = {kind: PathBytes() for kind in (PathKind.DIRECT, PathKind.RELAY)}
        self.switch_reasons: Counter[str] = Counter()
        self.started_at = now
        self.closed = False
        self.proven = False
        """Whether both sides are known to each other: set by the owner."""
        self.services: tuple[str, ...] = ()
        self.unfinished_checksums = False
        """Whether both sides can UNFINISHED_CHECKSUMS: set by the owner."""
        self._owner = owner
        self._loop = loop
        self._clock = clock
        self._log = log
        self._begun = False
        self._transmitting = False
        self._soon = False
        self._source = Endpoint("", 0)
        self._established = False
        self._unanswered = 0
        self._answer_at: float | None = None
        self._ping_at = now + PING_S[1]
        self._deadline = now + ESTABLISH_S
        self.sockets = SessionSockets(loop, self.received, bind_addr=settings.bind_addr)
        self.paths = SessionPaths(
            settings.session,
            "agent" if settings.role == "agent" else "connector",
            relay=settings.relay,
            random=os.urandom,
            config=settings.paths,
            now=now,
            stun_corners=settings.corners,
        )
        self.core = core(now)
        self.silence = PeerSilence(now)
        self._timer = LazyTimer(loop, clock, self._due)

    @property
    def id(self) -> bytes:
        """The session's id, 16 bytes."""
        return self.settings.session

    @property
    def now(self) -> float:
        """The session's clock, monotonic seconds."""
        return self._clock()

    @property
    def rtt_s(self) -> float | None:
        """Round-trip time of the present path by its checks, else that of QUIC; None before the first sample."""
        return self.paths.snapshot(self._clock()).rtt_s or self.core.rtt_s

    @property
    def state(self) -> str:
        """connecting, established (the handshake is complete), or ready."""
        return "ready" if self.ready else "established" if self._established else "connecting"

    @property
    def ready(self) -> bool:
        """Whether payload may flow."""
        return self.proven and not self.closed

    def start(self) -> None:
        """Send the first checks; the agent's handshake begins as soon as there is a path."""
        self.paths.add_local(self.sockets.hosts(), self._clock())
        self.flush()

    def close(self, reason: str, *, tell: bool = True) -> None:
        """End the session; with `tell` the peer gets a CONNECTION_CLOSE over the present path."""
        if self.closed:
            return
        if tell and self._begun:
            self.core.close(0, reason)
            self._transmit(self._clock())
        self._end(reason)

    def _end(self, reason: str) -> None:
        if self.closed:
            return
        self.closed = True
        self._timer.close()
        self.paths.close(self._clock())
        self.sockets.close()
        self._owner.session_closed(self, reason)

    # control plane

    def control_event(self, event: object) -> None:
        """What the intermediate says about this session, or passes on from the peer."""
        now = self._clock()
        match event:
            case PeerCandidates():
                self.paths.remote_candidates(candidates_of(event.candidates), event.start_in_s, now)
            case PeerNat():
                self.paths.peer_nat(event.mapping, event.filtering, event.allocation)
            case RelayIsReady():
                self.paths.relay_ready(now)
            case RelayIsLost():
                self.paths.relay_lost(event.reason, now)
            case SessionEnded():
                # Obeyed on direct paths too: this is how a revocation reaches them.
                self.close(event.reason)
        self.flush()

    def listen(self, index: int, udp: UdpSocket, hosts: list[Endpoint], reflexive: list[Endpoint]) -> None:
        """Be reachable by a socket that its owner shares between sessions; what it receives comes by `received`."""
        self.sockets.share(index, udp)
        self.paths.add_listener(index, hosts, reflexive, self._clock())
        self.flush()

    def observed(self, host: str) -> None:
        """The intermediate sees our control connection at this address."""
        self.paths.control_observed(host)

    def network_changed(self) -> None:
        """An interface or address of this host changed: look for paths anew."""
        now = self._clock()
        self.paths.network_changed(now)
        self.paths.add_local(self.sockets.hosts(), now)
        self.flush()

    # packets in

    def received(self, index: int, batch: list[Run]) -> None:
        """Datagrams arrived by a socket."""
        if self.closed:
            return
        now, packets = self._clock(), list[bytes]()
        for source, run in batch:
            quic = [data for data in run if data and data[0] & QUIC_BITS]
            if len(quic) != len(run):
                self._others(index, run, source, now)
            if not quic:
                continue
            bucket = self._bucket(index, source, now)
            if bucket is None:
                self.counters.dropped_unknown_source += len(quic)
                continue
            bucket.count_received(quic)
            packets += quic
        if packets:
            self.silence.heard_at = now
            self.core.receive(packets, now)
            self._begun = True
            self._unanswered += len(packets)
        self._finish(now)

    def _others(self, index: int, run: list[bytes], source: tuple[str, int], now: float) -> None:
        """STUN, and what is nothing at all."""
        for data in run:
            if not data:
                self.counters.dropped_empty += 1
            elif not data[0] & QUIC_BITS:
                self._stun(index, data, source, now)

    def _bucket(self, index: int, source: tuple[str, int], now: float) -> PathBytes | None:
        """Where bytes from this source count, None if no path of ours has such a peer."""
        remote = self._source
        if source != remote:
            remote = self._source = Endpoint(*source)
        if not self.paths.packet_received(remote, index, now):
            return None
        return self.by_path[PathKind.RELAY if remote == self.settings.relay else PathKind.DIRECT]

    def _stun(self, index: int, data: bytes, source: tuple[str, int], now: float) -> None:
        message = stun_codec.decode(data, self.settings.key)
        if message is None:
            self.counters.dropped_stun += 1
            return
        self.counters.stun_received += 1
        self.paths.stun_received(message, Endpoint(*source), index, now)

    # packets out

    def flush(self) -> None:
        """Carry out what was asked for outside a batch, and transmit."""
        if not self.closed and not self._transmitting:
            self._finish(self._clock(), queued=True)

    def flush_soon(self) -> None:
        """`flush` in the loop's next turn, once for all who ask in this one."""
        if not self._soon and not self.closed:
            self._soon = True
            self._loop.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._soon = False
        self.flush()

    def _finish(self, now: float, *, queued: bool = False) -> None:
        """After any input: events up, paths' commands, packets out, timer; what was `queued` leaves before all that."""
        self._transmitting = True
        try:
            if queued:
                self._transmit(now)
            for number in range(ROUNDS):
                if not self._round(now, again=queued or number > 0):
                    break
            self._events()
        except Exception as exc:
            # A defect must cost a packet, not the process; the owner's log says where.
            self.counters.dropped_error += 1
            self._log.warning("problem", where="session", detail=repr(exc))
        finally:
            self._transmitting = False
        if not self.closed:
            self._arm()

    def _round(self, now: float, *, again: bool) -> bool:
        """Events up, answers and paths' commands down, packets out; False when there was nothing to send."""
        if not self._events():
            return False
        self._owner.session_batch_ended(self)
        self._path_commands(now)
        if not self._begun and self.settings.role == "agent" and self.paths.routes():
            self._begun = True
            self.core.start(now)
        if again and self.core.quiet:
            return False
        return self._transmit(now) > 0

    def _events(self) -> bool:
        """Hand up what the core has; False when the session is over."""
        core = self.core
        datagrams = core.take_datagrams()
        if datagrams:
            self._owner.session_datagrams(self, datagrams)
            self.sockets.arrived(datagrams[-1])
        while (event := core.next_event()) is not None:
            if isinstance(event, Closed):
                by = "closed by the peer" if event.by_peer else "closed"
                self._end(f"{event.reason or by} (code {event.code:#x})" if event.code else event.reason or by)
                break
            if isinstance(event, HandshakeDone):
                self._established = True
            self._owner.session_event(self, event)
            if self.closed:
                break
        return not self.closed

    def _path_commands(self, now: float) -> None:
        paths = self.paths
        while (command := paths.next_command()) is not None:
            if isinstance(command, SendStun):
                self.counters.stun_sent += 1
                self.sockets.send(command.local, stun_codec.encode(command.message, self.settings.key), command.remote)
            elif isinstance(command, LocalCandidates):
                self._owner.session_signal(self, command.candidates, command.end)
            elif isinstance(command, PathSelected):
                self._path_selected(command, now)
            elif isinstance(command, NatSeen):
                self._owner.session_nat(self, command)
            elif isinstance(command, OpenSockets):
                paths.add_local(self.sockets.open_extra(command.count), now)
            elif isinstance(command, CloseSockets):
                self.sockets.close_extra(command.locals)

    def _path_selected(self, selected: PathSelected, now: float) -> None:
        self.switch_reasons[selected.reason] += 1
        remote = selected.remote
        peer = "none" if remote is None else str(remote)
        self._log.info(
            f"Path selected: {selected.kind.name} (peer: {peer}, reason: {selected.reason})", session=self.id.hex()
        )
        if self._established:
            self.core.path_changed(now)
        self._owner.session_path(self, selected)

    def _transmit(self, now: float) -> int:
        """Send what the core has, on the present route or routes; returns how many packets it had."""
        if not self._begun:
            return 0
        routes = self.paths.routes()
        if not routes:
            self.counters.waited_for_path += 1
            return 0
        if self._holds_back(now) or not (packets := self.core.packets(now)):
            return 0
        for route in routes:
            self.sockets.send_all(route.local, packets, route.remote)
            self.by_path[route.kind].count_sent(packets)
        if len(routes) > 1:
            self.counters.duplicated += len(packets)
        self.paths.packets_sent(now)
        if self.proven and self.silence.sent(self.core, now):
            self._owner.session_silent(self)
        return len(packets)

    def _holds_back(self, now: float) -> bool:
        """Whether acknowledgements are all there is to send, and may wait for more packets or for an answer."""
        if 0 < self._unanswered < ACK_EVERY and self.core.quiet:
            at = now + ACK_DELAY_S[self._unanswered > SPARSE]
            if self._answer_at is None or at < self._answer_at:
                self._answer_at = at
            if now < self._answer_at:
                return True
        self._unanswered, self._answer_at = 0, None
        return False

    # time

    def _arm(self) -> None:
        due = self._ping_at if self.proven else self._deadline
        at = self.paths.get_timer()
        if at is not None and at < due:
            due = at
        if self._begun:
            at = self.core.get_timer()
            if at is not None and at < due:
                due = at
        if self._answer_at is not None and self._answer_at < due:
            due = self._answer_at
        self._timer.arm(due)

    def _due(self) -> None:
        now = self._clock()
        if not self.proven and now >= self._deadline:
            self.close("no path to the peer in time" if not self._established else "the peer did not prove itself")
            return
        if (at := self.paths.get_timer()) is not None and at <= now:
            self.paths.handle_timer(now)
        if self._begun and (at := self.core.get_timer()) is not None and at <= now:
            self.core.handle_timer(now)
        if self.proven and now >= self._ping_at:
            self._ping_at = now + random.uniform(*PING_S)  # noqa: S311 - spreads load, guards nothing
            self.core.ping()
        self._finish(now)

    def status(self) -> dict[str, Any]:
        """This session's entry of /status."""
        return session_status(self)
