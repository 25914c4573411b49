"""Objects against the schemas of Kubernetes and of Cilium's two kinds, and against an API server where one is named.

kubernetes-validate holds the schemas; it takes 100 MB of disk and is no dependency of a deployment. Where it is not
installed objects are checked against the SDK's types alone, which is said once. `ZTNA_TEST_KUBECONFIG` names the
kubeconfig of an API server for tests, which then refuses what it would refuse, by a dry run.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final

from infra.engine.props import UNKNOWN
from infra.engine.providers import Failure
from infra.lab.errors import tool_environment

OLDEST: Final = "1.30"
"""Of the versions that the manifests are made for; `sleep` before a stop came with it."""
VARIABLE: Final = "ZTNA_TEST_KUBECONFIG"
API_TIMEOUT_S: Final = 20.0

_MATCH: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {
        "matchLabels": {"type": "object", "additionalProperties": {"type": "string"}},
        "matchExpressions": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["key", "operator"],
                "properties": {
                    "key": {"type": "string"},
                    "operator": {"enum": ["In", "NotIn", "Exists", "DoesNotExist"]},
                    "values": {"type": "array", "items": {"type": "string"}},
                },
                "additionalProperties": False,
            },
        },
    },
    "additionalProperties": False,
}
CILIUM: Final[Mapping[str, Mapping[str, Any]]] = {
    "CiliumLoadBalancerIPPool": {
        "type": "object",
        "required": ["blocks"],
        "properties": {
            "blocks": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"cidr": {"type": "string"}, "start": {"type": "string"}, "stop": {"type": "string"}},
                    "additionalProperties": False,
                },
            },
            "serviceSelector": _MATCH,
            "allowFirstLastIPs": {"enum": ["Yes", "No"]},
            "disabled": {"type": "boolean"},
        },
        "additionalProperties": False,
    },
    "CiliumL2AnnouncementPolicy": {
        "type": "object",
        "properties": {
            "serviceSelector": _MATCH,
            "nodeSelector": _MATCH,
            "interfaces": {"type": "array", "items": {"type": "string"}},
            "loadBalancerIPs": {"type": "boolean"},
            "externalIPs": {"type": "boolean"},
        },
        "additionalProperties": False,
    },
}
"""Of the specs. Source: pkg/k8s/apis/cilium.io/client/crds of github.com/cilium/cilium, v1.17."""


def available() -> bool:
    """Whether the schemas are installed."""
    return _validate() is not None


@cache
def _validate() -> Any:
    try:
        import kubernetes_validate  # type: ignore[import-untyped]  # no stubs are published
    except ImportError:
        return None
    return kubernetes_validate


def failures(manifest: Mapping[str, Any]) -> Iterator[Failure]:
    """Yield what the schema refuses of a manifest; unknown values of a preview are passed over."""
    if _has_unknown(manifest):
        return
    if "cilium.io" in str(manifest["apiVersion"]):
        yield from _cilium(manifest)
        return
    module = _validate()
    if module is None:
        return
    try:
        module.validate(_whole(manifest), OLDEST, strict=True)
    except module.ValidationError as error:
        path = ".".join(str(word) for word in getattr(error, "path", ()))
        yield Failure(path, f"Kubernetes {OLDEST} refuses it: {_first_line(error)}")


def _cilium(manifest: Mapping[str, Any]) -> Iterator[Failure]:
    try:
        import jsonschema  # type: ignore[import-untyped]  # no stubs are published in the lock
    except ImportError:
        return
    for error in jsonschema.Draft202012Validator(CILIUM[manifest["kind"]]).iter_errors(_whole(manifest["spec"])):
        path = ".".join(("spec", *(str(word) for word in error.path)))
        yield Failure(path, f"Cilium's CRD refuses it: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    text = str(getattr(error, "message", "") or error)
    return text.strip().splitlines()[0][:300]


def _whole(value: Any) -> Any:
    """Numbers that travelled as floats as the integers that they are."""
    if isinstance(value, Mapping):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _has_unknown(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_has_unknown(item) for item in value.values())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return any(_has_unknown(item) for item in value)
    return bool(value == UNKNOWN)


def ask_server(manifest: Mapping[str, Any], *, outside: Sequence[str] = ()) -> str:
    """Have the API server for tests check an object; return what it refuses, empty where it is content or not named.

    Args:
        manifest: the object; its namespace must be there, so a Namespace is applied and everything else dry run.
        outside: argv prefix of commands that need this machine's own network.
    """
    config = os.environ.get(VARIABLE)
    if not config:
        return ""
    program = shutil.which("kubectl")
    if program is None:
        return f"{VARIABLE} is set and there is no kubectl: install it (Debian package kubernetes-client)"
    how = () if manifest["kind"] == "Namespace" else ("--dry-run=server",)
    argv = [*outside, program, "--kubeconfig", config, "apply", *how, "--validate=strict", "-f", "-"]
    try:
        done = subprocess.run(
            argv,
            input=json.dumps(_whole(manifest)),
            env=tool_environment(),
            capture_output=True,
            text=True,
            timeout=API_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"the API server of {config} does not answer within {API_TIMEOUT_S:g} s"
    return "" if done.returncode == 0 else done.stderr.strip()[:600]
