"""The node at work: pods as processes, Services, ARP, policies, probes, rollouts, and what is left of it all."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from infra.lab import state
from infra.twin import k8s_cluster
from infra.twin.interface import NotReady, TwinError
from tests.infra.twin.k8s_world import (
    LAPTOP,
    NODE,
    SPACE,
    USER,
    World,
    deployment,
    metadata,
    pod,
    server,
    service,
    world,
)

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(400)]

ADDRESS = "10.0.150.205"
WAIT_S = 30.0


def until(holds: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> Any:
    """Return what becomes true in time."""
    deadline = time.monotonic() + timeout_s
    while not (found := holds()):
        assert time.monotonic() < deadline, what
        time.sleep(0.1)
    return found


@pytest.fixture(scope="module")
def here() -> Iterator[World]:
    """A cluster with a namespace and a server `web` that is reached on the LAN."""
    with world(f"k8s-{os.getpid()}") as made:
        restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
        made.put("Namespace", {"metadata": {"name": SPACE, "labels": restricted}})
        made.put("Secret", {"metadata": metadata("keys"), "type": "Opaque", "stringData": {"password": "sesame"}})
        made.put("ConfigMap", {"metadata": metadata("words"), "data": {"motto": "onward"}})
        made.put(
            "CiliumLoadBalancerIPPool", {"metadata": {"name": "lan"}, "spec": {"blocks": [{"cidr": f"{ADDRESS}/32"}]}}
        )
        made.put(
            "CiliumL2AnnouncementPolicy",
            {"metadata": {"name": "lan"}, "spec": {"interfaces": ["^eth[0-9]+"], "loadBalancerIPs": True}},
        )
        made.put("Deployment", web("1"))
        made.put("Service", service("web", 80, type="LoadBalancer", externalTrafficPolicy="Local"))
        yield made


def web(version: str) -> dict[str, Any]:
    secret = {"name": "keys", "secret": {"secretName": "keys", "defaultMode": 0o440}}
    spec = server(version, volumes=[secret], mounts=[{"name": "keys", "mountPath": "/etc/shop", "readOnly": True}])
    motto = {"name": "MOTTO", "valueFrom": {"configMapKeyRef": {"name": "words", "key": "motto"}}}
    spec["containers"][0]["env"].append(motto)
    return deployment("web", spec)


def test_a_container_has_its_image_its_files_and_no_right(here: World) -> None:
    seen = here.ask(f"http://{ADDRESS}/")
    assert seen is not None
    assert (seen["uid"], seen["groups"], seen["pid"]) == (USER, [USER], 1)
    assert (int(seen["capabilities"], 16), seen["no_new_privileges"], seen["writable"]) == (0, "1", False)
    assert (seen["password"], seen["mode"], seen["motto"]) == ("sesame", "0o100440", "onward")
    assert not {"home", "work", "run", "var"} & set(seen["root"])


def test_the_lan_reaches_the_address_by_arp_and_the_source_is_kept(here: World) -> None:
    home = k8s_cluster.home(here.site.run)
    seen = here.ask(f"http://{ADDRESS}/")
    assert seen is not None
    assert seen["source"] == home.laptop
    neighbours = here.script(LAPTOP, "ip neigh show dev eth0").splitlines()
    by_address = {line.split()[0]: line.split()[2] for line in neighbours if "lladdr" in line}
    assert by_address[ADDRESS] == here.script(NODE, "cat /sys/class/net/eth0/address")
    assert here.ask(f"http://{ADDRESS}:8080/", timeout_s=1.0) is None, "a port that the Service has not"
    assert here.script(LAPTOP, "ping -c1 -W1 10.0.150.206 > /dev/null; echo $?") != "0", "an address of no Service"


def test_traffic_policy_cluster_hides_the_source(here: World) -> None:
    here.put("Service", service("web", 80, type="LoadBalancer", externalTrafficPolicy="Cluster"))
    try:
        laptop = k8s_cluster.home(here.site.run).laptop
        until(lambda: (here.ask(f"http://{ADDRESS}/") or {}).get("source") not in (None, laptop), "the source is kept")
    finally:
        here.put("Service", service("web", 80, type="LoadBalancer", externalTrafficPolicy="Local"))
    until(lambda: (here.ask(f"http://{ADDRESS}/") or {}).get("source") == laptop, "the source is still hidden")


def resolve(here: World, host: str, name: str) -> str:
    """Ask the cluster's DNS for a name from a pod."""
    text = (
        "import dns.message, dns.query, sys\n"
        "answer = dns.query.udp(dns.message.make_query(sys.argv[1], 'A'), '10.43.0.10', timeout=2)\n"
        "print(' '.join(item.to_text() for found in answer.answer for item in found) or answer.rcode().name)\n"
    )
    return here.site.lab.run(host, [sys.executable, "-c", text, name], check=False).stdout.strip()


def test_policies_let_a_pod_reach_what_they_name_and_nothing_else(here: World) -> None:
    here.put("Deployment", deployment("buyer", pod(["python", "-I", "-c", "import time; time.sleep(1e6)"])))
    (buyer,) = here.pods("buyer")
    host, web_ip = buyer["host"], here.there["Service", "web"][2]["spec"]["clusterIP"]
    assert resolve(here, host, "web.shop.svc.cluster.local") == web_ip
    assert resolve(here, host, "web.elsewhere.svc.cluster.local") == "NXDOMAIN"
    assert (here.ask(f"http://{web_ip}/", host) or {})["source"] == buyer["address"], "a pod is seen by its own address"
    deny = {"metadata": metadata("deny"), "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}}
    here.put("NetworkPolicy", deny)
    until(lambda: here.ask(f"http://{web_ip}/", host, 1.0) is None, "default deny lets a pod through")
    assert here.ask(f"http://{ADDRESS}/", timeout_s=1.0) is None, "and the LAN"
    assert resolve(here, host, "web.shop.svc.cluster.local") == "", "and to the DNS"
    assert until(lambda: here.pods("web")[0]["ready"], "the node does not reach its own pod any more")
    ports = [{"protocol": "TCP", "port": 8080}]
    into = [{"from": [{"podSelector": {"matchLabels": {"app": "buyer"}}}], "ports": ports}]
    out = [{"to": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": ports}]
    here.put(
        "NetworkPolicy",
        {
            "metadata": metadata("web"),
            "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"], "ingress": into},
        },
    )
    here.put(
        "NetworkPolicy",
        {
            "metadata": metadata("buyer"),
            "spec": {"podSelector": {"matchLabels": {"app": "buyer"}}, "policyTypes": ["Egress"], "egress": out},
        },
    )
    until(lambda: here.ask(f"http://{web_ip}/", host, 1.0), "what is named does not pass")
    assert here.ask(f"http://{ADDRESS}/", timeout_s=1.0) is None, "the LAN is not named"
    for name in ("deny", "web", "buyer"):
        here.remove("NetworkPolicy", name)
    until(lambda: here.ask(f"http://{ADDRESS}/", timeout_s=1.0), "policies that are gone still hold")
    here.remove("Deployment", "buyer")


def test_a_pod_leaves_with_the_nodes_address_and_a_port_per_destination(here: World) -> None:
    (web_pod,) = here.pods("web")
    listen = (
        "import socket, sys\n"
        "socks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]\n"
        "[sock.bind(('0.0.0.0', port)) or sock.settimeout(5) for sock, port in zip(socks, (7001, 7002))]\n"
        "print('up', flush=True)\n"
        "print(*(f'{a}:{p}' for sock in socks for a, p in [sock.recvfrom(9)[1]]), flush=True)\n"
    )
    argv = [*here.site.lab.exec_prefix(LAPTOP), sys.executable, "-I", "-c", listen]
    listener = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert listener.stdout is not None
    assert listener.stdout.readline() == "up\n"
    laptop = k8s_cluster.home(here.site.run).laptop
    send = (
        "import socket\nsock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); sock.bind(('0.0.0.0', 5555))\n"
        f"[sock.sendto(b'x', ('{laptop}', port)) for port in (7001, 7002)]\n"
    )
    here.site.lab.run(web_pod["host"], [sys.executable, "-I", "-c", send])
    seen = listener.communicate(timeout=20)[0].split()
    assert {item.split(":")[0] for item in seen} == {k8s_cluster.home(here.site.run).node}
    assert len(set(seen)) == 2, "the mapping is the same for both destinations"


def test_a_pod_of_the_nodes_network_has_the_nodes_address(here: World) -> None:
    # Not in the namespace of the others, which admits no such pods.
    made = deployment("bare", server(hostNetwork=True))
    made["metadata"]["namespace"] = "default"
    here.put("Deployment", made)
    node = k8s_cluster.home(here.site.run).node
    seen = until(lambda: here.ask(f"http://{node}:8080/"), "it does not answer at the node's address")
    assert (seen["uid"], seen["capabilities"]) == (USER, "0000000000000000")
    here.remove("Deployment", "bare")
    assert here.ask(f"http://{node}:8080/", timeout_s=1.0) is None


def test_a_container_that_is_not_ready_gets_nothing_and_one_that_is_dead_is_restarted(here: World) -> None:
    def restarts() -> int:
        (only,) = here.pods("web")
        return int(only["restarts"])

    before = restarts()
    (web_pod,) = here.pods("web")
    here.ask(f"http://{ADDRESS}/make/not-ready")
    until(lambda: here.ask(f"http://{ADDRESS}/", timeout_s=1.0) is None, "an unready pod still gets traffic")
    assert restarts() == before
    assert here.ask(f"http://{web_pod['address']}:8080/drop/not-ready", NODE)
    until(lambda: here.ask(f"http://{ADDRESS}/", timeout_s=1.0), "a pod that is ready again gets nothing")
    here.ask(f"http://{ADDRESS}/make/not-alive")
    until(lambda: restarts() == before + 1, "liveness fails and nothing is restarted")
    # /tmp outlives the container, so it must be told again.
    until(lambda: here.ask(f"http://{web_pod['address']}:8080/drop/not-alive", NODE), "it does not come back")
    until(lambda: here.ask(f"http://{ADDRESS}/", timeout_s=1.0), "it is restarted and not ready")


def test_a_killed_container_and_a_killed_node_come_back(here: World) -> None:
    (web_pod,) = here.pods("web")
    (pid,) = web_pod["containers"].values()
    os.kill(pid, signal.SIGKILL)
    until(lambda: here.pods("web")[0]["containers"]["main"] not in (0, pid), "a killed container stays away")
    until(lambda: here.ask(f"http://{ADDRESS}/", timeout_s=1.0), "and gets no traffic")
    (after,) = here.pods("web")
    record = state.load(here.site.run)
    assert record is not None
    os.kill(record.processes[f"{NODE}/node"].pid, signal.SIGKILL)
    assert here.ask(f"http://{ADDRESS}/"), "traffic needs the node's process"
    k8s_cluster.furnish(here.site)
    here.put("ConfigMap", {"metadata": metadata("more"), "data": {"a": "b"}})
    until(lambda: "ConfigMap/shop/more" in k8s_cluster.status(here.site.run)["objects"], "the node does not come back")
    assert [item["containers"] for item in here.pods("web")] == [after["containers"]], "pods were made anew"


def test_a_rollout_serves_all_the_while(here: World) -> None:
    answers: list[str | None] = []
    done = threading.Event()

    def keep_asking() -> None:
        while not done.is_set():
            answers.append((here.ask(f"http://{ADDRESS}/") or {}).get("version"))

    asker = threading.Thread(target=keep_asking)
    asker.start()
    try:
        here.put("Deployment", web("2"))
        until(lambda: len(here.pods("web")) == 1, "the old pod stays")
    finally:
        done.set()
        asker.join()
    assert None not in answers
    assert answers[-1] == "2"
    assert set(answers) <= {"1", "2"}


def test_what_cannot_run_says_why(here: World) -> None:
    spec = pod(["python", "-c", "pass"], volumes=[{"name": "gone", "secret": {"secretName": "nobody"}}])
    with pytest.raises(NotReady, match='secret "nobody" not found'):
        here.put("Deployment", deployment("lost", spec, progressDeadlineSeconds=1))
    here.remove("Deployment", "lost")
    with pytest.raises(NotReady, match=r"violates PodSecurity.*hostNetwork"):
        here.put(
            "Deployment", deployment("host", pod(["python", "-c", "pass"], hostNetwork=True), progressDeadlineSeconds=1)
        )
    here.remove("Deployment", "host")
    with pytest.raises(NotReady, match="cannot start 'python9'"):
        here.put("Deployment", deployment("odd", pod(["python9"]), progressDeadlineSeconds=4))
    here.remove("Deployment", "odd")
    with pytest.raises(TwinError, match='namespaces "nowhere" not found'):
        here.put("ConfigMap", {"metadata": {"name": "x", "namespace": "nowhere"}, "data": {}})


def test_the_last_object_leaves_nothing_of_it(here: World) -> None:
    here.remove("Deployment", "web")
    here.remove("Service", "web")
    record = state.load(here.site.run)
    assert record is not None
    assert not [name for name in record.nodes if name.startswith("pod-")]
    folder = k8s_cluster.folder(here.site.run)
    assert not [path.name for path in folder.iterdir() if path.is_dir()]
    ask_anew = f"ip neigh flush all; ping -c1 -W1 {ADDRESS} > /dev/null; ip neigh show {ADDRESS}"
    until(lambda: "lladdr" not in here.script(LAPTOP, ask_anew), "the node still answers ARP for the address")
