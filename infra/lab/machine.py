"""Machines: systemd-nspawn containers with real systemd, sshd and cloud-init, in the namespace of a host of the lab.

    RUN_DIR/machines/HOST/         a tmpfs: upper and work of the overlay, the seed's inputs (machine.json)
    RUN_DIR/machines/HOST/root     overlay over a root of infra/lab/machine_root.py
    RUN_DIR/log/HOST-machine.log   the console, appended over reboots

A machine is a process `machine` of its host in the run's record, so it is stopped with the host and the run, and reaped
after a kill -9 like everything else; `clear` removes its mounts and cgroups. Changes to its disk live in memory.
"""

import contextlib
import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from infra.lab import state
from infra.lab.errors import LabError, require_tool, tool_environment
from infra.lab.plan import namespace
from infra.lab.process import is_alive, launch, stop_all
from infra.lab.state import ProcessRecord
from infra.lab.topology import Spec

PROCESS: Final = "machine"
SSH_PORT: Final = 22
BOOT_TIMEOUT_S: Final = 90.0
STOP_GRACE_S: Final = 15.0
_POLL_S: Final = 0.05
_RESTART: Final = 133
"""What nspawn ends with when the machine was rebooted from inside (systemd-nspawn(1))."""
_SEED: Final = "var/lib/cloud/seed/nocloud"
_CGROUPS: Final = Path("/sys/fs/cgroup")
_ENV: Final = {"SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network"}
"""A machine sets its own network's kernel settings, /proc/sys/net, and no others (systemd's ENVIRONMENT.md)."""

# The outer shell boots it again after a reboot; TERM is for nspawn, which turns it into an orderly shutdown.
_KEEPER: Final = """\
trap : TERM
while :; do
  sh -c 'for cgroup in $0; do echo $$ > $cgroup/cgroup.procs; done; exec "$@"' "$0" "$@"
  code=$?
  [ $code -eq {restart} ] || exit $code
done
"""


class MachineSpec(Spec, frozen=True):
    """What a machine is at its first boot.

    Args:
        root: folder of the root that it is a clone of.
        hostname: told to cloud-init, which the user data may overrule.
        instance_id: another one makes cloud-init take the boot for the first of a new machine.
        user_data: given to cloud-init as it is.
        disk_mb: what changes to the disk may take of this machine's memory.
        files: absolute path -> text, mode 0600, there at the first boot.
    """

    root: str
    hostname: str
    instance_id: str
    user_data: str
    disk_mb: int = 4096
    files: Mapping[str, str] = {}


class Machine:
    """The machine of a host, whether it is there or not; every operation may be repeated.

    Args:
        run: name of the lab run.
        host: a host of the run's topology, in whose namespace it boots.
    """

    def __init__(self, run: str, host: str) -> None:
        self.run_name, self.host = run, host
        self.folder = _machines(run) / host
        self.root = self.folder / "root"

    @property
    def console_path(self) -> Path:
        """The log of its console."""
        return state.run_dir(self.run_name) / "log" / f"{self.host}-{PROCESS}.log"

    @property
    def exists(self) -> bool:
        """Whether it has a disk, running or not."""
        return (self.folder / "machine.json").is_file()

    @property
    def running(self) -> bool:
        """Whether it is powered on."""
        return state.running(self.run_name, self.host, PROCESS) is not None

    def create(self, spec: MachineSpec) -> None:
        """Make its disk, unless it has this one; a half-made one, or another, is removed first.

        Raises:
            LabError: the root is not there, or a mount failed.
        """
        if self.exists and (self.folder / "machine.json").read_bytes() == msgspec.json.encode(spec):
            return
        self.remove()
        if not Path(spec.root).is_dir():
            raise LabError(f"machine {self.host}: there is no root at {spec.root}")
        self.folder.mkdir(parents=True, mode=0o700)
        _mount("-t", "tmpfs", "-o", f"size={spec.disk_mb}m,mode=0700", "ztna-machine", str(self.folder))
        for name in ("root", "upper", "work"):
            (self.folder / name).mkdir(mode=0o755)
        layers = f"lowerdir={spec.root},upperdir={self.folder}/upper,workdir={self.folder}/work"
        _mount("-t", "overlay", "-o", layers, "ztna-machine", str(self.root))
        meta = f"instance-id: {spec.instance_id}\nlocal-hostname: {spec.hostname}\n"
        for name, text in {f"{_SEED}/user-data": spec.user_data, f"{_SEED}/meta-data": meta, **spec.files}.items():
            path = self.root / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            path.write_text(text)
        # The last thing written, and the sign that the disk is whole.
        (self.folder / "machine.json").touch(mode=0o600)
        (self.folder / "machine.json").write_bytes(msgspec.json.encode(spec))

    def start(self) -> None:
        """Power it on, unless it is."""
        require_tool("systemd-nspawn")
        if not self.exists:
            raise LabError(f"machine {self.host} of run {self.run_name!r} has no disk: create it first")
        with state.locked(self.run_name):
            record = state.load(self.run_name)
            if record is None or self.host not in record.nodes:
                raise LabError(f"lab run {self.run_name!r} has no host {self.host!r} for a machine to boot in")
            key = f"{self.host}/{PROCESS}"
            old = record.processes.get(key)
            if old is not None and is_alive(old.pid, old.start_time):
                return
            argv = self._argv()
            info = launch(
                argv, env=_ENV, cwd=None, log_path=self.console_path, run_dir=state.run_dir(self.run_name)
            )  # fmt: skip
            record.processes[key] = ProcessRecord(
                self.host, PROCESS, argv, _ENV, None, str(self.console_path), info.pid, info.start_time
            )
            state.save(record)

    def _argv(self) -> list[str]:
        own = _make_cgroups(self.run_name, self.host) if not Path("/run/systemd/system").is_dir() else []
        nspawn = [
            *("systemd-nspawn", "--quiet", f"--directory={self.root}", f"--machine={_scope(self.run_name, self.host)}"),
            *("--register=no", "--link-journal=no", "--resolv-conf=off", "--timezone=off"),
            f"--network-namespace-path=/run/netns/{namespace(self.run_name, self.host)}",
            *("--capability=CAP_NET_ADMIN", "--boot"),
        ]
        if own:
            nspawn.insert(1, "--keep-unit")
        return ["sh", "-c", _KEEPER.format(restart=_RESTART), " ".join(map(str, own)), *nspawn]

    def wait_listening(self, port: int = SSH_PORT, timeout_s: float = BOOT_TIMEOUT_S) -> float:
        """Wait until something listens on a TCP port of it, and return the seconds that took.

        Raises:
            LabError: it went off, or the time is up; carries the end of its console.
        """
        began = time.monotonic()
        while not self.listens(port):
            if not self.running:
                raise LabError(f"machine {self.host} went off while it booted:\n{self.console()}")
            if time.monotonic() - began > timeout_s:
                raise LabError(
                    f"nothing listens on port {port} of machine {self.host} after {timeout_s:g} s:\n{self.console()}"
                )
            time.sleep(_POLL_S)
        return time.monotonic() - began

    def listens(self, port: int) -> bool:
        """Whether a TCP socket listens on a port, seen from outside by proc(5)."""
        leader = self.leader()
        for table in ("tcp", "tcp6"):
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{leader}/net/{table}").read_text().splitlines()[1:]:
                    words = line.split()
                    if words[3] == "0A" and int(words[1].rpartition(":")[2], 16) == port:
                        return True
        return False

    def console(self, characters: int = 2000) -> str:
        """Return the end of what it printed."""
        with contextlib.suppress(OSError):
            return self.console_path.read_text(errors="replace")[-characters:]
        return "(no console)"

    def leader(self) -> int:
        """Return the pid of its init; 0 while there is none."""
        process = state.running(self.run_name, self.host, PROCESS)
        if process is None:
            return 0
        waiting = [process.pid]
        while waiting:
            pid = waiting.pop()
            with contextlib.suppress(OSError, ValueError):
                waiting += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
                status = Path(f"/proc/{pid}/status").read_text()
                (inner,) = (line.split() for line in status.splitlines() if line.startswith("NSpid:"))
                if len(inner) > 2 and inner[-1] == "1":
                    return pid
        return 0

    def exec_prefix(self) -> tuple[str, ...]:
        """Argv prefix that runs a command inside, as root, with a clean environment.

        Raises:
            LabError: it is off.
        """
        leader = self.leader()
        if not leader:
            raise LabError(f"machine {self.host} of run {self.run_name!r} is off")
        enter = ("nsenter", "--target", str(leader), "--all", "--root", "--wd", "--")
        return (*enter, "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8")

    def run(self, argv: Sequence[str], *, timeout_s: float = 60.0, check: bool = True) -> str:
        """Run a command inside and return what it printed.

        Raises:
            LabError: it failed (unless `check` is false), took too long, or the machine is off.
        """
        try:
            done = subprocess.run(
                [*self.exec_prefix(), *argv], capture_output=True, text=True, timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired:
            raise LabError(f"{shlex.join(argv)} in machine {self.host} took longer than {timeout_s:g} s") from None
        if check and done.returncode != 0:
            said = (done.stderr or done.stdout).strip()
            raise LabError(f"{shlex.join(argv)} in machine {self.host} ended {done.returncode}: {said}")
        return done.stdout

    def stop(self, *, grace_s: float = STOP_GRACE_S) -> None:
        """Power it off: an orderly shutdown, and the plug after the grace. Its disk stays."""
        record = state.load(self.run_name)
        process = record.processes.get(f"{self.host}/{PROCESS}") if record is not None else None
        if process is not None and process.pid:
            leader = self.leader()
            if grace_s <= 0 and leader:
                # With its init gone the kernel ends all of it at once.
                with contextlib.suppress(OSError):
                    os.kill(leader, signal.SIGKILL)
            stop_all([(process.pid, process.start_time)], max(grace_s, 2.0))
        _remove_cgroups(_scope(self.run_name, self.host))

    def reboot(self) -> None:
        """Shut it down and power it on again; the disk stays."""
        self.stop()
        self.start()

    def remove(self) -> None:
        """Pull the plug and remove its disk, if there is one; the host and its namespace stay."""
        self.stop(grace_s=0)
        with state.locked(self.run_name):
            record = state.load(self.run_name)
            if record is not None and record.processes.pop(f"{self.host}/{PROCESS}", None) is not None:
                state.save(record)
        _clear_folder(self.folder)


def clear(run: str) -> None:
    """Remove the disks and cgroups of all machines of a run whose processes have been ended."""
    folder = _machines(run)
    if folder.is_dir():
        for host in os.listdir(folder):
            _remove_cgroups(_scope(run, host))
        _clear_folder(folder)


def _clear_folder(folder: Path) -> None:
    inside = [path for path in _mounted() if path == folder or folder in path.parents]
    for path in sorted(inside, key=lambda path: len(path.parts), reverse=True):
        # Lazily: somebody may look around in there.
        subprocess.run(["umount", "--lazy", str(path)], env=tool_environment(), capture_output=True, check=False)
    left = [path for path in _mounted() if path == folder or folder in path.parents]
    if left:
        raise LabError(f"{left[0]} cannot be unmounted: nothing below {folder} was removed")
    shutil.rmtree(folder, ignore_errors=True)


def _mounted() -> list[Path]:
    """Every mount point, of proc_pid_mountinfo(5)."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [Path(line.split()[4].encode().decode("unicode_escape")) for line in lines]


def _mount(*words: str) -> None:
    done = subprocess.run(["mount", *words], env=tool_environment(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"mount {' '.join(words)}: {done.stderr.strip()}")


def _machines(run: str) -> Path:
    return state.run_dir(run) / "machines"


def _scope(run: str, host: str) -> str:
    """Name of a machine on this machine, which two lab states may share; at most 64 characters (machine-id(5))."""
    digits = hashlib.sha256(f"{state.run_dir(run)}\0{host}".encode()).hexdigest()[:8]
    return f"ztna-{run[:20].strip('-')}-{host[:20].strip('-')}-{digits}"


def _make_cgroups(run: str, host: str) -> list[Path]:
    """Where no systemd runs, nspawn uses the cgroup that it is in: give each machine one of its own."""
    made = []
    for tree in ("systemd", "unified", "."):
        if (_CGROUPS / tree / "cgroup.procs").exists():
            path = (_CGROUPS / tree / _scope(run, host)).resolve()
            path.mkdir(exist_ok=True)
            made.append(path)
    return made


def _remove_cgroups(name: str) -> None:
    for tree in ("systemd", "unified", "."):
        for folder, _, _ in os.walk(_CGROUPS / tree / name, topdown=False):
            for _ in range(20):
                try:
                    os.rmdir(folder)
                except FileNotFoundError:
                    break
                except OSError:  # its last process is on its way out
                    time.sleep(_POLL_S)
                else:
                    break
