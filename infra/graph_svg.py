"""A resource graph as SVG: components as boxes, inside and between them layers by dependency from left to right.

Only what is drawn is computed here: a box holds its children in columns, a child's column is one more than the largest
of the siblings it needs (by itself or by anything inside it). Lines go from what is needed to what needs it; what
follows from other lines has none, nor has a resource's provider.
"""

from dataclasses import dataclass, field
from typing import Final
from xml.sax.saxutils import escape, quoteattr

from infra.graph import STACK_TYPE, Graph, Node

WIDTH: Final = 190
HEIGHT: Final = 40
GAP_X: Final = 46
GAP_Y: Final = 14
PADDING: Final = 14
TITLE: Final = 26
MAX_ROWS: Final = 12
"""Cards above one another before a layer goes on in another column beside."""
_CHARS: Final = 29
_FILLS: Final = {
    "aws": "#fdf0dd", "digitalocean": "#e0edff", "kubernetes": "#e4e9fb", "tls": "#e9f6e9", "docker-build": "#e2f3f8",
    "pulumi": "#eeeeee", "pulumi-python": "#f3e8fb",
}  # fmt: skip


@dataclass(slots=True)
class _Box:
    """A resource with its place; containers hold boxes."""

    node: Node
    children: list["_Box"] = field(default_factory=list)
    x: int = 0
    y: int = 0
    width: int = WIDTH
    height: int = HEIGHT

    def everything(self) -> list["_Box"]:
        """This box and all inside."""
        return [self, *(inner for child in self.children for inner in child.everything())]


def draw(graph: Graph) -> str:
    """The SVG document."""
    roots = [_box(graph, node) for node in graph.nodes if node.parent is None or node.parent not in graph.by_urn]
    # The stack is the paper, not a box of its own.
    tops = [inner for root in roots for inner in (root.children if root.node.type == STACK_TYPE else [root])]
    width, height = _arrange(tops, PADDING, PADDING)
    boxes = {box.node.urn: box for top in tops for box in top.everything()}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width + PADDING} {height + PADDING}" '
        f'width="{width + PADDING}" height="{height + PADDING}" font-family="sans-serif" font-size="11">',
        f"<title>{escape(graph.stack)}: {len(boxes)} resources</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#889"/></marker></defs>',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
    ]
    parts += [_frame(box) for top in tops for box in top.everything() if box.children]
    parts += _lines(boxes)
    parts += [_card(box) for box in boxes.values() if not box.children]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _box(graph: Graph, node: Node) -> _Box:
    return _Box(node, [_box(graph, child) for child in graph.children(node.urn)])


def _arrange(boxes: list[_Box], left: int, top: int) -> tuple[int, int]:
    """Gives the boxes their places right of `left` and below `top`; returns the right and lower end."""
    x, lowest = left, top
    for layer in _layers(boxes):
        y = top
        for start in range(0, len(layer), MAX_ROWS):
            y, widest = top, 0
            for box in layer[start : start + MAX_ROWS]:
                box.x, box.y = x, y
                if box.children:
                    right, bottom = _arrange(box.children, x + PADDING, y + TITLE)
                    box.width, box.height = right - x + PADDING, bottom - y + PADDING
                y += box.height + GAP_Y
                widest = max(widest, box.width)
            x += widest + GAP_X
            lowest = max(lowest, y - GAP_Y)
    return max(x - GAP_X, left), lowest


def _layers(boxes: list[_Box]) -> list[list[_Box]]:
    """The boxes by column: after all siblings they need."""
    owner = {inner.node.urn: box for box in boxes for inner in box.everything()}
    needs = {
        box.node.urn: {
            found.node.urn
            for inner in box.everything()
            for urn in inner.node.dependencies
            if (found := owner.get(urn)) is not None and found is not box
        }
        for box in boxes
    }
    columns: dict[str, int] = {}

    def column(urn: str, path: frozenset[str]) -> int:
        # Components may need one another in both directions; what would close a circle does not count.
        if urn not in columns:
            others = [column(other, path | {urn}) for other in sorted(needs[urn]) if other not in path | {urn}]
            columns[urn] = 1 + max(others, default=-1)
        return columns[urn]

    layers: dict[int, list[_Box]] = {}
    for box in boxes:
        layers.setdefault(column(box.node.urn, frozenset()), []).append(box)
    return [layers[index] for index in sorted(layers)]


def _lines(boxes: dict[str, _Box]) -> list[str]:
    lines = []
    needs = _direct({urn: [other for other in box.node.dependencies if other in boxes] for urn, box in boxes.items()})
    for urn, box in boxes.items():
        for other in needs[urn]:
            source = boxes.get(other)
            if source is None or source is box or _inside(source, box):
                continue
            x1, y1 = source.x + source.width, source.y + source.height // 2
            x2, y2 = box.x, box.y + box.height // 2
            bend = max(20, abs(x2 - x1) // 2)
            title = f"{boxes[urn].node.name} needs {source.node.name}"
            lines.append(
                f'<path d="M{x1} {y1}C{x1 + bend} {y1} {x2 - bend} {y2} {x2} {y2}" fill="none" stroke="#889" '
                f'stroke-opacity="0.55" marker-end="url(#tip)"><title>{escape(title)}</title></path>'
            )
    return lines


def _direct(needs: dict[str, list[str]]) -> dict[str, list[str]]:
    """The same without what another of a resource's needs has among its own, at any remove."""
    above: dict[str, set[str]] = {}

    def all_above(urn: str) -> set[str]:
        if urn not in above:
            above[urn] = set()  # for circles, which no program has
            above[urn] = {item for other in needs[urn] for item in (other, *all_above(other))}
        return above[urn]

    return {
        urn: [
            one for one in dict.fromkeys(wanted) if not any(one in all_above(other) for other in wanted if other != one)
        ]
        for urn, wanted in needs.items()
    }


def _inside(outer: _Box, box: _Box) -> bool:
    return any(inner is box for inner in outer.everything())


def _frame(box: _Box) -> str:
    return (
        f'<g><rect x="{box.x}" y="{box.y}" width="{box.width}" height="{box.height}" rx="8" fill="#f6f7fa" '
        f'fill-opacity="0.7" stroke="#99a" {_data(box)}/>'
        f'<text x="{box.x + 10}" y="{box.y + 17}" font-weight="bold">{_title(box.node)}</text></g>'
    )


def _card(box: _Box) -> str:
    fill = _FILLS.get(box.node.type.split(":", 1)[0], "#ffffff")
    return (
        f'<g><rect x="{box.x}" y="{box.y}" width="{box.width}" height="{box.height}" rx="4" fill="{fill}" '
        f'stroke="#667" {_data(box)}/><title>{escape(box.node.type)} {escape(box.node.name)}</title>'
        f'<text x="{box.x + 8}" y="{box.y + 16}">{escape(_cut(box.node.name))}</text>'
        f'<text x="{box.x + 8}" y="{box.y + 31}" fill="#556">{escape(_cut(_kind(box.node)))}</text></g>'
    )


def _data(box: _Box) -> str:
    return f"data-urn={quoteattr(box.node.urn)}"


def _kind(node: Node) -> str:
    """`aws Vpc` of `aws:ec2/vpc:Vpc`; the class alone of the project's own components."""
    package, _, rest = node.type.partition(":")
    name = rest.rpartition(":")[2]
    return f"{package} {name}" if node.custom else name


def _title(node: Node) -> str:
    return escape(f"{_cut(node.name)} ({_kind(node)})")


def _cut(text: str) -> str:
    return text if len(text) <= _CHARS else f"{text[: _CHARS - 1]}…"
