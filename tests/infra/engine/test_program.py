"""Programs in real child processes with real dynamic providers."""

from pathlib import Path

import pytest

from infra.engine.errors import DeploymentFailed
from tests.infra.engine.real import RealProject, processes_of

pytestmark = pytest.mark.engine


@pytest.fixture
def project(tmp_path: Path) -> RealProject:
    return RealProject(tmp_path / "project")


def test_a_stack_of_dynamic_resources_lives_and_dies(project: RealProject) -> None:
    project.want({"a": "hello", "b": "there"})
    made = project.workspace().up()
    assert project.files() == {"a": "hello", "b": "there"}
    assert made.changes == {"create": 4}
    assert made.outputs == {"lengths": {"a": 5, "b": 5}, "secret": "[secret]"}
    assert project.workspace().outputs(show_secrets=True)["secret"] == "hunter2"

    again = project.workspace().up()
    assert again.changes == {"same": 4}

    project.want({"a": "changed!", "c": "new"})
    assert project.workspace().preview().changes == {"update": 1, "create": 1, "delete": 1, "same": 2}
    assert project.files() == {"a": "hello", "b": "there"}
    changed = project.workspace().up()
    assert project.ops() == {"a": ["update"], "c": ["create"], "b": ["delete"]}
    assert changed.outputs["lengths"] == {"a": 8, "c": 3}

    gone = project.workspace().destroy()
    assert gone.changes == {"delete": 4}
    assert project.files() == {}
    assert processes_of(project.root) == []


def test_refresh_sees_drift_and_up_repairs_it(project: RealProject) -> None:
    project.want({"a": "hello", "b": "there"})
    project.workspace().up()
    (project.out / "a").write_text("drifted")
    (project.out / "b").unlink()
    project.workspace().refresh()
    project.workspace().up()
    assert project.ops() == {"a": ["update"], "b": ["create"]}
    assert project.files() == {"a": "hello", "b": "there"}


def test_independent_operations_run_beside_each_other(project: RealProject) -> None:
    # The SDK's dynamic provider serves four calls at a time.
    project.want({f"f{i}": "x" for i in range(8)}, wait_s=0.25)
    project.workspace().up()
    assert len(project.files()) == 8
    assert project.at_once() == 4
    for mark in project.folder.glob("beside-*"):
        mark.unlink()
    project.workspace().destroy()
    assert project.at_once() == 4


def test_a_failing_resource_names_the_cause_and_the_rest_is_recorded(project: RealProject) -> None:
    project.want({"a": "fine", "b": "fail"}, chained=True)
    with pytest.raises(DeploymentFailed):
        project.workspace().up()
    assert "told to fail" in project.errors()
    assert project.files() == {"a": "fine"}
    project.want({"a": "fine", "b": "better"}, chained=True)
    project.workspace().up()
    assert project.ops() == {"a": ["same"], "b": ["create"]}


def test_a_failed_check_of_a_dynamic_provider_is_said(project: RealProject) -> None:
    project.want({"a": ""})
    with pytest.raises(DeploymentFailed):
        project.workspace().preview()
    assert "'a' is not valid: text: must not be empty" in project.errors()


def test_what_a_program_prints_is_passed_on_and_an_exception_shown_from_its_own_frame(project: RealProject) -> None:
    project.want({}, print="so far so good", **{"raise": "oh no"})
    with pytest.raises(DeploymentFailed):
        project.workspace().up()
    assert "so far so good" in project.messages()
    assert "RuntimeError: oh no" in project.errors()
    assert "runpy" not in project.errors()


def test_a_program_that_just_ends_with_a_code_fails(project: RealProject) -> None:
    project.want({}, exit=7)
    with pytest.raises(DeploymentFailed):
        project.workspace().up()
    assert "the program ended with exit code 7" in project.errors()


def test_a_program_in_a_folder_of_its_own_runs_there(tmp_path: Path) -> None:
    project = RealProject(tmp_path / "project", main="stacks")
    project.want({"a": "x"})
    project.workspace().up()
    assert (tmp_path / "project/stacks/out/a").read_text() == "x"
    # With its state beside Pulumi.yaml.
    assert (tmp_path / "project/.ztna/.pulumi/stacks/real/dev.json").exists()


def test_a_syntax_error_is_shown(project: RealProject) -> None:
    project.want({})
    (project.folder / "__main__.py").write_text("def (:\n")
    with pytest.raises(DeploymentFailed):
        project.workspace().preview()
    assert "SyntaxError" in project.errors()
