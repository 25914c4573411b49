"""Relay of packets between agents and connectors: the hot path of the intermediate.

Only whole IPv4 packets pass. An agent's packet must come from its own virtual address and go to the service that it
names; both are judged when it opens a flow, since they are part of the flow's key. A connector's packet must belong to
a flow, or answer an agent that was told, on these connections, to send to it directly: agents in the field send past us
then, but take answers from us alone. No object is made per packet but the command.
"""

from collections import deque
from typing import Final

from ztna.proto.commands import IntermediateCommand, SendDatagram
from ztna.proto.flows import Flow, FlowTable
from ztna.proto.limits import IntermediateLimits
from ztna.proto.packet import (
    ICMP,
    ICMP_ECHO_REPLY,
    TCP,
    FlowKey,
    embedded_flow_key,
    flow_key,
    fragment_key,
    parse_ipv4,
    well_formed,
)
from ztna.proto.policy import Policy, is_unicast
from ztna.proto.registry import Peer, Service
from ztna.proto.stats import IntermediateStats

__all__ = ["Relay"]

# How much longer than its successor a connection must have been silent to be taken for dead.
SILENCE_S: Final = 2.0
TCP_SYN, TCP_ACK = 0x02, 0x10


class Relay:
    """Decides for each packet which connection it leaves on, or why it does not."""

    __slots__ = ("_commands", "_flows", "_max_commands", "_stats", "policy")

    def __init__(
        self,
        policy: Policy,
        flows: FlowTable,
        limits: IntermediateLimits,
        stats: IntermediateStats,
        commands: deque[IntermediateCommand],
    ) -> None:
        self.policy = policy
        self._flows = flows
        self._max_commands = limits.commands
        self._stats = stats
        self._commands = commands

    def to_connector(self, agent: Peer, service: Service, packet: bytes, now: float) -> None:
        """Relay an agent's packet to the connector of `service`."""
        stats = self._stats
        if not well_formed(packet):
            stats.drop_malformed += 1
            return
        connector = service.connector
        if connector is None:
            stats.drop_no_connector += 1
            return
        key = flow_key(packet)
        if key is None:
            if not self._admit_without_flow(agent, service, connector, packet):
                return
        else:
            flow = connector.outbound.get(key)
            if flow is not None and flow.agent is agent:
                flow.used = now
            elif not self._admit(agent, service, connector, key, flow, now):
                return
        if len(self._commands) >= self._max_commands:
            stats.drop_command_queue += 1
            return
        stats.datagrams_to_connectors += 1
        stats.bytes_to_connectors += len(packet)
        self._commands.append(SendDatagram(connector.conn, packet))

    def raw(self, peer: Peer, packet: bytes, now: float) -> None:
        """Relay a packet without a service id: a connector's reply, or an agent's packet placed by its destination."""
        if peer.serving and (not peer.reach or flow_key(packet) in peer.inbound):
            self._to_agent(peer, packet, now)
        elif not peer.reach:
            self._stats.drop_not_registered += 1
        elif not well_formed(packet):
            self._stats.drop_malformed += 1
        else:
            service = self._service_of(peer, packet)
            if service is None:
                self._stats.drop_no_service += 1
            else:
                self.to_connector(peer, service, packet, now)

    def _to_agent(self, connector: Peer, packet: bytes, now: float) -> None:
        """Relay a connector's packet to the agent whose flow it belongs to."""
        stats = self._stats
        if not well_formed(packet):
            stats.drop_malformed += 1
            return
        key = flow_key(packet)
        if key is None:
            flow = self._flow_without_key(connector, packet, now)
        else:
            flow = connector.inbound.get(key) or self._answer_past_us(connector, packet, key, now)
        if flow is None:
            return
        # The flag says that more fragments follow (RFC 791 s3.1).
        if packet[6] & 0x20 and (fragment := fragment_key(packet)) is not None:
            self._flows.note_fragment(connector, fragment, flow, now)
        agent = flow.agent
        if agent is None:
            stats.drop_agent_away += 1
            return
        if agent.successor is not None:
            agent = self._living(flow, agent, agent.successor, now)
        flow.used = now
        if len(self._commands) >= self._max_commands:
            stats.drop_command_queue += 1
            return
        stats.datagrams_to_agents += 1
        stats.bytes_to_agents += len(packet)
        self._commands.append(SendDatagram(agent.conn, packet))

    def _admit(
        self, agent: Peer, service: Service, connector: Peer, key: FlowKey, flow: Flow | None, now: float
    ) -> bool:
        """Open a flow for an agent's packet, or take it over from another connection of the same identity."""
        if not self._addresses_allowed(agent, service, key[1], key[3]):
            return False
        if flow is None:
            if self._flows.open(key, service, agent, connector, now) is None:
                self._stats.drop_flow_limit += 1
                return False
        elif flow.owner is None or flow.owner != agent.owner:
            self._stats.drop_flow_clash += 1
            return False
        else:
            self._flows.hand_over(flow, agent, now)
        return True

    def _living(self, flow: Flow, agent: Peer, successor: Peer, now: float) -> Peer:
        """Choose between an agent's connection and a newer one of its identity.

        An agent that lost its path connects anew long before the idle time-out ends its old connection. The old one
        is taken for dead once it was silent for two seconds while the new one spoke.
        """
        if successor.heard - agent.heard < SILENCE_S or flow.service.key not in successor.reach:
            return agent
        self._flows.hand_over(flow, successor, now)
        return successor

    def misaddressed(self, agent: Peer, service: Service, source: int, destination: int) -> str | None:
        """Return what is wrong with the inner addresses of an agent's packet: "source", "destination" or None."""
        services, agents = self.policy.services_by_address, self.policy.agents_by_address
        if agent.identity is not None:
            if source != agent.virtual_ip:
                return "source"
            return None if service.address is None or destination == service.address else "destination"
        # Agents in the field choose addresses of their own, but may not borrow one that policy gave to another.
        if not is_unicast(source) or source in services or source in agents:
            return "source"
        if destination == service.address:
            return None
        taken = destination in services or destination in agents
        return "destination" if taken or not is_unicast(destination) else None

    def _addresses_allowed(self, agent: Peer, service: Service, source: int, destination: int) -> bool:
        wrong = self.misaddressed(agent, service, source, destination)
        self._stats.drop_source += wrong == "source"
        self._stats.drop_destination += wrong == "destination"
        return wrong is None

    def _admit_without_flow(self, agent: Peer, service: Service, connector: Peer, packet: bytes) -> bool:
        """Judge an agent's later fragment, or its ICMP error about a reply that it got."""
        fragment = fragment_key(packet)
        if fragment is not None:
            return self._addresses_allowed(agent, service, fragment[1], fragment[2])
        quoted, parsed = embedded_flow_key(packet), parse_ipv4(packet)
        if quoted is None or parsed is None:
            self._stats.drop_protocol += 1
            return False
        flow = connector.inbound.get(quoted)
        if flow is None or flow.agent is not agent:
            self._stats.drop_no_flow += 1
            return False
        return self._addresses_allowed(agent, service, parsed.source, parsed.destination)

    def _flow_without_key(self, connector: Peer, packet: bytes, now: float) -> Flow | None:
        """Find the flow of a connector's later fragment, or of the packet that its ICMP error quotes."""
        fragment = fragment_key(packet)
        if fragment is not None:
            flow = self._flows.flow_of_fragment(connector, fragment, now)
            self._stats.drop_fragment += flow is None
            return flow
        quoted, parsed = embedded_flow_key(packet), parse_ipv4(packet)
        if quoted is None or parsed is None:
            self._stats.drop_protocol += 1
            return None
        if parsed.destination != quoted[1]:
            self._stats.drop_no_flow += 1
            return None
        return connector.outbound.get(quoted) or self._open_past_us(connector, quoted, now)

    def _answer_past_us(self, connector: Peer, packet: bytes, key: FlowKey, now: float) -> Flow | None:
        """Open a flow for a connector's answer to a packet that an agent sent it directly."""
        if _begins(packet, key[0]):
            self._stats.drop_no_flow += 1
            return None
        protocol, source, source_port, destination, destination_port = key
        return self._open_past_us(connector, (protocol, destination, destination_port, source, source_port), now)

    def _open_past_us(self, connector: Peer, key: FlowKey, now: float) -> Flow | None:
        """Open the flow of an agent that exchanged StartPunching with the connector, if there is no doubt which."""
        service = self._service_at(connector, key[3]) if connector.punched else None
        agent = None if service is None else self._punched_agent(connector, service, key[1], key[3])
        if service is None or agent is None:
            self._stats.drop_no_flow += 1
            return None
        flow = self._flows.open(key, service, agent, connector, now)
        self._stats.drop_flow_limit += flow is None
        self._stats.flows_punched += flow is not None
        return flow

    def _service_at(self, connector: Peer, address: int) -> Service | None:
        """Return the service of a connector that speaks from an address: by policy, else its only one."""
        service_id = self.policy.service_for_address(address)
        if service_id is not None:
            return connector.serving.get(service_id.encode())
        return next(iter(connector.serving.values())) if len(connector.serving) == 1 else None

    def _punched_agent(self, connector: Peer, service: Service, source: int, destination: int) -> Peer | None:
        """Return the agent at an inner address: the one of that name, newest first, or the only one without a name."""
        name = self.policy.agents_by_address.get(source)
        found: Peer | None = None
        for agent in connector.punched.get(name, {}).values():
            if service.key not in agent.reach or self.misaddressed(agent, service, source, destination):
                continue
            if found is not None and name is None:
                return None
            if found is None or agent.epoch > found.epoch:
                found = agent
        return found

    def _service_of(self, agent: Peer, packet: bytes) -> Service | None:
        """Return the service that an agent's raw packet is for: by its address, else the only one registered."""
        parsed = parse_ipv4(packet)
        if parsed is not None:
            service_id = self.policy.service_for_address(parsed.destination)
            if service_id is not None:
                return agent.reach.get(service_id.encode())
        return next(iter(agent.reach.values())) if len(agent.reach) == 1 else None


def _begins(packet: bytes, protocol: int) -> bool:
    """Say whether a packet asks rather than answers, as far as its protocol tells: nobody connects to an agent."""
    start = (packet[0] & 15) << 2
    if protocol == ICMP:
        return packet[start] != ICMP_ECHO_REPLY
    return protocol == TCP and (len(packet) < start + 14 or packet[start + 13] & (TCP_SYN | TCP_ACK) == TCP_SYN)
