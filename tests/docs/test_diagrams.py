"""The drawings in docs/architecture.md are those of the stacks' graphs."""

from infra.graph import Graph, Node
from infra.graph_mermaid import flowchart
from scripts.diagrams import PAGE, drawn

STACK = Node(urn="s", type="pulumi:pulumi:Stack", name="ztna-x")


def test_drawings_are_those_of_the_graphs() -> None:
    page = PAGE.read_text()
    assert drawn(page) == page, "docs/architecture.md shows an older graph: run python -m scripts.diagrams"


def test_boxes_hold_what_is_inside_and_arrows_run_between_boxes() -> None:
    nodes = (
        STACK,
        Node(urn="net", type="ztna:components:Net", name="net", parent="s", custom=False),
        Node(urn="a", type="aws:ec2/subnet:Subnet", name="net-a", parent="net"),
        Node(urn="b", type="aws:ec2/subnet:Subnet", name="net-b", parent="net", dependencies=("a",)),
        Node(urn="r", type="ztna:components:Relay", name="net", parent="s", custom=False),
        Node(urn="i", type="aws:ec2/instance:Instance", name="net-i", parent="r", dependencies=("a", "b")),
    )
    assert flowchart(Graph(stack="x", nodes=nodes)).splitlines() == [
        "flowchart LR",
        '    Net_net["<b>Net net</b><br/>2 x Subnet"]',
        '    Relay_net["<b>Relay net</b><br/>Instance"]',
        "    Net_net --> Relay_net",
    ]
