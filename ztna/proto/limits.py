"""Bounds of every table and queue of the protocol core, each with the reason for its default."""

from dataclasses import dataclass

__all__ = ["AgentLimits", "ConnectorLimits", "ControlLimits", "IntermediateLimits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class IntermediateLimits:
    """What one intermediate holds at most."""

    connections: int = 4096
    """Open connections; one more is closed at once."""
    services_per_connection: int = 64
    """Registrations of one connection, in either role; one more gets a NACK."""
    flows: int = 65536
    """Flows in all: about 0.6 KiB each."""
    flows_per_agent: int = 4096
    """Flows of one agent; a new one displaces its least used, so a port scan harms only the scanner."""
    udp_flow_idle_s: float = 300.0
    """RFC 4787 s4.3: at least 2 minutes, 5 recommended."""
    tcp_flow_idle_s: float = 7440.0
    """RFC 5382 s5: at least 2 hours 4 minutes."""
    icmp_flow_idle_s: float = 60.0
    """RFC 5508 s3.2: at least 60 s."""
    parked_flow_s: float = 60.0
    """How long a flow waits for its agent or connector to reconnect: twice the idle time-out."""
    fragments: int = 4096
    """Fragmented replies whose first fragment was seen."""
    fragment_s: float = 15.0
    """RFC 791 s3.2: the initial reassembly time."""
    sessions: int = 1024
    """Signalling sessions in all; each holds at most one frame's worth of candidates."""
    session_candidates: int = 64
    """Candidates in one offer or answer."""
    sessions_per_connection: int = 8
    """Signalling sessions that one agent has open; one hole punch runs at a time."""
    session_s: float = 5.0
    """Life of a signalling session, whatever its state."""
    session_messages: int = 32
    """Answers, results and errors relayed in one session."""
    streams_per_connection: int = 8
    """Streams of one connection that may hold an incomplete frame."""
    incomplete_frames: int = 512
    """Incomplete frames in all: at most 64 KiB each."""
    frame_s: float = 10.0
    """How long a frame may stay incomplete."""
    commands: int = 16384
    """Commands waiting for the shell; it takes them after every batch of at most a few hundred packets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlLimits:
    """What the intermediate's side of `ztna-v2` holds at most."""

    unproven: int = 512
    """Connections that have not proved who they are; for one more the oldest is closed."""
    proof_s: float = 5.0
    """How long a connection may take to prove who it is."""
    proof_frame_bytes: int = 16384
    """Largest first message: four certificates and a signature fit."""
    control_buffer_bytes: int = 16_777_216
    """Incomplete frames in all."""
    control_frame_s: float = 10.0
    """How long a frame may stay incomplete."""
    control_rate_per_s: float = 50.0
    """Messages of one connection in the long run."""
    control_burst: float = 200.0
    """Messages of one connection at once."""
    control_malformed: int = 16
    """Broken messages of one connection; one more closes it."""
    switch_s: float = 10.0
    """Least time between two takeovers of a service by processes of one identity."""
    silence_reports_per_s: float = 1.0
    """Reports of one agent identity, in the long run, that its connector is silent; each is worth a PING at most."""
    silence_reports_burst: float = 4.0
    """And at once."""
    doubt_s: float = 0.35
    """A connector that answers no PING for this long, or five round trips, hands its services to standbys."""
    absent_s: float = 1.5
    """The same, or ten round trips, for services that have no standby: nobody serves them until it answers."""
    calm_s: float = 1.0
    """How long after its answer a connector is not asked again."""
    e2e_sessions: int = 8192
    """Sessions in all."""
    e2e_sessions_per_agent: int = 64
    """Sessions of one agent identity."""
    e2e_sessions_per_connector: int = 2048
    """Sessions of one connector identity."""
    e2e_invite_s: float = 10.0
    """How long a connector may take to answer an invitation."""
    e2e_away_s: float = 30.0
    """How long a session outlives the control connection of one of its sides."""
    e2e_messages_per_s: float = 4.0
    """Candidates and reports of one side of a session in the long run."""
    e2e_messages_burst: float = 64.0
    """Candidates and reports of one side of a session at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectorLimits:
    """What one connector's control part holds at most."""

    commands: int = 4096
    """Commands waiting for the shell."""
    candidates: int = 16
    """Candidates of one offer that are looked at."""
    offers_per_s: float = 50.0
    """Offers answered in the long run."""
    p2p_hosts: int = 256
    """Hosts that may send checks."""
    p2p_rate_per_s: float = 100.0
    """Checks and keepalives answered per host: an agent sends one request per 20 ms at most."""
    p2p_burst: float = 50.0
    """Checks answered at once per host."""
    p2p_connections: int = 64
    """Connections of agents of `ztna-v1` on the connector's own port."""
    p2p_connections_per_agent: int = 4
    """Of those, how many of one identity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentLimits:
    """What one agent's control part holds at most."""

    commands: int = 4096
    """Commands waiting for the shell."""
    resumable_flows: int = 1024
    """TCP connections whose last acknowledgment is kept."""
    resumed_flows: int = 32
    """Of those, how many are resumed when a service is registered again: they share a queue of 64 DATAGRAMs."""
