"""The resources of a stack and what they depend on, as plain data: for drawings, policy rules, lint and tests."""

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Final

UNKNOWN: Final = "<unknown>"
"""A value that only a deployment can tell."""
SECRET: Final = "<secret>"  # noqa: S105 - a tag, not a secret
"""A secret is {SECRET: its value or UNKNOWN}."""
ASSET: Final = "<asset>"
"""An asset or archive is {ASSET: {path | text | uri | assets, hash}}."""
STACK_TYPE: Final = "pulumi:pulumi:Stack"


def is_secret(value: Any) -> bool:
    """Whether the value itself is marked secret."""
    return isinstance(value, dict) and set(value) == {SECRET}


def reveal(value: Any) -> Any:
    """The value with every secret inside replaced by what it holds."""
    if is_secret(value):
        return reveal(value[SECRET])
    return _map(value, reveal)


def conceal(value: Any) -> Any:
    """The value with what secrets hold replaced by UNKNOWN: for anything that is shown or written."""
    return {SECRET: UNKNOWN} if is_secret(value) else _map(value, conceal)


def _map(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {key: change(item) for key, item in value.items()}
    return [change(item) for item in value] if isinstance(value, list) else value


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One resource.

    Attributes:
        urn: its URN.
        type: the type token, such as `aws:ec2/vpc:Vpc`.
        name: the name the program gave.
        parent: URN of the component or stack it belongs to; None for the stack.
        custom: managed by a provider (else a component).
        provider: URN of the provider resource; empty for components.
        dependencies: URNs of what must be there before.
        inputs: values by the provider's names (camelCase); unknown ones are UNKNOWN, secret ones {SECRET: ...}.
        protect: must not be deleted.
    """

    urn: str
    type: str
    name: str
    parent: str | None = None
    custom: bool = True
    provider: str = ""
    dependencies: tuple[str, ...] = ()
    inputs: dict[str, Any] = field(default_factory=dict)
    protect: bool = False


@dataclass(frozen=True, kw_only=True)
class Graph:
    """The resources of a stack in the order of their registration, and the stack's outputs.

    Resources that the engine adds by itself (default providers) are left out.
    """

    stack: str
    nodes: tuple[Node, ...]
    outputs: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def by_urn(self) -> dict[str, Node]:
        """The nodes by URN."""
        return {node.urn: node for node in self.nodes}

    def of_type(self, token: str) -> tuple[Node, ...]:
        """The nodes of a type token."""
        return tuple(node for node in self.nodes if node.type == token)

    def children(self, urn: str) -> tuple[Node, ...]:
        """The nodes whose parent is `urn`."""
        return tuple(node for node in self.nodes if node.parent == urn)

    def counts(self) -> dict[str, int]:
        """How many nodes there are by type, without the stack itself."""
        return dict(sorted(Counter(node.type for node in self.nodes if node.type != STACK_TYPE).items()))

    def to_json(self) -> dict[str, Any]:
        """The graph as JSON; secrets are not in it, only that there are some."""
        nodes = [{**asdict(node), "dependencies": list(node.dependencies)} for node in self.nodes]
        for node in nodes:
            node["inputs"] = conceal(node["inputs"])
        return {"stack": self.stack, "nodes": nodes, "outputs": conceal(self.outputs)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Graph":
        """The graph that `to_json` wrote.

        Raises:
            KeyError, TypeError: it is something else.
        """
        nodes = tuple(Node(**{**node, "dependencies": tuple(node["dependencies"])}) for node in data["nodes"])
        return cls(stack=data["stack"], nodes=nodes, outputs=data.get("outputs", {}))

    def to_text(self) -> str:
        """A tree of components and resources, with the counts by type below."""
        from infra.graph_text import tree

        return tree(self)

    def to_svg(self) -> str:
        """A drawing: layers by dependency from left to right, components as boxes."""
        from infra.graph_svg import draw

        return draw(self)
