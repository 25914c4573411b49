"""One container as a process of a host of the lab: a root of its own, no capabilities, no new privileges.

    ip netns exec HOST -> unshare --mount --pid -> sh (init of the container) -> setpriv -> the image's command

Its root is an empty file system in memory with this machine's /usr (read-only), the image's own files and this
checkout's environment bound into it; nothing else of this machine is in it. The file system is read-only where the task
asks for it, except for the volumes.
"""

import json
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from infra.lab import state
from infra.twin import standin
from infra.twin.aws_places import control_folder, images_folder
from infra.twin.interface import Json
from infra.twin.site import Site

PROCESS: Final = "task"
LIB: Final = "/opt/ztna/lib"
STANDIN: Final = "/opt/ztna/standin.py"
_LINKED: Final = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_DEVICES: Final = ("null", "zero", "full", "random", "urandom")
_HOST_ONLY: Final = ("USER", "LOGNAME", "LC_ALL", "TZ", "TMPDIR", "XDG_RUNTIME_DIR", "VIRTUAL_ENV")


@dataclass(frozen=True, kw_only=True, slots=True)
class Container:
    """What is run.

    Attributes:
        host: in the lab.
        digest: of the image, 64 hex digits.
        argv: entry point and command together.
        env: all of its environment.
        user: `uid:gid`, numbers.
        resolver: address of its name server.
        volumes: paths that it may write to, empty at the start.
        read_only: whether its root is.
        log: file that gets its output.
    """

    host: str
    digest: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    user: str
    resolver: str
    log: Path
    volumes: tuple[str, ...] = ()
    read_only: bool = True
    ports: tuple[int, ...] = field(default=())


def image_of(run: str, digest: str) -> Json | None:
    """How an image is started; None when it is not there."""
    path = images_folder(run) / digest / "image.json"
    found: Json | None = json.loads(path.read_text()) if path.is_file() else None
    return found


def start(site: Site, container: Container) -> None:
    """Start it, unless it runs."""
    folder = control_folder(site.run) / container.host
    folder.mkdir(parents=True, exist_ok=True)
    inside = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
    argv = [*inside, "sh", "-ec", script(site.run, container, folder), "container", *container.argv]
    site.lab.spawn(container.host, PROCESS, argv, env=dict(container.env), cwd="/", log_path=container.log)


def stop(site: Site, host: str, grace_s: float) -> None:
    """TERM it, KILL it after the grace, and forget it."""
    site.lab.remove_process(host, PROCESS, grace_s=grace_s)
    folder = control_folder(site.run) / host
    for path in (folder / "root", folder):
        if path.is_dir():
            path.rmdir()


def running(run: str, host: str) -> bool:
    """Whether it runs."""
    return state.running(run, host, PROCESS) is not None


def leader(run: str, host: str) -> int:
    """The pid of its init; 0 while there is none."""
    process = state.running(run, host, PROCESS)
    if process is None:
        return 0
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    except OSError:
        return 0
    return int(children[0]) if children else process.pid


def check(run: str, container: Container, command: Sequence[str], timeout_s: float) -> bool:
    """Run a health check inside and say whether it ended 0 in time."""
    pid = leader(run, container.host)
    if not pid:
        return False
    enter = ("nsenter", f"--target={pid}", "--mount", "--pid", "--net", "--root", "--wd=/", "--")
    argv = [*enter, *_privileges(container.user), *command]
    try:
        done = subprocess.run(argv, env=dict(container.env), capture_output=True, timeout=timeout_s, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _privileges(user: str) -> list[str]:
    uid, _, gid = user.partition(":")
    none = ("--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all", "--no-new-privs")
    return ["/usr/bin/setpriv", f"--reuid={uid}", f"--regid={gid or uid}", "--clear-groups", *none, "--"]


def script(run: str, container: Container, folder: Path) -> str:
    """Return the shell script that is the container's init; its arguments are the command."""
    root, image = shlex.quote(str(folder / "root")), images_folder(run) / container.digest / "root"
    libraries = sysconfig.get_paths()["purelib"]
    python = Path(sys.executable).resolve()
    base = Path(sys.base_prefix)
    binds = [(str(path), f"/{path.relative_to(image)}") for path in _tops(image)]
    binds += [(libraries, LIB), (str(standin.__file__), STANDIN)]
    if not str(base).startswith("/usr"):
        binds.append((str(base), str(base)))
    uid, _, gid = container.user.partition(":")
    lines = [
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
        f"mkdir -p {root}; mount -t tmpfs -o mode=755,size=64m container {root}; cd {root}",
        "mkdir -p usr etc dev proc .old",
        "mount -o bind,ro /usr usr",
        *(line for name in _LINKED for line in _linked(name)),
        "mount -t tmpfs -o mode=755,size=1m container usr/local/bin",
        f"for name in python python3; do ln -s {shlex.quote(str(python))} usr/local/bin/$name; done",
        *(_bind(source, target) for source, target in binds),
        "mount -t tmpfs -o mode=755,size=1m container dev",
        "mkdir dev/shm; mount -t tmpfs -o mode=1777,size=64m container dev/shm",
        f"for name in {' '.join(_DEVICES)}; do : > dev/$name; mount --bind /dev/$name dev/$name; done",
        "mount -t proc container proc",
        *_etc(container, uid, gid or uid),
        *(line for path in container.volumes for line in _volume(path, uid, gid or uid)),
        *(["mount -o remount,ro container ."] if container.read_only else []),
        "pivot_root . .old; cd /; umount -l /.old",
        f"unset {' '.join(name for name in _HOST_ONLY if name not in container.env)}",
        f"export PATH={shlex.quote(container.env.get('PATH', '/usr/local/bin:/usr/bin'))}",
        "set +e",
        f'{" ".join(_privileges(container.user))} "$@" & child=$!',
        "trap 'kill -TERM $child' TERM INT",
        "wait $child; code=$?",
        "while kill -0 $child 2> /dev/null; do wait $child; code=$?; done",
        "exit $code",
    ]
    return "\n".join(lines)


def _linked(name: str) -> list[str]:
    """Shell lines for a folder that is a link into /usr on most systems."""
    bound = f"mkdir {name}; mount -o bind,ro /{name} {name}"
    return [f"if [ -L /{name} ]; then cp -P /{name} .; elif [ -d /{name} ]; then {bound}; fi"]


def _volume(path: str, uid: str, gid: str) -> list[str]:
    here = f".{shlex.quote(path)}"
    return [f"mkdir -p {here}", f"mount -t tmpfs -o mode=755,uid={uid},gid={gid},size=256m container {here}"]


def _tops(image: Path) -> list[Path]:
    """What of an image's tree is bound into the root: its folders two levels down, and files above them."""
    found: list[Path] = []
    for top in sorted(image.iterdir()) if image.is_dir() else ():
        found += sorted(_below(top, 2))
    return found


def _below(path: Path, depth: int) -> list[Path]:
    if depth == 0 or not path.is_dir():
        return [path]
    return [found for child in sorted(path.iterdir()) for found in _below(child, depth - 1)]


def _bind(source: str, target: str) -> str:
    here = f".{shlex.quote(target)}"
    parent = f".{shlex.quote(str(Path(target).parent))}"
    there = f"mkdir -p {here}" if Path(source).is_dir() else f"mkdir -p {parent}; : > {here}"
    return f"{there}; mount -o bind,ro {shlex.quote(source)} {here}"


def _etc(container: Container, uid: str, gid: str) -> list[str]:
    files = {
        "passwd": f"root:x:0:0::/:/sbin/nologin\nimage:x:{uid}:{gid}::/nonexistent:/sbin/nologin",
        "group": f"root:x:0:\nimage:x:{gid}:",
        "hosts": "127.0.0.1 localhost",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns",
        "resolv.conf": f"nameserver {container.resolver}\noptions timeout:2 attempts:2",
    }
    lines = [f"printf '%s\\n' {shlex.quote(text)} > etc/{name}" for name, text in files.items()]
    lines.append("cp /etc/ld.so.cache etc/ 2> /dev/null || true")
    lines.append("[ ! -d /etc/ssl ] || { mkdir -p etc/ssl; mount -o bind,ro /etc/ssl etc/ssl; }")
    return lines
