"""What the node says of objects: whether a Deployment is rolled out, whether a Service can be used. Pure."""

from collections.abc import Mapping, Sequence

from infra.twin import k8s_rollout
from infra.twin.k8s_objects import Json, PodView, endpoints, is_balancer, key_of, template_hash
from infra.twin.k8s_pod import Pod
from infra.twin.k8s_rollout import Replica


def deployment_status(deployment: Json, generation: int, replicas: Sequence[Replica]) -> Json:
    """Whether a Deployment is rolled out, and its counts."""
    spec = deployment["spec"]
    wanted = template_hash(spec["template"])
    active = [item for item in replicas if not item.deleting]
    counts = {
        "observedGeneration": generation,
        "replicas": len(active),
        "updatedReplicas": sum(item.template == wanted for item in active),
        "readyReplicas": sum(item.ready for item in active),
        "availableReplicas": sum(item.available for item in active),
    }
    return {"ready": k8s_rollout.complete(spec, wanted, replicas), "status": counts}


def service_status(service: Json, pods: Sequence[PodView], given: Mapping[str, str]) -> Json:
    """Whether a Service can be used, as the real provider awaits it: endpoints, and an address where it wants one."""
    message, status = "", {}
    spec = service["spec"]
    if spec.get("selector") and spec.get("clusterIP") != "None" and not endpoints(service, pods):
        message = "the Service does not target any ready pod"
    if is_balancer(service):
        address = given.get(key_of(service))
        if address is None:
            message = "the Service was given no address: no CiliumLoadBalancerIPPool has it for this Service"
        else:
            status = {"loadBalancer": {"ingress": [{"ip": address}]}}
    elif spec.get("type") == "LoadBalancer":
        message = f"nothing on the node serves loadBalancerClass {spec.get('loadBalancerClass')!r}"
    return {"ready": not message, "message": message, "status": status}


def waiting(pod: Pod) -> str:
    """What keeps a pod from being ready, empty when it is."""
    if pod.ready or pod.deleting:
        return ""
    if not pod.made:
        return pod.said if pod.said != "making" else "ContainerCreating"
    for container in pod.containers:
        if container.said and not (container.prober and container.prober.ready):
            return f"container {container.name}: {container.said}"
        if container.prober is not None and container.prober.waiting:
            return f"container {container.name}: {container.prober.waiting}"
    return "its containers start"


def pod_row(pod: Pod) -> Json:
    """A pod as status.json has it."""
    return {
        "name": pod.name,
        "owner": pod.owner,
        "namespace": pod.namespace,
        "address": pod.address,
        "host": pod.host,
        "template": pod.template,
        "ready": pod.ready,
        "deleting": pod.deleting,
        "restarts": sum(item.restarts for item in pod.containers),
        "message": waiting(pod),
        "containers": {item.name: item.pid for item in pod.containers},
    }
