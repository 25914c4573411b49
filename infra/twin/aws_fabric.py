"""A VPC on the lab: one router for all of it, brought to what the store says after every change.

    region router -- transit -- [eth0] vpc-N [eniM] -- segment of one interface -- eth0 instance, task, NAT gateway

Every interface hangs on a link of its own, so that nothing reaches it but through the router, where its security groups
are: one table with one connection tracking, in which a new flow needs the egress rules of where it comes from and the
ingress rules of where it goes. The router is each subnet's gateway, the resolver, the internet gateway (an elastic IP
stands for a private address, one to one) and the load balancers' nodes. Each subnet has a routing table of its own.
"""

import hashlib
import sys
from collections.abc import Iterator, Mapping
from typing import Final

from infra.lab import state
from infra.lab.plan import bridge_name, switch_namespace
from infra.lab.topology import Host, Link, Segment
from infra.twin import aws_balancing, daemons, edge
from infra.twin.aws_forms import REGION, REGIONS
from infra.twin.aws_view import EGRESS, INGRESS, NAT, VPC, Eni, View, enis_of
from infra.twin.interface import Json
from infra.twin.site import Site
from infra.twin.store import Item

SWITCH: Final = "_switch"
"""The namespace of all bridges, as the lab names it."""
TABLES_FROM: Final = 1000
"""Of the kernel's routing tables: that of a subnet is this and its number."""
MARK: Final = 1
"""On connections that a load balancer took in: answers leave by the internet gateway, whatever the subnet's routes."""
MARKED_TABLE: Final = 900
FIRST_TRANSIT: Final = 100
UDP_TIMEOUT_S: Final = 30
UDP_STREAM_TIMEOUT_S: Final = 180
"""Of flows that security groups track.

Source: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/security-group-connection-tracking.html
"""
_PROTOCOLS: Final = {"icmp": "icmp", "1": "icmp", "6": "tcp", "17": "udp"}


def router_of(vpc: Item) -> str:
    """The host in the lab that is a VPC's router."""
    return f"vpc-{vpc.number}"


def nat_link(nat: Item) -> tuple[str, str, str]:
    """Of a NAT gateway's inner side: device at the VPC's router, the router's address, the gateway's own."""
    third, last = divmod(nat.data["slot"] * 4, 256)
    return f"nat{nat.number}", f"169.254.{200 + third}.{last + 1}", f"169.254.{200 + third}.{last + 2}"


def ensure_router(site: Site, vpc: Item) -> None:
    """Make the router of a VPC."""
    region = REGIONS[REGION]
    transit = f"{region.transit[FIRST_TRANSIT + vpc.data['slot']]}/{region.transit.prefixlen}"
    site.lab.ensure_host(Host(router_of(vpc), (Link(region.segment, transit),), gateway=region.gateway))
    sync(site, vpc.id)


def remove_router(site: Site, vpc: Item) -> None:
    """Remove the router of a VPC, if it is there."""
    site.lab.remove_host(router_of(vpc))


def ensure_segment(site: Site, name: str) -> None:
    """Make the link that one interface hangs on."""
    site.lab.ensure_segment(Segment(name, "0.0.0.0/0"))


def plug(site: Site, router: str, segment: str, device: str, lines: tuple[str, ...]) -> None:
    """Plug a VPC's router into a segment, unless it is, and run lines of shell there with `$1` for the device."""
    switch = switch_namespace(site.run)
    far = f"v{hashlib.sha256(f'{router}/{device}'.encode()).hexdigest()[:12]}"
    setting = f"/proc/sys/net/ipv4/conf/{device}"
    site.script(
        router,
        "\n".join(
            (
                f"set -- {device}",
                f"ip link show dev $1 > /dev/null 2>&1 || ip link add $1 type veth peer name {far} netns {switch}",
                "ip link set $1 up",
                f"echo 0 > {setting}/rp_filter; echo 0 > {setting}/send_redirects",
                *lines,
            )
        ),
    )
    site.script(SWITCH, f"ip link set {far} master {bridge_name(segment)} up")


def plug_eni(site: Site, view: View, eni: Eni) -> None:
    """Plug an interface in whose segment is named as its host."""
    subnet = view.subnets[eni.subnet]
    preference, table = _rule_of(eni), TABLES_FROM + subnet.number
    setting = f"/proc/sys/net/ipv4/conf/{eni.device}"
    lines = (
        f"echo 1 > {setting}/proxy_arp; echo 0 > /proc/sys/net/ipv4/neigh/{eni.device}/proxy_delay",
        f"ip address replace {subnet.network[1]}/32 dev lo",
        f"ip route replace {eni.address}/32 dev $1 src {subnet.network[1]}",
        f"ip rule show pref {preference} | grep -q . || ip rule add pref {preference} iif $1 lookup {table}",
    )
    plug(site, router_of(view.vpc), eni.host, eni.device, lines)


def unplug_eni(site: Site, view: View, eni: Eni) -> None:
    """Take an interface out, if it is in."""
    if exists(site, router_of(view.vpc)):
        lines = (
            f"ip link del {eni.device} 2> /dev/null || true",
            f"ip rule del pref {_rule_of(eni)} 2> /dev/null || true",
        )
        site.script(router_of(view.vpc), "\n".join(lines))


def _rule_of(eni: Eni) -> int:
    return 10_000 + int(eni.device.removeprefix("eni"))


def exists(site: Site, host: str) -> bool:
    """Whether a host of the lab is there."""
    record = state.load(site.run)
    return record is not None and host in record.nodes


def sync(site: Site, vpc_id: str) -> None:
    """Bring the router of a VPC, and the ways to its public addresses, to what the store says."""
    with site.exclusive("aws"):
        items = site.store.items()
        view = View(items, vpc_id)
        if exists(site, router_of(view.vpc)):
            site.script(router_of(view.vpc), router_script(view))
        ways = {}
        for vpc in (item for item in items if item.token == VPC):
            transit = str(REGIONS[REGION].transit[FIRST_TRANSIT + vpc.data["slot"]])
            other = view if vpc.id == vpc_id else View(items, vpc.id)
            if other.internet:
                ways.update(dict.fromkeys(other.public().values(), transit))
        edge.sync_routes(site, REGIONS[REGION], ways)


def forget_flows(site: Site, vpc: Item, address: str) -> None:
    """Make a VPC's router forget the flows of a private address: what goes on begins anew."""
    if exists(site, router_of(vpc)):
        site.script(router_of(vpc), f"env -C '{daemons.ROOT}' '{sys.executable}' -m infra.twin.flows {address}")


def sync_all(site: Site) -> None:
    """Bring every VPC to what the store says."""
    for vpc in site.store.items(VPC):
        sync(site, vpc.id)


def router_script(view: View) -> str:
    """Return the shell script that brings a VPC's router to what it shall be; it may be run again."""
    region = REGIONS[REGION]
    local = [view.network[2], "169.254.169.253", *(subnet.network[1] for subnet in view.subnets.values())]
    local += [eni.address for _, eni in view.enis() if not eni.device]
    lines = [f"address replace {address}/32 dev lo" for address in local]
    lines.append(f"route replace unreachable {view.network}")
    lines.append(f"route replace default via {region.gateway} dev eth0 table {MARKED_TABLE}")
    for subnet in view.subnets.values():
        table = TABLES_FROM + subnet.number
        if "0.0.0.0/0" not in subnet.routes:
            lines.append(f"route replace unreachable default table {table} proto {edge.ROUTE_PROTOCOL}")
        lines += [
            f"route replace {way} table {table} proto {edge.ROUTE_PROTOCOL}" for way in _ways(view, subnet.routes)
        ]
    rules = {100: f"to {view.network} lookup main", 110: f"fwmark {MARK} lookup {MARKED_TABLE}"}
    settings = {
        "ipv4/ip_forward": 1,
        "netfilter/nf_conntrack_udp_timeout": UDP_TIMEOUT_S,
        "netfilter/nf_conntrack_udp_timeout_stream": UDP_STREAM_TIMEOUT_S,
    }
    return "\n".join(
        (
            *(
                f"ip rule show pref {number} | grep -q . || ip rule add pref {number} {rule}"
                for number, rule in rules.items()
            ),
            "ip -batch - <<'LINES'",
            *lines,
            "LINES",
            *_gone(view),
            "for f in /proc/sys/net/ipv4/conf/*/send_redirects; do echo 0 > $f; done",
            "nft -f - <<'RULES'",
            ruleset(view),
            "RULES",
            # They are there once rules track connections.
            *(f"echo {value} > /proc/sys/net/{name}" for name, value in settings.items()),
        )
    )


def _ways(view: View, routes: Mapping[str, str]) -> Iterator[str]:
    """The routes of a subnet as ip(8) takes them; one to what is not there is a black hole, as in AWS."""
    for destination, gateway in sorted(routes.items()):
        to = "default" if destination == "0.0.0.0/0" else destination
        nat = next((item for item in view.items if item.token == NAT and item.id == gateway), None)
        if gateway and gateway == view.internet:
            yield f"{to} via {REGIONS[REGION].gateway} dev eth0"
        elif nat is not None and nat.data.get("ready"):
            device, _, address = nat_link(nat)
            yield f"{to} via {address} dev {device}"
        else:
            yield f"blackhole {to}"


def _gone(view: View) -> Iterator[str]:
    """Shell lines that take out routes that a subnet has no longer."""
    for subnet in view.subnets.values():
        table = f"table {TABLES_FROM + subnet.number}"
        ours = f"{table} proto {edge.ROUTE_PROTOCOL}"
        kept = "|".join(way.replace(".", "[.]").removesuffix("/32") for way in ("default", *subnet.routes))
        yield f"ip route show {ours} | grep -vE '^((unreachable|blackhole) )?({kept})( |$)' |"
        yield f"  while read -r old; do ip route del $old {table} || true; done"


def ruleset(view: View) -> str:
    """Return the router's rules for `nft -f`; they replace earlier ones at once, and conntrack keeps its flows."""
    public = view.public() if view.internet else {}
    there = [eni for _, eni in view.enis() if eni.device]
    grouped = [eni for eni in there if eni.groups is not None]
    forward = ["ct state established,related accept", "ct state invalid counter drop"]
    forward += [f'iifname "{eni.device}" ip saddr != {eni.address} counter drop' for eni in there]
    # What came in from the internet for a private address was sent to none of ours.
    forward.append(f'iifname "eth0" ct original ip daddr {view.network} counter drop')
    forward += [f'iifname "{eni.device}" jump out-{eni.device}' for eni in grouped]
    forward += [f'oifname "{eni.device}" jump in-{eni.device}' for eni in grouped]
    addresses = ", ".join(sorted(public))
    forward.append(
        f'oifname "eth0" ip saddr != {{ {addresses} }} counter drop' if public else 'oifname "eth0" counter drop'
    )
    forward.append("accept")
    arriving = [*aws_balancing.rules(view, public, MARK)]
    leaving = []
    if public:
        pairs = sorted(public.items())
        arriving.append(
            f'iifname "eth0" dnat ip to ip daddr map {{ {", ".join(f"{eip} : {own}" for own, eip in pairs)} }}'
        )
        leaving.append(
            f'oifname "eth0" snat ip to ip saddr map {{ {", ".join(f"{own} : {eip}" for own, eip in pairs)} }}'
        )
    answers = [f"ct mark {MARK} ct direction reply meta mark set {MARK}"]
    own = ["ct state established,related accept", f'oifname "eth0" ip daddr != {view.network} accept']
    own += [f'oifname "{eni.device}" jump in-{eni.device}' for eni in grouped]
    given = ['iifname "lo" accept', "ct state established,related accept", 'iifname "eth0" counter drop']
    given += [
        f"ip daddr {{ {view.network[2]}, 169.254.169.253 }} meta l4proto {{ tcp, udp }} th dport 53 accept",
        "counter drop",
    ]
    chains = [
        *(
            line
            for eni in grouped
            for line in _chain(f"in-{eni.device}", "", [*_matches(view, INGRESS, "saddr", eni), "counter drop"])
        ),
        *(
            line
            for eni in grouped
            for line in _chain(f"out-{eni.device}", "", [*_matches(view, EGRESS, "daddr", eni), "counter drop"])
        ),
        *_chain("answers", "type filter hook prerouting priority mangle;", answers),
        *_chain("prerouting", "type nat hook prerouting priority dstnat;", arriving),
        *_chain("postrouting", "type nat hook postrouting priority srcnat;", leaving),
        *_chain("forward", "type filter hook forward priority filter; policy drop;", forward),
        *_chain("output", "type filter hook output priority filter;", own),
        *_chain("input", "type filter hook input priority filter;", given),
    ]
    table = "inet vpc"
    return "\n".join((f"table {table}", f"delete table {table}", f"table {table} {{", *chains, "}"))


def _chain(name: str, hook: str, rules: list[str]) -> list[str]:
    return [f"  chain {name} {{", *([f"    {hook}"] if hook else []), *(f"    {rule}" for rule in rules), "  }"]


def _matches(view: View, token: str, peer: str, eni: Eni) -> Iterator[str]:
    """The rules of all groups of an interface in one direction; what matches one may pass."""
    for group in eni.groups or ():
        for rule in view.rules(token, group):
            if words := rule_words(view, rule, peer):
                yield f"{words} return"


def rule_words(view: View, rule: Json, peer: str) -> str:
    """What a rule matches, as nft(8) says it; empty for a rule that matches nothing of IPv4."""
    words = []
    if rule.get("referencedSecurityGroupId"):
        members = view.members(str(rule["referencedSecurityGroupId"]))
        if not members:
            return ""
        words.append(f"ip {peer} {{ {', '.join(sorted(members))} }}")
    elif rule.get("cidrIpv4"):
        words.append(f"ip {peer} {rule['cidrIpv4']}" if rule["cidrIpv4"] != "0.0.0.0/0" else "meta nfproto ipv4")
    else:
        return ""
    protocol = _PROTOCOLS.get(str(rule["ipProtocol"]), str(rule["ipProtocol"]))
    if protocol == "-1":
        return " ".join(words)
    if protocol in ("tcp", "udp"):
        words.append(f"{protocol} dport {int(rule['fromPort'])}-{int(rule['toPort'])}")
    else:
        words.append(f"meta l4proto {protocol}")
    return " ".join(words)


def forget_item(site: Site, item: Item) -> None:
    """Unplug every interface of an item from its VPC."""
    for eni in enis_of(item):
        for vpc in site.store.items(VPC):
            view = View(site.store.items(), vpc.id)
            if eni.subnet in view.subnets and eni.device:
                unplug_eni(site, view, eni)
