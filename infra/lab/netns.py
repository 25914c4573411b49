"""Running commands where the namespaces are: the machine itself for root, a holder process for a rootless run."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.lab.errors import LabError, require_tool, tool_environment
from infra.lab.plan import PREFIX
from infra.lab.process import MARK, is_alive, start_time

# A rootless run lives in one user, mount and network namespace, held by a sleeping process. /run is not ours there:
# a tmpfs takes its place (for the names of `ip netns`), with everything that was in it bound back. The tmpfs is filled
# elsewhere and moved, since the folder of runs itself lies below /run for root and on desktops.
_HOLDER = """
set -e
mount --make-rprivate /
new=$1
mount -t tmpfs -o mode=755 tmpfs "$new"
for path in /run/*; do
  name=${path##*/}
  if [ "$name" = netns ] || [ -L "$path" ]; then continue
  elif [ -d "$path" ]; then mkdir "$new/$name" && mount --rbind "$path" "$new/$name" || true
  elif [ -f "$path" ]; then : > "$new/$name" && mount --bind "$path" "$new/$name" || true
  fi
done
mount -n --move "$new" /run
mkdir -p /run/netns
ip link set lo up
echo ready
exec sleep infinity
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run's namespaces have their names: `holder` is a pid, or None on the machine itself."""

    holder: int | None = None

    @property
    def prefix(self) -> tuple[str, ...]:
        """Argv prefix that brings a command to the place from outside."""
        if self.holder is None:
            return ()
        return ("nsenter", "--preserve-credentials", "-U", "-m", "-n", "-t", str(self.holder), "--")

    def inside(self, namespace: str) -> tuple[str, ...]:
        """Argv prefix for people and daemons: the namespace, with /sys and /etc/netns/NAME/ to match."""
        if self.holder is None:
            return ("ip", "netns", "exec", namespace)
        # Entering a mount namespace leaves one at its root.
        enter = f'exec {" ".join(self.prefix)} env -C "$PWD" "$@"'
        return ("sh", "-c", enter, "lab", "ip", "netns", "exec", namespace)

    def quick(self, namespace: str) -> tuple[str, ...]:
        """Argv prefix for `run`, from the place on: the network namespace and nothing else."""
        return ("nsenter", f"--net=/run/netns/{namespace}", "--")

    def run(self, argv: Sequence[str], *, stdin: str | None = None) -> str:
        """Run a command at the place and return its output.

        Raises:
            LabError: it failed; carries the command's own words.
        """
        require_tool(argv[0])
        done = subprocess.run(
            [*self.prefix, *argv], input=stdin, env=tool_environment(), capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise LabError(_failure(argv, done.stderr))
        return done.stdout

    def batch(self, lines: Sequence[str]) -> None:
        """Run `ip` commands at the place, in one process."""
        if lines:
            self.run(["ip", "-batch", "-"], stdin="\n".join(lines) + "\n")

    def scripts(self, scripts: Mapping[str, str]) -> None:
        """Run a shell script in each namespace, all at once.

        Raises:
            LabError: one failed; all have ended by then.
        """
        started = []
        for namespace, text in scripts.items():
            argv = [*self.prefix, *self.quick(namespace), "sh", "-e"]
            process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=tool_environment(),
                text=True,
            )
            started.append((namespace, text, process))
        failures = []
        for namespace, text, process in started:
            _, errors = process.communicate(text)
            if process.returncode != 0:
                failures.append(_failure([f"setting up {namespace}"], errors))
        if failures:
            raise LabError("; ".join(failures))

    def namespaces(self) -> set[str]:
        """Names of the lab's namespaces at the place; those of others are left out."""
        root = "" if self.holder is None else f"/proc/{self.holder}/root"
        try:
            names = os.listdir(f"{root}/run/netns")
        except FileNotFoundError:
            return set()
        except PermissionError:
            names = self.run(["ls", "/run/netns"]).split()
        return {name for name in names if name.startswith(PREFIX)}


def _failure(argv: Sequence[str], errors: str) -> str:
    # nft quotes the whole line it stumbled over, which can be long.
    lines = [line if len(line) <= 200 else f"{line[:200]}..." for line in errors.strip().splitlines()[:5]]
    return f"{' '.join(argv)} failed: {' / '.join(lines) or 'no reason given'}"


def start_holder(folder: Path) -> tuple[int, int]:
    """Start the holder of a rootless run and return its (pid, start time) once its place is ready.

    Args:
        folder: the run's folder, in which the new /run is prepared.

    Raises:
        LabError: the kernel refuses; carries its words.
    """
    staging = folder / "run"
    staging.mkdir(exist_ok=True)
    argv = ["unshare", "-Urnm", "--propagation", "private", "sh", "-c", _HOLDER, "lab-holder", str(staging)]
    with open(folder / "holder.log", "wb") as log:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
            env={**tool_environment(), MARK: str(folder)},
        )
    assert process.stdout is not None
    with process.stdout as output:
        ready = output.readline()
    if ready != b"ready\n":
        process.wait()
        reason = (folder / "holder.log").read_text().strip()
        raise LabError(f"no rootless namespaces: {reason or 'the holder process ended at once'}")
    pid = process.pid
    # It outlives us on purpose; the record in the run's state takes over from here.
    process.returncode = 0
    return pid, start_time(pid) or 0


def stop_holder(holder: tuple[int, int]) -> None:
    """End a holder, if it is still the same process; its namespaces vanish with it."""
    if not is_alive(*holder):
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(holder[0], signal.SIGKILL)
    for _ in range(200):
        if not is_alive(*holder):
            return
        time.sleep(0.005)
