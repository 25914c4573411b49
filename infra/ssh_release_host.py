"""The host's half of a release: sent over SSH and run there by the host's python3, standard library alone, as root.

Requests are lines of JSON on standard input, answers lines of JSON on standard output. A deployment runs in a process
of its own that no lost connection ends: it gets healthy or brings the previous deployment back. Whoever changes
anything holds the lock.
"""

import contextlib
import errno
import json
import os
import platform
import select
import shutil
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from infra import ssh_release_deploy
from infra.ssh_release_files import (
    CHUNK,
    CODE,
    POLL_S,
    RELEASES,
    UPLOADS,
    VAR,
    Refused,
    active,
    answer,
    current,
    lock,
    need_space,
    plan_of,
    run,
    say,
    sha256_of,
    systemctl,
    write,
)

HOST_KEY = Path("/etc/ssh/ssh_host_ed25519_key")
BOOT = Path("/var/lib/cloud/instance")
BOOT_S = 300.0
IDLE_S = 120.0
"""A deployer that says nothing for so long is gone; its lock goes with it."""
COMPILED_SHARE = 1.6
"""Of the sources' size: they and their bytecode."""


class Input:
    """What the deployer sends: lines, and the bytes of a bundle. Raises EOFError when it is gone."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._waiting = b""

    def line(self) -> bytes:
        """Return the next line, empty at the end."""
        while b"\n" not in self._waiting:
            if not (chunk := self._read(CHUNK)):
                return b""
            self._waiting += chunk
        line, _, self._waiting = self._waiting.partition(b"\n")
        return line

    def some(self, most: int) -> bytes:
        """Return at least one and at most so many bytes. Raises EOFError at the end."""
        chunk = self._waiting[:most]
        self._waiting = self._waiting[most:]
        if not chunk and not (chunk := self._read(most)):
            raise EOFError
        return chunk

    def _read(self, most: int) -> bytes:
        ready, _, _ = select.select([self._descriptor], [], [], IDLE_S)
        return os.read(self._descriptor, most) if ready else b""


def look(request: dict[str, Any]) -> dict[str, Any]:
    """Tell what there is. Changes nothing."""
    deployment = current()
    plan = plan_of(deployment)
    partial = UPLOADS / f"{request['sha256']}.partial"
    machine = ""
    with contextlib.suppress(OSError):
        machine = (VAR / "machine").read_text()
    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        "processor": platform.machine(),
        "machine": machine,
        "deployment": deployment,
        "release": plan["release"],
        "inactive": [unit for unit in plan["units"] if not active(unit)],
        "has_release": (RELEASES / request["release"]).is_dir() if request["release"] else False,
        "partial_bytes": partial.stat().st_size if partial.exists() else 0,
    }


def host_key(request: dict[str, Any]) -> dict[str, Any]:
    """Put the permanent host key into the place of the bootstrap key; connections made so far go on."""
    _await_boot()
    candidate = HOST_KEY.with_name(".ztna_host_key")
    write(candidate, request["private"], 0o600)
    try:
        if run("ssh-keygen", "-y", "-f", str(candidate)).split()[:2] != request["public"].split()[:2]:
            raise Refused("the permanent host key's halves do not belong together")
        candidate.replace(HOST_KEY)
    finally:
        candidate.unlink(missing_ok=True)
    write(HOST_KEY.with_name(HOST_KEY.name + ".pub"), request["public"].strip() + "\n")
    run("sshd" if shutil.which("sshd") else "/usr/sbin/sshd", "-t")
    unit = "ssh.service" if systemctl("cat", "ssh.service", check=False) else "sshd.service"
    systemctl("try-reload-or-restart", unit)
    return {}


def _await_boot() -> None:
    """Wait for the end of the first boot: its last step loads firewall and sysctls, and restarts sshd."""
    if not BOOT.exists() or (BOOT / "boot-finished").exists():
        return
    say("waiting for the first boot to end")
    until = time.monotonic() + BOOT_S
    while not (BOOT / "boot-finished").exists():
        if time.monotonic() > until:
            raise Refused(f"cloud-init has not ended after {BOOT_S:g} s: see `cloud-init status --long` on the host")
        time.sleep(POLL_S)


def upload(request: dict[str, Any], source: Input) -> dict[str, Any]:
    """Receive a bundle, going on where a lost connection ended when what is here is its beginning."""
    UPLOADS.mkdir(mode=0o700, parents=True, exist_ok=True)
    CODE.mkdir(mode=0o755, parents=True, exist_ok=True)
    digest, size, have = request["sha256"], int(request["size"]), int(request["have"])
    partial = UPLOADS / f"{digest}.partial"
    for other in UPLOADS.iterdir():
        if other != partial:
            other.unlink()
    if not (
        have and partial.exists() and partial.stat().st_size >= have and sha256_of(partial, have) == request["prefix"]
    ):
        have = 0
    need_space(UPLOADS, size - have)
    need_space(CODE, int(request["unpacked"] * COMPILED_SHARE))
    with partial.open("r+b" if have else "wb") as file:
        file.truncate(have)
        file.seek(have)
        answer({"result": {"offset": have}})
        left = size - have
        while left:
            chunk = source.some(min(CHUNK, left))
            file.write(chunk)
            left -= len(chunk)
        file.flush()
        os.fsync(file.fileno())
    if sha256_of(partial) != digest:
        partial.unlink()
        raise Refused("the bundle arrived corrupted: its SHA-256 is not that of the bundle; nothing was changed")
    partial.replace(UPLOADS / f"{digest}.tar.gz")
    return {}


def detached(action: Callable[[dict[str, Any]], dict[str, Any]], request: dict[str, Any]) -> None:
    """Do something in a process that neither a lost connection nor a signal to the session ends, and wait for it."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    os.setsid()
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        perform(action, request)
    finally:
        os._exit(0)


def perform(action: Callable[[dict[str, Any]], dict[str, Any]], request: dict[str, Any]) -> None:
    """Answer a request by its result or its error."""
    try:
        answer({"result": action(request)})
    except Refused as error:
        answer({"error": str(error)})
    except OSError as error:
        full = "disk full: " if error.errno == errno.ENOSPC else ""
        answer({"error": f"{full}{error}; what ran before goes on running"})
    except Exception:
        answer({"error": f"the host's half failed:\n{traceback.format_exc()}"})


def main() -> None:
    """Serve requests until the deployer is gone."""
    os.umask(0o022)
    source = Input(0)
    held: int | None = None
    while line := source.line():
        request = json.loads(line)
        operation = request["op"]
        if operation == "look":
            perform(look, request)
            continue
        try:
            held = lock() if held is None else held
        except Refused as error:
            answer({"error": str(error)})
            continue
        if operation == "upload":
            with contextlib.suppress(EOFError):
                perform(lambda asked: upload(asked, source), request)
                continue
            return
        actions = {"host-key": host_key, "deploy": ssh_release_deploy.deploy, "remove": ssh_release_deploy.remove}
        detached(actions[operation], request)
