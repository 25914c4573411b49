"""The official CLI as engine, played by a script that records how it is called and prints canned engine events."""

import json
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from infra.engine.errors import Cancelled, CliError, DeploymentFailed, LockedError, StateError
from infra.engine.events import Diagnostic, Event, EventSink, OperationStarted, Phase, ResourceStep, Severity, Summary
from infra.engine.official import from_engine_event
from infra.engine.workspace import Workspace

_SCRIPT = """#!{python}
import json, os, signal, sys, time
from pathlib import Path
arguments = sys.argv[1:]
here = Path({here!r})
config = next((Path(v).read_text() for k, v in zip(arguments, arguments[1:]) if k == "--config-file"), None)
keys = ("PULUMI_BACKEND_URL", "PULUMI_CONFIG_PASSPHRASE", "PULUMI_SKIP_UPDATE_CHECK")
with (here / "calls").open("a") as file:
    given = sys.stdin.read() if arguments[:2] == ["stack", "import"] else ""
    call = dict(arguments=arguments, cwd=os.getcwd(), config=config, given=given)
    file.write(json.dumps(dict(call, env={{key: os.environ.get(key) for key in keys}})) + "\\n")
if arguments[:2] == ["stack", "ls"]:
    print(json.dumps([dict(name="dev")] if (here / "made").exists() else []))
elif arguments[:2] == ["stack", "init"]:
    (here / "made").touch()
    Path("Pulumi.dev.yaml").write_text("encryptionsalt: v1:salt\\n")
elif arguments[:2] == ["stack", "output"]:
    print(json.dumps(dict(key="hunter2" if "--show-secrets" in arguments else "[secret]")))
elif arguments[:2] == ["stack", "export"]:
    print(json.dumps(dict(version=3, deployment=dict())))
elif arguments[0] in ("up", "preview", "refresh", "destroy"):
    behaviour = (here / "behaviour").read_text() if (here / "behaviour").exists() else ""
    if behaviour == "wait":
        signal.signal(signal.SIGINT, lambda *_: sys.exit(1))
        print(json.dumps(dict(preludeEvent=dict())), flush=True)
        time.sleep(30)
    print((here / "events").read_text() if (here / "events").exists() else "", end="", flush=True)
    if behaviour.startswith("error: "):
        print(behaviour, file=sys.stderr)
        sys.exit(255)
"""
URN = "urn:pulumi:dev::p::toy:index:Thing::a"


class FakeCli:
    """A project, and a `pulumi` on PATH that is not Pulumi."""

    def __init__(self, root: Path) -> None:
        self.root, self.here = root / "project", root
        self.root.mkdir()
        (self.root / "Pulumi.yaml").write_text("name: p\nruntime: python\n")
        (self.root / "__main__.py").touch()
        (self.root / "Pulumi.dev.yaml").write_text("config:\n  p:size: 3\n")
        script = root / "bin" / "pulumi"
        script.parent.mkdir()
        script.write_text(_SCRIPT.format(python=sys.executable, here=str(root)))
        script.chmod(0o755)
        self.events: list[Event] = []

    def workspace(self, on_event: EventSink | None = None) -> Workspace:
        """With `auto`, which must find the CLI."""
        return Workspace(self.root, "dev", on_event=on_event or self.events.append)

    def say(self, *events: dict[str, Any]) -> None:
        """What an operation prints."""
        (self.here / "events").write_text("".join(json.dumps(event) + "\n" for event in events))

    def behave(self, how: str) -> None:
        """`wait`, or an error to fail with."""
        (self.here / "behaviour").write_text(how)

    def calls(self) -> list[dict[str, Any]]:
        """How it was called."""
        return [json.loads(line) for line in (self.here / "calls").read_text().splitlines()]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCli:
    fake = FakeCli(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return fake


def _step(kind: str, op: str) -> dict[str, Any]:
    return {
        kind: {"metadata": {"op": op, "urn": URN, "type": "toy:index:Thing", "new": {"parent": "P"}, "diffs": ["x"]}}
    }


def test_up_drives_the_cli_and_reports_through_the_same_events(cli: FakeCli) -> None:
    cli.say(
        _step("resourcePreEvent", "create"),
        _step("resourcePreEvent", "replace"),
        _step("resOutputsEvent", "create"),
        _step("resOutputsEvent", "create"),
        {"diagnosticEvent": {"severity": "warning", "prefix": "warning: ", "message": "careful\n"}},
        {"diagnosticEvent": {"severity": "debug", "message": "noise"}},
        {"summaryEvent": {"resourceChanges": {"create": 1, "same": 2}}},
    )
    workspace = cli.workspace()
    assert workspace.engine == "pulumi"
    result = workspace.up()
    assert result.changes == {"create": 1, "same": 2}
    assert result.outputs == {"key": "[secret]"}
    kinds = [type(event) for event in cli.events]
    assert kinds == [OperationStarted, ResourceStep, ResourceStep, Diagnostic, Summary]
    finished = cli.events[2]
    assert isinstance(finished, ResourceStep)
    assert (finished.phase, finished.operation, finished.name, finished.parent) == (Phase.FINISHED, "create", "a", "P")
    assert cli.events[3] == Diagnostic(severity=Severity.WARNING, message="careful")

    up = next(call for call in cli.calls() if call["arguments"][0] == "up")
    assert {"--yes", "--non-interactive", "--skip-preview", "--json"} <= set(up["arguments"])
    assert up["cwd"] == str(cli.root)
    assert up["env"] == {
        "PULUMI_BACKEND_URL": f"file://{cli.root}/.ztna/official",
        "PULUMI_CONFIG_PASSPHRASE": "correct horse",
        "PULUMI_SKIP_UPDATE_CHECK": "true",
    }


def test_the_stack_is_made_once_and_the_tracked_configuration_stays_as_it_is(cli: FakeCli) -> None:
    before = (cli.root / "Pulumi.dev.yaml").read_text()
    cli.workspace().up()
    cli.workspace().up()
    inits = [call for call in cli.calls() if call["arguments"][:2] == ["stack", "init"]]
    assert len(inits) == 1
    config = next(call for call in cli.calls() if call["arguments"][0] == "up")["config"]
    assert "p:size: 3" in config
    assert "encryptionsalt: v1:salt" in config
    assert (cli.root / "Pulumi.dev.yaml").read_text() == before
    assert sorted(path.name for path in cli.root.iterdir()) == [
        ".ztna",
        "Pulumi.dev.yaml",
        "Pulumi.yaml",
        "__main__.py",
    ]


def test_a_failure_is_reported_with_what_the_cli_said(cli: FakeCli) -> None:
    cli.behave("error: no language plugin 'python' found")
    with pytest.raises(DeploymentFailed, match="no language plugin"):
        cli.workspace().up()
    cli.behave("")
    cli.say({"diagnosticEvent": {"severity": "error", "message": "boom", "urn": URN}})
    with pytest.raises(DeploymentFailed):
        cli.workspace().up()
    assert Diagnostic(severity=Severity.ERROR, message="boom", urn=URN) in cli.events


def test_the_clis_own_lock_is_a_locked_error(cli: FakeCli) -> None:
    cli.behave("error: the stack is currently locked by 1 lock(s)")
    with pytest.raises(LockedError, match="currently locked"):
        cli.workspace().up()


def test_a_lock_of_a_dead_cli_is_taken_over_and_said(cli: FakeCli) -> None:
    locks = cli.root / ".ztna/official/.pulumi/locks/organization/p/dev"
    locks.mkdir(parents=True)
    (locks / "dead.json").write_text(json.dumps({"pid": 2**22 + 1}))
    (locks / "alive.json").write_text(json.dumps({"pid": 1}))
    cli.workspace().up()
    assert [path.name for path in locks.iterdir()] == ["alive.json"]
    assert any(isinstance(event, Diagnostic) and "no more" in event.message for event in cli.events)


def test_an_interrupt_is_passed_on(cli: FakeCli) -> None:
    cli.behave("wait")

    def on_event(event: Event) -> None:
        if isinstance(event, OperationStarted):
            threading.Timer(0.5, workspace.interrupt).start()

    workspace = cli.workspace(on_event)
    with pytest.raises(Cancelled):
        workspace.up()


def test_outputs_export_import_and_cancel(cli: FakeCli) -> None:
    with pytest.raises(StateError, match="has no state"):
        cli.workspace().outputs()
    cli.workspace().up()
    assert cli.workspace().outputs() == {"key": "[secret]"}
    assert cli.workspace().outputs(show_secrets=True) == {"key": "hunter2"}
    exported = cli.workspace().export_stack()
    cli.workspace().import_stack(exported)
    assert json.loads(cli.calls()[-1]["given"]) == exported
    assert cli.workspace().cancel() == "Nothing is running."
    assert cli.calls()[-1]["arguments"][0] == "cancel"


def test_preview_asks_for_no_confirmation_and_destroy_has_no_outputs(cli: FakeCli) -> None:
    cli.workspace().preview()
    assert cli.workspace().destroy().outputs == {}
    verbs = {call["arguments"][0]: call["arguments"] for call in cli.calls()}
    assert "--yes" not in verbs["preview"]
    assert "--yes" in verbs["destroy"]


def test_without_the_cli_auto_is_embedded_and_pulumi_an_error(cli: FakeCli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert cli.workspace().engine == "embedded"
    with pytest.raises(CliError, match="not on PATH"):
        Workspace(cli.root, "dev", engine="pulumi")
    monkeypatch.setenv("PATH", str(cli.here / "bin"))
    assert Workspace(cli.root, "dev", engine="embedded").engine == "embedded"


def test_a_failed_step_is_a_failed_event() -> None:
    event = from_engine_event(_step("resOpFailedEvent", "update"))
    assert isinstance(event, ResourceStep)
    assert (event.phase, event.changes) == (Phase.FAILED, ("x",))
    assert from_engine_event({"cancelEvent": {}}) is None
