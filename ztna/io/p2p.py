"""A connector's QUIC server for agents of `ztna-v1` that reach its own UDP port directly.

    batch of the shared socket -> divert -> QUIC that is not the intermediate's -> an endpoint of its own
                               -> left: the connection to the intermediate, STUN, raw checks
    Connected -> LegTable.open | closed at once;  DATAGRAM -> LegTable.admits -> the packet gateway

An endpoint of its own, so that strangers and the connection to the intermediate have no table or bound in common. The
answers of the gateway leave by the intermediate: agents in the field discard packets that reach them here.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ztna.config import ConfigError, ConnectorConfig
from ztna.io import certs
from ztna.io.logs import Logger
from ztna.io.material import authenticator, load_policy
from ztna.io.metrics import Sample, counters_of
from ztna.io.quic import QuicEndpoint
from ztna.io.quic_guard import AdmissionLimits
from ztna.io.quic_peer import Peer
from ztna.io.quic_types import (
    ALPN,
    AddressChanged,
    Closed,
    Connected,
    ConnectionLimits,
    PeerEvent,
    PeerRejected,
    ServerSettings,
    StreamReceived,
)
from ztna.io.udp import Address, Datagram, UdpSocket
from ztna.proto.identity import Identity
from ztna.proto.intermediate import observed_ipv4
from ztna.proto.limits import ConnectorLimits
from ztna.proto.p2p import is_control
from ztna.proto.p2p_legs import Leg, LegRefused, LegTable
from ztna.proto.wire import ObservedAddress

if TYPE_CHECKING:
    from ztna.io.connector import Connector

CLOSE_REFUSED: Final = 0x01
QUIC_BITS: Final = 0xC0
KEEPALIVE_S: Final = 10.0
RENEW_S: Final = 600.0
HALF_OPEN: Final = 16
HALF_OPEN_PER_SOURCE: Final = 4
HANDSHAKES_PER_S: Final = 10.0
HANDSHAKE_TIMEOUT_S: Final = 5.0


class P2pServer:
    """See the module.

    Args:
        udp: the socket; its owner reads and closes it.
        settings: how to accept connections, with certificates as they are on disk now.
        relay: the address whose packets are the intermediate's.
        deliver: takes an agent's packet.
        on_batch_end: called after each batch, for the packets that it led to.

    Raises:
        ConfigError: from `settings`.
    """

    def __init__(
        self,
        udp: UdpSocket,
        table: LegTable,
        *,
        settings: Callable[[], ServerSettings],
        relay: Callable[[], Address | None],
        deliver: Callable[[bytes], None],
        on_batch_end: Callable[[], None],
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        log: Logger,
    ) -> None:
        self.table = table
        self._settings = settings
        self._relay = relay
        self._deliver = deliver
        self._loop = loop
        self._clock = clock
        self._log = log
        self._legs: dict[int, tuple[Peer, Leg]] = {}
        self._unobserved: dict[int, Peer] = {}
        self.endpoint = QuicEndpoint(
            udp,
            server=self._counting(settings()),
            on_event=self._on_event,
            on_datagram=self._on_datagram,
            on_batch_end=on_batch_end,
            on_problem=lambda where, exc: log.info("p2p_problem", where=where, detail=repr(exc)),
            clock=clock,
            loop=loop,
        )
        self._timer = loop.call_later(RENEW_S, self._renew)

    def attach(self, endpoint: QuicEndpoint) -> None:
        """Take from the batches of the endpoint that reads the socket what is for this server."""
        earlier = endpoint.divert
        endpoint.divert = self.divert if earlier is None else lambda batch: self.divert(earlier(batch))

    def stop(self) -> None:
        """Accept nobody any more, and tell every agent."""
        self._timer.cancel()
        self.endpoint.set_server(None)
        for peer in self.endpoint.peers:
            peer.close(0, "shutting down")
        self.endpoint.flush()

    def divert(self, batch: list[Datagram]) -> list[Datagram]:
        """Take QUIC packets that are not the intermediate's; returns the rest."""
        relay = self._relay()
        rest: list[Datagram] = []
        ours: list[Datagram] = []
        for datagram in batch:
            data, source = datagram
            quic = data and data[0] & QUIC_BITS and source != relay and not is_control(data)
            (ours if quic else rest).append(datagram)
        if ours:
            if self._unobserved:
                self._observe({source for _, source in ours})
            self.endpoint.receive(ours)
        return rest

    def samples(self, prefix: str) -> list[Sample]:
        """Metrics."""
        return [
            Sample(f"{prefix}_p2p_connections", "Direct connections of ztna-v1 agents now", len(self.table), "gauge"),
            *counters_of(f"{prefix}_p2p", "Direct connections of ztna-v1 agents", self.table.stats),
            *counters_of(f"{prefix}_p2p_quic", "QUIC endpoint of direct connections", self.endpoint.counters),
        ]

    def _observe(self, sources: set[Address]) -> None:
        """Tell agents how they are seen, once a further packet came after their handshake."""
        for conn_id, peer in list(self._unobserved.items()):
            if peer.address not in sources:
                continue
            del self._unobserved[conn_id]
            ip = observed_ipv4(peer.address[0])
            if ip is not None and peer.send_datagram(ObservedAddress(ip, peer.address[1]).encode()):
                self.table.stats.observed_addresses_sent += 1

    def _on_event(self, peer: Peer, event: PeerEvent) -> None:
        now = self._clock()
        if isinstance(event, Connected):
            self._connected(peer, now)
        elif isinstance(event, StreamReceived):
            self.table.stats.drop_stream += 1
        elif isinstance(event, AddressChanged) and peer.conn_id in self._legs:
            self._unobserved[peer.conn_id] = peer
            self.table.moved(self._legs[peer.conn_id][1], event.address[0], now)
            self._close_ended()
        elif isinstance(event, Closed):
            self._unobserved.pop(peer.conn_id, None)
            _, leg = self._legs.pop(peer.conn_id, (peer, None))
            if leg is not None:
                self.table.close(leg)

    def _connected(self, peer: Peer, now: float) -> None:
        identity = peer.identity
        assert identity is None or isinstance(identity, Identity)
        try:
            leg = self.table.open(identity, peer.address[0], now)
        except LegRefused as exc:
            self._log.info("p2p_refused", source=peer.address[0], reason=str(exc))
            peer.close(CLOSE_REFUSED, str(exc), transport=True)
            self._close_ended()
            return
        self._legs[peer.conn_id] = (peer, leg)
        self._unobserved[peer.conn_id] = peer
        # Agents in the field send none here, and would lose the connection after 30 s without packets.
        peer.keepalive_s, peer.keepalive_at = KEEPALIVE_S, now + KEEPALIVE_S
        self._log.info("p2p_connected", peer=leg.owner or "anonymous", source=peer.address[0])

    def _close_ended(self) -> None:
        """Close the connections of legs that the table ended."""
        for peer, leg in list(self._legs.values()):
            if not leg.alive:
                peer.close(CLOSE_REFUSED, "client cert required", transport=True)

    def _on_datagram(self, peer: Peer, data: bytes) -> None:
        held = self._legs.get(peer.conn_id)
        if held is not None and self.table.admits(held[1], data):
            self._deliver(data)

    def _renew(self) -> None:
        """Show a certificate that was renewed on disk to whoever connects from now on."""
        self._timer = self._loop.call_later(RENEW_S, self._renew)
        try:
            self.endpoint.set_server(self._counting(self._settings()))
        except ConfigError as exc:
            self._log.warning("configuration", detail=str(exc))

    def _counting(self, settings: ServerSettings) -> ServerSettings:
        judge, stats = settings.authenticate, self.table.stats

        def authenticate(chain: list[bytes]) -> object:
            try:
                return judge(chain)
            except PeerRejected:
                stats.refused_certificate += 1
                raise

        return replace(settings, authenticate=authenticate)


def server_settings(config: ConnectorConfig, connection: ConnectionLimits, limits: ConnectorLimits) -> ServerSettings:
    """How a connector accepts agents, certificates read now.

    Raises:
        ConfigError: a certificate is unreadable or expired.
    """
    p2p, tls = config.p2p, config.tls
    assert p2p.certificate is not None
    assert p2p.key is not None
    credentials = certs.load_credentials(p2p.certificate, p2p.key)
    anchors = certs.load_anchors(tls.ca) if tls.ca is not None else None
    stack = config.stack or certs.stack_of(credentials.certificate)
    if stack is None and tls.certificate is not None and tls.key is not None:
        stack = certs.stack_of(certs.load_credentials(tls.certificate, tls.key).certificate)
    return ServerSettings(
        credentials=credentials,
        # Without a CA or a stack there is nothing to judge a certificate by.
        authenticate=authenticator(anchors if stack is not None else None, stack or "", p2p.anonymous),
        # Agents in the field offer a certificate only when they are asked, and may have none.
        request_client_certificate=True,
        # As everywhere in the field; what an unproven address is sent stays within three times what it sent.
        retry=False,
        alpn=(ALPN,),
        admission=AdmissionLimits(
            half_open=HALF_OPEN,
            half_open_per_source=HALF_OPEN_PER_SOURCE,
            handshake_timeout_s=HANDSHAKE_TIMEOUT_S,
            handshake_rate=HANDSHAKES_PER_S,
            handshake_burst=2 * HANDSHAKES_PER_S,
            sources=1024,
            max_connections=limits.p2p_connections + 2 * HALF_OPEN,
        ),
        limits=connection,
    )


def p2p_server(
    connector: "Connector", addresses: dict[str, int | None], connection: ConnectionLimits, limits: ConnectorLimits
) -> P2pServer | None:
    """The server of a connector that has P2P certificates, in the path of its socket's packets; None otherwise.

    Args:
        addresses: inner addresses of its services.

    Raises:
        ConfigError: a certificate or policy.json cannot be used, or `protocol: v2` excludes whom it is for.
    """
    config = connector.config
    if config.p2p.certificate is None:
        return None
    if config.protocol == "v2":
        raise ConfigError("p2p.cert is for agents of ztna-v1, which protocol: v2 excludes; leave one of them out")
    uplink = connector.uplink
    server = P2pServer(
        connector.udp,
        LegTable(
            addresses,
            responder=connector.control.p2p,
            policy=None if config.policy_path is None else load_policy(config),
            anonymous=config.p2p.anonymous,
            limits=limits,
        ),
        settings=lambda: server_settings(config, connection, limits),
        relay=lambda: uplink.relay_address,
        deliver=connector.packet_received,
        on_batch_end=connector.answer_now,
        loop=connector.loop,
        clock=connector.clock,
        log=connector.log,
    )
    server.attach(uplink.endpoint)
    return server
