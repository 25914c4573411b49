"""The edge of a machine: the router that its cloud has before it, with public addresses, firewall and metadata.

    region router -- transit segment -- [eth0] edge [eth1] -- segment of the machine -- eth0 machine

The machine sees what the cloud shows it: a gateway in its own public network (proxy ARP answers for the rest of it),
and 169.254.169.254. The firewall is stateful and outside of the machine, which cannot see or change it.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path
from typing import Final, Literal

from infra.lab import state
from infra.lab.topology import Host, Link, Segment
from infra.twin import metadata
from infra.twin.site import Site
from infra.twin.world import Region

TABLE: Final = "inet edge"
METADATA: Final = "169.254.169.254"
ROUTE_PROTOCOL: Final = 202
"""Marks the twin's routes in a region's router (rtnetlink(7), rtm_protocol)."""
ANYWHERE: Final = IPv4Network("0.0.0.0/0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """What a firewall lets through.

    Attributes:
        direction: `in` towards the machine, `out` from it.
        protocol: tcp, udp or icmp; `all` for every one.
        ports: first and last; None for all of them, and for protocols without ports.
        peers: networks, IPv4 alone; a rule of none lets nothing through.
    """

    direction: Literal["in", "out"]
    protocol: Literal["tcp", "udp", "icmp", "all"]
    ports: tuple[int, int] | None
    peers: tuple[IPv4Network, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Edge:
    """The edge of one machine.

    Attributes:
        host: the machine's host in the lab.
        region: where it stands.
        transit: its address on the transit segment.
        gateway: its address towards the machine.
        inner: addresses of the machine that it delivers to.
        public: addresses that the region routes to it.
        nat: (public address, address of the machine) that stand for each other, one to one.
        firewall: what may pass; None lets all through.
        metadata: path -> text, as the metadata service gives it.
    """

    host: str
    region: Region
    transit: str
    gateway: str
    inner: tuple[str, ...]
    public: tuple[str, ...]
    nat: tuple[tuple[str, str], ...] = ()
    firewall: tuple[Rule, ...] | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The edge's own host in the lab."""
        return edge_name(self.host)

    @property
    def segment(self) -> str:
        """The segment between edge and machine."""
        return self.host


def edge_name(host: str) -> str:
    """Name of the edge of a machine's host."""
    return f"edge-{host}"


def ensure(site: Site, edge: Edge) -> None:
    """Make the edge, or bring it to what it shall be; flows that are under way and still allowed go on."""
    outside = Link(edge.region.segment, f"{edge.transit}/{edge.region.transit.prefixlen}")
    site.lab.ensure_segment(Segment(edge.segment, str(edge.region.public)))
    site.lab.ensure_host(
        Host(edge.name, (outside, Link(edge.segment, f"{edge.gateway}/32")), gateway=edge.region.gateway)
    )
    apply(site, edge)
    _serve_metadata(site, edge)


def apply(site: Site, edge: Edge) -> None:
    """Bring addresses and firewall of an edge that is there to what they shall be."""
    site.script(edge.name, edge_script(edge))
    path = _metadata_path(site, edge.host)
    if dict(edge.metadata) != _read(path):
        new = path.with_suffix(".new")
        new.touch(mode=0o600)  # user data is among it
        new.write_text(json.dumps(dict(edge.metadata)))
        new.replace(path)


def remove(site: Site, host: str) -> None:
    """Remove the edge of a machine's host and the segment between them, if they are there; the host goes first."""
    site.lab.remove_host(edge_name(host))
    site.lab.remove_segment(host)
    _metadata_path(site, host).unlink(missing_ok=True)


def sync_routes(site: Site, region: Region, ways: Mapping[str, str]) -> None:
    """Bring a region's router to these ways: public address -> an edge's address on the transit segment.

    An address that moves is replaced at once: there is no moment in which it leads nowhere.
    """
    lines = [f"route replace {address}/32 via {via} proto {ROUTE_PROTOCOL}" for address, via in sorted(ways.items())]
    kept = " ".join(sorted(ways))
    site.script(
        region.name,
        "\n".join(
            (
                "ip -batch - <<'ROUTES'",
                *lines,
                "ROUTES",
                f"for old in $(ip -4 route show proto {ROUTE_PROTOCOL} | cut -d' ' -f1); do",
                f"  case ' {kept} ' in *\" $old \"*) ;; *) ip route del $old proto {ROUTE_PROTOCOL} || true ;; esac",
                "done",
            )
        ),
    )


def edge_script(edge: Edge) -> str:
    """Return the shell script that brings an edge's namespace to what it shall be; it may be run again."""
    routes = [f"route replace {address}/32 dev eth1" for address in edge.inner]
    return "\n".join(
        (
            "echo 1 > /proc/sys/net/ipv4/ip_forward",
            "echo 1 > /proc/sys/net/ipv4/conf/eth1/proxy_arp",
            "echo 0 > /proc/sys/net/ipv4/neigh/eth1/proxy_delay",
            "for f in /proc/sys/net/ipv4/conf/*/send_redirects; do echo 0 > $f; done",
            "ip -batch - <<'LINES'",
            f"address replace {METADATA}/32 dev lo",
            *routes,
            "LINES",
            "nft -f - <<'RULES'",
            ruleset(edge),
            "RULES",
        )
    )


def ruleset(edge: Edge) -> str:
    """Return the edge's rules for `nft -f`; they replace earlier ones at once, and conntrack keeps its flows."""
    forward = ["ct state established,related accept", "ct state invalid counter drop"]
    if edge.firewall is None:
        forward += ['iifname "eth0" oifname "eth1" accept', 'iifname "eth1" oifname "eth0" accept']
    else:
        forward += [line for rule in edge.firewall if (line := _rule(rule))]
    forward.append("counter")
    arriving = [f'iifname "eth0" ip daddr {public} dnat ip to {inner}' for public, inner in edge.nat]
    leaving = [f'oifname "eth0" ip saddr {inner} snat ip to {public}' for public, inner in edge.nat]
    return "\n".join(
        (
            f"table {TABLE}",
            f"delete table {TABLE}",
            f"table {TABLE} {{",
            *_chain("prerouting", "nat", "dstnat", arriving),
            *_chain("postrouting", "nat", "srcnat", leaving),
            *_chain("forward", "filter", "filter", forward, policy="drop"),
            *_chain("input", "filter", "filter", [f'iifname "eth0" ip daddr {METADATA} drop']),
            "}",
        )
    )


def _chain(hook: str, kind: str, priority: str, rules: list[str], policy: str = "accept") -> list[str]:
    head = f"    type {kind} hook {hook} priority {priority}; policy {policy};"
    return [f"  chain {hook} {{", head, *(f"    {rule}" for rule in rules), "  }"]


def _rule(rule: Rule) -> str:
    if not rule.peers:
        return ""
    ways = {"in": ("eth0", "eth1", "saddr"), "out": ("eth1", "eth0", "daddr")}[rule.direction]
    words = [f'iifname "{ways[0]}" oifname "{ways[1]}"']
    if ANYWHERE not in rule.peers:
        words.append(f"ip {ways[2]} {{ {', '.join(map(str, rule.peers))} }}")
    if rule.protocol in ("tcp", "udp") and rule.ports:
        words.append(f"{rule.protocol} dport {rule.ports[0]}-{rule.ports[1]}")
    elif rule.protocol != "all":
        words.append(f"meta l4proto {rule.protocol}")
    return f"{' '.join(words)} accept"


def _metadata_path(site: Site, host: str) -> Path:
    return state.run_dir(site.run) / f"metadata.{host}.json"


def _read(path: Path) -> object:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None


def _serve_metadata(site: Site, edge: Edge) -> None:
    if any(item.host == edge.name and item.running for item in site.lab.processes()):
        return
    served = (sys.executable, "-I", "-S", str(metadata.__file__), METADATA, str(_metadata_path(site, edge.host)))
    site.lab.spawn(edge.name, "metadata", served, cwd="/")
