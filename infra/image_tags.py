"""Tags of container images, told from what they are built of: a tag is never pushed twice with other contents. Pure."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent


class ImageSourceError(Exception):
    """A file that an image is built from is missing."""


def content_tag(patterns: Iterable[str], settings: Mapping[str, str], root: Path = ROOT) -> str:
    """Return 16 hex digits that change when, and only when, a file or a setting of a build does.

    Args:
        patterns: files relative to `root`, as `Path.glob` takes them.
        settings: what else goes into the image: build arguments, platforms.

    Raises:
        ImageSourceError: a pattern matches no file.
    """
    digest = hashlib.sha256()
    for key, value in sorted(settings.items()):
        digest.update(f"{key}={value}\0".encode())
    for pattern in patterns:
        paths = sorted(path for path in root.glob(pattern) if path.is_file())
        if not paths:
            raise ImageSourceError(f"{pattern} is not in {root}: an image is built from it; restore it, as by git")
        for path in paths:
            content = path.read_bytes()
            digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()[:16]
