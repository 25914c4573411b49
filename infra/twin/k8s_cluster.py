"""The cluster of the twin: one node on the LAN of a home, behind its NAT; it is there before any object is.

    core -- [wan] home router, port-restricted NAT [lan0] -- LAN -- [eth0] node pi-1 [eth1] -- pods
                                                              +---- laptop
                                                              +---- [wan] a router each [lan0] -- host   x 5

    RUN_DIR/pods/cluster.json    the LAN
    RUN_DIR/pods/status.json     what the node says of Deployments, Services and pods (infra/twin/k8s_node.py)
    RUN_DIR/pods/N/              volumes and the containers' specifications of pod N, mode 0700
    RUN_DIR/log/pod-N-*.log      what its containers said

The node is a process of its own, in the namespace of host pi-1 and in this machine's mount namespace: it does what
kubelet, kube-proxy, the controllers and Cilium do. Who makes objects (infra/twin/k8s.py) only writes them down.
"""

import ipaddress
import json
import platform
import sys
import time
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Final

from infra.lab import state
from infra.lab.nat import PRESETS
from infra.lab.process import stop_all
from infra.lab.topology import Host, Impairment, Link, Router, Segment, Topology
from infra.twin import daemons
from infra.twin.interface import TwinError
from infra.twin.site import Site
from infra.twin.world import CORE, CORE_NETWORK, ClientNetwork

NODE: Final = "pi-1"
LAPTOP: Final = "pi-laptop"
ROUTER: Final = "pi-nat"
LAN, PODS = "pi-lan", "pi-pods"
NODE_PROCESS: Final = "node"
LAN_INTERFACE, POD_INTERFACE = "eth0", "eth1"
CORE_ADDRESS: Final = "198.18.0.30"
ONE_WAY_MS: Final = 7.0
DEFAULT_LAN: Final = IPv4Network("10.0.150.0/24")
POD_NETWORK: Final = IPv4Network("10.42.0.0/24")
SERVICE_NETWORK: Final = IPv4Network("10.43.0.0/16")
"""Both as k3s has them."""
DNS_ADDRESS: Final = str(SERVICE_NETWORK[10])
POD_GATEWAY: Final = str(POD_NETWORK[1])
DOMAIN: Final = "cluster.local"
RUN_DIR_NAME: Final = "pods"
NODE_START_S: Final = 20.0
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_POLL_S: Final = 0.05
_BEHIND: Final = {
    "pi-guest": "port-restricted",
    "pi-mesh": "full-cone",
    "pi-lab": "symmetric",
    "pi-office": "cgnat",
    "pi-kiosk": "udp-blocked",
}
"""Networks within the home, each behind a router of its own on the LAN, by NAT preset."""

Json = dict[str, Any]


def node_labels() -> dict[str, str]:
    """The labels of the node, by which pods and announcements choose it."""
    return {
        "kubernetes.io/hostname": NODE,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": _ARCHITECTURES.get(platform.machine(), platform.machine()),
    }


@dataclass(frozen=True, slots=True)
class Home:
    """The LAN that the node stands on: its router has the first address, the node the 11th, the laptop the 50th."""

    lan: IPv4Network = DEFAULT_LAN

    @property
    def router(self) -> str:
        """The home router's address."""
        return str(self.lan[1])

    @property
    def node(self) -> str:
        """The node's address."""
        return str(self.lan[11])

    @property
    def laptop(self) -> str:
        """The laptop's address."""
        return str(self.lan[50])

    @property
    def clients(self) -> tuple[ClientNetwork, ...]:
        """Networks that people connect from: the LAN itself, and those behind routers on it."""
        laptop = ClientNetwork(name=LAPTOP, preset="public", core=self.laptop, lan=self.lan, one_way_ms=0.0, host=50)
        behind = (
            ClientNetwork(
                name=name,
                preset=preset,
                core=str(self.lan[60 + number]),
                lan=IPv4Network(f"192.168.{231 + number}.0/24"),
                one_way_ms=0.0,
            )
            for number, (name, preset) in enumerate(_BEHIND.items())
        )
        return (laptop, *behind)

    def topology(self) -> Topology:
        """What is added to the world."""
        delay = Impairment(delay_ms=ONE_WAY_MS)
        length = self.lan.prefixlen
        wan = Link(CORE, f"{CORE_ADDRESS}/24", up=delay, down=delay)
        segments = [Segment(CORE, str(CORE_NETWORK)), Segment(LAN, str(self.lan)), Segment(PODS, str(POD_NETWORK))]
        routers = [Router(ROUTER, (Link(LAN, f"{self.router}/{length}"),), wan, nat=PRESETS["port-restricted"])]
        node = (Link(LAN, f"{self.node}/{length}"), Link(PODS, f"{POD_GATEWAY}/32"))
        hosts = [
            Host(NODE, node, gateway=self.router),
            Host(LAPTOP, (Link(LAN, f"{self.laptop}/{length}"),), gateway=self.router),
        ]
        for client in self.clients[1:]:
            inside, outside = Link(client.name, f"{client.lan[1]}/24"), Link(LAN, f"{client.core}/{length}")
            segments.append(Segment(client.name, str(client.lan)))
            nat = PRESETS[client.preset]
            routers.append(Router(f"{client.name}-nat", (inside,), outside, nat=nat, gateway=self.router))
            address = f"{client.host_address}/24"
            hosts.append(Host(client.name, (Link(client.name, address),), gateway=str(client.lan[1])))
        return Topology(segments=tuple(segments), routers=tuple(routers), hosts=tuple(hosts))


def home_of(address: str) -> Home:
    """Return the home whose LAN an address is in: the /24 around it.

    Raises:
        ValueError: it is no IPv4 address, or one of the cluster's own networks.
    """
    lan = ipaddress.IPv4Network(f"{ipaddress.IPv4Address(address)}/24", strict=False)
    for taken in (POD_NETWORK, SERVICE_NETWORK, IPv4Network("198.18.0.0/15")):
        if lan.overlaps(taken):
            raise ValueError(f"{address} is in {taken}, which the twin needs for itself: choose another address")
    return Home(lan)


def folder(run: str) -> Path:
    """The folder of all pods of a run."""
    return state.run_dir(run) / RUN_DIR_NAME


def home(run: str) -> Home:
    """The home of a run's cluster."""
    try:
        return Home(IPv4Network(json.loads((folder(run) / "cluster.json").read_text())["lan"]))
    except FileNotFoundError:
        return Home()


def clients(site: Site) -> tuple[ClientNetwork, ...]:
    """The networks within a site's home, none where there is no home."""
    return home(site.run).clients if stands(site) else ()


def furnish(site: Site, address: str = "") -> None:
    """Make the home and its node, unless they are there: the cluster that a stack finds.

    Args:
        site: an open world.
        address: an address on the home's LAN; the default LAN for none. A LAN that is there stays as it is.
    """
    with site.exclusive("cluster"):
        path = folder(site.run)
        path.mkdir(mode=0o700, exist_ok=True)
        if not (path / "cluster.json").exists():
            wanted = home_of(address) if address else Home()
            new = path / "cluster.json.new"
            new.write_text(json.dumps({"lan": str(wanted.lan)}))
            new.replace(path / "cluster.json")
        here = home(site.run)
        if not stands(site):
            site.lab.realise(here.topology())
            site.script(NODE, node_script())
        daemons.ensure(site, NODE, NODE_PROCESS, (sys.executable, "-m", "infra.twin.k8s_node", site.run))


def stands(site: Site) -> bool:
    """Whether the home and its node are there, of this boot."""
    record = state.load(site.run)
    if record is None or record.boot_id != state.boot_id():
        return False
    return all(name in record.nodes and record.nodes[name].ready for name in (NODE, LAPTOP, ROUTER))


def node_script() -> str:
    """Return the shell script that makes a router of the node's namespace; it may be run again."""
    return "\n".join(
        (
            "echo 1 > /proc/sys/net/ipv4/ip_forward",
            "for f in /proc/sys/net/ipv4/conf/*/send_redirects; do echo 0 > $f; done",
            f"echo 0 > /proc/sys/net/ipv4/neigh/{LAN_INTERFACE}/proxy_delay",
            f"ip route replace {POD_NETWORK} dev {POD_INTERFACE}",
        )
    )


def stop_node(site: Site) -> None:
    """Stop the node's process, if it runs; pods go on as they are."""
    process = state.running(site.run, NODE, NODE_PROCESS)
    if process is not None:
        stop_all([(process.pid, process.start_time)], 5.0)


def status(run: str) -> Json:
    """What the node has said last: `seen` (revision of the objects), `objects` (status by key), `pods`."""
    try:
        read: Json = json.loads((folder(run) / "status.json").read_text())
    except FileNotFoundError:
        return {"seen": 0, "objects": {}, "pods": []}
    return read


def wait(site: Site, done: Any, timeout_s: float) -> bool:
    """Wait until a predicate of the node's status holds; False when the time is up.

    Raises:
        TwinError: the node's process has ended.
    """
    deadline = time.monotonic() + timeout_s
    while not done(status(site.run)):
        if time.monotonic() > deadline:
            return False
        if state.running(site.run, NODE, NODE_PROCESS) is None:
            log = state.run_dir(site.run) / "log" / f"{NODE}-{NODE_PROCESS}.log"
            said = log.read_text(errors="replace")[-500:].strip() if log.exists() else "nothing"
            raise TwinError(f"the node of the twin's cluster has ended; run up again. Its log {log} ends: {said}")
        time.sleep(_POLL_S)
    return True
