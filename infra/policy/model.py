"""What a rule is, and what it finds."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from infra.graph import Graph

Enforcement = Literal["mandatory", "advisory"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A resource that breaks a rule: what is wrong, naming key and value, and what to do. Never holds a secret."""

    rule: str
    urn: str
    message: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule over a graph.

    Args:
        name: what it is called on the command line, in reports and in the policy pack.
        description: the sentence that holds when the rule passes.
        check: returns one Finding per breach.
        whole_stack: it needs all resources; else it judges each by itself, before that is made.
        needs_marks: it needs to know which inputs are marked secret, which policy packs are not told.
        enforcement: whether a breach stops the deployment.
    """

    name: str
    description: str
    check: Callable[[Graph], list[Finding]]
    whole_stack: bool = False
    needs_marks: bool = False
    enforcement: Enforcement = "mandatory"
