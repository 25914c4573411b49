"""The nftables ruleset of the kernel back end, as text.

    raw prerouting:  to our port and address, not STUN -> destination from the maps, mark, no conntrack
    forward:         the ordinary path of the host's routing
    srcnat + 50:     marked -> our address and port as source

The source is rewritten last: a packet with our own address as its source would be dropped as martian when routed.
Maps are keyed by the sender's address and port; an element exists only for a proven endpoint. `alive` holds our port
for 35 s and is renewed by the process: without it no rule matches, so a relay whose process hangs or died forwards
nothing. (Time-outs of the map elements could do the same, but kernels before 6.12 cannot renew them without losing
their counters.)
"""

import sys
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final

from ztna.io.forward.adopt import Elements

TABLE_PREFIX: Final = "ztna_relay_"
GATEWAY_PREFIX: Final = "ztna_connector_"
MARK: Final = 0x5A000000
MARK_MASK: Final = 0xFF000000
ALIVE_S: Final = 35


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruleset:
    """What one intermediate's table depends on.

    Args:
        host: the address it is bound to, "0.0.0.0" or "::" for all.
        port: its UDP port.
        comment: who made the table, at most 120 bytes.
        guarded: families ("ipv4", "ipv6") for which this process turned forwarding on: there the host must not become
            a router for anything else.
    """

    host: str
    port: int
    comment: str
    guarded: tuple[str, ...] = ()
    elements: Elements = field(default_factory=dict)
    """What the maps begin with."""

    @property
    def table(self) -> str:
        """Name of the table: the port, and the address where it is not the wildcard."""
        return table_name(self.host, self.port)

    @property
    def families(self) -> tuple[str, ...]:
        """Families whose packets can reach the socket; a `::` socket takes IPv4 too."""
        return families_of(self.host)

    @property
    def mark(self) -> int:
        """Mark of packets between the two hooks; the port tells tables of one host apart."""
        return MARK | self.port

    def text(self) -> str:
        """Input for `nft -f -`: the table anew, whatever was there under its name."""
        body = "\n".join([*self._maps(), self._prerouting(), self._postrouting(), *self._guard(), self._redirects()])
        return (
            f"table inet {self.table} {{\n}}\ndelete table inet {self.table}\n"
            f'table inet {self.table} {{\n  comment "{self.comment}"\n{body}\n}}\n'
        )

    def _maps(self) -> list[str]:
        lines = [
            "  set alive { type inet_service; flags timeout; "
            f"elements = {{ {self.port} timeout {ALIVE_S}s }} }}"
        ]  # fmt: skip
        for family in self.families:
            kind, digit = f"{family}_addr", family[-1]
            lines += [
                f"  map host{digit} {{ type {kind} . inet_service : {kind}; counter;{self._begin(f'host{digit}')} }}",
                f"  map port{digit} {{ type {kind} . inet_service : inet_service;{self._begin(f'port{digit}')} }}",
                f"  map until{digit} {{ type {kind} . inet_service : mark;{self._begin(f'until{digit}')} }}",
                f"  map own{digit} {{ type {kind} . inet_service : {kind}; counter;{self._begin(f'own{digit}')} }}",
            ]
        return lines

    def _begin(self, name: str) -> str:
        elements = self.elements.get(name)
        if not elements:
            return ""
        size = 4 if name.endswith("4") else 16

        def shown(data: bytes) -> str:
            if name.startswith("port"):
                return str(int.from_bytes(data[:2], "big"))
            return str(int.from_bytes(data[:4], sys.byteorder) if name.startswith("until") else ip_address(data[:size]))

        entries = (
            f"{ip_address(key[:size])} . {int.from_bytes(key[size : size + 2], 'big')} : {shown(data)}"
            for key, data in elements.items()
        )
        return f" elements = {{ {', '.join(entries)} }}"

    def _prerouting(self) -> str:
        rules = []
        for family in self.families:
            ip, digit = ("ip", "4") if family == "ipv4" else ("ip6", "6")
            key = f"{ip} saddr . udp sport"
            mine = "fib daddr type local" if self.host in ("0.0.0.0", "::") else f"{ip} daddr {self.host}"
            rules.append(
                # 0xc0: the two top bits of a QUIC packet are never both zero, those of STUN always are (RFC 9443).
                f"    meta nfproto {family} udp dport @alive @th,64,8 & 0xc0 != 0 {mine} "
                f"{ip} daddr set {key} map @host{digit} udp dport set {key} map @port{digit} "
                f"meta mark set {self.mark:#x} notrack accept"
            )
        hook = "    type filter hook prerouting priority raw; policy accept;"
        return "\n".join(["  chain arrive {", hook, *rules, "  }"])

    def _postrouting(self) -> str:
        rules = []
        for family in self.families:
            ip, digit = ("ip", "4") if family == "ipv4" else ("ip6", "6")
            rules.append(
                f"    meta mark {self.mark:#x} meta nfproto {family} "
                f"{ip} saddr set {ip} daddr . udp dport map @own{digit} udp sport set {self.port}"
            )
        hook = "    type filter hook postrouting priority srcnat + 50; policy accept;"
        return "\n".join(["  chain leave {", hook, *rules, "  }"])

    def _guard(self) -> list[str]:
        if not self.guarded:
            return []
        rules = [f"    meta nfproto {family} meta mark & {MARK_MASK:#x} != {MARK:#x} drop" for family in self.guarded]
        return ["  chain guard {", "    type filter hook forward priority filter - 10; policy accept;", *rules, "  }"]

    def _redirects(self) -> str:
        # In and out by one interface, the kernel would tell the sender to reach its peer directly, with the address.
        rules = [
            "    icmp type redirect drop" if family == "ipv4" else "    icmpv6 type nd-redirect drop"
            for family in self.families
        ]
        return "\n".join(
            ["  chain redirects {", "    type filter hook output priority filter; policy accept;", *rules, "  }"]
        )


def families_of(host: str) -> tuple[str, ...]:
    """The families that reach a socket bound to `host`: "ipv4", "ipv6" or both."""
    if host == "::":
        return "ipv4", "ipv6"
    return ("ipv6",) if ":" in host else ("ipv4",)


def table_name(host: str, port: int) -> str:
    """Name of the table of a socket; a bound socket excludes another process that would use the same."""
    if host in ("0.0.0.0", "::"):
        return f"{TABLE_PREFIX}{port}"
    return f"{TABLE_PREFIX}{port}_" + host.replace(".", "_").replace(":", "_")
