"""A stack's components as a Mermaid flowchart: a box per component, an arrow per dependency between two."""

import re
from collections import Counter

from infra.graph import STACK_TYPE, Graph, Node


def flowchart(graph: Graph) -> str:
    """The text between the fences of a ```mermaid block, without them; the same graph gives the same text.

    A box stands for what hangs directly below the stack, with everything inside it; it lists its resources by kind.
    An arrow points from what is needed to what needs it.
    """
    owner = {node.urn: _owner(graph, node) for node in graph.nodes if node.type != STACK_TYPE}
    boxes = list(dict.fromkeys(owner.values()))
    lines = ["flowchart LR"]
    for urn in boxes:
        inside = [node for node in graph.nodes if owner.get(node.urn) == urn and node.custom]
        lines.append(f'    {_id(graph.by_urn[urn])}["{_label(graph.by_urn[urn], inside)}"]')
    arrows = {
        (owner[needed], owner[node.urn])
        for node in graph.nodes
        if node.urn in owner
        for needed in node.dependencies
        if needed in owner and owner[needed] != owner[node.urn]
    }
    for source, target in sorted(arrows, key=lambda pair: (boxes.index(pair[0]), boxes.index(pair[1]))):
        lines.append(f"    {_id(graph.by_urn[source])} --> {_id(graph.by_urn[target])}")
    return "\n".join(lines) + "\n"


def _owner(graph: Graph, node: Node) -> str:
    """URN of the node's ancestor (or itself) directly below the stack."""
    while node.parent in graph.by_urn and graph.by_urn[node.parent].type != STACK_TYPE:
        node = graph.by_urn[node.parent]
    return node.urn


def _id(node: Node) -> str:
    """An identifier Mermaid takes; the kind tells two components of one name apart."""
    return re.sub(r"\W+", "_", f"{_kind(node)}_{node.name}")


def _kind(node: Node) -> str:
    return node.type.rsplit(":", 1)[-1]


def _label(box: Node, inside: list[Node]) -> str:
    kinds = Counter(_kind(node) for node in inside)
    held = [f"{count} x {kind}" if count > 1 else kind for kind, count in sorted(kinds.items())]
    if box.custom:
        return f"{_kind(box)}<br/>{box.name}"
    return "<br/>".join((f"<b>{_kind(box)} {box.name}</b>", *held))
