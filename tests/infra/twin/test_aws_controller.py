"""Services of ECS through their controller: what starts, what is refused and why, restart, rolling update, roll back.

Time is the test's own; containers are on paper, and run as long as the test says.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra.twin import aws_control, aws_controller, aws_view, container
from infra.twin.aws_controller import Controller
from infra.twin.aws_ecs import SERVICE
from infra.twin.aws_forms import ACCOUNT
from infra.twin.container import Container
from infra.twin.interface import Json, TwinError
from infra.twin.store import Item
from tests.infra.twin.aws_account import Account
from tests.infra.twin.sites import noted_site

ANYWHERE = "0.0.0.0/0"
LOG = {"awslogs-group": "/app", "awslogs-stream-prefix": "app"}
TRUST = json.dumps(
    {
        "Statement": [
            {"Effect": "Allow", "Principal": {"Service": "ecs-tasks.amazonaws.com"}, "Action": "sts:AssumeRole"}
        ]
    }
)


class Bench:
    """A service `app` of one task, and what its containers do."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.now = 1000.0
        self.started: list[Container] = []
        self.dead: set[str] = set()
        self.broken: set[str] = set()
        self.good = True
        account.network()
        account.group("g")
        account.allow("Egress", "out", "g", "-1", cidrIpv4=ANYWHERE)
        account.make("Role", "role", name="starts", assumeRolePolicy=TRUST)
        self.may("*", "*")
        account.make("LogGroup", "logs", name="/app")
        account.make("Cluster", "cluster")
        account.make("Repository", "repository", name="app", imageTagMutability="IMMUTABLE")
        account.make("Secret", "secret", name="profile")
        account.make("SecretVersion", "value", secretId=account.ids["secret"], secretString="s3cret")
        password = account.provider("aws:x:X").invoke("aws:ecr/getAuthorizationToken:getAuthorizationToken", {}, False)[
            0
        ]
        self.url = account.outputs["repository"]["repositoryUrl"]
        account.make(
            "Image", "image", context={"location": "."}, dockerfile={"location": "docker/quakekube/Dockerfile"},
            buildArgs={"QUAKEKUBE_IMAGE": "q@sha256:1"}, tags=[f"{self.url}:1"], push=True,
            registries=[{"address": self.url, "username": "AWS", "password": password["password"]}],
        )  # fmt: skip

    def may(self, action: str, resource: str) -> None:
        """What the execution role may do."""
        policy = json.dumps({"Statement": [{"Effect": "Allow", "Action": action, "Resource": resource}]})
        self.account.make("RolePolicy", f"policy-{action}", role="starts", policy=policy)

    def definition(self, name: str, **container: Any) -> str:
        """A task definition."""
        found: Json = {
            "name": "app", "image": f"{self.url}@{self.account.outputs['image']['digest']}", "user": "1:1",
            "portMappings": [{"containerPort": 8080, "protocol": "tcp"}], "readonlyRootFilesystem": True,
            "healthCheck": {"command": ["CMD", "check"], "interval": 10, "retries": 2},
            "logConfiguration": {"logDriver": "awslogs", "options": LOG},
            **container,
        }  # fmt: skip
        self.account.make(
            "TaskDefinition", name, family="app", cpu="256", memory="512", networkMode="awsvpc",
            requiresCompatibilities=["FARGATE"], executionRoleArn=self.account.outputs["role"]["arn"],
            containerDefinitions=json.dumps([found]),
        )  # fmt: skip
        return str(self.account.outputs[name]["arn"])

    def inputs(self, definition: str, **inputs: Any) -> Json:
        """What the service is given."""
        return {
            "cluster": self.account.ids["cluster"], "taskDefinition": definition, "desiredCount": 1, "name": "app",
            "networkConfiguration": {
                "subnets": [self.account.ids["private"]], "securityGroups": [self.account.ids["g"]]
            },
            "deploymentCircuitBreaker": {"enable": True, "rollback": True}, **inputs,
        }  # fmt: skip

    def serve(self, definition: str, **inputs: Any) -> Controller:
        """Make the service."""
        self.account.make("Service", "app", **self.inputs(definition, **inputs))
        return Controller(self.account.site, self.account.ids["vpc"])

    def update(self, definition: str) -> None:
        """Another definition."""
        old = self.item()
        self.account.site.store.change(
            old.number,
            {"inputs": {**old.data["inputs"], "taskDefinition": definition}, "wanted": old.data["wanted"] + 1},
        )

    def item(self) -> Item:
        """The service in the store."""
        return self.account.site.store.items(SERVICE)[0]

    def tasks(self) -> list[Item]:
        """Its tasks."""
        return self.account.site.store.items(aws_view.TASK)

    def events(self) -> str:
        """What it said."""
        return "\n".join(self.item().data["events"])

    def until(self, controller: Controller, done: Callable[[], bool], seconds: float = 120.0) -> float:
        """Let time pass until something is so; how long that took."""
        began = self.now
        while not done():
            assert self.now - began < seconds, self.events()
            self.now += 0.5
            controller.tick(self.now)
        return self.now - began


class Done:
    """A check that is done at once."""

    def __init__(self, good: bool) -> None:
        self._good = good

    def done(self) -> bool:
        """It is."""
        return True

    def result(self) -> bool:
        """What it found."""
        return self._good


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    bench = Bench(Account(noted_site(tmp_path, monkeypatch)))
    monkeypatch.setattr(aws_control, "ensure", lambda site, vpc: None)
    monkeypatch.setattr(container, "start", lambda site, what: bench.started.append(what))
    monkeypatch.setattr(container, "stop", lambda site, host, grace_s: bench.dead.add(host))
    monkeypatch.setattr(container, "running", lambda run, host: host not in bench.dead)
    monkeypatch.setattr(aws_controller, "forget_flows", lambda address: 0)
    monkeypatch.setattr("infra.twin.aws_controller.time.time", lambda: bench.now)

    class Pool:
        def submit(self, call: object, *arguments: Any) -> Done:
            return Done(bench.good and arguments[1].host not in bench.broken)

    monkeypatch.setattr(aws_controller, "ThreadPoolExecutor", lambda workers: Pool())
    return bench


def test_a_task_is_started_as_its_definition_says(bench: Bench) -> None:
    secret = bench.account.outputs["secret"]["arn"]
    version = bench.account.outputs["value"]["versionId"]
    arn = bench.definition(
        "one", environment=[{"name": "A", "value": "1"}], secrets=[{"name": "P", "valueFrom": f"{secret}:::{version}"}]
    )
    controller = bench.serve(arn)
    bench.until(controller, lambda: bench.item().data["deployments"][-1:] != [] and state(bench) == "COMPLETED")
    (what,) = bench.started
    assert (what.user, what.read_only, what.resolver) == ("1:1", True, "10.0.0.2")
    assert (what.env["A"], what.env["P"]) == ("1", "s3cret")
    assert what.argv[:3] == ("python", "-I", "/opt/ztna/standin.py")
    assert what.argv[-1] == "8080"
    assert what.log.parent.name == "app"
    (task,) = bench.tasks()
    assert (task.data["state"], task.data["health"]) == ("RUNNING", "HEALTHY")


def state(bench: Bench) -> str:
    """Of the newest deployment."""
    made = bench.item().data["deployments"]
    return str(made[-1]["state"]) if made else ""


def fails(bench: Bench, controller: Controller, words: str) -> None:
    """The deployment fails, and says so."""
    bench.until(controller, lambda: state(bench) == "FAILED")
    assert words in bench.events()
    assert bench.tasks() == []
    assert bench.started == []


def test_without_a_way_out_no_task_starts(bench: Bench) -> None:
    controller = bench.serve(bench.definition("one"))
    bench.account.remove("Route", "through")
    fails(bench, controller, "ResourceInitializationError: unable to pull secrets or registry auth")


def test_what_the_role_may_not_do_stops_the_start(bench: Bench) -> None:
    secret = bench.account.outputs["secret"]["arn"]
    controller = bench.serve(bench.definition("one", secrets=[{"name": "P", "valueFrom": secret}]))
    bench.account.remove("RolePolicy", "policy-*")
    for action in ("ecr:*", "logs:*"):
        bench.may(action, "*")
    fails(bench, controller, f"is not authorized to perform: secretsmanager:GetSecretValue on resource: {secret}")


def test_an_image_that_is_not_there_is_named(bench: Bench) -> None:
    controller = bench.serve(bench.definition("one", image=f"{bench.url}@sha256:{'0' * 64}"))
    fails(bench, controller, "CannotPullContainerError: failed to resolve ref")


def test_a_task_that_ends_is_started_again(bench: Bench) -> None:
    controller = bench.serve(bench.definition("one"))
    bench.until(controller, lambda: state(bench) == "COMPLETED")
    (first,) = bench.tasks()
    bench.dead.add(f"task-{first.number}")
    bench.until(
        controller, lambda: [task.data["state"] for task in bench.tasks()] == ["RUNNING"] and first not in bench.tasks()
    )
    assert "Essential container in task exited" in bench.events()
    assert len(bench.started) == 2


def test_a_task_that_stops_to_answer_is_replaced(bench: Bench) -> None:
    controller = bench.serve(bench.definition("one"))
    bench.until(controller, lambda: state(bench) == "COMPLETED")
    (first,) = bench.tasks()
    bench.broken.add(f"task-{first.number}")
    took = bench.until(controller, lambda: first.number not in {task.number for task in bench.tasks()})
    assert 10 <= took <= 25, "two checks failed, ten seconds apart"
    assert "Task failed container health checks" in bench.events()


def test_a_new_definition_takes_over_once_it_is_healthy(bench: Bench) -> None:
    controller = bench.serve(bench.definition("one"))
    bench.until(controller, lambda: state(bench) == "COMPLETED")
    bench.update(bench.definition("two", environment=[{"name": "A", "value": "2"}]))
    fewest: list[int] = []

    def done() -> bool:
        fewest.append(sum(task.data["health"] == "HEALTHY" for task in bench.tasks()))
        return state(bench) == "COMPLETED" and len(bench.started) == 2 and len(bench.tasks()) == 1

    bench.until(controller, done)
    assert bench.started[-1].env["A"] == "2"
    assert min(fewest) == 1, "one was healthy all the while"


def test_a_new_definition_that_fails_is_rolled_back(bench: Bench) -> None:
    controller = bench.serve(bench.definition("one"))
    bench.until(controller, lambda: state(bench) == "COMPLETED")
    (good,) = bench.tasks()
    bench.update(bench.definition("two", image=f"{bench.url}@sha256:{'0' * 64}"))
    bench.until(controller, lambda: state(bench) == "COMPLETED" and "rolling back" in bench.events())
    assert bench.events().count("CannotPullContainerError") == 3
    assert [task.number for task in bench.tasks()] == [good.number] or len(bench.tasks()) == 1
    assert bench.item().data["deployments"][-1]["rollback"] is True


def test_a_service_that_goes_takes_its_tasks_with_it(bench: Bench) -> None:
    controller = bench.serve(bench.definition("one"))
    bench.until(controller, lambda: state(bench) == "COMPLETED")
    bench.account.site.store.change(bench.item().number, {"closing": True})
    bench.until(controller, lambda: bench.tasks() == [])


def test_a_controller_after_a_kill_goes_on_with_what_runs(bench: Bench) -> None:
    bench.until(bench.serve(bench.definition("one")), lambda: state(bench) == "COMPLETED")
    (first,) = bench.tasks()
    again = Controller(bench.account.site, bench.account.ids["vpc"])
    for _ in range(100):
        bench.now += 0.5
        again.tick(bench.now)
    assert [task.number for task in bench.tasks()] == [first.number]
    assert len(bench.started) == 1


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (
            {"taskDefinition": f"arn:aws:ecs:us-east-2:{ACCOUNT}:task-definition/app:9"},
            "Unable to find task definition",
        ),
        ({"cluster": "arn:none"}, "ClusterNotFoundException"),
        ({"serviceRegistries": {"registryArn": "arn:none"}}, "Unable to find the registry"),
        (
            {"loadBalancers": [{"containerName": "app", "containerPort": 1, "targetGroupArn": "arn:none"}]},
            "did not have a container port 1 defined",
        ),
        (
            {"loadBalancers": [{"containerName": "app", "containerPort": 8080, "targetGroupArn": "arn:none"}]},
            "does not have an associated load balancer",
        ),
    ],
)
def test_what_a_service_is_refused_for(bench: Bench, change: Json, code: str) -> None:
    with pytest.raises(TwinError, match=code):
        bench.account.make("Service", "app", **{**bench.inputs(bench.definition("one")), **change})


def test_a_tag_of_an_immutable_repository_does_not_move(bench: Bench) -> None:
    made = bench.account.outputs["image"]
    with pytest.raises(TwinError, match="cannot be overwritten because the repository is immutable"):
        bench.account.make(
            "Image", "other", context={"location": "."}, dockerfile={"location": "docker/quakekube/Dockerfile"},
            buildArgs={"QUAKEKUBE_IMAGE": "q@sha256:2"}, tags=made["tags"], registries=made["registries"], push=True,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "inputs", "what"),
    [
        ("TaskDefinition", {"cpu": "256", "memory": "4096"}, "No Fargate configuration exists"),
        ("TaskDefinition", {"containerDefinitions": "[{}, {}]"}, "one container"),
        (
            "TaskDefinition",
            {"containerDefinitions": '[{"name": "a", "image": "i", "memoryReservation": 5}]'},
            "memoryReservation",
        ),
        ("Service", {"launchType": "EC2"}, "no launch type"),
        ("Role", {"assumeRolePolicy": "{"}, "MalformedPolicyDocument"),
        ("SecretVersion", {"secretId": "s", "secretString": "x" * 70_000}, "1 to 65536 bytes"),
    ],
)
def test_what_check_refuses(bench: Bench, kind: str, inputs: Json, what: str) -> None:
    needed = {
        "TaskDefinition": {
            "family": "f", "cpu": "256", "memory": "512", "networkMode": "awsvpc", "executionRoleArn": "r",
            "containerDefinitions": "[{}]",
        },
        "Service": bench.inputs("d"),
    }  # fmt: skip
    failures = bench.account.failures(kind, **{**needed.get(kind, {}), **inputs})
    assert any(what in failure for failure in failures), failures
