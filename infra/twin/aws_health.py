"""Health: of containers by their own command, of targets by TCP; what a row of results means."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from infra.twin.aws_balancing import HEALTHY, INITIAL, UNHEALTHY
from infra.twin.interface import Json


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandCheck:
    """A container's own check, in seconds.

    Source: https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_HealthCheck.html
    """

    command: Sequence[str]
    interval_s: float = 30
    timeout_s: float = 5
    retries: int = 3
    start_period_s: float = 0

    @classmethod
    def read(cls, given: Json | None) -> "CommandCheck | None":
        """Read it from a container definition; None where there is none."""
        if not given:
            return None
        words = list(given["command"])
        command = ["/bin/sh", "-c", *words[1:]] if words[:1] == ["CMD-SHELL"] else words[words[:1] == ["CMD"] :]
        return cls(
            command=command,
            interval_s=float(given.get("interval", 30)),
            timeout_s=float(given.get("timeout", 5)),
            retries=int(given.get("retries", 3)),
            start_period_s=float(given.get("startPeriod", 0)),
        )


@dataclass(slots=True)
class ContainerHealth:
    """What is known of one container's health."""

    began: float
    next_at: float = 0.0
    failures: int = 0
    state: str = "UNKNOWN"

    def took(self, check: CommandCheck, good: bool, now: float) -> None:
        """Note a result. A failure in the start period does not count, as long as it has never been healthy."""
        self.next_at = now + check.interval_s
        if good:
            self.failures, self.state = 0, "HEALTHY"
        elif self.state == "HEALTHY" or now - self.began >= check.start_period_s:
            self.failures += 1
            if self.failures >= check.retries:
                self.state = "UNHEALTHY"


@dataclass(slots=True)
class TargetHealth:
    """What is known of one target: `row` counts results that differ from its state."""

    state: str = INITIAL
    next_at: float = 0.0
    row: int = 0

    def took(self, good: bool, passes: int, fails: int) -> None:
        """Note a result. A new target is healthy after one good answer.

        Source: https://docs.aws.amazon.com/elasticloadbalancing/latest/network/target-group-health-checks.html
        """
        if good == (self.state == HEALTHY):
            self.row = 0
            return
        self.row += 1
        needed = fails if not good else 1 if self.state == INITIAL else passes
        if self.row >= needed:
            self.state, self.row = (HEALTHY if good else UNHEALTHY), 0


MOST_EVENTS: Final = 50
"""Of a service that are kept, as ECS keeps its last hundred."""
