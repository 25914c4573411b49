"""The image files as text: pinned, without a shell at run time, not root; and what a build context can hold."""

import fnmatch
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.project import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
QUAKEKUBE = (ROOT / "docker" / "quakekube" / "Dockerfile").read_text()
TARGETS = ("intermediate", "connector", "http-app")


def load(name: str) -> ModuleType:
    """A script of docker/, which is no package."""
    found = importlib.util.spec_from_file_location(f"docker_{name}", ROOT / "docker" / f"{name}.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    if hasattr(module, "UV") and shutil.which("uv") is None:
        # Where the set-up found none on PATH it brought one of its own.
        setattr(module, "UV", (str(ROOT / ".uv" / "bin" / "uv"),))  # noqa: B010 - a script's constant, unknown to types
    return module


def stages(text: str = DOCKERFILE) -> dict[str, list[str]]:
    """The instructions of each stage by its name, continued lines joined."""
    joined = re.sub(r"\\\n\s*", "", text)
    made: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in joined.splitlines():
        if line.startswith("FROM "):
            lines = made.setdefault(line.split(" AS ")[-1] if " AS " in line else "last", [])
        if line and not line.startswith("#"):
            lines.append(line)
    return made


def test_the_base_is_pinned_by_digest() -> None:
    found = re.search(r"^ARG BASE=(\S+)$", DOCKERFILE, re.M)
    assert found is not None
    assert re.fullmatch(r"docker\.io/library/python:3\.12-slim@sha256:[0-9a-f]{64}", found[1])
    images = {line.split()[1] for line in DOCKERFILE.splitlines() if line.startswith("FROM ")}
    assert images == {"${BASE}", "scratch", "build", "runtime"}


def test_the_targets_are_those_that_stacks_build() -> None:
    assert set(TARGETS) <= set(stages())


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_starts_from_nothing_and_is_asked_for_its_health(target: str) -> None:
    lines = stages()[target]
    assert lines[0].split()[1] == "runtime"
    assert stages()["runtime"][0].split()[1] == "scratch"
    assert not [line for line in lines if line.startswith(("RUN", "USER", "ADD"))]
    (health,) = [line for line in lines if line.startswith("HEALTHCHECK")]
    words = json.loads(health.partition(" CMD ")[2])
    assert words[:2] == ["python", "-m"]
    assert "127.0.0.1" in words[-1], "the process is asked, not a file"


def test_images_run_as_an_ordinary_user_with_fixed_numbers() -> None:
    assert "USER 65532:65532" in stages()["runtime"]
    assert "USER 65532:65532" in stages(QUAKEKUBE)["last"]


def test_every_command_is_a_list_so_that_no_shell_is_needed() -> None:
    for lines in (*stages().values(), *stages(QUAKEKUBE).values()):
        for line in lines:
            verb, _, rest = line.partition(" ")
            if verb in ("RUN", "CMD", "ENTRYPOINT"):
                assert isinstance(json.loads(rest), list), line


def test_nothing_secret_is_an_argument_of_the_build() -> None:
    names = re.findall(r"^ARG (\w+)", DOCKERFILE + QUAKEKUBE, re.M)
    assert set(names) == {"BASE", "SOURCE_DATE_EPOCH", "QUAKEKUBE_IMAGE"}


def test_quakekubes_image_is_the_users_choice() -> None:
    assert re.search(r"^ARG QUAKEKUBE_IMAGE$", QUAKEKUBE, re.M), "a default would be trusted unseen"


def test_hadolint_finds_nothing() -> None:
    files = ["Dockerfile", "docker/quakekube/Dockerfile"]
    done = subprocess.run(
        [str(Path(sys.prefix, "bin", "hadolint")), "--no-color", *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "")


# The build context.


def ignored(path: str) -> bool:
    """Whether .dockerignore leaves a path out: the last line that matches it or a directory above it decides."""
    parts = path.split("/")
    ways = ["/".join(parts[: index + 1]) for index in range(len(parts))]
    out = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        forms = [pattern, pattern.removeprefix("**/")] if pattern.startswith("**/") else [pattern]
        hits = any(
            (len(way.split("/")) == len(form.split("/")) and fnmatch.fnmatchcase(way, form))
            or (form != pattern and fnmatch.fnmatchcase(way.rpartition("/")[2], form))
            for way in ways
            for form in forms
        )
        if hits:
            out = not line.startswith("!")
    return out


@pytest.mark.parametrize(
    "path",
    [
        "Pulumi.do-nyc1.yaml",
        "Pulumi.yaml",
        ".env",
        ".git/config",
        ".ztna/stacks/do-nyc1.json",
        ".pulumi/stacks/aws.json",
        "ztna/key.pem",
        "ztna/io/agent.key",
        "docker/registry.env",
        "infra/pki.py",
        "infra/cloudinit.py",
        "tests/support/certs.py",
        "build/reports/outputs.json",
        "id_ed25519",
        "ztna/__pycache__/cli.cpython-312.pyc",
        "docker/ca.pem",
    ],
)
def test_what_may_hold_a_secret_never_reaches_the_builder(path: str) -> None:
    assert ignored(path)


def test_everything_that_is_copied_reaches_the_builder() -> None:
    sources = {
        word.rstrip("/")
        for lines in stages().values()
        for line in lines
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    }
    assert sources >= {"pyproject.toml", "uv.lock", "docker", "ztna", "infra/echo.py"}
    for source in sources:
        assert (ROOT / source).exists()
        assert not ignored(source)
    assert not ignored("ztna/io/connector.py")


# What goes in.


def locked() -> dict[str, set[str]]:
    """Versions by package in uv.lock."""
    found: dict[str, set[str]] = {}
    for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]:
        found.setdefault(package["name"], set()).add(package.get("version", ""))
    return found


@pytest.mark.parametrize(
    ("kind", "inside", "outside"),
    [
        (
            "role",
            {"aioquic", "cryptography", "msgspec", "psutil", "qh3", "uvloop", "typer"},
            {"pulumi", "httpbin", "pytest", "paramiko"},
        ),
        (
            "backend",
            {"httpbin", "waitress", "flask", "jinja2", "markupsafe"},
            {"pulumi", "aioquic", "pip", "matplotlib", "cryptography"},
        ),
    ],
)
def test_requirements_are_the_locks_with_hashes(kind: str, inside: set[str], outside: set[str]) -> None:
    text = load("install").requirements(kind, ROOT / "pyproject.toml")
    entries = [entry for entry in text.replace("\\\n", " ").splitlines() if entry.strip()]
    names = {entry.split("==")[0] for entry in entries}
    assert inside <= names
    assert not outside & names
    for entry in entries:
        name, _, rest = entry.partition("==")
        assert rest.split()[0] in locked()[name]
        assert "--hash=sha256:" in rest


def test_of_all_lexers_the_one_for_tracebacks_is_kept(tmp_path: Path) -> None:
    lexers = tmp_path / "pygments" / "lexers"
    lexers.mkdir(parents=True)
    for name in ("__init__", "_mapping", "python", "cobol", "_php_builtins"):
        (lexers / f"{name}.py").write_text("x = 1\n")
    load("install").tidy(tmp_path)
    assert {path.stem for path in lexers.glob("*.py")} == {"__init__", "_mapping", "python"}
    assert len(list(lexers.glob("__pycache__/*.pyc"))) == 3


def test_a_backend_has_everything_that_it_depends_on() -> None:
    """What is left out of the export goes with its own dependencies: nothing of httpbin's may be among it."""
    install = load("install")
    names = {line.split("==")[0] for line in install.requirements("backend", ROOT / "pyproject.toml").splitlines()}
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    wanted = {
        each["name"]
        for package in lock["package"]
        if package["name"] in names
        for each in package.get("dependencies", [])
        if "marker" not in each
    }
    assert wanted <= names


def test_uv_itself_is_pinned_by_hash() -> None:
    lines = (ROOT / "docker" / "uv.txt").read_text().split()
    assert lines[0].startswith("uv==")
    assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", line) for line in lines[1:] if line != "\\")


# The entry point.

SHOW = """
import json, os, sys
given = dict(zip(sys.argv[2::2], sys.argv[3::2]))
path = given.get("--config", "")
print(json.dumps({
    "argv": sys.argv[1:], "text": open(path).read() if os.path.exists(path) else None,
    "again": open(path).read() if os.path.exists(path) else None,
    "environment": sorted(os.environ), "place": os.readlink(path) if path.startswith("/proc") else path,
}))
"""


def run_entrypoint(tmp_path: Path, *words: str, profile: str | None) -> dict[str, object]:
    """Run the entry point with a `ztna` that shows what it was given."""
    (tmp_path / "ztna").mkdir()
    (tmp_path / "ztna" / "__init__.py").write_text("")
    (tmp_path / "ztna" / "__main__.py").write_text(SHOW)
    environment = {"PYTHONPATH": str(tmp_path), "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    if profile is not None:
        environment["ZTNA_PROFILE"] = profile
    command = [sys.executable, str(ROOT / "docker" / "entrypoint.py"), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shown: dict[str, object] = json.loads(done.stdout)
    return shown


@pytest.mark.parametrize(
    "words", [("connector",), ("connector", "--config", "/etc/ztna/connector.json"), ("connector", "-c", "x.json")]
)
def test_a_profile_from_the_environment_is_read_from_memory_and_not_passed_on(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    profile = json.dumps({"name": "connector", "key_pem": "-----BEGIN"})
    shown = run_entrypoint(tmp_path, *words, profile=profile)
    assert shown["text"] == shown["again"] == profile
    assert str(shown["place"]).startswith("/memfd:")
    assert "ZTNA_PROFILE" not in str(shown["environment"])
    assert isinstance(shown["argv"], list)
    assert shown["argv"][0] == "connector"
    assert len(shown["argv"]) == 3
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"__init__.py", "__main__.py"}


def test_without_a_profile_the_arguments_are_passed_on(tmp_path: Path) -> None:
    shown = run_entrypoint(tmp_path, "intermediate", "--config", "/etc/ztna/intermediate.json", profile=None)
    assert shown["argv"] == ["intermediate", "--config", "/etc/ztna/intermediate.json"]


def test_a_profile_without_a_role_is_refused() -> None:
    with pytest.raises(SystemExit, match="no role is named"):
        load("entrypoint").arguments([], "{}")
