"""Health checks: what a row of results means."""

import pytest

from infra.twin.aws_health import CommandCheck, ContainerHealth, TargetHealth

CHECK = CommandCheck(command=("x",), interval_s=10, retries=3, start_period_s=15)


def test_a_container_is_unhealthy_after_its_retries_and_healthy_after_one_good_answer() -> None:
    health = ContainerHealth(began=0.0)
    seen = []
    for now, good in ((20, False), (30, False), (40, False), (50, True)):
        health.took(CHECK, good, float(now))
        seen.append(health.state)
    assert seen == ["UNKNOWN", "UNKNOWN", "UNHEALTHY", "HEALTHY"]
    assert health.next_at == 60


def test_failures_of_the_start_period_do_not_count_until_it_was_healthy() -> None:
    health = ContainerHealth(began=0.0)
    for now in (1, 5, 9, 14):
        health.took(CHECK, False, float(now))
    assert (health.state, health.failures) == ("UNKNOWN", 0)
    health.took(CHECK, True, 14.5)
    health.took(CHECK, False, 14.9)
    assert health.failures == 1


@pytest.mark.parametrize(
    ("given", "command"),
    [
        (["CMD", "python", "-m", "x"], ["python", "-m", "x"]),
        (["CMD-SHELL", "curl localhost || exit 1"], ["/bin/sh", "-c", "curl localhost || exit 1"]),
        (["python", "x.py"], ["python", "x.py"]),
    ],
)
def test_a_check_is_read_from_its_definition(given: list[str], command: list[str]) -> None:
    check = CommandCheck.read({"command": given, "interval": 7, "startPeriod": 2})
    assert check is not None
    assert (list(check.command), check.interval_s, check.timeout_s, check.retries, check.start_period_s) == (
        command,
        7,
        5,
        3,
        2,
    )
    assert CommandCheck.read(None) is None


def test_a_target_changes_after_a_row_of_answers() -> None:
    health, seen = TargetHealth(), []
    for good in (False, True, False, True, False, False, True, True):
        health.took(good, passes=2, fails=2)
        seen.append(health.state)
    # New: one good answer does. Later a single answer that differs does not.
    assert seen == ["initial", "healthy", "healthy", "healthy", "healthy", "unhealthy", "unhealthy", "healthy"]
