"""A resource graph as text: a tree with types and names, and counts by type."""

from collections.abc import Mapping

from infra.graph import STACK_TYPE, Graph, Node


def tree(graph: Graph, marks: Mapping[str, str] | None = None) -> str:
    """The tree, then one line `count x type` each, then the totals.

    Args:
        marks: by URN, what stands before a resource, such as `+` for one that will be created.
    """
    lines: list[str] = []
    for root in graph.nodes:
        if root.parent is None or root.parent not in graph.by_urn:
            lines += _branch(graph, root, marks or {}, "", "")
    lines += ["", *summary(graph)]
    return "\n".join(lines) + "\n"


def summary(graph: Graph) -> list[str]:
    """Lines `count x type`, and a last one with the totals."""
    counts = graph.counts()
    width = max((len(str(count)) for count in counts.values()), default=1)
    lines = [f"{count:>{width}} x {type_}" for type_, count in counts.items()]
    nodes = [node for node in graph.nodes if node.type != STACK_TYPE]
    custom = sum(node.custom for node in nodes)
    return [*lines, f"resources: {custom}, components: {len(nodes) - custom}, types: {len(counts)}"]


def _branch(graph: Graph, node: Node, marks: Mapping[str, str], lead: str, below: str) -> list[str]:
    children = graph.children(node.urn)
    mark = f"{marks[node.urn]} " if marks.get(node.urn) else ""
    lines = [f"{lead}{mark}{node.type}  {node.name}{'  [protected]' if node.protect else ''}"]
    for index, child in enumerate(children):
        last = index == len(children) - 1
        deeper = below + ("   " if last else "│  ")
        lines += _branch(graph, child, marks, below + ("└─ " if last else "├─ "), deeper)
    return lines
