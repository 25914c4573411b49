"""The agent's control part: registration of the services it wants, and wrapping of packets for them.

Flow: see `ztna.proto.client`; a packet from the local side goes to the service whose virtual address it names, as a
service-routed message. What comes back is delivered if it is from a service to our own virtual address.
"""

from collections.abc import Callable, Mapping
from ipaddress import IPv4Address

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
from ztna.proto.limits import AgentLimits
from ztna.proto.packet import build_fragmentation_needed, well_formed
from ztna.proto.signalling import SignallingMessage
from ztna.proto.stats import AgentStats
from ztna.proto.wire import RegisterAgent, service_routed_prefix

__all__ = [
    "AgentControl",
    "ClientCommand",
    "DeliverPacket",
    "Denied",
    "Note",
    "Observed",
    "ReconnectAt",
    "Registered",
    "SendDatagram",
    "SendStream",
]


class AgentControl(ClientControl):
    """Control part of one agent; see the module for its flow."""

    def __init__(
        self,
        services: Mapping[str, str],
        virtual_ip: str,
        *,
        random: Callable[[], float],
        limits: AgentLimits | None = None,
    ) -> None:
        """Prepare an agent.

        Args:
            services: virtual address (dotted IPv4) of each service id.
            virtual_ip: our own virtual address, dotted IPv4.
            random: uniform in [0, 1).
        """
        limits = limits or AgentLimits()
        self.stats = AgentStats()
        super().__init__(RegisterAgent, list(services), self.stats, random=random, max_commands=limits.commands)
        # Addresses are kept as the 4 bytes at offsets 12 (source) and 16 (destination) of an IPv4 header, RFC 791 s3.1.
        self._virtual_ip = IPv4Address(virtual_ip).packed
        self._routes = {
            IPv4Address(address).packed: (service, service_routed_prefix(service))
            for service, address in services.items()
        }
        self._denied = self._registration.denied

    @property
    def max_packet_bytes(self) -> int:
        """Largest packet that can be sent to every service: the MTU for the local side."""
        return self._budget_bytes - max(len(prefix) for _, prefix in self._routes.values())

    def wrap(self, packet: bytes) -> bytes | None:
        """Return the DATAGRAM payload for a packet of the local side, or None (counted) if it cannot be sent.

        A packet that is too large is answered by an ICMP "fragmentation needed" as a DeliverPacket command (RFC 1191).
        """
        stats = self.stats
        route = self._routes.get(packet[16:20])
        if not self._connected:
            stats.drop_not_connected += 1
        elif not well_formed(packet):
            stats.drop_malformed += 1
        elif route is None:
            stats.drop_unknown_destination += 1
        elif packet[12:16] != self._virtual_ip:
            stats.drop_source += 1
        elif self._denied and route[0] in self._denied:
            stats.drop_denied += 1
        else:
            wrapped = route[1] + packet
            if len(wrapped) <= self._budget_bytes:
                stats.packets_sent += 1
                stats.bytes_sent += len(wrapped)
                return wrapped
            stats.drop_oversize += 1
            self._answer_too_large(packet, self._budget_bytes - len(route[1]))
        return None

    def _answer_too_large(self, packet: bytes, mtu_bytes: int) -> None:
        error = build_fragmentation_needed(int.from_bytes(packet[16:20], "big"), packet, mtu_bytes)
        if error is not None and len(self._commands) < self._max_commands:
            self._commands.append(DeliverPacket(error))

    def _wants(self, packet: bytes) -> bool:
        if packet[16:20] == self._virtual_ip and packet[12:16] in self._routes:
            return True
        self.stats.drop_foreign += 1
        return False

    def _signalling(self, message: SignallingMessage, now: float) -> None:
        # This agent makes no offers on `ztna-v1`: it uses the intermediate as a relay.
        self.stats.drop_signalling_unexpected += 1
