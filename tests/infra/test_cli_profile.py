"""`ztna profile`: which files of which agent, readable by their owner alone."""

import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from infra import cli, cli_profile
from infra.cli_common import ExitCode
from infra.outputs import AgentOutput, StackOutputs

PROFILE = {
    "name": "laptop",
    "stack": "do-nyc1",
    "intermediate_server": {"host": "203.0.113.5", "port": 4433, "server_name": "ztna-server"},
    "services": [{"id": "echo-service", "virtual_ip": "100.64.0.100"}],
    "virtual_ip": "100.64.1.1",
    "forwards": [],
    "ca_cert_pem": "CA\n",
    "key_pem": "KEY\n",
}
OUTPUTS = StackOutputs(
    stack="do-nyc1",
    run="do-nyc1",
    rung="cloud",
    relays=(),
    connectors=(),
    services=(),
    agents=tuple(
        AgentOutput(name=name, virtual_ip=address, services=(), mode="tun", profile=profile)
        for name, address, profile in (
            ("laptop", "100.64.1.1", json.dumps(PROFILE)),
            ("phone", "100.64.1.2", "P"),
            ("new", "100.64.1.3", ""),
        )
    ),
    places={},
    ca_pem="CA\n",
    agent_files={"phone": {"agent.json": "P", "agent.env": "A=1\n"}},
)


def run(monkeypatch: pytest.MonkeyPatch, outputs: StackOutputs, *argv: str) -> Any:
    """Run the command against a stack with these outputs."""

    def shown(stack: str, engine: str = "auto", *, show_secrets: bool = False) -> StackOutputs:
        assert (stack, show_secrets) == ("do-nyc1", True)
        return outputs

    monkeypatch.setattr(cli_profile, "stack_outputs", shown)
    return CliRunner().invoke(cli.app, ["profile", "--stack", "do-nyc1", *argv])


def test_the_files_that_the_stack_exports_are_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result = run(monkeypatch, OUTPUTS, "phone", "--out", str(tmp_path / "phone"))
    assert result.exit_code == 0
    assert result.stdout.split() == [str(tmp_path / "phone" / name) for name in ("agent.json", "agent.env")]
    assert {path.name: path.read_text() for path in (tmp_path / "phone").iterdir()} == {
        "agent.json": "P",
        "agent.env": "A=1\n",
    }
    assert stat.S_IMODE((tmp_path / "phone").stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in (tmp_path / "phone").iterdir())


def test_files_that_it_does_not_export_are_made_of_the_profile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result = run(monkeypatch, OUTPUTS, "laptop", "--out", str(tmp_path), "--json")
    assert set(json.loads(result.stdout)) == {
        "agent.json", "agent.env", "agent.plist", "agent.mobileconfig", "ca.pem",
    }  # fmt: skip
    assert json.loads((tmp_path / "agent.json").read_text()) == PROFILE
    assert "KEY" not in (tmp_path / "agent.plist").read_text()


def test_an_old_file_that_others_could_read_is_replaced_by_one_that_they_cannot(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old = tmp_path / "agent.json"
    old.write_text("old")
    old.chmod(0o644)
    assert run(monkeypatch, OUTPUTS, "phone", "--out", str(tmp_path)).exit_code == 0
    assert (old.read_text(), stat.S_IMODE(old.stat().st_mode)) == ("P", 0o600)


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        ((), ExitCode.USAGE, "has the agents laptop, phone, new: say which one"),
        (("tablet",), ExitCode.NO_STACK, "no agent 'tablet'; it has: laptop, phone, new"),
        (("new",), ExitCode.NO_STACK, "agent 'new' has no profile"),
    ],
)
def test_an_agent_that_is_not_there_is_explained(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, argv: tuple[str, ...], code: ExitCode, words: str
) -> None:
    result = run(monkeypatch, OUTPUTS, *argv, "--out", str(tmp_path))
    assert (result.exit_code, words in result.stderr) == (code, True), result.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_only_agent_needs_no_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    alone = replace(OUTPUTS, agents=OUTPUTS.agents[:1])
    assert run(monkeypatch, alone, "--out", str(tmp_path)).exit_code == 0
    assert (tmp_path / "agent.json").exists()
