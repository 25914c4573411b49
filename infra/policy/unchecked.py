"""What the rules could not look at because only a deployment can tell it."""

from typing import Final

from infra.graph import UNKNOWN, Graph
from infra.policy.values import get

WATCHED: Final = ("userData", "userDataBase64", "containerDefinitions", "policy", "inboundRules", "ingress")
"""Inputs that rules read as a whole."""


def unchecked(graph: Graph) -> tuple[str, ...]:
    """Return `TYPE NAME: INPUT` of every input that a rule reads and that is unknown as a whole."""
    return tuple(
        f"{node.type.rpartition(':')[2]} {node.name}: {key}"
        for node in graph.nodes
        for key in WATCHED
        if get(node, key) == UNKNOWN
    )
