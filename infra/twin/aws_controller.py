"""What AWS does by itself in a VPC: keeps services running, checks health, answers names. A process of its router.

    python -m infra.twin.aws_controller RUN VPC

It looks at the store twice a second and brings tasks, targets and names to what services say. It keeps nothing that the
store does not hold, but rows of health checks: after a kill -9 the next one goes on.
"""

import contextlib
import copy
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from infra.lab.errors import LabError
from infra.twin import aws_dns, aws_fabric, aws_tasks, aws_view, container
from infra.twin.aws_balancing import DRAINING, HEALTHY
from infra.twin.aws_base import inputs_of
from infra.twin.aws_deployments import COMPLETED, FAILED, IN_PROGRESS, TaskView, breaks, decide, pause_s
from infra.twin.aws_discovery import names
from infra.twin.aws_ecs import SERVICE, find_definition
from infra.twin.aws_health import MOST_EVENTS, CommandCheck, ContainerHealth, TargetHealth
from infra.twin.aws_tasks import DEACTIVATING, PENDING, RUNNING
from infra.twin.aws_view import TARGETS, View, enis_of
from infra.twin.container import Container
from infra.twin.flows import forget_flows
from infra.twin.interface import Json, TwinError
from infra.twin.site import Site
from infra.twin.store import Item

TICK_S: Final = 0.5
_WORKERS: Final = 8


class Controller:
    """Args: the world, and the id of the VPC."""

    def __init__(self, site: Site, vpc: str) -> None:
        self._site, self._vpc = site, vpc
        self._pool = ThreadPoolExecutor(_WORKERS)
        self._containers: dict[int, Container] = {}
        self._health: dict[int, ContainerHealth] = {}
        self._targets: dict[tuple[str, str], TargetHealth] = {}
        self._checks: dict[object, Future[bool]] = {}
        self.table: aws_dns.Table = {}

    def tick(self, now: float) -> None:
        """Look once. `now` is in seconds of the wall clock, which outlives a restart."""
        items = self._site.store.items()
        if not any(item.id == self._vpc for item in items):
            return
        self._check_targets(items, now)
        for service in (item for item in items if item.token == SERVICE and item.data["vpc"] == self._vpc):
            with self._told(service):
                self._keep(service, now)
        self.table = names(self._site.store.items(), self._vpc)

    @contextlib.contextmanager
    def _told(self, service: Item) -> Iterator[None]:
        try:
            yield
        except (LabError, TwinError, OSError) as error:
            self._say(service, f"(service {_name(service)}) {error}")

    # -- services --------------------------------------------------------------------------------------------------

    def _keep(self, service: Item, now: float) -> None:
        deployments: list[Json] = copy.deepcopy(service.data["deployments"])
        if service.data.get("seen") != service.data["wanted"] and not service.data["closing"]:
            deployments = self._deploy(service, deployments)
        newest = deployments[-1] if deployments else None
        tasks = list(aws_tasks.tasks_of(self._site.store.items(), service))
        for task in tasks:
            self._finish(service, task, now)
        if newest is None:
            return
        views = [self._view(service, task, deployments, now) for task in tasks]
        inputs = inputs_of(service)
        decision = decide(
            desired=0 if service.data["closing"] else int(inputs["desiredCount"]),
            least_percent=int(inputs["deploymentMinimumHealthyPercent"]),
            most_percent=int(inputs["deploymentMaximumPercent"]),
            newest=newest["id"],
            state=newest["state"],
            tasks=views,
            wait=now < newest["not_before"] or service.data["closing"],
        )
        for number, why in decision.stop:
            task = next(item for item in tasks if item.number == number)
            self._begin_stop(service, task, why, now)
            if any(view.number == number and view.fault for view in views):
                self._failed(service, deployments, task.data["deployment"], why, now)
        for index in range(decision.start):
            self._start(service, newest, deployments, len(tasks) + index, now)
        if decision.complete and newest["state"] == IN_PROGRESS:
            newest["state"] = COMPLETED
            deployments = [newest]
            self._say(service, f"(service {_name(service)}) (deployment {newest['id']}) deployment completed.")
        if deployments != service.data["deployments"]:
            self._site.store.change(service.number, {"deployments": deployments})

    def _deploy(self, service: Item, deployments: list[Json]) -> list[Json]:
        """Begin the deployment that the program asks for."""
        inputs = inputs_of(service)
        definition = find_definition(self._site.store.items(), str(inputs["taskDefinition"]))
        if definition is None:
            return deployments
        registries = inputs.get("serviceRegistries") or {}
        made = {
            "id": service.data["wanted"], "state": IN_PROGRESS, "failures": 0, "not_before": 0.0, "inputs": inputs,
            "definition": inputs_of(definition), "arn": inputs["taskDefinition"],
            "registry": (registries if isinstance(registries, dict) else registries[0]).get("registryArn"),
        }  # fmt: skip
        kept = [item for item in deployments if item["state"] == COMPLETED][-1:]
        begun = [*kept, made]
        self._site.store.change(service.number, {"deployments": begun, "seen": service.data["wanted"]})
        self._say(service, f"(service {_name(service)}) (deployment {made['id']}) began: {made['arn']}")
        return begun

    def _start(self, service: Item, deployment: Json, deployments: list[Json], count: int, now: float) -> None:
        task = aws_tasks.begin(self._site, service, deployment, count)
        try:
            what = aws_tasks.container_of(
                self._site, self._site.store.items(), self._vpc, task, deployment["definition"]
            )
            aws_tasks.start(self._site, self._vpc, task, what)
        except (TwinError, LabError) as error:
            aws_tasks.remove(self._site, self._vpc, task, 0.0)
            self._failed(service, deployments, deployment["id"], str(error), now)
            return
        self._containers[task.number] = what
        check = CommandCheck.read(aws_tasks.definition_part(deployment["definition"], "healthCheck", None))
        self._site.store.change(
            task.number, {"state": RUNNING, "health": "UNKNOWN" if check else "HEALTHY", "ready": time.time()}
        )
        self._register(deployment, task)
        self._say(service, f"(service {_name(service)}) has started 1 tasks: (task {_name(task)}).")

    def _view(self, service: Item, task: Item, deployments: list[Json], now: float) -> TaskView:
        data = task.data
        deployment = next((item for item in deployments if item["id"] == data["deployment"]), None)
        live = data["state"] in (PENDING, RUNNING)
        fault = ""
        if live:
            fault = self._fault(service, task, deployment, now)
        healthy = (
            live
            and data["state"] == RUNNING
            and data["health"] == "HEALTHY"
            and self._target_state(task) in ("", HEALTHY)
        )
        return TaskView(number=task.number, deployment=data["deployment"], live=live, healthy=healthy, fault=fault)

    def _fault(self, service: Item, task: Item, deployment: Json | None, now: float) -> str:
        (eni,), data = enis_of(task), task.data
        if data["state"] == PENDING:
            return "" if now - data["started"] < aws_tasks.STOP_TIMEOUT_S else "it never started"
        if not container.running(self._site.run, eni.host):
            return "Essential container in task exited"
        if deployment is None:
            return ""
        check = CommandCheck.read(aws_tasks.definition_part(deployment["definition"], "healthCheck", None))
        if check is not None:
            self._check_container(task, deployment, check, now)
            if self._health[task.number].state == "UNHEALTHY":
                return "Task failed container health checks"
        grace = float(inputs_of(service).get("healthCheckGracePeriodSeconds") or 0)
        if self._target_state(task) == "unhealthy" and now - data["ready"] > grace:
            return "Task failed ELB health checks"
        return ""

    def _check_container(self, task: Item, deployment: Json, check: CommandCheck, now: float) -> None:
        health = self._health.get(task.number)
        if health is None:
            state = task.data["health"]
            health = ContainerHealth(
                began=task.data["ready"], next_at=task.data["ready"] + check.interval_s, state=state
            )
            self._health[task.number] = health
        pending = self._checks.get(task.number)
        if pending is not None and pending.done():
            del self._checks[task.number]
            health.took(check, pending.result(), now)
            if health.state != task.data["health"]:
                self._site.store.change(task.number, {"health": health.state})
        elif pending is None and now >= health.next_at:
            what = self._containers.get(task.number)
            if what is None:  # started by a controller before this one
                items = self._site.store.items()
                what = aws_tasks.container_of(self._site, items, self._vpc, task, deployment["definition"])
                self._containers[task.number] = what
            argv = (self._site.run, what, list(check.command), check.timeout_s)
            self._checks[task.number] = self._pool.submit(container.check, *argv)

    def _failed(self, service: Item, deployments: list[Json], deployment: int, why: str, now: float) -> None:
        """Count a failed task; the circuit breaker may end its deployment."""
        self._say(service, f"(service {_name(service)}) a task of deployment {deployment} stopped: {why}")
        newest = deployments[-1]
        if newest["id"] != deployment:
            return
        newest["failures"] += 1
        newest["not_before"] = now + pause_s(newest["failures"])
        inputs = inputs_of(service)
        breaker = inputs.get("deploymentCircuitBreaker") or {}
        if (
            newest["state"] != IN_PROGRESS
            or not breaker.get("enable")
            or not breaks(newest["failures"], inputs["desiredCount"])
        ):
            return
        newest["state"] = FAILED
        self._say(
            service, f"(service {_name(service)}) (deployment {deployment}) deployment failed: tasks failed to start."
        )
        good = next((item for item in deployments if item["state"] == COMPLETED), None)
        if breaker.get("rollback") and good is not None:
            again = {**good, "id": max(item["id"] for item in deployments) + 0.5, "state": IN_PROGRESS, "failures": 0}
            deployments.append({**again, "not_before": 0.0, "rollback": True})
            self._say(service, f"(service {_name(service)}) rolling back to {good['arn']}.")

    def _begin_stop(self, service: Item, task: Item, why: str, now: float) -> None:
        """Take a task out of its target group; it is stopped when that has drained."""
        delay = 0.0
        for group in self._site.store.items(TARGETS):
            for target in group.data["targets"]:
                if target["task"] == task.number:
                    # An empty one drains nothing.
                    gone = not container.running(self._site.run, enis_of(task)[0].host)
                    delay = 0.0 if gone else float(inputs_of(group)["deregistrationDelay"])
                    self._set_target(group, task.number, DRAINING)
        self._site.store.change(task.number, {"state": DEACTIVATING, "until": now + delay, "why": why})
        aws_fabric.sync(self._site, self._vpc)
        self._say(service, f"(service {_name(service)}) has begun draining (task {_name(task)}): {why}.")

    def _finish(self, service: Item, task: Item, now: float) -> None:
        if task.data["state"] != DEACTIVATING or now < task.data["until"]:
            return
        (eni,) = enis_of(task)
        for group in self._site.store.items(TARGETS):
            left = [target for target in group.data["targets"] if target["task"] != task.number]
            if left != group.data["targets"]:
                self._site.store.change(group.number, {"targets": left})
        deployments = service.data["deployments"]
        grace = next((item for item in deployments if item["id"] == task.data["deployment"]), None)
        seconds = aws_tasks.definition_part(grace["definition"], "stopTimeout", 30) if grace else 30
        aws_tasks.remove(self._site, self._vpc, task, float(seconds))
        forget_flows(eni.address)
        for table in (self._containers, self._health):
            table.pop(task.number, None)
        self._checks.pop(task.number, None)
        self._say(service, f"(service {_name(service)}) has stopped 1 running tasks: (task {_name(task)}).")

    # -- targets ---------------------------------------------------------------------------------------------------

    def _register(self, deployment: Json, task: Item) -> None:
        (eni,) = enis_of(task)
        for wanted in deployment["inputs"].get("loadBalancers") or ():
            group = self._site.store.get(TARGETS, wanted["targetGroupArn"])
            if group is not None:
                port = int(wanted["containerPort"])
                target = {"task": task.number, "address": eni.address, "port": port, "state": "initial"}
                self._site.store.change(group.number, {"targets": [*group.data["targets"], target]})
        aws_fabric.sync(self._site, self._vpc)

    def _target_state(self, task: Item) -> str:
        found = [
            target["state"]
            for group in self._site.store.items(TARGETS)
            for target in group.data["targets"]
            if target["task"] == task.number
        ]
        return str(found[0]) if found else ""

    def _set_target(self, group: Item, task: int, state: str) -> None:
        fresh = self._site.store.get(TARGETS, group.id)
        if fresh is not None:
            changed = [
                {**target, "state": state} if target["task"] == task else target for target in fresh.data["targets"]
            ]
            self._site.store.change(group.number, {"targets": changed})

    def _check_targets(self, items: list[Item], now: float) -> None:
        view = View(items, self._vpc)
        for group in view.of(TARGETS):
            check = inputs_of(group)["healthCheck"]
            source = _node(view, group)
            for target in group.data["targets"]:
                key = (group.id, target["address"])
                if target["state"] == DRAINING or not source:
                    self._targets.pop(key, None)
                    continue
                health = self._targets.setdefault(key, TargetHealth(state=target["state"]))
                pending = self._checks.get(key)
                if pending is not None and pending.done():
                    del self._checks[key]
                    passes, fails = int(check.get("healthyThreshold", 3)), int(check.get("unhealthyThreshold", 3))
                    health.took(pending.result(), passes, fails)
                    if health.state != target["state"]:
                        self._set_target(group, target["task"], health.state)
                        aws_fabric.sync(self._site, self._vpc)
                elif pending is None and now >= health.next_at:
                    health.next_at = now + float(check.get("interval", 30))
                    port = target["port"] if check.get("port") in (None, "traffic-port") else int(check["port"])
                    seconds = float(check.get("timeout", 10))
                    self._checks[key] = self._pool.submit(answers, source, target["address"], int(port), seconds)

    def _say(self, service: Item, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)
        fresh = self._site.store.get(SERVICE, service.id)
        if fresh is not None:
            events = [*fresh.data["events"], text][-MOST_EVENTS:]
            self._site.store.change(service.number, {"events": events})


def _name(item: Item) -> str:
    return item.id.rpartition("/")[2]


def _node(view: View, group: Item) -> str:
    """The address of a load balancer's node that checks a target group; empty where no listener sends to it."""
    for listener in view.of(aws_view.LISTENER):
        inputs = inputs_of(listener)
        if inputs["defaultActions"][0].get("targetGroupArn") == group.id:
            for balancer in view.of(aws_view.BALANCER):
                if balancer.id == inputs["loadBalancerArn"]:
                    return enis_of(balancer)[0].address
    return ""


def answers(source: str, address: str, port: int, timeout_s: float) -> bool:
    """Whether a TCP port accepts a connection from an address."""
    try:
        socket.create_connection((address, port), timeout_s, (source, 0)).close()
    except OSError:
        return False
    return True


def main(arguments: list[str]) -> None:
    """Control a VPC until the process is ended."""
    site = Site(arguments[0])
    controller = Controller(site, arguments[1])
    resolver = View(site.store.items(), arguments[1]).network[2]
    aws_dns.serve(str(resolver), lambda: controller.table)
    print(f"resolver at {resolver}", flush=True)
    while True:
        try:
            controller.tick(time.time())
        except Exception:  # what it cannot do now it tries again; the log says why
            traceback.print_exc()
        time.sleep(TICK_S)


if __name__ == "__main__":
    main(sys.argv[1:])
