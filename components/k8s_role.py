"""A role in the cluster: its pod, its address inside the cluster, its budget of disruptions, its account."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pulumi
from pulumi_kubernetes.apps import v1 as apps
from pulumi_kubernetes.core import v1 as core
from pulumi_kubernetes.meta import v1 as meta
from pulumi_kubernetes.policy import v1 as policy

from components.k8s_pod import CONFIG_DIR, K8sCertificates, K8sContainer, K8sSite, pod_spec
from infra import naming
from infra.config_pi import service_host
from infra.k8s import CERTIFICATES_DIGEST, CONFIG_DIGEST, MEMBER_ANNOTATION, config_digest
from infra.wiring import STATE_DIR


@dataclass(frozen=True, kw_only=True, slots=True)
class K8sRoleArgs:
    """A role with one pod.

    Attributes:
        files: configuration by file name, mounted at CONFIG_DIR; STATE_DIR in it is replaced by that directory.
        certificates: mounted beside the configuration.
        replacement: `surge` starts the new pod before the old one goes, `recreate` after: a connector registers under
            one name, and two pods would displace each other.
        drain_s: seconds that an old pod goes on serving once it is out of the Service.
        after: what must be there first: the namespace, the Secrets, the NetworkPolicies.
    """

    site: K8sSite
    containers: tuple[K8sContainer, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    certificates: K8sCertificates | None = None
    replacement: Literal["surge", "recreate"] = "surge"
    drain_s: int = 0
    after: tuple[pulumi.Resource, ...] = ()


class K8sRole(pulumi.ComponentResource):
    """A role; the name of the component is the name of its Kubernetes objects.

    Children: ServiceAccount x 1, ConfigMap x 1 where it has files, Deployment x 1, Service (ClusterIP) x 1 where it has
    ports, PodDisruptionBudget x 1. Outputs: `host`, its DNS name in the cluster. It makes no NetworkPolicy, no Secret
    and nothing that is reached from outside the cluster.
    """

    host: pulumi.Output[str]

    def __init__(self, name: str, args: K8sRoleArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(naming.component_token("K8sRole"), name, {}, opts)
        child = pulumi.ResourceOptions(parent=self, depends_on=list(args.after))
        site = args.site
        labels = site.labels(name)
        metadata = meta.ObjectMetaArgs(name=name, namespace=site.namespace, labels=labels)
        awaited = meta.ObjectMetaArgs(
            name=name, namespace=site.namespace, labels=labels, annotations=site.await_annotations or None
        )
        account = core.ServiceAccount(
            naming.child_name(name, "account"), metadata=metadata, automount_service_account_token=False, opts=child
        )
        needs: list[pulumi.Resource] = [*args.after, account]
        files = {path: text.replace(STATE_DIR, CONFIG_DIR) for path, text in args.files.items()}
        if files:
            needs.append(
                core.ConfigMap(naming.child_name(name, "config"), metadata=metadata, data=files, opts=child),
            )
        spec = pod_spec(
            site,
            args.containers,
            account=name,
            config=name if files else None,
            certificates=args.certificates,
            drain_s=args.drain_s,
        )
        annotations: dict[str, pulumi.Input[str]] = {CONFIG_DIGEST: config_digest(files)} if files else {}
        if args.certificates is not None:
            annotations[MEMBER_ANNOTATION] = args.certificates.member
            annotations[CERTIFICATES_DIGEST] = args.certificates.digest
        apps.Deployment(
            naming.child_name(name, "deployment"),
            metadata=awaited,
            spec=apps.DeploymentSpecArgs(
                replicas=1,
                revision_history_limit=5,
                progress_deadline_seconds=300,
                strategy=_strategy(args.replacement),
                selector=meta.LabelSelectorArgs(match_labels=site.selector(name)),
                template=core.PodTemplateSpecArgs(
                    metadata=meta.ObjectMetaArgs(labels=labels, annotations=annotations or None), spec=spec
                ),
            ),
            opts=pulumi.ResourceOptions(parent=self, depends_on=needs),
        )
        _service(name, args, awaited, child)
        policy.PodDisruptionBudget(
            naming.child_name(name, "budget"),
            metadata=metadata,
            # One pod, so a drain must be let through: minAvailable 1 would hold up every upgrade of the node.
            spec=policy.PodDisruptionBudgetSpecArgs(
                max_unavailable=1, selector=meta.LabelSelectorArgs(match_labels=site.selector(name))
            ),
            opts=child,
        )
        self.host = pulumi.Output.from_input(service_host(name, site.namespace))
        self.register_outputs({"host": self.host})


def _service(
    name: str, args: K8sRoleArgs, metadata: meta.ObjectMetaArgs, opts: pulumi.ResourceOptions
) -> core.Service | None:
    ports = [
        core.ServicePortArgs(name=port.name, protocol=port.protocol, port=port.port, target_port=port.port)
        for container in args.containers
        for port in container.ports
    ]
    if not ports:
        return None
    return core.Service(
        naming.child_name(name, "service"),
        metadata=metadata,
        spec=core.ServiceSpecArgs(type="ClusterIP", selector=args.site.selector(name), ports=ports),
        opts=opts,
    )


def _strategy(replacement: str) -> apps.DeploymentStrategyArgs:
    if replacement == "recreate":
        return apps.DeploymentStrategyArgs(type="Recreate")
    rolling = apps.RollingUpdateDeploymentArgs(max_surge=1, max_unavailable=0)
    return apps.DeploymentStrategyArgs(type="RollingUpdate", rolling_update=rolling)
