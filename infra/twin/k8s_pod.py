"""A pod on the node: its network namespace, its volumes, the specification of each container (k8s_sandbox.py).

    RUN_DIR/pods/N/volumes/NAME/    files of ConfigMaps and Secrets, and emptyDirs
    RUN_DIR/pods/N/CONTAINER.json   what the sandbox is to do; 0600, it holds the environment
    RUN_DIR/pods/N/root             where it mounts the root, in a mount namespace of its own

The network namespace is host `pod-N` of the lab, with one address and one way, over the node; a pod with hostNetwork
has the node's own. Everything may be done again after a kill -9.
"""

import base64
import contextlib
import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from infra.lab.process import ProcessInfo
from infra.lab.topology import Host, Link
from infra.twin import k8s_sandbox
from infra.twin.k8s_cluster import DNS_ADDRESS, DOMAIN, NODE, POD_GATEWAY, PODS, folder, home
from infra.twin.k8s_images import contents
from infra.twin.k8s_objects import Cluster, Json, PodView
from infra.twin.k8s_probes import Prober
from infra.twin.site import Site

FIRST_ADDRESS: Final = 10
DEFAULT_MODE: Final = 0o644
_UNSHARE: Final = ("unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child")


class PodWaiting(Exception):
    """A pod cannot go on yet; the text says why, in the kubelet's words."""


@dataclass
class Container:
    """A container of a pod, and its present run. Times are of the monotonic clock, in seconds."""

    name: str
    index: int
    pid: int = 0
    ticks: int = 0
    """Start of the process in clock ticks since boot: with the pid it names this very process."""
    started: float = 0.0
    restarts: int = 0
    streak: int = 0
    """Ends since it last ran for long: the back-off grows with them."""
    not_before: float = 0.0
    prober: Prober | None = None
    said: str = ""
    """Why it does not run, or what it is being restarted for."""
    busy: bool = False


@dataclass
class Pod:
    """A pod; what is written down of it is `to_json`."""

    name: str
    number: int
    namespace: str
    owner: str
    """Key of its Deployment."""
    template: str
    labels: dict[str, str]
    spec: Json
    address: str
    deleting: bool = False
    restarts: dict[str, int] = field(default_factory=dict)
    containers: list[Container] = field(default_factory=list)
    said: str = ""
    ready_since: float | None = None
    made: bool = False
    """Whether its network and volumes are there."""

    def __post_init__(self) -> None:
        if not self.containers:
            self.containers = [
                Container(item["name"], index, restarts=self.restarts.get(item["name"], 0))
                for index, item in enumerate(self.spec["containers"])
            ]

    @property
    def host_network(self) -> bool:
        """Whether it has the node's network."""
        return bool(self.spec.get("hostNetwork"))

    @property
    def host(self) -> str:
        """The lab's host in which its processes run."""
        return NODE if self.host_network else f"pod-{self.number}"

    @property
    def ready(self) -> bool:
        """Whether all its containers run and are ready."""
        return self.made and all(item.pid and item.prober and item.prober.ready for item in self.containers)

    @property
    def grace_s(self) -> float:
        """Seconds that its containers have to end in, preStop among them."""
        return float(self.spec.get("terminationGracePeriodSeconds", 30))

    def process(self, container: Container) -> str:
        """Name of a container's process within its host."""
        return f"pod-{self.number}-{container.index}"

    def view(self) -> PodView:
        """The pod as Services and policies see it."""
        ports = {
            str(port["name"]): int(port["containerPort"])
            for container in self.spec["containers"]
            for port in container.get("ports") or ()
            if port.get("name")
        }
        return PodView(
            name=self.name,
            namespace=self.namespace,
            labels=self.labels,
            address=self.address,
            ready=self.ready,
            deleting=self.deleting,
            host_network=self.host_network,
            ports=ports,
        )

    def to_json(self) -> Json:
        """What another process of the node goes on from."""
        restarts = {item.name: item.restarts for item in self.containers}
        names = ("name", "number", "namespace", "owner", "template", "labels", "spec", "address", "deleting")
        return {**{name: getattr(self, name) for name in names}, "restarts": restarts}


def pod_folder(run: str, pod: Pod) -> Path:
    """The folder of a pod."""
    return folder(run) / str(pod.number)


def make(site: Site, cluster: Cluster, pod: Pod) -> None:
    """Make its network namespace and volumes.

    Raises:
        PodWaiting: a ConfigMap or Secret is not there, or lacks a key.
    """
    place = pod_folder(site.run, pod)
    (place / "root").mkdir(parents=True, exist_ok=True)
    place.chmod(0o700)
    for volume in pod.spec.get("volumes") or ():
        _volume(cluster, pod, volume, place / "volumes" / volume["name"])
    if not pod.host_network:
        site.lab.ensure_host(Host(pod.host, (Link(PODS, f"{pod.address}/32"),)))
        site.script(pod.host, pod_script())


def pod_script() -> str:
    """Return the shell script that gives a pod its one way out, over the node."""
    return f"ip route replace default via {POD_GATEWAY} dev eth0 onlink"


def remove(site: Site, pod: Pod) -> None:
    """Remove what is there of a pod whose containers have ended."""
    for container in pod.containers:
        site.lab.remove_process(pod.host, pod.process(container), grace_s=0.0)
    if not pod.host_network:
        site.lab.remove_host(pod.host)
    shutil.rmtree(pod_folder(site.run, pod), ignore_errors=True)


# -- volumes -----------------------------------------------------------------------------------------------------------


def _volume(cluster: Cluster, pod: Pod, volume: Json, place: Path) -> None:
    group = int((pod.spec.get("securityContext") or {}).get("fsGroup", 0))
    place.mkdir(parents=True, exist_ok=True)
    if "emptyDir" in volume:
        os.chown(place, 0, group)
        place.chmod(0o2777)
        return
    files, default = volume_files(cluster, pod.namespace, volume)
    for name, (data, mode) in files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.touch(0o600)
        path.write_bytes(data)
        os.chown(path, 0, group)
        # Whoever is in the group of the pod's files may read them (fsGroup).
        path.chmod((mode or default) | (0o040 if group else 0))
    place.chmod(0o755)


def volume_files(cluster: Cluster, namespace: str, volume: Json) -> tuple[dict[str, tuple[bytes, int | None]], int]:
    """Return the files of a volume by relative path, with modes of their own, and the mode of the others.

    Raises:
        PodWaiting: an object or a key is not there.
    """
    if "projected" in volume:
        projected = volume["projected"]
        files: dict[str, tuple[bytes, int | None]] = {}
        for source in projected.get("sources") or ():
            for kind, field_name in (("ConfigMap", "configMap"), ("Secret", "secret")):
                if field_name in source:
                    given = source[field_name]
                    files |= _files(cluster, kind, namespace, given["name"], given)
        return files, int(projected.get("defaultMode", DEFAULT_MODE))
    if "configMap" in volume:
        given = volume["configMap"]
        return _files(cluster, "ConfigMap", namespace, given["name"], given), int(
            given.get("defaultMode", DEFAULT_MODE)
        )
    given = volume["secret"]
    return _files(cluster, "Secret", namespace, given["secretName"], given), int(given.get("defaultMode", DEFAULT_MODE))


def _files(cluster: Cluster, kind: str, namespace: str, name: str, given: Json) -> dict[str, tuple[bytes, int | None]]:
    data = data_of(cluster, kind, namespace, name)
    if data is None:
        if given.get("optional"):
            return {}
        raise PodWaiting(f'MountVolume.SetUp failed: {kind.lower()} "{name}" not found')
    if not given.get("items"):
        return {key: (value, None) for key, value in data.items()}
    found: dict[str, tuple[bytes, int | None]] = {}
    for item in given["items"]:
        if item["key"] not in data:
            raise PodWaiting(f'MountVolume.SetUp failed: {kind.lower()} "{name}" has no key {item["key"]!r}')
        found[item["path"]] = (data[item["key"]], None)
    return found


def data_of(cluster: Cluster, kind: str, namespace: str, name: str) -> dict[str, bytes] | None:
    """What a ConfigMap or Secret holds, by key."""
    found = cluster.get(kind, namespace, name)
    if found is None:
        return None
    encoded = "binaryData" if kind == "ConfigMap" else "data"
    plain = "data" if kind == "ConfigMap" else "stringData"
    made = {key: base64.b64decode(text) for key, text in (found.get(encoded) or {}).items()}
    return made | {key: str(text).encode() for key, text in (found.get(plain) or {}).items()}


# -- containers --------------------------------------------------------------------------------------------------------


def start(site: Site, cluster: Cluster, pod: Pod, container: Container) -> ProcessInfo:
    """Start a container's process.

    Raises:
        PodWaiting: a variable's ConfigMap or Secret is not there, or it would run as root.
    """
    place = pod_folder(site.run, pod)
    spec = sandbox_spec(cluster, pod, container.index, root=str(place / "root"), volumes=place / "volumes")
    resolver = _resolv_conf(pod, home(site.run).router)
    hosts = f"127.0.0.1 localhost\n{pod.address} {pod.name}\n"
    spec["files"] = {**spec["files"], "/etc/resolv.conf": resolver, "/etc/hosts": hosts}
    path = place / f"{container.name}.json"
    path.touch(0o600)
    path.write_text(json.dumps(spec))
    argv = (*_UNSHARE, sys.executable, "-I", "-S", str(k8s_sandbox.__file__), str(path))
    return site.lab.spawn(pod.host, pod.process(container), argv, cwd="/", log_path=log_path(site.run, pod, container))


def entered(pid: int) -> bool:
    """Whether a container's process has become its command; before, it is unshare(1) and the sandbox."""
    with contextlib.suppress(OSError, ValueError):
        (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        words = Path(f"/proc/{child}/cmdline").read_bytes()
        return bool(words) and str(k8s_sandbox.__file__).encode() not in words
    return False


def log_path(run: str, pod: Pod, container: Container) -> Path:
    """Where a container's output goes, over restarts."""
    return folder(run).parent / "log" / f"pod-{pod.number}-{container.name}.log"


def sandbox_spec(cluster: Cluster, pod: Pod, index: int, *, root: str, volumes: Path) -> Json:
    """Return what the sandbox is to do for a container; /etc/resolv.conf and /etc/hosts are still to come.

    Args:
        index: of the container in the pod's specification.
        root: an empty folder.
        volumes: the folder of the pod's volumes.

    Raises:
        PodWaiting: as `start`.
    """
    manifest = pod.spec["containers"][index]
    image = contents(manifest["image"])
    if image is None:
        raise PodWaiting(f"ErrImagePull: the twin has no contents for {manifest['image']}")
    whole, own = pod.spec.get("securityContext") or {}, manifest.get("securityContext") or {}
    context = {**whole, **own}
    uid = int(context.get("runAsUser", image.user))
    gid = int(context.get("runAsGroup", image.user if "runAsUser" not in context else 0))
    if uid == 0:
        raise PodWaiting("CreateContainerConfigError: the twin runs no container as root")
    groups = [gid, *(int(group) for group in whole.get("supplementalGroups") or ())]
    if "fsGroup" in whole:
        groups.append(int(whole["fsGroup"]))
    binds: list[list[Any]] = [[source, target, True] for source, target in image.binds]
    for mount in sorted(manifest.get("volumeMounts") or (), key=lambda mount: str(mount["mountPath"])):
        source = volumes / mount["name"] / mount.get("subPath", "")
        binds.append([str(source), mount["mountPath"], bool(mount.get("readOnly"))])
    command, args = manifest.get("command"), manifest.get("args")
    argv = [*(command or image.entrypoint), *(args or (() if command else image.command))]
    return {
        "name": manifest["name"],
        "root": root,
        "links": dict(image.links),
        "files": dict(image.files),
        "binds": binds,
        "read_only": bool(own.get("readOnlyRootFilesystem")),
        "uid": uid,
        "gid": gid,
        "groups": list(dict.fromkeys(groups)),
        "cwd": manifest.get("workingDir") or "/",
        "argv": argv,
        "env": {**image.environment, "HOSTNAME": pod.name, **environment(cluster, pod.namespace, manifest)},
    }


def environment(cluster: Cluster, namespace: str, manifest: Mapping[str, Any]) -> dict[str, str]:
    """A container's variables. Raises PodWaiting where one comes from what is not there."""
    found = {}
    for item in manifest.get("env") or ():
        source = item.get("valueFrom")
        if not source:
            found[item["name"]] = str(item.get("value") or "")
            continue
        for kind, field_name in (("ConfigMap", "configMapKeyRef"), ("Secret", "secretKeyRef")):
            if field_name in source:
                given = source[field_name]
                data = data_of(cluster, kind, namespace, given["name"]) or {}
                if given["key"] in data:
                    found[item["name"]] = data[given["key"]].decode()
                elif not given.get("optional"):
                    what = f'{kind.lower()} "{given["name"]}"'
                    raise PodWaiting(f"CreateContainerConfigError: {what} has no key {given['key']!r}, or is not there")
    return found


def _resolv_conf(pod: Pod, router: str) -> str:
    policy = pod.spec.get("dnsPolicy") or "ClusterFirst"
    if policy == "Default" or (policy == "ClusterFirst" and pod.host_network):
        return f"nameserver {router}\n"
    search = " ".join((f"{pod.namespace}.svc.{DOMAIN}", f"svc.{DOMAIN}", DOMAIN))
    return f"search {search}\nnameserver {DNS_ADDRESS}\noptions ndots:5\n"
