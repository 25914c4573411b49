"""The last step of `ztna up`: what is verified by which configuration, and what a failure says."""

import json
from pathlib import Path
from typing import Any

import pytest

from infra import cli_common, cli_gate
from infra.cli_common import CliFailure, ExitCode
from infra.config_tables import TABLES
from infra.outputs import RelayEndpoint, SshAccess, StackOutputs
from infra.verify import reach
from infra.verify.context import Finished
from infra.verify.model import CheckResult, Report, Result, Status
from infra.verify.reach import Source

FAILED = Result(Status.FAILED, "relay", "direct", "UDP 4434 is closed")
PASSED = Result(Status.PASSED, "direct", "direct")


def report(*results: Result) -> Report:
    return Report(
        stack="do-nyc1", run="r", started_at="", seconds=1.0, conditions={}, services=(),
        results=tuple(CheckResult(f"c{number}", f"Check {number}", each, 0.1) for number, each in enumerate(results)),
    )  # fmt: skip


@pytest.mark.parametrize("stack", TABLES)
def test_every_stack_says_how_much_and_the_lab_nothing(stack: str) -> None:
    assert cli_gate.mode_of(stack, {}) == ("off" if stack == "lab" else "quick")
    assert cli_gate.mode_of(stack, {f"{stack}:verify": "full"}) == "full"
    assert cli_gate.mode_of(stack, {f"{stack}:verify": "false"}) == "off", "as YAML reads a bare off"


def test_a_stack_of_another_project_is_not_verified() -> None:
    assert cli_gate.mode_of("moon", {"moon:verify": "full"}) == "off"


def test_a_bad_value_names_key_value_and_remedy() -> None:
    with pytest.raises(
        CliFailure, match=r"do-nyc1:verify is 'quik': did you mean 'quick'\?.*\n.*ztna config set"
    ) as error:
        cli_gate.mode_of("do-nyc1", {"do-nyc1:verify": "quik"})
    assert error.value.code == ExitCode.CONFIG


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"create": 30}, "or `ztna destroy --stack do-nyc1 --twin`"),
        ({"update": 1, "same": 29}, "put program and configuration back"),
        ({"same": 30, "update": 0}, "This update changed nothing"),
    ],
)
def test_a_failure_names_check_and_cause_and_the_way_back(changes: dict[str, int], words: str) -> None:
    said = cli_gate.failure("do-nyc1", report(PASSED, FAILED), changes, twin=True)
    assert "Check 1: UDP 4434 is closed" in said
    assert "Check 0" not in said
    assert words in said


class Opened:
    """Stands for a workspace with a configuration."""

    def __init__(self, **values: str) -> None:
        self.config = self
        self.values = {f"do-nyc1:{key}": value for key, value in values.items()}

    def load(self) -> "Opened":
        return self


@pytest.mark.parametrize(("result", "code"), [(FAILED, ExitCode.FAILED), (PASSED, None)])
def test_up_fails_with_its_verification(monkeypatch: pytest.MonkeyPatch, result: Result, code: ExitCode | None) -> None:
    asked: list[str] = []

    def made(stack: str, engine: str, mode: str, **more: Any) -> Report:
        asked.append(mode)
        return report(result)

    monkeypatch.setattr(cli_gate, "_report", made)
    monkeypatch.setattr(cli_gate, "open_workspace", lambda *args, **more: Opened())
    if code is None:
        verified = cli_gate.verify_after_up("do-nyc1", "auto", {}, twin=True, as_json=True)
        assert verified is not None
        assert verified["counts"]["passed"] == 1
    else:
        with pytest.raises(CliFailure) as error:
            cli_gate.verify_after_up("do-nyc1", "auto", {}, twin=True, as_json=True)
        assert error.value.code == code
    assert asked == ["quick"]


def test_off_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_gate, "open_workspace", lambda *args, **more: Opened(verify="off"))
    monkeypatch.setattr(cli_gate, "_report", None)
    assert cli_gate.verify_after_up("do-nyc1", "auto", {}, twin=True, as_json=True) is None


OUTPUTS = StackOutputs(
    stack="do-nyc1", run="r", rung="cloud", connectors=(), services=(), agents=(), places={}, ca_pem="",
    relays=(RelayEndpoint(name="relay", host="192.0.2.1", port=4433, server_name="s", alternate_port=4434),),
    ssh=(SshAccess(host="192.0.2.1", port=22, user="root", host_key="k"),),
)  # fmt: skip


@pytest.mark.parametrize(
    ("answers", "admin", "words"),
    [
        (["open", "open", "198.18.0.1:7", "198.18.0.1:8", "filtered", "filtered"], False, ""),
        (["open", "open", "198.18.0.1:7", "198.18.0.1:8", "filtered", "open"], True, ""),
        (["open", "filtered", "198.18.0.1:7", "198.18.0.1:8", "filtered", "open"], True, "a smaller MTU and drops"),
        (["filtered", "filtered", "198.18.0.1:7", "198.18.0.1:8", "filtered", "open"], True, "does the firewall let"),
        (["open", "open", "198.18.0.1:7", "filtered", "filtered", "filtered"], False, "UDP 4434 of 192"),
        (["open", "open", "10.0.0.1:7", "198.18.0.1:8", "filtered", "filtered"], False, "saw us come from 10.0"),
        (["open", "open", "198.18.0.1:7", "198.18.0.1:8", "open", "filtered"], False, "TCP 8080 of 192"),
        (["open", "open", "198.18.0.1:7", "198.18.0.1:8", "filtered", "open"], False, "firewall has it open to all"),
        (["open", "open", "198.18.0.1:7", "198.18.0.1:8", "refused", "filtered"], False, "is refused from x"),
    ],
)  # fmt: skip
def test_each_port_that_is_not_as_promised_has_its_sentence(
    monkeypatch: pytest.MonkeyPatch, answers: list[str], admin: bool, words: str
) -> None:
    def probed(argv: Any, timeout_s: float, stdin: str | None) -> Finished:
        return Finished(0, str(answers).replace("'", '"'), "")

    monkeypatch.setattr(reach, "run_command", probed)
    result = reach.reach(OUTPUTS, Source(name="x", address="198.18.0.1", admin=admin))
    assert (result.status is Status.PASSED) == (not words)
    assert words in result.detail


def test_a_refusal_is_good_enough_where_a_cloud_may_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = '["open", "open", "203.0.113.1:7", "203.0.113.1:8", "refused", "open"]'
    monkeypatch.setattr(reach, "run_command", lambda *args: Finished(0, answers, ""))
    made = cli_gate.ports_from_here(OUTPUTS)
    assert made.exit_code == 0, made.results


@pytest.mark.parametrize("as_json", [True, False])
def test_the_report_is_kept_however_it_is_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    answers = '["open", "open", "203.0.113.1:7", "203.0.113.1:8", "filtered", "open"]'
    monkeypatch.setattr(reach, "run_command", lambda *args: Finished(0, answers, ""))
    monkeypatch.setattr(cli_common, "project_dir", lambda: tmp_path)
    monkeypatch.setattr(cli_gate, "open_workspace", lambda *args, **more: Opened())
    monkeypatch.setattr(cli_gate, "stack_outputs", lambda *args, **more: OUTPUTS)
    verified = cli_gate.verify_after_up("do-nyc1", "auto", {}, twin=False, as_json=as_json)
    kept = json.loads((tmp_path / "build/reports/do-nyc1/report.json").read_text())
    assert verified is not None
    assert kept["counts"] == verified["counts"] == {**verified["counts"], "passed": 1}
    assert ("1 passed" in capsys.readouterr().out) != as_json
