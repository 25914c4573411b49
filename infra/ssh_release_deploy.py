"""The deployment on the host: stage, switch by one rename, restart or reload, healthy or rolled back.

    stage    everything of the new deployment is written beside the running one; a failure up to here changes nothing
    switch   /etc/ztna/current is renamed over; units whose text, code or files differ are restarted, or reloaded
    prove    the ready URLs answer well and no unit restarts by itself
    else     the previous deployment is switched back and proved the same way

Runs on the host by its python3: the standard library alone (`infra/ssh_release_host.py`).
"""

import contextlib
import json
import os
import pwd
import shutil
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

from infra.ssh_release_files import (
    CODE,
    CURRENT,
    DEPLOYMENTS,
    ETC,
    RELEASES,
    UNITS,
    UPLOADS,
    USER,
    VAR,
    Refused,
    active,
    current,
    link,
    plan_of,
    restarts,
    run,
    say,
    sha256_of,
    systemctl,
    write,
)

SYSCTL_FILE = Path("/etc/sysctl.d/60-ztna.conf")
NFT_FILE = Path("/etc/nftables.conf")
NFT_TABLE = "ztna"
PENDING = VAR / "pending"
PYTHON = "/usr/bin/python3"
PROBE_S = 2.0
PACE_S = 10.0
SETTLE_S = 1.0
PATIENCE_RESTARTS = 2
JOURNAL_LINES = 25
COMPILE_S = 240.0
SMOKE = "import sys; sys.path.insert(0, {lib!r}); import ztna.io.connector, ztna.io.intermediate"


class Unhealthy(Exception):
    """A deployment that was switched on does not work; the text says which part and carries its journal."""


def deploy(request: dict[str, Any]) -> dict[str, Any]:
    """Bring the host to a deployment, or leave it with the one that ran before. Raises Refused."""
    _claim(request["machine"])
    owner = _user()
    _firewall()  # before a setting that lets the host forward
    _sysctls(request["sysctls"])
    wanted, running = request["deployment"], current()
    previous = _known_good(running)
    try:
        _stage_release(request["release"], request["sha256"])
        _stage_deployment(request, owner)
    except OSError as error:
        raise Refused(f"nothing was changed, {_runs(running)}: {error}") from error
    finally:
        _clear_partials()
    if wanted == running and not PENDING.exists() and not _differences(wanted, wanted):
        _prune(int(request["keep"]))
        return {"status": "unchanged", "previous": previous}
    write(PENDING, json.dumps({"previous": previous}), 0o600)
    try:
        did = _switch(wanted, running)
        say("waiting until it is ready")
        _prove(wanted, float(request["ready_timeout_s"]))
    except (Unhealthy, Refused, OSError) as error:
        outcome = _roll_back(wanted, "" if previous == wanted else previous, float(request["ready_timeout_s"]))
        raise Refused(f"release {request['release']} (deployment {wanted}) is unhealthy; {outcome}: {error}") from error
    PENDING.unlink()
    _prune(int(request["keep"]))
    return {"status": "installed" if not previous else did, "previous": previous}


def remove(request: dict[str, Any]) -> dict[str, Any]:
    """Stop the units and remove what releases have put on the host, unless it was released to as another machine."""
    with contextlib.suppress(OSError):
        if (VAR / "machine").read_text() != request["machine"]:
            return {"removed": False}
    say("stopping the services")
    _retire(list(plan_of(current())["units"]))
    for path in (CODE, ETC, UPLOADS):
        shutil.rmtree(path, ignore_errors=True)
    for name in ("pending", "machine"):
        (VAR / name).unlink(missing_ok=True)
    return {"removed": True}


def _claim(machine: str) -> None:
    path = VAR / "machine"
    if not path.exists():
        write(path, machine, 0o600)
    elif path.read_text() != machine:
        raise Refused(
            f"this host was released to as machine {path.read_text()!r}, not {machine!r}: remove {path} to take it over"
        )


def _user() -> tuple[int, int]:
    """Return uid and gid of the user that runs the services; the first boot makes it, an older image may not have."""
    try:
        found = pwd.getpwnam(USER)
    except KeyError:
        run("useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", USER)
        found = pwd.getpwnam(USER)
    return found.pw_uid, found.pw_gid


def _sysctls(wanted: dict[str, int]) -> None:
    """Set kernel settings that are less than wanted, and verify what the kernel took."""
    if any(_sysctl(key) < least for key, least in wanted.items()):
        say("raising kernel settings")
        write(SYSCTL_FILE, "".join(f"{key} = {least}\n" for key, least in sorted(wanted.items())))
        run("sysctl", "--quiet", "--load", str(SYSCTL_FILE), check=False)
    for key, least in sorted(wanted.items()):
        if (value := _sysctl(key)) < least:
            raise Refused(
                f"{key} is {value} and must be at least {least}, and could not be raised: set it on the host "
                f"(`sysctl -w {key}={least}`); nothing was changed"
            )


def _firewall() -> None:
    """Verify that the firewall of the first boot is in force, where there is one."""
    if f"table inet {NFT_TABLE} ".encode() not in (_content(NFT_FILE) or b""):
        return
    with contextlib.suppress(Refused):
        run("nft", "list", "table", "inet", NFT_TABLE)
        return
    say("loading the firewall")
    try:
        run("nft", "-f", str(NFT_FILE))
    except Refused as error:
        raise Refused(f"the firewall is not in force and cannot be loaded; nothing was changed: {error}") from error


def _sysctl(key: str) -> int:
    try:
        return int(Path("/proc/sys", *key.split(".")).read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return -1


def _known_good(running: str) -> str:
    """Return the deployment to come back to: an interrupted one has left its predecessor's name."""
    with contextlib.suppress(OSError, ValueError):
        return str(json.loads(PENDING.read_text())["previous"])
    return running


def _runs(deployment: str) -> str:
    return f"deployment {deployment} goes on running" if deployment else "nothing runs on the host"


def _stage_release(release: str, sha256: str) -> None:
    """Unpack, compile and try out the code beside what is there; it appears whole or not at all."""
    final, upload = RELEASES / release, UPLOADS / f"{sha256}.tar.gz"
    if final.is_dir():
        upload.unlink(missing_ok=True)
        return
    if not upload.exists() or sha256_of(upload) != sha256:
        raise Refused("the bundle is not on the host, or is not what was announced; nothing was changed: try again")
    say("unpacking")
    staged = RELEASES / f".new-{release}"
    staged.mkdir(parents=True)
    with tarfile.open(upload) as tar:
        members = tar.getmembers()
        if any(
            not member.isfile() or member.name.startswith("/") or ".." in member.name.split("/") for member in members
        ):
            raise Refused("the bundle holds something else than files in their place; nothing was changed")
        if hasattr(tarfile, "data_filter"):
            tar.extractall(staged, members, filter="data")
        else:
            tar.extractall(staged, members)  # noqa: S202 - checked above
    say("compiling")
    compiled = ("-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", str(staged))
    run(PYTHON, "-I", *compiled, check=False, timeout_s=COMPILE_S)
    run(PYTHON, "-I", "-c", SMOKE.format(lib=str(staged / "lib")))
    run("sync", "--file-system", str(staged))
    staged.replace(final)
    upload.unlink()


def _stage_deployment(request: dict[str, Any], owner: tuple[int, int]) -> None:
    """Write links, units and files of a deployment. Its name tells its contents, so one that is whole is kept."""
    final = DEPLOYMENTS / request["deployment"]
    for role in request["files"]:
        if role in ("current", "releases") or "/" in role or role.startswith("."):
            raise Refused(f"a role cannot be called {role!r}")
    if final.is_dir():
        _mend(final, request, owner)
    else:
        staged = DEPLOYMENTS / f".new-{request['deployment']}"
        staged.mkdir(parents=True)
        _fill(staged, request, owner)
        run("sync", "--file-system", str(staged))
        staged.replace(final)
    link(CODE / "current", str(CURRENT / "code"))
    for role in request["files"]:
        link(ETC / role, f"current/{role}")


def _fill(folder: Path, request: dict[str, Any], owner: tuple[int, int]) -> None:
    link(folder / "code", str(RELEASES / request["release"]))
    for role, texts in request["files"].items():
        (folder / role).mkdir(mode=0o700, exist_ok=True)
        os.chown(folder / role, *owner)
        for name, text in texts.items():
            write(folder / role / name, text, 0o600, owner)
    plan = {key: request[key] for key in ("release", "ready", "units", "reload", "pace")}
    write(folder / "plan.json", json.dumps(plan), 0o600)


def _mend(folder: Path, request: dict[str, Any], owner: tuple[int, int]) -> None:
    """Write anew what was changed by hand; the units that read it are restarted, since PENDING is left."""
    wrong = [
        f"{role}/{name}"
        for role, texts in request["files"].items()
        for name, text in texts.items()
        if not (folder / role / name).is_file() or (folder / role / name).read_text() != text
    ]
    if wrong:
        say(f"mending {', '.join(wrong)}")
        _fill(folder, request, owner)
        systemctl("stop", *(f"{unit}.service" for unit in request["units"]), check=False)


def _clear_partials() -> None:
    for folder in (RELEASES, DEPLOYMENTS):
        for left in folder.glob(".new-*") if folder.is_dir() else ():
            shutil.rmtree(left, ignore_errors=True)


def _differences(wanted: str, base: str) -> dict[str, str]:
    """Return what each unit of a deployment needs, coming from another one: `restart` or `reload`."""
    new, old = plan_of(wanted), plan_of(base)
    found = {}
    for unit, text in new["units"].items():
        role, reload = new["reload"][unit]
        installed = UNITS / f"{unit}.service"
        changed = _changed_files(DEPLOYMENTS / wanted / role, DEPLOYMENTS / base / role) if role else set()
        if (
            new["release"] != old["release"]
            or not installed.exists()
            or installed.read_text() != text
            or not active(unit)
            or not changed <= set(reload)
        ):
            found[unit] = "restart"
        elif changed:
            found[unit] = "reload"
    return found


def _changed_files(new: Path, old: Path) -> set[str]:
    names = {path.name for folder in (new, old) if folder.is_dir() for path in folder.iterdir()}
    return {name for name in names if _content(new / name) != _content(old / name)}


def _content(path: Path) -> bytes | None:
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return None


def _switch(wanted: str, base: str) -> str:
    """Switch a deployment on, coming from another one; return `upgraded`, or `reloaded` when nothing was restarted."""
    needs, new = _differences(wanted, base), plan_of(wanted)
    os.utime(DEPLOYMENTS / wanted)
    link(CURRENT, f"releases/{wanted}")
    _retire([unit for unit in plan_of(base)["units"] if unit not in new["units"]])
    stale = [unit for unit, text in new["units"].items() if _content(UNITS / f"{unit}.service") != text.encode()]
    for unit in stale:
        write(UNITS / f"{unit}.service", new["units"][unit])
    if stale:
        systemctl("daemon-reload")
        systemctl("enable", "--quiet", *(f"{unit}.service" for unit in stale))
    for unit, need in needs.items():
        say(f"{need}ing {unit}")
        try:
            systemctl(need, f"{unit}.service")
        except Refused as error:
            raise Unhealthy(f"{error}\n{_journals([unit])}") from error
        # One after the other, each usable before the next stops: neither has to look for the other for long.
        if need == "restart" and unit in new.get("pace", {}):
            _probe(new["pace"][unit], PACE_S)
    return "upgraded" if "restart" in needs.values() else "reloaded"


def _prove(deployment: str, timeout_s: float) -> None:
    """Wait until every ready URL answers well, and no unit fails or restarts by itself. Raises Unhealthy."""
    plan = plan_of(deployment)
    before = {unit: restarts(unit) for unit in plan["units"]}
    until = time.monotonic() + timeout_s
    waiting, reason = list(plan["ready"]), ""
    while waiting:
        reason = _probe(waiting[0], PROBE_S)
        if not reason:
            waiting.pop(0)
            continue
        looping = [unit for unit in before if int(restarts(unit) or 0) - int(before[unit] or 0) >= PATIENCE_RESTARTS]
        if looping or time.monotonic() > until:
            what = f"{', '.join(looping)} ends again and again" if looping else f"not ready after {timeout_s:g} s"
            raise Unhealthy(f"{what}: {reason}\n{_journals(looping or plan['units'])}")
    time.sleep(SETTLE_S)
    failing = [unit for unit in before if not active(unit) or restarts(unit) != before[unit]]
    if failing:
        raise Unhealthy(f"{', '.join(failing)} does not keep running\n{_journals(failing)}")


def _probe(url: str, wait_s: float) -> str:
    """Return why a URL does not answer well within a time, empty when it does."""
    script = str(CURRENT / "code" / "lib" / "infra" / "http_probe.py")
    argv = [PYTHON, "-I", "-S", script, "--until-ready", f"{wait_s:g}", url]
    asked = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return "" if asked.returncode == 0 else asked.stdout.strip() or asked.stderr.strip() or "no answer"


def _roll_back(failed: str, previous: str, timeout_s: float) -> str:
    """Bring the previous deployment back, or stop what was never healthy; return what the host runs now."""
    if not previous:
        say("it is unhealthy and there is none to come back to: stopping it")
        _retire(list(plan_of(failed)["units"]))
        CURRENT.unlink(missing_ok=True)
        outcome = "there is no previous one, so it was stopped"
    else:
        say(f"it is unhealthy: rolling back to deployment {previous}")
        try:
            _switch(previous, failed)
            _prove(previous, timeout_s)
            outcome = f"rolled back to deployment {previous}, which is healthy"
        except (Unhealthy, Refused, OSError) as error:
            return f"rolled back to deployment {previous}, WHICH IS NOT HEALTHY EITHER ({error})"
    PENDING.unlink(missing_ok=True)
    shutil.rmtree(DEPLOYMENTS / failed, ignore_errors=True)
    return outcome


def _retire(units: list[str]) -> None:
    """Stop, disable and remove units."""
    if not units:
        return
    systemctl("disable", "--quiet", "--now", *(f"{unit}.service" for unit in units), check=False)
    for unit in units:
        (UNITS / f"{unit}.service").unlink(missing_ok=True)
    systemctl("daemon-reload")
    systemctl("reset-failed", *(f"{unit}.service" for unit in units), check=False)


def _journals(units: Any) -> str:
    """Return the end of the units' journals."""
    texts = []
    for unit in units:
        words = ("--unit", f"{unit}.service", "--lines", str(JOURNAL_LINES), "--no-pager", "--output", "cat")
        texts.append(f"--- journal of {unit}:\n{run('journalctl', *words, check=False)}")
    return "\n".join(texts)


def _prune(keep: int) -> None:
    """Keep the deployments that were switched on last, and the code they use."""
    names = sorted(DEPLOYMENTS.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    kept = {path.name for path in names[:keep]} | {current()}
    for path in names:
        if path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)
    used = {plan_of(name)["release"] for name in kept}
    for path in RELEASES.iterdir():
        if path.name not in used:
            shutil.rmtree(path, ignore_errors=True)
