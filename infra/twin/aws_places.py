"""Where a world keeps what AWS would: log streams and the contents of images, below the run's folder."""

from pathlib import Path
from typing import Final

from infra.lab import state

FOLDER: Final = "log"
"""It goes with the run, whatever is in it."""


def log_folder(run: str, group: str) -> Path:
    """The folder of a log group: a file for each stream."""
    return state.run_dir(run) / FOLDER / "aws" / group.strip("/")


def images_folder(run: str) -> Path:
    """The folder of the images that have been built, by digest."""
    return state.run_dir(run) / FOLDER / "images"


def control_folder(run: str) -> Path:
    """Where the controller keeps what it hands to tasks."""
    return state.run_dir(run) / FOLDER / "tasks"
