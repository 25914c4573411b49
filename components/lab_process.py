"""A process on a host of the lab as a resource: files, argv, readiness, restart or reload when they change."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import pulumi
from pulumi.dynamic import Resource

from components.lab_provider import LabProvider, changed_keys
from components.lab_runtime import LabHandle, LabSite
from infra import http_probe
from infra.lab.errors import LabError
from infra.wiring import STATE_DIR

PYTHON: Final = "{python}"
"""Stands in argv for this interpreter, so that the path of a virtual environment is no part of the state."""
LOG_TAIL_BYTES: Final = 2000
POLL_S: Final = 0.05
PROBE_START_S: Final = 10.0
"""What starting the probe may take on a busy machine, beyond the time that the process has."""
PROBE: Final = str(Path(http_probe.__file__).resolve())


class ProcessProvider(LabProvider):
    """Writes the files, starts the process and waits until it is ready; a process that fails is not left running."""

    replace_on: ClassVar[tuple[str, ...]] = ("run", "rung", "name", "host")

    def ensure(self, props: dict[str, Any], olds: dict[str, Any] | None) -> dict[str, Any]:
        """Bring files and process to what is asked for: reload when that is enough, else restart."""
        handle, host, name = LabHandle(props), str(props["host"]), str(props["name"])
        folder, log = handle.site.files_dir(host, name), handle.site.log_path(host, name)
        reload = olds is not None and self.exists(olds) and only_reloadable(olds, props)
        if not reload:
            handle.stop(host, name)
        write_files(folder, props["files"])
        try:
            if reload:
                handle.reload(host, name)
            else:
                argv = [part.replace(PYTHON, sys.executable).replace(STATE_DIR, str(folder)) for part in props["argv"]]
                handle.lab.spawn(host, name, argv, log_path=log)
            await_ready(handle, props, log)
        except BaseException:
            handle.stop(host, name)
            raise
        return {}

    def exists(self, props: dict[str, Any]) -> bool:
        """Return whether the process lives, in the namespace that its host has now."""
        return LabHandle(props).is_running(str(props["host"]), str(props["name"]))

    def remove(self, props: dict[str, Any]) -> None:
        """Stop the process and remove its files, keys among them."""
        handle, host, name = LabHandle(props), str(props["host"]), str(props["name"])
        handle.stop(host, name)
        shutil.rmtree(handle.site.files_dir(host, name), ignore_errors=True)


def await_ready(handle: LabHandle, props: Mapping[str, Any], log: Path) -> None:
    """Wait until a process answers well, asked from inside its host.

    Raises:
        LabError: it did not in time, or ended; carries its own reason and the end of its log.
    """
    name, host, timeout_s = str(props["name"]), str(props["host"]), float(props["ready_timeout_s"])
    argv = [
        *handle.lab.exec_prefix(host),
        sys.executable,
        *("-I", "-S", PROBE, "--until-ready", f"{timeout_s:g}", str(props["ready_url"])),
    ]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as probe:
        reason = _probe_result(probe, timeout_s, lambda: handle.is_alive(host, name))
    if reason is not None:
        raise LabError(f"{name} on host {host} {reason}\nthe end of its log, {log}:\n{tail(log)}")


def _probe_result(probe: "subprocess.Popen[str]", timeout_s: float, is_alive: Callable[[], bool]) -> str | None:
    """Return why a probed process is not ready, None when it is."""
    deadline = time.monotonic() + timeout_s + PROBE_START_S
    while probe.poll() is None:
        if not is_alive():
            probe.kill()
            return "ended at once"
        if time.monotonic() > deadline:
            probe.kill()
            return f"could not be asked within {timeout_s:g} s"
        time.sleep(POLL_S)
    output = probe.stdout.read().strip() if probe.stdout is not None else ""
    return None if probe.returncode == 0 else f"was not ready after {timeout_s:g} s: {output}"


def only_reloadable(olds: Mapping[str, Any], news: Mapping[str, Any]) -> bool:
    """Return whether nothing differs but files that the process reads again on SIGHUP."""
    if any(key != "files" for key in changed_keys(olds, news)):
        return False
    old_files, new_files = olds["files"], news["files"]
    changed = {name for name in {*old_files, *new_files} if old_files.get(name) != new_files.get(name)}
    return bool(changed) and changed <= set(news["reload"])


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write files (mode 0600) into a directory (0700), each replaced as a whole, its path filled in for STATE_DIR."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, text in files.items():
        path = folder / name
        partial = folder / f".{name}.partial"
        partial.unlink(missing_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text.replace(STATE_DIR, str(folder)))
        partial.replace(path)


def tail(path: Path) -> str:
    """Return the end of a log, or a sentence when there is none."""
    try:
        return path.read_bytes()[-LOG_TAIL_BYTES:].decode("utf-8", "replace").strip() or "(it is empty)"
    except OSError as error:
        return f"(no log: {error})"


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessArgs:
    """A process.

    Attributes:
        host: the lab host that it runs on.
        name: unique on that host.
        argv: the command; PYTHON and STATE_DIR stand for the interpreter and the directory of its files.
        files: its files by name; they are secret, since keys are among them.
        ready_url: what answers well once it is ready (infra/http_probe.py).
        reload: names of files that it reads again on SIGHUP; another change restarts it.
        release: the version of its code; another one restarts it.
    """

    site: LabSite
    host: str
    name: str
    argv: Sequence[str]
    files: Mapping[str, pulumi.Input[str]]
    ready_url: str
    ready_timeout_s: float = 10.0
    reload: Sequence[str] = ()
    release: str = ""


class LabProcess(Resource, module="lab", name="Process"):
    """A process on a lab host."""

    def __init__(self, name: str, args: ProcessArgs, opts: pulumi.ResourceOptions) -> None:
        props: dict[str, Any] = {
            **args.site.props(args.name),
            "host": args.host,
            "argv": list(args.argv),
            "files": pulumi.Output.secret(dict(args.files)),
            "ready_url": args.ready_url,
            "ready_timeout_s": args.ready_timeout_s,
            "reload": sorted(args.reload),
            "release": args.release,
        }
        super().__init__(ProcessProvider(), name, props, opts)
