"""`ztna recover` after kills at any moment: it goes on with what was killed, and never touches what is alive."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.cli_common import ExitCode
from infra.engine.backend import Owner, start_time
from infra.engine.intent import Intent, is_live
from tests.infra.engine.real import RealProject, processes_of, wait_for_line, wait_until
from tests.support.project import ROOT

pytestmark = pytest.mark.engine

SEED = 7
_EXPORTS = """
import msgspec
from infra.outputs import StackOutputs, to_exports
_made = StackOutputs(stack="dev", run="r", rung="loopback", relays=(), connectors=(), services=(), agents=(), places={},
                     ca_pem="")
for _key, _value in to_exports(_made).items():
    pulumi.export(_key, _value)
"""
"""Makes the file program a stack of which `ztna up` can show something."""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[RealProject]:
    project = RealProject(tmp_path / "project")
    main = project.folder / "__main__.py"
    main.write_text(f"{main.read_text()}{_EXPORTS}")
    yield project
    project.close()


def recover(project: RealProject) -> subprocess.CompletedProcess[str]:
    code = "import sys; sys.argv[0] = 'ztna'; from infra.cli import main; main()"
    argv = [sys.executable, "-c", code, "recover", "--stack", "dev", "--engine", "embedded"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(argv, cwd=project.root, env=env, capture_output=True, text=True, timeout=60, check=False)


def kill(project: RealProject, verb: str, after_s: float) -> bool:
    """Kill an operation so long after it has begun visible work; whether it was still running."""
    process = project.spawn(verb)
    wait_for_line(process, '"phase": "started"')
    time.sleep(after_s)
    alive = process.poll() is None
    process.kill()
    process.communicate()
    wait_until(lambda: not processes_of(project.root))
    return alive


@pytest.mark.parametrize(
    "kills",
    [pytest.param(2, id="two"), pytest.param(20, id="twenty", marks=[pytest.mark.e2e, pytest.mark.timeout(900)])],
)
def test_one_recover_after_each_kill_ends_what_was_begun(project: RealProject, kills: int) -> None:
    dice = random.Random(SEED)
    effective = 0
    for turn in range(kills):
        verb = "destroy" if turn % 2 else "up"
        wanted = {f"f{number}": f"text {turn}" for number in range(4)}
        project.want(wanted, wait_s=0.05, chained=True)
        killed = kill(project, verb, dice.uniform(0.0, 0.25))
        effective += killed
        done = recover(project)
        assert done.returncode == 0, done.stderr
        assert (f"going on with `ztna {verb}`" if killed else "nothing to do") in done.stderr
        assert project.files() == ({} if verb == "destroy" else wanted), f"after kill {turn}"
        assert project.recorded() == set(project.files()), f"orphan after kill {turn}"
    assert effective >= kills // 2


def test_a_run_that_is_alive_is_left_alone(project: RealProject) -> None:
    project.want({"a": "x"})
    project.hold()
    process = project.spawn("up")
    wait_for_line(process, '"phase": "started"')
    done = recover(project)
    assert done.returncode == ExitCode.LOCKED
    assert "is alive" in done.stderr
    project.release()
    process.communicate(timeout=20)
    assert project.files() == {"a": "x"}


def test_where_nothing_says_what_was_wanted_it_says_which_command_does(project: RealProject) -> None:
    assert "nothing to do" in recover(project).stderr
    project.want({"a": "x"}, wait_s=2.0)
    process = project.spawn("up")
    wait_until((project.folder / "begun").exists)
    process.kill()
    process.communicate()
    project.workspace().cancel()
    done = recover(project)
    assert done.returncode == ExitCode.FAILED
    assert "1 operations on stack 'dev' were interrupted" in done.stderr
    assert "`ztna up --stack dev`" in done.stderr


def test_a_note_lasts_as_long_as_its_command_unless_that_is_killed(tmp_path: Path) -> None:
    intent = Intent(tmp_path, "dev")
    with intent.during("up"):
        noted = intent.read()
        assert noted is not None
        assert (noted.verb, is_live(noted)) == ("up", True)
        with intent.during("destroy"):
            assert intent.read() == noted, "of a live command the note stays"
    assert intent.read() is None
    dead = Owner(os.getpid(), start_time(os.getpid()) + 1, noted.hostname, "u", "t", "destroy")
    assert not is_live(dead), "another process has its number now"
    (tmp_path / "intents").mkdir(exist_ok=True)
    (tmp_path / "intents/dev.json").write_text(json.dumps({name: getattr(dead, name) for name in Owner.__slots__}))
    assert intent.read() == dead
    with intent.during("up"):
        taken = intent.read()
        assert taken is not None
        assert taken.verb == "up"
