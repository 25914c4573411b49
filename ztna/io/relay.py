"""The relay of opaque packets as part of an intermediate: its table, a forwarding back end, clocks and pages around.

control plane -> open, close      STUN with a session's key -> prove      admin socket -> switch
table -> commands -> back end -> counters -> table (quotas), status, metrics
"""

import asyncio
import math
from collections.abc import Callable
from typing import Any, Final

from ztna.io.forward.choose import Mode, Place, choose
from ztna.io.forward.types import Forwarder, ForwardError, PairCounters
from ztna.io.logs import Logger
from ztna.io.metrics import Sample, counters_of
from ztna.io.own_addresses import own_addresses
from ztna.io.udp import UdpSocket
from ztna.proto.identity import Identity
from ztna.proto.paths.stun_types import Endpoint
from ztna.proto.relay_addresses import RelayAddresses
from ztna.proto.relay_table import RelayTable
from ztna.proto.relay_types import Install, Lost, Ready, RelayCommand, RelayLimits, RelaySessionView, Remove

TICK_S: Final = 1.0
OWN_ADDRESSES_S: Final = 30.0
_MAX_DELAY_S: Final = 3600.0


class Relay:
    """One intermediate's relay. `start`, then inputs, then `close`.

    Args:
        udp: the intermediate's main socket, bound.
        mode: config key `relay`. workers: config key `relay_workers`.
        own_ports: further UDP ports of the intermediate, beside the main one.
        on_local: takes datagrams of the main address that reached a socket of ours but are not to be forwarded.
        on_ready: (session, back end) when both sides may use the path; on_lost: (session, reason) when it is gone.
    """

    def __init__(
        self,
        udp: UdpSocket,
        *,
        mode: Mode,
        workers: int,
        limits: RelayLimits,
        own_ports: tuple[int, ...],
        own_host: bool,
        log: Logger,
        clock: Callable[[], float],
        on_local: Callable[[bytes, Endpoint], None],
        on_ready: Callable[[bytes, str], None],
        on_lost: Callable[[bytes, str], None],
    ) -> None:
        self.table = RelayTable(limits, enabled=mode != "off")
        self._udp, self._mode, self._workers = udp, mode, workers
        self._own_ports = (udp.local_address[1], *own_ports)
        self._own_host = own_host or _is_loopback(udp.local_address[0])
        self._log, self._clock = log, clock
        self._on_local, self._on_ready, self._on_lost = on_local, on_ready, on_lost
        self._forwarder: Forwarder | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tick_handle: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._own_read_at = -math.inf
        self._counted: dict[bytes, PairCounters] = {}
        self._failed: set[bytes] = set()
        self._reason: str | None = None
        self._past = PairCounters()
        self.failures = 0

    @property
    def backend(self) -> str:
        """ "kernel", "userspace" or "off"."""
        return "off" if self._forwarder is None or not self.table.enabled else self._forwarder.name

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Choose the back end and begin.

        Raises:
            ForwardError: mode "kernel", which is not possible here.
        """
        self._loop = loop
        host, port = self._udp.local_address
        place = Place(
            host=host, port=port, main_fd=self._udp.fileno(), on_local=self._on_local, loop=loop, clock=self._clock,
            workers=self._workers,
        )  # fmt: skip
        self._forwarder = choose(self._mode, place, self._report)
        self._read_own_addresses()
        self._tick_handle = loop.call_later(TICK_S, self._tick)

    def chosen(self) -> str:
        """The back end that was chosen, and why not the kernel's."""
        return f"{self.backend} ({self._reason})" if self._reason else self.backend

    def _report(self, reason: str) -> None:
        self._reason = f"not the kernel: {reason}"
        if self._tick_handle is not None:
            self._log.warning("relay leaves the kernel", reason=reason)

    def close(self, *, leave: bool = False) -> None:
        """Stop forwarding and leave nothing behind, or what a next process takes over; idempotent."""
        for handle in (self._tick_handle, self._timer):
            if handle is not None:
                handle.cancel()
        self._tick_handle = self._timer = None
        if self._forwarder is not None:
            self._forwarder.close(leave=leave)
            self._forwarder = None

    # -- inputs -------------------------------------------------------------------------------------------------

    def open(self, session: bytes, key: bytes, agent: Identity, connector: Identity) -> None:
        """The control plane made a session; where the relay has no room both sides hear at once."""
        refused = self.table.open(session, key, agent, connector, self._clock())
        if refused is not None:
            self._on_lost(session, refused)
        self._drain()

    def close_session(self, session: bytes, reason: str) -> None:
        """The control plane ended a session."""
        self.table.close(session, reason, self._clock())
        self._drain()

    def key_of(self, session: bytes) -> bytes | None:
        """The key that protects a session's STUN."""
        return self.table.key_of(session)

    def prove(self, session: bytes, role: str, counter: int, source: Endpoint) -> str | None:
        """A side's authenticated STUN came from `source`; returns why it does not count, or None."""
        refused = self.table.prove(session, role, counter, source, self._clock())
        self._drain()
        return refused

    def set_enabled(self, enabled: bool) -> str | None:
        """Switch the relay; returns why it cannot be."""
        if self._mode == "off" and enabled:
            return 'the configuration says "relay": "off"; change it and start again'
        if enabled != self.table.enabled:
            self._log.warning("relay switched", enabled=enabled)
        self.table.set_enabled(enabled, self._clock())
        self._drain()
        return None

    # -- commands and time --------------------------------------------------------------------------------------

    def _drain(self) -> None:
        while (command := self.table.next_command()) is not None:
            self._do(command)
        due = self.table.get_timer()
        if due is not None and due < self._timer_at and self._loop is not None:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = due
            self._timer = self._loop.call_later(min(max(0.001, due - self._clock()), _MAX_DELAY_S), self._fired)

    def _do(self, command: RelayCommand) -> None:
        if isinstance(command, Ready):
            if command.session in self._failed:
                self._failed.discard(command.session)
            else:
                self._on_ready(command.session, self._backend_of(command.session))
        elif isinstance(command, Lost):
            self._on_lost(command.session, command.reason)
        elif isinstance(command, Remove):
            self._remove(command.session)
        else:
            self._install(command)

    def _install(self, command: Install) -> None:
        try:
            if self._forwarder is None:
                raise ForwardError("the relay is off")
            self._forwarder.install(command.session, command.a, command.b)
            self._failed.discard(command.session)
        except ForwardError as exc:
            self.failures += 1
            self._failed.add(command.session)
            self._log.warning("session not relayed", session=command.session.hex(), reason=str(exc))
            self.table.forwarding_failed(command.session, "not-possible", self._clock())

    def _remove(self, session: bytes) -> None:
        if self._forwarder is None:
            return
        seen = self._forwarder.remove(session)
        if seen is not None:
            self._past = _sum(self._past, seen)
        self._counted.pop(session, None)

    def _backend_of(self, session: bytes) -> str:
        backend_of = getattr(self._forwarder, "backend_of", None)
        return str(backend_of(session)) if backend_of is not None else self.backend

    def _fired(self) -> None:
        self._timer, self._timer_at = None, math.inf
        self.table.handle_timer(self._clock())
        self._drain()

    def _tick(self) -> None:
        assert self._loop is not None
        self._tick_handle = self._loop.call_later(TICK_S, self._tick)
        now = self._clock()
        if now - self._own_read_at >= OWN_ADDRESSES_S:
            self._read_own_addresses()
        if self._forwarder is None:
            return
        problem = self._forwarder.tick()
        if problem is not None:
            self._restart(problem)
        self._count()
        self.table.check_quotas(now)
        self._drain()

    def _count(self) -> None:
        if self._forwarder is None:
            return
        now = self._clock()
        self._counted = dict(self._forwarder.counters())
        for session, seen in self._counted.items():
            self.table.activity(session, seen.packets, seen.payload_bytes, now)

    def _restart(self, problem: str) -> None:
        """The back end is lost: go on in this process; sessions return as they prove themselves."""
        assert self._loop is not None
        self._log.error("relay back end failed, going on in this process", reason=problem)
        was_enabled = self.table.enabled
        self.table.set_enabled(False, self._clock())
        self._drain()
        if self._forwarder is not None:
            self._forwarder.close()
        host, port = self._udp.local_address
        place = Place(
            host=host, port=port, main_fd=self._udp.fileno(), on_local=self._on_local, loop=self._loop,
            clock=self._clock,
        )  # fmt: skip
        self._forwarder = place.userspace()
        self.table.set_enabled(was_enabled, self._clock())

    def _read_own_addresses(self) -> None:
        self._own_read_at = self._clock()
        own = own_addresses()
        self.table.set_addresses(
            RelayAddresses(own_hosts=own, own_ports=self._own_ports, allow_own_host=self._own_host)
        )

    # -- what can be seen ---------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Key "relay" of /status: {"enabled", "backend", "sessions": [...], "drops": {...}}."""
        self._count()
        return {
            "enabled": self.table.enabled,
            "backend": self.backend,
            "sessions": [self._session_status(view) for view in self.table.sessions(self._clock())],
            "drops": dict(self._forwarder.drops()) if self._forwarder is not None else {},
            "refusals": {name: value for name, value in self.table.stats.drops().items() if value},
        }

    def _session_status(self, view: RelaySessionView) -> dict[str, Any]:
        seen = self._counted.get(view.session) or PairCounters()
        return {
            "session": view.session.hex(),
            "agent": view.agent.uri,
            "connector": view.connector.uri,
            "ready": view.ready,
            "agent_address": None if view.agent_endpoint is None else str(view.agent_endpoint),
            "connector_address": None if view.connector_endpoint is None else str(view.connector_endpoint),
            "packets": {"agent_to_connector": seen.a_packets, "connector_to_agent": seen.b_packets},
            "bytes": {"agent_to_connector": seen.a_bytes, "connector_to_agent": seen.b_bytes},
            "idle_s": round(view.idle_s, 3),
        }

    def samples(self) -> list[Sample]:
        """Metrics `ztna_relay_*`, totals over all sessions."""
        total = self._past
        for seen in self._counted.values():
            total = _sum(total, seen)
        ways = (
            ("agent_to_connector", total.a_packets, total.a_bytes),
            ("connector_to_agent", total.b_packets, total.b_bytes),
        )
        drops = self._forwarder.drops() if self._forwarder is not None else {}
        return [
            Sample("ztna_relay_enabled", "Whether opaque packets are relayed", self.table.enabled, "gauge"),
            Sample("ztna_relay_kernel", "Whether the kernel forwards them", self.backend == "kernel", "gauge"),
            Sample("ztna_relay_sessions", "Sessions of the relay", len(self.table), "gauge"),
            Sample("ztna_relay_sessions_ready", "Sessions relayed now", self.table.ready_count, "gauge"),
            Sample("ztna_relay_install_failures", "Sessions that no back end could take", self.failures),
            *(Sample("ztna_relay_forwarded_packets", "Opaque packets forwarded", packets, labels={"direction": way})
              for way, packets, _ in ways),
            *(Sample("ztna_relay_forwarded_bytes", "UDP payload forwarded", octets, labels={"direction": way})
              for way, _, octets in ways),
            *(Sample("ztna_relay_forward_drops", "Packets not forwarded, by reason", value, labels={"reason": reason})
              for reason, value in drops.items()),
            *counters_of("ztna_relay_table", "Relay table", self.table.stats),
        ]  # fmt: skip


def _is_loopback(host: str) -> bool:
    return host.startswith("127.") or host == "::1"


def _sum(one: PairCounters, other: PairCounters) -> PairCounters:
    return PairCounters(
        one.a_packets + other.a_packets,
        one.a_bytes + other.a_bytes,
        one.b_packets + other.b_packets,
        one.b_bytes + other.b_bytes,
    )
