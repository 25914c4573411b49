"""A home with a cluster for tests, without the internet around it; and objects to put into it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from infra.lab import state
from infra.lab.topology import Segment
from infra.twin import k8s_cluster
from infra.twin.interface import NotReady
from infra.twin.k8s import TYPES, K8sObject
from infra.twin.k8s_cluster import LAPTOP, NODE
from infra.twin.site import Site
from infra.twin.world import CORE
from tests.infra.twin.sites import call, urn

IMAGE = "registry.home.arpa:5000/ztna/app-connector@sha256:" + "0" * 64
SPACE = "shop"
USER = 65532

SERVER = """
import http.server, json, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        name, _, word = self.path.strip("/").partition("/")
        code = 200
        if name == "make":
            open("/tmp/" + word, "w").close()
        elif name == "drop":
            os.unlink("/tmp/" + word)
        elif name in ("alive", "ready"):
            code = 503 if os.path.exists("/tmp/not-" + name) else 200
        status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
        body = json.dumps({
            "source": self.client_address[0], "version": os.environ.get("VERSION"), "pod": os.environ["HOSTNAME"],
            "uid": os.getuid(), "groups": os.getgroups(), "capabilities": status["CapBnd"].strip(),
            "no_new_privileges": status["NoNewPrivs"].strip(), "pid": os.getpid(), "root": sorted(os.listdir("/")),
            "password": open("/etc/shop/password").read() if os.path.exists("/etc/shop/password") else None,
            "mode": oct(os.stat("/etc/shop/password").st_mode) if os.path.exists("/etc/shop/password") else None,
            "motto": os.environ.get("MOTTO"), "writable": os.access("/", os.W_OK),
        }).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True
    def log_message(self, *words):
        pass
http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
"""


def metadata(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "namespace": SPACE, **more}


def probe(path: str, **more: Any) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": 8080}, "periodSeconds": 1, "failureThreshold": 2, **more}


def pod(command: list[str], **more: Any) -> dict[str, Any]:
    """A pod as `restricted` has it, with one container."""
    container: dict[str, Any] = {
        "name": "main",
        "image": IMAGE,
        "command": command,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    volumes = [{"name": "tmp", "emptyDir": {}}]
    own: dict[str, Any] = {}
    for key in ("hostNetwork", "terminationGracePeriodSeconds"):
        if key in more:
            own[key] = more.pop(key)
    container["volumeMounts"] = [*container["volumeMounts"], *more.pop("mounts", [])]
    return {
        "terminationGracePeriodSeconds": 2,
        **own,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumes": [*volumes, *more.pop("volumes", [])],
        "containers": [{**container, **more}],
    }


def server(version: str = "1", **more: Any) -> dict[str, Any]:
    """A pod that answers who it is and whom it sees."""
    return pod(
        ["python", "-I", "-c", SERVER],
        env=[{"name": "VERSION", "value": version}],
        startupProbe=probe("/alive", failureThreshold=60),
        livenessProbe=probe("/alive"),
        readinessProbe=probe("/ready"),
        **more,
    )


def deployment(name: str, spec: dict[str, Any], **more: Any) -> dict[str, Any]:
    labels = {"app": name}
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    template = {"metadata": {"labels": labels}, "spec": spec}
    settings = {"replicas": 1, "progressDeadlineSeconds": 60, "strategy": rolling, **more}
    return {"metadata": metadata(name), "spec": {**settings, "selector": {"matchLabels": labels}, "template": template}}


def service(name: str, port: int = 8080, **spec: Any) -> dict[str, Any]:
    ports = [{"name": "http", "protocol": "TCP", "port": port, "targetPort": 8080}]
    return {
        "metadata": metadata(name),
        "spec": {"type": "ClusterIP", "selector": {"app": name}, "ports": ports, **spec},
    }


class World:
    """The cluster, and its objects by kind and name."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.kinds = {kind.kind: kind for kind in reversed(TYPES)}
        self.there: dict[tuple[str, str], tuple[str, dict[str, Any], dict[str, Any]]] = {}

    def kind(self, name: str) -> K8sObject:
        return self.kinds[name]

    def put(self, kind: str, inputs: dict[str, Any]) -> dict[str, Any]:
        """Create or update an object, as the engine would; its outputs."""
        type_ = self.kind(kind)
        key = kind, inputs["metadata"]["name"]
        name = f"{kind}-{key[1]}".lower()
        refused = list(type_.validate(inputs))
        assert not refused, refused
        if key not in self.there:
            # Written down first, as the engine records what is there and not ready.
            try:
                made = type_.create(call(self.site, name, kind=type_.type_name), inputs)
            except NotReady as waiting:
                self.there[key] = waiting.made.id, inputs, waiting.made.outputs
                raise
            self.site.store.acknowledge(urn(type_.type_name, name), made.id)
            self.there[key] = made.id, inputs, made.outputs
        else:
            id_, before, outputs = self.there[key]
            there = call(self.site, name, id_, type_.type_name)
            self.there[key] = id_, inputs, type_.update(there, outputs, before, inputs)
        return self.there[key][2]

    def remove(self, kind: str, name: str) -> None:
        id_, inputs, outputs = self.there.pop((kind, name))
        type_ = self.kind(kind)
        type_.delete(call(self.site, f"{kind}-{name}".lower(), id_, type_.type_name), outputs, inputs)

    def pods(self, owner: str) -> list[dict[str, Any]]:
        found = k8s_cluster.status(self.site.run)["pods"]
        return [item for item in found if item["owner"] == f"Deployment/{SPACE}/{owner}"]

    def ask(self, url: str, host: str = LAPTOP, timeout_s: float = 3.0) -> dict[str, Any] | None:
        """The server's answer, seen from a host of the lab; None where there is none."""
        argv = ["curl", "-s", "-m", f"{timeout_s:g}", url]
        done = self.site.lab.run(host, argv, check=False)
        return dict(json.loads(done.stdout)) if done.returncode == 0 and done.stdout.startswith("{") else None

    def script(self, host: str, text: str) -> str:
        return self.site.lab.run(host, ["sh", "-c", text], check=False).stdout.strip()


@contextmanager
def world(run: str) -> Iterator[World]:
    """A cluster in a run of its own, gone afterwards."""
    site = Site(run)
    site.lab.destroy()
    try:
        site.lab.ensure_segment(Segment(CORE, "198.18.0.0/24"))
        k8s_cluster.furnish(site)
        yield World(site)
    finally:
        site.lab.destroy()
        left = [path for path in (state.run_dir(run),) if Path(path).exists()]
        assert not left, left


__all__ = ["LAPTOP", "NODE", "World", "world"]
