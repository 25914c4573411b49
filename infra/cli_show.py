"""What a stack looks like to its user: tables of places and services, and how to use them."""

from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.table import Table

from infra.outputs import AgentOutput, NatOutput, Place, ServiceOutput, StackOutputs
from infra.ports import HTTP
from infra.wiring import forward_key

PLAIN_WIDTH = 120
"""Columns where there is no terminal to ask."""


def table_console() -> Console:
    """Return a console on standard output, as wide as the terminal, or wide enough for our tables."""
    console = Console()
    return console if console.is_terminal else Console(width=PLAIN_WIDTH)


def show_stack(outputs: StackOutputs, console: Console) -> None:
    """Print what was deployed and how to use it."""
    console.print(f"\nStack [bold]{outputs.stack}[/bold], run {outputs.run}, rung {outputs.rung}")
    console.print(places_table(outputs))
    console.print(services_table(outputs))
    for path in outputs.expected_paths:
        console.print(f"Path {path.agent} - {path.connector}: {path.path} ({path.reason})", highlight=False)
    for line in prediction_lines(outputs):
        console.print(line, highlight=False)
    for limit in outputs.limits:
        console.print(f"Not shown here: {limit}", style="yellow", highlight=False, soft_wrap=True)
    console.print("\nUse it:")
    for line in usage_lines(outputs):
        console.print(f"  {line}", highlight=False, soft_wrap=True)


def places_table(outputs: StackOutputs) -> Table:
    """Return the table of places, addresses and NATs."""
    table = _table("Places", ("place", "role", "address", "NAT in front", "public address"))
    for name, place in in_order(outputs.places):
        table.add_row(name, place.kind, place.address, nat_words(place.nat), _public(place))
    return table


def in_order(places: Mapping[str, Place]) -> list[tuple[str, Place]]:
    """Return places from the intermediate outwards (engines hand mappings back in any order)."""
    order = ("intermediate", "connector", "agent", "backend")
    rank = {kind: index for index, kind in enumerate(order)}
    return sorted(places.items(), key=lambda item: (rank.get(item[1].kind, len(order)), item[0]))


def services_table(outputs: StackOutputs) -> Table:
    """Return the table of services and their virtual addresses."""
    table = _table("Services", ("service", "virtual address", "ports", "backend", "connector"))
    for service in outputs.services:
        table.add_row(service.id, service.virtual_ip, port_words(service), service.backend, service.connector)
    return table


def nat_words(nat: NatOutput | None) -> str:
    """Return a NAT's behaviour in the words of RFC 4787."""
    if nat is None:
        return "-"
    if nat.udp_blocked:
        return f"{nat.name}: blocks UDP"
    levels = f", {nat.levels} levels" if nat.levels > 1 else ""
    return f"{nat.name}{levels}\nmapping {nat.mapping}\nfiltering {nat.filtering}"


def port_words(service: ServiceOutput) -> str:
    """Return a service's ports, for example `udp 9999, tcp 9999, icmp`."""
    return ", ".join(f"{port.protocol} {port.port}" if port.port else port.protocol for port in service.ports)


def prediction_lines(outputs: StackOutputs) -> Iterable[str]:
    """Yield which path a service's traffic can take, one line for peers that fare alike."""
    alike: dict[tuple[str, str, str, str], list[str]] = {}
    for found in outputs.expected_path:
        alike.setdefault((found.service, found.connector, found.path, found.reason), []).append(found.peer_nat)
    for (service, connector, path, reason), nats in alike.items():
        behind = f"for agents behind {', '.join(nats)} ({reason.rstrip('.')})"
        yield f"Path possible to {service} - {connector}: {path} {behind}"


def usage_lines(outputs: StackOutputs) -> Iterable[str]:
    """Yield commands to copy, those that suit the agent's mode."""
    for agent in outputs.agents:
        place = agent.place or agent.name
        before, after = f"ztna exec --stack {outputs.stack} {place} -- ", ""
        if place not in outputs.places:  # a machine of its owner's, which the stack does not reach
            before, after = "", f"   on {agent.name}"
            yield f"ztna profile {agent.name} --stack {outputs.stack} --out {agent.name}"
            yield f"ztna agent --config agent.json{after}, with the files of {agent.name}/"
        for service in outputs.services:
            if service.id in agent.services:
                yield from (f"{before}{command}{after}" for command in _commands(agent, service))
    # These run commands where an agent of the stack is, and read its hosts' files: they are for stacks on this machine.
    if any((agent.place or agent.name) in outputs.places for agent in outputs.agents):
        yield f"ztna verify --stack {outputs.stack}"
        yield f"ztna status --stack {outputs.stack}   ztna logs --stack {outputs.stack} --follow"


def _commands(agent: AgentOutput, service: ServiceOutput) -> Iterable[str]:
    for port in service.ports:
        if port.protocol == "icmp":
            if agent.mode == "tun":
                yield f"ping -c 3 {service.virtual_ip}"
            continue
        target = f"{service.virtual_ip}:{port.port}".removesuffix(f":{HTTP}")
        if agent.mode == "user":
            target = agent.forwards.get(forward_key(service.id, port.protocol, port.port), target)
        if port.protocol == "tcp" and port.port == HTTP:
            yield f"curl http://{target}/get"


def _public(place: Place) -> str:
    if place.nat is not None:
        return place.nat.public_address
    return place.address if place.kind == "intermediate" else "-"


def _table(title: str, columns: Iterable[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
