"""A project directory of its own that shares this checkout's sources: its state and its runs are apart from it."""

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_LINKED = (".venv", "ztna", "infra", "components", "stacks")
_COPIED = ("Pulumi.yaml", "__main__.py", "pyproject.toml")


def link_project(directory: Path) -> Path:
    """Make the directory: sources and virtual environment as links, project and stack files as copies."""
    directory.mkdir(parents=True)
    for name in _LINKED:
        (directory / name).symlink_to(ROOT / name)
    for name in (*_COPIED, *(path.name for path in ROOT.glob("Pulumi.*.yaml"))):
        shutil.copy(ROOT / name, directory / name)
    return directory
