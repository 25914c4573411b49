"""First process of a container of a pod: makes its root file system, lets go of every right, and becomes the command.

    python -I -S k8s_sandbox.py SPEC.json

It is started as root in mount, PID, IPC and UTS namespaces of its own (unshare(1)) and in the pod's network namespace.
The root is a tmpfs with the image's contents bound into it read-only; nothing else of this machine is there. Standard
library alone, as it runs by itself.

Source: mount(2), pivot_root(2), capabilities(7), prctl(2).
"""

import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 24, 38
LAST_CAPABILITY = 63
ROOT_BYTES = "64m"
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """Mount as mount(2) does. Raises OSError that names the target."""
    words = [None if word is None else word.encode() for word in (source, target, kind, data)]
    _check(_libc.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3]), f"mounting {target}")


def bind(source: str, target: str, *, read_only: bool, devices: bool = False) -> None:
    """Bind a file or a folder, whose mount point is made first."""
    point = Path(target)
    if Path(source).is_dir():
        point.mkdir(parents=True, exist_ok=True)
    else:
        point.parent.mkdir(parents=True, exist_ok=True)
        point.touch()
    mount(source, target, None, MS_BIND | MS_REC)
    flags = MS_NOSUID | (0 if devices else MS_NODEV) | (MS_RDONLY if read_only else 0)
    mount("none", target, None, MS_BIND | MS_REMOUNT | flags)


def build(spec: dict[str, Any]) -> None:
    """Make the root file system and enter it."""
    root = spec["root"]
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, f"mode=0755,size={ROOT_BYTES}")
    for path, target in spec["links"].items():
        link = Path(root + path)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
    for path, text in spec["files"].items():
        file = Path(root + path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    for source, target, read_only in spec["binds"]:
        bind(source, root + target, read_only=read_only)
    (Path(root) / "proc").mkdir()
    mount("proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    for name in DEVICES:
        bind(f"/dev/{name}", f"{root}/dev/{name}", read_only=False, devices=True)
    (Path(root) / "dev/shm").mkdir()
    mount("shm", f"{root}/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=1777,size=64m")  # noqa: S108 - its own
    (Path(root) / "tmp").mkdir(exist_ok=True)
    (Path(root) / "tmp").chmod(0o1777)
    os.chdir(root)
    _check(_libc.pivot_root(b".", b"."), "entering the root")
    _check(_libc.umount2(b".", MNT_DETACH), "leaving the old root")
    os.chdir("/")
    if spec["read_only"]:
        mount("none", "/", None, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV)


def drop(uid: int, gid: int, groups: list[int]) -> None:
    """Become a user without any capability, which no program that is run can give back."""
    for number in range(LAST_CAPABILITY + 1):
        if _libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0) != 0:
            break  # EINVAL: the kernel has no more of them
    _check(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    # Another user's process has forgotten that it is to end with unshare(1), its parent (prctl(2)).
    _check(_libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "parent death signal")


def main() -> None:
    """Become the command. What fails before goes to the container's log."""
    spec = json.loads(Path(sys.argv[1]).read_bytes())
    try:
        build(spec)
        os.umask(0o022)
        drop(spec["uid"], spec["gid"], spec["groups"])
        os.chdir(spec["cwd"])
        os.execvpe(spec["argv"][0], spec["argv"], spec["env"])  # noqa: S606 - no shell is what is wanted
    except OSError as error:
        sys.exit(f"container {spec['name']}: cannot start {spec['argv'][0]!r}: {error}")


if __name__ == "__main__":
    main()
