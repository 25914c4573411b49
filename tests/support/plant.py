"""Mistakes planted into the graphs of the real stacks: a resource is changed, or one is added."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

from infra.graph import Graph, Node

Inputs = dict[str, Any]


def changed(graph: Graph, token: str, change: Callable[[Inputs], object], name: str = "") -> Graph:
    """Return the graph with the inputs of the first node of a type (and name part) changed in place by `change`."""
    found = next((node for node in graph.of_type(token) if name in node.name), None)
    assert found is not None, f"{graph.stack} has no {token} named like {name!r}: {sorted(graph.counts())}"
    inputs = deepcopy(found.inputs)
    change(inputs)
    assert inputs != found.inputs, f"nothing was planted into {found.name}"
    node = replace(found, inputs=inputs)
    return replace(graph, nodes=tuple(node if each is found else each for each in graph.nodes))


def without(graph: Graph, token: str, name: str = "") -> Graph:
    """Return the graph without the nodes of a type (and name part)."""
    kept = tuple(node for node in graph.nodes if not (node.type == token and name in node.name))
    assert len(kept) < len(graph.nodes), f"{graph.stack} has no {token} named like {name!r}"
    return replace(graph, nodes=kept)


def added(graph: Graph, token: str, inputs: Inputs, **more: Any) -> Graph:
    """Return the graph with one resource more."""
    urn = f"urn:pulumi:{graph.stack}::ztna::{token}::planted"
    return replace(graph, nodes=(*graph.nodes, Node(urn=urn, type=token, name="planted", inputs=inputs, **more)))


def lone(token: str, inputs: Inputs, **more: Any) -> Graph:
    """Return a graph of one resource."""
    return added(Graph(stack="test", nodes=()), token, inputs, **more)
