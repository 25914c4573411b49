"""What the pi-home stack declares, for its tests: its graph, and its objects as they would be applied."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from infra.config_pi import EXAMPLE_DIGEST
from infra.graph import Graph
from infra.render import manifests
from tests.support.preview import preview_graph

ROOT = Path(__file__).parents[2]
CONFIG = yaml.safe_load((ROOT / "Pulumi.pi-home.yaml").read_text())["config"]
QUAKE = {
    "pi-home:quakekube": "true",
    "pi-home:quakekubeImage": f"ghcr.io/chrisrx/quake-kube@{EXAMPLE_DIGEST}",
    "pi-home:nodeSelector": '{"kubernetes.io/hostname": "pi-1"}',
}
ROLES = ("intermediate", "connector", "echo-server", "httpbin")
PEMS = {"cert.pem": "CERT", "key.pem": "KEY", "ca.pem": "CA"}


def graph(**config: str) -> Graph:
    return preview_graph("pi-home", {f"pi-home:{key}": value for key, value in config.items()})


@cache
def objects(quake: bool = False) -> dict[tuple[str, str], dict[str, Any]]:
    """Kubernetes objects as they would be applied, by kind and name."""
    found = manifests(preview_graph("pi-home", QUAKE if quake else None), {"intermediate": PEMS, "connector": PEMS})
    return {(each["kind"], each["metadata"]["name"]): each for each in found}


def pods(quake: bool = False) -> dict[str, dict[str, Any]]:
    return {
        name: each["spec"]["template"]["spec"] for (kind, name), each in objects(quake).items() if kind == "Deployment"
    }


def port_list(entries: list[dict[str, Any]]) -> list[str]:
    return [f"{entry['protocol']}/{int(entry['port'])}" if "port" in entry else entry["protocol"] for entry in entries]
