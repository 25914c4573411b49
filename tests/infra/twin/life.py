"""A stack's twin through its life, by the commands that a person gives, in a project of its own."""

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import yaml

from infra.lab import state
from infra.twin.site import run_name
from tests.support.project import ROOT, link_project

COMMAND_S = 600


class Life:
    """A project of its own, and what its twin is."""

    def __init__(self, directory: Path, stack: str) -> None:
        self.stack = stack
        self.directory = link_project(directory)
        bundles = self.directory / ".ztna" / "bundles"
        bundles.mkdir(parents=True)
        (ROOT / ".ztna" / "bundles" / "wheels").mkdir(parents=True, exist_ok=True)
        (bundles / "wheels").symlink_to(ROOT / ".ztna" / "bundles" / "wheels")
        self.run_name = run_name(stack, self.directory)
        self.environment = {**os.environ, "PULUMI_CONFIG_PASSPHRASE": "test"}

    def config(self, **values: Any) -> None:
        """Give the stack this configuration."""
        settings = {"adminCidrs": ["203.0.113.0/24"]} | values
        document = {"config": {f"{self.stack}:{key}": value for key, value in settings.items()}}
        (self.directory / f"Pulumi.{self.stack}.yaml").write_text(yaml.safe_dump(document))

    def argv(self, *words: str) -> list[str]:
        """A command on the twin."""
        verb, *rest = words
        return [str(ROOT / ".venv/bin/ztna"), verb, "--stack", self.stack, "--twin", *rest]

    def ztna(self, *words: str) -> str:
        """Run it; what it printed."""
        done = subprocess.run(
            self.argv(*words), cwd=self.directory, env=self.environment, capture_output=True, text=True,
            timeout=COMMAND_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{' '.join(words)} ended {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def up(self, **config: Any) -> dict[str, int]:
        """Bring it up with a configuration; the number of resources by operation."""
        self.config(**config)
        answer = self.ztna("up", "--yes", "--json")
        changes: dict[str, int] = json.loads(answer[answer.index("{") : answer.rindex("}") + 1])["changes"]
        return changes

    def relay(self) -> str:
        """The public address of the relay."""
        return str(json.loads(self.ztna("output", "relays", "--json"))[0]["host"])

    def ssh_from(self, place: str) -> bool:
        """Whether an sshd answers at the relay's address, asked from a network of the world."""
        asked = f"exec 3<>/dev/tcp/{self.relay()}/22 && head -c 4 <&3"
        words = ["ip", "netns", "exec", f"ztna.{self.run_name}.{place}", "timeout", "5", "bash", "-c", asked]
        return subprocess.run(words, capture_output=True, text=True, check=False).stdout == "SSH-"

    def left(self) -> list[str]:
        """What of its run is on this machine."""
        found = (
            [name for name in os.listdir("/run/netns") if self.run_name in name] if Path("/run/netns").is_dir() else []
        )
        found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if self.run_name in line]
        found += [str(path) for path in (state.run_dir(self.run_name),) if path.exists()]
        for entry in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if self.run_name in Path(f"/proc/{entry}/cmdline").read_text():
                    found.append(f"process {entry}")
        return found

    def killed_at(self, words: str, *command: str) -> None:
        """Run a command, and KILL it at the first line that holds these words."""
        with subprocess.Popen(
            self.argv(*command), cwd=self.directory, env={**self.environment, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            said: list[str] = []
            for line in process.stdout:
                said.append(line)
                if words in line:
                    break
            else:
                raise AssertionError(f"it ended before {words!r}:\n{''.join(said)}")
            assert process.poll() is None, "it was over before it could be killed"
            process.send_signal(signal.SIGKILL)
        time.sleep(1)

    def inside(self, place: str) -> list[str]:
        """Argv prefix of a command with the network of a host of the world."""
        return ["nsenter", f"--net=/run/netns/ztna.{self.run_name}.{place}", "--"]

    def hosts(self, kind: str) -> set[str]:
        """Hosts of the world by the beginning of their names, such as `droplet`."""
        prefix = f"ztna.{self.run_name}."
        return {name.removeprefix(prefix) for name in os.listdir("/run/netns") if name.startswith(f"{prefix}{kind}-")}
