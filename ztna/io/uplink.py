"""One connection to the intermediate, kept up: what the shells of agent and connector share.

Flow: dial -> Connected -> (`ztna-v2`: proof of identity) -> the control core registers -> packets both ways -> lost
(close frame, silence, or the relay answers STUN but acknowledges nothing) -> wait (jittered, growing) -> dial. While
waiting after a silent loss the relay is asked by STUN once or twice a second, so that its return is noticed at once
however long the wait has become. On `ztna-v2` a role says by `sessions`, then `say`, what belongs to sessions, and is
told by `Owner.control_event`. All runs in the endpoint's batches: packets received are processed, then one transmit.
"""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from ztna.config_types import RelayAddress
from ztna.io import proof
from ztna.io.lazy_timer import LazyTimer
from ztna.io.logs import Logger
from ztna.io.quic import QuicEndpoint
from ztna.io.quic_peer import Peer
from ztna.io.quic_types import (
    ALPN_V2,
    ClientSettings,
    Closed,
    Connected,
    Credentials,
    DatagramReceived,
    PayloadLimit,
    PeerEvent,
    StreamReceived,
)
from ztna.io.resolve import is_literal, resolve
from ztna.io.runtime import version
from ztna.io.silence import Silence
from ztna.io.stun import looks_like_stun
from ztna.io.stun_client import StunRequests
from ztna.io.udp import Address, UdpSocket
from ztna.io.uplink_types import Owner, UplinkCounters
from ztna.proto.client import (
    ClientControl,
    DeliverPacket,
    Denied,
    Note,
    Observed,
    ReconnectAt,
    Registered,
    SendDatagram,
    SendStream,
)
from ztna.proto.control.client import ControlClient
from ztna.proto.control.events import ControlDown, ControlError, ControlEvent, ControlUp, Draining
from ztna.proto.liveness import Liveness, Verdict
from ztna.proto.signalling_streams import V2_CLIENT_STREAM

FAST_HANDSHAKE_S: Final = 3.0
STUN_EVERY_S: Final = 0.5
RETURN_JITTER_S: Final = 0.2
DRAIN_S: Final = 1.0
SETTLE_S: Final = 0.1
# Below both bounds of the peer's queue, 64 packets and 64 KiB of the largest packets, so that control messages fit.
QUEUE_PACKETS: Final = 48


class Uplink:
    """Keeps one role connected.

    Args:
        udp: the socket all attempts share, so that a NAT keeps one mapping.
        control: the role's control core; the uplink executes its commands.
        relay: where to dial; its name is resolved at each attempt.
        settings: gives the QUIC settings of the next attempt, with certificates as they are on disk now.
        owner: gets packets and batch ends.
    """

    def __init__(
        self,
        udp: UdpSocket,
        *,
        control: ClientControl,
        relay: RelayAddress,
        settings: Callable[[], ClientSettings],
        owner: Owner,
        log: Logger,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
    ) -> None:
        self.counters = UplinkCounters()
        self.control = control
        # Of two processes with one identity the one that started later serves.
        started_ms = time.time_ns() // 1_000_000
        self.sessions = ControlClient(control, role=control.role, epoch=started_ms, software=f"ztna {version()}")
        self.relay_address: Address | None = None
        self.silence = Silence(udp.counters, clock)
        self.last_problem = "connecting"
        self.endpoint = QuicEndpoint(
            udp,
            on_event=self._on_event,
            on_datagram=self._on_datagram,
            on_batch_end=self._on_batch_end,
            on_problem=self._on_problem,
            non_quic=self._non_quic,
            clock=clock,
            loop=loop,
        )
        self._relay = relay
        self._settings = settings
        self._owner = owner
        self._log = log
        self._loop = loop
        self._clock = clock
        self._peer: Peer | None = None
        self._credentials: Credentials | None = None
        self._liveness: Liveness | None = None
        self._closing = False
        self._fast = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._control_timer = LazyTimer(loop, clock, self._control_due)
        self._check_timer: asyncio.TimerHandle | None = None
        self._dial_timer: asyncio.TimerHandle | None = None
        self._stun_timer: asyncio.TimerHandle | None = None
        self._stun = StunRequests()

    @property
    def peer(self) -> Peer | None:
        """The connection, while it is established."""
        return self._peer if self._peer is not None and self._peer.established else None

    @property
    def _speaks_v2(self) -> bool:
        return self._peer is not None and self._peer.alpn == ALPN_V2

    @property
    def room(self) -> int:
        """DATAGRAMs that can be queued before they displace each other; 0 while the congestion window is shut."""
        waiting = 0 if self._peer is None else self._peer.datagrams_waiting
        return max(0, QUEUE_PACKETS - waiting)

    def start(self) -> None:
        """Begin to receive and dial for the first time."""
        self.endpoint.start()
        self._dial()

    def send(self, payload: bytes) -> bool:
        """Queue one DATAGRAM payload; False when there is no connection or it is too large (counted by the peer)."""
        return self._peer is not None and self._peer.send_datagram(payload)

    def pump(self) -> None:
        """Execute the control cores' commands, hand up events, set the timer; for callers outside a batch too."""
        control, sessions = self.control, self.sessions
        while True:
            while (command := control.next_command()) is not None:
                self._execute(command)
            event = sessions.next_event()
            if event is None:
                break
            self._handle(event)
        self.say()
        due = [at for at in (control.get_timer(), sessions.get_timer()) if at is not None]
        self._control_timer.arm(min(due, default=None))

    def say(self) -> None:
        """Put on the control stream what was said by `sessions`; it leaves with this batch or the loop's next turn."""
        while (command := self.sessions.next_command()) is not None:
            if isinstance(command, SendStream):
                self._send_stream(command.stream_id, command.data)
            elif self._peer is not None:
                self._peer.close(0, command.reason)

    def network_changed(self) -> None:
        """This host has other addresses: let the relay see the new one at once, or find out that it cannot."""
        if self._peer is not None and self._peer.established:
            self._peer.ping()
            self.endpoint.flush()
        elif self._dial_timer is not None and not self._closing:
            self._dial_timer.cancel()
            self._dial()

    async def close(self, reason: str = "shutting down") -> None:
        """Tell the relay, wait briefly for the close frame to be out, and stop."""
        self._closing = True
        self.silence.close()
        self._control_timer.close()
        for timer in (self._check_timer, self._dial_timer, self._stun_timer):
            if timer is not None:
                timer.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._peer is not None and not self._peer.closed:
            self._peer.close(0, reason)
            self.endpoint.flush()
            # One repetition covers the loss of the first close frame; nobody has to wait for the closing period.
            await asyncio.sleep(SETTLE_S)
        self.endpoint.close()

    # dialling

    def _dial(self) -> None:
        self._dial_timer = None
        self._stop_stun()
        task = self._loop.create_task(self._resolve_and_connect())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _resolve_and_connect(self) -> None:
        try:
            host = self._relay.host if is_literal(self._relay.host) else await resolve(self._loop, self._relay.host)
            settings = self._settings()
        except Exception as exc:
            self.counters.dial_errors += 1
            self._failed(f"cannot dial {self._relay.host}: {exc}")
            return
        self.relay_address = (host, self._relay.port)
        if self._fast:
            settings = replace(settings, handshake_timeout_s=FAST_HANDSHAKE_S)
        self._credentials = settings.credentials
        self.counters.dials += 1
        self.silence.dialled(self.relay_address)
        self._peer = self.endpoint.connect(self.relay_address, settings)
        self._owner.dialled(self.relay_address)

    def _failed(self, reason: str) -> None:
        """An attempt or a connection ended: let the control core say when to try again."""
        self.last_problem = reason
        self._peer = None
        self._liveness = None
        if self._check_timer is not None:
            self._check_timer.cancel()
            self._check_timer = None
        if not self._closing:
            self._log.warning("relay_lost", reason=reason)
            if self.control.is_connected and not self.sessions.is_up:
                self._owner.control_event(ControlDown())
            self.sessions.disconnected()
            self.control.disconnected(self._clock())
            self.pump()

    def _reconnect_at(self, due: float) -> None:
        if self._closing:
            return
        self._dial_timer = self._loop.call_later(max(0.0, due - self._clock()), self._dial)
        if self._fast and self.relay_address is not None:
            self._stun_timer = self._loop.call_later(random.uniform(0, STUN_EVERY_S), self._ask_whether_back)  # noqa: S311

    def _ask_whether_back(self) -> None:
        self._send_stun()
        self._stun_timer = self._loop.call_later(STUN_EVERY_S, self._ask_whether_back)

    def _stop_stun(self) -> None:
        self._stun.clear()
        if self._stun_timer is not None:
            self._stun_timer.cancel()
            self._stun_timer = None

    def _send_stun(self) -> None:
        if self.relay_address is not None:
            self.counters.stun_probes += 1
            self.endpoint.udp.send(self._stun.request(), self.relay_address)

    def _stun_answered(self) -> None:
        self.counters.stun_answers += 1
        if self._liveness is not None:
            self._liveness.stun_answered()
        elif self._dial_timer is not None and not self._closing:
            self._dial_timer.cancel()
            # All clients of a relay notice its return together; they should not all arrive in one instant.
            self._dial_timer = self._loop.call_later(random.uniform(0, RETURN_JITTER_S), self._dial)  # noqa: S311
            self._stop_stun()

    # events of the endpoint

    def _on_event(self, peer: Peer, event: PeerEvent) -> None:
        if peer is not self._peer:
            return
        now = self._clock()
        if isinstance(event, DatagramReceived):
            self.control.datagram_received(event.data, now)
        elif isinstance(event, StreamReceived):
            core = self.sessions if self._speaks_v2 and event.stream_id < V2_CLIENT_STREAM else self.control
            core.stream_received(event.stream_id, event.data, event.fin, now)
        elif isinstance(event, Connected):
            self.silence.connected()
            self._connected(peer, now)
        elif isinstance(event, PayloadLimit):
            self._set_payload_limit(event.max_bytes)
        elif isinstance(event, Closed):
            self._closed(peer, event)

    def _on_datagram(self, peer: Peer, data: bytes) -> None:
        if peer is self._peer:
            self.control.datagram_received(data, self._clock())

    def _on_batch_end(self) -> None:
        self.pump()
        self._owner.batch_ended()
        self.say()

    def _on_problem(self, where: str, exc: Exception) -> None:
        self.counters.problems += 1
        self._log.warning("problem", where=where, detail=repr(exc))

    def _non_quic(self, data: bytes, source: Address) -> bool:
        if source == self.relay_address and looks_like_stun(data):
            if self._stun.answered(data):
                self._stun_answered()
            return True
        return self._owner.non_quic(data, source)

    def _connected(self, peer: Peer, now: float) -> None:
        self._fast = False
        self._liveness = Liveness(now)
        self._log.info("relay_connected", protocol=peer.alpn, max_payload_bytes=peer.max_datagram_payload)
        if self._speaks_v2:
            self.last_problem = "proving who we are"
            assert self.relay_address is not None
            leaf = proof.leaf_sha256(peer.certificates[0])
            self.sessions.connected(leaf, self.relay_address, proof.signer(self._credentials), now)
        else:
            self.last_problem = "registering"
            self.control.connected(now)
            self._owner.control_event(ControlUp(1))
        self._set_payload_limit(peer.max_datagram_payload)
        self._check_timer = self._loop.call_later(self._liveness.interval_s, self._check)

    def _closed(self, peer: Peer, event: Closed) -> None:
        self.counters.lost_closed += 1
        # A relay that goes away says so with code 0, or says nothing in time; any other code is a refusal to respect.
        self._fast = event.code == 0 and (peer.established or not event.by_peer)
        reason = event.reason or ("closed by the relay" if event.by_peer else "no answer")
        self._failed(f"{reason} (code {event.code:#x})" if event.code else reason)

    def _set_payload_limit(self, max_bytes: int) -> None:
        self.control.set_budget(max_bytes)
        self._owner.payload_limit_changed(max_bytes)

    # liveness

    def _check(self) -> None:
        peer, liveness = self._peer, self._liveness
        if peer is None or liveness is None:
            return
        self._check_timer = self._loop.call_later(liveness.interval_s, self._check)
        sent, received = self._owner.relayed_packets()
        verdict = liveness.check(
            self._clock(),
            sent=peer.datagrams_sent + sent,
            received=peer.datagrams_received + received,
            timeouts=peer.probe_timeouts,
            rtt_s=peer.rtt_s,
            acknowledged=peer.largest_acknowledged,
        )
        if verdict is Verdict.LOST:
            self._give_up(peer)
        elif verdict is not Verdict.ALIVE:
            peer.ping()
            if verdict is Verdict.PROBE:
                self._send_stun()

    def _give_up(self, peer: Peer) -> None:
        self.counters.lost_silent += 1
        self._fast = True
        # No longer ours before it closes: its Closed event is then nobody's.
        self._peer = None
        peer.close(0, "relay is silent")
        self._failed("the relay is silent")

    # commands of the control core

    def _control_due(self) -> None:
        now = self._clock()
        self.control.handle_timer(now)
        self.sessions.handle_timer(now)
        self.pump()

    def _handle(self, event: ControlEvent) -> None:
        if isinstance(event, ControlUp):
            self.last_problem = "registering"
        elif isinstance(event, ControlError):
            self._log.info("control_error", code=event.code, detail=event.text)
        elif isinstance(event, Draining):
            self._log.info("relay_draining", deadline_s=event.deadline_s)
        self._owner.control_event(event)

    def _execute(self, command: object) -> None:
        match command:
            case DeliverPacket(packet):
                self._owner.packet_received(packet)
            case SendDatagram(data):
                self.send(data)
            case SendStream(stream_id, data):
                self._send_stream(V2_CLIENT_STREAM if self._speaks_v2 else stream_id, data)
            case Registered(service):
                self._log.info("registered", service=service)
                self._owner.control_event(command)
            case Denied(service):
                self._log.warning("registration_denied", service=service)
                self._owner.control_event(command)
            case Observed(address):
                self._log.debug("observed_address", observed=f"{address.ip}:{address.port}")
                self._owner.control_event(command)
            case ReconnectAt(time):
                self._reconnect_at(time)
            case Note(level, event, fields):
                getattr(self._log, level)(event, **fields)

    def _send_stream(self, stream_id: int, data: bytes) -> None:
        if self._peer is not None:
            wanted = stream_id if self._peer.has_stream(stream_id) else None
            if self._peer.send_stream(wanted, data) < 0 and self._speaks_v2 and stream_id == 0:
                # A control stream with a hole in it is of no use: the next connection begins a whole one.
                self._peer.close(0, "the relay does not take the control stream")
