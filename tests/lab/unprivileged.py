"""Running a Python program as an ordinary user, also when the tests run as root and Python lives in root's home."""

import os
import subprocess
import sys
from pathlib import Path

from infra.lab.errors import require_tool

UID = 64_321
_REPOSITORY = Path(__file__).resolve().parents[2]

# $1 is a folder closed to others; the paths after it, up to --, lie inside and are wanted. In a mount namespace of our
# own the folder becomes an open one that holds nothing but these. The old one hides in /mnt meanwhile.
_OPEN_FOLDER = """
set -e
closed=$1; shift
mount -t tmpfs tmpfs /mnt
mkdir /mnt/old
mount --rbind "$closed" /mnt/old
mount -t tmpfs -o mode=755 tmpfs "$closed"
while [ "$1" != -- ]; do
  mkdir -p "$1"
  mount --rbind "/mnt/old${1#"$closed"}" "$1"
  shift
done
shift
exec "$@"
"""


def command(program: str, state: Path) -> list[str]:
    """Return the argv that runs a Python program as an ordinary user.

    Args:
        program: for `python -c`.
        state: folder for the lab's state; it is handed over to the user.
    """
    environment = {
        "HOME": "/",
        "ZTNA_LAB_STATE": str(state),
        # What Debian gives an ordinary user: nothing of sbin, where ip and nft may be.
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "PYTHONPATH": str(_REPOSITORY),
    }
    words = [f"{key}={value}" for key, value in environment.items()]
    python = ["env", "-i", *words, sys.executable, "-B", "-c", program]
    if os.geteuid() != 0:
        return python
    os.chown(state, UID, UID)
    drop = [require_tool("setpriv"), f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--bounding-set=-all"]
    wanted = [Path(sys.base_prefix), Path(sys.prefix), _REPOSITORY]
    closed = {folder for path in wanted for folder in path.parents if not folder.stat().st_mode & 0o001}
    argv = [*drop, *python]
    # Innermost first, so that the outermost is opened last, by the outermost command.
    for folder in sorted(closed, key=lambda path: len(path.parts), reverse=True):
        inside = [str(path) for path in wanted if folder in path.parents]
        argv = ["unshare", "--mount", "sh", "-c", _OPEN_FOLDER, "open", str(folder), *inside, "--", *argv]
    return argv


def run(program: str, state: Path) -> subprocess.CompletedProcess[str]:
    """Run a Python program as an ordinary user and return what it said."""
    return subprocess.run(command(program, state), capture_output=True, text=True, check=False, cwd="/", timeout=60)
