"""URNs: `urn:pulumi:<stack>::<project>::<parent types$type>::<name>`."""

STACK_TYPE = "pulumi:pulumi:Stack"
PROVIDER_PREFIX = "pulumi:providers:"
STACK_REFERENCE_TYPE = "pulumi:pulumi:StackReference"


def make(stack: str, project: str, parent: str, type_: str, name: str) -> str:
    """The URN of a resource; parent is a URN or empty. The stack itself adds nothing to its children's type."""
    chain = type_
    if parent:
        parent_chain = qualified_type(parent)
        if parent_chain != STACK_TYPE:
            chain = f"{parent_chain}${type_}"
    return f"urn:pulumi:{stack}::{project}::{chain}::{name}"


def stack_and_project(urn: str) -> tuple[str, str]:
    """The names of stack and project."""
    stack, project, _ = urn.removeprefix("urn:pulumi:").split("::", 2)
    return stack, project


def qualified_type(urn: str) -> str:
    """The type with all parent types: `a:b:C$d:e:F`."""
    return urn.split("::", 3)[2]


def type_of(urn: str) -> str:
    """The resource's own type token."""
    return qualified_type(urn).rsplit("$", 1)[-1]


def name_of(urn: str) -> str:
    """The resource's name; it may itself contain `::`."""
    return urn.split("::", 3)[3]


def is_valid(urn: str) -> bool:
    """Whether the text has the four parts of a URN."""
    return urn.startswith("urn:pulumi:") and urn.count("::") >= 3


def package_of(type_: str) -> str:
    """The package that serves a type token: `aws` for `aws:ec2/vpc:Vpc`, also for `pulumi:providers:aws`."""
    if type_.startswith(PROVIDER_PREFIX):
        return type_.removeprefix(PROVIDER_PREFIX)
    return type_.split(":", 1)[0]


def is_provider(type_: str) -> bool:
    """Whether the type is that of a provider resource."""
    return type_.startswith(PROVIDER_PREFIX)


def provider_reference(urn: str, id_: str) -> str:
    """How a resource names its provider: URN and id."""
    return f"{urn}::{id_}"


def parse_reference(reference: str) -> tuple[str, str]:
    """Splits a provider reference into URN and id."""
    urn, _, id_ = reference.rpartition("::")
    if not is_valid(urn):
        raise ValueError(f"not a provider reference: {reference!r}")
    return urn, id_
