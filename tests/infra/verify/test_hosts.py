"""Units of hosts: whether they run, and the sentence that names why one does not."""

from collections.abc import Sequence

import pytest

from infra import units
from infra.outputs import StackOutputs
from infra.ssh_place import ssh_command, unit_place
from infra.verify import hosts
from infra.verify.context import Context, Finished
from infra.verify.model import Status

SSH = ssh_command("root", "192.0.2.1", "ssh-ed25519 AAAA")
OUTPUTS = StackOutputs(
    stack="do-nyc1", run="r", rung="cloud", relays=(), connectors=(), services=(), agents=(), ca_pem="",
    places={
        "relay": unit_place("intermediate", units.INTERMEDIATE, SSH, "192.0.2.1"),
        "echo": unit_place("backend", units.BACKEND_ECHO, SSH, "192.0.2.1"),
    },
)  # fmt: skip
UP = "Ready=yes\nActiveState=active\nSubState=running\nResult=success\nExecMainStatus=0\nNRestarts=0\n--\n"
FLAPS = UP.replace("Ready=yes\n", "").replace("NRestarts=0", "NRestarts=9")
DOWN = "ActiveState=inactive\nSubState=dead\nResult=success\nExecMainStatus=0\nNRestarts=0\n--\n"
STOPPED = '{"event": "listening", "level": "info"}\nztna-intermediate.service: Deactivated successfully.\n'


@pytest.mark.parametrize(
    ("said", "status", "words"),
    [
        (UP, Status.PASSED, ""),
        (f"{DOWN}{STOPPED}", Status.FAILED, "is stopped"),
        (f"{FLAPS}ztna: cert_path: the certificate has expired\nx.service: Failed\n", Status.FAILED, "has expired"),
        (f"{FLAPS}x.service: Failed at step EXEC: Permission denied\n", Status.FAILED, "cannot be executed"),
        (f"{FLAPS}ztna: key_path: Permission denied\n", Status.FAILED, "starts: ztna: key_path: Permission denied"),
        (FLAPS.replace("Status=0", "Status=203"), Status.FAILED, "cannot be executed"),
        (f'{FLAPS}{{"event": "bind", "level": "error", "error": "in use"}}\n', Status.FAILED, "starts: bind in use"),
        (FLAPS.replace("active", "activating", 1), Status.FAILED, "see its journal"),
        (FLAPS, Status.FAILED, "runs and is not ready"),
        ("", Status.FAILED, "its host does not answer"),
    ],
)
def test_a_unit_that_does_not_run_says_why(said: str, status: Status, words: str) -> None:
    asked: list[Sequence[str]] = []

    def run(argv: Sequence[str], timeout_s: float, stdin: str | None) -> Finished:
        asked.append(argv)
        return Finished(0, said, "")

    check = hosts.checks(OUTPUTS)[0]
    result = check.run(Context(OUTPUTS, runner=run))
    assert result.status is status, result
    assert words in result.detail
    assert asked[0][: len(SSH)] == SSH
    assert units.READY["ztna-intermediate"] in asked[0][-1]


def test_each_unit_reached_by_ssh_is_asked_for() -> None:
    assert [check.id for check in hosts.checks(OUTPUTS)] == ["unit-relay", "unit-echo"]
