"""A machine for tests: a real systemd with a real sshd, booted in under a second from this machine's own files.

It is a systemd-nspawn container in a network namespace of its own; its root is an overlay of `/` whose changes live in
memory and go with it. Debian packages: systemd-container dbus openssh-server nftables (and cloud-init for first boots).
"""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

PACKAGES = "systemd-container dbus openssh-server nftables iproute2 util-linux"
TOOLS = ("systemd-nspawn", "dbus-daemon", "sshd", "nft", "ip", "nsenter", "journalctl")
BOOT_S = 30.0
STOP_S = 10.0
SIZE = "1g"
"""Of the memory that changes may take."""
_numbers = itertools.count()

TARGET = """\
[Unit]
Description=What a machine of a test runs
Requires=basic.target
Wants=ssh.service systemd-user-sessions.service {wants}
After=basic.target
"""


class Machine:
    """A booted machine, reachable at `address`; a context manager that leaves nothing behind."""

    def __init__(
        self, folder: Path, *, files: dict[str, str] | None = None, wants: Sequence[str] = (), size: str = SIZE
    ) -> None:
        """Prepare it; `files` (absolute path -> text, mode 0600) are there at boot, `wants` are units to start."""
        number = next(_numbers)
        self.name = f"zr{os.getpid()}x{number}"
        self.folder = folder / self.name
        self.root = self.folder / "root"
        self.files = files or {}
        self.wants = wants
        self.size = size
        # RFC 2544 addresses for tests of networks, a /30 of each machine: sessions are not made over link-local ones.
        third, fourth = 128 + (os.getpid() + number) % 100, 4 * (number % 60)
        self.gateway = f"198.18.{third}.{fourth + 1}"
        self.address = f"198.18.{third}.{fourth + 2}"
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._cgroups: list[Path] = []
        self._leader = 0

    def __enter__(self) -> "Machine":
        """Boot, and return when its sshd listens."""
        missing = [tool for tool in TOOLS if shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin") is None]
        assert not missing, f"missing {', '.join(missing)}: apt-get install --no-install-recommends {PACKAGES}"
        assert os.geteuid() == 0, "a machine needs root"
        try:
            self._prepare()
            self._boot()
        except BaseException:
            self.stop()
            raise
        return self

    def _prepare(self) -> None:
        self.folder.mkdir(parents=True)
        run("mount", "-t", "tmpfs", "-o", f"size={self.size},mode=0755", "ztna-machine", str(self.folder))
        for name in ("root", "upper", "work"):
            (self.folder / name).mkdir()
        layers = f"lowerdir=/,upperdir={self.folder}/upper,workdir={self.folder}/work"
        run("mount", "-t", "overlay", "-o", layers, "overlay", str(self.root))
        for path in ("etc/systemd/system", "etc/ssh", "etc/ztna", "opt/ztna", "var/lib/cloud", "root/.ssh", "run"):
            shutil.rmtree(self.root / path, ignore_errors=True)
            (self.root / path).mkdir(parents=True, mode=0o755)
        units = self.root / "etc/systemd/system"
        (units / "default.target").symlink_to("machine.target")
        (units / "machine.target").write_text(TARGET.format(wants=" ".join(self.wants)))
        (units / "sshd.service").symlink_to("/lib/systemd/system/ssh.service")  # cloud-init is ordered before this name
        (self.root / "etc/hostname").write_text("machine\n")
        (self.root / "etc/hosts").write_text("127.0.0.1 localhost machine\n")
        (self.root / "etc/resolv.conf").unlink(missing_ok=True)
        (self.root / "etc/machine-id").write_text("")
        (self.root / "etc/ssh/sshd_config").write_text(
            "Include /etc/ssh/sshd_config.d/*.conf\nPermitRootLogin prohibit-password\nUsePAM yes\n"
        )
        for name, text in self.files.items():
            file = self.root / name.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch(mode=0o600)
            file.write_text(text)

    def _boot(self) -> None:
        run("ip", "netns", "add", self.name)
        run("ip", "link", "add", f"{self.name}h", "type", "veth", "peer", "name", "eth0", "netns", self.name)
        run("ip", "addr", "add", f"{self.gateway}/30", "dev", f"{self.name}h")
        run("ip", "link", "set", f"{self.name}h", "up")
        for words in (f"addr add {self.address}/30 dev eth0", "link set eth0 up", "link set lo up"):
            run("ip", "-n", self.name, *words.split())
        run("ip", "-n", self.name, "route", "add", "default", "via", self.gateway)
        argv = [
            *("systemd-nspawn", "--quiet", f"--directory={self.root}", f"--machine={self.name}", "--register=no"),
            *(
                f"--network-namespace-path=/run/netns/{self.name}",
                "--link-journal=no",
                "--capability=CAP_NET_ADMIN",
                "--boot",
            ),
        ]
        if not Path("/run/systemd/system").is_dir():
            argv.insert(1, "--keep-unit")
            self._own_cgroups()
        with (self.folder / "console.log").open("wb") as console:
            self._nspawn = subprocess.Popen(
                ["sh", "-c", 'for c in $0; do echo $$ > $c/cgroup.procs; done; exec "$@"', self._cgroup_words(), *argv],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
            )
        until = time.monotonic() + BOOT_S
        while not self._listens():
            assert self._nspawn.poll() is None, f"it did not boot:\n{self.console()}"
            assert time.monotonic() < until, f"its sshd does not listen:\n{self.console()}"
            time.sleep(0.1)

    def _own_cgroups(self) -> None:
        """Where no systemd runs, nspawn uses the cgroup that it is in: give each machine one of its own."""
        for tree in ("systemd", "unified", ""):
            root = Path("/sys/fs/cgroup", tree)
            if (root / "cgroup.procs").exists():
                (root / self.name).mkdir()
                self._cgroups.append(root / self.name)

    def _cgroup_words(self) -> str:
        return " ".join(str(path) for path in self._cgroups)

    def _listens(self) -> bool:
        return ":22 " in run("ip", "netns", "exec", self.name, "ss", "-Hltn")

    def console(self) -> str:
        """Return what it printed while it booted."""
        return (self.folder / "console.log").read_text(errors="replace")[-3000:]

    def run(self, *argv: str, check: bool = True) -> str:
        """Run a command inside and return what it printed."""
        if not self._leader:
            assert self._nspawn is not None
            children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
            self._leader = int(children[0])
        clean = ("env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root")
        words = ("nsenter", "--target", str(self._leader), "--all", "--root", "--wd", "--", *clean, *argv)
        return run(*words, check=check)

    def main_pid(self, unit: str) -> str:
        """Return the process of a unit; it changes when the unit is restarted, and is 0 when it does not run."""
        return self.run("systemctl", "show", "--property=MainPID", "--value", f"{unit}.service")

    def stop(self) -> None:
        """End it and remove every trace."""
        if self._nspawn is not None:
            with contextlib.suppress(OSError):
                self.run("true", check=False)
                os.kill(self._leader, signal.SIGKILL)
            try:
                self._nspawn.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._nspawn.kill()
                self._nspawn.wait(STOP_S)
        run("ip", "link", "delete", f"{self.name}h", check=False)
        run("ip", "netns", "delete", self.name, check=False)
        for path in (self.root, self.folder):
            run("umount", "--lazy", str(path), check=False)
        shutil.rmtree(self.folder, ignore_errors=True)
        for cgroup in self._cgroups:
            for folder, _, _ in os.walk(cgroup, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        self.stop()


def run(*argv: str, check: bool = True) -> str:
    """Run a command here and return what it printed."""
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, check=False)
    assert not check or done.returncode == 0, f"{' '.join(argv)}: {done.stderr or done.stdout}"
    return done.stdout.strip()
