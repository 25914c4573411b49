"""`ztna status`, `why` and `prove` as their users see them; the stack behind them answers from a table."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from infra import cli, cli_access, cli_demo, cli_paths
from infra.cli_common import CliFailure, ExitCode
from infra.outputs import OutputsError, StackOutputs
from infra.verify import context as verify_context
from infra.verify import places, prove
from infra.verify.context import Context, VerifyError
from infra.verify.places import chosen, role_command, status_page
from infra.verify.proof import Burst, Records, Witnesses, decide
from tests.infra.verify.pages import client_page, relay_page, session
from tests.infra.verify.synthetic import FakePlaces, context, outputs, place


def ztna(*argv: str) -> Result:
    return CliRunner().invoke(cli.app, argv)


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """Pages of the three roles, by place; a test changes them before it asks."""
    table = {
        "agent": client_page("agent", session()),
        "connector": client_page("connector", session("connector")),
        "relay": relay_page(),
    }
    for module in (cli_access, cli_paths):
        monkeypatch.setattr(module, "stack_outputs", lambda *_args, **_options: outputs())
    monkeypatch.setattr(cli_access, "role_pages", lambda _: table)
    monkeypatch.setattr(places, "status_page", lambda _context, name: table[name])
    return table


def test_status_shows_the_path_of_each_service(pages: dict[str, dict[str, Any]]) -> None:
    result = ztna("status")
    assert result.exit_code == 0
    for words in ("Paths", "echo-service", "direct", "172.20.0.22:40002", "1.2 ms", "12 s ago", "check-succeeded"):
        assert words in result.stdout, words


def test_status_as_json_has_the_pages_and_the_paths(pages: dict[str, dict[str, Any]]) -> None:
    here = session(path="relay", peer_address="172.20.0.2:4433", blocked_by="mapping-varies", loss=0.015)
    pages["agent"] = client_page("agent", here | {"services": ["echo-service"]})
    value = json.loads(ztna("status", "--json").stdout)
    assert value["relay"]["relay"]["enabled"]
    echo, http = value["paths"]
    assert echo == {
        "agent": "agent", "service": "echo-service", "connector": "connector", "path": "relay",
        "peer_address": "172.20.0.2:4433", "reason": "mapping-varies", "rtt_ms": 1.25, "loss": 0.015, "since_s": 12.5,
        "switches": 1,
    }  # fmt: skip
    assert http == {"agent": "agent", "service": "http-app", "path": "none"}
    assert "no session yet" in ztna("status").stdout


def test_status_of_agents_without_sessions_shows_no_paths(pages: dict[str, dict[str, Any]]) -> None:
    del pages["agent"]["sessions"]
    assert "Paths" not in ztna("status").stdout


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7_300, "2 h"), (200_000, "2 d")]
)
def test_spans_are_told_in_their_largest_unit(seconds: float, words: str) -> None:
    assert cli_paths.duration_words(seconds) == words


def test_why_ends_by_outcome_and_names_the_change(pages: dict[str, dict[str, Any]]) -> None:
    assert ztna("why", "agent", "echo-service").exit_code == 0
    here = session(path="relay", blocked_by="mapping-varies", evidence="two ports seen", advice="use a public address")
    pages["agent"] = client_page("agent", here)
    result = ztna("why", "agent", "echo-service")
    assert result.exit_code == 10
    assert "agent reaches echo-service: relayed" in result.stdout
    assert "  NO  direct path: agent: two ports seen" in result.stdout
    assert "Change:  agent: use a public address" in result.stdout
    pages["agent"] = {"state": "unreachable", "error": "connection refused"}
    value = json.loads((result := ztna("why", "agent", "echo-service", "--json")).stdout)
    assert result.exit_code == 11
    assert (value["outcome"], value["step"], value["connector"]) == ("unreachable", "agent answers", "connector")


@pytest.mark.parametrize(("agent", "service"), [("nobody", "echo-service"), ("agent", "no-such-service")])
@pytest.mark.parametrize("command", ["why", "prove"])
def test_an_agent_or_service_that_is_not_there_is_named(
    pages: dict[str, dict[str, Any]], command: str, agent: str, service: str
) -> None:
    result = ztna(command, agent, service)
    assert result.exit_code == ExitCode.NO_STACK
    assert "the stack has no" in result.stderr


@pytest.mark.parametrize(
    ("witnesses", "code", "words"),
    [
        (Witnesses(Burst(200, 200, 1000), Records(("direct",) * 2, ("direct",) * 2), relay_bytes=0), 0, "direct"),
        (Witnesses(Burst(200, 200, 1000), Records(("relay",) * 2, ("relay",) * 2), relay_bytes=1000), 10, "relayed"),
        (Witnesses(Burst(200, 0, 0)), 11, "unreachable"),
        (Witnesses(Burst(200, 200, 1000), Records(("direct",) * 2, ("direct",) * 2), relay_bytes=1000), 12, "disagree"),
        (Witnesses(Burst(200, 200, 1000)), 1, "unproven"),
    ],
)
def test_prove_ends_by_verdict(
    monkeypatch: pytest.MonkeyPatch, pages: dict[str, dict[str, Any]], witnesses: Witnesses, code: int, words: str
) -> None:
    def collected(_outputs: StackOutputs, agent: str, service: str, directory: Path, **options: Any) -> prove.Proof:
        options["on_step"]("capture at nowhere")
        assert directory.name == "lab"
        assert (agent, service, options["requests"], options["window"]) == ("agent", "echo-service", 50, False)
        finding = decide(witnesses)
        return prove.Proof(finding, {**finding.to_json(), "evidence": []}, directory / "proof.json")

    monkeypatch.setattr(prove, "prove", collected)
    arguments = ("prove", "agent", "echo-service", "--requests", "50", "--no-window")
    result = ztna(*arguments)
    assert result.exit_code == code
    assert f"agent reaches echo-service: {words}" in result.stdout
    assert "proof.json" in result.stdout
    value = json.loads((result := ztna(*arguments, "--json")).stdout)
    assert (result.exit_code, value["verdict"]) == (code, words)


def test_prove_that_cannot_send_says_so(monkeypatch: pytest.MonkeyPatch, pages: dict[str, dict[str, Any]]) -> None:
    def unable(*_args: Any, **_options: Any) -> prove.Proof:
        raise VerifyError("no traffic can be sent")

    monkeypatch.setattr(prove, "prove", unable)
    result = ztna("prove", "agent", "echo-service")
    assert result.exit_code == ExitCode.FAILED
    assert "no traffic can be sent" in result.stderr


# places


def test_the_role_command_is_the_one_of_where_the_role_runs() -> None:
    local = place("agent", "172.21.0.10", 9092)
    assert role_command(local)[1:] == ("-m", "ztna")
    assert role_command(replace(local, exec=("ssh", "-o", "BatchMode=yes", "root@host"))) == (
        "/opt/ztna/current/bin/ztna",
    )
    assert role_command(replace(local, exec=("kubectl", "exec", "pod", "--"))) == ("python", "-m", "ztna")


def test_an_agent_that_the_stack_does_not_run_is_taken_to_run_here() -> None:
    stack = outputs(agents=(replace(outputs().agents[0], place=None, name="laptop"),))
    found = chosen(stack, "laptop", "echo-service")
    assert found.places["laptop"].exec == ()
    assert found.places["laptop"].status_url == "http://127.0.0.1:9092/status"
    assert [entry.name for entry in found.connectors] == ["connector"]
    with pytest.raises(OutputsError, match="may reach: http-app"):
        chosen(outputs(agents=(replace(outputs().agents[0], services=("http-app",)),)), "agent", "echo-service")


def test_a_page_without_an_address_is_asked_for_by_the_roles_command() -> None:
    remote = replace(place("connector", "-", 9091), status_url=None, config_path="/etc/ztna/connector.json")
    asked = context({"status": client_page("connector")})
    asked.outputs.places["connector"] = remote
    assert status_page(asked, "connector")["role"] == "connector"
    assert isinstance(asked.runner, FakePlaces)
    assert asked.runner.commands[0][-4:] == ("status", "--json", "--config", "/etc/ztna/connector.json")
    asked.outputs.places["connector"] = replace(remote, config_path=None)
    assert "neither status_url nor config_path" in status_page(asked, "connector")["error"]


def test_a_page_that_is_no_page_is_an_unreachable_role() -> None:
    silent = Context(outputs(), runner=lambda *_: verify_context.Finished(1, "", "no route to host"))
    page = status_page(silent, "connector")
    assert page["state"] == "unreachable"
    assert "no route to host" in page["error"]


# demo


ROUTER = {
    "name": "nat-agent",
    "inside": [{"segment": "agent-lan", "address": "172.21.0.1/24"}],
    "outside": {"segment": "public", "address": "172.20.0.21/24"},
    "nat": [{"mapping": "endpoint-independent"}],
}


def test_a_carriers_nat_is_put_outside_each_home_and_taken_away_again() -> None:
    plain = {**ROUTER, "name": "plain", "nat": []}
    (change,) = cli_demo.doubled(outputs(topology={"routers": [ROUTER, plain]}))
    script = change._argv[-1]
    assert change.name == "nat-agent"
    assert script.count("infra.lab router --run r1") == 2
    assert script.index('"hairpin": true') < script.index("timeout 180") < script.rindex('"nat": [{')
    with pytest.raises(CliFailure, match="has none"):
        cli_demo.doubled(outputs(topology={}))


def test_variants_of_the_demo_are_checked() -> None:
    result = ztna("demo", "fallback", "--nat", "triple")
    assert result.exit_code == ExitCode.USAGE
    assert "as-is, double" in result.stderr
