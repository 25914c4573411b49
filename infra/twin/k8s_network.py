"""The node's network as it follows from objects and pods: nftables, ARP, and the cluster's DNS in a pod of its own."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from infra.lab import state
from infra.lab.errors import LabError, tool_environment
from infra.lab.topology import Host, Link
from infra.twin import k8s_dns, k8s_rules
from infra.twin.k8s_cluster import DNS_ADDRESS, DOMAIN, LAN_INTERFACE, POD_NETWORK, PODS, folder, node_labels
from infra.twin.k8s_objects import Cluster, Json, PodView, announced, host_names, key_of
from infra.twin.k8s_pod import pod_script
from infra.twin.site import Site

DNS_HOST: Final = "pi-dns"
DNS_POD: Final = str(POD_NETWORK[2])
DNS_LABELS: Final = {"k8s-app": "kube-dns"}


def system_objects() -> dict[str, Json]:
    """What every cluster has: the namespace of its own parts, and the Service of its DNS."""
    ports = [{"name": f"dns-{word.lower()}", "protocol": word, "port": 53} for word in ("UDP", "TCP")]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system"},
        "spec": {"type": "ClusterIP", "clusterIP": DNS_ADDRESS, "selector": DNS_LABELS, "ports": ports},
    }
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-system"}}
    return {key_of(space): space, key_of(service): service}


def system_pods() -> list[PodView]:
    """The pods that every cluster has."""
    return [PodView(name="coredns", namespace="kube-system", labels=DNS_LABELS, address=DNS_POD, ready=True)]


class Network:
    """The network of the node whose namespace this process is in.

    Args:
        site: the world.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._names_path = folder(site.run) / "dns.json"
        self._applied = ""

    def sync(self, cluster: Cluster, pods: Sequence[PodView]) -> None:
        """Bring it to what follows; nothing is done while nothing has changed.

        Raises:
            LabError: nft or ip refused; carries their words.
        """
        rules = k8s_rules.ruleset(cluster, pods)
        script = k8s_rules.announcement_script(announced(cluster, (LAN_INTERFACE,), node_labels()))
        names = json.dumps(host_names(cluster, pods, DOMAIN), sort_keys=True)
        wanted = "\0".join((rules, script, names))
        if wanted == self._applied:
            return
        replace_file(self._names_path, names)
        _run(("nft", "-f", "-"), rules)
        _run(("sh", "-e"), script)
        self._applied = wanted

    def start_dns(self) -> None:
        """Make the pod of the DNS, unless it is there."""
        lab = self._site.lab
        if not self._names_path.exists():
            replace_file(self._names_path, "{}")
        lab.ensure_host(Host(DNS_HOST, (Link(PODS, f"{DNS_POD}/32"),)))
        self._site.script(DNS_HOST, f"{pod_script()}\necho 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start")
        if state.running(self._site.run, DNS_HOST, "dns") is not None:
            return
        bare = ("setpriv", "--no-new-privs", "--bounding-set", "-all", "--inh-caps", "-all", "--")
        argv = (sys.executable, "-I", "-S", str(k8s_dns.__file__), DNS_POD, "53", str(self._names_path), DOMAIN)
        lab.spawn(DNS_HOST, "dns", (*bare, *argv), cwd="/")


def replace_file(path: Path, text: str) -> None:
    """Write a file that readers see whole, old or new."""
    new = path.with_suffix(".new")
    new.touch(0o600)
    new.write_text(text)
    new.replace(path)


def _run(argv: Sequence[str], text: str) -> None:
    done = subprocess.run(argv, input=text, env=tool_environment(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"{' '.join(argv)} failed: {done.stderr.strip()[:600]}")
