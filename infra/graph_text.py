"""A resource graph as text: a tree with types and names, and counts by type."""

from infra.graph import STACK_TYPE, Graph, Node


def tree(graph: Graph) -> str:
    """The tree, then one line `count x type` each, then the totals."""
    lines: list[str] = []
    for root in graph.nodes:
        if root.parent is None or root.parent not in graph.by_urn:
            lines += _branch(graph, root, "", "")
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


def _branch(graph: Graph, node: Node, lead: str, below: str) -> list[str]:
    children = graph.children(node.urn)
    lines = [f"{lead}{node.type}  {node.name}{'  [protected]' if node.protect else ''}"]
    for index, child in enumerate(children):
        last = index == len(children) - 1
        lines += _branch(graph, child, below + ("└─ " if last else "├─ "), below + ("   " if last else "│  "))
    return lines
