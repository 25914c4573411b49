"""The kubernetes package: objects are checked, written down, and waited for; the node does the rest.

An object is an item of the store; its id is `NAMESPACE/NAME` as the provider has it. Who makes one waits as the
provider does: for a Deployment until it is rolled out, for a Service until it has endpoints and its address.

Source: https://github.com/pulumi/pulumi-kubernetes/blob/master/provider/pkg/provider/diff.go (force-new)
"""

import base64
import os
import uuid
from collections.abc import Iterator
from typing import Any, ClassVar, Final

from infra.engine.providers import Failure
from infra.twin import k8s_cluster, k8s_fields, k8s_schema
from infra.twin.forms import now
from infra.twin.interface import Call, Json, Made, NotReady, TwinError, TwinType, known
from infra.twin.k8s_images import contents, known_images
from infra.twin.k8s_objects import CLUSTER_KINDS, key_of
from infra.twin.k8s_valid import validate
from infra.twin.provider import Package
from infra.twin.site import OUTSIDE, Site
from infra.twin.store import Item

DEPLOYMENT_WAIT_S: Final = 600.0
SERVICE_WAIT_S: Final = 600.0
"""What the real provider waits by itself."""
SEEN_WAIT_S: Final = 30.0
SKIP_AWAIT: Final = "pulumi.com/skipAwait"
_NAMESPACE: Final = uuid.UUID("5b1b7f5a-3c1c-4a53-9f0e-2d6f1c7e8a10")


class K8sObject(TwinType):
    """An object of any kind."""

    kind: ClassVar[str]
    wait_s: ClassVar[float] = 0.0
    force_new = frozenset({"apiVersion", "kind"})
    in_place = frozenset(
        {"metadata", "spec", "data", "binaryData", "stringData", "type", "immutable", "automountServiceAccountToken"}
    )
    delete_before_replace = True

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        cls.left_out = k8s_fields.tree_left_out(cls.kind)
        cls.in_place = K8sObject.in_place - set(cls.left_out)

    def validate(self, inputs: Json) -> Iterator[Failure]:
        metadata = inputs.get("metadata") or {}
        if known(metadata) and metadata.get("name") is None:
            yield Failure("metadata.name", "the twin names no objects: give it a name")
            return
        refused = list(k8s_fields.refused(self.kind, inputs))
        yield from refused or (*k8s_schema.failures(_manifest(self, inputs)), *validate(self.kind, inputs))

    def notes(self, name: str, inputs: Json) -> Iterator[str]:
        for field, why in k8s_fields.left_out(self.kind, inputs):
            if "." in field:  # the others are told of by the table
                yield f"not modelled by the twin: {self.kind} {field}: {why}"
        if not k8s_schema.available():
            yield (
                "objects of Kubernetes are checked against the SDK's types alone: for the API's own schemas "
                "pip install kubernetes-validate"
            )

    def replaces(self, changed: frozenset[str], olds: Json, news: Json) -> frozenset[str]:
        before, after = olds.get("metadata") or {}, news.get("metadata") or {}
        moved = any(before.get(name) != after.get(name) for name in ("name", "namespace"))
        return (changed & {"metadata"} if moved else frozenset()) | (changed & self.force_new)

    def create(self, call: Call, inputs: Json) -> Made:
        manifest = _manifest(self, inputs)
        key = key_of(manifest)
        k8s_cluster.furnish(call.site)

        def fill(number: int, items: list[Item]) -> tuple[str, Json]:
            self._admit(key, items)
            return _id(key), {"key": key, "object": manifest, "created": now(), "generation": 0}

        item = call.site.store.begin(call.urn, self.type_name, fill)
        return self._put(call.site, item, manifest)

    def update(self, call: Call, outputs: Json, olds: Json, news: Json) -> Json:
        item = call.site.store.get(self.type_name, call.id)
        if item is None:
            raise TwinError(f"{self.kind} {call.id} not found: run refresh, and up again")
        k8s_cluster.furnish(call.site)
        return self._put(call.site, item, _manifest(self, news)).outputs

    def _put(self, site: Site, item: Item, manifest: Json) -> Made:
        """Write an object down and wait for it. Raises NotReady."""
        outside = os.environ.get(OUTSIDE)
        prefix = ("nsenter", f"--net={outside}", "--") if outside else ()
        said = k8s_schema.ask_server(manifest, outside=prefix)
        if said:
            raise TwinError(f"the API server refuses it: {said}")
        given = self._give(site, item, manifest)
        before = int(item.data["generation"])
        generation = before + 1 if not before or item.data["object"] != given else before
        item = site.store.change(item.number, {"object": given, "generation": generation}) or item
        made = Made(id=item.id, outputs=self._outputs(site, item))
        if not self.wait_s:
            return made
        key = item.data["key"]
        if (given["metadata"].get("annotations") or {}).get(SKIP_AWAIT) == "true":
            return made
        self._await(site, item, made, key, generation)
        return Made(id=item.id, outputs=self._outputs(site, item))

    def _await(self, site: Site, item: Item, made: Made, key: str, generation: int) -> None:
        last: Json = {}

        def done(status: Json) -> bool:
            nonlocal last
            last = status["objects"].get(key) or {}
            here = last.get("generation") == generation
            return here and bool(last.get("ready") or last.get("failed"))

        if not k8s_cluster.wait(site, done, self.wait_s) or not last.get("ready"):
            raise NotReady(made, last.get("message") or f"{key} is not ready after {self.wait_s:g} s")

    def _admit(self, key: str, items: list[Item]) -> None:
        """Raise TwinError where the API refuses a new object beside those that are there."""
        kind, space, name = key.split("/")
        keys = {item.data["key"] for item in items if item.token.startswith("kubernetes:")}
        if key in keys:
            raise TwinError(f'{kind} "{name}" already exists in namespace "{space}"')
        if space and space != "default" and f"Namespace//{space}" not in keys:
            raise TwinError(f'namespaces "{space}" not found')

    def _give(self, site: Site, item: Item, manifest: Json) -> Json:
        """Return the object with what the API server fills in."""
        return manifest

    def read(self, call: Call, outputs: Json) -> Json | None:
        item = call.site.store.get(self.type_name, call.id)
        return self._outputs(call.site, item) if item is not None else None

    def delete(self, call: Call, outputs: Json, inputs: Json) -> None:
        item = call.site.store.get(self.type_name, call.id)
        if item is not None:
            call.site.store.drop(item.number)

    def _outputs(self, site: Site, item: Item) -> Json:
        given, generation = item.data["object"], int(item.data["generation"])
        metadata = {
            **given["metadata"],
            "uid": str(uuid.uuid5(_NAMESPACE, f"{site.run}/{item.number}")),
            "resourceVersion": str(item.number * 1000 + generation),
            "generation": generation,
            "creationTimestamp": item.data["created"],
        }
        said = k8s_cluster.status(site.run)["objects"].get(item.data["key"]) or {}
        return {**given, "metadata": metadata, "status": said.get("status") or {}}


class Namespace(K8sObject):
    kind, type_name = "Namespace", "kubernetes:core/v1:Namespace"
    model = "a name that objects are in; pods are admitted by its Pod Security level"

    def delete(self, call: Call, outputs: Json, inputs: Json) -> None:
        name = inputs["metadata"]["name"]
        for item in call.site.store.items():
            if item.token.startswith("kubernetes:") and item.data["key"].split("/")[1] == name:
                call.site.store.drop(item.number)
        super().delete(call, outputs, inputs)


class ConfigMap(K8sObject):
    kind, type_name = "ConfigMap", "kubernetes:core/v1:ConfigMap"
    model = "files and variables of the pods that name it, as they are when the container starts"
    limits = ("files of a running pod are not brought up to date when it changes: the pod must be replaced",)


class Secret(K8sObject):
    kind, type_name = "Secret", "kubernetes:core/v1:Secret"
    model = "as a ConfigMap, in memory, with mode and group as the pod says"
    limits = ConfigMap.limits
    secret_outputs = ("data", "stringData")

    def replaces(self, changed: frozenset[str], olds: Json, news: Json) -> frozenset[str]:
        return super().replaces(changed, olds, news) | (changed & {"type"})

    def _outputs(self, site: Site, item: Item) -> Json:
        outputs = super()._outputs(site, item)
        encoded = {
            name: base64.b64encode(text.encode()).decode() for name, text in (outputs.get("stringData") or {}).items()
        }
        return {**outputs, "data": {**(outputs.get("data") or {}), **encoded}}


class ServiceAccount(K8sObject):
    kind, type_name = "ServiceAccount", "kubernetes:core/v1:ServiceAccount"
    model = "a record: there is no API that pods could talk to"

    def _outputs(self, site: Site, item: Item) -> Json:
        return {"secrets": [], "imagePullSecrets": [], **super()._outputs(site, item)}


class PodDisruptionBudget(K8sObject):
    kind, type_name = "PodDisruptionBudget", "kubernetes:policy/v1:PodDisruptionBudget"
    model = "a record"


class NetworkPolicy(K8sObject):
    kind, type_name = "NetworkPolicy", "kubernetes:networking.k8s.io/v1:NetworkPolicy"
    model = "nftables rules of the node between pods, and between them and everything else"
    limits = (
        "as with Cilium a block of addresses stands for those outside the cluster, and the node reaches its own pods",
        "a flow that is under way goes on when a policy that let it in is taken away",
    )


class Service(K8sObject):
    kind, type_name = "Service", "kubernetes:core/v1:Service"
    wait_s = SERVICE_WAIT_S
    model = (
        "an address of 10.43.0.0/16 that nftables of the node translate to ready pods; a LoadBalancer also an address "
        "of the home's LAN that the node answers ARP for"
    )
    limits = (
        "externalTrafficPolicy Cluster rewrites the source of every packet from outside, as kube-proxy does and Cilium "
        "does for a pod on another node than the one that answers ARP",
    )

    def replaces(self, changed: frozenset[str], olds: Json, news: Json) -> frozenset[str]:
        before, after = olds.get("spec") or {}, news.get("spec") or {}
        moved = after.get("clusterIP") is not None and before.get("clusterIP") != after.get("clusterIP")
        return super().replaces(changed, olds, news) | (changed & {"spec"} if moved else frozenset())

    def _give(self, site: Site, item: Item, manifest: Json) -> Json:
        spec = dict(manifest["spec"])
        spec.setdefault("type", "ClusterIP")
        if spec["type"] == "LoadBalancer":
            spec.setdefault("externalTrafficPolicy", "Cluster")
        if not spec.get("clusterIP"):
            # The number of an item is never used again.
            spec["clusterIP"] = str(k8s_cluster.SERVICE_NETWORK[256 + item.number])
        return {**manifest, "spec": spec}


class Deployment(K8sObject):
    kind, type_name = "Deployment", "kubernetes:apps/v1:Deployment"
    wait_s = DEPLOYMENT_WAIT_S
    model = "pods: a network namespace each, and a process of every container without root and without capabilities"
    limits = (
        "an image's contents are this machine's Python, this project's libraries and sources; its digest is not "
        "looked at",
        "the node is one, of this machine's own architecture and kernel",
    )

    def validate(self, inputs: Json) -> Iterator[Failure]:
        yield from super().validate(inputs)
        spec = ((inputs.get("spec") or {}).get("template") or {}).get("spec") or {}
        for index, container in enumerate(spec.get("containers") or ()):
            image = container.get("image")
            if known(image) and contents(str(image)) is None:
                yield Failure(
                    f"spec.template.spec.containers[{index}].image",
                    f"the twin has no contents for image {image!r}; it has those of repositories that end in "
                    f"{', '.join(known_images())} (docs/twin.md)",
                )

    def replaces(self, changed: frozenset[str], olds: Json, news: Json) -> frozenset[str]:
        before, after = (inputs.get("spec") or {} for inputs in (olds, news))
        other = before.get("selector") != after.get("selector")
        return super().replaces(changed, olds, news) | (changed & {"spec"} if other else frozenset())

    def delete(self, call: Call, outputs: Json, inputs: Json) -> None:
        item = call.site.store.get(self.type_name, call.id)
        super().delete(call, outputs, inputs)
        if item is None or not k8s_cluster.stands(call.site):
            return
        key = item.data["key"]
        gone = k8s_cluster.wait(
            call.site, lambda status: not any(pod["owner"] == key for pod in status["pods"]), self.wait_s
        )
        if not gone:
            raise TwinError(f"pods of {key} are still there after {self.wait_s:g} s")


class Pool(K8sObject):
    kind = "CiliumLoadBalancerIPPool"
    type_name = "kubernetes:cilium.io/v2:CiliumLoadBalancerIPPool"
    model = "addresses that LoadBalancer Services are given"


class OlderPool(Pool):
    type_name = "kubernetes:cilium.io/v2alpha1:CiliumLoadBalancerIPPool"


class Announcement(K8sObject):
    kind = "CiliumL2AnnouncementPolicy"
    type_name = "kubernetes:cilium.io/v2alpha1:CiliumL2AnnouncementPolicy"
    model = "the node answers ARP for addresses of Services, on the interfaces that it names"
    limits = ("there is one node, so no lease is fought over",)


TYPES: Final[tuple[K8sObject, ...]] = (
    Namespace(), ConfigMap(), Secret(), ServiceAccount(), PodDisruptionBudget(), NetworkPolicy(), Service(),
    Deployment(), Pool(), OlderPool(), Announcement(),
)  # fmt: skip


def _manifest(kind: K8sObject, inputs: Json) -> Json:
    _, version, _ = kind.type_name.split(":")
    given = inputs.get("apiVersion") or version.removeprefix("core/")
    body = {name: value for name, value in inputs.items() if name != "status" and value is not None}
    return {**body, "apiVersion": given, "kind": kind.kind}


def _id(key: str) -> str:
    kind, space, name = key.split("/")
    return name if kind in CLUSTER_KINDS else f"{space}/{name}"


def _refuse(config: Json) -> Iterator[Failure]:
    if config.get("renderYamlToDirectory"):
        yield Failure(
            "renderYamlToDirectory",
            "manifests that are rendered touch no cluster, and none of the twin: leave pi-home:renderDir out "
            "(ztna render writes manifests)",
        )
    for key in ("enableConfigMapMutable", "enableSecretMutable"):
        value: Any = config.get(key)
        if str(value).lower() != "true":
            yield Failure(key, "the twin changes ConfigMaps and Secrets in place and never replaces them: set it true")


PACKAGE: Final = Package(
    name="kubernetes",
    types=TYPES,
    config=frozenset(
        {"kubeconfig", "context", "enableConfigMapMutable", "enableSecretMutable", "renderYamlToDirectory"}
    ),
    refuse=_refuse,
)
"""Its cluster is the twin's own, whatever kubeconfig and context say."""
