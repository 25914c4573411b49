"""The services behind the connector: echo-server, httpbin and, where the configuration says so, QuakeKube."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pulumi

from components.k8s_pod import K8sContainer, K8sSite
from components.k8s_role import K8sRole, K8sRoleArgs
from infra import naming


@dataclass(frozen=True, kw_only=True, slots=True)
class K8sBackend:
    """A backend: its containers and the configuration files that they share."""

    name: str
    containers: tuple[K8sContainer, ...]
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class K8sBackendsArgs:
    """Backends in one namespace; `after` must be there first."""

    site: K8sSite
    backends: tuple[K8sBackend, ...]
    after: tuple[pulumi.Resource, ...] = ()


class K8sBackends(pulumi.ComponentResource):
    """Backends, each reached inside the cluster under its own name.

    Children: K8sRole x one per backend. Outputs: `names`. It exposes none of them outside the cluster.
    """

    names: pulumi.Output[list[str]]

    def __init__(self, name: str, args: K8sBackendsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(naming.component_token("K8sBackends"), name, {}, opts)
        for backend in args.backends:
            K8sRole(
                backend.name,
                K8sRoleArgs(site=args.site, containers=backend.containers, files=backend.files, after=args.after),
                pulumi.ResourceOptions(parent=self),
            )
        self.names = pulumi.Output.from_input([backend.name for backend in args.backends])
        self.register_outputs({"names": self.names})
