"""The lab stack's topology: a public segment with the intermediate, and two LANs behind a NAT each. Pure."""

from typing import Any

from infra.addressing import LAB, LOOPBACK, LabPlan, gateway, interface
from infra.config import ConfigError, ImpairmentSettings, LabConfig, LinkSettings, NatSettings
from infra.lab.errors import LabError
from infra.lab.nat import NatBehavior, preset
from infra.lab.rungs import Detection, Rung, demand, detect
from infra.lab.topology import Host, Impairment, Link, Router, Segment, Topology
from infra.outputs import NatOutput

PUBLIC, AGENT_LAN, CONNECTOR_LAN = "public", "agent-lan", "connector-lan"
RELAY, AGENT, CONNECTOR, BACKEND = "relay", "agent", "connector", "backend"
AGENT_NAT, CONNECTOR_NAT = "nat-agent", "nat-connector"


def find_rung(name: str) -> Detection:
    """Return the rung asked for by name, or the best one for `auto`. Raises ConfigError when that one does not work."""
    try:
        return detect() if name == "auto" else demand(Rung(name))
    except LabError as error:
        raise ConfigError(
            f"lab:rung is {name!r}: {error}\nor run: ztna config set --stack lab lab:rung auto"
        ) from error


def plan_of(rung: Rung) -> LabPlan:
    """Return the address plan of a rung; where there are no namespaces, the plan inside 127.0.0.0/8."""
    return LOOPBACK if rung is Rung.LOOPBACK else LAB


def nat_levels(settings: NatSettings) -> tuple[NatBehavior, ...]:
    """Return the levels of NAT, inside first. Raises ConfigError for a behaviour that is none."""
    if settings.preset is not None:
        return preset(settings.preset)
    try:
        return (behavior(dict(settings.behavior or {})),)
    except ValueError as error:
        raise ConfigError(f"lab:agentNat or lab:connectorNat is {dict(settings.behavior or {})}: {error}") from error


def behavior(values: dict[str, Any]) -> NatBehavior:
    """Return a NAT from its fields. Raises ValueError naming the field that is wrong."""
    return Router.from_spec(
        {
            "name": "nat",
            "inside": [{"segment": "in", "address": "192.0.2.1/32"}],
            "outside": {"segment": "out", "address": "192.0.2.2/32"},
            "nat": [values],
        }
    ).nat[0]


def lab_topology(config: LabConfig, plan: LabPlan) -> Topology:
    """Return the topology that a configuration asks for.

    The links that config impairs are the uplinks of both NATs and of the intermediate: what lies on a real path.
    """
    networks = plan.networks()
    public = networks[PUBLIC]

    def router(name: str, lan: str, outside: str, link: LinkSettings, nat: NatSettings) -> Router:
        inside = Link(lan, interface(gateway(networks[lan]), networks[lan]))
        return Router(name, (inside,), _link(PUBLIC, outside, link), nat=nat_levels(nat))

    def inner(name: str, lan: str, address: str) -> Host:
        return Host(name, (Link(lan, address),), gateway=str(gateway(networks[lan])))

    return Topology(
        segments=tuple(Segment(name, str(network)) for name, network in networks.items()),
        routers=(
            router(AGENT_NAT, AGENT_LAN, interface(plan.agent_outside, public), config.agent_link, config.agent_nat),
            router(
                CONNECTOR_NAT,
                CONNECTOR_LAN,
                interface(plan.connector_outside, public),
                config.connector_link,
                config.connector_nat,
            ),
        ),
        hosts=(
            Host(
                RELAY,
                (_link(PUBLIC, interface(plan.relay, public), config.relay_link),),
                addresses=(interface(plan.relay_alternate, public),),
            ),
            inner(AGENT, AGENT_LAN, interface(plan.agent, plan.agent_lan)),
            inner(CONNECTOR, CONNECTOR_LAN, interface(plan.connector, plan.connector_lan)),
            inner(BACKEND, CONNECTOR_LAN, interface(plan.backend, plan.connector_lan)),
        ),
    )


def nat_output(name: str, settings: NatSettings, public_address: str) -> NatOutput | None:
    """Return what the outputs say of a NAT: levels in a row behave as the strictest (RFC 4787 section 1)."""
    levels = nat_levels(settings)
    if not levels:
        return None
    order = ["endpoint-independent", "address-dependent", "address-and-port-dependent"]
    return NatOutput(
        name=name,
        mapping=max((level.mapping.value for level in levels), key=order.index),
        filtering=max((level.filtering.value for level in levels), key=order.index),
        public_address=public_address,
        levels=len(levels),
        udp_blocked=any(level.udp_blocked for level in levels),
    )


def _link(segment: str, address: str, settings: LinkSettings) -> Link:
    return Link(segment, address, up=_impairment(settings.up), down=_impairment(settings.down), mtu=settings.mtu)


def _impairment(settings: ImpairmentSettings) -> Impairment:
    return Impairment(
        delay_ms=settings.delay_ms,
        jitter_ms=settings.jitter_ms,
        loss=settings.loss,
        reorder=settings.reorder,
        duplicate=settings.duplicate,
        rate_bps=settings.rate_bps,
    )
