"""Twelve planted secrets are nowhere in plain: not in the state, outputs, logs, graph, user data, environments."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.secrets.markers import NAMES, found_below, found_in, plant, secret_of
from tests.support.project import ROOT, link_project

MAIN = '''"""The program of the planted stack."""

import stacks.__main__ as stacks

stacks.STACKS["planted"] = "tests.secrets.program"
stacks.main("planted")
'''


@dataclass
class Planted:
    """A project whose stack holds the planted secrets, and everything that its commands have said."""

    directory: Path
    marks: dict[str, str]
    said: dict[str, bytes] = field(default_factory=dict)

    def secret(self, name: str) -> str:
        return secret_of(name, self.marks[name])

    def run(self, *words: str, expect: int = 0, name: str = "") -> str:
        """Run a `ztna` command, keep what it says, and demand its exit code."""
        temporary = self.directory.parent / "tmp"
        temporary.mkdir(exist_ok=True)
        environment = {
            "PATH": f"{Path(sys.prefix) / 'bin'}:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": str(self.directory.parent / "home"),
            "TMPDIR": str(temporary),
            "PULUMI_CONFIG_PASSPHRASE": self.secret("passphrase"),
            "DIGITALOCEAN_TOKEN": self.secret("cloud-token"),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(ROOT),  # the engine runs dynamic providers itself, and theirs is a module of the tests
        }
        command = [str(Path(sys.prefix) / "bin" / "ztna"), *words]
        done = subprocess.run(command, cwd=self.directory, env=environment, capture_output=True, timeout=100)
        assert done.returncode == expect, done.stderr.decode()[-3000:] + done.stdout.decode()[-3000:]
        self.said[name or " ".join(words[:3])] = done.stdout + done.stderr
        return done.stdout.decode()

    def config(self, key: str, value: str) -> None:
        self.run("config", "set", "--stack", "planted", "--secret", key, value, name=f"config {key}")


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planted]:
    """The stack, brought up, looked at in every way, changed and failed once."""
    base = tmp_path_factory.mktemp("planted")
    directory = link_project(base / "project")
    (directory / "__main__.py").write_text(MAIN)
    (directory / "Pulumi.planted.yaml").write_text("config: {}\n")
    stack = Planted(directory, plant())
    stack.config("planted:secrets", json.dumps({name: stack.secret(name) for name in NAMES if name != "passphrase"}))
    stack.config("planted:note", stack.secret("config-secret"))
    stack.run("preview", "--stack", "planted")
    stack.run("up", "--stack", "planted", "--yes")
    stack.run("up", "--stack", "planted", "--yes", name="up again")
    stack.run("refresh", "--stack", "planted")
    stack.run("output", "--stack", "planted")
    stack.run("output", "--stack", "planted", "--json", name="output json")
    stack.run("graph", "--stack", "planted", "--format", "json")
    stack.run("lint", "--stack", "planted", "--json")
    yield stack
    stack.run("destroy", "--stack", "planted", "--yes")


@pytest.mark.engine
def test_twelve_secrets_are_planted_and_the_stack_really_holds_them(planted: Planted) -> None:
    assert len(NAMES) == 12
    shown = planted.run("output", "--stack", "planted", "--json", "--show-secrets", name="shown")
    planted.said.pop("shown")
    held = found_in(shown.encode(), planted.marks)
    assert held >= {"agent-key", "foreign-agent-key", "ssh-admin-key"}
    state = "".join(path.read_text() for path in (planted.directory / ".ztna").rglob("*.json"))
    assert state.count('"ciphertext"') >= 9
    assert "machine" in state


@pytest.mark.engine
@pytest.mark.parametrize("name", NAMES)
def test_a_planted_secret_is_in_no_file_in_plain(planted: Planted, name: str) -> None:
    mark = {name: planted.marks[name]}
    files = list(planted.directory.rglob("*"))
    assert any(path.name == "Pulumi.planted.yaml" for path in files)
    assert found_below(planted.directory.parent, mark) == {}, "state, configuration, locks, logs and temporary files"


@pytest.mark.engine
@pytest.mark.parametrize("name", NAMES)
def test_a_planted_secret_is_in_nothing_that_was_said(planted: Planted, name: str) -> None:
    mark = {name: planted.marks[name]}
    assert {said for said, text in planted.said.items() if found_in(text, mark)} == set()
    assert len(planted.said) >= 10


@pytest.mark.engine
def test_a_failing_program_does_not_tell_them_either(planted: Planted) -> None:
    main = planted.directory / "__main__.py"
    before = main.read_text()
    main.write_text(before + '\nraise RuntimeError("the program fails after all")\n')
    try:
        planted.run("up", "--stack", "planted", "--yes", expect=1, name="failed up")
    finally:
        main.write_text(before)
    assert found_in(planted.said["failed up"], planted.marks) == set()
    assert b"the program fails after all" in planted.said["failed up"]


@pytest.mark.engine
def test_a_wrong_passphrase_is_not_repeated(planted: Planted) -> None:
    wrong = Planted(planted.directory, planted.marks | {"passphrase": "f" * 32})
    wrong.run("up", "--stack", "planted", "--yes", expect=3)
    assert all(b"planted-" + b"f" * 32 not in text for text in wrong.said.values())


def test_user_data_holds_the_bootstrap_host_key_and_no_other_secret() -> None:
    from tests.secrets.program import _setup

    marks = plant()
    text = _setup({name: secret_of(name, mark) for name, mark in marks.items()})
    assert found_in(text.encode(), marks) == {"ssh-bootstrap-host-key"}


def test_a_mark_is_found_in_any_of_its_forms() -> None:
    import base64

    marks = {"ca-key": plant()["ca-key"]}
    text = marks["ca-key"].encode()
    for content in (text, text.upper(), text.hex().encode(), *(base64.b64encode(b"#" * n + text) for n in range(3))):
        assert found_in(b"before " + content + b" after", marks) == {"ca-key"}
    assert found_in(b"nothing", marks) == set()
    assert os.sep not in marks["ca-key"]
