"""The stack's own namespace, which admits only pods of the `restricted` standard."""

from dataclasses import dataclass
from typing import Final

import pulumi
from pulumi_kubernetes.core import v1 as core
from pulumi_kubernetes.meta import v1 as meta

from components.k8s_pod import K8sSite
from infra import naming

POD_SECURITY: Final = {
    f"pod-security.kubernetes.io/{mode}{suffix}": value
    for mode in ("enforce", "audit", "warn")
    for suffix, value in (("", "restricted"), ("-version", "latest"))
}
"""Labels of Pod Security admission (kubernetes.io/docs/concepts/security/pod-security-admission)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class K8sNamespaceArgs:
    """Which namespace."""

    site: K8sSite


class K8sNamespace(pulumi.ComponentResource):
    """A namespace.

    Children: Namespace x 1. Outputs: `namespace`. It makes nothing inside it.
    """

    namespace: pulumi.Output[str]

    def __init__(self, name: str, args: K8sNamespaceArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(naming.component_token("K8sNamespace"), name, {}, opts)
        core.Namespace(
            naming.child_name(name, "namespace"),
            metadata=meta.ObjectMetaArgs(
                name=args.site.namespace, labels={**args.site.labels("namespace"), **POD_SECURITY}
            ),
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.namespace = pulumi.Output.from_input(args.site.namespace)
        self.register_outputs({"namespace": self.namespace})
