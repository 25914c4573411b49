"""Pulumi.yaml and Pulumi.<stack>.yaml: what is understood, what is refused by name."""

from pathlib import Path

import pulumi
import pytest

from infra.engine.errors import ConfigError, ProjectError
from infra.engine.project import load
from tests.infra.engine.bench import Bench, Thing


def _project(root: Path, text: str) -> Path:
    (root / "Pulumi.yaml").write_text(text)
    (root / "__main__.py").touch()
    return root


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: p\nruntime: nodejs\n", "Python programs only, not 'nodejs'"),
        ("name: p\nruntime: python\nplugins: {}\n", "does not model 'plugins'"),
        ("name: p\nruntime: python\nbackend: {url: x}\n", "does not model 'backend'"),
        ("name: p\nruntime: python\nmian: x\n", "unknown key 'mian'"),
        ("name: p\nruntime: python\nmain: nowhere\n", "there is no program at .*nowhere"),
        ("name: 'a b'\nruntime: python\n", "project name 'a b'"),
        ("name: p\nruntime: {name: python, options: {virtualenv: nope}}\n", "'nope' of Pulumi.yaml does not exist"),
        ("name: p\nruntime: {name: python, options: {typechecker: mypy}}\n", "type checker"),
        ("name: p\nruntime: {name: python, options: {toolchain: poetry}}\n", "toolchain 'poetry'"),
        ("name: p\nruntime: {name: python, options: {speed: 1}}\n", "runtime option 'speed'"),
        ("name: p\nruntime: python\nconfig: {a: {type: color}}\n", "unknown type 'color'"),
        ("name: p\nruntime: python\nconfig: {a: {tpye: string}}\n", "unknown attributes \\['tpye'\\]"),
        ("- a\n", "must hold a mapping"),
        (":\n:", "cannot be read"),
    ],
)
def test_a_project_the_engine_does_not_model_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ProjectError, match=words):
        load(_project(tmp_path, text))


def test_a_directory_without_a_project_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="no Pulumi project"):
        load(tmp_path)


def test_main_names_the_folder_of_the_program(tmp_path: Path) -> None:
    _project(tmp_path, "name: p\nruntime: python\nmain: stacks/\n")
    (tmp_path / "stacks").mkdir()
    (tmp_path / "stacks" / "__main__.py").touch()
    assert load(tmp_path).program_directory == tmp_path / "stacks"


def test_configuration_reaches_the_program(bench: Bench) -> None:
    bench.configure(
        "config:\n  size: 3\n  bench:flag: true\n  lab:link: {delay: 5, tags: [a, b]}\n  other:name: text\n"
    )

    def program() -> None:
        own, lab = pulumi.Config(), pulumi.Config("lab")
        pulumi.export("size", own.require_int("size"))
        pulumi.export("flag", own.require_bool("flag"))
        pulumi.export("link", lab.require_object("link"))
        pulumi.export("name", pulumi.Config("other").get("name"))
        pulumi.export("absent", own.get("absent") or "nothing")

    assert bench.up(program).outputs == {
        "size": 3, "flag": True, "link": {"delay": 5, "tags": ["a", "b"]}, "name": "text", "absent": "nothing",
    }  # fmt: skip


def test_config_set_get_remove_and_secrets(bench: Bench) -> None:
    config = bench.make(lambda: None).config
    config.set("lab:delay", 5)
    config.set("password", "hunter2", secret=True)
    config.set("gone", "x")
    config.remove("gone")
    text = config.path.read_text()
    assert "hunter2" not in text
    assert "encryptionsalt: v1:" in text
    assert "gone" not in text
    assert config.get("lab:delay") == "5"
    assert config.get("bench:password") == "hunter2"
    assert config.load().secret_keys == {"bench:password"}
    with pytest.raises(ConfigError, match="'bench:gone' of stack 'dev' is not set"):
        config.get("gone")
    result = bench.up(lambda: pulumi.export("password", pulumi.Config().require_secret("password")))
    assert result.outputs == {"password": "[secret]"}


def test_a_secure_value_inside_an_object_makes_the_whole_value_secret(bench: Bench) -> None:
    config = bench.make(lambda: None).config
    config.set("password", "hunter2", secret=True)
    text = config.path.read_text()
    secure = text.split("secure: ")[1].split("\n")[0]
    config.path.write_text(text + f"  bench:db: {{user: u, password: {{secure: '{secure}'}}}}\n")
    assert config.get("db") == '{"user":"u","password":"hunter2"}'
    assert "bench:db" in config.load().secret_keys


def test_a_secret_under_another_passphrase_names_key_and_remedy(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.make(lambda: None).config.set("password", "hunter2", secret=True)
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "another")
    with pytest.raises(ConfigError, match="bench:password: the passphrase does not fit"):
        bench.up(lambda: None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("confg: {}\n", "unknown key 'confg'"),
        ("environment: [x]\n", "does not model 'environment'"),
        ("secretsprovider: awskms://x\n", "does not model the secrets provider"),
    ],
)
def test_a_stack_file_the_engine_does_not_model_is_refused(bench: Bench, text: str, words: str) -> None:
    bench.configure(text)
    with pytest.raises(ConfigError, match=words):
        bench.up(lambda: None)


def _declare(bench: Bench, text: str) -> None:
    (bench.root / "Pulumi.yaml").write_text(f"name: bench\nruntime: python\nconfig:\n{text}")


def test_declared_keys_have_defaults_values_and_types(bench: Bench) -> None:
    _declare(bench, "  size: {type: integer, default: 7}\n  lab:kind: {value: fixed}\n  short: text\n")

    def program() -> None:
        pulumi.export("size", pulumi.Config().require_int("size"))
        pulumi.export("kind", pulumi.Config("lab").require("kind"))
        pulumi.export("short", pulumi.Config().require("short"))

    assert bench.up(program).outputs == {"size": 7, "kind": "fixed", "short": "text"}
    bench.configure("config:\n  bench:size: 9\n")
    assert bench.up(program).outputs["size"] == 9


@pytest.mark.parametrize(
    ("kind", "value", "fits"),
    [
        ("integer", "5", True), ("integer", "five", False), ("integer", "5.5", False), ("number", "5.5", True),
        ("boolean", "true", True), ("boolean", "1", False), ("array", "[1]", True), ("array", "x", False),
        ("object", "{a: 1}", True), ("string", "5", True), ("string", "[1]", False),
    ],
)  # fmt: skip
def test_a_declared_type_is_checked(bench: Bench, kind: str, value: str, fits: bool) -> None:
    _declare(bench, f"  key: {{type: {kind}}}\n")
    bench.configure(f"config:\n  bench:key: {value}\n")
    config = bench.make(lambda: None).config
    if fits:
        config.load()
    else:
        with pytest.raises(ConfigError, match=f"bench:key must be of type {kind}"):
            config.load()


def test_a_missing_value_is_named_with_the_lines_to_add(bench: Bench) -> None:
    _declare(bench, "  size: {type: integer}\n")
    with pytest.raises(ConfigError, match="lacks the configuration value 'bench:size'") as caught:
        bench.up(lambda: None)
    assert "bench:size: ..." in caught.value.remedy


def test_a_default_provider_gets_its_own_namespace(bench: Bench) -> None:
    bench.configure("config:\n  toy:region: here\n  bench:size: 3\n")

    def program() -> None:
        Thing("a")

    bench.up(program)
    assert bench.cloud.configured == [{"region": "here"}]
    bench.cloud.configured.clear()
    bench.destroy()
    assert bench.cloud.configured == [{"region": "here"}]
