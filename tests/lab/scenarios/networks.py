"""A network for each reason why a session has no direct path, how the reason comes about, and what takes it away.

    reason              network
    udp-blocked         the NAT of one end drops all UDP
    mapping-varies      a NAT takes a random port for each destination: on both sides, or against a home router
    filtered            two homes; a firewall lets UDP of one of them pass to and from the relay alone, or drops what
                        comes in from others
    peer-never-probed   one end has IPv4 alone, the other IPv6 alone; or the peer names no address and sends no check
    hairpin-needed      two homes behind one carrier, which turns no packet around
    policy              `direct` is off at one end
    address-lied        the connector names an address that is no longer its own; or the relay's network hides from
                        which addresses it is asked

Each has a remedy, which is what the advice says to do: followed, it gives the session a direct path.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from infra.lab.nat import HOME, NatBehavior, PortAllocation, preset
from infra.lab.nat import Mapping as NatMapping
from infra.lab.topology import Host, Link, Router, Segment, Topology
from tests.lab.matrix.classes import PUBLIC, RELAY, RELAY_ADDRESS, RELAY_ALTERNATE
from tests.lab.matrix.worlds import (
    AGENT,
    AGENT_OUTSIDE,
    CONNECTOR,
    CONNECTOR_OUTSIDE,
    HAIRPIN,
    NET_A,
    NET_B,
    RELAY_SIX,
    inside,
    nat,
    one_carrier,
    one_family_each,
    world,
)
from tests.lab.scenarios.stage import Stage
from tests.support.session_bed import SessionBedSpec

Deed = Callable[[Stage], None]
REASONS: Final = (
    "udp-blocked", "mapping-varies", "filtered", "peer-never-probed", "hairpin-needed", "policy", "address-lied",
)  # fmt: skip
BLOCKED: Final = NatBehavior(udp_blocked=True)
RANDOM: Final = NatBehavior(mapping=NatMapping.ADDRESS_AND_PORT_DEPENDENT, port_allocation=PortAllocation.RANDOM)
STALE_ADDRESS: Final = "172.20.0.99"
_GLOBAL: Final = "192.88.99"
"""A network that is global by its number and nobody's since RFC 7526: it stays in namespaces all the same."""


def start(stage: Stage) -> None:
    """All roles, as they are configured."""
    stage.start(CONNECTOR, AGENT)


@dataclass(frozen=True, slots=True)
class Network:
    """One scenario.

    Args:
        name: of the scenario.
        reason: which `ztna why` must give.
        topology: with a relay, an agent and a connector.
        evidence: words that the evidence must hold.
        advice: words that the advice must hold.
        remedy: does what the advice says.
        begin: starts the roles.
        outcome: how the service is reached.
        step: that stands in the way.
        relay, alternate: addresses by which the relay is dialled.
        relay_config, agent_config, connector_config: keys put over what the wiring makes.
    """

    name: str
    reason: str
    topology: Topology
    evidence: str
    advice: str
    remedy: Deed
    begin: Deed = start
    outcome: str = "relayed"
    step: str = "direct path"
    relay: str = RELAY_ADDRESS
    alternate: str = RELAY_ALTERNATE
    relay_config: Mapping[str, Any] = field(default_factory=dict)
    agent_config: Mapping[str, Any] = field(default_factory=dict)
    connector_config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def spec(self) -> SessionBedSpec:
        """The bed it is played in."""
        return SessionBedSpec(
            self.topology, (AGENT,), (CONNECTOR,), self.relay, self.alternate, relay_config=self.relay_config,
            agent_config=self.agent_config, connector_config=self.connector_config,
        )  # fmt: skip


def homes(agent: NatBehavior = HOME, connector: NatBehavior = HOME) -> Topology:
    """A host behind a NAT on either side."""
    routers = (nat("a", AGENT_OUTSIDE, NET_A, agent), nat("b", CONNECTOR_OUTSIDE, NET_B, connector))
    return world(inside("a", NET_A), inside("b", NET_B), routers=routers, lans=("lan-a", "lan-b"))


# udp-blocked, mapping-varies


def open_nat(side: str, *levels: NatBehavior) -> Deed:
    """The NAT of a side becomes another."""
    return lambda stage: stage.change_router(f"nat-{side}", nat=levels)


def start_blocked(stage: Stage) -> None:
    """Roles that cannot all become ready."""
    stage.bed.start(CONNECTOR)
    stage.bed.start(AGENT)


# filtered


def relay_alone(stage: Stage) -> None:
    """The agent's network lets UDP pass to and from the relay, and nothing else."""
    stage.nft(
        "nat-a",
        "add table inet office; add chain inet office egress { type filter hook forward priority -5; }; "
        f"add rule inet office egress meta l4proto udp ip daddr != {{ {RELAY_ADDRESS}, {RELAY_ALTERNATE}, "
        f"{NET_A}.0/24 }} drop",
    )
    start(stage)


def inbound_dropped(stage: Stage) -> None:
    """A stateless filter before the connector's NAT drops UDP that comes in from others than the relay."""
    stage.nft(
        "nat-b",
        "add table inet office; add chain inet office ingress { type filter hook prerouting priority -310; }; "
        f"add rule inet office ingress meta l4proto udp ip daddr {CONNECTOR_OUTSIDE} "
        f"ip saddr != {{ {RELAY_ADDRESS}, {RELAY_ALTERNATE} }} drop",
    )
    start(stage)


def allow(router: str) -> Deed:
    """The firewall goes."""
    return lambda stage: stage.nft(router, "delete table inet office")


# peer-never-probed


def give_ipv4(stage: Stage) -> None:
    """The connector's host gets an address of the agent's family, while the connector runs."""
    stage.bed.lab.run(CONNECTOR, ["ip", "address", "add", f"{CONNECTOR_OUTSIDE}/24", "dev", "eth0"])


def replace_connector(stage: Stage) -> None:
    """A connector that has not been tampered with."""
    stage.restart(CONNECTOR)


def start_mute(stage: Stage) -> None:
    """The connector is one that names no address and sends no check, as a version that knows neither."""
    stage.start_tampered(CONNECTOR, "mute")
    stage.start(AGENT)


# hairpin-needed


def hairpin(stage: Stage) -> None:
    """The carrier turns packets around, and both ends may try it."""
    stage.change_router("carrier", nat=one_carrier(hairpin=True).routers[0].nat)
    for host in (CONNECTOR, AGENT):
        stage.bed.change_config(host, **HAIRPIN)
    stage.restart(CONNECTOR, AGENT)


# policy


def allow_direct(host: str) -> Deed:
    """`direct` of an end becomes auto."""

    def deed(stage: Stage) -> None:
        stage.bed.change_config(host, direct="auto")
        stage.restart(host)

    return deed


# address-lied


def elastic_address() -> Topology:
    """The connector has a public address of its own, translated one to one, with UDP 4434 open; the agent's NAT varies.

    So they meet at that port, or not at all. The rules of the address are made by `start_elastic`.
    """
    edge = Router("edge", (Link("lan-b", f"{NET_B}.1/24"),), Link(PUBLIC, f"{CONNECTOR_OUTSIDE}/24"))
    agent_nat = nat("a", AGENT_OUTSIDE, NET_A, RANDOM)
    hosts = (inside("a", NET_A), inside("b", NET_B))
    return world(*hosts, routers=(agent_nat, edge), lans=("lan-a", "lan-b"))


def start_elastic(stage: Stage) -> None:
    """Give the connector its address, and start everything."""
    stage.nft(
        "edge",
        "add table ip elastic; "
        "add chain ip elastic in { type nat hook prerouting priority dstnat; }; "
        f"add rule ip elastic in ip daddr {CONNECTOR_OUTSIDE} dnat to {NET_B}.10; "
        "add chain ip elastic leave { type nat hook postrouting priority srcnat; }; "
        f"add rule ip elastic leave ip saddr {NET_B}.0/24 snat to {CONNECTOR_OUTSIDE}; "
        "add chain ip elastic pass { type filter hook forward priority 0; policy drop; }; "
        "add rule ip elastic pass ct state established,related accept; "
        f"add rule ip elastic pass ip saddr {NET_B}.0/24 accept; "
        "add rule ip elastic pass ct status dnat udp dport 4434 accept",
    )
    start(stage)


def true_address(stage: Stage) -> None:
    """`external_ip` becomes the address by which the others reach the connector."""
    stage.bed.change_config(CONNECTOR, external_ip=CONNECTOR_OUTSIDE)
    stage.restart(CONNECTOR)


def hidden_clients() -> Topology:
    """The relay is behind a load balancer of its own network; the ends are two homes."""
    routers = tuple(
        Router(f"nat-{side}", (Link(f"lan-{side}", f"{network}.1/24"),), Link(PUBLIC, f"{outside}/24"), nat=(HOME,))
        for side, network, outside in (("a", NET_A, f"{_GLOBAL}.21"), ("b", NET_B, f"{_GLOBAL}.22"))
    )
    balancer = Router("balancer", (Link("cluster", "10.9.0.1/24"),), Link(PUBLIC, f"{_GLOBAL}.2/24"))
    relay = Host(RELAY, (Link("cluster", "10.9.0.2/24"),), gateway="10.9.0.1")
    lans = (Segment("lan-a", f"{NET_A}.0/24"), Segment("lan-b", f"{NET_B}.0/24"), Segment("cluster", "10.9.0.0/24"))
    return Topology(
        segments=(Segment(PUBLIC, f"{_GLOBAL}.0/24"), *lans),
        routers=(balancer, *routers),
        hosts=(relay, inside("a", NET_A), inside("b", NET_B)),
    )


def start_hidden(stage: Stage) -> None:
    """The balancer passes packets on as its own."""
    balance(stage, hide=True)
    start(stage)


def balance(stage: Stage, *, hide: bool) -> None:
    """The balancer's rules, in place of earlier ones."""
    own = "add rule ip balance leave ip daddr 10.9.0.2 masquerade; " if hide else ""
    stage.nft(
        "balancer",
        "add table ip balance; delete table ip balance; add table ip balance; "
        "add chain ip balance in { type nat hook prerouting priority dstnat; }; "
        f"add rule ip balance in ip daddr {_GLOBAL}.2 dnat to 10.9.0.2; "
        "add chain ip balance leave { type nat hook postrouting priority srcnat; }; "
        f"{own}add rule ip balance leave ip saddr 10.9.0.0/24 snat to {_GLOBAL}.2",
    )


def show_clients(stage: Stage) -> None:
    """The balancer preserves source addresses."""
    for host in (AGENT, CONNECTOR):
        stage.bed.stop(host)
    balance(stage, hide=False)
    start(stage)


_DROPPED: Final = "allow replies to outgoing UDP"
NETWORKS: Final = (
    Network(
        "udp-blocked-agent", "udp-blocked", homes(agent=BLOCKED), "no packet back", "Let UDP out to 172.20.0.2:4433",
        open_nat("a", HOME), start_blocked, "unreachable", "agent connected to the intermediate",
    ),
    Network(
        "udp-blocked-connector", "udp-blocked", homes(connector=BLOCKED), "no packet back",
        "Let UDP out to 172.20.0.2:4433", open_nat("b", HOME), start_blocked, "unreachable",
        "connector connected to the intermediate",
    ),
    Network(
        "mapping-varies-both", "mapping-varies", homes(RANDOM, RANDOM), "agent: Both NATs take a new outside port",
        "an open UDP port", open_nat("b", *preset("full-cone")),
    ),
    Network(
        "mapping-varies-connector", "mapping-varies", homes(connector=RANDOM),
        "connector: The NAT here takes a new outside port", "endpoint-independent mapping here", open_nat("b", HOME),
    ),
    Network(
        "filtered-both-ways", "filtered", homes(), "no request of the peer has arrived", _DROPPED, allow("nat-a"),
        relay_alone,
    ),
    Network(
        "filtered-inbound", "filtered", homes(), "packets pass from the connector to the agent alone",
        "connector: let UDP in before the connector", allow("nat-b"), inbound_dropped,
    ),
    Network(
        "families", "peer-never-probed", one_family_each(), "addresses that the peer has named are IPv6",
        "an address of the other's family", give_ipv4,
        relay_config={"bind_addr": "::"},
        connector_config={
            "bind_addr": "::",
            "intermediate_server": {"host": RELAY_SIX, "port": 4433, "server_name": "ztna-server"},
        },
    ),
    Network(
        "mute-peer", "peer-never-probed", homes(), "agent: The peer has named no address", "its version knows them",
        replace_connector, start_mute,
    ),
    Network(
        "one-carrier", "hairpin-needed", one_carrier(hairpin=False), "share the public address 172.20.0.21",
        "set hairpin_probe on both sides", hairpin,
    ),
    Network(
        "direct-off-connector", "policy", homes(), "connector: Direct paths are switched off", 'Set direct to "auto"',
        allow_direct(CONNECTOR), connector_config={"direct": "off"},
    ),
    Network(
        "direct-off-agent", "policy", homes(), "agent: Direct paths are switched off", 'Set direct to "auto"',
        allow_direct(AGENT), agent_config={"direct": "off"},
    ),
    Network(
        "stale-address", "address-lied", elastic_address(),
        f"connector: The peer is told to come to {STALE_ADDRESS}:4434",
        "Set external_ip to the address by which others reach this host", true_address, start_elastic,
        connector_config={"external_ip": STALE_ADDRESS},
    ),
    Network(
        "hidden-clients", "address-lied", hidden_clients(), "sees this socket as 10.9.0.1", "preserve source addresses",
        show_clients, start_hidden, relay=f"{_GLOBAL}.2", alternate=f"{_GLOBAL}.2",
        relay_config={"bind_addr": "10.9.0.2", "alternate_addr": None},
    ),
)  # fmt: skip
