"""Checks of Kubernetes objects: schemas always, a real API server where there is one.

`ZTNA_TEST_KUBECONFIG` names the kubeconfig of a kube-apiserver for tests: nothing else may run on it, and the kinds of
Cilium must be known to it (`kubectl apply -f tests/support/cilium_crds.yaml`). Nothing is read of ~/.kube.
"""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # no stubs are published in the lock
import kubernetes_validate  # type: ignore[import-untyped]
import yaml

OLDEST, NEWEST = "1.30", kubernetes_validate.latest_version()
"""Versions of Kubernetes whose schemas the manifests must satisfy; `sleep` before a stop came with 1.30."""
CILIUM_CRDS = Path(__file__).with_name("cilium_crds.yaml")
VARIABLE = "ZTNA_TEST_KUBECONFIG"


def validate(manifest: dict[str, Any]) -> None:
    """Raise an error naming the property that a manifest has wrong. Cilium's kinds are checked against their CRDs."""
    if "cilium.io" in manifest["apiVersion"]:
        jsonschema.Draft202012Validator(_cilium_schema(manifest["apiVersion"], manifest["kind"])).validate(manifest)
        return
    for version in (OLDEST, NEWEST):
        kubernetes_validate.validate(manifest, version, strict=True)


@cache
def _cilium_schema(api_version: str, kind: str) -> dict[str, Any]:
    for crd in yaml.safe_load_all(CILIUM_CRDS.read_text()):
        for version in crd["spec"]["versions"]:
            if (kind, api_version) == (crd["spec"]["names"]["kind"], f"{crd['spec']['group']}/{version['name']}"):
                return closed(version["schema"]["openAPIV3Schema"])
    raise AssertionError(f"{CILIUM_CRDS.name} has no {kind} of {api_version}")


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with unknown properties refused, as `kubectl` does with --validate=strict."""
    made = dict(schema)
    if isinstance(made.get("properties"), dict):
        made["properties"] = {name: closed(inner) for name, inner in made["properties"].items()}
        made["additionalProperties"] = False
    if isinstance(made.get("items"), dict):
        made["items"] = closed(made["items"])
    return made


def kubeconfig() -> Path | None:
    """The kubeconfig of the API server for tests, None where there is none.

    Raises:
        AssertionError: the variable names no file.
    """
    text = os.environ.get(VARIABLE)
    if not text:
        return None
    path = Path(text)
    assert path.is_file(), f"{VARIABLE} is {text!r}: there is no such file"
    return path


def kubectl(config: Path, *arguments: str, timeout_s: float = 60.0) -> "subprocess.CompletedProcess[str]":
    """Run kubectl against the API server for tests.

    Raises:
        AssertionError: there is no kubectl.
    """
    program = shutil.which("kubectl")
    assert program, "kubectl is missing: install it (Debian package kubernetes-client)"
    return subprocess.run(
        [program, "--kubeconfig", str(config), *arguments], capture_output=True, text=True, timeout=timeout_s
    )


def dry_run(config: Path, manifests: list[dict[str, Any]], scratch: Path) -> None:
    """Have the API server for tests check objects by a server-side dry run. It keeps the namespace and Cilium's kinds.

    Raises:
        AssertionError: with what the server said.
    """
    spaces = [manifest for manifest in manifests if manifest["kind"] == "Namespace"]
    first, rest = scratch / "namespace.yaml", scratch / "objects.yaml"
    first.write_text(yaml.safe_dump_all(spaces))
    rest.write_text(yaml.safe_dump_all([manifest for manifest in manifests if manifest not in spaces]))
    wait = ("wait", "--for=condition=established", "--timeout=30s", "-f", str(CILIUM_CRDS))
    for arguments in (
        ("apply", "-f", str(CILIUM_CRDS)),
        wait,
        ("apply", "-f", str(first)),
        ("apply", "--dry-run=server", "--validate=strict", "-f", str(rest)),
    ):
        done = kubectl(config, *arguments)
        said = f"kubectl {' '.join(arguments)}\n{done.stdout}{done.stderr}"
        assert done.returncode == 0, said
        assert "Warning" not in done.stderr, said  # of Pod Security and of deprecated versions, among others
