"""Objects as the provider takes them: what is refused and how it is said, what changes in place, what is replaced."""

import copy
from pathlib import Path
from typing import Any

import pytest

from infra.engine.props import UNKNOWN
from infra.twin import k8s, k8s_cluster, k8s_fields, k8s_schema
from infra.twin.interface import NotReady, TwinError
from infra.twin.k8s import PACKAGE, Deployment, Namespace, Secret, Service
from infra.twin.k8s_cluster import Home, home_of
from tests.infra.twin.k8s_world import SPACE, deployment, metadata, server, service
from tests.infra.twin.sites import NotedSite, call, noted_site, urn
from tests.support.pi_home import objects

KINDS = {kind.type_name: kind for kind in k8s.TYPES}
POOL = KINDS["kubernetes:cilium.io/v2:CiliumLoadBalancerIPPool"]
POLICY = KINDS["kubernetes:cilium.io/v2alpha1:CiliumL2AnnouncementPolicy"]
RULES = KINDS["kubernetes:networking.k8s.io/v1:NetworkPolicy"]
WEB = deployment("web", server())
POD = "spec.template.spec"
FIRST = f"{POD}.containers.0"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NotedSite:
    """A world in which the node has seen everything, and all is well."""
    monkeypatch.setattr(k8s_cluster, "furnish", lambda site: None)
    monkeypatch.delenv(k8s_schema.VARIABLE, raising=False)

    def wait(site: NotedSite, done: Any, timeout_s: float) -> bool:
        objects = {
            item.data["key"]: {"generation": item.data["generation"], "ready": True} for item in site.store.items()
        }
        return bool(done({"objects": objects, "pods": []}))

    monkeypatch.setattr(k8s_cluster, "wait", wait)
    return noted_site(tmp_path, monkeypatch)


def words(kind: Any, inputs: dict[str, Any]) -> str:
    return "\n".join(f"{item.property}: {item.reason}" for item in kind.validate(inputs))


def changed(inputs: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with the value at a path, as in spec.ports.0.port."""
    made = copy.deepcopy(inputs)
    at: Any = made
    *steps, last = path.split(".")
    for step in steps:
        at = at[int(step)] if isinstance(at, list) else at[step]
    at[last] = value
    return made


def test_every_object_of_pi_home_is_taken() -> None:
    for item in objects().values():
        group, _, version = item["apiVersion"].rpartition("/")
        kind = KINDS[f"kubernetes:{group or 'core'}/{version}:{item['kind']}"]
        assert words(kind, item) == "", item["kind"]


@pytest.mark.parametrize(
    ("kind", "inputs", "said"),
    [
        (
            Deployment(),
            changed(WEB, f"{POD}.initContainers", [{"name": "x"}]),
            "does not model spec.template.spec.initContainers",
        ),
        (
            Deployment(),
            changed(WEB, f"{FIRST}.livenessProbe.exec", {"command": ["x"]}),
            "containers.livenessProbe.exec",
        ),
        (Deployment(), changed(WEB, "spec.replica", 2), "(did you mean 'replicas'?)"),
        (Deployment(), changed(WEB, "spec.replicas", "two"), "refuses it"),
        (Deployment(), changed(WEB, "spec.selector.matchLabels", {"app": "other"}), "the pods of its own template"),
        (Deployment(), changed(WEB, f"{FIRST}.image", "nginx:1"), "no contents for image 'nginx:1'"),
        (Deployment(), changed(WEB, f"{POD}.securityContext.runAsUser", 0), "runs no container as root"),
        (Deployment(), changed(WEB, f"{POD}.volumes", []), "there is no volume 'tmp'"),
        (Service(), service("web", type="NodePort"), "the twin models ClusterIP, LoadBalancer and not 'NodePort'"),
        (Service(), service("web", externalTrafficPolicy="Local"), "reached from outside"),
        (Service(), service("web", sessionAffinity="ClientIP"), "sessionAffinity"),
        (Service(), service("web", externalTrafficPolice="Local"), "(did you mean 'externalTrafficPolicy'?)"),
        (
            Secret(),
            {"metadata": metadata("x"), "type": "kubernetes.io/tls", "stringData": {"tls.crt": ""}},
            "must have tls.key",
        ),
        (Namespace(), {"metadata": {"labels": {}}}, "the twin names no objects"),
        (POOL, {"metadata": {"name": "x"}, "spec": {"blocks": [{"cidr": "10.0.0.1/24"}]}}, "no IPv4 network"),
        (
            POOL,
            {"metadata": {"name": "x"}, "spec": {"blocks": [{"start": "10.0.0.9", "stop": "10.0.0.1"}]}},
            "stops before it starts",
        ),
        (POLICY, {"metadata": {"name": "x"}, "spec": {"loadBalancerIPs": "yes"}}, "Cilium's CRD refuses it"),
        (
            RULES,
            {"metadata": metadata("x"), "spec": {"podSelector": {}, "egress": [{"ports": [{"port": "http"}]}]}},
            "numbers, not names",
        ),
    ],
)
def test_what_is_wrong_is_refused_by_name(kind: Any, inputs: dict[str, Any], said: str) -> None:
    assert said in words(kind, inputs)


def test_unknown_values_of_a_preview_pass() -> None:
    assert words(Secret(), {"metadata": metadata("x"), "type": "kubernetes.io/tls", "stringData": UNKNOWN}) == ""
    assert words(Deployment(), changed(WEB, "spec.template.metadata.annotations", {"digest": UNKNOWN})) == ""


def test_what_is_taken_without_effect_is_told_once_by_field() -> None:
    told = list(Deployment().notes("web", changed(WEB, f"{FIRST}.resources", {"limits": {"memory": "1Mi"}})))
    field, why = f"{POD}.containers.resources.limits", "memory and CPU are not limited"
    assert f"not modelled by the twin: Deployment {field}: {why}" in told
    assert not [text for text in told if "enableServiceLinks" in text]


@pytest.mark.parametrize(
    ("kind", "before", "after", "replaced"),
    [
        (Deployment(), WEB, changed(WEB, "spec.replicas", 3), set()),
        (Deployment(), WEB, changed(WEB, "spec.selector.matchLabels", {"app": "b"}), {"spec"}),
        (Deployment(), WEB, changed(WEB, "metadata.name", "b"), {"metadata"}),
        (Deployment(), WEB, changed(WEB, "metadata.annotations", {"a": "b"}), set()),
        (Service(), service("web"), service("web", clusterIP="None"), {"spec"}),
        (Service(), service("web"), service("web", type="LoadBalancer"), set()),
        (
            Secret(),
            {"metadata": metadata("x"), "stringData": {"a": "1"}},
            {"metadata": metadata("x"), "stringData": {"a": "2"}},
            set(),
        ),
        (
            Secret(),
            {"metadata": metadata("x"), "type": "Opaque"},
            {"metadata": metadata("x"), "type": "other"},
            {"type"},
        ),
    ],
)
def test_replacements(kind: Any, before: dict[str, Any], after: dict[str, Any], replaced: set[str]) -> None:
    changes = frozenset(key for key in after if before.get(key) != after[key])
    assert kind.replaces(changes, before, after) == replaced


def make(site: NotedSite, kind: Any, inputs: dict[str, Any], name: str = "") -> Any:
    return kind.create(call(site, name or inputs["metadata"]["name"], kind=kind.type_name), inputs)


def test_objects_are_written_down_with_what_the_server_gives(site: NotedSite) -> None:
    assert make(site, Namespace(), {"metadata": {"name": SPACE}}).id == SPACE
    made = make(site, Service(), service("web", type="LoadBalancer"))
    assert made.id == f"{SPACE}/web"
    assert made.outputs["spec"]["clusterIP"].startswith("10.43.1.")
    assert made.outputs["spec"]["externalTrafficPolicy"] == "Cluster"
    assert made.outputs["metadata"]["generation"] == 1
    assert (made.outputs["kind"], made.outputs["apiVersion"]) == ("Service", "v1")
    secret = make(site, Secret(), {"metadata": metadata("keys"), "stringData": {"a": "1"}})
    assert secret.outputs["data"] == {"a": "MQ=="}


def test_an_update_is_another_generation_and_the_address_stays(site: NotedSite) -> None:
    make(site, Namespace(), {"metadata": {"name": SPACE}})
    before = make(site, Service(), service("web"))
    there = call(site, "web", before.id, Service.type_name)
    same = Service().update(there, before.outputs, service("web"), service("web"))
    assert same["metadata"]["generation"] == 1
    after = Service().update(there, before.outputs, service("web"), service("web", 81))
    assert after["metadata"]["generation"] == 2
    assert after["spec"]["clusterIP"] == before.outputs["spec"]["clusterIP"]


def test_a_create_that_comes_again_goes_on_and_takes_the_new_inputs(site: NotedSite) -> None:
    make(site, Namespace(), {"metadata": {"name": SPACE}})
    first = make(site, Deployment(), WEB)
    again = make(site, Deployment(), changed(WEB, "spec.replicas", 2))
    assert (again.id, again.outputs["spec"]["replicas"]) == (first.id, 2)
    assert len(site.store.items(Deployment.type_name)) == 1
    site.store.acknowledge(urn(Deployment.type_name, "web"), first.id)
    with pytest.raises(TwinError, match='Deployment "web" already exists'):
        make(site, Deployment(), WEB, name="another")


def test_without_its_namespace_nothing_is_made_and_with_it_all_goes(site: NotedSite) -> None:
    with pytest.raises(TwinError, match='namespaces "shop" not found'):
        make(site, Service(), service("web"))
    space = make(site, Namespace(), {"metadata": {"name": SPACE}})
    make(site, Service(), service("web"))
    Namespace().delete(call(site, SPACE, space.id), space.outputs, {"metadata": {"name": SPACE}})
    assert site.store.items() == []


def test_what_is_not_ready_is_kept_and_says_why(site: NotedSite, monkeypatch: pytest.MonkeyPatch) -> None:
    make(site, Namespace(), {"metadata": {"name": SPACE}})
    said = {"generation": 1, "ready": False, "failed": True, "message": "no image"}
    monkeypatch.setattr(
        k8s_cluster,
        "wait",
        lambda site, done, timeout_s: done({"objects": {f"Deployment/{SPACE}/web": said}, "pods": []}),
    )
    with pytest.raises(NotReady, match="no image") as failure:
        make(site, Deployment(), WEB)
    assert failure.value.made.id == f"{SPACE}/web"
    skipped = changed(deployment("b", server()), "metadata.annotations", {"pulumi.com/skipAwait": "true"})
    assert make(site, Deployment(), skipped).id == f"{SPACE}/b"


def test_configuration_that_is_not_the_twins_is_refused() -> None:
    good = {"enableConfigMapMutable": "true", "enableSecretMutable": "true", "context": "pi"}
    assert list(PACKAGE.refuse(good)) == []
    (found,) = PACKAGE.refuse({**good, "renderYamlToDirectory": "out"})
    assert "ztna render" in found.reason
    assert [item.property for item in PACKAGE.refuse({})] == ["enableConfigMapMutable", "enableSecretMutable"]


def test_the_home_is_the_network_around_the_address() -> None:
    home = home_of("192.168.7.200")
    assert (str(home.lan), home.router, home.node, home.laptop) == (
        "192.168.7.0/24", "192.168.7.1", "192.168.7.11", "192.168.7.50",
    )  # fmt: skip
    assert str(Home().lan) == "10.0.150.0/24"
    with pytest.raises(ValueError, match="needs for itself"):
        home_of("10.42.0.5")


def test_every_field_without_effect_has_its_reason() -> None:
    for kind in k8s_fields.SPECS:
        assert all(entry.why for entry in k8s_fields.tree_left_out(kind).values())
