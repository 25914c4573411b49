"""Fills an image's tree at build time: `dependencies KIND DIRECTORY` from uv.lock, `sources DIRECTORY` of our own.

KIND is `role` (what the overlay needs) or `backend` (the HTTP test backend). Versions and hashes are the lock's, and
only wheels are taken, so nothing is compiled here and nothing is chosen here. Standard library and uv alone.
"""

import compileall
import os
import py_compile
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

BACKEND = ("httpbin", "waitress")
UV = ("/uv/bin/uv",) if Path("/uv/bin/uv").exists() else ("uv",)
UNUSED = ("bin", "tests", "test", "*.pyi", "*.c", "*.pyx", "*.h", "py.typed")
"""What wheels bring and nothing imports."""
LEXERS = ("__init__.py", "_mapping.py", "python.py")
"""Of Pygments, which rich imports to show tracebacks: the 260 other languages are 7 MB with their bytecode."""


def requirements(kind: str, pyproject: Path = Path("pyproject.toml")) -> str:
    """Return requirements with hashes, exactly as the lock has them."""
    project = tomllib.loads(pyproject.read_text())["project"]
    lock = tomllib.loads((pyproject.parent / "uv.lock").read_text())
    command = [*UV, "export", "--frozen", "--quiet", "--no-dev", "--no-emit-project", "--no-header", "--no-annotate"]
    if kind == "backend":
        direct = [*project["dependencies"], *project["optional-dependencies"]["deploy"]]
        names = sorted({re.split(r"[^A-Za-z0-9_.-]", each)[0].lower() for each in direct} - needed(BACKEND, lock))
        command += ["--extra", "deploy", *(word for name in names for word in ("--prune", name))]
    return subprocess.run(command, check=True, text=True, capture_output=True, cwd=pyproject.parent).stdout


def needed(roots: tuple[str, ...], lock: dict[str, Any]) -> set[str]:
    """Return the names of packages and of everything they depend on, extras included."""
    packages: dict[str, list[dict[str, Any]]] = {}
    for package in lock["package"]:
        packages.setdefault(package["name"], []).append(package)
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            for package in packages[name]:
                for group in (package.get("dependencies", []), *package.get("optional-dependencies", {}).values()):
                    waiting += [each["name"] for each in group]
    return found


def dependencies(kind: str, target: Path) -> None:
    """Install what a kind of image needs into a directory."""
    target.mkdir(parents=True, exist_ok=True)
    listed = target.parent / f"{kind}.txt"
    listed.write_text(requirements(kind))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps", "--no-compile"]
    subprocess.run([*command, "--only-binary=:all:", f"--target={target}", "-r", str(listed)], check=True)
    listed.unlink()
    tidy(target)


def sources(target: Path) -> None:
    """Copy our packages and the entry point."""
    for package in ("ztna", "infra"):
        if Path(package).is_dir():
            shutil.copytree(package, target / package, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    shutil.copy("docker/entrypoint.py", target / "entrypoint.py")
    tidy(target)


def tidy(target: Path) -> None:
    """Remove what nothing imports, then add bytecode that is checked by hash: it holds no time and no path."""
    for pattern in UNUSED:
        for path in sorted(target.rglob(pattern)):
            if path.is_dir():
                shutil.rmtree(path)
            elif path.exists():
                path.unlink()
    for path in sorted(target.glob("pygments/lexers/*.py")):
        if path.name not in LEXERS:
            path.unlink()
    for record in target.glob("*.dist-info/RECORD"):
        record.unlink()  # it lists what was removed, and the order of installation
    os.environ["PYTHONHASHSEED"] = "0"
    compileall.compile_dir(
        str(target),
        quiet=1,
        stripdir=str(target),
        prependdir=f"/opt/ztna/{target.name}",
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        workers=1,
    )


def main(argv: list[str]) -> int:
    """Run the command line."""
    match argv:
        case ["dependencies", ("role" | "backend") as kind, target]:
            dependencies(kind, Path(target))
        case ["sources", target]:
            sources(Path(target))
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
