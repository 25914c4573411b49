"""Aliases: under which URNs a resource may have been known before, its parents' renamings included."""

from dataclasses import dataclass

from pulumi.runtime.proto import alias_pb2

from infra.engine import urn as urns


@dataclass(frozen=True, slots=True, kw_only=True)
class Alias:
    """A former identity: a whole URN, or what was different about it (empty fields are as they are now).

    Attributes:
        parent: URN of the former parent.
        no_parent: it had none but the stack.
    """

    urn: str = ""
    name: str = ""
    type: str = ""
    stack: str = ""
    project: str = ""
    parent: str = ""
    no_parent: bool = False


def from_wire(alias: alias_pb2.Alias) -> Alias:
    """An alias of a registration."""
    if alias.urn:
        return Alias(urn=alias.urn)
    spec = alias.spec
    return Alias(
        name=spec.name, type=spec.type, stack=spec.stack, project=spec.project, parent=spec.parentUrn,
        no_parent=spec.noParent,
    )  # fmt: skip


def expand(urn: str, parent: str, aliases: list[Alias], renamed: dict[str, str]) -> list[str]:
    """The former URNs of a resource, most explicit first.

    Args:
        urn, parent: as they are now; parent may be empty.
        renamed: URNs of resources that matched under a former URN in this run, with that former URN.
    """
    result = [_explicit(urn, parent, alias, renamed) for alias in aliases]
    former_parent = renamed.get(parent)
    if former_parent:
        parent_name = urns.name_of(parent)
        result += [_inherited(known, parent_name, former_parent) for known in [urn, *result]]
    return [item for item in dict.fromkeys(result) if item != urn]


def _explicit(urn: str, parent: str, alias: Alias, renamed: dict[str, str]) -> str:
    if alias.urn:
        return alias.urn
    stack, project = urns.stack_and_project(urn)
    former = renamed.get(alias.parent, alias.parent) if alias.parent else parent
    if alias.no_parent:
        former = ""
    return urns.make(
        alias.stack or stack, alias.project or project, former, alias.type or urns.type_of(urn),
        alias.name or urns.name_of(urn),
    )  # fmt: skip


def _inherited(known: str, parent_name: str, former_parent: str) -> str:
    """The URN below a parent's former URN. A name that begins with the parent's is taken to be made from it."""
    name = urns.name_of(known)
    if name.startswith(parent_name):
        name = urns.name_of(former_parent) + name.removeprefix(parent_name)
    stack, project = urns.stack_and_project(known)
    return urns.make(stack, project, former_parent, urns.type_of(known), name)
