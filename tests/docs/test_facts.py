"""Links, commands, exit codes, tests and packages that the pages name are there."""

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from infra import cli
from infra.cli_common import EXIT_CODES
from infra.lab.nat import PRESETS
from infra.lab.rungs import Rung
from infra.verify.checks import CHECKS
from tests.docs.pages import EVERY_PAGE, PAGES, ROOT, anchors, codes, links, tables
from ztna import cli as roles

DOCS = ROOT / "docs"


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_inside_the_repository_lead_somewhere(page: Path) -> None:
    for target in links(page.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{target}: there is no such file"
        assert found.is_relative_to(ROOT)
        assert not anchor or anchor in anchors(found.read_text()), f"{target}: there is no such heading"


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page: Path) -> None:
    for name in codes(page.read_text()):
        if re.fullmatch(r"(ztna|infra|components|stacks|scripts|tests|docs)/[\w./-]*", name):
            base = ROOT / "tests" if name.startswith(("ztna/io/test_", "ztna/proto/test_")) else ROOT
            assert (base / name).exists(), name


def test_every_page_of_docs_is_listed_in_the_readme() -> None:
    listed = set(links((ROOT / "README.md").read_text()))
    assert {f"docs/{page.name}" for page in DOCS.glob("*.md")} <= listed


def paths(app: typer.Typer) -> Iterator[tuple[str, ...]]:
    """Every command of an app, as words after its name."""

    def walk(command: object, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        inner = getattr(command, "commands", None)
        if not inner:
            yield words
            return
        for name, below in inner.items():
            yield from walk(below, (*words, name))

    yield from walk(get_command(app), ())


def test_cli_page_names_every_command() -> None:
    text = (DOCS / "cli.md").read_text().replace(r"\|", "|")
    for words in paths(cli.app):
        *above, last = words
        assert re.search(rf"`ztna {' '.join(above)} ?[\w|]*\b{last}\b", text), words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_that_a_page_names_exist(page: Path) -> None:
    known = {words[0] for words in paths(cli.app)}
    own = {words[0] for words in paths(roles.app)}
    text = page.read_text()
    assert set(re.findall(r"(?:`|\$ )ztna ([a-z]+)", text)) <= known
    assert set(re.findall(r"(?:`|\$ )python -m ztna ([a-z]+)", text)) <= own


def test_exit_codes_are_those_of_the_code() -> None:
    found = tables((DOCS / "cli.md").read_text())
    (stack,) = (rows for rows in found.values() if "code" in rows[0])
    (role,) = (rows for rows in found.values() if "role's code" in rows[0])
    assert {int(row["code"]): row["meaning"] for row in stack} == {int(code): text for code, text in EXIT_CODES.items()}
    said = dict(re.findall(r"(\d) ([^,.]+)", roles.EXIT_CODES))
    assert {row["role's code"]: row["meaning"].split(" (")[0] for row in role} == said
    constants = {roles.EXIT_FAILED, roles.EXIT_CONFIG, roles.EXIT_BIND, roles.EXIT_NOT_READY}
    assert constants <= {int(code) for code in said}


@cache
def functions(path: Path) -> frozenset[str]:
    """Names of the test functions of a file."""
    tree = ast.parse(path.read_text())
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, kinds))


def test_rules_of_security_are_complete_and_their_tests_exist() -> None:
    (rows,) = (rows for rows in tables((DOCS / "security.md").read_text()).values() if "proved by" in rows[0])
    assert [row["row"] for row in rows] == [f"S{number}" for number in range(1, 18)]
    for row in rows:
        named = codes(row["proved by"])
        # Without end-to-end encryption there is nothing to prove about the relay's operator.
        assert named or row["row"] == "S11", row["row"]
        for test in named:
            file, _, name = test.partition("::")
            assert name in functions(ROOT / "tests" / file), test


def test_the_sample_in_the_readme_is_a_complete_pass() -> None:
    block = (ROOT / "README.md").read_text().split("<!-- verify:begin -->")[1].split("<!-- verify:end -->")[0]
    lines = block.strip().splitlines()[1:-1]
    assert [line[: len(check.title)] for line, check in zip(lines, CHECKS, strict=True)] == [c.title for c in CHECKS]
    assert all(re.search(r"  ?passed ", line) for line in lines)


def test_dependencies_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = {
        "The overlay (`ztna`)": project["project"]["dependencies"],
        "Deploying and the lab (`deploy` extra)": project["project"]["optional-dependencies"]["deploy"],
        "The clouds (`cloud` extra)": project["project"]["optional-dependencies"]["cloud"],
        "Development (`dev` group)": project["dependency-groups"]["dev"],
    }
    found = tables((DOCS / "dependencies.md").read_text())
    for title, wanted in groups.items():
        named = [name.strip() for row in found[title] for name in row["package"].split(",")]
        assert len(named) == len(set(named)), title
        assert {name.lower() for name in named} == {re.split(r"[<>=!~;\[ ]", text)[0].lower() for text in wanted}, title


def test_lab_page_names_every_preset_and_rung() -> None:
    found = tables((DOCS / "lab.md").read_text()).values()
    assert {row["preset"].strip("`") for rows in found for row in rows if "preset" in row} == set(PRESETS)
    assert [row["rung"].strip("`") for rows in found for row in rows if "rung" in row] == [rung.value for rung in Rung]


def test_engine_page_names_all_that_the_engine_refuses() -> None:
    """The features stand in the engine as keys of two tables and as words of `_refuse`."""
    text = (DOCS / "engine.md").read_text()
    engine = ROOT / "infra" / "engine"
    features: set[str] = set()
    for node in ast.walk(ast.parse((engine / "goal.py").read_text())):
        if isinstance(node, ast.FunctionDef) and node.name == "_refuse":
            table = next(item for item in ast.walk(node) if isinstance(item, ast.Dict))
            features |= {
                key.value for key in table.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)
            }
    for node in ast.parse((engine / "project.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_REFUSED":
            features |= {f"`{key}`" for key in ast.literal_eval(node.value)}
    features |= set(re.findall(r'_refuse\(context, f"([^({]+) \(', (engine / "monitor.py").read_text()))
    assert len(features) > 12
    assert not [feature for feature in features if feature not in text]


def test_every_line_of_the_coverage_names_what_makes_it_and_a_test_that_exists() -> None:
    rows = [row for found in tables((DOCS / "coverage.md").read_text()).values() for row in found]
    assert len(rows) > 60
    for row in rows:
        tests = codes(row["checked by"])
        assert tests, row["line"]
        assert all((ROOT / name).exists() for name in codes(row["made by"])), row["line"]
        for test in tests:
            file, _, name = test.partition("::")
            assert (ROOT / file).exists(), test
            assert not name or name in functions(ROOT / file), test


def test_every_aws_service_in_use_is_type_checked() -> None:
    """mypy skips the others (pyproject.toml): one in use but skipped would be `Any` throughout."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["overrides"]
    (checked,) = (entry["module"] for entry in settings if entry.get("follow_imports") == "normal")
    for folder in ("components", "stacks", "infra", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text()
            for node in ast.walk(ast.parse(text)) if "pulumi_aws" in text else ():
                if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "pulumi_aws":
                    below = (node.module or "").partition(".")[2]
                    for name in [below.partition(".")[0]] if below else [alias.name for alias in node.names]:
                        assert f"pulumi_aws.{name}.*" in checked, f"{path}: add pulumi_aws.{name}.* to pyproject.toml"
