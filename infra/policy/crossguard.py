"""The rules as CrossGuard policies, for the official CLI's `--policy-pack infra/policy/pack`.

A rule that judges each resource by itself becomes a resource policy, which stops a resource before it is made; one
that needs all of them becomes a stack policy. Policies are given secrets in plain text and unmarked, so the rules that
look at the marks are left to the embedded engine and `ztna lint`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pulumi_policy import (
    EnforcementLevel,
    Policy,
    PolicyConfigSchema,
    PolicyResource,
    ReportViolation,
    ResourceValidationArgs,
    ResourceValidationPolicy,
    StackValidationArgs,
    StackValidationPolicy,
)
from pulumi_policy.proxy import UnknownValueError

from infra.graph import UNKNOWN, Graph, Node
from infra.policy.model import Finding, Rule
from infra.policy.rules import RULES, rules

PUBLIC_PORTS_RULE: Final = "only-overlay-ports-public"
_PORTS_SCHEMA: Final = {
    "publicPorts": {
        "type": "array",
        "items": {"type": "integer", "minimum": 1, "maximum": 65535},
        "default": [],
        "description": "Ports that are meant to be open to the world, besides the overlay's.",
    }
}


def policies() -> list[Policy]:
    """Return a policy for every rule that can be judged without the marks of secrets."""
    return [_policy(rule) for rule in RULES if not rule.needs_marks]


def _policy(rule: Rule) -> Policy:
    level = EnforcementLevel.MANDATORY if rule.enforcement == "mandatory" else EnforcementLevel.ADVISORY
    if rule.whole_stack:

        def validate_stack(args: StackValidationArgs, report: ReportViolation) -> None:
            _report(rule.check(stack_graph(args.resources)), report)

        return StackValidationPolicy(rule.name, rule.description, validate_stack, level)

    def validate(args: ResourceValidationArgs, report: ReportViolation) -> None:
        chosen = _configured(rule, args)
        _report(chosen.check(resource_graph(args)), report, with_urn=False)

    schema = PolicyConfigSchema(_PORTS_SCHEMA) if rule.name == PUBLIC_PORTS_RULE else None
    return ResourceValidationPolicy(rule.name, rule.description, validate, level, schema)


def _configured(rule: Rule, args: ResourceValidationArgs) -> Rule:
    if rule.name != PUBLIC_PORTS_RULE:
        return rule
    given = (args.get_config() or {}).get("publicPorts", [])
    return next(each for each in rules(int(port) for port in given) if each.name == rule.name)


def _report(findings: Sequence[Finding], report: ReportViolation, *, with_urn: bool = True) -> None:
    for finding in findings:
        report(f"{finding.message}; {finding.remedy}", finding.urn if with_urn else None)


def resource_graph(args: ResourceValidationArgs) -> Graph:
    """Return a graph of one resource and its provider."""
    provider = args.provider
    nodes = [
        Node(
            urn=args.urn,
            type=args.resource_type,
            name=args.name,
            custom=is_custom(args.resource_type),
            provider=provider.urn if provider is not None else "",
            inputs=plain(args.props),
        )
    ]
    if provider is not None:
        made = Node(urn=provider.urn, type=provider.resource_type, name=provider.name, inputs=plain(provider.props))
        nodes.append(made)
    return Graph(stack="", nodes=tuple(nodes))


def stack_graph(resources: Sequence[PolicyResource]) -> Graph:
    """Return the graph of all resources."""
    return Graph(
        stack="",
        nodes=tuple(
            Node(
                urn=each.urn,
                type=each.resource_type,
                name=each.name,
                parent=each.parent.urn if each.parent is not None else None,
                custom=is_custom(each.resource_type),
                provider=each.provider.urn if each.provider is not None else "",
                dependencies=tuple(found.urn for found in each.dependencies),
                inputs=plain(each.props),
            )
            for each in resources
        ),
    )


def is_custom(token: str) -> bool:
    """Tell whether a type is a provider's. Policies are not told; components here are all `ztna:components:`."""
    return not token.startswith(("ztna:components:", "pulumi:pulumi:"))


def plain(value: Any) -> Any:
    """Return properties as JSON, with UNKNOWN where reading raises because only a deployment can tell."""
    if isinstance(value, Mapping):
        found = {}
        for key in value:
            try:
                found[str(key)] = plain(value[key])
            except UnknownValueError:
                found[str(key)] = UNKNOWN
        return found
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        made = []
        for index in range(len(value)):
            try:
                made.append(plain(value[index]))
            except UnknownValueError:
                made.append(UNKNOWN)
        return made
    return int(value) if isinstance(value, float) and value.is_integer() else value
