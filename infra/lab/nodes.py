"""Bringing the nodes of a run's record to what is asked for; the caller holds the run's lock and saves the record.

A node is written down as not ready before anything is made of it, and as ready when all of it stands. So whatever
interrupts the work, the next attempt knows what to clear.
"""

import ipaddress
from collections.abc import Sequence

from infra.lab import build, shaping, state
from infra.lab.errors import LabError
from infra.lab.netns import Place
from infra.lab.plan import Port, Space, host_spaces, namespace, router_spaces
from infra.lab.process import stop_all
from infra.lab.rungs import Rung
from infra.lab.state import NodeRecord, RunRecord
from infra.lab.topology import Host, Link, Router, Segment

Node = Host | Router
_KINDS: dict[str, type[Host] | type[Router]] = {"host": Host, "router": Router}


def ensure_segments(record: RunRecord, place: Place, segments: Sequence[Segment]) -> None:
    """Make the bridges of segments, unless they are there."""
    record.segments.update({segment.name: segment.to_spec() for segment in segments})
    if record.rung is Rung.LOOPBACK:
        return
    names = [segment.name for segment in segments]
    if build.ensure_switch(place, record.run, place.namespaces()):
        # Whatever was plugged into an earlier switch hangs in the air now.
        for node in record.nodes.values():
            node.ready = False
        names = list(record.segments)
    build.add_bridges(place, record.run, names)


def remove_segment(record: RunRecord, place: Place, name: str) -> None:
    """Remove a segment, if it is there.

    Raises:
        LabError: something is still plugged into it.
    """
    if name not in record.segments:
        return
    users = [node.name for node in all_nodes(record) if name in {link.segment for link in node_links(node)}]
    if users:
        raise LabError(f"segment {name!r} is still in use by {', '.join(users)}: remove these first")
    if record.rung is not Rung.LOOPBACK:
        build.remove_bridge(place, record.run, name)
    del record.segments[name]


def ensure_nodes(record: RunRecord, place: Place, nodes: Sequence[Node]) -> None:
    """Make nodes, or change them in place."""
    for node in nodes:
        _check_segments(record, node)
    if record.rung is Rung.LOOPBACK:
        for node in nodes:
            record.nodes[node.name] = NodeRecord(_kind(node), node.to_spec(), ready=True)
        _check_loopback(record)
        return
    existing = place.namespaces()
    fresh = [node for node in nodes if not _update_in_place(record, place, node, existing)]
    for node in fresh:
        record.nodes[node.name] = NodeRecord(_kind(node), node.to_spec())
    state.save(record)
    build.add_spaces(place, record.run, [space for node in fresh for space in spaces_of(node)], existing)
    for node in fresh:
        record.nodes[node.name].ready = True
    _sync(record, place)


def remove_node(record: RunRecord, place: Place, name: str) -> None:
    """Remove a node and stop its processes, if it is there."""
    old = record.nodes.get(name)
    if old is None:
        return
    if record.rung is Rung.LOOPBACK:
        _stop_processes(record, name)
    else:
        _clear(record, place, node_of(old), place.namespaces(), namespaces=True)
    record.processes = {key: process for key, process in record.processes.items() if process.host != name}
    del record.nodes[name]
    _sync(record, place)


def _update_in_place(record: RunRecord, place: Place, node: Node, existing: set[str]) -> bool:
    """Return True where nothing is left to build; otherwise what stood in the way is cleared."""
    old = record.nodes.get(node.name)
    if old is None:
        if _namespaces(record, node) & existing:  # left by a run whose record was lost
            _clear(record, place, node, existing, namespaces=True)
        return False
    was = node_of(old)
    whole = old.ready and _namespaces(record, was) <= existing
    if whole and was == node:
        return True
    if whole and _links_alike(was, node):
        old.ready = False
        old.spec = node.to_spec()
        state.save(record)
        pairs = zip(spaces_of(was), spaces_of(node), strict=True)
        build.reload_rules(place, record.run, [new for before, new in pairs if before.ruleset != new.ruleset])
        old.ready = True
        return True
    keep = whole and old.kind == "host" and isinstance(node, Host)
    _clear(record, place, was, existing, namespaces=not keep)
    return False


def _clear(record: RunRecord, place: Place, node: Node, existing: set[str], *, namespaces: bool) -> None:
    going = {port.id for space in spaces_of(node) for port in space.ports}
    staying = {name: port for name, port in linked_ports(record).items() if name not in going}
    shaping.release(record, place, sorted(going), staying)
    if namespaces:
        # A daemon would live on in a namespace without a name.
        _stop_processes(record, node.name)
    build.clear_spaces(place, record.run, spaces_of(node), existing, namespaces=namespaces)


def _stop_processes(record: RunRecord, host: str) -> None:
    stop_all([(item.pid, item.start_time) for item in record.processes.values() if item.host == host and item.pid], 2.0)


def _sync(record: RunRecord, place: Place) -> None:
    """Bring what depends on several nodes up to date: routes towards plain routers, and impaired links."""
    if record.rung is Rung.LOOPBACK:
        return
    wanted = _lab_routes(record)
    changes = {}
    for name, routes in wanted.items():
        node = record.nodes[name]
        # Outermost level first: that is the one on the outside segment.
        changes[spaces_of(node_of(node))[0].node] = (node.routes, routes)
        node.routes = routes
    build.sync_routes(place, record.run, changes)
    shaping.sync(record, place, linked_ports(record))


def _lab_routes(record: RunRecord) -> dict[str, list[str]]:
    """Routes that each node needs towards the LANs behind plain routers on its segments."""
    nodes = [node_of(node) for node in record.nodes.values() if node.ready]
    plain = [node for node in nodes if isinstance(node, Router) and not node.nat]
    routes: dict[str, list[str]] = {}
    for node in nodes:
        segments = {link.segment for link in (node.links if isinstance(node, Host) else (node.outside,))}
        routes[node.name] = [
            f"{link.network} via {router.outside.ip}"
            for router in plain
            if router.name != node.name and router.outside.segment in segments
            for link in router.inside
        ]
    return routes


def _namespaces(record: RunRecord, node: Node) -> set[str]:
    return {namespace(record.run, space.node) for space in spaces_of(node)}


def linked_ports(record: RunRecord) -> dict[str, Port]:
    """Every port of the run that is plugged into a segment, by id."""
    spaces = [space for node in record.nodes.values() if node.ready for space in spaces_of(node_of(node))]
    return {port.id: port for space in spaces for port in space.ports if port.link is not None}


def _links_alike(was: Node, node: Node) -> bool:
    """Whether two versions of a node differ in nothing but NAT behaviour and impairments."""
    if type(was) is not type(node) or len(spaces_of(was)) != len(spaces_of(node)):
        return False
    loose = ("up", "down", "nat")
    same = build.spec_without(was.to_spec(), *loose) == build.spec_without(node.to_spec(), *loose)
    both_nat = not isinstance(was, Router) or not isinstance(node, Router) or bool(was.nat) == bool(node.nat)
    return same and both_nat


def _check_segments(record: RunRecord, node: Node) -> None:
    for link in node_links(node):
        if link.segment not in record.segments:
            raise LabError(f"{node.name}: segment {link.segment!r} is not there yet: ensure it first")


def _check_loopback(record: RunRecord) -> None:
    seen: dict[str, str] = {}
    for node in all_nodes(record):
        if not isinstance(node, Host):
            continue
        for address in (*(link.address for link in node.links), *node.addresses):
            local = loopback_address(address)
            if seen.setdefault(local, node.name) != node.name:
                raise LabError(f"on the loopback rung {node.name} and {seen[local]} would share the address {local}")


def loopback_address(address: str) -> str:
    """Return the 127.x.y.z that stands for an address on the loopback rung: its last three octets are kept."""
    ip = ipaddress.IPv4Address(address.split("/")[0])
    return str(ipaddress.IPv4Address((127 << 24) | (int(ip) & 0xFFFFFF)))


def all_nodes(record: RunRecord) -> list[Node]:
    """Every node of a run, as it was asked for."""
    return [node_of(node) for node in record.nodes.values()]


def node_of(record: NodeRecord) -> Node:
    """The node that a record describes."""
    return _KINDS[record.kind].from_spec(record.spec)


def node_links(node: Node) -> tuple[Link, ...]:
    """The links of a node."""
    return node.links if isinstance(node, Host) else (*node.inside, node.outside)


def spaces_of(node: Node) -> tuple[Space, ...]:
    """The namespaces of a node, outermost first."""
    return host_spaces(node) if isinstance(node, Host) else router_spaces(node)


def _kind(node: Node) -> str:
    return "host" if isinstance(node, Host) else "router"
