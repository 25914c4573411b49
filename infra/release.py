"""Which version of the overlay is deployed, told by its sources: new code means restarted roles."""

import hashlib
from pathlib import Path
from typing import Final

OVERLAY: Final = Path(__file__).resolve().parent.parent / "ztna"


def source_digest(package: Path = OVERLAY) -> str:
    """Return 16 hex digits that change when, and only when, a Python source of a package changes, comes or goes."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(package).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:16]
