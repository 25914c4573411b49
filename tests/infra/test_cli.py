"""The `ztna` command: what it prints, what it ends with, and what it says when something is wrong."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from infra import cli, cli_access, cli_common, cli_config, cli_gate, cli_recover, cli_stack, cli_twin
from infra.cli_common import EXIT_CODES, CliFailure, ExitCode, open_workspace
from infra.engine.errors import Cancelled, ConfigError, DeploymentFailed, LockedError, StateError
from infra.engine.events import Diagnostic, OperationStarted, Phase, ResourceStep, Severity, Summary
from infra.outputs import (
    AgentOutput,
    NatOutput,
    Place,
    RelayEndpoint,
    ServiceOutput,
    ServicePort,
    StackOutputs,
    to_exports,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "cli.md"
OUTPUTS = StackOutputs(
    stack="lab",
    run="lab",
    rung="root",
    relays=(RelayEndpoint(name="relay", host="172.20.0.2", port=4433, server_name="ztna-server"),),
    connectors=(),
    services=(
        ServiceOutput(
            id="http-app",
            virtual_ip="100.64.0.101",
            ports=(ServicePort(protocol="tcp", port=80),),
            connector="connector",
            backend="172.22.0.20:8080",
        ),
    ),
    agents=(AgentOutput(name="agent", virtual_ip="100.64.1.1", services=("http-app",), mode="tun", profile="PRIVATE"),),
    places={
        "agent": Place(
            kind="agent",
            address="172.21.0.10",
            exec=("env", "WHERE=agent"),
            nat=NatOutput(
                name="nat-agent",
                mapping="endpoint-independent",
                filtering="address-dependent",
                public_address="172.20.0.21",
            ),
        ),
        "relay": Place(kind="intermediate", address="172.20.0.2"),
    },
    ca_pem="CA",
)


class Workspace:
    """Stands for the engine's workspace: does nothing, and says what it did."""

    error: Exception | None = None
    calls: list[str] = []
    config = SimpleNamespace(load=lambda: SimpleNamespace(values={}))

    def __init__(self, on_event: Any) -> None:
        self.on_event = on_event

    def __getattr__(self, verb: str) -> Any:
        def operate() -> Any:
            from infra.engine.result import Result as Operated

            self.calls.append(verb)
            self.on_event(OperationStarted(verb=verb, engine="embedded", stack="lab"))
            if self.error is not None:
                raise self.error
            self.on_event(
                ResourceStep(
                    phase=Phase.FINISHED,
                    operation="create",
                    urn="urn",
                    type="pulumi-python:dynamic/lab:Host",
                    name="lab-agent",
                    duration_s=0.25,
                )
            )
            self.on_event(Summary(verb=verb, result="succeeded", changes={"create": 1, "same": 0}, duration_s=0.5))
            return Operated(verb=verb, changes={"create": 1}, duration_s=0.5)

        if verb not in ("up", "preview", "refresh", "destroy"):
            raise AttributeError(verb)
        return operate

    def outputs(self, *, show_secrets: bool = False) -> dict[str, Any]:
        """Return OUTPUTS as an engine does."""
        if self.error is not None:
            raise self.error
        exports = to_exports(OUTPUTS)
        return exports if show_secrets else exports | {"profiles": "[secret]", "probes": "[secret]"}

    def cancel(self) -> str:
        """Say that nothing runs."""
        return "Nothing is running."


@pytest.fixture(autouse=True)
def workspace(monkeypatch: pytest.MonkeyPatch) -> type[Workspace]:
    """Put the stand-in in place of the engine."""

    def opened(
        stack: str, engine: str = "auto", on_event: Any = None, *, real: bool = False, twin: bool = False
    ) -> Workspace:
        assert stack == "lab"
        return Workspace(on_event or (lambda event: None))

    monkeypatch.setattr(Workspace, "error", None)
    monkeypatch.setattr(Workspace, "calls", [])
    for module in (cli_common, cli_stack, cli_config, cli_gate, cli_recover):
        monkeypatch.setattr(module, "open_workspace", opened)
    return Workspace


def ztna(*argv: str, stdin: str = "") -> Result:
    """Run the command."""
    return CliRunner().invoke(cli.app, argv, input=stdin)


def test_up_says_what_it_did_and_how_to_use_it() -> None:
    result = ztna("up", "--stack", "lab", "--yes")
    assert result.exit_code == 0
    assert " + Host lab-agent  0.2 s" in result.stderr
    assert "up succeeded: 1 create in 0.5 s" in result.stderr
    for words in ("172.20.0.21", "mapping endpoint-independent", "100.64.0.101", "tcp 80", "rung root"):
        assert words in result.stdout
    assert "ztna exec --stack lab agent -- curl http://100.64.0.101/get" in result.stdout
    assert "PRIVATE" not in result.output


def test_json_is_one_value_on_standard_output() -> None:
    result = ztna("up", "--yes", "--json")
    value = json.loads(result.stdout)
    assert value["changes"] == {"create": 1}
    assert value["outputs"]["run"] == "lab"
    assert value["outputs"]["profiles"] == "[secret]"
    for verb in ("preview", "refresh"):
        assert json.loads(ztna(verb, "--json").stdout)["verb"] == verb
    assert json.loads(ztna("destroy", "--yes", "--json").stdout)["verb"] == "destroy"


def test_nothing_is_changed_without_somebody_saying_yes(workspace: type[Workspace]) -> None:
    for verb in ("up", "destroy"):
        result = ztna(verb)
        assert result.exit_code == ExitCode.USAGE
        assert "add --yes" in result.stderr
    assert not {"up", "destroy"} & set(workspace.calls)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (LockedError("stack 'lab' is locked: up by root", "Wait, or `ztna cancel`."), ExitCode.LOCKED),
        (ConfigError("lab:agentNat is missing", "Add it."), ExitCode.CONFIG),
        (DeploymentFailed("up failed with 1 error", "Run it again."), ExitCode.FAILED),
        (Cancelled("interrupted"), ExitCode.INTERRUPTED),
        (OSError("no space left on device"), ExitCode.FAILED),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED),
    ],
)
def test_each_kind_of_failure_has_its_code_and_its_words(
    workspace: type[Workspace], error: Exception, code: ExitCode
) -> None:
    workspace.error = error
    result = ztna("up", "--yes")
    assert result.exit_code == code
    if str(error):
        assert f"ztna: {error}" in result.stderr
    assert "Traceback" not in result.output


def test_a_fault_of_ours_is_not_dressed_up(workspace: type[Workspace]) -> None:
    workspace.error = ZeroDivisionError("bug")
    assert isinstance(ztna("up", "--yes").exception, ZeroDivisionError)


def test_a_stack_that_is_not_up_is_told_apart(workspace: type[Workspace]) -> None:
    workspace.error = StateError("stack 'lab' has never been up", "Run `ztna up` first.")
    result = ztna("output")
    assert result.exit_code == ExitCode.NO_STACK
    assert "Run `ztna up` first." in result.stderr


def test_output_prints_one_value_or_all_and_secrets_only_when_asked() -> None:
    assert ztna("output", "ca_pem").stdout == "CA\n"
    assert json.loads(ztna("output", "relays").stdout)[0]["port"] == 4433
    assert json.loads(ztna("output", "--json").stdout)["profiles"] == "[secret]"
    assert json.loads(ztna("output", "profiles", "--show-secrets").stdout) == {"agent": "PRIVATE"}
    assert "172.20.0.21" in ztna("output").stdout
    result = ztna("output", "relay")
    assert result.exit_code == ExitCode.NO_STACK
    assert "no output 'relay'; it has: agent_files, agents, ca_pem" in result.stderr


@pytest.mark.parametrize(
    ("command", "other"),
    [
        *((command, "--engine pulumi") for command in ("up", "refresh", "destroy", "recover", "status", "verify")),
        *((command, "--real") for command in ("up", "refresh", "destroy", "recover")),
    ],
)
def test_the_twin_is_not_had_with_another_engine(
    command: str, other: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cli_twin, "project_dir", lambda: tmp_path)
    monkeypatch.setattr(cli_twin, "_enter", None)
    yes = ["--yes"] if command in ("up", "destroy") else []
    result = ztna(command, "--stack", "do-nyc1", "--twin", *yes, *other.split())
    assert result.exit_code == ExitCode.USAGE, result.output
    assert f"leave out {other}" in result.stderr
    with pytest.raises(CliFailure, match=f"leave out {other}"):
        open_workspace("do-nyc1", other.rpartition(" ")[2], real=other == "--real", twin=True)


def test_exec_becomes_the_command_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr("os.execvp", lambda file, argv: seen.append([file, *argv]))
    ztna("exec", "--stack", "lab", "agent", "--", "curl", "-s", "http://100.64.0.101/get")
    ztna("exec", "agent", "ping", "-c", "1", "100.64.0.100")
    assert seen == [
        ["env", "env", "WHERE=agent", "curl", "-s", "http://100.64.0.101/get"],
        ["env", "env", "WHERE=agent", "ping", "-c", "1", "100.64.0.100"],
    ]


def test_exec_in_no_place_lists_the_places() -> None:
    result = ztna("exec", "moon", "--", "true")
    assert result.exit_code == ExitCode.NO_STACK
    assert "no place 'moon'; its places: agent, relay" in result.stderr


def test_a_role_that_does_not_answer_is_shown_and_fails_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = OUTPUTS.__class__(
        **{field: getattr(OUTPUTS, field) for field in OUTPUTS.__dataclass_fields__}
        | {"places": {"relay": Place(kind="intermediate", address="x", status_url="http://127.0.0.1:1/status")}}
    )
    monkeypatch.setattr(cli_access, "stack_outputs", lambda *_, **__: outputs)
    result = ztna("status")
    assert result.exit_code == ExitCode.FAILED
    assert "unreachable" in result.stdout
    assert json.loads(ztna("status", "--json").stdout)["relay"]["state"] == "unreachable"


def test_logs_print_the_end_of_each_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    log = tmp_path / "agent.log"
    log.write_text("".join(f"line {number}\n" for number in range(1000)))
    place = Place(kind="agent", address="x", logs={"agent": str(log), "old": str(tmp_path / "none.log")})
    outputs = OUTPUTS.__class__(
        **{field: getattr(OUTPUTS, field) for field in OUTPUTS.__dataclass_fields__} | {"places": {"agent": place}}
    )
    monkeypatch.setattr(cli_access, "stack_outputs", lambda *_, **__: outputs)
    lines = ztna("logs", "-n", "2").stdout.splitlines()
    assert lines == [
        f"== agent/agent ({log})",
        "line 998",
        "line 999",
        f"== agent/old ({tmp_path}/none.log)",
        "(no log: No such file or directory)",
    ]


def test_config_keys_may_leave_out_the_namespace_and_are_checked() -> None:
    assert cli_config.full_name("lab", "agentNat") == "lab:agentNat"
    assert cli_config.full_name("lab", "other:key") == "other:key"
    result = ztna("config", "set", "lab:agentNet", "symmetric")
    assert result.exit_code == ExitCode.CONFIG
    assert "'lab:agentNet' is no key of stack 'lab': did you mean 'lab:agentNat'?" in result.stderr


def test_config_objects_are_json() -> None:
    result = ztna("config", "set", "agentLink", "{delay: 3")
    assert result.exit_code == ExitCode.CONFIG
    assert "is not JSON" in result.stderr


def test_cancel_says_what_it_found() -> None:
    assert ztna("cancel").stdout == "Nothing is running.\n"


def test_an_unknown_engine_is_a_usage_error() -> None:
    result = ztna("preview", "--engine", "terraform")
    assert result.exit_code == ExitCode.USAGE
    assert "terraform" in result.stderr


@pytest.mark.parametrize(
    "command", ["up", "preview", "refresh", "destroy", "output", "cancel", "status", "logs", "verify"]
)
def test_every_command_documents_the_exit_codes(command: str) -> None:
    text = re.sub(r"\s+", " ", ztna(command, "--help").stdout)
    assert "Exit codes: 0 done; 1 an operation" in text


def test_role_commands_are_there_too() -> None:
    for role in ("intermediate", "connector", "agent"):
        assert "--config" in ztna(role, "--help").stdout
    assert "--stack" in ztna("status", "--help").stdout


def test_the_document_names_every_command_and_exit_code() -> None:
    text = DOCUMENT.read_text()
    commands = {info.name or (info.callback.__name__ if info.callback else "") for info in cli.app.registered_commands}
    for command in commands:
        assert f"ztna {command}" in text, command
    for code, meaning in EXIT_CODES.items():
        assert f"| {code.value} | {meaning} |" in text


def test_a_provider_error_is_shown_without_its_traceback() -> None:
    from infra.cli_display import readable

    frames = 'Traceback (most recent call last):\n  File "x.py", line 1, in f\n    f()\n'
    trace = f"{frames}infra.lab.errors.LabError: no nft\napt install it"
    assert readable(trace) == "no nft\napt install it"
    assert readable("plain words") == "plain words"
    assert readable("Traceback (most recent call last):\nKeyboardInterrupt") == "KeyboardInterrupt"


def test_a_failure_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    from infra.cli_display import Display

    with Display(Console(width=200)) as display:
        step = ResourceStep(
            phase=Phase.FAILED, operation="create", urn="u", type="a:b:Host", name="h", message="no such thing"
        )
        display(step)
        display(Diagnostic(severity=Severity.ERROR, message="no such thing", urn="u"))
        display(Diagnostic(severity=Severity.DEBUG, message="chatter"))
    assert capsys.readouterr().out == " ✗ Host h: create failed: no such thing\n"
