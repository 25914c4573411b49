"""Vocabulary of the relay of opaque packets: bounds, counters, what the shell is to do, what can be seen."""

from dataclasses import dataclass

from ztna.proto.identity import Identity
from ztna.proto.paths.stun_types import Endpoint
from ztna.proto.stats import Stats

__all__ = [
    "Install",
    "Lost",
    "Ready",
    "RelayCommand",
    "RelayLimits",
    "RelaySessionView",
    "RelayStats",
    "Remove",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayLimits:
    """What the relay of opaque packets grants; quotas hold per identity, over all its sessions."""

    relay_sessions: int = 4096
    """Sessions in all: two sockets, or six map elements, each."""
    relay_sessions_per_identity: int = 1024
    """A connector has one per agent, an agent one per connector."""
    relay_packets_per_s: float = 100_000.0
    """Packets of one identity, both directions together. In the kernel a batch joined by GSO counts as one."""
    relay_bytes_per_s: float = 125_000_000.0
    """Payload bytes of one identity, both directions together: 1 Gbit/s."""
    relay_penalty_s: float = 10.0
    """How long a session that went beyond the quota is not relayed."""
    relay_proof_s: float = 30.0
    """How long a proof of an address holds; each keepalive is a new one."""
    relay_unproved_s: float = 3600.0
    """How long a session is remembered of which neither side has a valid proof."""


@dataclass(slots=True)
class RelayStats(Stats):
    """What the relay's table did, and what it refused."""

    opened: int = 0
    closed: int = 0
    proofs: int = 0
    """Accepted proofs, keepalives included."""
    rebinds: int = 0
    """Proofs from another address than the one before."""
    installed: int = 0
    removed: int = 0
    expired: int = 0
    over_quota: int = 0

    drop_unknown_session: int = 0
    drop_replay: int = 0
    """A changed source with a counter that was seen already."""
    drop_relay_off: int = 0
    drop_penalty: int = 0
    drop_sessions_full: int = 0
    drop_sessions_of_identity: int = 0
    drop_endpoint_taken: int = 0
    """The address is proven for another session, or for the other side."""
    drop_endpoint_malformed: int = 0
    drop_endpoint_unspecified: int = 0
    drop_endpoint_multicast: int = 0
    drop_endpoint_broadcast: int = 0
    drop_endpoint_link_local: int = 0
    drop_endpoint_loopback: int = 0
    drop_endpoint_own_host: int = 0
    drop_endpoint_own_port: int = 0


@dataclass(frozen=True, slots=True)
class Install:
    """Forward between `a` (the agent) and `b` (the connector); replaces what was installed for the session."""

    session: bytes
    a: Endpoint
    b: Endpoint


@dataclass(frozen=True, slots=True)
class Remove:
    """Stop forwarding between the two, at once."""

    session: bytes
    a: Endpoint
    b: Endpoint


@dataclass(frozen=True, slots=True)
class Ready:
    """Both sides may use the relay path from now on."""

    session: bytes


@dataclass(frozen=True, slots=True)
class Lost:
    """The relay path of the session is gone; `reason` is relay-off, quota, expired or address-conflict."""

    session: bytes
    reason: str


RelayCommand = Install | Remove | Ready | Lost


@dataclass(frozen=True, slots=True)
class RelaySessionView:
    """One session as status pages show it. Packets and bytes are of both directions together."""

    session: bytes
    agent: Identity
    connector: Identity
    ready: bool
    agent_endpoint: Endpoint | None
    connector_endpoint: Endpoint | None
    idle_s: float
