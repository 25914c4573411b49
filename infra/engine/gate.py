"""Policy rules over what a program registers: what breaks a mandatory one is not brought up."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from infra.engine.errors import EngineError
from infra.engine.events import Diagnostic, EventSink, Severity
from infra.graph import Graph

if TYPE_CHECKING:
    from infra.policy.model import Rule


class PolicyViolation(EngineError):
    """A mandatory rule is broken; nothing has been changed."""


def check(graph: Graph, rules: Iterable["Rule"], emit: EventSink) -> int:
    """Reports every finding of the rules; returns how many are of mandatory ones."""
    mandatory = 0
    for rule in rules:
        stops = rule.enforcement == "mandatory"
        for finding in rule.check(graph):
            mandatory += stops
            node = graph.by_urn.get(finding.urn)
            where = f"{node.type} {node.name!r}: " if node else ""
            text = f"[{rule.enforcement}] {finding.rule}: {where}{finding.message}\n  {finding.remedy}"
            emit(Diagnostic(severity=Severity.WARNING, message=text, urn=finding.urn))
    return mandatory


def require(graph: Graph, rules: Iterable["Rule"], emit: EventSink) -> None:
    """The same.

    Raises:
        PolicyViolation: a mandatory rule is broken.
    """
    broken = check(graph, rules, emit)
    if broken:
        raise violation(graph.stack, broken)


def violation(stack: str, broken: int) -> PolicyViolation:
    """The error of a stack with so many findings of mandatory rules."""
    return PolicyViolation(
        f"stack {stack!r} breaks mandatory policy rules: {broken} finding{'s' if broken > 1 else ''} (above)",
        f"Nothing was changed. Correct what they name; to see them again: ztna lint --stack {stack}",
    )
