"""Making namespaces, links and rules out of the plan, and changing them in place; everything may be run again.

The caller holds the run's lock. A command that fails raises LabError; the node's record then still says it is not
ready, and the next attempt clears it and starts over.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from infra.lab import conntrack
from infra.lab.netns import Place
from infra.lab.nft import FIREWALL_TABLE
from infra.lab.plan import Port, Space, bridge_name, namespace, switch_namespace

# Marks the routes put in by the lab's own hand (rtnetlink(7), rtm_protocol), so that they can be told apart.
ROUTE_PROTOCOL = 201
_SYSCTL = "/proc/sys/net"
_TOLERANT = "2> /dev/null || true"
_NO_IPV6 = f"for name in all default; do f={_SYSCTL}/ipv6/conf/$name/disable_ipv6; [ ! -e $f ] || echo 1 > $f; done"


def heredoc(command: str, lines: Iterable[str], *, tail: str = "") -> str:
    """Return shell text that feeds lines to a command; the tail follows it on its own line."""
    body = "\n".join(lines)
    return f"{command} <<'LAB' {tail}\n{body}\nLAB"


def ensure_switch(place: Place, run: str, existing: set[str]) -> bool:
    """Make the namespace of the bridges; False if it is there already."""
    switch = switch_namespace(run)
    if switch in existing:
        return False
    place.batch([f"netns add {switch}"])
    place.scripts({switch: f"{_NO_IPV6}\nip link set lo up"})
    return True


def add_bridges(place: Place, run: str, segments: Sequence[str]) -> None:
    """Make the bridges of segments, unless they are there."""
    lines = []
    for segment in segments:
        bridge = bridge_name(segment)
        lines.append(
            f"ip link show {bridge} > /dev/null 2>&1 || "
            f"ip link add {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
        )
        lines.append(f"ip link set {bridge} up")
    if lines:
        place.scripts({switch_namespace(run): "\n".join(lines)})


def remove_bridge(place: Place, run: str, segment: str) -> None:
    """Remove a segment's bridge, if it is there."""
    place.scripts({switch_namespace(run): f"ip link del {bridge_name(segment)} 2> /dev/null || true"})


def add_spaces(place: Place, run: str, spaces: Sequence[Space], existing: set[str]) -> None:
    """Make nodes' namespaces (where they are not there yet) with interfaces, addresses, routes and rules."""
    switch = switch_namespace(run)
    names = [namespace(run, space.node) for space in spaces]
    lines = [f"netns add {name}" for name in names if name not in existing]
    for space in spaces:
        lines += [line for port in space.ports if (line := _link_line(run, switch, port))]
    place.batch(lines)
    scripts = {namespace(run, space.node): space_script(space) for space in spaces}
    plugs = [
        line
        for space in spaces
        for port in space.ports
        if port.link is not None
        for line in (f"link set {port.switch_end} master {bridge_name(port.link.segment)} up",)
    ]
    scripts[switch] = heredoc("ip -batch -", plugs)
    place.scripts(scripts)


def _link_line(run: str, switch: str, port: Port) -> str | None:
    here = f"link add {port.ifname} netns {namespace(run, port.node)} address {port.mac}"
    if port.link is not None:
        mtu = port.link.mtu
        return f"{here} mtu {mtu} type veth peer name {port.switch_end} netns {switch} mtu {mtu}"
    if port.peer is not None:
        return f"{here} type veth peer name {port.peer[1]} netns {namespace(run, port.peer[0])}"
    return None  # the far end of another port's pair


def space_script(space: Space) -> str:
    """Return the shell script that configures a namespace whose interfaces are there."""
    lines = ["link set lo up"]
    for port in space.ports:
        lines += [f"addr add {address} dev {port.ifname}{_no_dad(address)}" for address in port.addresses]
        lines.append(f"link set {port.ifname} up")
    if space.gateway is not None:
        lines.append(f"route add default via {space.gateway}")
    parts = [heredoc("ip -batch -", lines)]
    if not any(":" in address for port in space.ports for address in port.addresses):
        parts.insert(0, _NO_IPV6)
    # Reverse-path checks would drop what the lab's asymmetric cases send on purpose.
    parts += [f"for f in {_SYSCTL}/ipv4/conf/*/rp_filter; do echo 0 > $f; done"]
    parts += [f"echo 0 2147483647 > {_SYSCTL}/ipv4/ping_group_range 2> /dev/null || true"]
    if space.forwards:
        parts += [
            f"for f in {_SYSCTL}/ipv4/conf/*/send_redirects; do echo 0 > $f; done",
            f"echo 1 > {_SYSCTL}/ipv4/ip_forward",
        ]
    return "\n".join([*parts, *rules_script(space)])


def _no_dad(address: str) -> str:
    return " nodad" if ":" in address else ""


def rules_script(space: Space) -> list[str]:
    """Return the shell lines that put in a namespace's NAT or firewall in place of an earlier one; none if plain."""
    if space.ruleset is None:
        return []
    rules = heredoc("nft -f -", space.ruleset.splitlines())
    if space.udp_timeout_s is None:
        return [rules]
    timeouts = [
        f"echo {space.udp_timeout_s} > {_SYSCTL}/netfilter/nf_conntrack_{name}"
        for name in ("udp_timeout", "udp_timeout_stream")
    ]
    return [rules, *timeouts]


def reload_rules(place: Place, run: str, spaces: Sequence[Space]) -> None:
    """Put in namespaces' NATs anew; every mapping and connection through them is forgotten."""
    place.scripts({namespace(run, space.node): "\n".join(rules_script(space)) for space in spaces})
    for space in spaces:
        place.run([*place.quick(namespace(run, space.node)), sys.executable, "-ISs", conntrack.__file__])


def clear_spaces(place: Place, run: str, spaces: Sequence[Space], existing: set[str], *, namespaces: bool) -> None:
    """Remove nodes' links, and their namespaces too if asked; what is not there is passed over.

    Links go first and by name: the kernel takes its time over a deleted namespace, and a rebuilt one would meet the
    old ends.
    """
    switch = switch_namespace(run)
    if switch in existing:
        names = [f"link del {port.switch_end}" for space in spaces for port in space.ports if port.link is not None]
        place.scripts({switch: heredoc("ip -force -batch -", names, tail=_TOLERANT)})
    present = [name for space in spaces if (name := namespace(run, space.node)) in existing]
    if namespaces:
        place.batch([f"netns del {name}" for name in present])
        existing.difference_update(present)
    else:
        devices = {namespace(run, space.node): [port.ifname for port in space.ports] for space in spaces}
        scripts = {
            name: f"nft delete table {FIREWALL_TABLE} {_TOLERANT}\n"
            + heredoc("ip -force -batch -", [f"link del {device}" for device in devices[name]], tail=_TOLERANT)
            for name in present
        }
        place.scripts(scripts)


def sync_routes(place: Place, run: str, changes: Mapping[str, tuple[list[str], list[str]]]) -> None:
    """Bring the lab's own routes of nodes from what they were to what they shall be.

    Args:
        place: where the namespaces are.
        run: name of the run.
        changes: node -> (routes before, routes after), each as in `172.21.0.0/24 via 172.20.0.21`.
    """
    scripts = {}
    for node, (before, after) in changes.items():
        if before != after:
            gone = [f"ip route del {route} proto {ROUTE_PROTOCOL} || true" for route in before if route not in after]
            new = [f"ip route replace {route} proto {ROUTE_PROTOCOL}" for route in after]
            scripts[namespace(run, node)] = "\n".join([*gone, *new])
    place.scripts(scripts)


def spec_without(spec: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return a copy of builtins without some keys, at every depth: what is left decides whether links are rebuilt."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(item) for key, item in value.items() if key not in names}
        if isinstance(value, list | tuple):
            return [strip(item) for item in value]
        return value

    stripped: dict[str, Any] = strip(spec)
    return stripped
