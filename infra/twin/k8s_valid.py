"""What API server, admission or Cilium refuse beyond the schemas, and values that the twin does not model. Pure."""

import ipaddress
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from infra.engine.props import UNKNOWN
from infra.engine.providers import Failure
from infra.twin.interface import Json
from infra.twin.k8s_objects import is_address, matches, pool_addresses

RESTRICTED: Final = "restricted"
ENFORCE: Final = "pod-security.kubernetes.io/enforce"
LARGEST_OBJECT_BYTES: Final = 1 << 20


def validate(kind: str, inputs: Json) -> Iterator[Failure]:
    """Yield what is wrong with an object's values."""
    check = _CHECKS.get(kind)
    if check is not None:
        yield from check(inputs)


def _one_of(path: str, value: Any, allowed: Sequence[Any], why: str = "") -> Iterator[Failure]:
    if value is not None and value != UNKNOWN and value not in allowed:
        shown = ", ".join(str(item) for item in allowed)
        yield Failure(path, f"the twin models {shown} and not {value!r}{why}")


def _service(inputs: Json) -> Iterator[Failure]:
    spec = inputs.get("spec") or {}
    yield from _one_of("spec.type", spec.get("type"), ("ClusterIP", "LoadBalancer"))
    yield from _one_of("spec.ipFamilyPolicy", spec.get("ipFamilyPolicy"), ("SingleStack",))
    yield from _one_of("spec.ipFamilies", spec.get("ipFamilies"), (["IPv4"],))
    yield from _one_of("spec.sessionAffinity", spec.get("sessionAffinity"), ("None",))
    yield from _one_of("spec.externalTrafficPolicy", spec.get("externalTrafficPolicy"), ("Local", "Cluster"))
    yield from _one_of("spec.clusterIP", spec.get("clusterIP"), ("None",), ": it gives addresses itself")
    if spec.get("externalTrafficPolicy") and spec.get("type") != "LoadBalancer":
        yield Failure("spec.externalTrafficPolicy", "may only be set for Services that are reached from outside")
    ports = spec.get("ports") or ()
    for index, port in enumerate(ports):
        yield from _one_of(f"spec.ports[{index}].protocol", port.get("protocol"), ("TCP", "UDP"))
        if len(ports) > 1 and not port.get("name"):
            yield Failure(f"spec.ports[{index}].name", "is required where a Service has several ports")
    seen = [(port.get("protocol", "TCP"), port.get("port")) for port in ports]
    for pair in {pair for pair in seen if seen.count(pair) > 1}:
        yield Failure("spec.ports", f"port {pair[1]}/{pair[0]} stands there twice")


def _deployment(inputs: Json) -> Iterator[Failure]:
    spec = inputs.get("spec") or {}
    template = spec.get("template") or {}
    labels, selector = (template.get("metadata") or {}).get("labels") or {}, spec.get("selector")
    if UNKNOWN not in (labels, selector) and not matches(selector, labels):
        yield Failure("spec.selector", f"does not choose the pods of its own template, whose labels are {labels}")
    pod = template.get("spec") or {}
    yield from _one_of("spec.template.spec.restartPolicy", pod.get("restartPolicy"), ("Always",))
    yield from _one_of(
        "spec.template.spec.dnsPolicy", pod.get("dnsPolicy"), ("ClusterFirst", "ClusterFirstWithHostNet", "Default")
    )
    volumes = {volume["name"] for volume in pod.get("volumes") or () if "name" in volume}
    for index, container in enumerate(pod.get("containers") or ()):
        path = f"spec.template.spec.containers[{index}]"
        for mount in container.get("volumeMounts") or ():
            if mount.get("name") not in volumes:
                yield Failure(f"{path}.volumeMounts", f"there is no volume {mount.get('name')!r} in the pod")
        yield from _user(f"{path}.securityContext", {**(pod.get("securityContext") or {}), **_security(container)})


def _user(path: str, context: Mapping[str, Any]) -> Iterator[Failure]:
    user = context.get("runAsUser")
    if user == 0 and user is not False:
        yield Failure(f"{path}.runAsUser", "the twin runs no container as root: choose another user")


def _security(container: Mapping[str, Any]) -> dict[str, Any]:
    return dict(container.get("securityContext") or {})


def _policy(inputs: Json) -> Iterator[Failure]:
    spec = inputs.get("spec") or {}
    for direction in ("ingress", "egress"):
        for index, rule in enumerate(spec.get(direction) or ()):
            for port in rule.get("ports") or ():
                if isinstance(port.get("port"), str):
                    yield Failure(
                        f"spec.{direction}[{index}].ports", f"the twin models numbers, not names as {port['port']!r}"
                    )
                yield from _one_of(f"spec.{direction}[{index}].ports", port.get("protocol"), ("TCP", "UDP"))
            for peer in rule.get("from" if direction == "ingress" else "to") or ():
                for text in (peer.get("ipBlock") or {}).get("cidr"), *((peer.get("ipBlock") or {}).get("except") or ()):
                    if text is not None and text != UNKNOWN:
                        yield from _network(f"spec.{direction}[{index}]", text)


def _network(path: str, text: str) -> Iterator[Failure]:
    try:
        ipaddress.IPv4Network(text)
    except ValueError as error:
        yield Failure(path, f"{text!r} is no IPv4 network ({error})")


def _pool(inputs: Json) -> Iterator[Failure]:
    for index, block in enumerate((inputs.get("spec") or {}).get("blocks") or ()):
        path = f"spec.blocks[{index}]"
        if "cidr" in block:
            yield from _network(path, block["cidr"])
        elif not is_address(str(block.get("start"))) or not is_address(str(block.get("stop", block.get("start")))):
            yield Failure(path, "is neither a cidr nor start and stop, of IPv4")
        elif not list(pool_addresses({"spec": {"blocks": [block]}})):
            yield Failure(path, "stops before it starts")


def _secret(inputs: Json) -> Iterator[Failure]:
    held = [inputs.get(name) or {} for name in ("stringData", "data")]
    if not all(isinstance(values, Mapping) for values in held):
        return  # unknown before certificates are made
    missing = {"tls.crt", "tls.key"} - {key for values in held for key in values}
    if inputs.get("type") == "kubernetes.io/tls" and missing:
        yield Failure("data", f"a Secret of type kubernetes.io/tls must have {', '.join(sorted(missing))}")
    size = sum(len(str(value)) for values in held for value in values.values())
    if size > LARGEST_OBJECT_BYTES:
        yield Failure("data", f"has {size} bytes; an object holds at most {LARGEST_OBJECT_BYTES}")


_CHECKS: Final[Mapping[str, Callable[[Json], Iterator[Failure]]]] = {
    "Service": _service,
    "Deployment": _deployment,
    "NetworkPolicy": _policy,
    "CiliumLoadBalancerIPPool": _pool,
    "Secret": _secret,
}


def forbidden(pod: Mapping[str, Any], level: str) -> list[str]:
    """What Pod Security admission has against a pod at level `restricted`; nothing at any other level.

    Source: kubernetes.io/docs/concepts/security/pod-security-standards. What the twin never has (host ports, sysctls,
    privileges) is refused earlier and not looked for here.
    """
    if level != RESTRICTED:
        return []
    found, whole = [], dict(pod.get("securityContext") or {})
    if pod.get("hostNetwork"):
        found.append("host namespaces (hostNetwork=true)")
    for container in pod.get("containers") or ():
        name, own = container["name"], {**whole, **_security(container)}
        if _security(container).get("allowPrivilegeEscalation") is not False:
            found.append(f'allowPrivilegeEscalation != false (container "{name}")')
        if "ALL" not in (_security(container).get("capabilities") or {}).get("drop", ()):
            found.append(f'unrestricted capabilities (container "{name}" must set capabilities.drop=["ALL"])')
        if own.get("runAsNonRoot") is not True:
            found.append(f'runAsNonRoot != true (container "{name}")')
        if (own.get("seccompProfile") or {}).get("type") not in ("RuntimeDefault", "Localhost"):
            found.append(f'seccompProfile (container "{name}" must be RuntimeDefault or Localhost)')
    return found
