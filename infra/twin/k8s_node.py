"""The node of the cluster: what controllers, kubelet, kube-proxy, Cilium and CoreDNS do. Run with RUN as argument.

One loop looks at the objects (the twin's store), at its pods and at their probes, and brings the network and the pods
to what follows. Order matters: the network knows a pod before its containers start, and a status is written after the
network has followed. What takes time runs beside the loop, so that probes keep their times.
"""

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import Coroutine
from typing import Any, Final

from infra.lab.errors import LabError
from infra.lab.process import is_alive
from infra.twin import k8s_rollout
from infra.twin.flows import forget_flows
from infra.twin.k8s_cluster import POD_NETWORK, folder, home, node_labels
from infra.twin.k8s_network import Network, replace_file, system_objects, system_pods
from infra.twin.k8s_objects import Cluster, Json, PodView, balancer_addresses, key_of, template_hash, unschedulable
from infra.twin.k8s_pod import FIRST_ADDRESS, Container, Pod, PodWaiting, entered, log_path, make, remove, start
from infra.twin.k8s_probes import Prober, ask, target
from infra.twin.k8s_rollout import Replica
from infra.twin.k8s_status import deployment_status, pod_row, service_status, waiting
from infra.twin.k8s_valid import ENFORCE, forbidden
from infra.twin.site import Site

TICK_S: Final = 0.1
FIRST_BACKOFF_S: Final = 10.0
LONGEST_BACKOFF_S: Final = 300.0
CALM_S: Final = 600.0
"""A container that ran so long begins its back-off anew (kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle)."""
RETRY_S: Final = 1.0
LAST_ADDRESS: Final = 250
DEFAULT_DEADLINE_S: Final = 600.0
LOG_TAIL: Final = 300


class Node:
    """The node of a run.

    Args:
        site: the world.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        self.network = Network(site)
        self.place = folder(site.run)
        self.cluster = Cluster({})
        self.generations: dict[str, int] = {}
        self.pods: list[Pod] = []
        self.next_number = 1
        self._stamp = 0
        self._status = ""
        self._fault = ""
        self._progress: dict[str, tuple[object, float]] = {}
        self._refused: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    # -- the loop --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Go on until SIGTERM; pods stay as they are."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop)
        loop.add_signal_handler(signal.SIGINT, self._stop)
        await asyncio.to_thread(self.network.start_dns)
        self._load()
        while not self._stopping:
            try:
                self._tick()
                self._fault = ""
            except (LabError, OSError) as error:
                if str(error) != self._fault:
                    _log(f"node: {error}")
                self._fault = str(error)
                self._write_status(time.monotonic())
                await asyncio.sleep(RETRY_S)
            await asyncio.sleep(TICK_S)

    def _stop(self) -> None:
        self._stopping = True

    def _tick(self) -> None:
        self._read_objects()
        now = time.monotonic()
        for deployment in self.cluster.kind("Deployment"):
            self._roll(deployment, now)
        for pod in self.pods:
            if not pod.deleting and pod.owner not in self.cluster.objects:
                self._let_go(pod)
        for pod in self.pods:
            self._advance(pod, now)
        self.network.sync(self.cluster, self._views())
        self._write_status(now)

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- objects and pods ------------------------------------------------------------------------------------------

    def _read_objects(self) -> None:
        path = self.place.parent / "twin.json"
        try:
            stamp = path.stat().st_mtime_ns
        except FileNotFoundError:
            return
        if stamp == self._stamp:
            return
        self._stamp = stamp
        items = [item for item in self.site.store.items() if item.token.startswith("kubernetes:")]
        written = [item for item in items if item.data["generation"]]
        objects = {item.data["key"]: item.data["object"] for item in written}
        self.generations = {item.data["key"]: int(item.data["generation"]) for item in written}
        self.cluster = Cluster({**system_objects(), **objects})

    def _roll(self, deployment: Json, now: float) -> None:
        key, spec = key_of(deployment), deployment["spec"]
        wanted = template_hash(spec["template"])
        step = k8s_rollout.plan(spec, wanted, self._replicas(key, spec, now))
        self._refused.pop(key, None)
        if step.create:
            self._refused[key] = self._create(deployment, wanted, step.create)
        for pod in self.pods:
            if pod.name in step.delete:
                self._let_go(pod)

    def _replicas(self, key: str, spec: Json, now: float) -> list[Replica]:
        calm = float(spec.get("minReadySeconds") or 0)
        return [
            Replica(
                name=pod.name,
                template=pod.template,
                ready=pod.ready,
                available=pod.ready and pod.ready_since is not None and now - pod.ready_since >= calm,
                deleting=pod.deleting,
            )
            for pod in self.pods
            if pod.owner == key
        ]

    def _create(self, deployment: Json, template: str, count: int) -> str:
        """Write pods down; return why there are none."""
        metadata, spec = deployment["metadata"], deployment["spec"]["template"]["spec"]
        space = metadata.get("namespace") or "default"
        level = self.cluster.namespace_labels(space).get(ENFORCE, "")
        against = forbidden(spec, level)
        if against:
            return (
                f'pods of {metadata["name"]} are forbidden: violates PodSecurity "{level}:latest": {"; ".join(against)}'
            )
        for _ in range(count):
            number, self.next_number = self.next_number, self.next_number + 1
            node = home(self.site.run).node
            self.pods.append(
                Pod(
                    name=f"{metadata['name']}-{template}-{number}",
                    number=number,
                    namespace=space,
                    owner=key_of(deployment),
                    template=template,
                    labels=dict(deployment["spec"]["template"]["metadata"]["labels"]),
                    spec=spec,
                    address=node if spec.get("hostNetwork") else self._free_address(number),
                )
            )
        self._save()
        return ""

    def _free_address(self, number: int) -> str:
        taken = {pod.address for pod in self.pods}
        span = LAST_ADDRESS - FIRST_ADDRESS + 1
        for step in range(span):
            # The next one each time, so that an address that has just been given back rests.
            address = str(POD_NETWORK[FIRST_ADDRESS + (number - 1 + step) % span])
            if address not in taken:
                return address
        raise LabError(f"no address of {POD_NETWORK} is left for a pod: {span} are in use")

    # -- a pod's life ----------------------------------------------------------------------------------------------

    def _advance(self, pod: Pod, now: float) -> None:
        if not pod.made:
            if not pod.deleting and pod.said != "making" and now >= pod.containers[0].not_before:
                pod.said = pod.said if pod.said else unschedulable(pod.spec, node_labels())
                if not unschedulable(pod.spec, node_labels()):
                    pod.said = "making"
                    self._beside(self._make(pod))
            return
        for container in pod.containers:
            self._look(pod, container, now)
        if not pod.ready:
            pod.ready_since = None
        elif pod.ready_since is None:
            pod.ready_since = now

    async def _make(self, pod: Pod) -> None:
        await asyncio.sleep(TICK_S)  # the network knows it by then
        try:
            await asyncio.to_thread(make, self.site, self.cluster, pod)
        except (PodWaiting, LabError, OSError) as error:
            pod.said = str(error)
            pod.containers[0].not_before = time.monotonic() + RETRY_S
            return
        pod.said, pod.made = "", True

    def _look(self, pod: Pod, container: Container, now: float) -> None:
        """See whether a container runs, ask its probes, start it again."""
        if container.busy:
            return
        if container.pid and not is_alive(container.pid, container.ticks):
            lasted = now - container.started
            container.pid, container.prober = 0, None
            if not pod.deleting:
                container.said = container.said or f"it ended after {lasted:.1f} s: {self._tail(pod, container)}"
                container.restarts += 1
                if lasted >= CALM_S:
                    container.streak = 0
                container.not_before = now + backoff_s(container.streak)
                container.streak += 1
                self._save()
        if not container.pid:
            if not pod.deleting and now >= container.not_before:
                container.busy = True
                self._beside(self._start(pod, container))
            return
        prober = container.prober
        if prober is None:
            # It runs once its command does: what fails before has never been ready.
            container.prober = Prober(pod.spec["containers"][container.index], now) if entered(container.pid) else None
            return
        if prober.failed and not pod.deleting:
            container.said = prober.failed
            container.busy = True
            _log(f"{pod.name}/{container.name}: {prober.failed}: restarted")
            self._beside(self._restart(pod, container))
            return
        for kind, timeout_s in prober.due(now):
            self._beside(self._ask(pod, container, prober, kind, timeout_s))

    async def _start(self, pod: Pod, container: Container) -> None:
        try:
            info = await asyncio.to_thread(start, self.site, self.cluster, pod, container)
        except (PodWaiting, LabError, OSError) as error:
            container.said = str(error)
            container.not_before = time.monotonic() + RETRY_S
            return
        finally:
            container.busy = False
        container.pid, container.ticks, container.started = info.pid, info.start_time, time.monotonic()

    async def _restart(self, pod: Pod, container: Container) -> None:
        try:
            await asyncio.to_thread(self.site.lab.stop, pod.host, pod.process(container), grace_s=pod.grace_s)
        finally:
            container.busy = False

    async def _ask(self, pod: Pod, container: Container, prober: Prober, kind: str, timeout_s: float) -> None:
        try:
            port, path = target(pod.spec["containers"][container.index], kind)
            good, words = await ask(pod.address, port, path, timeout_s)
        except ValueError as error:
            good, words = False, str(error)
        prober.answer(kind, good, words, time.monotonic())

    def _let_go(self, pod: Pod) -> None:
        if not pod.deleting:
            pod.deleting = True
            self._save()
            self._beside(self._end(pod))

    async def _end(self, pod: Pod) -> None:
        """Out of the Services first; then preStop, SIGTERM, and SIGKILL when the grace is over."""
        until = time.monotonic() + pod.grace_s

        async def end(container: Container) -> None:
            manifest = pod.spec["containers"][container.index]
            sleep = ((manifest.get("lifecycle") or {}).get("preStop") or {}).get("sleep") or {}
            if container.pid:
                await asyncio.sleep(min(float(sleep.get("seconds") or 0), pod.grace_s))
            left = max(0.1, until - time.monotonic())
            await asyncio.to_thread(self.site.lab.stop, pod.host, pod.process(container), grace_s=left)

        while pod.said == "making" or any(item.busy for item in pod.containers):  # noqa: ASYNC110 - as all here
            await asyncio.sleep(TICK_S)
        await asyncio.gather(*(end(container) for container in pod.containers))
        await asyncio.to_thread(remove, self.site, pod)
        self.pods.remove(pod)
        self._save()
        if not pod.host_network:
            await asyncio.to_thread(forget_flows, pod.address)

    def _tail(self, pod: Pod, container: Container) -> str:
        log = log_path(self.site.run, pod, container)
        with contextlib.suppress(OSError):
            return (
                " / ".join(log.read_text(errors="replace")[-LOG_TAIL:].strip().splitlines()[-3:]) or "it said nothing"
            )
        return "it said nothing"

    # -- what is written down --------------------------------------------------------------------------------------

    def _save(self) -> None:
        replace_file(
            self.place / "pods.json",
            json.dumps({"next": self.next_number, "pods": [pod.to_json() for pod in self.pods]}),
        )

    def _load(self) -> None:
        """Go on from where an earlier process of the node stopped: containers that run are taken over."""
        with contextlib.suppress(FileNotFoundError):
            read = json.loads((self.place / "pods.json").read_text())
            self.next_number = int(read["next"])
            self.pods = [Pod(**item) for item in read["pods"]]
        running = self.site.lab.record().processes
        now = time.monotonic()
        for pod in self.pods:
            for container in pod.containers:
                process = running.get(f"{pod.host}/{pod.process(container)}")
                if process is not None and is_alive(process.pid, process.start_time):
                    pod.made = True
                    container.pid, container.ticks, container.started = process.pid, process.start_time, now
                    container.prober = Prober(pod.spec["containers"][container.index], now, taken_over=True)
            if pod.deleting:
                self._beside(self._end(pod))

    # -- status ----------------------------------------------------------------------------------------------------

    def _views(self) -> list[PodView]:
        return [*system_pods(), *(pod.view() for pod in self.pods)]

    def _write_status(self, now: float) -> None:
        given, pods = balancer_addresses(self.cluster), self._views()
        objects = {}
        for key, generation in self.generations.items():
            found: Json = {}
            if key.startswith("Deployment/"):
                found = self._deployment(key, generation, now)
            elif key.startswith("Service/"):
                found = service_status(self.cluster.objects[key], pods, given)
            fault = {"ready": False, "message": f"node: {self._fault}"} if found and self._fault else {}
            objects[key] = {"generation": generation, **found, **fault}
        text = json.dumps({"objects": objects, "pods": [pod_row(pod) for pod in self.pods]})
        if text != self._status:
            replace_file(self.place / "status.json", text)
            self._status = text

    def _deployment(self, key: str, generation: int, now: float) -> Json:
        spec = self.cluster.objects[key]["spec"]
        replicas = self._replicas(key, spec, now)
        found = deployment_status(self.cluster.objects[key], generation, replicas)
        mark = (json.dumps(found), len(replicas))
        if self._progress.get(key, (None, 0.0))[0] != mark:
            self._progress[key] = (mark, now)
        mine = [pod for pod in self.pods if pod.owner == key and not pod.deleting]
        why = self._refused.get(key) or "; ".join(f"{pod.name}: {said}" for pod in mine if (said := waiting(pod)))
        deadline = float(spec.get("progressDeadlineSeconds") or DEFAULT_DEADLINE_S)
        late = not found["ready"] and now - self._progress[key][1] > deadline
        return {**found, "failed": late, "message": f"no progress for {deadline:g} s: {why}" if late else why}


def backoff_s(streak: int) -> float:
    """Seconds to wait before a container is started again that has ended `streak` times before: at once at first."""
    return min(FIRST_BACKOFF_S * 2 ** min(streak - 1, 10), LONGEST_BACKOFF_S) if streak else 0.0


def _log(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


if __name__ == "__main__":
    asyncio.run(Node(Site(sys.argv[1])).run())
