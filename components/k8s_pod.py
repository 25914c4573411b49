"""Pods of the cluster as every role has them: hardened for Pod Security `restricted`, on arm64 and amd64 alike.

Source: kubernetes.io/docs/concepts/security/pod-security-standards (restricted).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import pulumi
from pulumi_kubernetes.core import v1 as core

from infra import naming
from infra.k8s import CERTIFICATE_FILES

CONFIG_DIR: Final = "/etc/ztna"
"""Where a role finds its configuration and certificates, side by side."""
USER_ID: Final = 65532
"""User and group of every container; it exists in no image and owns nothing there."""
ARCHITECTURES: Final = ("amd64", "arm64")
FILE_MODE: Final = 0o440


@dataclass(frozen=True, kw_only=True, slots=True)
class K8sSite:
    """Where resources go: the namespace, the stack and run in their labels, the nodes that may run their pods.

    `await_ready` False: a deployment does not wait until Deployments and Services are ready.
    """

    namespace: str
    stack: str
    run: str
    node_selector: Mapping[str, str]
    await_ready: bool = True

    @property
    def await_annotations(self) -> dict[str, str]:
        """Annotations of what a deployment waits for (pulumi.com/registry/packages/kubernetes, Resource Management)."""
        return {} if self.await_ready else {"pulumi.com/skipAwait": "true"}

    def selector(self, component: str) -> dict[str, str]:
        """The labels by which a component's pods are selected; a Deployment's may never change."""
        return {"app.kubernetes.io/name": component, "app.kubernetes.io/part-of": naming.PROJECT}

    def labels(self, component: str) -> dict[str, str]:
        """All labels of a component's resources, the tags of every stack among them."""
        return {**self.selector(component), **naming.tags(self.stack, self.run, component)}


@dataclass(frozen=True, kw_only=True, slots=True)
class K8sPort:
    """A port of a container, and of its Service under the same number."""

    name: str
    protocol: Literal["UDP", "TCP"]
    port: int


@dataclass(frozen=True, kw_only=True, slots=True)
class K8sHealth:
    """What the kubelet asks: two paths over HTTP, or without paths whether the TCP port accepts a connection.

    `start_s` is what a container may take to answer at first.
    """

    port: int
    alive: str | None = None
    ready: str | None = None
    start_s: int = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class K8sContainer:
    """A container.

    Attributes:
        command: the whole command line; the image's entry point is not used.
        scratch: directories that may be written; containers of one pod that name the same one share it.
        cpu_m: CPU asked for, in thousandths; no limit, since a throttled relay delays every packet.
        memory_mib: memory asked for, and the limit: a pod that needs more is restarted, not its neighbours.
    """

    name: str
    image: str
    command: tuple[str, ...]
    ports: tuple[K8sPort, ...] = ()
    health: K8sHealth | None = None
    env: Mapping[str, str] | None = None
    scratch: tuple[str, ...] = ("/tmp",)  # noqa: S108 - an emptyDir of the pod's own
    cpu_m: int = 50
    memory_mib: int = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class K8sCertificates:
    """Certificates in a Secret: whose, its name, and a digest of them by which pods are restarted."""

    member: str
    secret: str
    digest: pulumi.Output[str]


def pod_spec(
    site: K8sSite,
    containers: tuple[K8sContainer, ...],
    *,
    account: str,
    config: str | None,
    certificates: K8sCertificates | None,
    drain_s: int,
) -> core.PodSpecArgs:
    """Return a pod's spec.

    Args:
        config: name of the ConfigMap mounted at CONFIG_DIR, together with the certificates.
        drain_s: seconds that a pod goes on serving after its endpoint was withdrawn, so that clients move over first.
    """
    mounted = config is not None
    scratch = {directory: directory.strip("/").replace("/", "-") for each in containers for directory in each.scratch}
    volumes = [
        core.VolumeArgs(name=name, empty_dir=core.EmptyDirVolumeSourceArgs(size_limit="1Gi"))
        for name in dict.fromkeys(scratch.values())
    ]
    if config is not None:
        volumes.append(core.VolumeArgs(name="config", projected=_projected(config, certificates)))
    return core.PodSpecArgs(
        service_account_name=account,
        automount_service_account_token=False,
        enable_service_links=False,
        node_selector={"kubernetes.io/os": "linux", **site.node_selector},
        affinity=_any_architecture(),
        termination_grace_period_seconds=drain_s + 15,
        security_context=core.PodSecurityContextArgs(
            run_as_non_root=True,
            run_as_user=USER_ID,
            run_as_group=USER_ID,
            fs_group=USER_ID,
            seccomp_profile=core.SeccompProfileArgs(type="RuntimeDefault"),
        ),
        containers=[_container(each, mounted=mounted, drain_s=drain_s) for each in containers],
        volumes=volumes,
    )


def _container(each: K8sContainer, *, mounted: bool, drain_s: int) -> core.ContainerArgs:
    mounts = [core.VolumeMountArgs(name=path.strip("/").replace("/", "-"), mount_path=path) for path in each.scratch]
    if mounted:
        mounts.append(core.VolumeMountArgs(name="config", mount_path=CONFIG_DIR, read_only=True))
    probes = _probes(each.health) if each.health is not None else {}
    return core.ContainerArgs(
        name=each.name,
        image=each.image,
        command=list(each.command),
        env=[core.EnvVarArgs(name=name, value=value) for name, value in (each.env or {}).items()] or None,
        ports=[
            core.ContainerPortArgs(name=port.name, container_port=port.port, protocol=port.protocol)
            for port in each.ports
        ]
        or None,
        lifecycle=_drain(drain_s) if drain_s else None,
        resources=core.ResourceRequirementsArgs(
            requests={"cpu": f"{each.cpu_m}m", "memory": f"{each.memory_mib}Mi"},
            limits={"memory": f"{each.memory_mib}Mi"},
        ),
        security_context=core.SecurityContextArgs(
            allow_privilege_escalation=False,
            privileged=False,
            read_only_root_filesystem=True,
            run_as_non_root=True,
            capabilities=core.CapabilitiesArgs(drop=["ALL"]),
            seccomp_profile=core.SeccompProfileArgs(type="RuntimeDefault"),
        ),
        volume_mounts=mounts,
        startup_probe=probes.get("startup"),
        liveness_probe=probes.get("liveness"),
        readiness_probe=probes.get("readiness"),
    )


def _probes(health: K8sHealth) -> dict[str, core.ProbeArgs]:
    return {
        "startup": _probe(health, health.alive, failures=health.start_s // 2, period_s=2),
        "liveness": _probe(health, health.alive, failures=3),
        "readiness": _probe(health, health.ready, failures=2),
    }


def _probe(health: K8sHealth, path: str | None, *, failures: int, period_s: int = 5) -> core.ProbeArgs:
    return core.ProbeArgs(
        http_get=core.HTTPGetActionArgs(path=path, port=health.port) if path else None,
        tcp_socket=None if path else core.TCPSocketActionArgs(port=health.port),
        period_seconds=period_s,
        timeout_seconds=3,
        failure_threshold=failures,
    )


def _drain(seconds: int) -> core.LifecycleArgs:
    """SIGTERM comes so much later; a `sleep` of the kubelet's own needs no program in the image (Kubernetes 1.30)."""
    return core.LifecycleArgs(
        pre_stop=core.LifecycleHandlerArgs(sleep=core.SleepActionArgs(seconds=seconds)),
    )


def _projected(config: str, certificates: K8sCertificates | None) -> core.ProjectedVolumeSourceArgs:
    """One directory of configuration and certificates: roles name files beside their own."""
    sources = [core.VolumeProjectionArgs(config_map=core.ConfigMapProjectionArgs(name=config))]
    if certificates is not None:
        items = [core.KeyToPathArgs(key=key, path=path) for path, key in CERTIFICATE_FILES.items()]
        sources.append(
            core.VolumeProjectionArgs(secret=core.SecretProjectionArgs(name=certificates.secret, items=items))
        )
    return core.ProjectedVolumeSourceArgs(default_mode=FILE_MODE, sources=sources)


def _any_architecture() -> core.AffinityArgs:
    """Both architectures of the images, and no other: a pod elsewhere would fail with an exec format error."""
    term = core.NodeSelectorTermArgs(
        match_expressions=[
            core.NodeSelectorRequirementArgs(key="kubernetes.io/arch", operator="In", values=list(ARCHITECTURES))
        ]
    )
    required = core.NodeSelectorArgs(node_selector_terms=[term])
    return core.AffinityArgs(
        node_affinity=core.NodeAffinityArgs(required_during_scheduling_ignored_during_execution=required)
    )
