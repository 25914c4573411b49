"""Why a session has no direct path, in words for the person who asks: reason, evidence, advice.

The order of the rules is the order of certainty: what was decided, what is known to be blocked, what both NATs are
known to do, and last what merely never arrived.
"""

from dataclasses import dataclass
from typing import Final

from ztna.proto.natclass import Behavior, PortAllocation
from ztna.proto.paths.candidates import is_private, parse_host
from ztna.proto.paths.path_types import BlockedBy, Diagnosis, NatSeen
from ztna.proto.paths.stun_types import Endpoint

NO_STUN_AFTER_S: Final = 5.0
JUDGED_AFTER_S: Final = 3.0
VARYING: Final = (Behavior.ADDRESS_DEPENDENT, Behavior.ADDRESS_AND_PORT_DEPENDENT)
FINE: Final = Diagnosis(None, "", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What one side saw.

    Args:
        direct_allowed: configuration lets sessions leave the relay.
        is_direct: packets travel directly now.
        age_s: seconds since the start.
        probing_s: seconds since the first check was due; None before the peer named a candidate.
        stun_sent, stun_answered: requests to the relay and its corners, and their answers.
        relay: the relay's endpoint, None where there is none.
        mapped: where the relay sees the session's socket.
        observed_host: where the intermediate sees the control connection, if it said so.
        nat, peer_nat: what is known of both NATs.
        checks_sent, peer_requests: checks sent to the peer, and requests of the peer that arrived.
        ever_direct: a direct path worked before.
        peer_hosts_share_mapped: the peer's mapped address has this side's public address.
        hairpin_tried: that address was checked all the same.
        remote_candidates: candidates the peer named.
        families, peer_families: IP versions that this side has addresses of, and the peer's candidates are of.
        unheard_address: an address of this side's own port that the peer was told, that is not the one which the relay
            sees, and at which nobody was ever heard.
    """

    direct_allowed: bool
    is_direct: bool
    age_s: float
    probing_s: float | None
    stun_sent: int
    stun_answered: int
    relay: Endpoint | None
    mapped: Endpoint | None
    observed_host: str | None
    nat: NatSeen
    peer_nat: NatSeen | None
    checks_sent: int
    peer_requests: int
    ever_direct: bool
    peer_hosts_share_mapped: bool
    hairpin_tried: bool
    remote_candidates: int
    families: frozenset[int]
    peer_families: frozenset[int]
    unheard_address: Endpoint | None


def diagnose(facts: Facts) -> Diagnosis:
    """Return why there is no direct path; a Diagnosis without reason when there is one or it is too early to say."""
    if facts.is_direct:
        return FINE
    if not facts.direct_allowed:
        return Diagnosis(
            BlockedBy.POLICY,
            "Direct paths are switched off in this side's configuration (direct: off).",
            'Set direct to "auto" on both sides to allow them.',
        )
    for rule in (_udp_blocked, _no_family_in_common, _address_lied, _hairpin, _mapping_varies, _silent_peer, _filtered):
        found = rule(facts)
        if found is not None:
            return found
    return FINE


def _udp_blocked(facts: Facts) -> Diagnosis | None:
    if facts.stun_answered or not facts.stun_sent or facts.age_s < NO_STUN_AFTER_S:
        return None
    return Diagnosis(
        BlockedBy.UDP_BLOCKED,
        f"None of {facts.stun_sent} STUN requests to {facts.relay} was answered in {facts.age_s:.0f} s.",
        "Let UDP out to the relay (port 4433) in the firewall of this network, or check that the relay is up.",
    )


def _no_family_in_common(facts: Facts) -> Diagnosis | None:
    """Neither side has anything to probe. The relay serves both families, so nothing else tells of it."""
    if not facts.peer_families or not facts.families or facts.peer_families & facts.families:
        return None
    if facts.age_s < JUDGED_AFTER_S:
        return None
    own, peer = _versions(facts.families), _versions(facts.peer_families)
    return Diagnosis(
        BlockedBy.PEER_NEVER_PROBED,
        f"All {facts.remote_candidates} addresses that the peer has named are {peer}, and this side has {own} alone.",
        f"Give one side an address of the other's family: {peer} here, or {own} at the peer.",
    )


def _versions(families: frozenset[int]) -> str:
    return " and ".join(f"IPv{version}" for version in sorted(families))


def _address_lied(facts: Facts) -> Diagnosis | None:
    """Something between this host and the relay rewrites source addresses: a load balancer, a container network.

    Or this side's own configuration names an address that is not, or no longer, this host's.
    """
    if facts.mapped is None or facts.relay is None:
        return None
    if is_private(facts.mapped.host) and not is_private(facts.relay.host):
        return Diagnosis(
            BlockedBy.ADDRESS_LIED,
            f"The relay has the public address {facts.relay.host} but sees this socket as {facts.mapped}, which is "
            "a private address.",
            "The relay's own network hides its clients: preserve source addresses there (externalTrafficPolicy: Local, "
            "hostNetwork, or a load balancer with client IP preservation).",
        )
    if _same_family(facts.observed_host, facts.mapped.host) and facts.observed_host != facts.mapped.host:
        return Diagnosis(
            BlockedBy.ADDRESS_LIED,
            f"The control connection is seen as {facts.observed_host}, this session's socket as {facts.mapped.host}.",
            "This network, or a load balancer before the relay, uses several public addresses: a peer's packets to one "
            "do not reach the other. Pin the host to one address, or preserve source addresses at the relay.",
        )
    if facts.unheard_address is not None and not _too_early(facts):
        return Diagnosis(
            BlockedBy.ADDRESS_LIED,
            f"The peer is told to come to {facts.unheard_address}, where nobody has ever arrived; the relay sees this "
            f"host at {facts.mapped.host}.",
            "Set external_ip to the address by which others reach this host, or leave it out. If a load balancer has "
            f"that address, let UDP to port {facts.unheard_address.port} through it.",
        )
    return None


def _same_family(observed: str | None, mapped: str) -> bool:
    if observed is None:
        return False
    address, other = parse_host(observed), parse_host(mapped)
    return address is not None and other is not None and address.version == other.version


def _hairpin(facts: Facts) -> Diagnosis | None:
    if not facts.peer_hosts_share_mapped or _too_early(facts) or facts.mapped is None:
        return None
    tried = "its NAT did not turn a check around" if facts.hairpin_tried else "checks to it are not sent by default"
    return Diagnosis(
        BlockedBy.HAIRPIN_NEEDED,
        f"Both sides share the public address {facts.mapped.host}, their local addresses do not reach each other, "
        f"and {tried}.",
        "Route between the two local networks, or enable hairpinning (NAT loopback) on their common NAT"
        + ("." if facts.hairpin_tried else " and set hairpin_probe on both sides."),
    )


def _mapping_varies(facts: Facts) -> Diagnosis | None:
    if _too_early(facts):
        return None
    own, peer = facts.nat.mapping in VARYING, facts.peer_nat is not None and facts.peer_nat.mapping in VARYING
    if not own and not peer:
        return None
    if own and peer:
        return Diagnosis(
            BlockedBy.MAPPING_VARIES,
            f"Both NATs take a new outside port for each destination ({_words(facts.nat)} here, "
            f"{_words(facts.peer_nat)} there), so neither side can know where to send.",
            "Give one side an open UDP port: a public address, a forwarded port, UDP 4434 open to the connector, "
            "hostNetwork in Kubernetes, a public IP for a Fargate task. Endpoint-independent mapping helps where both "
            "sides have it. Until then the relay carries the session.",
        )
    where, nat, fixed = ("here", facts.nat, facts.peer_nat) if own else ("at the peer", facts.peer_nat, facts.nat)
    if fixed is not None and fixed.filtering in (Behavior.ENDPOINT_INDEPENDENT, Behavior.ADDRESS_DEPENDENT):
        # The other side lets a new port in, so this is not what stands in the way.
        return None
    return Diagnosis(
        BlockedBy.MAPPING_VARIES,
        f"The NAT {where} takes a new outside port for each destination ({_words(nat)}), and the other side's NAT "
        "or firewall lets in only ports it has sent to.",
        f"Change one of the two: endpoint-independent mapping {where} (consistent NAT, hostNetwork, a public address), "
        "or an open UDP port on the other side.",
    )


def _words(nat: NatSeen | None) -> str:
    if nat is None:
        return "unknown"
    how = "" if nat.allocation is PortAllocation.UNKNOWN else f", {nat.allocation} ports"
    return f"{nat.mapping} mapping{how}"


def _silent_peer(facts: Facts) -> Diagnosis | None:
    if facts.remote_candidates or facts.age_s < JUDGED_AFTER_S or facts.ever_direct:
        return None
    return Diagnosis(
        BlockedBy.PEER_NEVER_PROBED,
        "The peer has named no address at which it could be reached.",
        "Check that the peer allows direct paths (direct: auto), that its version knows them, and that UDP leaves its "
        "network.",
    )


def _filtered(facts: Facts) -> Diagnosis | None:
    if _too_early(facts) or not facts.checks_sent:
        return None
    if facts.peer_requests:
        return Diagnosis(
            BlockedBy.FILTERED,
            f"{facts.peer_requests} requests of the peer arrived here, but none of {facts.checks_sent} checks sent to "
            "it was answered: packets pass in one direction only.",
            "A firewall at the peer, or on the way out of this network, drops UDP to unknown ports: allow UDP out here "
            "and replies to it there.",
        )
    before = " since the direct path was lost" if facts.ever_direct else ""
    return Diagnosis(
        BlockedBy.FILTERED,
        f"{facts.checks_sent} checks were sent to {facts.remote_candidates} addresses of the peer, and no request of "
        f"the peer has arrived{before}, though both sides probe.",
        "A firewall on one side drops UDP that it should let in after the host has sent out (a stateless filter, or "
        "one that blocks peer-to-peer UDP): allow replies to outgoing UDP, or open the session port range.",
    )


def _too_early(facts: Facts) -> bool:
    return facts.probing_s is None or facts.probing_s < JUDGED_AFTER_S
