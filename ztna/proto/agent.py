"""The agent's control part: registration of the services it wants, and wrapping of packets for them.

Flow: see `ztna.proto.client`; a packet from the local side goes to the service whose virtual address it names, as a
service-routed message. What comes back is delivered if it is from a service to our own virtual address.

An intermediate that restarted knows no flows, and drops what a connector sends until the agent speaks. In a download
the agent has nothing to say, so the last acknowledgment of each TCP connection is kept and sent again after
registration: to TCP it is a duplicate (RFC 5681 s2), to the intermediate it opens the flow.
"""

from collections.abc import Callable, Mapping
from ipaddress import IPv4Address
from itertools import islice
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
from ztna.proto.limits import AgentLimits
from ztna.proto.packet import TCP, build_fragmentation_needed, well_formed
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

# An IPv4 header and a TCP header with all their options: what is longer carries data.
LONGEST_ACK_BYTES: Final = 120
FIN_SYN_RST: Final = 0x07
RST: Final = 0x04
ACK: Final = 0x10


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
        self._limits = limits
        # Last acknowledgment of each TCP connection by its addresses and ports, least recent first.
        self._acknowledgments: dict[bytes, bytes] = {}

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
                if packet[9] == TCP and len(packet) <= LONGEST_ACK_BYTES:
                    self._remember(packet)
                return wrapped
            stats.drop_oversize += 1
            self.answer_too_large(packet, self._budget_bytes - len(route[1]))
        return None

    def answer_too_large(self, packet: bytes, mtu_bytes: int) -> None:
        """Answer a packet by ICMP "fragmentation needed" (RFC 1191), as a DeliverPacket command."""
        error = build_fragmentation_needed(int.from_bytes(packet[16:20], "big"), packet, mtu_bytes)
        if error is not None and len(self._commands) < self._max_commands:
            self._commands.append(DeliverPacket(error))

    def _remember(self, packet: bytes) -> None:
        """Keep a segment if it is an acknowledgment without data; forget a connection that was reset."""
        start = (packet[0] & 15) << 2
        if len(packet) < start + 20:
            return
        flags = packet[start + 13]  # RFC 9293 s3.1, as is the data offset before it
        known = self._acknowledgments
        key = packet[12:20] + packet[start : start + 4]
        if flags & (FIN_SYN_RST | ACK) == ACK and start + (packet[start + 12] >> 4 << 2) == len(packet):
            known.pop(key, None)
            known[key] = packet
            if len(known) > self._limits.resumable_flows:
                del known[next(iter(known))]
        elif flags & RST:
            known.pop(key, None)

    def _on_registered(self, service: str) -> None:
        """Send the latest acknowledgments to the service again, so that its flows exist at the intermediate."""
        addresses = {address for address, (name, _) in self._routes.items() if name == service}
        latest = (packet for packet in reversed(self._acknowledgments.values()) if packet[16:20] in addresses)
        for packet in islice(latest, self._limits.resumed_flows):
            self.stats.flows_resumed += 1
            self._commands.append(SendDatagram(service_routed_prefix(service) + packet))

    def _wants(self, packet: bytes) -> bool:
        if packet[16:20] == self._virtual_ip and packet[12:16] in self._routes:
            return True
        self.stats.drop_foreign += 1
        return False

    def _signalling(self, message: SignallingMessage, now: float) -> None:
        # This agent makes no offers on `ztna-v1`: it uses the intermediate as a relay.
        self.stats.drop_signalling_unexpected += 1
