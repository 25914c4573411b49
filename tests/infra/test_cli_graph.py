"""`ztna preview` and `ztna graph`: what they print, and how they end."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from infra import cli, cli_common, cli_graph, cli_stack
from infra.cli_common import CliFailure, ExitCode, open_workspace
from infra.engine.events import Diagnostic, EventSink, OperationStarted, Phase, ResourceStep, Severity, Summary
from infra.engine.result import Result as Operated
from infra.graph import SECRET, Graph, Node

URN = "urn:pulumi:dev::p::aws:ec2/vpc:Vpc::net"
STACK = "urn:pulumi:dev::p::pulumi:pulumi:Stack::p-dev"
GRAPH = Graph(
    stack="dev",
    nodes=(
        Node(urn=STACK, type="pulumi:pulumi:Stack", name="p-dev", custom=False),
        Node(urn=URN, type="aws:ec2/vpc:Vpc", name="net", parent=STACK, inputs={"key": {SECRET: "hunter2"}}),
    ),
)
OPERATED = Operated(verb="preview", changes={"create": 2, "delete": 1, "same": 0}, duration_s=1.25, graph=GRAPH)


class Workspace:
    """Stands for the engine's workspace: two creates, a delete, and a note."""

    result = OPERATED

    def __init__(self, sink: EventSink) -> None:
        self._emit = sink

    def preview(self) -> Operated:
        """Says what would happen."""
        self._emit(OperationStarted(verb="preview", engine="embedded", stack="dev"))
        self._step("create", STACK, "pulumi:pulumi:Stack", "p-dev")
        self._step("create", URN, "aws:ec2/vpc:Vpc", "net")
        self._step("create", f"{URN}-default", "pulumi:providers:aws", "default_7")
        self._step("delete", f"{URN}-old", "aws:ec2/vpc:Vpc", "old")
        self._emit(Diagnostic(severity=Severity.INFO, message="f(x) is unknown in this preview"))
        self._emit(Summary(verb="preview", result="succeeded", changes={"create": 2}, duration_s=1.25))
        return self.result

    def graph(self) -> Graph:
        """The graph."""
        return GRAPH

    def _step(self, operation: str, urn: str, type_: str, name: str) -> None:
        self._emit(ResourceStep(phase=Phase.FINISHED, operation=operation, urn=urn, type=type_, name=name))


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Puts the stand-in in place of the engine; returns how it was asked for."""
    asked: list[dict[str, Any]] = []

    def opened(
        stack: str, engine: str = "auto", on_event: Any = None, *, real: bool = False, twin: bool = False
    ) -> Workspace:
        asked.append({"stack": stack, "engine": engine, "real": real})
        return Workspace(on_event or (lambda event: None))

    for module in (cli_common, cli_stack, cli_graph):
        monkeypatch.setattr(module, "open_workspace", opened)
    monkeypatch.setattr(Workspace, "result", OPERATED)
    return asked


def ztna(*arguments: str) -> Result:
    """Runs the command."""
    return CliRunner().invoke(cli.app, [*arguments, "--stack", "dev"])


def test_a_preview_is_a_tree_with_what_happens_and_counts() -> None:
    result = ztna("preview")
    assert result.exit_code == 0
    assert result.stdout == (
        "+ pulumi:pulumi:Stack  p-dev\n"
        "└─ + aws:ec2/vpc:Vpc  net\n"
        "\n"
        "1 x aws:ec2/vpc:Vpc\n"
        "resources: 1, components: 0, types: 1\n"
        "- aws:ec2/vpc:Vpc  old\n"
        "preview: 2 create, 1 delete in 1.2 s\n"
    )
    assert result.stderr == "preview dev with the embedded engine\nf(x) is unknown in this preview\n"


def test_a_preview_by_the_official_cli_has_lines_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Workspace, "result", replace(OPERATED, graph=None))
    assert " + Vpc net\n" in ztna("preview").stdout


def test_a_preview_as_json() -> None:
    value = json.loads(ztna("preview", "--json").stdout)
    assert value["changes"] == {"create": 2, "delete": 1, "same": 0}
    assert value["counts"] == {"aws:ec2/vpc:Vpc": 1}
    assert [(item["operation"], item["name"]) for item in value["resources"]] == [
        ("create", "net"), ("delete", "old"), ("create", "p-dev"),
    ]  # fmt: skip
    assert value["notes"] == ["f(x) is unknown in this preview"]


@pytest.mark.parametrize("arguments", [("preview",), ("preview", "--json"), ("up",)])
def test_a_broken_policy_rule_ends_it_as_failed_after_the_tree(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Workspace, "result", replace(OPERATED, violations=2))
    result = ztna(*arguments)
    assert result.exit_code == ExitCode.FAILED
    assert "aws:ec2/vpc:Vpc" in result.stdout
    assert "breaks mandatory policy rules: 2 findings" in result.stderr


def test_real_reaches_the_engine(asked: list[dict[str, Any]]) -> None:
    ztna("preview", "--real")
    assert asked == [{"stack": "dev", "engine": "auto", "real": True}]


def test_real_is_the_embedded_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Pulumi.yaml").write_text("name: p\nruntime: python\n")
    (tmp_path / "__main__.py").touch()
    monkeypatch.chdir(tmp_path)
    workspace = open_workspace("dev", "auto", real=True)
    assert workspace.engine == "embedded"
    assert workspace._options.plugin_binaries
    assert workspace._options.rules
    assert not open_workspace("dev", "embedded")._options.plugin_binaries
    with pytest.raises(CliFailure, match="drives providers by itself"):
        open_workspace("dev", "pulumi", real=True)


def test_a_graph_is_printed_in_each_format() -> None:
    assert ztna("graph").stdout == GRAPH.to_text()
    assert json.loads(ztna("graph", "--format", "json").stdout) == GRAPH.to_json()
    assert ztna("graph", "-f", "svg").stdout == GRAPH.to_svg()
    assert "hunter2" not in ztna("graph", "-f", "json").stdout


@pytest.mark.parametrize(("form", "text"), [("svg", GRAPH.to_svg()), ("text", GRAPH.to_text())])
def test_a_graph_is_written_to_a_file(form: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "graph"
    result = ztna("graph", "--format", form, "--output", str(path))
    assert (result.exit_code, result.stdout) == (0, "")
    assert path.read_text() == text


def test_a_graph_that_cannot_be_written_or_drawn_is_a_usage_error(tmp_path: Path) -> None:
    result = ztna("graph", "--output", str(tmp_path / "no" / "graph"))
    assert result.exit_code == ExitCode.USAGE
    assert "--output" in result.stderr
    assert "No such file" in result.stderr
    result = ztna("graph", "--format", "png")
    assert result.exit_code == ExitCode.USAGE
    assert "'png' is not a format" in result.stderr
