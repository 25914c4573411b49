"""Counters of the protocol core: plain integers that a shell reads and exports.

Names that begin with `drop_` count messages that had no effect, one name per reason.
"""

from dataclasses import dataclass, fields

__all__ = ["AgentStats", "ConnectorStats", "IntermediateStats", "Stats"]


@dataclass(slots=True)
class Stats:
    """Base of the three sets of counters."""

    def as_dict(self) -> dict[str, int]:
        """Return every counter by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def drops(self) -> dict[str, int]:
        """Return the drop counters by reason, without their prefix."""
        return {name.removeprefix("drop_"): value for name, value in self.as_dict().items() if name.startswith("drop_")}


@dataclass(slots=True)
class IntermediateStats(Stats):
    """What the intermediate did, and why it did not."""

    connections_opened: int = 0
    connections_closed: int = 0
    connections_refused: int = 0
    connections_revoked: int = 0
    observed_addresses_sent: int = 0
    registrations: int = 0
    registrations_refused: int = 0
    registrations_withdrawn: int = 0
    connectors_displaced: int = 0
    datagrams_to_connectors: int = 0
    bytes_to_connectors: int = 0
    datagrams_to_agents: int = 0
    bytes_to_agents: int = 0
    flows_opened: int = 0
    flows_punched: int = 0
    """Of those, opened by the answer to a packet that went past the intermediate."""
    flows_expired: int = 0
    flows_evicted: int = 0
    flows_moved: int = 0
    sessions_opened: int = 0
    sessions_expired: int = 0
    signalling_relayed: int = 0
    signalling_errors_sent: int = 0

    drop_not_open: int = 0
    """From a connection that is not open yet, or is closing."""
    drop_empty: int = 0
    drop_truncated: int = 0
    """A control message that ends early."""
    drop_unexpected_control: int = 0
    """A control message that only an intermediate sends."""
    drop_not_registered: int = 0
    """From an agent that is not registered for the service, or a peer without any role."""
    drop_no_service: int = 0
    """A raw packet whose destination names none of the agent's services."""
    drop_no_connector: int = 0
    drop_malformed: int = 0
    """Not one whole IPv4 packet."""
    drop_protocol: int = 0
    """A protocol or ICMP type that names no flow."""
    drop_source: int = 0
    """An agent's packet whose inner source is not its own address."""
    drop_destination: int = 0
    """An agent's packet for another service's address than the one it names."""
    drop_flow_clash: int = 0
    """The flow belongs to another agent."""
    drop_flow_limit: int = 0
    drop_no_flow: int = 0
    """A connector's packet that answers nothing, as far as can be known here."""
    drop_agent_away: int = 0
    """A connector's packet for an agent that is reconnecting."""
    drop_fragment: int = 0
    """A later fragment whose first one was not seen."""
    drop_command_queue: int = 0
    drop_stream: int = 0
    """Bytes on a unidirectional stream, or on more streams than allowed."""
    drop_frame: int = 0
    """A signalling frame that is no message."""
    drop_frame_timeout: int = 0
    drop_signalling_unexpected: int = 0
    """A signalling message that makes no sense from this sender."""
    drop_offer_refused: int = 0
    """An offer from a peer that is not a registered, authorised agent of the service."""
    drop_session_clash: int = 0
    drop_session_limit: int = 0
    drop_session_unknown: int = 0


@dataclass(slots=True)
class ConnectorStats(Stats):
    """What a connector's control part did, and why it did not."""

    connections: int = 0
    disconnections: int = 0
    registrations_sent: int = 0
    registrations_accepted: int = 0
    registrations_denied: int = 0
    packets_delivered: int = 0
    bytes_delivered: int = 0
    packets_sent: int = 0
    bytes_sent: int = 0
    offers_answered: int = 0
    p2p_answers: int = 0

    drop_not_connected: int = 0
    drop_empty: int = 0
    drop_malformed: int = 0
    """Not one whole IPv4 packet."""
    drop_control: int = 0
    """A control message that is inexact or not expected."""
    drop_command_queue: int = 0
    drop_oversize: int = 0
    """A packet larger than the DATAGRAM budget."""
    drop_frame: int = 0
    drop_stream: int = 0
    drop_offer_unknown_service: int = 0
    drop_offer_rate: int = 0
    drop_signalling_unexpected: int = 0
    drop_p2p_malformed: int = 0
    drop_p2p_unexpected: int = 0
    drop_p2p_unknown: int = 0
    """A check or keepalive from a host that no offer named."""
    drop_p2p_rate: int = 0
    drop_p2p_table_full: int = 0


@dataclass(slots=True)
class AgentStats(Stats):
    """What an agent's control part did, and why it did not."""

    connections: int = 0
    disconnections: int = 0
    registrations_sent: int = 0
    registrations_accepted: int = 0
    registrations_denied: int = 0
    packets_delivered: int = 0
    bytes_delivered: int = 0
    packets_sent: int = 0
    bytes_sent: int = 0
    flows_resumed: int = 0

    drop_not_connected: int = 0
    drop_empty: int = 0
    drop_malformed: int = 0
    """Not one whole IPv4 packet."""
    drop_control: int = 0
    """A control message that is inexact or not expected."""
    drop_command_queue: int = 0
    drop_oversize: int = 0
    """A packet larger than the DATAGRAM budget."""
    drop_unknown_destination: int = 0
    """A packet for an address that is no service."""
    drop_source: int = 0
    """A packet of ours from another address than our virtual one."""
    drop_denied: int = 0
    """A packet for a service that the intermediate refused us."""
    drop_foreign: int = 0
    """A packet from the network that is not from a service to our virtual address."""
    drop_frame: int = 0
    drop_stream: int = 0
    drop_signalling_unexpected: int = 0
