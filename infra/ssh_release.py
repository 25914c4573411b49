"""A release on a host over SSH: from a job to a healthy host, or to the release that ran before. No Pulumi.

    connect (host key verified before anything is sent) -> replace the bootstrap host key, once -> look ->
    upload what is missing, verified on the host -> stage -> switch by one rename -> restart or reload -> healthy?
    -> else the previous release is switched back and restarted

What happens from staging on is done by one script on the host (`infra/ssh_release_host.py`) that goes on when the
connection is lost, so a host is never left half-way.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from infra.bundle import Bundle
from infra.ssh_release_session import Contact, HostKeyError, ReleaseError, Session, SshHost, UnreachableError
from infra.units import CONFIG_DIR, READY, SYSCTLS, Unit, unit_text
from infra.wiring import STATE_DIR

__all__ = [
    "HostKeyError",
    "ReleaseError",
    "ReleaseJob",
    "ReleaseResult",
    "SshHost",
    "UnreachableError",
    "deploy",
    "deployment_id",
    "look",
    "remove",
]

READY_TIMEOUT_S: Final = 45.0
KEEP: Final = 3
FIRST_CONTACT_S: Final = 300.0
"""How long a new machine may take until its sshd answers with the key of its first boot."""
CONTACT_S: Final = 30.0

Progress = Callable[[str], None]


def _silent(_line: str) -> None:
    pass


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseJob:
    """What a host is to run.

    Attributes:
        machine: the provider's id of the machine; a host that is released for another one is refused.
        bundle: the code.
        units: the services, in the order of their start.
        files: role -> file name -> text; they hold keys, so they are not shown.
        ready: URLs that answer well on the host once the release is usable.
        sysctls: kernel settings that the host must have at least.
        python: version that the host's python3 must have.
        processor: the host's `uname -m` that the bundle is for.
        keep: how many releases stay on the host, the running one among them.
        ready_timeout_s: what the release may take to become ready before it is rolled back.
        first_contact: whether this machine was never released to, so that its bootstrap key may be met.
    """

    host: SshHost
    machine: str
    bundle: Bundle
    units: tuple[Unit, ...]
    files: Mapping[str, Mapping[str, str]] = field(repr=False)
    ready: tuple[str, ...]
    python: str
    processor: str
    sysctls: Mapping[str, int] = field(default_factory=lambda: dict(SYSCTLS))
    keep: int = KEEP
    ready_timeout_s: float = READY_TIMEOUT_S
    first_contact: bool = False
    progress: Progress = field(default=_silent, repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseResult:
    """What a deployment did.

    Attributes:
        status: installed, upgraded, reloaded (no service was restarted), or unchanged.
        previous: the deployment that ran before, empty when none did.
        uploaded_bytes: what went over the wire for the bundle.
    """

    release_id: str
    deployment: str
    status: str
    previous: str
    uploaded_bytes: int
    seconds: float


def deployment_id(job: ReleaseJob) -> str:
    """Return the name of a deployment, 16 hex digits of code, units and files together."""
    described = [job.bundle.release_id, _unit_texts(job), _files(job), list(job.ready)]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def deploy(job: ReleaseJob) -> ReleaseResult:
    """Bring a host to a release; doing it again changes nothing.

    Raises:
        HostKeyError: the host presents a key that is not its own; nothing was sent.
        UnreachableError: no connection, or it was lost; the host is as it was, or finishes or rolls back on its own.
        ReleaseError: the release was refused or rolled back; the text carries the journal of the unit that failed.
    """
    started = time.monotonic()
    patience_s = FIRST_CONTACT_S if job.first_contact else CONTACT_S
    session = _permanent_session(job, patience_s)
    with session:
        found = session.call("look", {"sha256": job.bundle.sha256, "release": job.bundle.release_id})
        _check_host(job, found)
        wanted = deployment_id(job)
        uploaded = 0
        if not found["has_release"]:
            uploaded = session.upload(job.bundle.path, job.bundle.sha256, int(found["partial_bytes"]), job.progress)
        done = session.call(
            "deploy",
            {
                "sha256": job.bundle.sha256,
                "release": job.bundle.release_id,
                "deployment": wanted,
                "machine": job.machine,
                "files": _files(job),
                "units": _unit_texts(job),
                "reload": {unit.name: [unit.role, list(unit.reload)] for unit in job.units},
                "ready": list(job.ready),
                "pace": {unit.name: READY[unit.name] for unit in job.units if READY.get(unit.name) in job.ready},
                "ready_timeout_s": job.ready_timeout_s,
                "sysctls": dict(job.sysctls),
                "keep": job.keep,
            },
            # The host may wait for readiness twice, when the previous release is brought back.
            timeout_s=2 * job.ready_timeout_s + 180.0,
            progress=job.progress,
        )
    return ReleaseResult(
        release_id=job.bundle.release_id,
        deployment=wanted,
        status=str(done["status"]),
        previous=str(done["previous"]),
        uploaded_bytes=uploaded,
        seconds=time.monotonic() - started,
    )


def look(host: SshHost, machine: str, timeout_s: float = 10.0) -> dict[str, Any] | None:
    """Return what a host says of itself (`deployment`, `release`, `inactive` units), None when it is another one.

    Raises:
        UnreachableError, HostKeyError, ReleaseError: as `deploy`; nothing is changed on the host.
    """
    with Session.open(host, Contact.PERMANENT, timeout_s) as session:
        found = session.call("look", {"sha256": "", "release": ""}, timeout_s=timeout_s)
    return found if found["machine"] == machine else None


def remove(host: SshHost, machine: str, timeout_s: float = 15.0, progress: Progress = _silent) -> bool:
    """Stop the units of a host and remove code, files and keys; False when it is another machine by now.

    Raises:
        UnreachableError, HostKeyError, ReleaseError: as `deploy`.
    """
    with Session.open(host, Contact.PERMANENT, timeout_s) as session:
        done = session.call("remove", {"machine": machine}, timeout_s=120.0, progress=progress)
    return bool(done["removed"])


def _permanent_session(job: ReleaseJob, patience_s: float) -> Session:
    """Return a session with a host that has its permanent key; a bootstrap key is met only at the first contact."""
    contact = Contact.FIRST if job.first_contact else Contact.PERMANENT
    job.progress(f"connecting to {job.host.user}@{job.host.address}:{job.host.port}")
    session = Session.open(job.host, contact, patience_s)
    if session.has_permanent_key:
        return session
    with session:
        job.progress("first contact: the bootstrap host key is replaced by the permanent one")
        session.call("host-key", {"private": job.host.permanent_private, "public": job.host.permanent_public})
    return Session.open(job.host, Contact.PERMANENT, CONTACT_S)


def _check_host(job: ReleaseJob, found: Mapping[str, Any]) -> None:
    """Refuse a host that cannot run the bundle before anything is uploaded."""
    where = f"host {job.host.address}"
    if found["python"] != job.python or found["processor"] != job.processor:
        raise ReleaseError(
            f"{where} has Python {found['python']} on {found['processor']}, the bundle is for {job.python} on "
            f"{job.processor}: choose the image or the target accordingly"
        )


def _unit_texts(job: ReleaseJob) -> dict[str, str]:
    return {unit.name: unit_text(unit) for unit in job.units}


def _files(job: ReleaseJob) -> dict[str, dict[str, str]]:
    """Return the files as they stand on the host: their own directory filled in."""
    return {
        role: {name: text.replace(STATE_DIR, f"{CONFIG_DIR}/{role}") for name, text in texts.items()}
        for role, texts in job.files.items()
    }
