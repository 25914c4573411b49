"""The resource graph as data, text and drawing."""

import json
import xml.etree.ElementTree as ElementTree
from typing import Any

from infra.graph import ASSET, SECRET, UNKNOWN, Graph, Node, conceal, is_secret, reveal

SVG = "{http://www.w3.org/2000/svg}"


def node(name: str, type_: str = "toy:index:Thing", parent: str | None = "stack", *needs: str, **others: Any) -> Node:
    """A node whose URN is its name."""
    return Node(urn=name, name=name, type=type_, parent=parent, dependencies=needs, **others)


STACK = node("stack", "pulumi:pulumi:Stack", None, custom=False)
GRAPH = Graph(
    stack="dev",
    nodes=(
        STACK,
        node("group", "toy:index:Group", "stack", custom=False),
        node("first", "toy:index:Thing", "group", inputs={"key": {SECRET: "hunter2"}, "port": 22, "id": UNKNOWN}),
        node("second", "toy:index:Thing", "group", "first", protect=True),
        node("third", "toy:index:Other<>&", "stack", "second", inputs={"list": [{SECRET: UNKNOWN}]}),
    ),
    outputs={"address": UNKNOWN, "token": {SECRET: "hunter2"}},
)


def test_nodes_are_found_by_type_urn_and_parent() -> None:
    assert [item.name for item in GRAPH.of_type("toy:index:Thing")] == ["first", "second"]
    assert GRAPH.by_urn["group"].custom is False
    assert [item.name for item in GRAPH.children("stack")] == ["group", "third"]
    assert GRAPH.counts() == {"toy:index:Group": 1, "toy:index:Other<>&": 1, "toy:index:Thing": 2}


def test_secrets_are_marked_revealed_and_concealed() -> None:
    value = {"a": [{SECRET: {"b": {SECRET: 1}}}], "c": {ASSET: {"text": "x"}}}
    assert reveal(value) == {"a": [{"b": 1}], "c": {ASSET: {"text": "x"}}}
    assert conceal(value) == {"a": [{SECRET: UNKNOWN}], "c": {ASSET: {"text": "x"}}}
    assert is_secret({SECRET: 1})
    assert not is_secret({SECRET: 1, "other": 2})


def test_json_holds_everything_but_secrets() -> None:
    text = json.dumps(GRAPH.to_json())
    assert "hunter2" not in text
    again = Graph.from_json(json.loads(text))
    assert again.by_urn["first"].inputs == {"key": {SECRET: UNKNOWN}, "port": 22, "id": UNKNOWN}
    assert again.by_urn["second"] == GRAPH.by_urn["second"]
    assert again.outputs == {"address": UNKNOWN, "token": {SECRET: UNKNOWN}}
    assert again.to_text() == GRAPH.to_text()


def test_text_is_a_tree_with_types_names_and_counts() -> None:
    assert GRAPH.to_text() == (
        "pulumi:pulumi:Stack  stack\n"
        "├─ toy:index:Group  group\n"
        "│  ├─ toy:index:Thing  first\n"
        "│  └─ toy:index:Thing  second  [protected]\n"
        "└─ toy:index:Other<>&  third\n"
        "\n"
        "1 x toy:index:Group\n"
        "1 x toy:index:Other<>&\n"
        "2 x toy:index:Thing\n"
        "resources: 3, components: 1, types: 3\n"
    )


def rectangles(text: str) -> dict[str, tuple[int, int, int, int]]:
    """By URN: left, top, right and lower edge of what is drawn."""
    found = {}
    for item in ElementTree.fromstring(text).iter(f"{SVG}rect"):
        if "data-urn" in item.attrib:
            x, y, width, height = (int(item.attrib[key]) for key in ("x", "y", "width", "height"))
            found[item.attrib["data-urn"]] = (x, y, x + width, y + height)
    return found


def test_a_drawing_is_well_formed_and_holds_every_resource() -> None:
    drawn = GRAPH.to_svg()
    assert set(rectangles(drawn)) == {"group", "first", "second", "third"}
    assert "hunter2" not in drawn
    titles = [item.text for item in ElementTree.fromstring(drawn).iter(f"{SVG}title")]
    assert "second needs first" in titles
    assert "third needs second" in titles


def test_lines_that_follow_from_others_are_not_drawn() -> None:
    nodes = (STACK, node("a"), node("b", "t:i:T", "stack", "a"), node("c", "t:i:T", "stack", "a", "b", provider="a"))
    drawn = ElementTree.fromstring(Graph(stack="dev", nodes=nodes).to_svg())
    titles = [item.text for item in drawn.iter(f"{SVG}title") if " needs " in str(item.text)]
    assert titles == ["b needs a", "c needs b"]


def test_what_is_needed_stands_left_of_what_needs_it_and_children_inside() -> None:
    boxes = rectangles(GRAPH.to_svg())
    assert boxes["first"][2] < boxes["second"][0]
    assert boxes["group"][2] < boxes["third"][0]
    for child in ("first", "second"):
        assert boxes["group"][0] < boxes[child][0]
        assert boxes["group"][1] < boxes[child][1]
        assert boxes[child][2] < boxes["group"][2]
        assert boxes[child][3] < boxes["group"][3]


def test_nothing_overlaps_in_a_large_drawing() -> None:
    things = [
        node(f"thing-{index}", "toy:index:Thing", "stack", *[f"thing-{index // 2}"][: index > 0]) for index in range(60)
    ]
    boxes = list(rectangles(Graph(stack="dev", nodes=(STACK, *things)).to_svg()).values())
    assert len(boxes) == 60
    for index, one in enumerate(boxes):
        for other in boxes[index + 1 :]:
            assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


def test_components_that_need_one_another_are_drawn_all_the_same() -> None:
    both = (
        STACK,
        node("a", "toy:index:Group", "stack", custom=False),
        node("b", "toy:index:Group", "stack", custom=False),
        node("a1", "toy:index:Thing", "a"),
        node("b1", "toy:index:Thing", "b", "a1"),
        node("a2", "toy:index:Thing", "a", "b1"),
    )
    assert set(rectangles(Graph(stack="dev", nodes=both).to_svg())) == {"a", "b", "a1", "b1", "a2"}
