"""The nftables ruleset of a connector whose agents' packets the kernel carries, as text. Default deny.

    from the device -> prerouting: an admitted port of a service becomes its backend, nothing else is translated
    -> input or forward: what was translated passes, ICMP echo to a service passes, all else is refused
    -> postrouting: towards a backend on another host the source becomes ours
    to the device: only what answers

Whether an agent may reach a service at all is not decided here: its session drops what is for another one.

The top byte of MARK says "forwarded for this overlay", as in a relay's table: where one of us turned forwarding on, its
guard lets pass only what bears it, so that the host becomes no router for others.
"""

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ztna.io.forward.ruleset import GATEWAY_PREFIX, MARK, MARK_MASK
from ztna.proto.gateway_types import Backend, GatewayService
from ztna.proto.packet import address_text


@dataclass(frozen=True, slots=True)
class Way:
    """One admitted port of a service, `port` None for all, and where it goes."""

    address: str
    protocol: str
    port: int | None
    backend: Backend


def ways(services: Sequence[GatewayService]) -> list[Way]:
    """Every admitted port of every service; the rules of `ztna.proto.gateway_context.ServiceTable.backend`."""
    found: list[Way] = []
    for service in services:
        address = address_text(service.virtual_ip or 0)
        if service.ports:
            found += [Way(address, rule.protocol, rule.port, rule.backend) for rule in service.ports]
        elif service.backend is not None:
            protocols = ("tcp", "udp") if service.protocol == "any" else (service.protocol,)
            found += [Way(address, protocol, None, service.backend) for protocol in protocols]
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class TunRules:
    """What one connector's table depends on.

    Args:
        device: name of the TUN device.
        comment: who made the table, at most 120 bytes.
        ways: what is admitted; what has no entry in `resolved` is refused like what is not admitted.
        resolved: host of a backend -> IPv4 address.
        services: virtual addresses of the device.
        local: backends' addresses of this host, but for the one that its sockets speak to agents with by default
            (see `TunGateway`).
        guarded: whether forwarding was off before us.
    """

    device: str
    comment: str
    ways: Sequence[Way]
    resolved: Mapping[str, str]
    services: Sequence[str]
    local: Sequence[str] = ()
    guarded: bool = False

    @property
    def table(self) -> str:
        """Name of the table, by the device: the kernel gives no name twice."""
        return GATEWAY_PREFIX + "".join(letter if letter.isalnum() else "_" for letter in self.device)

    def text(self) -> str:
        """Input for `nft -f -`: the table anew, whatever was there under its name; connections go on."""
        chains = [self._translate(), self._source(), self._local_source(), _REFUSE, *self._filters()]
        if self.guarded:
            chains.append(_chain(
                "guard", "filter hook forward priority filter - 10",
                [f"meta nfproto ipv4 meta mark & {MARK_MASK:#x} != {MARK:#x} drop"],
            ))  # fmt: skip
        body = "\n".join(chains)
        return (
            f"table inet {self.table} {{\n}}\ndelete table inet {self.table}\n"
            f'table inet {self.table} {{\n  comment "{self.comment}"\n{body}\n}}\n'
        )

    def _translate(self) -> str:
        rules = []
        for way in self.ways:
            host = self.resolved.get(way.backend.host)
            if host is None:
                continue
            port = f"meta l4proto {way.protocol}" if way.port is None else f"{way.protocol} dport {way.port}"
            to = f"{ipaddress.IPv4Address(host)}:{way.backend.port}"
            rules.append(f'iifname "{self.device}" ip daddr {way.address} {port} dnat ip to {to}')
        return _chain("translate", "nat hook prerouting priority dstnat", rules)

    def _source(self) -> str:
        rule = f'oifname != "{self.device}" ct status dnat ct original ip daddr {self._addresses} masquerade'
        return _chain("source", "nat hook postrouting priority srcnat", [rule])

    def _local_source(self) -> str:
        # A socket bound to no address answers with the default one, which would not be taken for the answer.
        rules = [
            f'iifname "{self.device}" ct status dnat ip daddr {address} meta l4proto udp snat ip to {address}'
            for address in self.local
        ]
        return _chain("source_local", "nat hook input priority 100", rules)

    @property
    def _addresses(self) -> str:
        return "{ " + ", ".join(sorted(set(self.services))) + " }"

    def _filters(self) -> list[str]:
        device, marked = f'"{self.device}"', f"meta mark set {MARK:#x} accept"
        echo = f"ip daddr {self._addresses} icmp type echo-request accept"
        arrive = [
            f"iifname {device} ct state established,related accept",
            f"iifname {device} ct status dnat accept",
            f"iifname {device} {echo}",
            f"iifname {device} goto refuse",
        ]
        onward = [
            f"iifname {device} ct status dnat {marked}",
            f"iifname {device} ct state established,related {marked}",
            f"iifname {device} goto refuse",
            f"oifname {device} ct state established,related {marked}",
            f"oifname {device} drop",
            # An answer to an agent whose route is gone must not leave by another way.
            f"ct original ip daddr {self._addresses} ct direction reply drop",
        ]
        leave = [
            f"oifname {device} ct state established,related accept",
            f"oifname {device} drop",
            f'ip saddr {self._addresses} oifname != "lo" drop',
        ]
        return [
            _chain("arrive", "filter hook input priority filter", arrive),
            # Before the guards, which look at the mark.
            _chain("onward", "filter hook forward priority filter - 20", onward),
            _chain("leave", "filter hook output priority filter", leave),
        ]


def _chain(name: str, kind: str, rules: Sequence[str]) -> str:
    head = f"    type {kind}; policy accept;"
    return "\n".join((f"  chain {name} {{", head, *(f"    {rule}" for rule in rules), "  }"))


_REFUSE: Final = """  chain refuse {
    meta l4proto tcp reject with tcp reset
    meta l4proto udp reject with icmp type port-unreachable
    meta l4proto icmp counter drop
    reject with icmp type prot-unreachable
  }"""
