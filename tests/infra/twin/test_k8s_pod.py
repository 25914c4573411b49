"""What a container is given: command, environment, user, files; and why it waits."""

import base64
from pathlib import Path
from typing import Any

import pytest

from infra.twin.k8s_images import APP, contents
from infra.twin.k8s_objects import Cluster, key_of
from infra.twin.k8s_pod import Pod, PodWaiting, entered, environment, sandbox_spec, volume_files
from infra.twin.k8s_valid import forbidden
from tests.infra.twin.k8s_world import USER, pod, server
from tests.support.pi_home import pods

SECRET = {"kind": "Secret", "metadata": {"name": "keys", "namespace": "shop"}, "stringData": {"a": "1"},
          "data": {"b": base64.b64encode(b"\x00\xff").decode()}}  # fmt: skip
WORDS = {"kind": "ConfigMap", "metadata": {"name": "words", "namespace": "shop"}, "data": {"motto": "onward"}}
CLUSTER = Cluster({key_of(item): item for item in (SECRET, WORDS)})


def made(spec: dict[str, Any]) -> Pod:
    return Pod(
        name="web-1", number=7, namespace="shop", owner="o", template="t", labels={}, spec=spec, address="10.42.0.9"
    )


def sandbox(spec: dict[str, Any]) -> dict[str, Any]:
    return sandbox_spec(CLUSTER, made(spec), 0, root="/r", volumes=Path("/v"))


def test_a_container_of_pi_home_is_what_its_manifest_says() -> None:
    spec = sandbox(pods()["intermediate"])
    assert spec["argv"] == ["python", "-m", "ztna", "intermediate", "--config", "/etc/ztna/intermediate.json"]
    assert (spec["uid"], spec["gid"], spec["groups"], spec["read_only"]) == (USER, USER, [USER], True)
    assert spec["env"]["HOSTNAME"] == "web-1"
    assert spec["env"]["PYTHONPATH"].startswith(APP)
    own = [bind for bind in spec["binds"] if bind[0].startswith("/v/")]
    assert own == [
        ["/v/config", "/etc/ztna", True],
        ["/v/run-ztna", "/run/ztna", False],
        ["/v/tmp", "/tmp", False],
    ]


def test_every_image_of_pi_home_has_contents() -> None:
    for spec in pods().values():
        for container in spec["containers"]:
            image = contents(container["image"])
            assert image is not None
            assert all(Path(source).exists() for source, _ in image.binds)
    assert contents("ghcr.io/chrisrx/quake-kube@sha256:00") is None
    assert contents("other/myztna/app-connector") is None
    assert contents("ztna/app-connector:1.0") is not None


def test_entry_point_and_command_come_from_the_image_where_the_manifest_has_none() -> None:
    spec = pod(["x"])
    del spec["containers"][0]["command"]
    assert sandbox(spec)["argv"] == ["python", f"{APP}/entrypoint.py"]
    spec["containers"][0]["args"] = ["connector"]
    assert sandbox(spec)["argv"] == ["python", f"{APP}/entrypoint.py", "connector"]
    spec["containers"][0]["command"] = ["y"]
    assert sandbox(spec)["argv"] == ["y", "connector"]
    del spec["containers"][0]["command"], spec["containers"][0]["args"]
    spec["containers"][0]["image"] = "ztna/http-app"
    assert sandbox(spec)["argv"][:3] == ["python", "-m", "waitress"]


def test_users_are_the_pods_the_containers_and_else_the_images() -> None:
    spec = pod(["x"])
    spec["containers"][0]["securityContext"]["runAsUser"] = 1000
    assert (sandbox(spec)["uid"], sandbox(spec)["gid"]) == (1000, USER)
    spec["securityContext"] = {"supplementalGroups": [5], "fsGroup": 6}
    del spec["containers"][0]["securityContext"]["runAsUser"]
    assert (sandbox(spec)["uid"], sandbox(spec)["groups"]) == (USER, [USER, 5, 6])
    spec["securityContext"] = {"runAsUser": 0}
    with pytest.raises(PodWaiting, match="as root"):
        sandbox(spec)


def test_variables_come_from_objects_or_say_what_is_missing() -> None:
    def of(kind: str, name: str, key: str, **more: Any) -> dict[str, Any]:
        return {"env": [{"name": "X", "valueFrom": {kind: {"name": name, "key": key, **more}}}]}

    assert environment(CLUSTER, "shop", {"env": [{"name": "A", "value": "b"}, {"name": "C"}]}) == {"A": "b", "C": ""}
    assert environment(CLUSTER, "shop", of("secretKeyRef", "keys", "a")) == {"X": "1"}
    assert environment(CLUSTER, "shop", of("configMapKeyRef", "words", "motto")) == {"X": "onward"}
    assert environment(CLUSTER, "shop", of("configMapKeyRef", "words", "gone", optional=True)) == {}
    with pytest.raises(PodWaiting, match=r"CreateContainerConfigError: secret \"keys\" has no key 'gone'"):
        environment(CLUSTER, "shop", of("secretKeyRef", "keys", "gone"))
    with pytest.raises(PodWaiting):
        environment(CLUSTER, "elsewhere", of("secretKeyRef", "keys", "a"))


def test_volumes_hold_what_their_sources_have() -> None:
    projected = {
        "projected": {
            "defaultMode": 0o440,
            "sources": [
                {"configMap": {"name": "words"}},
                {"secret": {"name": "keys", "items": [{"key": "a", "path": "sub/one"}]}},
            ],
        }
    }
    files, mode = volume_files(CLUSTER, "shop", projected)
    assert ({name: data for name, (data, _) in files.items()}, mode) == ({"motto": b"onward", "sub/one": b"1"}, 0o440)
    files, mode = volume_files(CLUSTER, "shop", {"secret": {"secretName": "keys"}})
    assert ({name: data for name, (data, _) in files.items()}, mode) == ({"a": b"1", "b": b"\x00\xff"}, 0o644)
    with pytest.raises(PodWaiting, match='configmap "gone" not found'):
        volume_files(CLUSTER, "shop", {"configMap": {"name": "gone"}})
    with pytest.raises(PodWaiting, match="has no key 'z'"):
        volume_files(CLUSTER, "shop", {"configMap": {"name": "words", "items": [{"key": "z", "path": "z"}]}})
    assert volume_files(CLUSTER, "shop", {"configMap": {"name": "gone", "optional": True}}) == ({}, 0o644)


def test_a_pod_is_written_down_and_read_again() -> None:
    before = made(server())
    before.containers[0].restarts = 3
    after = Pod(**before.to_json())
    assert (after.to_json(), after.containers[0].restarts) == (before.to_json(), 3)


def test_a_process_that_is_no_container_has_not_entered_one() -> None:
    assert not entered(1 << 22)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda spec: spec.update(hostNetwork=True), "hostNetwork"),
        (lambda spec: spec["containers"][0]["securityContext"].pop("capabilities"), "capabilities"),
        (lambda spec: spec["containers"][0]["securityContext"].pop("allowPrivilegeEscalation"), "allowPrivilege"),
        (lambda spec: spec["securityContext"].pop("runAsNonRoot"), "runAsNonRoot"),
        (lambda spec: spec["securityContext"].pop("seccompProfile"), "seccompProfile"),
    ],
)
def test_pod_security_restricted(change: Any, words: str) -> None:
    spec = pod(["x"])
    assert forbidden(spec, "restricted") == []
    change(spec)
    (found,) = forbidden(spec, "restricted")
    assert words in found
    assert forbidden(spec, "privileged") == []


def test_pods_of_pi_home_are_admitted() -> None:
    for spec in pods().values():
        assert forbidden(spec, "restricted") == []
