"""The graph of what a run has registered, in plain JSON values."""

from collections.abc import Iterable
from graphlib import TopologicalSorter
from typing import Any

from infra import graph
from infra.engine import urn as urns
from infra.engine.props import ARCHIVE_SIG, ASSET_SIG, RESOURCE_SIG, SIG, UNKNOWN, Props, is_secret, signature
from infra.engine.state import ResourceState

# The engine's own providers are called so; a program's have names of its choice.
_DEFAULT = "default"


def graph_of(stack: str, states: Iterable[ResourceState], outputs: Props) -> graph.Graph:
    """The graph of registered resources and the stack's outputs."""
    nodes = tuple(
        _node(state)
        for state in in_order(states)
        if not (urns.is_provider(state.type) and urns.name_of(state.urn).startswith(_DEFAULT))
    )
    return graph.Graph(stack=stack, nodes=nodes, outputs={key: plain_value(value) for key, value in outputs.items()})


def in_order(states: Iterable[ResourceState]) -> list[ResourceState]:
    """What others need before them, else by URN: the order of registration differs from run to run."""
    by_urn = {state.urn: state for state in states}
    wanted = {urn: {item for item in state.references() if item in by_urn} for urn, state in by_urn.items()}
    sorter = TopologicalSorter(wanted)
    sorter.prepare()
    ready: list[str] = []
    result: list[ResourceState] = []
    while sorter.is_active():
        ready += sorter.get_ready()
        ready.sort(reverse=True)
        urn = ready.pop()
        result.append(by_urn[urn])
        sorter.done(urn)
    return result


def _node(state: ResourceState) -> graph.Node:
    return graph.Node(
        urn=state.urn,
        type=state.type,
        name=urns.name_of(state.urn),
        parent=state.parent or None,
        custom=state.custom,
        provider=urns.parse_reference(state.provider)[0] if state.provider else "",
        dependencies=tuple(state.dependencies),
        inputs={key: plain_value(value) for key, value in state.inputs.items()},
        protect=state.protect,
    )


def plain_value(value: Any) -> Any:
    """A property value in the graph's form."""
    if isinstance(value, list):
        return [plain_value(item) for item in value]
    if not isinstance(value, dict):
        return graph.UNKNOWN if isinstance(value, str) and value == UNKNOWN else value
    if is_secret(value):
        return {graph.SECRET: plain_value(value["value"])}
    if signature(value) == RESOURCE_SIG:
        return plain_value(value.get("id") or value["urn"])
    if signature(value) in (ASSET_SIG, ARCHIVE_SIG):
        return {graph.ASSET: {key: plain_value(item) for key, item in value.items() if key != SIG}}
    return {key: plain_value(item) for key, item in value.items()}
