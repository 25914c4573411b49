"""Operations killed, interrupted or doubled at any moment: nothing is lost, nothing is left behind."""

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.infra.engine.real import RealProject, processes_of, wait_for_line, wait_until

pytestmark = pytest.mark.engine

SEED = 20
KILLS = 12
CREATING_A_FILE = '"phase": "started", "operation": "create", "urn": "urn:pulumi:dev::real::test:index:Folder$'


@pytest.fixture
def project(tmp_path: Path) -> Iterator[RealProject]:
    project = RealProject(tmp_path / "project")
    yield project
    project.close()


def test_a_dozen_kills_leave_nothing_orphaned(project: RealProject) -> None:
    dice = random.Random(SEED)
    effective = 0
    for turn in range(KILLS):
        verb = "destroy" if turn % 3 == 2 else "up"
        project.want({f"f{i}": f"text {turn}" for i in range(turn % 2, 6)}, wait_s=0.05, chained=turn % 2 == 0)
        process = project.spawn(verb)
        # Not before the run has begun in earnest: what is killed earlier has done nothing.
        wait_for_line(process, '"event": "operation"')
        time.sleep(dice.uniform(0.0, 0.9))
        if process.poll() is None:
            effective += 1
        process.kill()
        process.communicate()
        wait_until(lambda: not processes_of(project.root))
        assert set(project.files()) <= project.recorded(), f"orphan after kill {turn}"
    assert effective >= KILLS // 2

    project.want({"f1": "last", "f9": "words"})
    project.workspace().up()
    assert project.files() == {"f1": "last", "f9": "words"}
    assert project.recorded() == {"f1", "f9"}
    project.workspace().destroy()
    assert project.files() == {}
    assert project.recorded() == set()


def test_a_kill_in_the_middle_of_a_replacement_is_made_good(project: RealProject) -> None:
    project.want({"a": "x"}, delete_first=True)
    project.workspace().up()
    (project.root / "moved").mkdir()
    main = project.folder / "__main__.py"
    main.write_text(main.read_text().replace('HERE / "out" / key', 'HERE / "moved" / key'))
    project.want({"a": "x"}, delete_first=True, wait_s=0.1)
    process = project.spawn("up")
    wait_for_line(process, '"phase": "started", "operation": "create-replacement"')
    process.kill()
    process.communicate()
    project.workspace().up()
    assert (project.root / "moved/a").read_text() == "x"
    assert project.files() == {}
    project.workspace().destroy()
    assert not (project.root / "moved/a").exists()


def test_the_next_run_says_what_it_took_over(project: RealProject) -> None:
    project.want({"a": "x"}, wait_s=0.6)
    process = project.spawn("up")
    wait_for_line(process, CREATING_A_FILE)
    wait_until((project.folder / "begun").exists)
    process.kill()
    process.communicate()
    project.want({"a": "x"})
    # The pending create is repeated as it was asked for, slowness included.
    project.workspace().up()
    said = "\n".join(project.messages())
    assert "Took over the lock of a run that is no more (up by" in said
    assert "interrupted while creating" in said
    assert project.files() == {"a": "x"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_what_runs_and_begins_nothing_new(project: RealProject, number: signal.Signals) -> None:
    project.want({"a": "x", "b": "y"}, chained=True)
    project.hold()
    process = project.spawn("up")
    wait_for_line(process, CREATING_A_FILE)
    process.send_signal(number)
    wait_for_line(process, "Interrupted")
    project.release()
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 3
    assert '"kind": "Cancelled"' in output
    assert '"severity": "error"' not in output
    assert project.files() == {"a": "x"}
    assert project.recorded() == {"a"}
    assert processes_of(project.root) == []
    project.want({"a": "x", "b": "y"}, chained=True)
    project.workspace().up()
    assert project.ops() == {"a": ["same"], "b": ["create"]}


def test_ctrl_c_at_the_terminal_reaches_the_engine_alone(project: RealProject) -> None:
    project.want({"a": "x"})
    project.hold()
    process = project.spawn("up")
    wait_for_line(process, CREATING_A_FILE)
    # A terminal signals the whole foreground process group.
    os.killpg(process.pid, signal.SIGINT)
    wait_for_line(process, "Interrupted")
    project.release()
    process.communicate(timeout=20)
    assert project.files() == {"a": "x"}
    assert project.recorded() == {"a"}


def test_a_second_signal_gives_up_and_the_next_run_repairs(project: RealProject) -> None:
    project.want({"a": "x"}, wait_s=5.0)
    process = project.spawn("up")
    wait_for_line(process, CREATING_A_FILE)
    wait_until((project.folder / "begun").exists)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    wait_for_line(process, "Interrupted")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert time.monotonic() - began < 5.0
    assert processes_of(project.root) == []
    assert project.recorded() == {"a"}


def test_a_program_that_hangs_is_ended_with_its_operation(project: RealProject) -> None:
    project.want({"a": "x"}, print="not yet tired", sleep_s=600)
    process = project.spawn("up")
    wait_for_line(process, "not yet tired")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert processes_of(project.root) == []


def test_a_second_up_is_refused_while_the_first_goes_on(project: RealProject) -> None:
    project.want({"a": "x"})
    project.hold()
    first = project.spawn("up")
    wait_for_line(first, CREATING_A_FILE)
    second = project.spawn("up")
    output, _ = second.communicate(timeout=20)
    assert second.returncode == 3
    assert '"kind": "LockedError"' in output
    assert f"process {first.pid}" in output
    project.release()
    first.communicate(timeout=20)
    assert first.returncode == 0
    assert project.files() == {"a": "x"}


def test_cancel_ends_a_run_in_order(project: RealProject) -> None:
    project.want({"a": "x", "b": "y"}, wait_s=0.3, chained=True)
    process = project.spawn("up")
    wait_for_line(process, CREATING_A_FILE)
    assert "Stopped up by" in project.workspace().cancel()
    process.communicate(timeout=20)
    assert project.files() == {"a": "x"}
    assert project.recorded() == {"a"}


def test_giving_up_on_a_destroy_leaves_it_to_the_next_one(project: RealProject) -> None:
    project.want({"a": "x"})
    project.workspace().up()
    project.hold()
    process = project.spawn("destroy")
    wait_for_line(process, '"phase": "started", "operation": "delete"')
    process.send_signal(signal.SIGINT)
    wait_for_line(process, "Interrupted")
    process.send_signal(signal.SIGINT)
    # The operation is held: nothing but the second signal can end this.
    process.communicate(timeout=20)
    assert project.recorded() == {"a"}
    assert processes_of(project.root) == []
