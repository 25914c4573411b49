"""Names: type tokens, resource names, hosts and identities of a stack.

One place decides how a thing is called, so that programs, components and certificates agree.
"""

import hashlib
import re
from pathlib import Path

PROJECT = "ztna"
TYPE_PREFIX = "ztna:components"
_LABEL = re.compile(r"[a-z]([a-z0-9-]{0,30}[a-z0-9])?")


def component_token(kind: str) -> str:
    """Return the Pulumi type token of a component class, for example `ztna:components:LabNetwork`."""
    return f"{TYPE_PREFIX}:{kind}"


def child_name(parent: str, role: str) -> str:
    """Return the resource name of a component's child: the parent's name, a dash, the child's role."""
    return f"{parent}-{role}"


def run_name(stack: str, project: Path) -> str:
    """Return the name of a stack's run on this machine: the stack, and 6 hex digits that tell checkouts apart.

    Two checkouts may each have a stack of the same name up; `project` is the directory of Pulumi.yaml.
    """
    digest = hashlib.sha256(str(project.resolve()).encode()).hexdigest()[:6]
    return f"{stack[:25].rstrip('-')}-{digest}"


def tags(stack: str, run: str, component: str) -> dict[str, str]:
    """Return the tags of a cloud resource: `project`, `stack`, `run`, `component`, each a label.

    Raises:
        ValueError: a value is not usable as a name.
    """
    values = {"project": PROJECT, "stack": stack, "run": run, "component": component}
    return {key: check_label(value, key) for key, value in values.items()}


def tag_list(stack: str, run: str, component: str) -> list[str]:
    """Return the same tags as DigitalOcean takes them: `key:value`, of letters, digits, `:`, `-` and `_`.

    Source: https://docs.digitalocean.com/reference/api/digitalocean/#tag/Tags
    """
    return [f"{key}:{value}" for key, value in tags(stack, run, component).items()]


def spiffe_id(stack: str, role: str, name: str) -> str:
    """Return the identity URI of a member of a stack, `spiffe://STACK/ROLE/NAME` (SPIFFE ID section 2)."""
    return f"spiffe://{check_label(stack, 'stack')}/{check_label(role, 'role')}/{check_label(name, 'name')}"


def grant_name(role: str, service: str) -> str:
    """Return the DNS SAN that grants a role on a service, `ROLE.SERVICE.ztna`; the service may be `*`."""
    if service != "*":
        check_label(service, "service")
    return f"{check_label(role, 'role')}.{service}.ztna"


def check_label(value: str, what: str) -> str:
    """Return `value` when it may stand in host names, URIs and file names.

    Raises:
        ValueError: it is not a lower-case DNS label of at most 32 characters (RFC 1123 section 2.1).
    """
    if not _LABEL.fullmatch(value):
        raise ValueError(
            f"{what} {value!r} is not usable as a name: use 1 to 32 of a-z, 0-9 and '-', "
            "beginning with a letter and not ending with '-'"
        )
    return value
