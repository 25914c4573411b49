"""The connector's control part: registration of its services and the candidates it offers for a direct path.

Flow: see `ztna.proto.client`; an offer for one of its services is answered on its own stream 0 with two or three
candidates, and the agent's addresses may then send checks to the UDP socket (`p2p`).
"""

from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Final

from ztna.proto.client import (
    ClientCommand,
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
from ztna.proto.limits import ConnectorLimits
from ztna.proto.p2p import P2pResponder
from ztna.proto.ratelimit import SourceLimiter
from ztna.proto.signalling import (
    Candidate,
    CandidateAnswer,
    CandidateOffer,
    CandidateType,
    SignallingMessage,
    SocketAddress,
    StartPunching,
    encode_frame,
)
from ztna.proto.stats import ConnectorStats
from ztna.proto.wire import RegisterConnector

__all__ = [
    "ClientCommand",
    "ConnectorControl",
    "DeliverPacket",
    "Denied",
    "Note",
    "Observed",
    "ReconnectAt",
    "Registered",
    "SendDatagram",
    "SendStream",
    "gather_candidates",
]

OWN_STREAM: Final = 0
# RFC 8445 s5.1.2.1 with local preference 1 and component 0, as connectors of this protocol have it.
_LOCAL_PREFERENCE: Final = 1 << 8
_TYPE_PREFERENCE: Final = {
    CandidateType.HOST: 126,
    CandidateType.SERVER_REFLEXIVE: 100,
    CandidateType.RELAY: 0,
}
_FOUNDATION: Final = {
    CandidateType.HOST: "host",
    CandidateType.SERVER_REFLEXIVE: "srflx",
    CandidateType.RELAY: "relay",
}


def gather_candidates(
    base: SocketAddress, reflexive: SocketAddress | None, relay: SocketAddress | None
) -> tuple[Candidate, ...]:
    """Return the candidates of a connector: host, server-reflexive if it differs from the host's, relay."""
    found = [_candidate(CandidateType.HOST, base, None)]
    if reflexive is not None and reflexive != base:
        found.append(_candidate(CandidateType.SERVER_REFLEXIVE, reflexive, base))
    if relay is not None:
        found.append(_candidate(CandidateType.RELAY, relay, base))
    return tuple(found)


def _candidate(kind: CandidateType, address: SocketAddress, base: SocketAddress | None) -> Candidate:
    priority = _TYPE_PREFERENCE[kind] << 24 | _LOCAL_PREFERENCE
    return Candidate(kind, address, priority, f"{_FOUNDATION[kind]}_{address.ip}", base)


class ConnectorControl(ClientControl):
    """Control part of one connector; see the module for its flow."""

    def __init__(
        self,
        services: Sequence[str],
        *,
        random: Callable[[], float],
        limits: ConnectorLimits | None = None,
        answer_unknown_checks: bool = False,
    ) -> None:
        """Prepare a connector.

        Args:
            services: ids to register.
            random: uniform in [0, 1).
            answer_unknown_checks: answer checks from hosts that no offer named, as connectors in the field do.
        """
        limits = limits or ConnectorLimits()
        self.stats = ConnectorStats()
        super().__init__(RegisterConnector, services, self.stats, random=random, max_commands=limits.commands)
        self._limits = limits
        self._offers = SourceLimiter(limits.offers_per_s, limits.offers_per_s, limits.offers_per_s, max_sources=64)
        self._base: SocketAddress | None = None
        self._relay: SocketAddress | None = None
        self._external: SocketAddress | None = None
        self.p2p = P2pResponder(limits, self.stats, answer_unknown=answer_unknown_checks)
        """Answers raw UDP checks and keepalives on the connector's socket."""

    def set_addresses(
        self,
        base: SocketAddress | tuple[str, int],
        *,
        relay: SocketAddress | tuple[str, int] | None = None,
        external: SocketAddress | tuple[str, int] | None = None,
    ) -> None:
        """Say where the UDP socket is bound, where the intermediate is, and which address to give out if configured.

        Without `external` the observed address is given out.
        """
        self._base = SocketAddress(*base)
        self._relay = None if relay is None else SocketAddress(*relay)
        self._external = None if external is None else SocketAddress(*external)

    def wrap(self, packet: bytes) -> bytes | None:
        """Return the DATAGRAM payload for a packet of the gateway, or None (counted) if it cannot be sent."""
        if not self._connected:
            self.stats.drop_not_connected += 1
            return None
        if len(packet) > self._budget_bytes:
            self.stats.drop_oversize += 1
            return None
        self.stats.packets_sent += 1
        self.stats.bytes_sent += len(packet)
        return packet

    def _wants(self, packet: bytes) -> bool:
        return True

    def _signalling(self, message: SignallingMessage, now: float) -> None:
        if isinstance(message, CandidateOffer):
            self._answer(message, now)
        elif isinstance(message, StartPunching):
            self._expect(message.peer_candidates, now)
        else:
            self.stats.drop_signalling_unexpected += 1

    def _answer(self, offer: CandidateOffer, now: float) -> None:
        if offer.service_id not in self._registration.services or self._base is None:
            self.stats.drop_offer_unknown_service += 1
            return
        if not self._offers.allow(offer.service_id, now):
            self.stats.drop_offer_rate += 1
            return
        self._expect(offer.candidates, now, offer.service_id)
        candidates = gather_candidates(self._base, self._external or self._observed, self._relay)
        self.stats.offers_answered += 1
        self._commands.append(SendStream(OWN_STREAM, encode_frame(CandidateAnswer(offer.session_id, candidates))))

    def _expect(self, candidates: tuple[Candidate, ...], now: float, service: str | None = None) -> None:
        """Let the agent's own addresses send checks; its relay candidate is not one."""
        for candidate in candidates[: self._limits.candidates]:
            if candidate.type is CandidateType.RELAY:
                continue
            ip = ip_address(candidate.address.ip)
            if not (ip.is_unspecified or ip.is_multicast):
                self.p2p.expect(candidate.address.ip, now, service)
