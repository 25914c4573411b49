"""The nftables rules of one NAT, as text made from its behaviour; and those of a host's firewall.

Conntrack alone gives neither an endpoint-independent mapping nor RFC 4787 filtering, so four tables are kept beside it
(each entry lives `udp_timeout_s` from the last packet sent from inside):

    mapping    internal endpoint (and, as the mapping depends on them, remote address and port) -> external port
    reverse    external port -> internal endpoint
    used       external ports taken, whoever took them
    contacted  remote (and port, as the filtering depends on it) . internal endpoint

    out   nat postrouting: the mapping's port if there is one, else a new port by the allocation rule;
          then, after translation, `record` writes all four tables from what really left.
    in    nat prerouting: `reverse` gives the internal endpoint; after translation, `filter_in` drops what was not
          contacted. A packet dropped there leaves no conntrack entry, and neither does an unsolicited one that reaches
          the router itself (`input` drops it): such an entry would take the port and silently turn the NAT symmetric.

Source: RFC 4787 sections 4 to 6; RFC 5382 for TCP, RFC 5508 for ICMP (conntrack translates both).
"""

import ipaddress
from collections.abc import Sequence
from typing import Final

from infra.lab.nat import Filtering, Mapping, NatBehavior, PortAllocation

# Internal endpoint and remote endpoint as the inside host sees them, whichever side spoke first; named after the
# direction in which conntrack met the flow.
_INTERNAL = {side: f"ct {side} ip saddr . ct {side} proto-src" for side in ("original", "reply")}
_REMOTE = {side: (f"ct {side} ip daddr", f"ct {side} proto-dst") for side in ("original", "reply")}
_TABLE_SIZE = 65_536
# The first port and the count of sequential ports; after the last comes the first again.
# An ordinary user's netlink message holds 200 KiB, hence no more.
_SEQUENCE = (49_152, 2048)


FIREWALL_TABLE: Final = "inet firewall"


def firewall_ruleset() -> str:
    """Return the ruleset of a host's stateful firewall, for IPv4 and IPv6: what is new from outside is dropped.

    ICMPv6 passes, as neighbour discovery is part of it (RFC 4890 section 4.4.1), and so does ICMP.
    """
    rules = (
        'iifname "lo" accept',
        "ct state established,related accept",
        "meta l4proto { icmp, icmpv6 } accept",
        "counter",
    )
    chain = _chain("input", "filter", "input", "0", rules, policy="drop")
    return f"table {FIREWALL_TABLE}\ndelete table {FIREWALL_TABLE}\ntable {FIREWALL_TABLE} {{\n{chain}\n}}\n"


def nat_ruleset(nat: NatBehavior, *, inside: Sequence[str], outside: str, external: str) -> str:
    """Return the ruleset for `nft -f`; it replaces an earlier one at once, forgetting its tables.

    Args:
        nat: the behaviour.
        inside: names of the interfaces towards the LANs.
        outside: name of the interface towards the world.
        external: the public IPv4 address, without prefix.
    """
    external = str(ipaddress.IPv4Address(external))
    lan = "{ " + ", ".join(f'"{name}"' for name in inside) + " }"
    parts = (
        *_tables(nat),
        *([_sequence(external)] if nat.port_allocation is PortAllocation.SEQUENTIAL else []),
        _chain("prerouting", "nat", "prerouting", "dstnat", _inbound(nat, lan, outside, external)),
        _chain("postrouting", "nat", "postrouting", "srcnat", _outbound(nat, lan, outside, external)),
        # Between source NAT (100) and conntrack's confirmation (last), where packets bear their final addresses.
        _chain("translated", "filter", "postrouting", "150", [*_record(nat, lan), *_filter_in(nat, lan)]),
        _chain("forward", "filter", "forward", "0", _forward(nat, outside), policy="drop"),
        _chain("input", "filter", "input", "0", _input(lan, outside, external)),
    )
    body = "\n".join(parts)
    # Naming the table first makes the delete succeed on the first load too; the file is one transaction.
    return f"table ip nat\ndelete table ip nat\ntable ip nat {{\n{body}\n}}\n"


def _chain(name: str, kind: str, hook: str, priority: str, rules: Sequence[str], *, policy: str = "accept") -> str:
    head = f"    type {kind} hook {hook} priority {priority}; policy {policy};"
    return "\n".join((f"  chain {name} {{", head, *(f"    {rule}" for rule in rules), "  }"))


def _key(mapping: Mapping, side: str) -> str:
    address, port = _REMOTE[side]
    parts = {
        Mapping.ENDPOINT_INDEPENDENT: (),
        Mapping.ADDRESS_DEPENDENT: (address,),
        Mapping.ADDRESS_AND_PORT_DEPENDENT: (address, port),
    }[mapping]
    return " . ".join((_INTERNAL[side], *parts))


def _key_type(mapping: Mapping) -> str:
    parts = {
        Mapping.ENDPOINT_INDEPENDENT: (),
        Mapping.ADDRESS_DEPENDENT: ("ipv4_addr",),
        Mapping.ADDRESS_AND_PORT_DEPENDENT: ("ipv4_addr", "inet_service"),
    }[mapping]
    return " . ".join(("ipv4_addr . inet_service", *parts))


def _tables(nat: NatBehavior) -> list[str]:
    def table(kind: str, name: str, types: str) -> str:
        limits = f"flags dynamic,timeout; timeout {nat.udp_timeout_s}s; size {_TABLE_SIZE};"
        return f"  {kind} {name} {{ type {types}; {limits} }}"

    tables = [
        table("map", "mapping", f"{_key_type(nat.mapping)} : inet_service"),
        table("map", "reverse", "inet_service : ipv4_addr . inet_service"),
        table("set", "used", "inet_service"),
    ]
    if nat.filtering is Filtering.ADDRESS_DEPENDENT:
        tables.append(table("set", "contacted", "ipv4_addr . ipv4_addr . inet_service"))
    if nat.filtering is Filtering.ADDRESS_AND_PORT_DEPENDENT:
        tables.append(table("set", "contacted", "ipv4_addr . inet_service . ipv4_addr . inet_service"))
    return tables


def _inbound(nat: NatBehavior, lan: str, outside: str, external: str) -> list[str]:
    rules = [f'iifname "{outside}" ip daddr {external} meta l4proto udp dnat ip to udp dport map @reverse']
    if nat.hairpin:
        rules.append(f"iifname {lan} ip daddr {external} meta l4proto udp dnat ip to udp dport map @reverse")
    return rules


def _outbound(nat: NatBehavior, lan: str, outside: str, external: str) -> list[str]:
    anywhere = f"snat ip to {external}:1024-65535 fully-random"
    fresh = {
        PortAllocation.PRESERVING: [f"udp sport != @used snat ip to {external}", anywhere],
        PortAllocation.RANDOM: [anywhere],
        PortAllocation.SEQUENTIAL: ["jump sequence"],
    }[nat.port_allocation]
    ways = [f'oifname "{outside}"']
    if nat.hairpin:
        ways.append(f"iifname {lan} oifname {lan} ct status dnat")
    rules = []
    for way in ways:
        udp = f"{way} meta l4proto udp"
        rules.append(f"{udp} snat ip to {external} : {_key(nat.mapping, 'original')} map @mapping")
        rules += [f"{udp} {rule}" for rule in fresh]
    if nat.port_allocation is not PortAllocation.PRESERVING:
        rules.append(f'oifname "{outside}" meta l4proto tcp {fresh[-1]}')
    rules.append(f'oifname "{outside}" snat ip to {external}')
    return rules


def _sequence(external: str) -> str:
    # A number made by numgen is in host byte order and goes into the port as it is (49152 would come out as 192 on a
    # little-endian machine), so it is only the index of a table.
    first, count = _SEQUENCE
    ports = ", ".join(f"{index} : {first + index}" for index in range(count))
    rule = f"meta l4proto {{ tcp, udp }} snat ip to {external} : numgen inc mod {count} map {{ {ports} }}"
    return f"  chain sequence {{\n    {rule}\n  }}"


def _record(nat: NatBehavior, lan: str) -> list[str]:
    rules = []
    for side in ("original", "reply"):
        udp = f"iifname {lan} meta l4proto udp ct status snat,dnat ct direction {side}"
        address, port = _REMOTE[side]
        rules += [
            f"{udp} update @mapping {{ {_key(nat.mapping, side)} : udp sport }}",
            f"{udp} update @reverse {{ udp sport : {_INTERNAL[side]} }}",
            f"{udp} update @used {{ udp sport }}",
        ]
        if nat.filtering is Filtering.ADDRESS_DEPENDENT:
            rules.append(f"{udp} update @contacted {{ {address} . {_INTERNAL[side]} }}")
        if nat.filtering is Filtering.ADDRESS_AND_PORT_DEPENDENT:
            rules.append(f"{udp} update @contacted {{ {address} . {port} . {_INTERNAL[side]} }}")
    return rules


def _filter_in(nat: NatBehavior, lan: str) -> list[str]:
    key = {
        Filtering.ENDPOINT_INDEPENDENT: None,
        Filtering.ADDRESS_DEPENDENT: "ip saddr . ip daddr . udp dport",
        Filtering.ADDRESS_AND_PORT_DEPENDENT: "ip saddr . udp sport . ip daddr . udp dport",
    }[nat.filtering]
    if key is None:
        return []
    return [f"oifname {lan} meta l4proto udp ct status dnat ct direction original {key} != @contacted counter drop"]


def _forward(nat: NatBehavior, outside: str) -> list[str]:
    blocked = ["meta l4proto udp counter drop"] if nat.udp_blocked else []
    return [
        *blocked,
        "ct state established,related accept",
        "ct state invalid counter drop",
        f'iifname != "{outside}" accept',
        "ct status dnat accept",
        "counter",
    ]


def _input(lan: str, outside: str, external: str) -> list[str]:
    return [
        "ct state established,related accept",
        f'iifname "{outside}" counter drop',
        # What is still addressed to the public address here did not hairpin.
        f"iifname {lan} ip daddr {external} meta l4proto udp counter drop",
    ]
