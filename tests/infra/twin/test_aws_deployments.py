"""Deployments of ECS by decisions alone: a row of looks at a service whose tasks do what the test says."""

from dataclasses import dataclass, field

import pytest

from infra.twin.aws_deployments import COMPLETED, FAILED, IN_PROGRESS, TaskView, breaks, decide, pause_s

SURGE = (100, 200)
IN_PLACE = (0, 100)


@dataclass
class Service:
    """A service as its controller keeps it; a task is healthy after as many looks as `takes` says."""

    percents: tuple[int, int]
    desired: int = 1
    takes: int = 2
    newest: int = 1
    state: str = IN_PROGRESS
    tasks: dict[int, tuple[int, int]] = field(default_factory=dict)
    going: list[int] = field(default_factory=list)
    most: int = 0
    least: int = 99
    number: int = 0

    def healthy(self, age: int) -> bool:
        """Whether a task of this age is."""
        return age >= self.takes

    def look(self) -> None:
        """Decide once, and do what was decided; what was told to stop is gone at the next look."""
        self.tasks = {number: (deployment, age + 1) for number, (deployment, age) in self.tasks.items()}
        views = [
            TaskView(number=number, deployment=deployment, live=number not in self.going, healthy=self.healthy(age))
            for number, (deployment, age) in self.tasks.items()
        ]
        found = decide(
            desired=self.desired, least_percent=self.percents[0], most_percent=self.percents[1], newest=self.newest,
            state=self.state, tasks=views, wait=False,
        )  # fmt: skip
        for number in self.going:
            del self.tasks[number]
        self.going = [number for number, _ in found.stop]
        for _ in range(found.start):
            self.number += 1
            self.tasks[self.number] = (self.newest, 0)
        if found.complete:
            self.state = COMPLETED
        self.most = max(self.most, len(self.tasks))
        self.least = min(
            self.least, sum(self.healthy(age) for number, (_, age) in self.tasks.items() if number not in self.going)
        )

    def settle(self) -> int:
        """Look until the deployment is complete; how many looks that took."""
        for count in range(1, 50):
            self.look()
            if self.state == COMPLETED:
                return count
        raise AssertionError(f"not complete: {self.tasks}")

    def deploy(self) -> None:
        """Another deployment."""
        self.newest, self.state, self.most, self.least = self.newest + 1, IN_PROGRESS, 0, 99


@pytest.mark.parametrize("desired", [1, 2, 5])
def test_with_room_to_surge_as_many_as_are_wanted_are_healthy_all_the_while(desired: int) -> None:
    service = Service(SURGE, desired)
    service.settle()
    service.deploy()
    service.settle()
    assert {deployment for deployment, _ in service.tasks.values()} == {2}
    assert service.least >= desired
    assert desired < service.most <= 2 * desired


def test_in_place_there_is_never_more_than_one() -> None:
    service = Service(IN_PLACE)
    service.settle()
    service.deploy()
    service.settle()
    assert {deployment for deployment, _ in service.tasks.values()} == {2}
    assert service.most == 1


def test_between_the_two_it_goes_by_steps() -> None:
    service = Service((50, 100), desired=4)
    service.settle()
    service.deploy()
    service.settle()
    assert service.most == 4
    assert service.least >= 2


def test_a_lower_count_stops_what_is_too_many() -> None:
    service = Service(SURGE, desired=3)
    service.settle()
    service.desired = 1
    for _ in range(3):
        service.look()
    assert len(service.tasks) == 1


def test_a_faulty_task_is_stopped_and_another_started() -> None:
    sick = TaskView(number=1, deployment=1, live=True, healthy=False, fault="Essential container in task exited")
    found = decide(desired=1, least_percent=100, most_percent=200, newest=1, state=COMPLETED, tasks=[sick], wait=False)
    assert found.stop == ((1, "Essential container in task exited"),)
    assert found.start == 1


def test_a_failed_deployment_starts_nothing_and_leaves_the_old_tasks() -> None:
    old = TaskView(number=1, deployment=1, live=True, healthy=True)
    found = decide(desired=1, least_percent=100, most_percent=200, newest=2, state=FAILED, tasks=[old], wait=False)
    assert (found.start, found.stop, found.complete) == (0, (), False)


def test_what_waits_starts_nothing() -> None:
    found = decide(desired=1, least_percent=100, most_percent=200, newest=1, state=IN_PROGRESS, tasks=[], wait=True)
    assert found.start == 0


@pytest.mark.parametrize(("desired", "fatal"), [(1, 3), (6, 3), (20, 10), (1000, 200)])
def test_the_circuit_breaker_counts(desired: int, fatal: int) -> None:
    assert not breaks(fatal - 1, desired)
    assert breaks(fatal, desired)


def test_pauses_between_starts_grow_to_a_bound() -> None:
    pauses = [pause_s(failures) for failures in range(12)]
    assert pauses == sorted(pauses)
    assert pauses[0] == 0
    assert pauses[-1] == 10
