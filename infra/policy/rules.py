"""The rules, by name. `check` runs them over a graph; the policy pack wraps the same ones."""

from collections.abc import Iterable
from functools import partial
from typing import Final

from infra.graph import Graph
from infra.policy import network, resources, secrecy, workloads
from infra.policy.model import Finding, Rule

__all__ = ["RULES", "Finding", "Rule", "check", "rules"]


def rules(public_ports: Iterable[int] = ()) -> tuple[Rule, ...]:
    """Return all rules.

    Args:
        public_ports: ports, besides the overlay's, that the stack means to open to the world.
    """
    only_public = partial(network.only_public_ports, allowed=frozenset(public_ports))
    return (
        Rule("no-ssh-from-the-world", "SSH is open to named networks only", network.no_ssh_from_the_world),
        Rule("only-overlay-ports-public", "The world reaches the overlay's UDP ports and nothing else", only_public),
        Rule(
            "hosts-behind-firewall",
            "Every host has a firewall or a security group",
            network.droplets_behind_firewall,
            whole_stack=True,
        ),
        Rule("volumes-encrypted", "Disks are encrypted", resources.volumes_encrypted),
        Rule("imdsv2-required", "The metadata service asks for a session token", resources.imdsv2_required),
        Rule("no-plain-secrets", "User data, environments and ConfigMaps hold no secret", secrecy.no_plain_secrets),
        Rule("secrets-are-marked", "Secrets are marked secret", secrecy.secrets_marked, needs_marks=True),
        Rule(
            "outputs-are-marked",
            "Secret outputs are marked secret",
            secrecy.outputs_marked,
            whole_stack=True,
            needs_marks=True,
        ),
        Rule(
            "tags-present",
            "Resources carry project, stack, run and component",
            resources.tags_present,
            enforcement="advisory",
        ),
        Rule("images-by-digest", "Images are named by digest", workloads.images_by_digest),
        Rule("containers-not-root", "Containers do not run as root", workloads.not_root),
        Rule("containers-read-only", "Root file systems of containers are read-only", workloads.read_only_root),
        Rule("containers-not-privileged", "Containers have no privilege to gain", workloads.not_privileged),
        Rule("containers-drop-capabilities", "Containers drop all capabilities", workloads.capabilities_dropped),
        Rule("registries-immutable", "Image tags cannot be moved, images are scanned", resources.registries_immutable),
        Rule(
            "source-address-kept",
            "UDP Services of the cluster keep the peer's address",
            resources.source_address_kept,
        ),
        Rule("rights-are-narrow", "Policies name the actions they allow", resources.rights_are_narrow),
        Rule(
            "namespaces-default-deny",
            "Namespaces deny what nothing allows",
            resources.namespaces_default_deny,
            whole_stack=True,
        ),
    )


RULES: Final = rules()
"""All rules, with no port open to the world but the overlay's own."""


def check(graph: Graph, public_ports: Iterable[int] = ()) -> list[Finding]:
    """Return every breach in a graph, in the order of the rules."""
    return [finding for rule in rules(public_ports) for finding in rule.check(graph)]
