"""The Debian root that machines are cloned from: built once by mmdebstrap, kept by the hash of what it is made of.

    CACHE/HASH/        the root, read-only from then on: machines lay an overlay over it
    CACHE/HASH.lock    flock; one builder at a time, the others wait and find it done

CACHE is `~/.cache/ztna/roots` (`ZTNA_ROOTS` or XDG_CACHE_HOME override it). Packages come from the Debian mirror that
/etc/apt of this machine names.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from infra.lab.errors import LabError, require_tool, tool_environment

APT: Final = Path("/etc/apt")
FORMAT: Final = 1
"""Raised when the way a root is made changes other than by the text below."""
BUILD_TIMEOUT_S: Final = 900.0
PACKAGES: Final = (
    *("systemd", "systemd-sysv", "dbus", "openssh-server", "cloud-init", "sudo"),
    *("python3", "nftables", "iproute2", "iputils-ping", "procps", "netbase", "ca-certificates"),
)
"""What an image of a cloud has at least, of what hosts of the overlay use."""
_LEFT_OUT: Final = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/info/*")

# Timers would wake every machine at once, and there is no terminal to log in at.
_MASKED: Final = (
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer"),
    *("e2scrub_reap.service", "console-getty.service", "getty@tty1.service", "systemd-timesyncd.service"),
)
# The network is there before the first boot, and the seed is the one source of data.
_CLOUD: Final = """\
datasource_list: [NoCloud]
network: {config: disabled}
locale: false
apt: {preserve_sources_list: true}
"""
_CUSTOMISE: Final = f"""\
set -e
rm -f "$1"/etc/ssh/ssh_host_* "$1"/etc/resolv.conf "$1"/etc/hostname
: > "$1"/etc/machine-id
for unit in {" ".join(_MASKED)}; do ln -sf /dev/null "$1"/etc/systemd/system/$unit; done
cat > "$1"/etc/cloud/cloud.cfg.d/99-lab.cfg <<'CLOUD'
{_CLOUD}CLOUD
rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*.bin "$1"/var/log/*.log "$1"/var/log/apt
"""

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class RootSpec:
    """What a root is made of. `suite` is Debian's code name; `python` the version of its /usr/bin/python3."""

    suite: str
    python: str
    packages: tuple[str, ...] = field(default=PACKAGES)

    @property
    def hash(self) -> str:
        """16 hex digits that change when, and only when, the root would be made of something else."""
        made_of = [FORMAT, self.suite, sorted(self.packages), platform.machine(), _CUSTOMISE, _LEFT_OUT]
        return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]


BOOKWORM: Final = RootSpec(suite="bookworm", python="3.11")
TRIXIE: Final = RootSpec(suite="trixie", python="3.13")


def cache_dir() -> Path:
    """Return the folder of all roots of this user."""
    if override := os.environ.get("ZTNA_ROOTS"):
        return Path(override)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ztna" / "roots"


def root_path(spec: RootSpec) -> Path:
    """Return where the root of a specification is, or will be."""
    return cache_dir() / spec.hash


def ensure_root(spec: RootSpec, say: Say = lambda line: None, *, outside: Sequence[str] = ()) -> Path:
    """Return the root, built unless it is there (minutes, and some 300 MB of disk).

    Args:
        spec: what it is made of.
        say: gets a line on what is done, when anything is.
        outside: argv prefix of commands that need the machine's own network, for a caller that is in another one.

    Raises:
        LabError: not root, a tool or the network is missing, or mmdebstrap failed; carries its last words.
    """
    path = root_path(spec)
    if path.is_dir():
        return path
    if os.geteuid() != 0:
        raise LabError("building the root of machines needs root: machines exist on the lab's root rung only")
    with _lock(path):
        if not path.is_dir():
            _build(spec, path, say, outside)
    return path


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(spec: RootSpec, path: Path, say: Say, outside: Sequence[str]) -> None:
    require_tool("mmdebstrap")
    for left in path.parent.glob(f".{spec.hash}.*"):  # of a builder that was killed: we hold its lock
        shutil.rmtree(left, ignore_errors=True)
    began = time.monotonic()
    say(f"building the Debian {spec.suite} root of machines, once (some minutes): {path}")
    scratch = Path(tempfile.mkdtemp(prefix=f".{spec.hash}.", dir=path.parent))
    try:
        _debootstrap(spec, scratch / "root", outside)
        (scratch / "root").chmod(0o755)
        (scratch / "root").rename(path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    say(f"the root is built, in {time.monotonic() - began:.0f} s")


def _debootstrap(spec: RootSpec, target: Path, outside: Sequence[str]) -> None:
    argv = [
        *outside,
        *("mmdebstrap", "--quiet", "--variant=minbase", "--mode=root", f"--include={','.join(spec.packages)}"),
        *("--aptopt=APT::Install-Recommends false", "--aptopt=Acquire::Check-Valid-Until false"),
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT),
        *(f"--customize-hook={_CUSTOMISE}", spec.suite, str(target), *apt_lines(spec.suite)),
    ]
    try:
        done = subprocess.run(
            argv, env=tool_environment(), capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise LabError(f"mmdebstrap took longer than {BUILD_TIMEOUT_S:g} s: is the Debian mirror reachable?") from None
    if done.returncode != 0:
        words = " / ".join(done.stderr.strip().splitlines()[-6:])
        raise LabError(f"mmdebstrap could not build the {spec.suite} root: {words or 'no reason given'}")


def apt_lines(suite: str, apt: Path = APT, codename: str | None = None) -> tuple[str, ...]:
    """Return one-line sources of a suite at the mirror that this machine uses for its own Debian suite.

    Args:
        suite: the wanted code name.
        apt: the folder of apt's configuration.
        codename: of this machine's Debian; read from os-release unless given.

    Raises:
        LabError: apt names no Debian mirror.
    """
    own = codename or platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    found: dict[str, None] = {}
    for uri, name, components in _sources(apt):
        base, dash, rest = name.partition("-")
        if base == own and rest in ("", "updates", "security") and "main" in components:
            found[f"deb {uri} {suite}{dash}{rest} main"] = None
    if not any(line.split()[2] == suite for line in found):
        raise LabError(f"{apt} names no mirror of Debian {own or '(an unknown release)'} that a root could come from")
    return tuple(found)


def _sources(apt: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Yield (URI, suite, components) of every binary source, of both formats of sources.list(5)."""
    for path in (apt / "sources.list", *sorted((apt / "sources.list.d").glob("*.list"))):
        for line in path.read_text().splitlines() if path.is_file() else ():
            words = [word for word in _without_options(line).split() if not word.startswith("#")]
            if len(words) >= 4 and words[0] == "deb":
                yield words[1], words[2], words[3:]
    for path in sorted((apt / "sources.list.d").glob("*.sources")):
        for stanza in path.read_text().split("\n\n"):
            lines = [line for line in stanza.splitlines() if ":" in line and not line.startswith(("#", " "))]
            fields = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
            if "deb" in fields.get("Types", "").split() and fields.get("Enabled", "yes") != "no":
                for uri in fields.get("URIs", "").split():
                    for name in fields.get("Suites", "").split():
                        yield uri, name, fields.get("Components", "").split()


def _without_options(line: str) -> str:
    before, bracket, rest = line.partition("[")
    return before + rest.partition("]")[2] if bracket else line
